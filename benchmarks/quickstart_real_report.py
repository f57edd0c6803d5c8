"""What `quickstart_real.py` has measured: costs of its parts, success of its arms, paired differences."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentrl.bench.verdicts import change

MODES = ("greedy", "sampled")


@dataclass(frozen=True)
class Part:
    """What a part has cost, over interruptions.

    Attributes:
        peak_gib: most resident memory of its process.
    """

    name: str
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_gib: float = 0.0

    def plus(self, more: Part) -> Part:
        """The costs of both."""
        return Part(self.name, self.wall_s + more.wall_s, self.cpu_s + more.cpu_s, max(self.peak_gib, more.peak_gib))

    @staticmethod
    def read_all(out: Path) -> dict[str, Part]:
        """The parts of a folder, in the order of their first beginning."""
        file = out / "costs.json"
        return {p["name"]: Part(**p) for p in json.loads(file.read_text())} if file.exists() else {}

    @staticmethod
    def write_all(out: Path, parts: Mapping[str, Part]) -> None:
        """Write the file whole or not at all."""
        partial = out / "costs.json.partial"
        partial.write_text(json.dumps([dataclasses.asdict(part) for part in parts.values()], indent=1))
        partial.replace(out / "costs.json")


def result(summaries: Mapping[str, Mapping[str, Any]], parts: Mapping[str, Part]) -> dict[str, Any]:
    """All numbers of the report.

    Args:
        summaries: of the runs `warm`, `rl` and `further`.
        parts: what was executed.
    """
    tables = {
        "before": summaries["warm"]["stages"]["before"],
        "rl": summaries["rl"]["stages"]["after"],
        "further": summaries["further"]["stages"]["after"],
    }
    differences = {}
    for other in ("before", "further"):
        for mode in MODES:
            verdict = change(tables[other]["outcomes"][mode], tables["rl"]["outcomes"][mode], mode)
            differences[f"rl - {other}, {mode}"] = None if verdict is None else verdict.to_json()
    rl, further = summaries["rl"], summaries["further"]
    return {
        "seed": rl["seed"],
        "arms": {name: {**{m: table[m] for m in MODES}, "n_tasks": table["n_tasks"]} for name, table in tables.items()},
        "differences": differences,
        "learning_cpu_s": {
            "warm_start": summaries["warm"]["cost"]["cpu_s_by_stage"]["warm_start"],
            "rl": rl["cost"]["cpu_s_by_stage"]["rl"],
            "further": further["cost"]["cpu_s_by_stage"]["further"],
        },
        "parts": {name: dataclasses.asdict(part) for name, part in parts.items()},
        "wall_s": sum(part.wall_s for part in parts.values()),
        "cpu_s": sum(part.cpu_s for part in parts.values()),
        "peak_gib": max((part.peak_gib for part in parts.values()), default=0.0),
        "machine": rl.get("machine"),
        "packages": rl.get("packages"),
    }


def markdown(found: Mapping[str, Any]) -> str:
    """The report: success of the arms, the differences in words, and what it took."""
    costs, tasks = found["learning_cpu_s"], found["arms"]["rl"]["n_tasks"]
    lines = [
        f"Success on {tasks} held-out tasks with 95% intervals, seed {found['seed']}:",
        "",
        "| arm | CPU-s of learning | greedy | sampled |",
        "|---|---|---|---|",
    ]
    learnt = {"before": costs["warm_start"], "rl": costs["rl"], "further": costs["further"]}
    for name, arm in found["arms"].items():
        cells = " | ".join(f"{arm[m]['mean']:.3f} [{arm[m]['ci95'][0]:.3f}, {arm[m]['ci95'][1]:.3f}]" for m in MODES)
        lines.append(f"| {name} | {learnt[name]:.0f} | {cells} |")
    lines += ["", *(f"- {_said(name, one)}" for name, one in found["differences"].items()), ""]
    lines += ["| part | wall s | CPU s | peak resident GiB |", "|---|---|---|---|"]
    for name, part in found["parts"].items():
        lines.append(f"| {name} | {part['wall_s']:.0f} | {part['cpu_s']:.0f} | {part['peak_gib']:.2f} |")
    lines.append(f"| all | {found['wall_s']:.0f} | {found['cpu_s']:.0f} | {found['peak_gib']:.2f} |")
    return "\n".join(lines) + "\n"


def _said(name: str, one: Mapping[str, Any] | None) -> str:
    if one is None:
        return f"{name}: no shared task"
    mean, (low, high) = one["difference"]["mean"], one["difference"]["ci95"]
    words = {
        "better": "better",
        "worse": "worse",
        "undecided": "a null result: the interval holds 0, so this run does not tell them apart",
    }
    return f"{name}: {mean:+.3f}, paired 95% interval [{low:+.3f}, {high:+.3f}]: {words[one['name']]}"

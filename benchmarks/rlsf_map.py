"""Where does learning from confidence work? Families of questions x ways to learn, from the start of rlsf.toml.

Each family has a warm start and a main arm of its own, with the settings of rlsf.toml but without its gate: the canary
is measured and stops nothing. A finished cell is a line of results/rlsf/FAMILY-SEED.jsonl and is not computed again; an
interrupted run is resumed.

    python benchmarks/rlsf_map.py --out runs/rlsf-map [--families proposition,choice] [--arms branches] [--seeds 100]
    python benchmarks/rlsf_map.py --table
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w

from agentrl.config import read_table
from agentrl.training.sweeps.arms import controls_of, overlaid, plan_arms, read_arms, run_arms
from agentrl.training.sweeps.grid import GridResult

ROOT = Path(__file__).resolve().parents[1]
CONFIG, RESULTS = ROOT / "rlsf.toml", Path(__file__).resolve().with_name("results") / "rlsf"
FAMILIES = ("permutation", "proposition", "ordering", "syllogism", "choice")
MEASURES = ["ece", "ece_scaled", "auroc"]
FROM_FILE = ("random_pairs", "most_confident", "branches", "branches_scaled", "confidence")
RATES = {"rate_half": 1e-4, "rate_double": 4e-4}


def config_of(family: str) -> dict[str, Any]:
    """rlsf.toml for a family of questions, with the arms of the map."""
    table, controls = read_table(CONFIG), controls_of(CONFIG)
    changes: dict[str, Any] = {
        "env": {"kwargs": {"family": family}},
        "stages": {
            "before": {"measures": MEASURES},
            "rlsf": {"canary": {"threshold": 0.0, "drop": 1.0, "every": table["stages"]["rlsf"]["steps"]}},
            "after": {"measures": MEASURES},
        },
    }
    arms: dict[str, Any] = {name: controls[name] for name in FROM_FILE}
    arms |= {name: {"stages": {"rlsf": {"learner": {"lr": lr}}}} for name, lr in RATES.items()}
    arms["confidence_free"] = overlaid(controls["confidence"], {"stages": {"rlsf": {"kl_coef": 0.0}}})
    return {**overlaid(table, changes), "controls": arms}


def run(out: Path, families: Sequence[str], arms: Sequence[str] | None, seeds: Sequence[int]) -> None:
    """Compute the cells that are not there yet."""
    for family in families:
        file = out / f"{family}.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(tomli_w.dumps(config_of(family)))
        for seed in seeds:
            done = {cell["arm"] for cell in cells(family, seed)}
            wanted = [name for name in controls_of(file) if (arms is None or name in arms) and name not in done]
            if not wanted and "main" in done:
                continue
            runs = plan_arms(read_arms(file, only=wanted), out / family, [seed])
            run_arms(runs, jobs=1, on_result=lambda result, family=family: keep(family, result))


def keep(family: str, result: GridResult) -> None:
    """Add a finished run to the committed cells."""
    seed = result.run.config.seed
    print(f"{family} {result.run.cell} {seed}: {result.error or 'finished'}", flush=True)
    if result.summary is None or result.run.cell in {cell["arm"] for cell in cells(family, seed)}:
        return
    stages = result.summary["stages"]
    cell = {
        "arm": result.run.cell,
        **{name: {mode: _cell(stages[name][mode]) for mode in ("greedy", "sampled")} for name in ("before", "after")},
        "canary": stages["rlsf"].get("canary", {}).get("accuracy", []),
        "cost": result.summary["cost"],
    }
    RESULTS.mkdir(exist_ok=True)
    with _path(family, seed).open("a") as file:
        file.write(json.dumps(cell) + "\n")


def cells(family: str, seed: int) -> list[dict[str, Any]]:
    """The finished cells of a family and a seed."""
    path = _path(family, seed)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table() -> str:
    """All finished cells as Markdown: success (greedy / sampled), and the calibration error of sampled answers."""
    lines = ["| family | seed | arm | greedy | sampled | ECE | AUROC | canary |", "|---|---|---|---|---|---|---|---|"]
    for path in sorted(RESULTS.glob("*.jsonl")):
        family, seed = path.stem.rsplit("-", 1)
        found = cells(family, int(seed))
        for cell in found:
            if cell["arm"] == "main":
                canary = f"{cell['canary'][0][1]:.2f}" if cell["canary"] else ""
                lines.append(_line(family, seed, "start", cell["before"], canary))
            lines.append(_line(family, seed, f"`{cell['arm']}`", cell["after"], ""))
    return "\n".join(lines)


def _cell(row: dict[str, Any]) -> dict[str, Any]:
    return {"mean": row["mean"], "ci95": row["ci95"], **{name: row["measures"][name]["mean"] for name in MEASURES}}


def _line(family: str, seed: str, arm: str, row: dict[str, Any], canary: str) -> str:
    sampled = row["sampled"]
    shown = [row["greedy"]["mean"], sampled["mean"], sampled["ece"], sampled["auroc"]]
    numbers = " | ".join("-" if n is None else f"{n:.3f}" for n in shown)
    return f"| {family} | {seed} | {arm} | {numbers} | {canary} |"


def _path(family: str, seed: int) -> Path:
    return RESULTS / f"{family}-{seed}.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/rlsf-map"), help="folder of the runs")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--arms", help="arms next to the main one; all by default")
    parser.add_argument("--seeds", default="100")
    parser.add_argument("--table", action="store_true", help="print the finished cells")
    given = parser.parse_args()
    if not given.table:
        arms = None if given.arms is None else given.arms.split(",")
        run(given.out, given.families.split(","), arms, [int(seed) for seed in given.seeds.split(",")])
    print(table())


if __name__ == "__main__":
    main()

"""Third-party suites: their own solutions, doing nothing, and an audit, each in an environment of its own.

    python benchmarks/suites.py NAME [--under DIR] [--cells DIR]
    python benchmarks/suites.py --table [--cells DIR]

NAME is one of the suites below. Its package is installed into a new virtual environment DIR/NAME, next to AgentRL from
this checkout. A cell that is finished is a file of the folder of cells, and is not run again; delete it to run it
again. tau3 is not in the registry: TAU2_BENCH names a checkout of tau2-bench, TAU2_DATA_DIR its folder `data`.
Exit code 1 if a cell reaches less than what is wanted of it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CELLS = ROOT / "benchmarks" / "results" / "suites"
UNDER = Path("/tmp/agentrl-suites")
STAMP = ".installed"
WITHOUT_EPISODES = ("not_judged", "untouched", "prompt", "empty")
WITHOUT_PANEL = ("oracle", "shipped", "not_judged", "untouched", "prompt", "splits", "empty", "unsolved")
_MOST_LISTED = 20  # ids of a cell; each count is of all


@dataclass(frozen=True)
class Cell:
    """One environment to measure.

    Attributes:
        name: of the cell's file.
        env: the environment, as `module:Class`.
        kwargs: its arguments, on its evaluation split.
        solved: tasks that the oracle must solve, at least.
        idle: tasks that doing nothing may solve, exactly; None where nobody has counted them before.
        audited: tasks of the audit, spread over the split; None takes all, 0 leaves the audit out.
        checks: of the audit; None runs all. On thousands of tasks, or where worlds are costly, some are left out.
    """

    name: str
    env: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    solved: int = 0
    idle: int | None = 0
    audited: int | None = 30
    checks: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Suite:
    """A package, how it is installed, and its cells. `python` names the interpreter of its environment."""

    installs: tuple[tuple[str, ...], ...]
    cells: tuple[Cell, ...]
    python: str = "python3"


_ADAPTERS = "agentrl.adapters"
SUITES: dict[str, Suite] = {
    "reasoning-gym": Suite(
        (("reasoning-gym",),),
        (
            Cell(
                "reasoning-gym",
                f"{_ADAPTERS}.reasoning_gym:ReasoningGym",
                {"dataset": "all", "train": 1, "held_out": 1},
                99,
            ),
        ),
    ),
    "bfcl": Suite(
        (("--no-deps", "bfcl-eval"), ("mpmath", "overrides", "rank_bm25")),
        (
            Cell("bfcl-ast", f"{_ADAPTERS}.bfcl:BFCL", {"category": "ast"}, 2344, 0, None, WITHOUT_PANEL),
            Cell("bfcl-relevance", f"{_ADAPTERS}.bfcl:BFCL", {"category": "relevance"}, 1140, 1124),
            Cell("bfcl-multi-turn", f"{_ADAPTERS}.bfcl_multi_turn:BFCLMultiTurn", {}, 800),
            Cell("bfcl-memory-kv", f"{_ADAPTERS}.bfcl_memory:BFCLMemory", {"category": "memory_kv"}, 155),
            Cell("bfcl-memory-rec-sum", f"{_ADAPTERS}.bfcl_memory:BFCLMemory", {"category": "memory_rec_sum"}, 155),
        ),
    ),
    "agentdojo": Suite(
        (("agentdojo",),),
        (
            Cell("agentdojo-banking", f"{_ADAPTERS}.agentdojo:AgentDojo", {"suite": "banking"}, 16, 5, audited=None),
            Cell("agentdojo", f"{_ADAPTERS}.agentdojo:AgentDojo", {}, 97, 5, audited=0),
        ),
    ),
    "textworld-express": Suite(
        (("textworld-express", "orjson"),),
        (Cell("textworld-express", f"{_ADAPTERS}.textworld_express:TextWorldExpress", {"train": 10}, 40, audited=4),),
    ),
    "textarena": Suite(
        (("textarena",),),
        (Cell("textarena", f"{_ADAPTERS}.textarena:TextArena", {"train": 5, "held_out": 4}, 17, audited=None),),
    ),
    "tau3": Suite(
        (("rank_bm25",), ("-e", os.environ.get("TAU2_BENCH", "tau2-bench"))),
        (
            Cell("tau3-retail", f"{_ADAPTERS}.tau3:Tau3Solo", {"domain": "retail"}, 114, 11, None, WITHOUT_EPISODES),
            Cell("tau3-talk-retail", f"{_ADAPTERS}.tau3.talk:Tau3", {"domain": "retail"}, 114, 11, audited=0),
            Cell("tau3-talk-banking", f"{_ADAPTERS}.tau3.talk:Tau3", {"domain": "banking_knowledge"}, 97, 0, audited=0),
            Cell("tau3-banking", f"{_ADAPTERS}.tau3:Tau3Solo", {"domain": "banking_knowledge"}, 97, 0, audited=5),
        ),
        "python3.12",
    ),
    "miniwob": Suite(
        (("miniwob",),), (Cell("miniwob", f"{_ADAPTERS}.miniwob:MiniWoB", {"train": 5, "held_out": 2}, 14, audited=0),)
    ),
    "scienceworld": Suite(
        (("scienceworld",),),
        (Cell("scienceworld", f"{_ADAPTERS}.scienceworld:ScienceWorld", {"train": 1}, 30, audited=0),),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", nargs="?", choices=sorted(SUITES))
    parser.add_argument("--under", type=Path, default=UNDER, help="folder of the virtual environments")
    parser.add_argument("--cells", type=Path, default=CELLS, help="folder of the finished cells")
    parser.add_argument("--table", action="store_true", help="print the finished cells as a table")
    parser.add_argument("--cell", help=argparse.SUPPRESS)  # the name of a cell, to be run in this interpreter
    given = parser.parse_args()
    if given.table:
        print(table(given.cells))
    elif given.suite is None:
        parser.error("which suite?")
    elif given.cell is not None:
        found = next(cell for cell in SUITES[given.suite].cells if cell.name == given.cell)
        measure(found, given.cells / f"{found.name}.json")
    else:
        sys.exit(run(given.suite, given.under, given.cells))


def run(name: str, under: Path, cells: Path) -> int:
    """Run the cells of a suite that are not finished. Returns: an exit code."""
    suite, missed = SUITES[name], 0
    python = None
    for cell in suite.cells:
        path = cells / f"{cell.name}.json"
        if not path.exists():
            python = python or installed(name, suite, under)
            subprocess.run([str(python), __file__, name, "--cell", cell.name, "--cells", str(cells)], check=True)
        found = json.loads(path.read_text())
        print(line(found))
        missed += not as_wanted(cell, found)
    return int(missed > 0)


def installed(name: str, suite: Suite, under: Path) -> Path:
    """The interpreter of the suite's own virtual environment, which is made where it is not complete."""
    folder = under / name
    python = folder / "bin" / "python"
    if not (folder / STAMP).exists():
        subprocess.run([suite.python, "-m", "venv", str(folder)], check=True)
        for arguments in (("-e", str(ROOT)), *suite.installs):
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *arguments], check=True)
        (folder / STAMP).touch()
    return python


def measure(cell: Cell, path: Path) -> None:
    """Play the oracle and doing nothing on every task, audit some, and write the cell's file."""
    from agentrl.bench.audit import audit
    from agentrl.bench.evaluate import evaluate
    from agentrl.env import registry
    from agentrl.policy.scripted import NullPolicy, OraclePolicy

    logging.basicConfig(level=logging.ERROR)
    started = time.monotonic()
    ref = registry.reference(cell.env, **cell.kwargs)
    env = registry.make(ref)
    tasks = env.tasks.split("eval")
    found: dict[str, Any] = {"cell": cell.name, "env": cell.env, "kwargs": dict(cell.kwargs), "tasks": len(tasks)}
    found["version"] = env.ref.version if env.ref is not None else ""
    env.close()
    for key, policy in (("oracle", OraclePolicy()), ("nothing", NullPolicy())):
        episodes = evaluate(policy, ref, tasks, max_concurrency=16).trajectories
        solved = [t.task.id for t in episodes if t.success]
        others = [t.task.id for t in episodes if not t.success]
        found[key] = {"solved": len(solved), "listed": others if key == "oracle" else solved[:_MOST_LISTED]}
        found[key]["discarded"] = sum(t.status == "fault" for t in episodes)
    flaws = () if cell.audited == 0 else audit(ref, num_tasks=cell.audited, checks=cell.checks).flaws
    found["audit"] = [
        {"kind": f.kind, "severity": f.severity, "count": len(f.tasks), "tasks": list(f.tasks)[:_MOST_LISTED]}
        for f in flaws
    ]
    found["checks"] = list(cell.checks or ())
    found["audited"] = len(tasks) if cell.audited is None else min(cell.audited, len(tasks))
    found["seconds"] = round(time.monotonic() - started, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def as_wanted(cell: Cell, found: Mapping[str, Any]) -> bool:
    idle = found["nothing"]["solved"]
    return found["oracle"]["solved"] >= cell.solved and (cell.idle is None or idle == cell.idle)


def line(found: Mapping[str, Any]) -> str:
    oracle, idle = found["oracle"]["solved"], found["nothing"]["solved"]
    return f"{found['cell']}: oracle {oracle} of {found['tasks']} / do-nothing {idle}"


def table(cells: Path) -> str:
    """Every finished cell as a row of Markdown."""
    rows = ["| cell | version | oracle | do-nothing | audited | errors and warnings |", "|---|---|---|---|---|---|"]
    for path in sorted(cells.glob("*.json")):
        found = json.loads(path.read_text())
        said = [f"{flaw['kind']} ({flaw['count']})" for flaw in found["audit"] if flaw["severity"] != "advice"]
        version = " ".join(word for word in found["version"].split() if not word.startswith("sha256"))
        score = f"{found['oracle']['solved']} of {found['tasks']}"
        cells_of_row = found["cell"], version, score, found["nothing"]["solved"], found["audited"], ", ".join(said)
        rows.append(f"| {' | '.join(map(str, cells_of_row))} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()

"""The tables of results/multitask-2026-11.md from the `arms.json` of `agentrl train multitask.toml --controls`.

python benchmarks/multitask_table.py runs/multitask/arms.json
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MODES = ("sampled", "greedy")
Found = Mapping[str, Any]


def tables(found: Found) -> str:
    """The matrix of each mode, the main arm against each environment alone, and what each arm cost."""
    several = found["generalisation"]
    parts = [f"## Generalisation matrix, {mode}\n\n{matrix(several, mode)}\n" for mode in MODES]
    parts += [f"## The mixture against each environment alone, {mode}\n\n{alone(several, mode)}\n" for mode in MODES]
    return "\n".join([*parts, f"## Cost\n\n{costs(found['rows'])}"])


def matrix(several: Found, mode: str) -> str:
    """Success of each arm (row) on each environment; in brackets where it was not trained on it."""
    names = several["environments"]
    heads = ["arm", "seeds", *(f"{name}*" if name in several["held_out"] else name for name in names)]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for row in several["rows"]:
        if row["mode"] == mode:
            cells = [_cell(row["cells"][name]) for name in names]
            lines.append(_line([f"`{row['arm']}`", ", ".join(map(str, row["seeds"])), *cells]))
    return "\n".join(lines)


def _cell(cell: Found) -> str:
    shown = _estimate(cell["success"])
    return shown if cell["trained"] else f"({shown})"


def alone(several: Found, mode: str) -> str:
    """Success before and after reward of both arms, their difference, and the shares of the success and of the gain."""
    heads = ["environment", "main", "alone", "main - alone", "main / alone", "share of the gain by reward"]
    lines = [_line(heads), _line(["---"] * len(heads))]
    rows = {row["arm"]: row["cells"] for row in several["rows"] if row["mode"] == mode}
    for one in several["alone"]:
        if one["mode"] == mode:
            both = [_change(rows[arm][one["env"]]) for arm in ("main", one["arm"])]
            shown = [_estimate(one[name]) for name in ("difference", "of_success", "of_gain")]
            lines.append(_line([one["env"], *both, *shown]))
    return "\n".join(lines)


def _change(cell: Found) -> str:
    """Success in the first evaluation and in the last."""
    after = cell["success"]["mean"]
    return f"{after - cell['gain']['mean']:.2f} → {after:.2f}" if cell["gain"] else f"{after:.2f}"


def costs(rows: Sequence[Found]) -> str:
    """CPU seconds and sampled tokens of a run, means over seeds."""
    shown = {row["arm"]: [f"{row['cpu_s']:.0f}", f"{row['sampled_tokens']:,.0f}"] for row in rows}
    lines = [_line(["arm", "CPU s", "sampled tokens"]), _line(["---"] * 3)]
    return "\n".join([*lines, *(_line([f"`{arm}`", *values]) for arm, values in shown.items())])


def _estimate(found: Found | None) -> str:
    if found is None or found["mean"] is None:
        return "-"
    low, high = found["ci95"]
    known = low is not None and high is not None and math.isfinite(low) and math.isfinite(high)
    return f"{found['mean']:.2f}" + (f" [{low:.2f}, {high:.2f}]" if known else "")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="arms.json of the run")
    print(tables(json.loads(parser.parse_args().file.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()

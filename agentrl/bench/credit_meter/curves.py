"""Learning curves at equal tokens: success of training episodes by sampled tokens. Owns no training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from agentrl.bench.estimates import Estimate, mean_interval
from agentrl.rollout.json_lines import decode_line

PARTS = 4


@dataclass(frozen=True)
class Curve:
    """The curve of one estimator.

    Attributes:
        name: of the estimator.
        seeds: of the runs.
        success: of training episodes in each part of the tokens, over seeds.
        area: mean success over all tokens, over seeds.
        difference: the area minus that of the first estimator, seed by seed; None for the first.
        steps: updates of a run on average.
    """

    name: str
    seeds: Sequence[int]
    success: Sequence[Estimate]
    area: Estimate
    difference: Estimate | None
    steps: float

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "name": self.name,
            "seeds": list(self.seeds),
            "success": [part.to_json() for part in self.success],
            "area": self.area.to_json(),
            "difference": None if self.difference is None else self.difference.to_json(),
            "steps": self.steps,
        }


def read_curves(runs: Mapping[str, Mapping[int, Path]], tokens: int, *, stage: str = "rl") -> list[Curve]:
    """The curves of runs.

    Args:
        runs: folder of each finished run, by estimator and seed; the first estimator is the one to compare with.
        tokens: that the curves cover, the same for all.
        stage: that was trained.
    """
    steps = {name: {seed: _steps(path, stage) for seed, path in of.items()} for name, of in runs.items()}
    areas = {name: {seed: _part(s, 0, tokens) for seed, s in of.items()} for name, of in steps.items()}
    first = next(iter(areas), "")
    curves = []
    for name, of in steps.items():
        edges = np.linspace(0, tokens, PARTS + 1)
        parts = [mean_interval([_part(s, low, high) for s in of.values()]) for low, high in pairwise(edges.tolist())]
        both = [seed for seed in of if seed in areas[first]]
        difference = mean_interval([areas[name][seed] - areas[first][seed] for seed in both]) if name != first else None
        count = float(np.mean([len(s) for s in of.values()]))
        curves.append(Curve(name, list(of), parts, mean_interval(list(areas[name].values())), difference, count))
    return curves


def _steps(run: Path, stage: str) -> list[tuple[float, float]]:
    """Sampled tokens and success of training episodes of each step."""
    every = map(decode_line, (run / "metrics.jsonl").read_bytes().splitlines())
    lines = [line for line in every if line["stage"] == stage]
    # Older runs have the success of scored episodes alone.
    successes = [line.get("rollout/success_of_attempted", line["rollout/success"]) for line in lines]
    return [(float(line["rollout/tokens"]), float(success)) for line, success in zip(lines, successes, strict=True)]


def _part(steps: Sequence[tuple[float, float]], low: float, high: float) -> float:
    """Mean success between two counts of sampled tokens, each step weighted by its tokens in between; nan for none."""
    ends = np.cumsum([tokens for tokens, _ in steps])
    begins = ends - [tokens for tokens, _ in steps]
    inside = np.clip(np.minimum(ends, high) - np.maximum(begins, low), 0.0, None)
    total = float(inside.sum())
    return float(np.dot(inside, [success for _, success in steps])) / total if total else float("nan")


def curves_text(curves: Sequence[Curve], tokens: int) -> str:
    """A table for a terminal, in Markdown. Args: curves: at least one."""
    header = [
        "estimator",
        *(f"to {tokens * (part + 1) // PARTS:,}" for part in range(PARTS)),
        "mean",
        f"minus {curves[0].name}",
    ]
    lines = [
        f"Success of training episodes by sampled tokens, {tokens:,} in all, 95% intervals over seeds",
        "",
        "| " + " | ".join([*header, "steps"]) + " |",
        "|" + "---|" * (len(header) + 1),
    ]
    for curve in curves:
        cells = [curve.name, *map(_shown, curve.success), _shown(curve.area)]
        cells += ["" if curve.difference is None else _shown(curve.difference, "+"), f"{curve.steps:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shown(found: Estimate, sign: str = "") -> str:
    if not np.isfinite(found.mean):
        return "-"
    interval = f" [{found.low:{sign}.3f}, {found.high:{sign}.3f}]" if np.isfinite(found.high) else ""
    return f"{found.mean:{sign}.3f}{interval}"

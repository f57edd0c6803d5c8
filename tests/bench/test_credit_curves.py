"""Learning curves at equal tokens, against hand-worked numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from agentrl.bench.credit_meter.curves import curves_text, read_curves


def run_of(folder: Path, steps: list[tuple[float, float]]) -> Path:
    folder.mkdir(parents=True)
    lines = [
        {"stage": "rl", "step": n, "version": n, "rollout/tokens": tokens, "rollout/success": success}
        for n, (tokens, success) in enumerate(steps, 1)
    ]
    lines.append({"stage": "after", "step": 1, "version": 9, "rollout/tokens": 9, "rollout/success": 1})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_each_part_is_the_mean_over_its_tokens(tmp_path: Path) -> None:
    """Steps of 30, 30 and 60 tokens in quarters of 25: the second quarter has 5 tokens of the first step."""
    run = run_of(tmp_path / "a", [(30, 0.2), (30, 0.4), (60, 1.0)])
    (curve,) = read_curves({"grpo": {0: run}}, 100)
    parts = [part.mean for part in curve.success]
    assert parts == pytest.approx([0.2, (5 * 0.2 + 20 * 0.4) / 25, (10 * 0.4 + 15 * 1.0) / 25, 1.0])
    assert curve.area.mean == pytest.approx((30 * 0.2 + 30 * 0.4 + 40 * 1.0) / 100)
    assert curve.steps == 3
    assert curve.difference is None


def test_differences_are_taken_seed_by_seed(tmp_path: Path) -> None:
    first = {seed: run_of(tmp_path / f"a{seed}", [(100, 0.1 * seed)]) for seed in (1, 2, 3)}
    other = {seed: run_of(tmp_path / f"b{seed}", [(100, 0.1 * seed + 0.2)]) for seed in (1, 2)}
    curves = read_curves({"grpo": first, "rloo": other}, 100)
    assert curves[1].difference is not None
    assert curves[1].difference.mean == pytest.approx(0.2)
    assert curves[1].seeds == [1, 2]
    assert curves[0].area.mean == pytest.approx(0.2)
    assert curves[0].area.low < 0.2 < curves[0].area.high
    text = curves_text(curves, 100)
    assert "| to 25 | to 50 | to 75 | to 100 |" in text
    assert "+0.200" in text


def test_tokens_that_were_not_sampled_are_not_known(tmp_path: Path) -> None:
    (curve,) = read_curves({"grpo": {0: run_of(tmp_path / "a", [(40, 0.5)])}}, 100)
    assert [math.isnan(part.mean) for part in curve.success] == [False, False, True, True]
    assert "| - |" in curves_text([curve], 100)

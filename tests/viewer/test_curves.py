"""Curves of a run that is still being written."""

from __future__ import annotations

import json
from pathlib import Path

from agentrl.viewer.curves import Curves
from agentrl.viewer.sources import find_sources


def line(step: int, **metrics: float) -> str:
    return json.dumps({"stage": "rl", "step": step, "version": step, "time_s": 1.0, **metrics}) + "\n"


def test_curves_grow_and_begin_again(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    log = tmp_path / "metrics.jsonl"
    log.write_text(line(1, **{"rollout/success": 0.25, "loss/policy": 0.5}) + line(2, **{"rollout/success": 0.5})[:20])
    (source,) = find_sources([tmp_path])
    curves = Curves()
    found = curves.of(source)
    assert (found["rows"], [chart["title"] for chart in found["main"]]) == (1, ["Success rate"])
    log.write_text(
        line(1, **{"rollout/success": 0.25, "loss/policy": 0.5}) + line(2, **{"loss/policy": 0.25}) + "no JSON\n[]\n"
    )
    found = curves.of(source)
    assert (found["rows"], [chart["title"] for chart in found["small"]]) == (2, ["rl: loss/policy"])
    log.write_text(line(7))
    assert curves.of(source)["rows"] == 1


def test_a_long_run_is_thinned_out_but_keeps_its_evaluations_and_its_last_step(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    lines = [
        line(n, **{"rollout/success": 0.5, **({"eval/success": 0.5} if n % 500 == 0 else {})}) for n in range(1, 3000)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    (source,) = find_sources([tmp_path])
    found = Curves().of(source)
    assert (found["rows"], found["every"]) == (2999, 8)
    (chart,) = found["main"]
    assert chart["svg"].count("<circle") == 5
    assert "[2999.0," in chart["svg"]
    assert len(chart["svg"]) < 100_000


def test_only_the_long_stage_is_thinned_out(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    before = line(1, **{"loss/supervised": 1.0}).replace('"rl"', '"warm_start"') * 500
    (tmp_path / "metrics.jsonl").write_text(before + "".join(line(n, **{"loss/policy": n}) for n in range(1, 8)))
    (source,) = find_sources([tmp_path])
    chart = Curves().of(source)["small"][-1]
    assert chart["title"] == "rl: loss/policy"
    assert [f"[{n}.0," in chart["svg"] for n in range(1, 8)] == [True] * 7


def test_a_name_of_a_metric_is_no_markup(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    (tmp_path / "metrics.jsonl").write_text("".join(line(n, **{'a/<script>"x': n}) for n in (1, 2)))
    (source,) = find_sources([tmp_path])
    (chart,) = Curves().of(source)["small"]
    assert "<script" not in chart["svg"]
    assert "&lt;script&gt;" in chart["svg"]

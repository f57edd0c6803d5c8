"""The reliability diagram of arms: its bars, numbers and picture."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from agentrl.bench.arms import ArmRuns, compare_arms
from agentrl.bench.views.arms import write_arms
from agentrl.bench.views.reliability import reliability_diagram
from agentrl.learning.confidence.calibration import Bin
from agentrl.messages import Action, TokenSignals
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import EnvRef, Labels, Task, Trajectory, Turn
from tests.endings import ENDINGS

ANSWERS = ((0.95, 1), (0.95, 0), (0.85, 1), (0.1, 0))
"""Confidence, and success."""


def run_of(folder: Path, measures: list[str]) -> Path:
    folder.mkdir(parents=True)
    with TrajectoryStore(folder / "trajectories.jsonl") as store:
        for mode in ("greedy", "sampled"):
            for number, (c, reward) in enumerate(ANSWERS):
                signals = TokenSignals(("So the answer is ", "4"), (0.0, c), (0.0, 0.0), (0.0, 0.0))
                action = Action("x", token_ids=(1, 2), logprobs=(-1.0, -1.0), signals=signals)
                labels = Labels("after", 1, mode)  # type: ignore[arg-type]
                turns, ending = [Turn((), action, float(reward))], ENDINGS["terminated"]
                store.append(Trajectory(EnvRef("e"), Task(f"t{number}"), 0, turns, ending=ending, labels=labels))
    stages = {"rl": {}, "after": {"outcomes": {}, "measures": measures}}
    (folder / "summary.json").write_text(
        json.dumps({"stages": stages, "cost": {"cpu_s": 1.0, "tokens": {"sampled": 1}}})
    )
    return folder


def test_the_report_of_arms_has_the_bars_and_a_picture_of_each(tmp_path: Path) -> None:
    runs = {seed: run_of(tmp_path / "runs" / str(seed), ["brier", "ece"]) for seed in (0, 1)}
    found = compare_arms([ArmRuns("main", "", runs)])
    (row,) = (row for row in found.to_json()["rows"] if row["mode"] == "sampled")
    shown = [(bar["low"], bar["count"], bar["confidence"], bar["accuracy"]) for bar in row["reliability"]]
    assert shown == [
        pytest.approx((0.0, 2, 0.1, 0.0)),
        pytest.approx((0.8, 2, 0.85, 1.0)),
        pytest.approx((0.9, 4, 0.95, 0.5)),
    ]
    gap = sum(bar["count"] * abs(bar["accuracy"] - bar["confidence"]) for bar in row["reliability"]) / 8
    assert row["values"]["ece"]["mean"] == pytest.approx(gap)
    (tmp_path / "out").mkdir()
    write_arms(tmp_path / "out", found)
    assert (tmp_path / "out" / "arms.html").read_text().count('<svg class="reliability"') == 2


def test_without_a_calibration_error_there_is_none(tmp_path: Path) -> None:
    found = compare_arms([ArmRuns("main", "", {0: run_of(tmp_path / "run", ["brier", "ece_scaled"])})])
    assert all("reliability" not in row for row in found.to_json()["rows"])
    (tmp_path / "out").mkdir()
    write_arms(tmp_path / "out", found)
    assert "<svg" not in (tmp_path / "out" / "arms.html").read_text()


def test_a_bar_is_as_high_as_its_accuracy_and_marked_at_its_confidence() -> None:
    bars = [Bin(0.0, 0.5, 0, math.nan, math.nan), Bin(0.5, 1.0, 3, 0.75, 0.25)]
    picture = ET.fromstring(reliability_diagram(bars, title="a < b"))
    frame, bar = picture.findall("rect")
    assert float(bar.attrib["height"]) == pytest.approx(0.25 * float(frame.attrib["height"]), abs=0.1)
    bottom = float(frame.attrib["y"]) + float(frame.attrib["height"])
    (mark,) = (line for line in picture.findall("line") if line.attrib["class"] == "mark")
    assert bottom - float(mark.attrib["y1"]) == pytest.approx(0.75 * float(frame.attrib["height"]), abs=0.1)
    assert picture.attrib["aria-label"] == "a < b"
    assert reliability_diagram(bars[:1], title="") == ""

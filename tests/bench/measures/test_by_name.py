"""Measures by name and from outside, as they are asked for and as they come back."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentrl.bench.estimates import Estimate
from agentrl.bench.measures.base import MEASURES, Measure, PerEpisode
from agentrl.bench.measures.by_name import measure, measures_of
from agentrl.bench.measures.success import Component, PassAt, Success
from agentrl.bench.measures.tools import ToolCalls
from agentrl.bench.runner import run_bench
from agentrl.errors import ConfigError
from agentrl.trajectory import Trajectory
from tests.bench.toys import Adder, Some

FILE = """
from dataclasses import dataclass
from agentrl.bench.measures.base import PerEpisode

@dataclass(frozen=True)
class Letters(PerEpisode):
    letter: str = "a"
    unit = "letters"

    @property
    def name(self):
        return f"letters:{self.letter}"

    def of(self, episode):
        return float(episode.task.id.count(self.letter))

E_LETTERS = Letters("e")

def no_measure():
    pass
"""


@dataclass(frozen=True)
class Calls(PerEpisode):
    """Calls per episode, handed over as an object."""

    name = "calls"
    unit = "calls"

    def of(self, episode: Trajectory) -> float:
        return float(sum(len(turn.action.tool_calls) for turn in episode.turns))


def test_names_and_families() -> None:
    assert measure("success") == Success()
    assert measure("pass_at:4") == PassAt(4)
    assert measure("component:style: tidy") == Component("style: tidy")
    assert (measure("tool_calls"), measure("tool_calls:add")) == (ToolCalls(), ToolCalls("add"))
    assert measure("agentrl.bench.measures.success:PassAt:4") == PassAt(4)


@pytest.mark.parametrize("name", MEASURES.names)
def test_every_measure_has_its_name_and_knows_nothing_of_no_episodes(name: str) -> None:
    text = f"{name}:3" if name in ("component", "pass_at", "pass_hat") else name
    one = measure(text)
    assert (one.name, math.isnan(one([]).mean), one([]).n) == (text, True, 0)
    assert one.unit
    assert type(one).__doc__


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sucess", "no measure is named 'sucess'. Did you mean 'success'"),
        ("pass_att:3", "Did you mean 'pass_at'"),
        ("pass_at", "measure 'pass_at' needs a parameter: write 'pass_at:K'"),
        ("pass_at:x", "measure 'pass_at:x': Input should be a valid integer"),
        ("pass_at:0", "measure 'pass_at:0': k must be at least 1, got 0"),
        ("turns:3", "measure 'turns' takes no parameter, got '3'"),
        ("json:dumps", "is no measure: derive the class from agentrl.bench.measures.base.Measure"),
        ("json:dump_s", "json has no 'dump_s'"),
        ("./absent.py:Mine", "there is no file"),
    ],
)
def test_what_is_no_measure(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        measure(text)
    assert message in str(caught.value)


def test_measures_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    found = measures_of([f"{tmp_path}/mine.py:{name}" for name in ("Letters", "Letters:b", "E_LETTERS")])
    assert [one.name for one in found] == ["letters:a", "letters:b", "letters:e"]
    with pytest.raises(ConfigError, match="is no measure"):
        measure(f"{tmp_path}/mine.py:no_measure")


def test_two_measures_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two measures have the same name: turns, turns"):
        measures_of(["turns", "turns"])


def test_a_class_is_no_measure() -> None:
    with pytest.raises(TypeError, match=r"an instance of Measure, such as PassAt\(4\), got <class .*PassAt'>"):
        measures_of([PassAt])  # type: ignore[list-item]


def test_a_measure_that_returns_no_estimate_is_refused_before_anything_is_played() -> None:
    class Bare(Measure):
        name = "bare"
        unit = "share"

        def __call__(self, episodes: Sequence[Trajectory]) -> Estimate:
            return 0.5  # type: ignore[return-value]

    policy = Some()
    with pytest.raises(TypeError, match=r"measure 'bare' must return an Estimate, got 0\.5"):
        run_bench(Adder, policy, measures=[Bare()])
    with pytest.raises(ConfigError, match="Did you mean 'pass_at'"):
        run_bench(Adder, policy, measures=["pas_at:2"])
    assert policy.asked == []


def test_a_benchmark_computes_further_measures(tmp_path: Path) -> None:
    result = run_bench(Adder, Some(right=4), trials=2, out=tmp_path, measures=("pass_hat:2", Calls()))
    record = json.loads((tmp_path / "summary.json").read_text())
    assert record["measures"]["pass_hat:2"] == {"unit": "share", **record["pass_hat_k"]["2"]}
    assert record["measures"]["calls"] == {"unit": "calls", "mean": 1.0, "ci95": [None, None], "n": 8}
    assert record["references"]["null"]["measures"]["calls"]["mean"] == 0.0
    assert list(result.score.measures) == ["pass_hat:2", "calls"]


def test_another_measure_needs_no_new_episodes(tmp_path: Path) -> None:
    run_bench(Adder, Some(), out=tmp_path)
    again = Some()
    assert run_bench(Adder, again, out=tmp_path, measures=["turns"]).score.measures["turns"].estimate.mean == 2.0
    assert again.asked == []


def test_without_further_measures_the_record_has_no_such_key() -> None:
    assert "measures" not in run_bench(Adder, "null", num_tasks=1).to_json()

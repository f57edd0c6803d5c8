"""Two agents on the same tasks: the difference is taken task by task, and only between measurements of one thing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentrl.bench.compare import compare, comparison
from agentrl.bench.estimates import paired_outcomes
from agentrl.bench.measures.effort import Turns
from agentrl.bench.measures.success import Reward, SuccessOfAttempted
from agentrl.bench.records import BenchRecord, read_record
from agentrl.bench.runner import run_bench
from agentrl.env.tasks import Tasks
from agentrl.errors import ConfigError
from agentrl.policy.base import SamplingParams
from agentrl.trajectory import EnvRef
from tests.bench.toys import Adder, Some, breaks


class Other(Adder):
    """The same tasks, but another environment."""


def edited(*changed: int) -> type[Adder]:
    """The environment with other content in some tasks of the same ids."""

    class Edited(Adder):
        tasks = Tasks.of(eval=[{"a": n, "b": (11 if n in changed else 10) * n} for n in range(8)])

    Edited.__name__ = "Adder"
    return Edited


def test_two_agents_are_compared_task_by_task() -> None:
    good, better = run_bench(Adder, Some(right=4)), run_bench(Adder, Some(right=6))
    difference = compare(better, good)
    assert (difference.mean, difference.n) == (0.25, 8)
    assert difference == paired_outcomes([[1]] * 6 + [[0]] * 2, [[1]] * 4 + [[0]] * 4)


def test_tasks_that_one_agent_never_finished_are_left_out() -> None:
    first, second = run_bench(Adder, Some(right=4, broken=[7])), run_bench(Adder, Some(right=6))
    assert (compare(first, second).mean, compare(first, second).n) == (-2 / 7, 7)
    counted = compare(first, second, SuccessOfAttempted())
    assert (counted.mean, counted.n) == (-2 / 8, 8)


def test_another_measure_is_compared() -> None:
    difference = compare(run_bench(Adder, Some()), run_bench(Adder, "null"), Turns())
    assert (difference.mean, *difference.ci95) == (1.0, -math.inf, math.inf)


def test_an_agent_that_won_everything_against_one_that_lost_is_no_certainty() -> None:
    won, lost = run_bench(Adder, "oracle", num_tasks=5), run_bench(Adder, "null", num_tasks=5)
    assert compare(won, lost).low == pytest.approx(0.3855, abs=1e-4)
    assert compare(won, won).ci95 == pytest.approx((-0.4345, 0.4345), abs=1e-4)


def test_two_environments_are_not_compared() -> None:
    with pytest.raises(ConfigError, match=r"cannot compare: the first was measured on Adder .*, the second on Other "):
        compare(run_bench(Adder, "oracle"), run_bench(Other, "oracle"))


@pytest.mark.parametrize("changes", [{"max_turns": 3}, {"cheapest_first": False}])
def test_the_same_id_with_other_arguments_is_not_compared(changes: Mapping[str, Any]) -> None:
    first = run_bench("agentrl/Shop-v0", "null", num_tasks=2, references=False).record
    limits = changes if "max_turns" in changes else {}
    other = replace(first.env, limits=limits, kwargs={} if limits else changes)
    with pytest.raises(ConfigError, match=f"the second on agentrl/Shop-v0.{next(iter(changes))}="):
        compare(first, replace(first, env=other))


def test_a_function_is_known_by_its_arguments() -> None:
    class Sized(Adder):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.size = size

    first, second = run_bench(lambda: Sized(1), "null").record, run_bench(lambda: Sized(size=2), "null").record
    assert first.env.kwargs == {"size": 1}
    with pytest.raises(ConfigError, match=r"on <lambda>\(size=1\).*on <lambda>\(size=2\)"):
        compare(first, second)


def test_edited_tasks_are_not_compared() -> None:
    first = run_bench(Adder, "oracle")
    for changed, named in (((3,), "task 'eval-3'"), (range(1, 8), "tasks 'eval-1', 'eval-2', 'eval-3' and 4 others")):
        second = run_bench(edited(*changed), "oracle").record
        with pytest.raises(ConfigError, match=f"cannot compare: {named} had other content"):
            compare(first, replace(second, env=first.env))


def test_tasks_that_nobody_shares_are_no_comparison() -> None:
    with pytest.raises(ConfigError, match="no task was played by both \\(splits 'eval' and 'train'\\)"):
        compare(run_bench(Adder, "oracle"), run_bench(Adder, "oracle", split="train"))


def test_another_version_is_refused_unless_it_is_allowed() -> None:
    first = run_bench(Adder, "oracle").record
    second = replace(first, env=replace(first.env, version="adders 2.0"))
    with pytest.raises(
        ConfigError, match=r"had version 'sha256:.*' in the first and 'adders 2.0' in the second.*allow"
    ):
        compare(first, second)
    assert compare(first, second, allow_versions=True).mean == 0.0


def test_a_file_by_another_path_is_the_same_environment() -> None:
    first = run_bench(Adder, "oracle").record
    here = replace(first, env=EnvRef("./adder.py:Adder", version="sha256:a"))
    there = replace(first, env=EnvRef("/home/me/adder.py:Adder", version="sha256:a"))
    assert compare(here, there).n == 8
    with pytest.raises(ConfigError, match="measured on"):
        compare(here, replace(there, env=replace(there.env, version="sha256:b")), allow_versions=True)


class Sampled(Some):
    """Has a sampling of its own."""

    sampling = SamplingParams(temperature=0.5)


def test_other_sampling_is_shown() -> None:
    first = run_bench(Adder, Sampled(right=4), references=False).record
    second = run_bench(Adder, Sampled(right=4), sampling=SamplingParams(temperature=0.9), references=False, seed=1)
    found = comparison(first, second.record)
    assert found.difference.mean == 0.0
    assert set(found.notes) == {
        "sampling, temperature: 0.5 in the first, 0.9 in the second",
        "seed: 0 in the first, 1 in the second",
    }


def test_folders_are_compared_as_their_results_were(tmp_path: Path) -> None:
    first = run_bench(Adder, Some(right=4, broken=[7]), out=tmp_path / "a", trials=2)
    second = run_bench(Adder, Some(right=6), out=tmp_path / "b", trials=2)
    records = read_record(tmp_path / "a"), read_record(tmp_path / "b" / "summary.json")
    for measure in (None, Reward(), SuccessOfAttempted()):
        given = () if measure is None else (measure,)
        assert compare(*records, *given) == compare(first, second, *given)
    assert records[1] == BenchRecord.from_json(json.loads(json.dumps(second.to_json())))
    with pytest.raises(ConfigError, match="does not hold the measure 'turns'"):
        compare(*records, Turns())


def test_discards_after_the_model_acted_are_warned_of() -> None:
    first = run_bench(breaks(), "oracle", references=False).record
    (warning,) = comparison(first, first).warnings[:1]
    assert warning.startswith("2 of 8 episodes of the first were discarded after the model had acted")
    assert "do not trust this comparison" in warning
    # The policy's own server is not in the model's hands.
    second = run_bench(Adder, Some(broken=[7]), references=False).record
    found = comparison(second, second)
    assert found.warnings == ()
    assert "the first has 1 of 8 episodes discarded" in found.notes


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        read_record(tmp_path / "absent")
    with pytest.raises(ConfigError, match="holds files, but no benchmark"):
        read_record(tmp_path)
    run_bench(Adder, "null", out=tmp_path / "a", references=False)
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    for name, words in (("tasks", "stopped before its results"), ("sampling", "no benchmark of this version")):
        cut = {key: value for key, value in summary.items() if key != name}
        (tmp_path / "a" / "summary.json").write_text(json.dumps(cut))
        with pytest.raises(ConfigError, match=words):
            read_record(tmp_path / "a")


def test_what_is_refused_can_be_forced_and_is_named() -> None:
    first, second = run_bench(Adder, "oracle").record, run_bench(edited(3, 4), "null").record
    second = replace(second, env=replace(first.env, limits={"max_turns": 9}))
    with pytest.raises(ConfigError, match="cannot compare"):
        comparison(first, second)
    found = comparison(first, second, force=True)
    assert found.difference.mean == compare(first, second, force=True).mean == 1.0
    assert found.forced == tuple(found.to_json()["forced"])
    assert [why.split(" on ")[0] for why in found.forced] == [
        "the first was measured",
        "tasks 'eval-3', 'eval-4' had other content in the first than in the second",
    ]
    assert "max_turns=9" in found.forced[0]
    assert comparison(first, first, force=True).forced == ()


def test_no_shared_task_cannot_be_forced() -> None:
    first = run_bench(Adder, "oracle").record
    with pytest.raises(ConfigError, match="no task was played by both"):
        comparison(first, replace(first, tasks={"other": first.tasks["eval-0"]}), force=True)

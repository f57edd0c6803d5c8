"""Splits are disjoint, repeatable and lazy; rubrics refuse unknown components."""

from __future__ import annotations

import numpy as np
import pytest

from agentrl.env.rubric import Rubric
from agentrl.env.tasks import Tasks
from agentrl.errors import TaskError
from agentrl.trajectory import Task


def draw(rng: np.random.Generator) -> dict[str, int]:
    return {"n": int(rng.integers(50))}


def test_generated_splits_are_disjoint_complete_and_repeatable():
    one, other = (Tasks.generate(draw, seed=1, train=30, eval=20) for _ in range(2))
    numbers = {name: [task.data["n"] for task in one.split(name)] for name in one.splits}
    assert sorted(numbers["train"] + numbers["eval"]) == list(range(50))
    assert one.split("train") == other.split("train")
    assert Tasks.generate(draw, seed=2, train=30, eval=20).split("train") != one.split("train")
    assert one["eval-3"] == Task("eval-3", "eval", {"n": numbers["eval"][3]})


def test_a_generator_that_cannot_make_enough_says_so_at_first_use():
    tasks = Tasks.generate(draw, train=60)
    with pytest.raises(TaskError, match="only 50 different tasks for split 'train'"):
        tasks.splits  # noqa: B018


def test_overlap_repeated_ids_and_odd_data_are_refused():
    with pytest.raises(TaskError, match="task 'eval-0' of split 'eval' is also in split 'train'"):
        Tasks.of(train=[{"n": 1}], eval=[{"n": 1}]).split("train")
    with pytest.raises(TaskError, match="task id 'a' is used twice"):
        Tasks(lambda: {"train": [Task("a", "train", {"n": 1}), Task("a", "train", {"n": 2})]}).split("train")
    with pytest.raises(TaskError, match="a task's data must be plain JSON"):
        Tasks.of(train=[{"n": np.int64(1)}]).split("train")


def test_repeats_within_a_split_are_allowed():
    assert len(Tasks.of(train=[{"n": 1}, {"n": 1}]).split("train")) == 2


def test_nothing_is_made_before_the_first_look():
    made = []
    tasks = Tasks(lambda: made.append(1) or {"train": [Task("a")]})
    assert made == []
    assert (tasks.splits, tasks.splits, made) == (("train",), ("train",), [1])


def test_tasks_made_again_are_equal_unless_they_come_from_no_seed():
    fixed = Tasks.generate(lambda rng: {"n": int(rng.integers(10**9))}, seed=1, train=3)
    assert fixed.made_again().split("train") == fixed.split("train")
    drawn = Tasks.generate(lambda rng: {"n": int(np.random.default_rng().integers(10**9))}, seed=1, train=3)
    assert drawn.made_again().split("train") != drawn.split("train")


def test_the_rubric_sums_by_weight_and_refuses_a_misspelt_component():
    rubric = Rubric({"correct": 1.0, "short": 0.1})
    assert rubric.total({"correct": 1.0, "short": -2.0}) == pytest.approx(0.8)
    assert rubric.total({}) == 0.0
    with pytest.raises(KeyError, match=r"'corect' has no weight. Did you mean 'correct'"):
        rubric.total({"corect": 1.0})

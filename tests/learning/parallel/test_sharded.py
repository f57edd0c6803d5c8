"""Two processes that share the weights of a model (FSDP2) end where one process does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.supervised import Supervised
from agentrl.learning.parallel.checkpoint import load_parts
from agentrl.learning.parallel.ranks import Ranks
from agentrl.learning.parallel.sharded import shard
from tests.learning.fixtures import model_of
from tests.learning.parallel.conftest import together
from tests.learning.parallel.test_ranks import Found, assert_equal_bits, difference
from tests.learning.parallel.two_ranks import GRADIENTS, SHARDED, UPDATES, first_step, outcome_of, second_step


@pytest.mark.parametrize("name", [name for name in GRADIENTS if name in SHARDED])
async def test_gradients_of_shared_weights_are_those_of_one_process(found: Found, name: str) -> None:
    alone = await outcome_of(GRADIENTS[name], Ranks())
    first, second = (rank[f"{name}, sharded"] for rank in found)
    assert_equal_bits(first, second)
    assert difference(first.gradients, alone.gradients) < 1e-6
    assert first.metrics == [pytest.approx(step, rel=1e-5, abs=1e-7) for step in alone.metrics]


@pytest.mark.parametrize("name", [name for name in UPDATES if name in SHARDED and name != "not finite"])
async def test_updates_of_shared_weights_are_those_of_one_process(found: Found, name: str) -> None:
    """Clipped, in minibatches, with the columns of a reference and a value head, on uneven rows."""
    case = UPDATES[name]
    alone = await outcome_of(case, Ranks())
    first, second = (rank[f"{name}, sharded"] for rank in found)
    assert_equal_bits(first, second)
    assert difference(first.weights, alone.weights) < 1e-6
    for one, other in zip(first.filled, alone.filled, strict=True):
        for column in case.filled:
            assert one[column] == pytest.approx(other[column], abs=1e-5)
    assert first.metrics == [pytest.approx(step, rel=1e-4, abs=1e-6) for step in alone.metrics]


async def test_an_infinite_gradient_of_shared_weights_is_skipped(found: Found) -> None:
    alone = await outcome_of(UPDATES["not finite"], Ranks())
    first, second = (rank["not finite, sharded"] for rank in found)
    assert [step["grad/skipped"] for step in first.metrics] == [1.0, 0.0]
    assert all(np.array_equal(first.weights[name], second.weights[name]) for name in first.weights)
    assert difference(first.weights, alone.weights) < 1e-6


async def test_a_checkpoint_of_two_ranks_goes_on_on_two_one_and_three(
    found: Found, place: Path, tmp_path: Path
) -> None:
    await first_step(Ranks(), tmp_path / "one", shard=False)
    expected, counted = await second_step(Ranks(), tmp_path / "one", shard=False)
    (place / "three").mkdir()
    of_two = [rank["second"] for rank in found]
    of_one = await second_step(Ranks(), place / "two", shard=False)
    for weights, metrics in (*of_two, of_one, *together("work_of_three", 3, place / "three")):
        assert difference(weights, expected) < 1e-9
        assert metrics == pytest.approx(counted, rel=1e-6, abs=1e-9)


def test_a_folder_with_files_and_one_of_another_model_are_refused(found: Found, place: Path) -> None:
    assert all("choose another folder" in rank["refused"] for rank in found)
    learner = Learner(model_of(), LearnerSettings(), Supervised())
    with pytest.raises(ValueError, match="another model, objective or optimizer: only one side has"):
        load_parts(learner, place / "two")
    with pytest.raises(ValueError, match="holds no checkpoint of ranks"):
        load_parts(learner, place / "nothing")


def test_a_sampler_takes_the_weights_that_ranks_share(found: Found) -> None:
    assert all(rank["copied"] for rank in found)


def test_what_cannot_be_spread_is_refused_before_anything_changes() -> None:
    with pytest.raises(ValueError, match="two processes at least"):
        shard(model_of(), Ranks())
    with pytest.raises(ValueError, match=r"muon.*use adamw"):
        Learner(model_of(), LearnerSettings(optimizer="muon"), Supervised(), ranks=Ranks(0, 1), shard=True)

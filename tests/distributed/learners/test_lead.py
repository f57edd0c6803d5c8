"""A learner of two processes does what one process does, for all that a training run asks of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from agentrl.distributed.learners.calls import Begin
from agentrl.distributed.learners.lead import LeadApartLearner, LeadLearner
from agentrl.distributed.learners.team import Team
from agentrl.errors import ConfigError
from agentrl.learning.apart import ApartLearner
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.base import Objective, Total
from agentrl.learning.objectives.ppo_clip import PPOClip
from agentrl.learning.objectives.preference import DPO, BradleyTerry
from agentrl.learning.objectives.supervised import Supervised
from agentrl.learning.objectives.value import Value
from tests.distributed.learners.fatal import no_children
from tests.learning.fixtures import model_of
from tests.learning.parallel.two_ranks import in_pairs

SETTINGS = LearnerSettings(lr=1e-3, max_grad_norm=0.01, num_epochs=2, num_minibatches=3, weight_decay=0.1)
PPO = Total(((1.0, PPOClip()), (0.5, Value())))
CASES: dict[str, tuple[Objective, tuple[str, ...]]] = {
    "supervised": (Supervised(), ()),
    "ppo with a value head": (PPO, ("old_logprobs", "values")),
    "dpo with a reference": (DPO(), ("reference_logprobs",)),
}
STEPS = 2


@pytest.fixture(scope="module")
def team() -> Iterator[Team]:
    with Team(model_of(), 2, shard=True) as team:
        yield team
    assert not dist.is_initialized()
    assert no_children()


def begin_of(objective: Objective, **changes: Any) -> Begin:
    return replace(Begin(SETTINGS, objective, temperature=1.0, total_steps=STEPS), **changes)


def alone(model: nn.Module, begin: Begin) -> Learner:
    return Learner(model, begin.settings, begin.objective, **begin.numbers)


async def steps(learner: Learner, name: str, first: int = 0, last: int = STEPS) -> list[dict[str, float]]:
    """Update on uneven rows, whose columns the learner fills before. Returns: the metrics of each step."""
    objective, filled = CASES[name]
    metrics = []
    for step in range(first, last):
        rows = in_pairs(step)
        for column in filled:
            rows = await learner.fill(rows, column)
        metrics.append(await learner.update(rows, objective))
    return metrics


def difference(one: nn.Module, other: nn.Module) -> float:
    others = dict(other.named_parameters())
    return max(float((p - others[name]).detach().abs().max()) for name, p in one.named_parameters())


@pytest.mark.parametrize("shard", [False, True], ids=["whole", "shared"])
@pytest.mark.parametrize("name", CASES)
async def test_updates_are_those_of_one_process(team: Team, name: str, shard: bool) -> None:
    begin, expected, model = begin_of(CASES[name][0], shard=shard), model_of(), model_of()
    wanted = await steps(alone(expected, begin), name)
    found = await steps(LeadLearner(team, model, begin), name)
    assert found == [pytest.approx(step, rel=1e-5, abs=1e-6) for step in wanted]
    assert difference(model, expected) < 1e-6
    assert difference(model, model_of()) > 1e-4, "it did learn"


async def test_a_learner_begins_with_the_weights_that_rank_0_has_now(team: Team) -> None:
    """They may have changed since the ranks started, as they do between two stages."""
    begin, expected, model = begin_of(Supervised()), model_of(seed=1), model_of(seed=1)
    await steps(alone(expected, begin), "supervised")
    await steps(LeadLearner(team, model, begin), "supervised")
    assert difference(model, expected) < 1e-6


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("name", CASES)
async def test_a_state_goes_on_on_another_number_of_ranks(
    team: Team, tmp_path: Path, name: str, before: int, after: int
) -> None:
    """Ranks that share the weights write what one process writes: moments, a value head, a reference."""
    begin, expected, model = begin_of(CASES[name][0], shard=True), model_of(), model_of()
    wanted = await steps(alone(expected, begin), name)
    first = alone(model, begin) if before == 1 else LeadLearner(team, model, begin)
    await steps(first, name, last=1)
    torch.save({"learner": first.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)["learner"]
    if after == 1:
        second = alone(model, begin)
        second.load_state_dict(state)
    else:
        second = LeadLearner(team, model, begin)
        with second.loading(tmp_path / "state.pt", "learner"):
            second.load_state_dict(state)
    assert await steps(second, name, first=1) == [pytest.approx(wanted[1], rel=1e-5, abs=1e-6)]
    assert difference(model, expected) < 1e-6


async def test_a_copy_of_the_model_is_trained_apart(team: Team) -> None:
    loss = BradleyTerry()
    begin, model = begin_of(loss, apart=True), model_of()
    expected = ApartLearner(model_of(), begin.settings, loss, **begin.numbers)
    found = LeadApartLearner(team, model, begin)
    for learner in (expected, found):
        await learner.update(in_pairs(0), loss)
    assert difference(model, model_of()) == 0
    assert difference(found.model, expected.model) < 1e-6
    assert difference(found.model, model) > 1e-4
    assert found.state_dict()["weights"].keys() == expected.state_dict()["weights"].keys()


async def test_dropout_of_the_other_ranks_is_the_same_again_after_resuming(team: Team, tmp_path: Path) -> None:
    begin = begin_of(Supervised(), settings=replace(SETTINGS, dropout=True))
    whole, cut = model_of(), model_of()
    await steps(LeadLearner(team, whole, begin), "supervised")
    first = LeadLearner(team, cut, begin)
    await steps(first, "supervised", last=1)
    torch.save({"learner": first.state_dict()}, tmp_path / "state.pt")
    second = LeadLearner(team, cut, begin)
    with second.loading(tmp_path / "state.pt", "learner"):
        second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True)["learner"])
    await steps(second, "supervised", first=1)
    assert difference(whole, cut) == 0


async def test_cpu_seconds_of_other_ranks_count_and_a_warning_of_all_is_told_once(team: Team, caplog: Any) -> None:
    before = team.cpu_s
    rows = [row.with_columns(coefficients=row.column("coefficients") * float("inf")) for row in in_pairs(0)]
    with caplog.at_level(logging.WARNING):
        learner = LeadLearner(team, model_of(), begin_of(Supervised()))
        await learner.update(rows, Supervised())
        await steps(learner, "supervised")  # what another rank says has come by then
    told = [record.message for record in caplog.records if "the gradient is not finite" in record.message]
    assert len(told) == SETTINGS.num_epochs * SETTINGS.num_minibatches
    assert team.cpu_s > before


async def test_an_objective_of_the_program_itself_is_refused(team: Team) -> None:
    class Mine(Supervised):
        pass

    with pytest.raises(ConfigError, match=r"cannot be sent to other processes.*'\./file\.py:Class'"):
        LeadLearner(team, model_of(), begin_of(Mine()))

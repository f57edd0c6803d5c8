"""Learners of two processes whose models have adapters, or weights of low precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from agentrl.distributed.learners.lead import LeadLearner
from agentrl.distributed.learners.team import Team
from agentrl.learning.objectives.supervised import Supervised
from agentrl.policy import adapters
from tests.distributed.learners.test_lead import alone, begin_of, difference, steps
from tests.learning.fixtures import model_of


async def test_adapters_are_trained_by_ranks_too() -> None:
    """The other weights stay as they are."""
    begun = with_adapters()
    with Team(with_adapters(), 2, shard=True) as team:
        for shard in (False, True):
            begin, expected, model = begin_of(Supervised(), shard=shard), with_adapters(), with_adapters()
            wanted = await steps(alone(expected, begin), "supervised")
            learner = LeadLearner(team, model, begin)
            found = await steps(learner, "supervised")
            assert found == [pytest.approx(step, rel=1e-5, abs=1e-6) for step in wanted]
            assert difference(model, expected) < 1e-6
            weights = dict(model.named_parameters())
            trained = {name for name, p in begun.named_parameters() if not torch.equal(p, weights[name])}
            assert trained
            assert all("lora_" in name for name in trained)


def with_adapters() -> nn.Module:
    model = model_of()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapters.add(model, rank=2, alpha=4)
    return model


@pytest.mark.parametrize("shard", [False, True], ids=["whole", "shared"])
async def test_masters_of_low_precision_weights_go_on_exactly(tmp_path: Path, shard: bool) -> None:
    begin = begin_of(Supervised(), shard=shard)
    whole, cut = (model_of(dtype=torch.bfloat16) for _ in range(2))
    with Team(model_of(dtype=torch.bfloat16), 2, shard=shard) as team:
        await steps(LeadLearner(team, whole, begin), "supervised")
        first = LeadLearner(team, cut, begin)
        await steps(first, "supervised", last=1)
        state = first.state_dict()
        assert {value.dtype for value in state["masters"].values()} == {torch.float32}
        torch.save({"learner": state}, tmp_path / "state.pt")
        second = LeadLearner(team, cut, begin)
        with second.loading(tmp_path / "state.pt", "learner"):
            second.load_state_dict(state)
        await steps(second, "supervised", first=1)
    assert difference(whole, cut) == 0

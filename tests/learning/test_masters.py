"""bfloat16 weights learn as float32 weights do, because a float32 master is what the optimizer updates."""

import copy

import pytest
import torch

from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.masters import MasterWeights
from agentrl.learning.objectives.supervised import Supervised
from agentrl.learning.rows import Row, with_coefficients

ROWS = [Row.of([1, 2, 3, 4, 5, 6], [False, True, True, True, True, True])]


async def losses(model, optimizer="adamw", updates=40):
    """The loss of each update, at a rate far below the spacing of bfloat16 weights of this size."""
    lr = {"adamw": 2e-4, "muon": 2e-3}[optimizer]
    learner = Learner(model, LearnerSettings(lr=lr, optimizer=optimizer), Supervised())
    rows = with_coefficients(ROWS, "token")
    return [(await learner.update(rows, Supervised()))["supervised/nll"] for _ in range(updates)]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
async def test_bfloat16_learns_as_float32_does(make_model, optimizer):
    exact = await losses(make_model(dtype=torch.float32), optimizer)
    rounded = await losses(make_model(dtype=torch.bfloat16), optimizer)
    fall = exact[0] - exact[-1]
    assert fall > 1.0
    assert rounded[0] - rounded[-1] == pytest.approx(fall, rel=0.1)


async def test_the_weights_are_the_masters_rounded(make_model):
    model = make_model(dtype=torch.bfloat16)
    learner = Learner(model, LearnerSettings(lr=1e-3), Supervised())
    await learner.update(with_coefficients(ROWS, "token"), Supervised())
    masters = learner.masters.state_dict()
    assert len(masters) == len(list(model.parameters()))
    for name, weight in model.named_parameters():
        assert masters[name].dtype == torch.float32
        assert torch.equal(weight, masters[name].bfloat16())
        assert weight.grad is None
    assert any((masters[name] != weight.float()).any() for name, weight in model.named_parameters())


async def test_a_resumed_bfloat16_run_goes_on_bit_for_bit(make_model):
    model, rows = make_model(dtype=torch.bfloat16), with_coefficients(ROWS, "token")
    learner = Learner(model, LearnerSettings(lr=2e-4), Supervised())
    for _ in range(3):
        await learner.update(rows, Supervised())
    resumed = copy.deepcopy(model)
    other = Learner(resumed, LearnerSettings(lr=2e-4), Supervised())
    other.load_state_dict(copy.deepcopy(learner.state_dict()))
    for _ in range(3):
        await learner.update(rows, Supervised())
        await other.update(rows, Supervised())
    left, right = learner.masters.state_dict(), other.masters.state_dict()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_gradients_of_micro_batches_add_up_in_float32(make_model):
    model = make_model(dtype=torch.bfloat16)
    masters, weight = MasterWeights(model), model.model.norm.weight
    for part in (256.0, 1.0, 1.0):  # in bfloat16, 256 + 1 is 256
        weight.grad = torch.full_like(weight, part)
        masters.take_gradients()
    assert masters.of(weight).grad.tolist() == [258.0] * 32


def test_a_float32_weight_is_its_own_master(make_model):
    model = make_model(dtype=torch.float32)
    masters = MasterWeights(model)
    assert all(masters.of(p) is p for p in model.parameters())
    assert masters.state_dict() == {}


def test_masters_of_another_model_are_refused(make_model):
    state = MasterWeights(make_model(dtype=torch.bfloat16)).state_dict()
    with pytest.raises(ValueError, match="the same trainable layers"):
        MasterWeights(make_model(dtype=torch.float32)).load_state_dict(state)

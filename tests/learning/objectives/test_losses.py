"""Values against numbers worked out by hand, gradients against finite differences and exact formulas."""

import dataclasses
import importlib
import inspect
import math
import pkgutil

import pytest
import torch
from torch.autograd import gradcheck

import agentrl.learning.objectives
from agentrl.learning.batches import pad
from agentrl.learning.forward import Batch
from agentrl.learning.importance import TIS, IcePop, Mask
from agentrl.learning.objectives.base import OBJECTIVES, Objective, Total, weighted
from agentrl.learning.objectives.cispo import CISPO, cispo
from agentrl.learning.objectives.gspo import GSPO, gspo
from agentrl.learning.objectives.policy_gradient import policy_gradient
from agentrl.learning.objectives.ppo_clip import PPOClip, ppo_clip
from agentrl.learning.objectives.preference import DPO, IPO, BradleyTerry, bradley_terry, dpo, ipo
from agentrl.learning.objectives.regularizers import ReferenceKL
from agentrl.learning.objectives.value import Value, value_loss
from agentrl.learning.rows import Row
from agentrl.learning.terms import (
    entropy_of_logits,
    kl_k1,
    kl_k2,
    kl_k3,
    kl_loss,
    masked_importance,
    truncated_importance,
)

LOG2 = math.log(2.0)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def leaf(*values):
    return f64(*values).requires_grad_()


def gradient(loss, inputs):
    return torch.autograd.grad(loss.sum(), inputs, retain_graph=True)[0].tolist()


class Known:
    """Scores that are given rather than computed."""

    def __init__(self, logprobs):
        self.logprobs = logprobs
        self.entropy = torch.zeros_like(logprobs)


def batch_of(*rows):
    """A batch of rows, each a dictionary of columns over its tokens, all of which train."""
    made = []
    for number, columns in enumerate(rows):
        size = len(next(iter(columns.values())))
        whole = {name: [0.0, *values] for name, values in columns.items()}
        made.append(Row.of(range(size + 1), [False] + [True] * size, trajectory=number, unit=number // 2, **whole))
    (laid_out,) = pad(made, 1000, "pair")
    return Batch(laid_out, torch.device("cpu"))


def test_policy_gradient_value_and_gradient():
    logprobs = leaf(-1.0, -1.0 + LOG2)
    loss = policy_gradient(logprobs, f64(-1.0, -1.0), f64(3.0, -2.0))
    assert loss.tolist() == pytest.approx([-3.0, 4.0])
    assert gradient(loss, logprobs) == pytest.approx([-3.0, 4.0])


# ratio, advantage -> loss, gradient with bounds 0.2 below and 0.28 above
@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "grad"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.27, 1.0, -1.27, -1.27),
        (1.5, 1.0, -1.28, 0.0),
        (1.5, -1.0, 1.5, 1.5),
        (0.5, 1.0, -0.5, -0.5),
        (0.5, -1.0, 0.8, 0.0),
        (0.81, -1.0, 0.81, 0.81),
        (4.0, 0.0, 0.0, 0.0),
    ],
)
def test_ppo_clip_by_hand(ratio, advantage, loss, grad):
    logprobs = leaf(math.log(ratio) - 3.0)
    value = ppo_clip(logprobs, f64(-3.0), f64(advantage), clip_low=0.2, clip_high=0.28, dual_clip=None)
    assert value.item() == pytest.approx(loss)
    assert gradient(value, logprobs) == pytest.approx([grad])


def test_dual_clip_bounds_the_loss_of_bad_tokens_alone():
    logprobs = leaf(math.log(10.0), math.log(10.0), math.log(2.0))
    value = ppo_clip(logprobs, f64(0, 0, 0), f64(-1.0, 1.0, -1.0), clip_low=0.2, clip_high=0.2, dual_clip=3.0)
    assert value.tolist() == pytest.approx([3.0, -1.2, 2.0])
    assert gradient(value, logprobs) == pytest.approx([0.0, 0.0, 2.0])
    with pytest.raises(ValueError, match="above 1"):
        PPOClip(dual_clip=1.0)


def test_gspo_uses_the_geometric_mean_ratio_of_each_sequence():
    # sequence 0: log ratios 0.1 and 0.3, mean 0.2; sequence 1: -0.5 alone, beyond the lower bound.
    logprobs = leaf(-0.9, -0.7, -1.5)
    batch = batch_of(
        {"old_logprobs": [-1.0, -1.0], "advantages": [2.0, 2.0]}, {"old_logprobs": [-1.0], "advantages": [-1.0]}
    )
    loss, sums = GSPO(clip_low=0.3, clip_high=0.3)(batch, Known(logprobs))
    assert loss.item() == pytest.approx(-4 * math.exp(0.2) + 0.7, rel=1e-6)
    # d/dlogp of the sum over two equal tokens: 2 tokens * (-2 s) / 2 tokens; sequence 1 is clipped.
    assert gradient(loss, logprobs) == pytest.approx([-2 * math.exp(0.2)] * 2 + [0.0], rel=1e-6)
    assert sums["policy/clip_fraction"] == 1


def test_the_clip_fraction_and_mean_ratio_of_gspo_are_those_of_the_sequence():
    """Each token's ratio is outside the range, their geometric mean is not; and the other way round."""
    opposite = {"old_logprobs": [-1.0, -1.0], "advantages": [1.0, 1.0], "turns": [0, 1]}
    inside = Known(f64(-1.0 + LOG2, -1.0 - LOG2))
    _, sums = GSPO(clip_low=0.1, clip_high=0.1)(batch_of(opposite), inside)
    assert (sums["policy/clip_fraction"].item(), sums["policy/ratio_mean"].item()) == (0, pytest.approx(2.0))
    _, sums = GSPO(clip_low=0.1, clip_high=0.1)(batch_of(opposite), Known(f64(-1.0, -1.0 + 2 * LOG2)))
    assert (sums["policy/clip_fraction"].item(), sums["policy/ratio_mean"].item()) == (2, pytest.approx(4.0))
    loss, sums = GSPO(clip_low=0.1, clip_high=0.1, sequence="turn")(batch_of(opposite), inside)
    assert sums["policy/clip_fraction"] == 1  # a turn of ratio 2, and one of ratio 1/2 with a positive advantage
    assert loss.item() == pytest.approx(-1.1 - 0.5)


def test_gspo_keeps_a_ratio_of_each_row_next_to_losses_over_pairs():
    """Two rows of one pair have a ratio each."""
    sides = {"old_logprobs": [-1.0], "advantages": [1.0]}
    both = batch_of(sides, sides)
    assert both.num_units == 1
    loss, _ = GSPO(clip_low=1.0, clip_high=9.0)(both, Known(f64(-1.0 + LOG2, -1.0 - LOG2)))
    assert loss.item() == pytest.approx(-2.5)


def test_gspo_of_single_tokens_is_ppo():
    logprobs, old, advantages = f64(-1.0, -2.0, -0.3), f64(-1.4, -1.0, -0.3), f64(1.0, -1.0, 0.5)
    expected = ppo_clip(logprobs, old, advantages, clip_low=0.2, clip_high=0.3, dual_clip=None)
    assert torch.equal(gspo(logprobs - old, advantages, clip_low=0.2, clip_high=0.3), expected)


def test_cispo_never_drops_a_gradient():
    logprobs = leaf(-1.0, -1.0)
    value = cispo(logprobs, f64(-1.0 - math.log(5.0), -1.0 + math.log(4.0)), f64(2.0, 3.0), clip_low=1.0, clip_high=0.5)
    assert value.tolist() == pytest.approx([1.5 * 2.0, 0.25 * 3.0])
    assert gradient(value, logprobs) == pytest.approx([-1.5 * 2.0, -0.25 * 3.0])


def test_weights_of_a_whole_sequence():
    log_ratio = f64(math.log(4.0), math.log(0.5), 0.0)
    assert TIS(cap=9.0, level="sequence")(log_ratio).tolist() == pytest.approx([2.0] * 3)
    assert TIS(cap=1.5, level="sequence")(log_ratio).tolist() == pytest.approx([1.5] * 3)
    assert TIS(level="geometric")(log_ratio).tolist() == pytest.approx([2 ** (1 / 3)] * 3)
    assert IcePop(high=1.9, level="sequence")(log_ratio).tolist() == [0.0] * 3
    assert IcePop(high=1.9, level="geometric")(log_ratio).tolist() == pytest.approx([2 ** (1 / 3)] * 3)
    assert TIS(level="sequence")(f64()).tolist() == []
    assert Mask()(log_ratio).tolist() == [0.0] * 3
    assert Mask(high=1.3)(log_ratio).tolist() == [1.0] * 3
    assert Mask(high=1.3, level="token")(log_ratio).tolist() == [0.0, 0.0, 1.0]
    for kind in (IcePop, Mask):
        with pytest.raises(ValueError, match="low must be below high"):
            kind(low=2.0, high=1.0)


def test_importance_weights():
    log_ratio = f64(math.log(0.4), 0.0, math.log(3.0), math.log(6.0)).requires_grad_()
    assert truncated_importance(log_ratio, cap=2.0).tolist() == pytest.approx([0.4, 1.0, 2.0, 2.0])
    assert masked_importance(log_ratio).tolist() == pytest.approx([0.0, 1.0, 3.0, 0.0])
    assert not truncated_importance(log_ratio).requires_grad
    assert not masked_importance(log_ratio).requires_grad


def test_kl_estimators_by_hand():
    logprobs, reference = f64(math.log(0.5)), f64(math.log(0.25))
    assert kl_k1(logprobs, reference).item() == pytest.approx(LOG2)
    assert kl_k2(logprobs, reference).item() == pytest.approx(LOG2**2 / 2)
    assert kl_k3(logprobs, reference).item() == pytest.approx(0.5 - 1 + LOG2)
    assert kl_k3(logprobs, logprobs).item() == 0.0


def test_kl_estimators_against_the_exact_kl_of_a_distribution():
    logits, other = leaf(0.3, -1.2, 0.7, 0.1), f64(-0.4, 0.9, 0.2, 0.0)
    log_p, log_q = torch.log_softmax(logits, 0), torch.log_softmax(other, 0)
    p = log_p.exp().detach()
    exact = (log_p.exp() * (log_p - log_q)).sum()
    reverse = (log_q.exp() * (log_q - log_p)).sum()
    assert (p * kl_k1(log_p, log_q)).sum().item() == pytest.approx(exact.item())
    assert (p * kl_k3(log_p, log_q)).sum().item() == pytest.approx(exact.item())
    # As losses, in expectation over the policy's own samples:
    assert gradient(p * kl_k1(log_p, log_q), logits) == pytest.approx([0.0] * 4, abs=1e-12)
    assert gradient(p * kl_k2(log_p, log_q), logits) == pytest.approx(gradient(exact, logits))
    assert gradient(p * kl_k3(log_p, log_q), logits) == pytest.approx(gradient(reverse, logits))


def test_a_kl_loss_with_a_gradient_of_its_own():
    """In expectation over the policy's samples: straight through k2, and times the ratio, give the exact gradient."""
    logits, other = leaf(0.3, -1.2, 0.7, 0.1), f64(-0.4, 0.9, 0.2, 0.0)
    log_p, log_q = torch.log_softmax(logits, 0), torch.log_softmax(other, 0)
    p = log_p.exp().detach()
    exact = (log_p.exp() * (log_p - log_q)).sum()
    for estimator in ("k1", "k3"):
        straight = kl_loss(log_p, log_q, estimator=estimator, gradient="k2")
        assert (p * straight).sum().item() == pytest.approx(exact.item())
        assert gradient(p * straight, logits) == pytest.approx(gradient(exact, logits))
        # Off policy: sampled by another distribution.
        sampler = f64(0.1, 0.2, 0.3, 0.4)
        ratio = kl_loss(log_p, log_q, estimator=estimator, gradient="ratio", old_logprobs=sampler.log())
        assert (sampler * ratio).sum().item() == pytest.approx(exact.item())
        assert gradient(sampler * ratio, logits) == pytest.approx(gradient(exact, logits))
    with pytest.raises(ValueError, match="needs old_logprobs"):
        kl_loss(log_p, log_q, estimator="k3", gradient="ratio")
    with pytest.raises(ValueError, match="expected gradient of k1 is zero"):
        ReferenceKL("k1")


def test_entropy_by_hand():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(3.0), 0.0, -math.inf, -math.inf]], dtype=torch.float64)
    by_hand = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert entropy_of_logits(logits).tolist() == pytest.approx([math.log(4.0), by_hand])


def test_entropy_gradient_is_finite_where_tokens_are_ruled_out():
    logits = torch.tensor([[1.0, 0.0, -math.inf]], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(entropy_of_logits(logits).sum(), logits)
    p = torch.softmax(logits[0, :2], 0).detach()
    entropy = -(p * p.log()).sum()
    assert grad[0, :2].tolist() == pytest.approx((-p * (p.log() + entropy)).tolist())
    assert grad[0, 2] == 0


def test_value_loss_takes_the_worse_of_clipped_and_not():
    values, old, returns = leaf(2.0, 2.0, 0.1), f64(1.0, 1.0, 0.0), f64(3.0, 0.0, 1.0)
    assert value_loss(values, returns, old_values=old, clip=None).tolist() == pytest.approx([0.5, 2.0, 0.405])
    clipped = value_loss(values, returns, old_values=old, clip=0.2)
    assert clipped.tolist() == pytest.approx([0.5 * 1.8**2, 2.0, 0.405])
    assert gradient(clipped, values) == pytest.approx([0.0, 2.0, -0.9])


def test_dpo_by_hand():
    chosen, rejected = leaf(-2.0), leaf(-3.0)
    value = dpo((chosen + 2.5) - (rejected + 2.0), beta=0.4)
    assert value.item() == pytest.approx(math.log(1 + math.exp(-0.6)))
    share = 0.4 / (1 + math.exp(0.6))
    grads = torch.autograd.grad(value.sum(), [chosen, rejected])
    assert [g.item() for g in grads] == pytest.approx([-share, share])


def test_dpo_over_two_pairs_of_a_batch():
    """Sums over each side's tokens, whatever its length; a pair weighs what its coefficient says."""
    batch = batch_of(
        {"reference_logprobs": [-1.0, -1.0], "sign": [1.0, 1.0], "coefficients": [0.5, 0.5]},
        {"reference_logprobs": [-2.0], "sign": [-1.0], "coefficients": [0.5]},
        {"reference_logprobs": [-1.0], "sign": [1.0], "coefficients": [0.5]},
        {"reference_logprobs": [-1.0], "sign": [-1.0], "coefficients": [0.5]},
    )
    margins, order = [], batch.units.tolist()
    for unit in (0, 1):
        logs = [-0.5 if order[n] == unit else 0.0 for n in range(5)]
        log_ratio = torch.tensor(logs) - batch.column("reference_logprobs")
        margins.append(float((batch.column("sign") * log_ratio)[batch.units == unit].sum()))
    loss, sums = DPO(beta=0.5)(batch, Known(torch.full((5,), -0.5)))
    by_hand = sum(0.5 * math.log(1 + math.exp(-0.5 * margin)) for margin in margins)
    assert loss.item() == pytest.approx(by_hand)
    assert float(sums["preference/count"]) == 2
    assert float(sums["preference/margin"]) == pytest.approx(sum(margins))


def test_dpo_with_smoothed_labels_by_hand():
    clean, turned = math.log(1 + math.exp(-0.6)), math.log(1 + math.exp(0.6))
    smoothed = dpo(f64(1.5), beta=0.4, label_smoothing=0.2)
    assert smoothed.item() == pytest.approx(0.8 * clean + 0.2 * turned)
    robust = dpo(f64(1.5), beta=0.4, label_smoothing=0.2, robust=True)
    assert robust.item() == pytest.approx((0.8 * clean - 0.2 * turned) / 0.6)
    # With a fifth of the labels turned round, the robust loss is the clean one in expectation.
    other = dpo(f64(-1.5), beta=0.4, label_smoothing=0.2, robust=True)
    assert (0.8 * robust + 0.2 * other).item() == pytest.approx(clean)


def pair(*sides):
    """A pair of rows with their columns."""
    return batch_of(*({"sign": [sign] * size, "coefficients": [1.0] * size, **own} for sign, size, own in sides))


def test_ipo_draws_the_margin_per_token_to_its_target():
    sides = [(1.0, 2, {"reference_logprobs": [-1.0, -1.0]}), (-1.0, 1, {"reference_logprobs": [-1.0]})]
    batch = pair(*sides)
    logprobs = torch.where(batch.column("sign") > 0, -0.5, -2.0)  # per token +0.5 and -1.0
    loss, sums = IPO(beta=0.25)(batch, Known(logprobs))
    assert loss.item() == pytest.approx((1.5 - 2.0) ** 2)
    assert float(sums["preference/margin"]) == pytest.approx(1.5)
    assert ipo(f64(1.5), beta=0.25).item() == pytest.approx(0.25)


def test_a_reward_model_scores_the_last_token_of_each_side():
    gap = {"reward_gap": [2.0, 2.0]}
    batch = pair((1.0, 2, {"last": [0.0, 1.0], **gap}), (-1.0, 2, {"last": [0.0, 1.0], **gap}))
    scores = Known(torch.zeros(4))
    scores.values = torch.where(batch.column("last") > 0, torch.where(batch.column("sign") > 0, 1.5, 0.5), 99.0)
    loss, sums = BradleyTerry()(batch, scores)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1.0)))
    assert float(sums["preference/accuracy"]) == 1
    loss, _ = BradleyTerry(margin=0.25, center=0.1)(batch, scores)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-0.5)) + 0.1 * 4.0)


def test_bradley_terry_by_hand():
    assert bradley_terry(f64(1.0, 0.0), f64(1.0, 3.0)).tolist() == pytest.approx([LOG2, math.log(1 + math.exp(3))])


SMOOTH = f64(-0.71, -1.32, -2.05, -0.4), f64(-0.6, -1.5, -2.0, -1.1), f64(1.3, -0.7, 0.4, -2.0)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: policy_gradient(x, SMOOTH[1], SMOOTH[2]),
        lambda x: ppo_clip(x, SMOOTH[1], SMOOTH[2], clip_low=0.1, clip_high=0.15, dual_clip=1.5),
        lambda x: gspo(x - SMOOTH[1], SMOOTH[2], clip_low=0.9, clip_high=2.0),
        lambda x: kl_k1(x, SMOOTH[1]),
        lambda x: kl_k2(x, SMOOTH[1]),
        lambda x: kl_k3(x, SMOOTH[1]),
        lambda x: entropy_of_logits(x.reshape(2, 2)),
        lambda x: value_loss(x, SMOOTH[2], old_values=SMOOTH[1], clip=0.05),
        lambda x: dpo((x[:2] - SMOOTH[1][:2]) - (x[2:] - SMOOTH[1][2:]), beta=0.7),
        lambda x: dpo(x, beta=0.7, label_smoothing=0.1, robust=True),
        lambda x: ipo(x, beta=0.7),
        lambda x: bradley_terry(x[:2], x[2:], 0.3),
        lambda x: kl_loss(x, SMOOTH[1], estimator="k3", gradient="ratio", old_logprobs=SMOOTH[2]),
    ],
)
def test_gradients_agree_with_finite_differences(loss):
    assert gradcheck(loss, (SMOOTH[0].clone().requires_grad_(),), eps=1e-7, atol=1e-6)


def test_each_loss_keeps_its_own_range():
    assert (PPOClip().clip_low, PPOClip().clip_high) == (0.2, 0.28)
    assert (GSPO().clip_low, GSPO().clip_high) == (3e-4, 4e-4)
    assert (CISPO().clip_low, CISPO().clip_high) == (1.0, 0.28)


def test_a_total_adds_its_terms_and_asks_for_what_they_need():
    total = weighted([(1.0, PPOClip()), (0.5, Value()), (0.0, DPO())])
    assert isinstance(total, Total)
    assert set(total.columns) == {"advantages", "old_logprobs", "coefficients", "returns", "values"}
    assert total.needs == ("values",)
    assert total.unit == "token"
    assert Total(((1.0, PPOClip()), (1.0, GSPO()))).unit == "row"
    assert Total(((1.0, GSPO()), (1.0, DPO()))).unit == "pair"
    assert weighted([(1.0, PPOClip()), (0.0, Value())]) == PPOClip()
    batch = batch_of({"old_logprobs": [-1.0], "advantages": [2.0]})
    twice, _ = Total(((1.0, PPOClip()), (3.0, PPOClip())))(batch, Known(f64(-1.0)))
    assert twice.item() == pytest.approx(-8.0)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES.names if name != "total"])
def test_every_objective_is_a_frozen_dataclass_with_defaults(name):
    objective = OBJECTIVES.find(name)()
    assert isinstance(objective, Objective)
    assert dataclasses.fields(objective) is not None
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.more = 1
    # One is no loss, and the tokens of the other have weights of their own.
    assert ("coefficients" in objective.columns) == (name not in ("reference_distance", "expert"))


def test_every_loss_names_its_source():
    modules = [
        importlib.import_module(f"agentrl.learning.objectives.{found.name}")
        for found in pkgutil.iter_modules(agentrl.learning.objectives.__path__)
    ]
    modules.append(importlib.import_module("agentrl.learning.terms"))
    functions = [
        value
        for module in modules
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]
    without = {f.__name__ for f in functions if "Source:" not in (f.__doc__ or "")}
    assert len(functions) > 12
    assert without == {"check_rows", "entropy_of_logits", "outside", "weighted"}

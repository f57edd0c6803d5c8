"""Gradients against a loop that runs one row at a time through the whole model, with no code of ours."""

import copy
import math

import numpy as np
import pytest
import torch

from agentrl.learning.importance import IMPORTANCES, with_importance
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.base import OBJECTIVES, Objective, Total, weighted
from agentrl.learning.objectives.ppo_clip import PPOClip
from agentrl.learning.objectives.regularizers import EntropyBonus, ReferenceKL
from agentrl.learning.objectives.supervised import Supervised
from agentrl.learning.objectives.value import Value
from agentrl.learning.optimizers import Schedule
from agentrl.learning.rows import Row, with_coefficients
from agentrl.learning.update_mode import is_checkpointing

STILL = {"lr": 0.0, "max_grad_norm": 0.0}  # an update that only leaves its gradient behind
CLIP = PPOClip()


async def gradients(model, rows, objective=CLIP, **settings):
    """The gradient that one update accumulates, by parameter name."""
    learner = Learner(model, LearnerSettings(**STILL, **settings), objective)
    await learner.update(rows, objective)
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def row_of(ids, mask):
    """A row of advantage 1, sampled with probability 1."""
    return Row.of(ids, mask, advantages=1.0, old_logprobs=0.0)


def without_advantage(row):
    return row.with_columns(advantages=np.zeros(len(row), np.float32))


def plain_logprobs(model, row, temperature=1.0):
    logits = model(input_ids=torch.from_numpy(row.ids)[None]).logits[0, :-1] / temperature
    return torch.log_softmax(logits, -1)


def plain_gradients(model, rows, *, low=0.2, high=0.28, temperature=1.0, entropy_coef=0.0, kl_coef=0.0, reference=None):
    model.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        every = plain_logprobs(model, row, temperature)
        for t in np.flatnonzero(row.mask):
            logprob, advantage = every[t - 1, row.ids[t]], float(row.column("advantages")[t])
            ratio = torch.exp(logprob - float(row.column("old_logprobs")[t]))
            clipped = min(max(ratio.item(), 1 - low), 1 + high)
            surrogate = ratio * advantage if ratio.item() * advantage <= clipped * advantage else clipped * advantage
            loss = -surrogate + entropy_coef * (every[t - 1].exp() * every[t - 1]).sum()
            if kl_coef:
                with torch.no_grad():
                    other = plain_logprobs(reference, row, temperature)[t - 1, row.ids[t]]
                loss = loss + kl_coef * (torch.exp(other - logprob) - 1 - (other - logprob))
            total = total + float(row.column("coefficients")[t]) * loss
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def largest_difference(left, right):
    """Largest difference of any gradient entry, over the largest entry of all."""
    scale = max(float(g.abs().max()) for g in right.values())
    return max(float((left[name] - right[name]).abs().max()) for name in right) / scale


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
@pytest.mark.parametrize("layout", ["tree", "pad", "pack"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
async def test_the_gradient_is_that_of_one_row_at_a_time(make_model, make_rows, kind, layout, attention):
    model, rows = make_model(kind), make_rows()
    expected = plain_gradients(model, rows)
    for tokens in (1, 30, 10_000):
        actual = await gradients(model, rows, layout=layout, attention=attention, micro_batch_tokens=tokens)
        # transformers' eager attention takes its softmax in float32 even for a float64 model.
        assert largest_difference(actual, expected) < (1e-6 if attention == "sdpa" else 1e-5)


async def test_entropy_kl_and_temperature_in_the_gradient(make_model, make_rows):
    model, rows = make_model(), make_rows()
    objective = weighted([(1.0, CLIP), (0.05, EntropyBonus()), (0.3, ReferenceKL())])
    learner = Learner(model, LearnerSettings(**STILL), objective, temperature=0.7)
    reference = copy.deepcopy(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(1)))
    expected = plain_gradients(model, rows, temperature=0.7, entropy_coef=0.05, kl_coef=0.3, reference=reference)
    rows = await learner.fill(rows, "reference_logprobs")
    metrics = await learner.update(rows, objective)
    actual = {name: p.grad for name, p in model.named_parameters()}
    assert largest_difference(actual, expected) < 1e-6
    assert metrics["loss/kl"] > 0


@pytest.mark.parametrize("name", ["ppo_clip", "gspo", "cispo", "policy_gradient"])
@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
async def test_no_gradient_depends_on_micro_batches_or_layout(make_model, make_rows, name, aggregation):
    model, rows = make_model(), make_rows(aggregation=aggregation)
    loss = OBJECTIVES.find(name)()
    whole = await gradients(model, rows, loss, micro_batch_tokens=10_000)
    for layout in ("tree", "pad", "pack"):
        for tokens in (1, 45, 90):
            other = await gradients(model, rows, loss, layout=layout, micro_batch_tokens=tokens)
            assert largest_difference(other, whole) < 1e-6


async def test_no_gradient_depends_on_the_number_of_ranks(make_model, make_rows):
    model, rows = make_model(), make_rows()
    whole = await gradients(model, rows)
    for ranks in (2, 3):
        parts = [await gradients(model, rows[rank::ranks]) for rank in range(ranks)]
        total = {name: sum(part[name] for part in parts) for name in whole}
        assert largest_difference(total, whole) < 1e-6


async def test_forking_a_trajectory_does_not_change_the_weight_of_its_tokens(make_model):
    """One trajectory in one row, or its first turn as a row of its own: the same loss."""
    model, ids = make_model(), np.arange(1, 9)
    first, second = ids < 4, ids >= 6
    first[0] = False
    whole = row_of(ids, first | second)
    forks = [row_of(ids[:3], first[:3]), row_of(ids, second)]
    expected = await gradients(model, with_coefficients([whole], "sequence"))
    assert largest_difference(await gradients(model, with_coefficients(forks, "sequence")), expected) < 1e-6


async def test_float32_gradients_hardly_depend_on_the_layout(make_model, make_rows):
    model, rows = make_model(dtype=torch.float32), make_rows()
    whole = await gradients(model, rows)
    for layout in ("tree", "pad", "pack"):
        assert largest_difference(await gradients(model, rows, layout=layout, micro_batch_tokens=45), whole) < 1e-5


async def test_supervised_gradient_is_cross_entropy(make_model, make_rows):
    model, rows = make_model("llama"), make_rows()
    actual = await gradients(model, rows, Supervised())
    model.zero_grad()
    loss = sum(
        -float(row.column("coefficients")[t]) * plain_logprobs(model, row)[t - 1, row.ids[t]]
        for row in rows
        for t in np.flatnonzero(row.mask)
    )
    loss.backward()
    assert largest_difference(actual, {name: p.grad for name, p in model.named_parameters()}) < 1e-6


async def test_context_after_and_ids_without_mask_never_reach_the_gradient(make_model):
    model = make_model()
    row = row_of([5, 6, 7, 8, 9], [False, True, True, False, False])
    longer = row_of([5, 6, 7, 50, 51], [False, True, True, False, False])
    assert largest_difference(await gradients(model, [longer]), await gradients(model, [row])) == 0


def on_policy(model, rows):
    """The rows with the model's own logprobs as old ones."""
    made = []
    for row in rows:
        old = np.zeros(len(row), np.float32)
        with torch.no_grad():
            every = plain_logprobs(model, row)
        for t in np.flatnonzero(row.mask):
            old[t] = float(every[t - 1, row.ids[t]])
        made.append(row.with_columns(old_logprobs=old))
    return made


async def test_metrics_by_hand(make_model, make_rows):
    model = make_model()
    rows = on_policy(model, make_rows())
    metrics = await Learner(model, LearnerSettings(**STILL), CLIP).update(rows, CLIP)
    expected_loss = -sum(float((row.column("coefficients") * row.column("advantages")).sum()) for row in rows)
    assert metrics["loss/policy"] == pytest.approx(expected_loss, abs=1e-5)
    assert metrics["policy/ratio_mean"] == pytest.approx(1, abs=1e-6)
    assert metrics["policy/approx_kl"] == pytest.approx(0, abs=1e-10)
    assert metrics["policy/clip_fraction"] == 0
    assert metrics["train/tokens"] == sum(row.mask.sum() for row in rows)
    assert metrics["train/context_tokens"] == sum(len(row) for row in rows)
    entropies = [
        -(lp.exp() * lp).sum().item()
        for row in rows
        for lp in plain_logprobs(model, row)[np.flatnonzero(row.mask) - 1].detach()
    ]
    assert metrics["policy/entropy"] == pytest.approx(np.mean(entropies), rel=1e-6)
    grads = {name: p.grad for name, p in model.named_parameters()}
    norm = sum(float((g**2).sum()) for g in grads.values()) ** 0.5
    assert metrics["grad/norm"] == pytest.approx(norm)


async def test_clip_fraction_counts_tokens_whose_gradient_the_clip_took(make_model):
    model = make_model()
    (row,) = on_policy(model, [row_of([1, 2, 3, 4, 5], [False, True, True, True, True])])
    shift = np.array([0, -0.5, -0.5, 0.5, 0.5], np.float32)  # ratios e^.5, e^.5, e^-.5, e^-.5
    old, advantages = row.column("old_logprobs") + shift, np.array([0, 1, -1, 1, -1], np.float32)
    row = row.with_columns(old_logprobs=old, advantages=advantages)
    metrics = await Learner(model, LearnerSettings(**STILL), CLIP).update([row], CLIP)
    assert metrics["policy/clip_fraction"] == 0.5
    ratios = np.exp(-shift[1:].astype(np.float64))
    assert metrics["policy/approx_kl"] == pytest.approx(np.mean(ratios - 1 - np.log(ratios)), rel=1e-5)


async def test_rows_of_zero_advantage_change_nothing(make_model, make_rows):
    model, rows = make_model(), make_rows()
    idle = [without_advantage(rows[2])]
    expected = await gradients(model, rows)
    assert largest_difference(await gradients(model, rows + idle), expected) < 1e-12
    objective = weighted([(1.0, CLIP), (0.1, EntropyBonus())])
    with_entropy = await gradients(model, rows, objective)
    assert largest_difference(await gradients(model, rows + idle, objective), with_entropy) > 1e-3


async def test_a_step_without_any_gradient_leaves_the_model_alone(make_model, make_rows):
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    rows = [without_advantage(row) for row in make_rows()]
    metrics = await Learner(model, LearnerSettings(weight_decay=0.1), CLIP).update(rows, CLIP)
    assert metrics["grad/skipped"] == 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


async def test_a_non_finite_gradient_is_left_out_and_said(make_model, make_rows, caplog):
    model, rows = make_model(), make_rows()
    before = copy.deepcopy(model.state_dict())
    rows[0] = rows[0].with_columns(coefficients=np.where(rows[0].mask, np.inf, 0).astype(np.float32))
    assert (await Learner(model, LearnerSettings(), CLIP).update(rows, CLIP))["grad/skipped"] == 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert "not finite" in caplog.text


async def test_the_gradient_is_clipped_to_its_norm(make_model, make_rows):
    model, rows = make_model(), make_rows()
    learner = Learner(model, LearnerSettings(lr=0.0, max_grad_norm=0.01), CLIP)
    norm = (await learner.update(rows, CLIP))["grad/norm"]
    after = sum(float((p.grad**2).sum()) for p in model.parameters()) ** 0.5
    assert norm > 0.01
    assert after == pytest.approx(0.01, rel=1e-3)


async def test_minibatches_visit_every_trajectory_once_per_epoch(make_model, make_rows, monkeypatch):
    model, rows = make_model(), make_rows()
    learner = Learner(model, LearnerSettings(num_epochs=2, num_minibatches=3, lr=1e-4), CLIP)
    seen = []
    monkeypatch.setattr(learner, "_update", lambda part, scale, objective, sums: seen.append((part, scale)) or {})
    monkeypatch.setattr(learner, "_metrics", lambda *args: {})
    await learner.update(rows, CLIP)
    assert len(seen) == 6
    for epoch in (seen[:3], seen[3:]):
        assert sorted(row.trajectory for part, _ in epoch for row in part) == list(range(len(rows)))
    for part, scale in seen:
        assert scale * sum(row.column("coefficients").sum() for row in part) == pytest.approx(1.0, rel=1e-5)
    assert [r.trajectory for p, _ in seen[:3] for r in p] != [r.trajectory for p, _ in seen[3:] for r in p]


async def test_recomputed_logprobs_and_importance_weights(make_model, make_rows, monkeypatch):
    """The ratio is 1 on recomputation; the sampler's difference becomes a weight on the advantage."""
    model = make_model()
    rows = on_policy(model, make_rows())
    shift = np.log([1.0, 1.5, 4.0, 0.25, 1.1, 0.9, 10.0])
    noisy = [
        r.with_columns(sampled_logprobs=np.where(r.mask, r.column("old_logprobs") - s, 0).astype(np.float32))
        for r, s in zip(rows, shift, strict=True)
    ]
    for importance, weights in (
        ("none", [1.0] * 7),
        ("tis", [1.0, 1.5, 2.0, 0.25, 1.1, 0.9, 2.0]),
        ("icepop", [1.0, 1.5, 4.0, 0.0, 1.1, 0.9, 0.0]),
    ):
        by_hand = [
            r.with_columns(advantages=r.column("advantages") * np.float32(w))
            for r, w in zip(rows, weights, strict=True)
        ]
        expected = await gradients(model, by_hand)
        for layout in ("tree", "pad", "pack"):
            learner = Learner(model, LearnerSettings(layout=layout, micro_batch_tokens=45), CLIP)
            filled = with_importance(await learner.fill(noisy, "old_logprobs"), IMPORTANCES.find(importance)())
            actual = await gradients(model, filled, layout=layout, micro_batch_tokens=45)
            assert largest_difference(actual, expected) < 1e-5


async def test_supervision_learns_and_reward_overturns_it(make_model):
    """Warm-started on one answer, rewarded for another: the loop in small."""
    model = make_model(dtype=torch.float32)
    rows = with_coefficients([Row.of([1, 2, answer], [False, False, True]) for answer in (3, 3, 3, 4)], "token")
    teacher = Learner(model, LearnerSettings(lr=0.02, optimizer="muon"), Supervised())
    for _ in range(30):
        metrics = await teacher.update(rows, Supervised())
    by_hand = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert metrics["supervised/nll"] == pytest.approx(by_hand, abs=0.02)
    settings = LearnerSettings(lr=6e-3, schedule=Schedule("linear", final=0.1))
    learner = Learner(model, settings, CLIP, total_steps=30)
    for _ in range(30):
        mask = [False, False, True]
        choices = [Row.of([1, 2, 3], mask, advantages=-1.0), Row.of([1, 2, 4], mask, advantages=1.0)]
        await learner.update(with_coefficients(on_policy(model, choices), "token"), CLIP)
    probability = plain_logprobs(model, choices[0])[1].exp()
    assert probability[4] > 0.95
    assert learner.optimizers[0].param_groups[0]["lr"] == pytest.approx(6e-3 * (0.1 + 0.9 / 30))


async def test_the_update_restores_what_it_changes(make_model, make_rows):
    model = make_model(dtype=torch.float32).train()
    model.set_attn_implementation("sdpa")
    precision = torch.get_float32_matmul_precision()
    settings = LearnerSettings(attention="eager", matmul_precision="medium")
    await Learner(model, settings, CLIP).update(make_rows(), CLIP)
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    assert torch.get_float32_matmul_precision() == precision
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


async def test_gradient_checkpointing_gives_the_same_gradient(make_model, make_rows):
    model, rows = make_model(), make_rows()
    expected = await gradients(model, rows)
    model.train()  # checkpointing is on in training mode alone
    model.activation_checkpointing_enable()
    assert is_checkpointing(model)
    assert largest_difference(await gradients(model, rows), expected) < 1e-6


@pytest.mark.parametrize("objective", [CLIP, Supervised()])
async def test_rows_without_a_sampled_token_are_refused(make_model, objective):
    learner = Learner(make_model(), LearnerSettings(), objective)
    for rows in ([], [Row.of([1, 2], [False, False])]):
        with pytest.raises(ValueError, match="nothing to train on"):
            await learner.update(rows, objective)


async def test_rows_without_a_column_are_refused(make_model):
    learner = Learner(make_model(), LearnerSettings(), CLIP)
    with pytest.raises(ValueError, match="PPOClip reads the columns advantages, old_logprobs, which some rows lack"):
        await learner.update([Row.of([1, 2], [False, True])], CLIP)


async def test_what_no_model_fills_is_refused(make_model, make_rows):
    learner = Learner(make_model(), LearnerSettings(), CLIP)
    with pytest.raises(ValueError, match="no reference model was kept"):
        await learner.fill(make_rows(), "reference_logprobs")
    with pytest.raises(ValueError, match="no model fills the column 'advantages'"):
        await learner.fill(make_rows(), "advantages")
    with pytest.raises(ValueError, match="no value head"):
        await learner.fill(make_rows(), "values")


async def test_a_value_head_learns_returns_beside_the_policy(make_model, make_rows):
    """PPO's two terms over one forward pass: the value error falls, and the head has a gradient of its own."""
    model = make_model(dtype=torch.float32)
    objective = Total(((1.0, CLIP), (0.5, Value())))
    learner = Learner(model, LearnerSettings(lr=3e-3), objective)
    rows = [
        row.with_columns(returns=np.where(row.mask, 0.7, 0).astype(np.float32)) for row in on_policy(model, make_rows())
    ]
    errors = []
    for _ in range(40):
        rows = await learner.fill(rows, "values")
        errors.append((await learner.update(rows, objective))["value/error"])
    assert errors[0] == pytest.approx(0.7, abs=1e-6)  # a head begins at 0
    assert errors[-1] < 0.1


async def test_values_are_the_heads_answer_before_each_token(make_model, make_rows):
    model, rows = make_model(), make_rows()
    learner = Learner(model, LearnerSettings(), Value())
    with torch.no_grad():
        learner.models.value_head.weight.copy_(torch.linspace(-1, 1, 32)[None])
        learner.models.value_head.bias.fill_(0.25)
    for row in await learner.fill(rows, "values"):
        hidden = model.base_model(input_ids=torch.from_numpy(row.ids)[None]).last_hidden_state[0].float()
        expected = learner.models.value_head(hidden)[:, 0]
        places = np.flatnonzero(row.mask)
        assert row.column("values")[places] == pytest.approx(expected[places - 1].detach().numpy(), abs=1e-5)
        assert not row.column("values")[~row.mask].any()


class Telling(Objective):
    """Reports as an objective of a third party may: per token, and per count of its own."""

    def __call__(self, batch, scores):
        loss = -scores.logprobs.sum()
        ones = torch.ones(())
        return loss, {"mine/tokens": ones * len(batch), "other/things": ones * 6, "other/count": ones * 3}


async def test_metrics_of_an_objective_from_outside(make_model, make_rows):
    metrics = await Learner(make_model(), LearnerSettings(**STILL), Telling()).update(make_rows()[:1], Telling())
    assert (metrics["mine/tokens"], metrics["other/things"]) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_epochs": 0}, "LearnerSettings.num_epochs = 0: expected at least 1"),
        ({"lr": -1.0}, "lr = -1.0: expected at least 0"),
        ({"layout": "stack"}, "'tree', 'pad' or 'pack'"),
        ({"lr": math.nan}, "lr = nan: expected a finite number"),
        ({"lr": "1e-4"}, "lr = '1e-4': expected a valid number"),
        ({"betas": (1.5, 0.9)}, r"betas = \(1.5, 0.9\): expected less than 1"),
        ({"optimizer": "adam"}, "'adamw' or 'muon'"),
        ({"measure_share": -1.0}, "measure_share = -1.0: expected at least 0"),
        ({"num_epochs": 1.5}, "num_epochs = 1.5: expected a valid integer"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LearnerSettings(**settings)


def test_a_temperature_of_0_is_refused(make_model):
    with pytest.raises(ValueError, match="above 0 to train"):
        Learner(make_model(), LearnerSettings(), CLIP, temperature=0.0)

"""How far the policy moved is measured after the update; a trainer that disagrees with the sampler is refused."""

import copy

import numpy as np
import pytest
import torch

from agentrl.errors import ModelError
from agentrl.learning import drift
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.ppo_clip import PPOClip
from agentrl.learning.objectives.supervised import Supervised

CLIP = PPOClip()


def logprobs(model, row):
    """(T,) of each trained token, 0 elsewhere, with no code of ours."""
    with torch.no_grad():
        logs = torch.log_softmax(model(input_ids=torch.from_numpy(row.ids)[None]).logits[0], -1).numpy()
    places = np.flatnonzero(row.mask)
    found = np.zeros(len(row), np.float64)
    found[places] = logs[places - 1, row.ids[places]]
    return found


def sampled_by(model, rows, shift=0.0):
    found = [(row, (logprobs(model, row) - shift * row.mask).astype(np.float32)) for row in rows]
    return [row.with_columns(old_logprobs=old, sampled_logprobs=old) for row, old in found]


async def test_drift_is_that_of_the_updated_weights(make_model, make_rows):
    model = make_model()
    rows = sampled_by(model, make_rows())
    settings = LearnerSettings(lr=0.03, measure_share=1.0)
    metrics = await Learner(model, settings, CLIP).update(rows, CLIP)
    log_ratios = np.concatenate([(logprobs(model, r) - r.column("old_logprobs"))[r.mask] for r in rows])
    advantages = np.concatenate([r.column("advantages")[r.mask] for r in rows])
    ratios = np.exp(log_ratios)
    clipped = ((ratios > 1.28) & (advantages > 0)) | ((ratios < 0.8) & (advantages < 0))
    assert metrics["policy/approx_kl"] == pytest.approx(np.mean(ratios - 1 - log_ratios), rel=1e-4)
    assert metrics["policy/ratio_mean"] == pytest.approx(np.mean(ratios), rel=1e-4)
    assert metrics["policy/clip_fraction"] == pytest.approx(np.mean(clipped))
    assert metrics["policy/ratio_tail"] == pytest.approx(np.mean(np.abs(log_ratios) > np.log(2)))
    assert 0 < metrics["policy/clip_fraction"] < 1
    assert 0 < metrics["policy/ratio_tail"] < 1
    # During the only update the policy was still the one that sampled.
    assert (metrics["update/approx_kl"], metrics["update/clip_fraction"]) == (pytest.approx(0, abs=1e-9), 0)


async def test_measuring_changes_no_weight(make_model, make_rows):
    results = []
    for share in (0.0, 0.25, 1.0):
        model = make_model()
        learner = Learner(model, LearnerSettings(lr=0.01, num_minibatches=2, measure_share=share), CLIP)
        rows = sampled_by(model, make_rows())
        metrics = [await learner.update(rows, CLIP) for _ in range(2)][-1]
        assert ("policy/approx_kl" in metrics) == (share > 0)
        results.append(copy.deepcopy(model.state_dict()))
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in other)


def test_a_quarter_of_the_rows_is_measured(make_rows):
    rows = make_rows(lengths=tuple([9] * 40))
    assert [row.trajectory for row in drift.sample(rows, 0.25, "row")] == list(range(0, 40, 4))
    assert [row.trajectory for row in drift.sample(rows[:3], 0.25, "row")] == [0]


async def test_the_mismatch_with_the_sampler_is_reported(make_model, make_rows):
    model = make_model()
    rows = sampled_by(model, make_rows(), shift=0.2)
    rows[0] = sampled_by(model, rows[:1], shift=0.9)[0]
    metrics = await Learner(model, LearnerSettings(lr=0.01, num_epochs=2), CLIP).update(rows, CLIP)
    sizes = [int(row.mask.sum()) for row in rows]
    assert metrics["mismatch/nats"] == pytest.approx((0.9 * sizes[0] + 0.2 * sum(sizes[1:])) / sum(sizes), rel=1e-4)
    assert metrics["mismatch/tail"] == pytest.approx(sizes[0] / sum(sizes))


async def test_tokens_without_a_logprob_of_their_sampler_are_left_out_of_the_mismatch(make_model, make_rows):
    model = make_model()
    rows = sampled_by(model, make_rows(), shift=0.2)
    unknown = np.where(rows[0].mask, np.nan, 0.0).astype(np.float32)
    rows[0] = rows[0].with_columns(sampled_logprobs=unknown)
    metrics = await Learner(model, LearnerSettings(lr=0.01), CLIP).update(rows, CLIP)
    assert metrics["mismatch/nats"] == pytest.approx(0.2, rel=1e-4)
    rows = [row.with_columns(sampled_logprobs=np.full(len(row), np.nan, np.float32)) for row in rows]
    metrics = await Learner(model, LearnerSettings(lr=0.01), CLIP).update(rows, CLIP)
    assert not [name for name in metrics if name.startswith(("mismatch/", "ratio/"))]


async def test_a_first_update_with_other_probabilities_than_the_samplers_is_refused(make_model, make_rows):
    model = make_model()
    before = copy.deepcopy(model.state_dict())
    learner = Learner(model, LearnerSettings(max_mismatch=0.1), CLIP)
    with pytest.raises(ModelError, match=r"0.2 nats a token on average, and learner.max_mismatch is 0.1.*layout"):
        await learner.update(sampled_by(model, make_rows(), shift=0.2), CLIP)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    await learner.update(sampled_by(model, make_rows(), shift=0.05), CLIP)
    await learner.update(sampled_by(model, make_rows(), shift=0.2), CLIP)  # later the policy may have moved


async def test_supervision_has_no_drift(make_model, make_rows):
    metrics = await Learner(make_model(), LearnerSettings(max_mismatch=0.1), Supervised()).update(
        make_rows(), Supervised()
    )
    assert not [name for name in metrics if name.startswith(("policy/", "update/", "mismatch/", "ratio/"))]


@pytest.mark.parametrize("size", [1e30, 1e37])
async def test_advantages_of_any_size_train(make_model, make_rows, size):
    """Squares of such gradients overflow float32; the clipped update has the direction of the ordinary one."""
    steps = []
    for factor in (1.0, size):
        model = make_model(dtype=torch.float32)
        start = copy.deepcopy(model.state_dict())
        rows = [r.with_columns(advantages=r.column("advantages") * np.float32(factor)) for r in make_rows()]
        learner = Learner(model, LearnerSettings(lr=1e-3, max_grad_norm=0.5), CLIP)
        metrics = await learner.update(sampled_by(model, rows), CLIP)
        assert metrics["grad/skipped"] == 0
        assert np.isfinite(metrics["grad/norm"])
        steps.append(torch.cat([(p - start[name]).flatten() for name, p in model.named_parameters()]))
    assert torch.nn.functional.cosine_similarity(*steps, dim=0) > 0.99


async def test_a_gradient_whose_square_is_no_number_is_left_out_without_clipping(make_model, make_rows, caplog):
    model = make_model(dtype=torch.float32)
    before = copy.deepcopy(model.state_dict())
    rows = [r.with_columns(advantages=r.column("advantages") * np.float32(1e30)) for r in make_rows()]
    metrics = await Learner(model, LearnerSettings(max_grad_norm=0.0), CLIP).update(sampled_by(model, rows), CLIP)
    assert metrics["grad/skipped"] == 1
    assert "too large" in caplog.text
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

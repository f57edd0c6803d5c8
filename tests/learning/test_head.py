"""Scores in chunks: the values and gradients of the whole logits, in a bounded amount of memory."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Gemma2Config, Gemma2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from agentrl.learning.head import Head, token_scores
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.base import weighted
from agentrl.learning.objectives.ppo_clip import PPOClip
from agentrl.learning.objectives.regularizers import EntropyBonus
from tests.learning.fixtures import SHAPE

N, H, V = 23, 8, 37


class Largest(TorchDispatchMode):
    """Notes the most numbers of any tensor that is made."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self.numbers = max(self.numbers, leaf.numel())
        return made


def inputs(dtype=torch.float64):
    torch.manual_seed(0)
    states = torch.randn(N, H, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, H, dtype=dtype, requires_grad=True)
    bias = torch.randn(V, dtype=dtype, requires_grad=True)
    return states, weight, bias, torch.randint(0, V, (N,))


def plain(states, weight, bias, targets, scale, cap, temperature):
    logits = scale * (states @ weight.T + bias)
    logits = (logits if cap is None else cap * torch.tanh(logits / cap)) / temperature
    logs = torch.log_softmax(logits, -1)
    return logs.gather(-1, targets[:, None])[:, 0], -(logs.exp() * logs).sum(-1), logits.argmax(-1) == targets


@pytest.mark.parametrize("chunk", [1, 5, N, 1000])
@pytest.mark.parametrize(("scale", "cap", "temperature"), [(1.0, None, 1.0), (0.3, None, 0.7), (2.0, 3.0, 1.3)])
def test_values_and_gradients_are_those_of_whole_logits(chunk, scale, cap, temperature):
    states, weight, bias, targets = inputs()
    found = token_scores(Head(weight, bias, scale, cap, temperature), states, targets, chunk)
    expected = plain(states, weight, bias, targets, scale, cap, temperature)
    assert torch.equal(found.is_top, expected[2])
    a, b = torch.linspace(-1, 2, N, dtype=torch.float64), torch.linspace(1, -3, N, dtype=torch.float64)
    for weights in ((a, b), (a, None), (None, b)):
        losses = [
            sum((w * value).sum() for w, value in zip(weights, values[:2], strict=True) if w is not None)
            for values in (found, expected)
        ]
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-12)
        gradients = [torch.autograd.grad(loss, (states, weight, bias), retain_graph=True) for loss in losses]
        for actual, reference in zip(*gradients, strict=True):
            assert (actual - reference).abs().max() < 1e-10


def test_one_chunk_has_the_gradient_of_many():
    results = []
    for chunk in (4, 1000):
        states, weight, bias, targets = inputs()
        found = token_scores(Head(weight, bias, cap=5.0), states, targets, chunk)
        (found.logprobs.sum() + 0.1 * found.entropy.sum()).backward()
        results.append([states.grad, weight.grad, bias.grad])
    assert all((left - right).abs().max() < 1e-12 for left, right in zip(*results, strict=True))


def test_the_gradient_check_of_torch():
    states, weight, bias, targets = inputs()
    few = states[:4].detach().requires_grad_()

    def scores(*args):
        head = Head(args[1], args[2], 0.5, 4.0, 0.8)
        return token_scores(head, args[0], targets[:4], 3)[:2]

    assert torch.autograd.gradcheck(scores, (few, weight, bias))


def test_a_frozen_head_and_a_token_that_is_ruled_out():
    states, weight, bias, targets = inputs()
    ruled_out = bias.detach().clone()
    ruled_out[3] = -math.inf
    found = token_scores(Head(weight.detach(), ruled_out), states, torch.where(targets == 3, 4, targets), 5)
    (found.logprobs.sum() + found.entropy.sum()).backward()
    assert found.entropy.isfinite().all()
    assert states.grad.isfinite().all()
    assert weight.grad is None


def test_no_token_at_all():
    states, weight, bias, targets = inputs()
    found = token_scores(Head(weight, bias), states[:0], targets[:0], 5)
    assert found.logprobs.shape == (0,)


def test_chunks_of_bfloat16_add_up_in_float32():
    """A thousand chunks that each add 1: in bfloat16 the sum would stay at 256."""
    states = torch.ones(1000, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    token_scores(Head(weight), states, torch.zeros(1000, dtype=torch.long), 1).logprobs.sum().backward()
    assert weight.grad[:, 0].tolist() == [500.0, -500.0]


@pytest.mark.parametrize("layout", ["pad", "pack"])
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
async def test_an_update_in_chunks_has_the_same_gradient(make_model, make_rows, kind, layout):
    """With the head tied to the embeddings and untied, at a temperature, with an entropy bonus."""
    objective = weighted([(1.0, PPOClip()), (0.05, EntropyBonus())])
    found = []
    for chunk in (3, None):
        model = make_model(kind)
        settings = LearnerSettings(lr=0.0, max_grad_norm=0.0, layout=layout, micro_batch_tokens=60, logit_chunk=chunk)
        await Learner(model, settings, objective, temperature=0.7).update(make_rows(), objective)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert (found[0] - found[1]).abs().max() < 1e-6 * found[1].abs().max()


async def test_no_tensor_of_an_update_holds_all_logits(make_rows):
    """Nothing is larger than a chunk or than the head's own weights; ten times as much would be all logits."""
    vocab, chunk = 4096, 4
    model = Qwen3ForCausalLM(Qwen3Config(**{**SHAPE, "vocab_size": vocab, "hidden_size": 8}))
    learner = Learner(model, LearnerSettings(logit_chunk=chunk), PPOClip())
    rows = make_rows(lengths=(240, 180))
    trained = sum(int(row.mask.sum()) for row in rows)
    assert trained * vocab > 10 * vocab * 8
    with Largest() as largest:
        await learner.update(rows, PPOClip())
    assert largest.numbers <= vocab * 8


async def test_a_soft_cap_of_the_configuration_is_found(make_rows):
    config = Gemma2Config(**{**SHAPE, "final_logit_softcapping": 3.0, "attn_logit_softcapping": None})
    model = Gemma2ForCausalLM(config).double().eval()
    learner = Learner(model, LearnerSettings(logit_chunk=4), PPOClip())
    assert learner.models.scorer._head.cap == 3.0
    (row,) = make_rows(lengths=(31,))
    (filled,) = await learner.fill([row], "old_logprobs")
    logs = torch.log_softmax(model(input_ids=torch.from_numpy(row.ids)[None]).logits[0], -1)
    for place in row.mask.nonzero()[0]:
        expected = logs[place - 1, row.ids[place]].item()
        assert filled.column("old_logprobs")[place] == pytest.approx(expected, abs=1e-5)

"""RMS norms in one function: the numbers and gradients of the module's own, and only where it is such a norm."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Qwen3Config, Qwen3ForCausalLM
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from agentrl.learning.kernels.norms import fast_norms, in_one_function
from agentrl.learning.update_mode import update_mode
from tests.learning.fixtures import SHAPE

IDS = torch.arange(24).view(2, 12) % 64


def qwen() -> nn.Module:
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**SHAPE)).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_gradients_against_float64() -> None:
    norm = LlamaRMSNorm(16, eps=1e-5)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    exact = copy.deepcopy(norm).double()
    x = (torch.randn(3, 5, 4, 16) * torch.tensor([1e-3, 1.0, 50.0]).view(3, 1, 1, 1)).transpose(1, 2).requires_grad_()
    y = x.detach().double().requires_grad_()
    weights = torch.randn(3, 4, 5, 16)
    with in_one_function(fast_norms(norm)):
        found = norm(x)
    found.backward(weights)
    # `transformers` computes in float32 whatever the input is, so the reference is written out.
    expected = exact.weight * y * (y.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    expected.backward(weights.double())
    for one, other in ((found, expected), (x.grad, y.grad), (norm.weight.grad, exact.weight.grad)):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


def test_a_model_has_the_same_gradients() -> None:
    model = qwen()
    norms = fast_norms(model)
    assert len(norms) == sum(type(module).__name__ == "Qwen3RMSNorm" for module in model.modules()) > 0
    own = gradients(model)
    with update_mode(
        model, attention=None, matmul_precision="highest", dropout=False, gradient_checkpointing=False, norms=norms
    ):
        assert all("forward" in vars(module) for module in norms)
        found = gradients(model)
    assert not any("forward" in vars(module) for module in norms)
    assert own.keys() == found.keys()
    for name in own:
        torch.testing.assert_close(found[name], own[name], rtol=1e-5, atol=1e-6)


def test_frozen_weights_get_no_gradient() -> None:
    norm = LlamaRMSNorm(8)
    norm.weight.requires_grad_(False)
    x = torch.randn(2, 8, requires_grad=True)
    with in_one_function(fast_norms(norm)):
        norm(x).sum().backward()
    assert norm.weight.grad is None
    assert x.grad is not None


@pytest.mark.parametrize("norm", [Gemma3RMSNorm(8), LlamaRMSNorm(8).bfloat16(), nn.LayerNorm(8), nn.Linear(8, 8)])
def test_other_modules_stay_as_they_are(norm: nn.Module) -> None:
    assert fast_norms(norm) == []


def test_a_model_that_adds_one_to_the_weight_keeps_its_own_norms() -> None:
    config = Gemma3TextConfig(**{**SHAPE, "head_dim": 16, "sliding_window": 32})
    assert fast_norms(Gemma3ForCausalLM(config)) == []


def test_low_precision_inputs_take_the_module_s_own_way() -> None:
    norm = LlamaRMSNorm(8)
    x = torch.randn(2, 8, dtype=torch.bfloat16)
    with in_one_function(fast_norms(norm)):
        found = norm(x)
    assert found.equal(norm(x))

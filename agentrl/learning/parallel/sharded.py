"""A model spread over the ranks: each holds a part of every weight, of its gradient and of the optimizer's state.

Owns what `torch`'s fully sharded data parallel (FSDP2, `fully_shard`) asks of a forward pass and an update.
Source: Zhao et al. 2023, arXiv:2304.11277.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from agentrl.learning.parallel.ranks import Ranks

_LOW_PRECISION = (torch.bfloat16, torch.float16)
_STATES = "agentrl_last_hidden_state"
_LOW = "agentrl_low_precision"


def shard(model: nn.Module, ranks: Ranks) -> None:
    """Spread the weights of a model over the ranks, in place; every rank has the same model before.

    Each layer is gathered when it computes and is spread again after it. The embeddings, the head and what else stands
    outside of the layers stay gathered from the forward to the backward pass, because the head is used outside of the
    model's own forward. Weights of low precision are kept in float32 and gathered in their own type; gradients are
    added up in float32 at least.

    Args:
        model: a `transformers` causal LM whose body has `layers`.
        ranks: a process group of `torch.distributed`.
    Raises: ValueError for one process alone, or a model without a list of layers.
    """
    if ranks.size < 2:
        raise ValueError(
            "a model is spread over two processes at least: start them with torchrun, and give their ranks"
        )
    layers = layers_of(model)
    if not isinstance(layers, nn.ModuleList):
        raise ValueError(
            f"{type(model).__name__} has no list of layers, so it cannot be spread over ranks: use shard=False"
        )
    first = next(model.parameters())
    policy = MixedPrecisionPolicy()
    setattr(model, _LOW, first.dtype in _LOW_PRECISION)
    if is_low_precision(model):
        policy = MixedPrecisionPolicy(param_dtype=first.dtype, reduce_dtype=torch.float32)
        model.float()
    group = ranks.group or dist.distributed_c10d._get_default_group()
    mesh = DeviceMesh.from_group(group, first.device.type)
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # the sum over ranks, as coefficients are those of the whole step
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    setattr(model, _STATES, MethodType(_last_hidden_state, model))
    register_fsdp_forward_method(model, _STATES)


def check_parts_suffice(name: str) -> None:
    """Refuse an optimiser that cannot update a part of a matrix by that part's gradient alone. Raises: ValueError."""
    if name != "adamw":
        raise ValueError(
            f"optimizer {name!r} mixes the rows of a matrix, and a model that is spread over ranks has them in "
            "different places: use adamw, or shard=False"
        )


def body_of(model: Any) -> Any:
    """The part of a causal LM that has its layers and gives its hidden states; the model itself where none is found.

    It is `base_model`, but for classes that name another part than they have (Llama 4).
    """
    body = getattr(model, "base_model", model)
    return body if body is not model else getattr(model, "model", model)


def layers_of(model: Any) -> nn.ModuleList | None:
    """The layers of a causal LM that read text, the first one first; None where they are not found."""
    decoder = model.get_decoder()
    body = body_of(model) if decoder is model else decoder
    count = model.config.get_text_config().num_hidden_layers
    lists = [part for part in body.children() if isinstance(part, nn.ModuleList) and len(part) == count]
    return lists[0] if len(lists) == 1 else getattr(body, "layers", None)


def _last_hidden_state(self: Any, **inputs: Any) -> Tensor:
    states: Tensor = body_of(self)(**inputs).last_hidden_state
    return states


def last_hidden_state(model: Any, **inputs: Any) -> Tensor:
    """(B, T, H) what the layers of a causal LM make of its inputs; the model may be spread over ranks."""
    states: Tensor = getattr(model, _STATES)(**inputs) if is_sharded(model) else _last_hidden_state(model, **inputs)
    return states


def is_sharded(model: nn.Module) -> bool:
    """Whether a model is spread over ranks."""
    return isinstance(model, FSDPModule)


def is_low_precision(model: nn.Module) -> bool:
    """Whether a model that is spread over ranks had weights of fewer than 32 bits before."""
    return bool(getattr(model, _LOW))


def spread_again(model: nn.Module) -> None:
    """Let go of weights that are still gathered after a forward pass without a gradient; call before weights change."""
    if isinstance(model, FSDPModule):
        model.reshard()


@torch.no_grad()
def copy_weights(model: nn.Module, into: nn.Module | None) -> None:
    """Copy the weights of a model that is spread over ranks into a whole one. All ranks call it.

    Args: into: a model of the same kind, such as that of this rank's sampler; of any precision. None where a rank has
        none, and only gives its parts.
    Raises: ValueError if the models have other weights.
    """
    spread_again(model)
    if into is None:
        for weight in model.parameters():
            if isinstance(weight, DTensor):
                weight.full_tensor()
        return
    whole, parts = dict(into.named_parameters()), dict(model.named_parameters())
    if whole.keys() != parts.keys():
        raise ValueError("the two models have different weights: load both from the same folder")
    for name, weight in parts.items():
        whole[name].copy_(weight.full_tensor() if isinstance(weight, DTensor) else weight)

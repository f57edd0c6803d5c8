"""The state of a learner as one process would have it, from ranks that share the weights, and back.

A state that is whole can be loaded on any number of ranks, whether or not they share the weights. The parts of a
checkpoint that each rank writes itself are `agentrl.learning.parallel.checkpoint`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from agentrl.learning.parallel.ranks import Ranks
from agentrl.learning.parallel.sharded import is_low_precision, is_sharded, spread_again


class Shared(Protocol):
    """What is read of a `Learner`."""

    model: Any
    ranks: Ranks

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]: ...


@torch.no_grad()
def spread_weights(model: nn.Module, ranks: Ranks) -> None:
    """Replace the weights of a whole model by those of rank 0, in place. All ranks call it."""
    if ranks.size > 1:
        for tensor in chain(model.parameters(), model.buffers()):
            dist.broadcast(tensor.data, src=0, group=ranks.group)


def whole_state(learner: Shared, state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a learner whose ranks share the weights, on the CPU of rank 0. All ranks call it.

    Args: state: of the learner, in parts.
    Returns: as of a learner that is alone; on other ranks without the tensors that are shared.
    """
    spread_again(learner.model)
    keep = learner.ranks.rank == 0
    masters = {}
    if is_low_precision(learner.model):  # the weights are kept in float32, as one process keeps its masters
        masters = {name: p.detach() for name, p in learner.model.named_parameters() if p.requires_grad}
    gathered: dict[str, Any] = _gathered({**state, "masters": masters}, keep=keep)
    return gathered


def _gathered(value: Any, *, keep: bool) -> Any:
    if isinstance(value, DTensor):
        whole = value.full_tensor()
        return whole.cpu() if keep else None
    if isinstance(value, Mapping):
        return {name: _gathered(item, keep=keep) for name, item in value.items()}
    if isinstance(value, list):
        return [_gathered(item, keep=keep) for item in value]
    return value


@torch.no_grad()
def in_parts(learner: Shared, state: Mapping[str, Any]) -> dict[str, Any]:
    """A whole state as a learner can load it; one whose ranks share the weights takes float32 weights at once.

    Args: state: the same on all ranks.
    Raises: ValueError if it is of other weights.
    """
    if not is_sharded(learner.model):
        return dict(state)
    spread_again(learner.model)
    weights = dict(learner.model.named_parameters())
    for name, value in state["masters"].items():
        if name not in weights or weights[name].shape != value.shape:
            raise ValueError(f"the state holds a weight {name} that this model has not: resume with the same model")
        weights[name].copy_(_part(value, weights[name]))
    reference = state["models"]["reference"]
    if reference is not None:
        reference = {name: _part(v, weights[name]) if name in weights else v for name, v in reference.items()}
    optimizers = [
        _optimizer_in_parts(saved, optimizer)
        for saved, optimizer in zip(state["optimizers"], learner.optimizers, strict=False)
    ]
    return {
        **state,
        "masters": {},
        "models": {**state["models"], "reference": reference},
        "optimizers": [*optimizers, *state["optimizers"][len(optimizers) :]],
    }


def _optimizer_in_parts(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = {
        number: {name: _part(value, parameters[number]) for name, value in moments.items()}
        for number, moments in saved["state"].items()
        if number < len(parameters)
    }
    return {**saved, "state": state}


def _part(value: Any, like: Tensor) -> Any:
    """This rank's part of a tensor of a weight's shape, in the weight's type; anything else as it is."""
    if not (isinstance(like, DTensor) and isinstance(value, Tensor) and value.shape == like.shape):
        return value
    here = value.to(like.device, like.dtype)
    return distribute_tensor(here, like.device_mesh, like.placements, src_data_rank=None)

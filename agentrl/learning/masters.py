"""Float32 master weights of a model whose own weights have fewer bits. Owns the copies, no update rule.

A bfloat16 weight has 8 bits of precision: an update below about 1/256 of the weight is rounded away, and most updates
are smaller. The optimizer therefore updates a float32 copy, and the model's weight is cast from it after each step.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_LOW_PRECISION = (torch.bfloat16, torch.float16)


class MasterWeights:
    """The float32 copies of a model's trainable low-precision weights; float32 weights are their own masters.

    Gradients of micro-batches add up in float32 too.

    Args: model: its trainable parameters are those that require a gradient now.
    """

    def __init__(self, model: nn.Module) -> None:
        self._weights = {
            name: p for name, p in model.named_parameters() if p.requires_grad and p.dtype in _LOW_PRECISION
        }
        self._masters = {name: nn.Parameter(p.detach().float()) for name, p in self._weights.items()}
        self._of = {id(p): self._masters[name] for name, p in self._weights.items()}

    def of(self, parameter: nn.Parameter) -> nn.Parameter:
        """What the optimizer updates in the parameter's place: its master, or the parameter itself."""
        return self._of.get(id(parameter), parameter)

    def take_gradients(self) -> None:
        """Add the gradients of the weights to those of their masters, and clear them. Call after each backward pass."""
        for name, weight in self._weights.items():
            if weight.grad is None:
                continue
            master = self._masters[name]
            if master.grad is None:
                master.grad = weight.grad.float()
            else:
                master.grad += weight.grad
            weight.grad = None

    @torch.no_grad()
    def write_weights(self) -> None:
        """Cast the masters into the model's weights. Call after each optimizer step."""
        for name, weight in self._weights.items():
            weight.copy_(self._masters[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The masters by the names of their weights; empty for a float32 model."""
        return {name: master.detach() for name, master in self._masters.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict`. Raises: ValueError if the state is of other weights."""
        if set(state) != set(self._masters):
            raise ValueError(
                f"the state holds float32 masters of {len(state)} weights, this model has {len(self._masters)} of low "
                "precision: resume with the same model.dtype and the same trainable layers"
            )
        for name, value in state.items():
            self._masters[name].copy_(value)

"""The model's forward pass over a micro-batch: logprobs of trained tokens alone. Owns no loss.

The head, and the per-token maps of the last layer, run only at positions that predict a trained
token: prompts and observations, most of an agent's tokens, never meet them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from agentrl.learning.batches import MicroBatch


@dataclass(frozen=True, slots=True)
class TokenTensors:
    """The flat arrays of a `MicroBatch` as (N,) tensors on the model's device."""

    targets: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    coefficients: Tensor
    versions: Tensor
    rows: Tensor

    @classmethod
    def of(cls, batch: MicroBatch, device: torch.device) -> TokenTensors:
        return cls(**{name: torch.from_numpy(getattr(batch, name)).to(device) for name in cls.__slots__})


class TokenScorer:
    """Scores the trained tokens of a micro-batch under a `transformers` causal language model.

    Args:
        model: a causal LM with `base_model`, and a head found by `get_output_embeddings`.
        temperature: divides the logits, as it did in sampling.
    """

    def __init__(self, model: nn.Module, temperature: float = 1.0) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0 to train, got {temperature}")
        self.model: Any = model
        self.temperature = temperature
        self.device = next(model.parameters()).device
        self._last_maps: list[nn.Module] = []
        self._head_is_plain = self._check_head()
        if self._head_is_plain:
            self._last_maps = self._check_last_maps()

    def is_checkpointing(self) -> bool:
        """Whether the model recomputes activations in the backward pass, which it does in training mode alone."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.model.modules())

    def logits(self, batch: MicroBatch) -> Tensor:
        """(N, V) logits, over temperature, at the positions that predict the trained tokens."""
        inputs: dict[str, Any] = {"input_ids": torch.from_numpy(batch.ids).to(self.device), "use_cache": False}
        if batch.positions is not None:
            inputs["position_ids"] = torch.from_numpy(batch.positions).to(self.device)
        logits = self._logits_at(inputs, torch.from_numpy(batch.index).to(self.device))
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        return logits if self.temperature == 1.0 else logits / self.temperature

    def logprobs(self, batch: MicroBatch, targets: Tensor) -> Tensor:
        """(N,) log-probability in nats of each trained token."""
        return token_logprobs(self.logits(batch), targets)

    def _logits_at(self, inputs: dict[str, Any], index: Tensor) -> Tensor:
        """(N, V) logits at flat positions."""
        if not self._head_is_plain:
            every: Tensor = self.model(**inputs).logits
            return every.flatten(0, 1)[index]
        maps = [] if self.is_checkpointing() else self._last_maps
        with _only_at(maps, index):
            hidden: Tensor = self.model.base_model(**inputs).last_hidden_state
        logits: Tensor = self.model.get_output_embeddings()(hidden.flatten(0, 1)[index])
        return logits

    @torch.no_grad()
    def _check_head(self) -> bool:
        """Whether logits are the head of the last hidden state and nothing else (soft cap, scale)."""
        inputs, index = self._probe()
        expected = self.model(**inputs).logits.flatten(0, 1)[index]
        head = self.model.get_output_embeddings()
        return head is not None and _close(expected, head(self._hidden(inputs)[index]))

    @torch.no_grad()
    def _check_last_maps(self) -> list[nn.Module]:
        """Per-token maps of the last layer that nothing but the trained positions needs, if any."""
        layers = getattr(self.model.base_model, "layers", None)
        if not isinstance(layers, nn.ModuleList) or not len(layers):
            return []
        attention, mlp = getattr(layers[-1], "self_attn", None), getattr(layers[-1], "mlp", None)
        found = [mlp, getattr(attention, "o_proj", None), getattr(attention, "q_proj", None)]
        modules = [m for m in found if isinstance(m, nn.Module)]
        maps = [m for m in modules if isinstance(m, nn.Linear) or type(m).__name__.endswith("MLP")]
        inputs, index = self._probe()
        expected = self._hidden(inputs)[index]
        try:
            with _only_at(maps, index):
                actual = self._hidden(inputs)[index]
        except (RuntimeError, TypeError, AttributeError, IndexError):
            return []
        return maps if _close(expected, actual) else []

    def _probe(self) -> tuple[dict[str, Any], Tensor]:
        """A few tokens, and the positions to compare."""
        ids = (torch.arange(16, device=self.device) * 7 % self.model.config.get_text_config().vocab_size).view(2, 8)
        return {"input_ids": ids, "use_cache": False}, torch.tensor([2, 5, 6, 11, 14], device=self.device)

    def _hidden(self, inputs: dict[str, Any]) -> Tensor:
        training = self.model.training
        self.model.eval()
        hidden: Tensor = self.model.base_model(**inputs).last_hidden_state
        self.model.train(training)
        return hidden.flatten(0, 1)


@contextmanager
def _only_at(maps: Sequence[nn.Module], index: Tensor) -> Iterator[None]:
    """Run per-token maps at the flat positions `index` alone; elsewhere their output is 0."""
    shape: list[int] = []

    def gather(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        shape[:] = args[0].shape[:2]
        return (args[0].flatten(0, 1)[index][None],)

    def scatter(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        whole = output.new_zeros(shape[0] * shape[1], output.shape[-1])
        return whole.index_copy(0, index, output[0]).view(*shape, output.shape[-1])

    hooks = [h for m in maps for h in (m.register_forward_pre_hook(gather), m.register_forward_hook(scatter))]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _close(expected: Tensor, actual: Tensor) -> bool:
    """Equal but for rounding: a soft cap, a scale or a mix over positions moves far more."""
    rounding = 0.05 if expected.dtype in (torch.float16, torch.bfloat16) else 1e-4
    return bool((expected - actual).abs().max() <= rounding * expected.abs().max().clamp(min=1e-6))


def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability in nats of each target.

    Args:
        logits: (N, V).
        targets: (N,) int64.
    Returns: (N,).
    """
    return -cross_entropy(logits, targets, reduction="none")

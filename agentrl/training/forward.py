"""The model's forward pass over a micro-batch: logprobs of trained tokens alone. Owns no loss.

The head runs only at positions that predict a trained token: prompts and observations, most of an
agent's tokens, never meet the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from agentrl.training.batches import MicroBatch


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
        self._head_is_plain = self._check_head()

    @torch.no_grad()
    def _check_head(self) -> bool:
        """Whether logits are exactly the head of the last hidden state (no soft cap, no scale)."""
        ids = torch.arange(4, device=self.device)[None] % self.model.config.vocab_size
        was_training = self.model.training
        self.model.eval()
        expected = self.model(input_ids=ids, use_cache=False).logits
        head = self.model.get_output_embeddings()
        actual = head(self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
        self.model.train(was_training)
        return torch.equal(expected, actual)

    def logits(self, batch: MicroBatch) -> Tensor:
        """(N, V) logits, over temperature, at the positions that predict the trained tokens."""
        inputs: dict[str, Any] = {"input_ids": torch.from_numpy(batch.ids).to(self.device), "use_cache": False}
        if batch.positions is not None:
            inputs["position_ids"] = torch.from_numpy(batch.positions).to(self.device)
        index = torch.from_numpy(batch.index).to(self.device)
        if self._head_is_plain:
            hidden = self.model.base_model(**inputs).last_hidden_state
            logits = self.model.get_output_embeddings()(hidden.flatten(0, 1)[index])
        else:
            logits = self.model(**inputs).logits.flatten(0, 1)[index]
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        scaled: Tensor = logits if self.temperature == 1.0 else logits / self.temperature
        return scaled

    def logprobs(self, batch: MicroBatch, targets: Tensor) -> Tensor:
        """(N,) log-probability in nats of each trained token."""
        return token_logprobs(self.logits(batch), targets)


def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability in nats of each target.

    Args:
        logits: (N, V).
        targets: (N,) int64.
    Returns: (N,).
    """
    return -cross_entropy(logits, targets, reduction="none")

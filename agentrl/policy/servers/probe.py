"""The proof that a server computes with given weights: its log-probabilities of a text against the model's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agentrl.errors import ModelError
from agentrl.policy.servers.api import Scored

# Far enough from 1 that log-probabilities before and after the temperature differ.
_TEMPERATURE = 0.5


@dataclass(frozen=True, eq=False)
class Probe:
    """What a model gives for a text.

    Attributes:
        logprobs: (T - 1,) nats, of each id after the first one.
        last_logits: (V,) float32, after the last one.
        temperature: at which an id is drawn there.
    """

    logprobs: Tensor
    last_logits: Tensor
    temperature: float = _TEMPERATURE

    @classmethod
    @torch.no_grad()
    def of(cls, model: Any, ids: Sequence[int]) -> Probe:
        """The probe of a model. Args: ids: (T,) at least 2."""
        was_training = model.training
        model.eval()
        try:
            tokens_T = torch.tensor(list(ids), device=model.device)
            logits_TV = model(input_ids=tokens_T[None]).logits[0].float()
        finally:
            model.train(was_training)
        own = torch.log_softmax(logits_TV[:-1], -1).gather(1, tokens_T[1:, None])[:, 0]
        return cls(own.cpu(), logits_TV[-1].cpu())

    def compare(self, scored: Scored, tolerance: float, remedy: str = "") -> float:
        """The largest difference of a log-probability, nats.

        Args: remedy: what the error says of other weights than those that were given.

        Raises: ModelError if it is above the tolerance, or the temperature is not in the server's log-probabilities.
        """
        difference = float((torch.tensor(scored.logprobs) - self.logprobs).abs().max())
        if not difference <= tolerance:
            raise ModelError(
                f"does not compute with the weights that it was given: its log-probabilities differ from the model's "
                f"own by up to {difference:.3g} nats, and {tolerance:g} is accepted. {remedy}"
            )
        token, logprob = scored.drawn
        given = float(torch.log_softmax(self.last_logits / self.temperature, -1)[token])
        if not abs(logprob - given) <= tolerance / self.temperature:
            raise ModelError(
                f"gives log-probabilities of another distribution than it draws from: {logprob:.3g} where "
                f"{given:.3g} was expected at temperature {self.temperature:g}. Start vLLM with --logprobs-mode "
                "processed_logprobs, and SGLang without SGLANG_RETURN_ORIGINAL_LOGPROB"
            )
        return difference

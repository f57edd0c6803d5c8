"""The models of an update: the policy, a frozen reference, a value head. Owns what belongs to one objective.

Which model a run has is `agentrl.training.model_setup`; its files are `agentrl.policy.model_folder`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from agentrl.learning.batches import MicroBatch
from agentrl.learning.forward import Batch, Scores, TokenScorer
from agentrl.learning.lines.attention import reading
from agentrl.learning.objectives.base import Objective
from agentrl.learning.parallel.sharded import is_sharded, spread_again


class Reference:
    """A model as it is now, kept while it is trained on: copies of its trainable weights alone.

    With frozen layers or adapters these are few. Adapters that have not been trained yet add nothing, so then the
    reference is the model without them.

    Args: policy: the model.
    """

    def __init__(self, policy: nn.Module) -> None:
        self._policy = policy
        self._weights = {name: p for name, p in policy.named_parameters() if p.requires_grad}
        self._kept = {name: p.detach().clone() for name, p in self._weights.items()}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The policy with the weights of the reference; nothing may train or sample meanwhile."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        spread_again(self._policy)
        for name, weight in self._weights.items():
            if is_sharded(self._policy):  # its memory is that from which weights are gathered
                weight_now = weight.detach().clone()
                weight.copy_(self._kept[name])
                self._kept[name] = weight_now
            else:
                weight.data, self._kept[name] = self._kept[name], weight.data

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._kept)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict`. Raises: ValueError if the state is of other weights."""
        if set(state) != set(self._kept):
            raise ValueError("the state holds a reference of other weights: resume with the same trainable layers")
        for name, value in state.items():
            self._kept[name].copy_(value)


class Models:
    """The policy, and the other models that an objective needs.

    Args:
        policy: a `transformers` causal LM, updated in place.
        objective: a reference is kept if it reads `reference_logprobs`, a value head if it needs `values`.
        scorer: of the policy.
    Attributes:
        reference: the policy as it is now, or None.
        value_head: (H,) to (1,), zero at first, or None.
    """

    def __init__(self, policy: nn.Module, objective: Objective, scorer: TokenScorer) -> None:
        self.policy: Any = policy
        self.scorer, self.device = scorer, scorer.device
        self.reference = Reference(policy) if "reference_logprobs" in objective.columns else None
        self.value_head = self._new_value_head() if "values" in objective.needs else None

    def _new_value_head(self) -> nn.Linear:
        size = self.policy.config.get_text_config().hidden_size
        head = nn.Linear(size, 1, device=self.device, dtype=torch.float32)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        return head

    def reading(self, laid_out: MicroBatch) -> AbstractContextManager[None]:
        """What forward and backward of a micro-batch stand in."""
        return reading(self.policy, laid_out, self.device)

    def scores(self, laid_out: MicroBatch, batch: Batch) -> Scores:
        """The policy's scores of a micro-batch; they have a gradient where gradients are on."""
        return Scores(self.scorer, laid_out, batch, self.value_head)

    @torch.no_grad()
    def predicted(self, laid_out: MicroBatch, column: str) -> Tensor:
        """(N,) a column that a model fills: `old_logprobs`, `reference_logprobs` or `values`.

        Raises: ValueError for another column, or if the model that it needs was not kept.
        """
        with self.reading(laid_out):
            return self._predicted(laid_out, column)

    def _predicted(self, laid_out: MicroBatch, column: str) -> Tensor:
        if column == "old_logprobs":
            return self.scorer.logprobs(laid_out)
        if column == "reference_logprobs":
            if self.reference is None:
                raise ValueError("no reference model was kept: the objective does not read reference_logprobs")
            with self.reference.in_place():
                return self.scorer.logprobs(laid_out)
        if column == "values":
            return self.scores(laid_out, Batch(laid_out, self.device)).values
        raise ValueError(
            f"no model fills the column {column!r}; old_logprobs, reference_logprobs and values are filled, "
            "the others come from the rows' builder or the credit estimator"
        )

    def value_head_numbers(self) -> dict[str, list[float]]:
        """The weight and bias of the value head, as a model folder holds them."""
        assert self.value_head is not None
        return {name: t.detach().cpu().flatten().tolist() for name, t in self.value_head.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything but the policy's weights."""
        return {
            "reference": None if self.reference is None else self.reference.state_dict(),
            "value_head": None if self.value_head is None else self.value_head.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`. Raises: ValueError if only one side has a reference model or a value head."""
        for name, part in (("reference", self.reference), ("value_head", self.value_head)):
            if (state[name] is None) != (part is None):
                raise ValueError(f"only one of state and learner has a {name}: resume with the same objective")
            if part is not None:
                part.load_state_dict(state[name])

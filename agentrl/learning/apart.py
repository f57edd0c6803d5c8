"""A learner of a copy of a model, which becomes a reward model. Owns the weights of the copy in its state."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from torch import nn

from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.base import Objective
from agentrl.learning.parallel.ranks import Ranks


class ApartLearner(Learner):
    """Updates a copy of a model; the model that is given stays as it is, and no sampler sees the copy.

    Args: as for `Learner`; its weights are not shared.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: LearnerSettings,
        objective: Objective,
        *,
        temperature: float = 1.0,
        total_steps: int | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__(
            deepcopy(model), settings, objective, temperature=temperature, total_steps=total_steps, ranks=ranks
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything, with the copy's weights that train."""
        return {**super().state_dict(), "weights": {name: p.detach() for name, p in self._trained().items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`. Raises: ValueError if the state is of other weights or another optimiser."""
        weights = self._trained()
        if state.get("weights", {}).keys() != weights.keys():
            raise ValueError("the state holds a copy of other weights: resume with the same trainable layers")
        for name, value in state["weights"].items():
            weights[name].data.copy_(value)
        super().load_state_dict(state)

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

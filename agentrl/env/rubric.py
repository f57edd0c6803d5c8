"""Named reward components and their weights. Owns the sum, not what a component measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentrl.errors import did_you_mean


@dataclass(frozen=True)
class Rubric:
    """Weights of named reward components: reward = sum of weight x value.

    `Rubric({"correct": 1.0, "short": 0.1})`. Components must be declared, so that a misspelt name
    is an error and never a silent zero.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: {"reward": 1.0})

    def total(self, components: Mapping[str, float]) -> float:
        """The weighted sum. Raises: KeyError if a component has no weight."""
        total = 0.0
        for name, value in components.items():
            if name not in self.weights:
                raise KeyError(f"reward component {name!r} has no weight.{did_you_mean(name, self.weights)}")
            total += self.weights[name] * value
        return total

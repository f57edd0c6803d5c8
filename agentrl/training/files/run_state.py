"""Where a run is, as every checkpoint saves it. Owns the counts over all stages, not the course of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_COUNTED = {"sampled": "rollout/tokens", "trained": "train/tokens", "context": "train/context_tokens"}


@dataclass
class RunState:
    """Where a run is; saved with every checkpoint.

    Attributes:
        stage: number of the stage in progress, from 0.
        stage_state: that stage's own state; None before its first step.
        version: steps after which the sampler had new weights; it orders the metrics of all stages.
        weights: version of the sampler's weights.
        updates: steps of all stages; the number of the checkpoint.
        selection: evaluations of the stage in progress, and the best of them; None before the first one.
        best: (stage, step) whose weights are kept for it.
        summaries: of the stages that are finished, by name.
        tokens: how many were sampled in training and in evaluations, trained, and seen as context by updates.
        cpu_s_by_stage: CPU seconds of the stages that are finished.
        wall_s, cpu_s: seconds spent so far.
    """

    stage: int = 0
    stage_state: dict[str, Any] | None = None
    version: int = 0
    weights: int = 0
    updates: int = 0
    selection: dict[str, Any] | None = None
    best: tuple[str, int] | None = None
    summaries: dict[str, dict[str, Any]] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    cpu_s_by_stage: dict[str, float] = field(default_factory=dict)
    wall_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def last_taught(self) -> str:
        """Name of the last stage that is no evaluation; a head that was trained before it no longer fits the model."""
        taught = [name for name, summary in self.summaries.items() if "greedy" not in summary]
        return taught[-1] if taught else ""

    def count_step(self, metrics: Mapping[str, float]) -> None:
        """Add the tokens of a step to those of the run."""
        for what, name in _COUNTED.items():
            self._count(what, round(metrics.get(name, 0)))

    def count_evaluated(self, tokens: int) -> None:
        """Add the tokens that an evaluation sampled to those of the run."""
        self._count("evaluated", tokens)

    def _count(self, what: str, tokens: int) -> None:
        self.tokens[what] = self.tokens.get(what, 0) + tokens

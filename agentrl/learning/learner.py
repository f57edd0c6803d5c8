"""The learner: rows in, updates of the model out. Owns optimiser, schedule and reference model.

It knows nothing of environments, policies or files. Coefficients are fixed in the rows, so neither
micro-batch size nor packing changes a gradient.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agentrl.learning.batches import MicroBatch, pack, pad
from agentrl.learning.forward import TokenScorer
from agentrl.learning.learner_config import LearnerConfig
from agentrl.learning.objectives import Objective, PolicyObjective, Sums, SupervisedObjective, recompute_old_logprobs
from agentrl.learning.optimizers import make_optimizers, set_lr
from agentrl.learning.rows import Row

__all__ = ["Learner", "LearnerConfig", "Metrics"]

logger = logging.getLogger(__name__)
Metrics = dict[str, float]


class Learner:
    """Updates a causal language model in place.

    Args:
        model: a `transformers` causal LM; a policy may share the very same object.
        config: how to update it.
    """

    def __init__(self, model: nn.Module, config: LearnerConfig | None = None) -> None:
        self.model: Any = model
        self.config = config or LearnerConfig()
        adamw_lr = self.config.adamw_lr if self.config.adamw_lr is not None else 0.3 * self.config.lr
        self.optimizers = make_optimizers(
            model,
            self.config.optimizer,
            lr=self.config.lr,
            betas=self.config.betas,
            weight_decay=self.config.weight_decay,
            adamw_lr=adamw_lr,
        )
        self.num_steps = 0
        self._rng = np.random.default_rng(self.config.seed)
        self._scorer = TokenScorer(model, self.config.temperature)
        self.reference = copy.deepcopy(model).eval().requires_grad_(False) if self.config.kl_coef > 0 else None
        reference = None if self.reference is None else TokenScorer(self.reference, self.config.temperature)
        self._policy_objective = PolicyObjective(self.config, self._scorer, reference)
        self._supervised_objective = SupervisedObjective(self._scorer)

    def step(self, rows: Sequence[Row]) -> Metrics:
        """One step of policy optimisation: `num_epochs` x `num_minibatches` updates.

        Rows whose advantages are all 0 are left out where they cannot change the gradient.

        Args: rows: of `build_rows`, with advantages and coefficients set.
        Returns: `loss/...` sums with the rows' coefficients, `policy/...` means over the tokens
            that took part, `grad/norm` before clipping, `train/...` counts.
        Raises: ValueError if no token of the rows was sampled.
        """
        if self.config.recompute_old_logprobs:
            with self._update_mode():
                batches = self._lay_out(rows)
                rows = recompute_old_logprobs(rows, batches, self._scorer, self.config.importance)
        return self._train(rows, self._policy_objective, self.config.num_epochs, self.config.num_minibatches)

    def supervised_step(self, rows: Sequence[Row]) -> Metrics:
        """One update of cross-entropy on the masked tokens, weighed by their coefficients.

        Raises: ValueError if no token of the rows is masked as trained.
        """
        return self._train(rows, self._supervised_objective, 1, 1)

    def _train(self, rows: Sequence[Row], objective: Objective, num_epochs: int, num_minibatches: int) -> Metrics:
        if not any(row.num_trained for row in rows):
            raise ValueError(f"none of the {len(rows)} rows has a sampled token: there is nothing to train on")
        sums: Sums = {}
        set_lr(self.optimizers, self.config.schedule.fraction(self.num_steps))
        with self._update_mode():
            for _ in range(num_epochs):
                for part, scale in self._minibatches(rows, num_minibatches):
                    self._update([row for row in part if objective.needs(row)], scale, objective, sums)
        self.num_steps += 1
        return self._metrics(sums, rows, num_epochs)

    def _minibatches(self, rows: Sequence[Row], count: int) -> Iterator[tuple[Sequence[Row], float]]:
        """Rows shuffled by trajectory into minibatches, with the scale that makes each stand for the whole step."""
        if count == 1:
            yield rows, 1.0
            return
        total = sum(float(row.coefficients.sum()) for row in rows)
        numbers = self._rng.permutation(sorted({row.trajectory for row in rows}))
        for chosen in np.array_split(numbers, count):
            part = [row for row in rows if row.trajectory in set(chosen.tolist())]
            if share := sum(float(row.coefficients.sum()) for row in part):
                yield part, total / share

    def _update(self, rows: Sequence[Row], scale: float, objective: Objective, sums: Sums) -> None:
        """Gradient of the rows, clipped, and one optimiser step; nothing happens without a gradient."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        batches = self._lay_out(rows)
        for batch in batches:
            with torch.autocast(self._scorer.device.type, torch.bfloat16, enabled=self.config.autocast):
                loss, terms = objective(batch)
            (loss * scale).backward()  # type: ignore[no-untyped-call]
            _add(sums, terms)
        norm = self._clip_gradient()
        finite = bool(torch.isfinite(norm))
        if not finite:
            logger.warning("the gradient is not finite: this update is left out")
        elif batches:
            for optimizer in self.optimizers:
                optimizer.step()
        skipped = torch.tensor(0.0 if batches and finite else 1.0)
        _add(sums, {"grad/norm": norm, "grad/skipped": skipped, "updates": torch.ones(())})

    def _lay_out(self, rows: Sequence[Row]) -> list[MicroBatch]:
        layout = pack if self.config.layout == "pack" else pad
        return layout(rows, self.config.micro_batch_tokens)

    def _clip_gradient(self) -> Tensor:
        """Scale the gradient down to `max_grad_norm`. Returns: its norm before."""
        parameters = [p for o in self.optimizers for group in o.param_groups for p in group["params"]]
        limit = self.config.max_grad_norm or float("inf")
        return torch.nn.utils.clip_grad_norm_(parameters, limit).detach()

    def _metrics(self, sums: Sums, rows: Sequence[Row], num_epochs: int) -> Metrics:
        """Sums to means: losses per pass over the rows, `grad` per update, the rest per token."""
        tokens = float(sums.pop("tokens", torch.ones(())))
        divisors = {"loss": float(num_epochs), "grad": float(sums.pop("updates"))}
        metrics = {name: float(value) / divisors.get(name.split("/")[0], tokens) for name, value in sums.items()}
        metrics["train/lr"] = float(self.optimizers[0].param_groups[0]["lr"])
        metrics["train/tokens"] = float(sum(row.num_trained for row in rows))
        metrics["train/context_tokens"] = float(sum(len(row) for row in rows))
        metrics["train/rows"] = float(len(rows))
        return metrics

    @contextmanager
    def _update_mode(self) -> Iterator[None]:
        """Attention, matmul precision and dropout as they are during an update; restored after."""
        precision, training = torch.get_float32_matmul_precision(), self.model.training
        attention = self.model.config._attn_implementation
        torch.set_float32_matmul_precision(self.config.matmul_precision)
        self.model.train(self._scorer.is_checkpointing())
        if self.config.attention is not None:
            self.model.set_attn_implementation(self.config.attention)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
            self.model.train(training)
            if self.config.attention is not None:
                self.model.set_attn_implementation(attention)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the model's weights: optimisers, counters, shuffling, reference weights."""
        return {
            "num_steps": self.num_steps,
            "rng": self._rng.bit_generator.state,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "reference": self.reference.state_dict() if self.reference is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; the model's weights are loaded by the caller.

        Raises: ValueError if the state is of another optimiser, or only one side has a reference model.
        """
        if len(state["optimizers"]) != len(self.optimizers):
            raise ValueError(
                f"the state holds {len(state['optimizers'])} optimisers, this learner has {len(self.optimizers)}: "
                "resume with the same LearnerConfig.optimizer"
            )
        if (state["reference"] is None) != (self.reference is None):
            raise ValueError("only one of state and learner has a reference model: resume with the same kl_coef")
        self.num_steps = state["num_steps"]
        self._rng.bit_generator.state = state["rng"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.reference is not None:
            self.reference.load_state_dict(state["reference"])


def _add(sums: Sums, terms: Sums) -> None:
    for name, value in terms.items():
        sums[name] = sums[name] + value if name in sums else value

"""The learner: rows in, one update of the model out. Owns optimiser, schedule and reference model.

It knows nothing of environments, policies or files. Coefficients are fixed in the rows, so neither
micro-batch size nor packing changes a gradient.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from agentrl.training import losses
from agentrl.training.batches import MicroBatch, pack, pad
from agentrl.training.forward import TokenScorer, TokenTensors, token_logprobs
from agentrl.training.optimizers import OptimizerName, Schedule, make_optimizers, set_lr
from agentrl.training.rows import Row

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LearnerConfig:
    """How rows become an update.

    Attributes:
        lr, betas, weight_decay: of the optimiser; `adamw_lr` is AdamW's beside Muon (None: 0.3 lr).
        max_grad_norm: the gradient is scaled down to this norm; 0 leaves it alone.
        schedule: of the learning rate, over calls of `step` or `supervised_step`.
        clip_low, clip_high: bounds of the probability ratio.
        kl_coef: weight of the KL to a frozen copy of the model; 0 keeps no copy.
        entropy_coef: weight of the entropy bonus.
        temperature: the sampling temperature of the rows.
        num_epochs: passes over the rows of a step.
        num_minibatches: updates per pass; the rows are shuffled into them, by trajectory.
        micro_batch_tokens: most tokens of a forward pass.
        layout: `pad` (rows of like length side by side) or `pack` (one behind the other).
        attention: attention implementation during the update; None leaves the model's own.
        matmul_precision: float32 matrix products during the update: `highest`, `high`, `medium`.
        autocast: bfloat16 autocast.
        seed: of the shuffling into minibatches.
    """

    lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    optimizer: OptimizerName = "adamw"
    adamw_lr: float | None = None
    max_grad_norm: float = 1.0
    schedule: Schedule = field(default_factory=Schedule)
    clip_low: float = 0.2
    clip_high: float = 0.28
    kl_coef: float = 0.0
    entropy_coef: float = 0.0
    temperature: float = 1.0
    num_epochs: int = 1
    num_minibatches: int = 1
    micro_batch_tokens: int = 8192
    layout: Literal["pad", "pack"] = "pad"
    attention: str | None = None
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    autocast: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_epochs", "num_minibatches", "micro_batch_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


Metrics = dict[str, float]
Loss = Callable[[MicroBatch, dict[str, Tensor]], Tensor]


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
        self.reference = _frozen_copy(model) if self.config.kl_coef > 0 else None
        self._reference_scorer = TokenScorer(self.reference, self.config.temperature) if self.reference else None

    def step(self, rows: Sequence[Row]) -> Metrics:
        """One step of policy optimisation: `num_epochs` x `num_minibatches` updates.

        Args: rows: of `build_rows`, with advantages and coefficients set.
        Returns: metrics, averaged over trained tokens; losses with the rows' coefficients.
        Raises: ValueError if no token of the rows was sampled.
        """
        return self._train(rows, self._policy_loss)

    def supervised_step(self, rows: Sequence[Row]) -> Metrics:
        """One update of cross-entropy on the masked tokens, weighed by their coefficients.

        Raises: ValueError if no token of the rows is masked as trained.
        """
        return self._train(rows, self._supervised_loss)

    def _train(self, rows: Sequence[Row], loss: Loss) -> Metrics:
        if not any(row.num_trained for row in rows):
            raise ValueError(f"none of the {len(rows)} rows has a sampled token: there is nothing to train on")
        sums: dict[str, Tensor] = {}
        set_lr(self.optimizers, self.config.schedule.fraction(self.num_steps))
        with self._update_mode():
            for _ in range(self.config.num_epochs):
                for part in self._minibatches(rows):
                    self._update(part, loss, sums)
        self.num_steps += 1
        return self._metrics(sums, rows)

    def _minibatches(self, rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
        """Split rows by trajectory into minibatches of the step."""
        if self.config.num_minibatches == 1:
            yield rows
            return
        numbers = self._rng.permutation(sorted({row.trajectory for row in rows}))
        for part in np.array_split(numbers, self.config.num_minibatches):
            chosen = set(part.tolist())
            if picked := [row for row in rows if row.trajectory in chosen and row.num_trained]:
                yield picked

    def _update(self, rows: Sequence[Row], loss: Loss, sums: dict[str, Tensor]) -> None:
        """Gradient of the rows, clipped, and one optimiser step."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        for batch in self._lay_out(rows):
            with self._autocast():
                value = loss(batch, sums)
            value.backward()  # type: ignore[no-untyped-call]
        norm = self._clip_gradient()
        _add(sums, {"grad/norm": norm, "updates": torch.ones(())})
        if not torch.isfinite(norm):
            logger.warning("the gradient is not finite: this update is left out")
            _add(sums, {"grad/skipped": torch.ones(())})
            return
        for optimizer in self.optimizers:
            optimizer.step()

    def _lay_out(self, rows: Sequence[Row]) -> list[MicroBatch]:
        layout = pack if self.config.layout == "pack" else pad
        return layout(rows, self.config.micro_batch_tokens)

    def _clip_gradient(self) -> Tensor:
        parameters = [p for o in self.optimizers for group in o.param_groups for p in group["params"]]
        limit = self.config.max_grad_norm or float("inf")
        return torch.nn.utils.clip_grad_norm_(parameters, limit).detach()

    def _policy_loss(self, batch: MicroBatch, sums: dict[str, Tensor]) -> Tensor:
        config, tokens = self.config, TokenTensors.of(batch, self._scorer.device)
        logits = self._scorer.logits(batch)
        logprobs = token_logprobs(logits, tokens.targets)
        loss_N = losses.ppo_clip(
            logprobs,
            tokens.old_logprobs,
            tokens.advantages,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
        )
        total = policy = (loss_N * tokens.coefficients).sum()
        with torch.set_grad_enabled(config.entropy_coef != 0):
            entropy_N = losses.entropy_of_logits(logits)
        if config.entropy_coef:
            total = total - config.entropy_coef * (entropy_N * tokens.coefficients).sum()
        if self._reference_scorer is not None:
            kl = self._kl_loss(self._reference_scorer, batch, logprobs, tokens)
            total = total + config.kl_coef * kl
            _add(sums, {"loss/kl": kl.detach()})
        log_ratio = (logprobs - tokens.old_logprobs).detach()
        ratio = log_ratio.exp()
        clipped = ((ratio > 1 + config.clip_high) & (tokens.advantages > 0)) | (
            (ratio < 1 - config.clip_low) & (tokens.advantages < 0)
        )
        _add(
            sums,
            {
                "loss/policy": policy.detach(),
                "policy/entropy": entropy_N.detach().sum(),
                "policy/clip_fraction": clipped.sum(),
                "policy/approx_kl": losses.kl_k3(tokens.old_logprobs + log_ratio, tokens.old_logprobs).sum(),
                "policy/ratio_mean": ratio.sum(),
                "tokens": torch.tensor(len(batch.index)),
            },
        )
        return total

    def _kl_loss(self, scorer: TokenScorer, batch: MicroBatch, logprobs: Tensor, tokens: TokenTensors) -> Tensor:
        with torch.no_grad():
            reference = scorer.logprobs(batch, tokens.targets)
        return (losses.kl_k3(logprobs, reference) * tokens.coefficients).sum()

    def _supervised_loss(self, batch: MicroBatch, sums: dict[str, Tensor]) -> Tensor:
        tokens = TokenTensors.of(batch, self._scorer.device)
        logits = self._scorer.logits(batch)
        logprobs = token_logprobs(logits, tokens.targets)
        loss = -(logprobs * tokens.coefficients).sum()
        _add(
            sums,
            {
                "loss/supervised": loss.detach(),
                "supervised/nll": -logprobs.detach().sum(),
                "supervised/accuracy": (logits.detach().argmax(-1) == tokens.targets).sum(),
                "tokens": torch.tensor(len(batch.index)),
            },
        )
        return loss

    def _metrics(self, sums: dict[str, Tensor], rows: Sequence[Row]) -> Metrics:
        """Sums to means: losses per pass over the rows, norms per update, the rest per token."""
        tokens, updates = float(sums.pop("tokens")), float(sums.pop("updates"))
        metrics: Metrics = {}
        for name, value in sums.items():
            area = name.split("/")[0]
            divisor = {"loss": self.config.num_epochs, "grad": updates}.get(area, tokens)
            metrics[name] = float(value) / divisor
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
        self.model.train(any(getattr(m, "gradient_checkpointing", False) for m in self.model.modules()))
        if self.config.attention is not None:
            self.model.set_attn_implementation(self.config.attention)
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
            self.model.train(training)
            if self.config.attention is not None:
                self.model.set_attn_implementation(attention)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._scorer.device.type, torch.bfloat16, enabled=self.config.autocast)

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

        Raises: ValueError if the state is of another optimiser or lacks the reference model.
        """
        if len(state["optimizers"]) != len(self.optimizers):
            raise ValueError(
                f"the state holds {len(state['optimizers'])} optimisers, this learner has {len(self.optimizers)}: "
                "resume with the same LearnerConfig.optimizer"
            )
        if (state["reference"] is None) != (self.reference is None):
            raise ValueError(
                "the state and this learner differ in having a reference model: keep kl_coef on 0 or off it"
            )
        self.num_steps = state["num_steps"]
        self._rng.bit_generator.state = state["rng"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self.reference is not None:
            self.reference.load_state_dict(state["reference"])


def _frozen_copy(model: nn.Module) -> nn.Module:
    """A copy that never trains."""
    frozen = copy.deepcopy(model).eval()
    return frozen.requires_grad_(False)


def _add(sums: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        sums[name] = sums[name] + value if name in sums else value

"""The learner: rows in, updates of the model out. Owns optimiser, schedule, and the models of an update.

It knows nothing of environments, policies or files. Coefficients are fixed in the rows, so neither
micro-batch size, packing nor the number of processes changes a gradient.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.distributed.tensor import DTensor

from agentrl.config import Count, Fraction, NotNegative, Whole
from agentrl.config.field_checks import check_fields
from agentrl.learning import drift
from agentrl.learning.batches import MicroBatch, Unit, shares
from agentrl.learning.columns import fill
from agentrl.learning.forward import Batch, TokenScorer
from agentrl.learning.kernels.norms import fast_norms
from agentrl.learning.lines.layouts import Layout, Layouts
from agentrl.learning.masters import MasterWeights
from agentrl.learning.models import Models
from agentrl.learning.objectives.base import Objective, Sums, check_rows
from agentrl.learning.optimizers import OptimizerName, Schedule, load_states, make_optimizers, set_lr
from agentrl.learning.parallel.gradient_norm import clip_gradient
from agentrl.learning.parallel.ranks import Ranks, digest_of_model, digest_of_rows
from agentrl.learning.parallel.sharded import check_parts_suffice, is_sharded, shard, spread_again
from agentrl.learning.rows import Row
from agentrl.learning.update_mode import update_mode

logger = logging.getLogger(__name__)
Metrics = dict[str, float]
Decay = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class LearnerSettings:
    """How rows become an update; the loss and its numbers are the objective's.

    Attributes:
        lr: peak learning rate of the optimiser.
        optimizer: `adamw`, or `muon` for the matrices inside the layers with AdamW for the rest.
        adamw_lr: AdamW's rate where Muon has the matrices; None is 0.3 times `lr`.
        betas, weight_decay: of the optimiser.
        schedule: of the learning rate, over the steps of a stage, also those that update nothing.
        max_grad_norm: a gradient of a larger norm is scaled down to it; 0 turns this off.
        num_epochs: passes over the rows of a step.
        num_minibatches: updates per pass; the rows are shuffled into them by trajectory.
        micro_batch_tokens: most tokens of a forward pass; it changes memory and speed, not the gradient.
        layout: `tree` (a prefix that rows share goes through the model once, where that saves work and the model can
            read it), `pad` (rows of similar length side by side) or `pack` (one behind the other; slow on a CPU).
        attention: attention implementation during the update; None leaves the model's own.
        matmul_precision: of float32 products during the update. Lower ones use bfloat16 or TF32.
        autocast: bfloat16 autocast.
        gradient_checkpointing: recompute the activations of each layer in the backward pass: less memory, about a third
            more time, the same gradient.
        logit_chunk: most tokens whose logits exist at once; None makes them take 64 MiB. The gradient does not change.
        dropout: whether the model's own dropout is active in updates. It is off by default: sampling has none.
        measure_share: share of the rows that go through the model once more after a step, to see how far it moved
            (`policy/approx_kl` and the like); a quarter costs about 8% of the update. 0 leaves it out.
        max_mismatch: refuse to begin if trainer and sampler differ by more than this mean absolute log-ratio, in nats a
            token; 0 accepts any.
        seed: of the shuffling into minibatches.
    """

    lr: NotNegative = 3e-4
    optimizer: OptimizerName = "adamw"
    adamw_lr: NotNegative | None = None
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    weight_decay: NotNegative = 0.0
    schedule: Schedule = field(default_factory=Schedule)
    max_grad_norm: NotNegative = 1.0
    num_epochs: Count = 1
    num_minibatches: Count = 1
    micro_batch_tokens: Count = 2048
    layout: Layout = "tree"
    attention: str | None = None
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    autocast: bool = False
    gradient_checkpointing: bool = False
    logit_chunk: Count | None = None
    dropout: bool = False
    measure_share: Fraction = 0.25
    max_mismatch: NotNegative = 0.0
    seed: Whole = 0

    def __post_init__(self) -> None:
        check_fields(self)


class Learner:
    """Updates a causal language model in place, by one objective.

    Args:
        model: a `transformers` causal LM; a policy may use the same object.
        settings: how to update it.
        objective: the loss that `update` will be called with; it decides which models are kept.
        temperature: the sampling temperature of the rows.
        total_steps: calls of `update` over which the schedule anneals.
        publish: hands the weights to the sampler and returns their version; None where there is no sampler.
        ranks: the processes that share the rows of each step. All of them make the same learner and call `fill` and
            `update` with the same rows, those of the whole step; each puts its own share through the model, and all
            end with the same weights, metrics and state.
        shard: spread the weights, their gradients and the optimizer's state over the ranks
            (`agentrl.learning.parallel.sharded`); the model is changed in place, and only the learner may use it then.
    Raises: ValueError if the ranks have different weights or settings, or the model cannot be spread over them.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: LearnerSettings,
        objective: Objective,
        *,
        temperature: float = 1.0,
        total_steps: int | None = None,
        publish: Callable[[], int] | None = None,
        ranks: Ranks | None = None,
        shard: bool = False,
    ) -> None:
        if not isinstance(settings, LearnerSettings) or not isinstance(objective, Objective):
            raise TypeError(
                f"expected LearnerSettings and an objective like PPOClip(), got {settings!r} and {objective!r}"
            )
        self.model: Any = model
        self.ranks = Ranks() if ranks is None else ranks
        self.settings, self.total_steps = settings, total_steps
        self.layouts = Layouts(model, settings.layout, settings.micro_batch_tokens)
        self._norms = fast_norms(model)
        scorer = TokenScorer(model, temperature, settings.logit_chunk)
        self._check_ranks(objective, temperature)
        if shard:
            self._shard()
        self.models = Models(model, objective, scorer)
        self.masters = MasterWeights(model)
        self.optimizers = make_optimizers(
            model,
            settings.optimizer,
            lr=settings.lr,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            adamw_lr=settings.adamw_lr if settings.adamw_lr is not None else 0.3 * settings.lr,
            head=self.models.value_head,
            masters=self.masters,
        )
        self.num_steps, self._is_first, self._publish = 0, False, publish
        self._rng = np.random.default_rng(settings.seed)

    async def fill(self, rows: Sequence[Row], column: str) -> list[Row]:
        """The rows with a column that a model predicts with its current weights.

        Args:
            rows: any rows.
            column: `old_logprobs`, `reference_logprobs` or `values`.
        Raises: ValueError for another column, or if the model that it needs was not kept.
        """
        self._check_same_rows(rows)
        with self._update_mode():
            numbers = shares(rows, self.ranks.size)[self.ranks.rank]
            own = [rows[number] for number in numbers]
            batches = self.layouts.of(own)
            spare = self._spare(rows, len(batches))
            filled = fill(own, column, batches, lambda batch: self.models.predicted(batch, column))
            for batch in spare:
                self.models.predicted(batch, column)
            spread_again(self.model)
        found = self.ranks.union({n: row.column(column) for n, row in zip(numbers, filled, strict=True)})
        return [row.with_columns(**{column: found[number]}) for number, row in enumerate(rows)]

    async def update(self, rows: Sequence[Row], objective: Objective) -> Metrics:
        """One step: `num_epochs` x `num_minibatches` updates on all rows.

        Rows that the objective ignores do not go through the model.

        Args: rows: with every column that the objective reads.
        Returns: `loss/...` sums with the rows' coefficients; means over the tokens that took part: `update/...` during
            the updates, `policy/...` after and `mismatch/...` before them; `grad/norm` before clipping; counts.
        Raises: ValueError if no token of the rows trains, a column is missing, or the ranks have different rows;
            ModelError if in the first update the trainer's probabilities are not the sampler's.
        """
        self._check_same_rows(rows)
        check_rows(rows, objective)
        sums, gradient = Sums(), Sums()
        set_lr(self.optimizers, self.settings.schedule.fraction(self.num_steps, self.total_steps))
        self._is_first = drift.is_measured(objective)
        with self._update_mode():
            for _ in range(self.settings.num_epochs):
                for part, scale in self._minibatches(rows, objective.unit):
                    taking_part = [row for row in part if row.mask.any() and not objective.ignores(row)]
                    _add(gradient, self._update(taking_part, scale, objective, sums))
            after = self._measured_after(rows, objective)
            spread_again(self.model)
        self.num_steps += 1
        sums_of_all = {**self.ranks.summed(sums), **{name: float(value) for name, value in gradient.items()}}
        return {**self._metrics(sums_of_all, rows), **after}

    async def publish(self) -> int:
        """Give the weights to the sampler, which drops its caches. Returns: their version; 0 without a sampler."""
        return 0 if self._publish is None else self._publish()

    def _minibatches(self, rows: Sequence[Row], unit: Unit) -> Iterator[tuple[Sequence[Row], float]]:
        """Minibatches shuffled by trajectory (or pair), each with the factor that scales its loss to the step's."""
        count = self.settings.num_minibatches
        if count == 1:
            yield rows, 1.0
            return
        key = [row.unit if unit == "pair" else row.trajectory for row in rows]
        total = sum(float(row.column("coefficients").sum()) for row in rows)
        numbers = self._rng.permutation(sorted(set(key)))
        for chosen in np.array_split(numbers, count):
            members = set(chosen.tolist())
            part = [row for row, number in zip(rows, key, strict=True) if number in members]
            if share := sum(float(row.column("coefficients").sum()) for row in part):
                yield part, total / share

    def _update(self, rows: Sequence[Row], scale: float, objective: Objective, sums: Sums) -> Sums:
        """Gradient of the rows, clipped, and one optimiser step; nothing happens without a gradient.

        Args:
            rows: of all ranks, each with a token that trains.
            sums: those of this rank's rows are added.
        Returns: sums about the gradient, the same on all ranks.
        """
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        own = self._lay_out_own(rows, objective.unit)
        for number, laid_out in enumerate([*own, *self._spare(rows, len(own), objective.unit)]):
            with self.models.reading(laid_out):
                terms = self._add_gradient(laid_out, scale, objective)
            self.masters.take_gradients()
            if number < len(own):
                _add(sums, terms)
        self._check_first(sums)
        self.ranks.sum_gradients([p for p in self._parameters if not isinstance(p, DTensor)])
        norm = clip_gradient(self._parameters, self.settings.max_grad_norm, self.ranks)
        finite = bool(torch.isfinite(norm))
        if not finite:
            logger.warning(
                "the gradient is not finite (or too large to square, without max_grad_norm): this update is skipped; "
                "rewards, advantages or coefficients of the step are too large"
            )
        elif rows:
            for optimizer in self.optimizers:
                optimizer.step()
            self.masters.write_weights()
        skipped = torch.tensor(0.0 if rows and finite else 1.0)
        return {"grad/norm": norm, "grad/skipped": skipped, "grad/count": torch.ones(())}

    def _add_gradient(self, laid_out: MicroBatch, scale: float, objective: Objective) -> Sums:
        """Forward and backward of a micro-batch. Returns: its sums."""
        batch = Batch(laid_out, self.models.device)
        with torch.autocast(self.models.device.type, torch.bfloat16, enabled=self.settings.autocast):
            scores = self.models.scores(laid_out, batch)
            loss, terms = objective(batch, scores)
        if drift.is_measured(objective):
            terms = drift.named_during(terms)
        if self._is_first:
            terms |= drift.before_sums(batch, scores)
        (loss * scale).backward()  # type: ignore[no-untyped-call]
        return {**terms, "tokens": torch.tensor(len(batch))}

    def _check_first(self, sums: Sums) -> None:
        """In the first update of the learner, refuse probabilities that are not those of the sampler."""
        first = {name: sums.pop(name, torch.zeros(())) for name in ("ratio/first", "ratio/count")}
        self._is_first = False
        if self.num_steps == 0 and self.settings.max_mismatch:
            distance, count = self.ranks.summed(first).values()
            drift.check_first_ratio(distance / max(count, 1.0), self.settings.max_mismatch)

    @torch.no_grad()
    def _measured_after(self, rows: Sequence[Row], objective: Objective) -> Metrics:
        """`policy/...` of a sample of the rows that took part, under the updated weights."""
        taking_part = [row for row in rows if row.mask.any() and not objective.ignores(row)]
        if not (self.settings.measure_share and taking_part and drift.is_measured(objective)):
            return {}
        chosen = drift.sample(taking_part, self.settings.measure_share, objective.unit)
        sums = Sums()
        own = self._lay_out_own(chosen, objective.unit)
        for number, laid_out in enumerate([*own, *self._spare(chosen, len(own), objective.unit)]):
            batch = Batch(laid_out, self.models.device)
            autocast = torch.autocast(self.models.device.type, torch.bfloat16, enabled=self.settings.autocast)
            with self.models.reading(laid_out), autocast:
                found = drift.after_sums(objective, batch, self.models.scores(laid_out, batch))
            if number < len(own):
                _add(sums, found)
        tokens = sum(row.num_trained for row in chosen)
        return {name: value / tokens for name, value in self.ranks.summed(sums).items()}

    def _lay_out_own(self, rows: Sequence[Row], keep: Unit) -> list[MicroBatch]:
        """Micro-batches of this rank's share of the rows; all of them where it is alone."""
        numbers = shares(rows, self.ranks.size, keep)[self.ranks.rank]
        return self.layouts.of([rows[number] for number in numbers], keep)

    def _spare(self, rows: Sequence[Row], done: int, keep: Unit = "row") -> list[MicroBatch]:
        """Passes that count for nothing after the `done` ones, so that all ranks that share weights make as many."""
        if not (is_sharded(self.model) and rows):
            return []
        missing = self.ranks.most(done) - done
        unit = [row for row in rows if row.unit == rows[0].unit] if keep == "pair" else rows[:1]
        idle = [row.with_columns(coefficients=np.zeros(len(row), np.float32)) for row in unit]
        return self.layouts.of(idle, keep)[:1] * missing

    def _shard(self) -> None:
        check_parts_suffice(self.settings.optimizer)
        with self._update_mode():
            self.layouts.prove()
        shard(self.model, self.ranks)

    def _check_ranks(self, objective: Objective, temperature: float) -> None:
        """Raises: ValueError if the ranks do not begin with the same weights and settings."""
        if self.ranks.size > 1:
            self.ranks.check_same(
                digest_of_model(self.model, self.settings, objective, temperature, self.total_steps),
                "the ranks have different weights, learner settings or objectives: load the same model folder on each, "
                "or build the model from the same seed",
            )

    def _check_same_rows(self, rows: Sequence[Row]) -> None:
        """Raises: ValueError if the ranks have different rows."""
        if self.ranks.size > 1:
            self.ranks.check_same(
                digest_of_rows(rows),
                "the ranks have different rows: give all of them the rows of the whole step, such as those of "
                "`ranks.whole(groups)`; the learner shares them out",
            )

    @property
    def _parameters(self) -> list[torch.nn.Parameter]:
        """What the optimizers update."""
        return [p for o in self.optimizers for group in o.param_groups for p in group["params"]]

    def _metrics(self, sums: dict[str, float], rows: Sequence[Row]) -> Metrics:
        """Sums to means: losses per pass over the rows, an area with a count per count, the rest per token."""
        tokens = sums.pop("tokens", 1.0)
        divisors = {"loss": float(self.settings.num_epochs)}
        for name in [name for name in sums if name.endswith("/count")]:
            divisors[name.removesuffix("/count")] = sums.pop(name)
        metrics = {name: value / divisors.get(name.split("/")[0], tokens) for name, value in sums.items()}
        metrics["train/lr"] = float(self.optimizers[0].param_groups[0]["lr"])
        metrics["train/tokens"] = float(sum(row.num_trained for row in rows))
        metrics["train/context_tokens"] = float(sum(len(row) for row in rows))
        metrics["train/rows"] = float(len(rows))
        return metrics

    def _update_mode(self) -> AbstractContextManager[None]:
        """The model as it is during an update; restored after."""
        settings = self.settings
        return update_mode(
            self.model,
            attention=settings.attention,
            matmul_precision=settings.matmul_precision,
            dropout=settings.dropout,
            gradient_checkpointing=settings.gradient_checkpointing,
            norms=self._norms,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything but the model's weights: optimisers, float32 masters, counters, shuffling, the models' state."""
        return {
            **self.counters(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "masters": self.masters.state_dict(),
            "models": self.models.state_dict(),
        }

    def counters(self) -> dict[str, Any]:
        """The part of `state_dict` that is no tensor."""
        return {"num_steps": self.num_steps, "rng": self._rng.bit_generator.state}

    def load_counters(self, state: Mapping[str, Any]) -> None:
        self.num_steps, self._rng.bit_generator.state = state["num_steps"], state["rng"]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`; the caller loads the model's weights.

        Raises: ValueError if the state is of another optimiser, or only one side has a reference model or value head.
        """
        self.models.load_state_dict(state["models"])
        self.masters.load_state_dict(state["masters"])
        self.load_counters(state)
        load_states(self.optimizers, state["optimizers"])


def _add(sums: Sums, terms: Sums) -> None:
    for name, value in terms.items():
        sums[name] = sums[name] + value if name in sums else value

"""The model's forward pass over a micro-batch: scores of the trained tokens. Owns no loss.

The head, and the per-token maps of the last layer, run only at positions that predict a trained
token. Most of an agent's tokens are prompts and observations, for which this work is saved.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from agentrl.learning.batches import MicroBatch
from agentrl.learning.head import Head, TokenScores, token_scores
from agentrl.learning.lines.attention import at_trained
from agentrl.learning.parallel.sharded import body_of, last_hidden_state
from agentrl.learning.rows import Array
from agentrl.learning.terms import entropy_of_logits
from agentrl.learning.update_mode import is_checkpointing


class Batch:
    """The N trained tokens of a micro-batch as tensors, in the same form for every layout.

    Attributes:
        targets: (N,) int64, the trained tokens.
        rows: (N,) int64 number of the row that each token belongs to.
        units: (N,) int64 number of the unit that each token belongs to, below `num_units`.
        num_units: units of the micro-batch.
    """

    def __init__(self, laid_out: MicroBatch, device: torch.device) -> None:
        self._laid_out, self._device = laid_out, device
        self.targets = torch.from_numpy(laid_out.targets).to(device)
        self.rows = torch.from_numpy(laid_out.rows).to(device)
        self.units = torch.from_numpy(laid_out.units).to(device)
        self.num_units = laid_out.num_units
        self._columns: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.targets)

    def column(self, name: str) -> Tensor:
        """(N,) a column of the rows. Raises: ValueError if a row lacks it."""
        if name not in self._columns:
            self._columns[name] = torch.from_numpy(self._laid_out.column(name)).to(self._device)
        return self._columns[name]

    def unit_sum(self, values: Tensor) -> Tensor:
        """(N,) to (num_units,): the sum over the tokens of each unit."""
        return values.new_zeros(self.num_units).index_add(0, self.units, values)

    def unit_mean(self, values: Tensor) -> Tensor:
        """(N,) to (num_units,): the mean over the tokens of each unit."""
        counts = torch.bincount(self.units, minlength=self.num_units).clamp(min=1).to(values.dtype)
        return self.unit_sum(values) / counts


class TokenScorer:
    """Scores the trained tokens of a micro-batch under a `transformers` causal language model.

    Args:
        model: a causal LM, whose head is found by `get_output_embeddings`.
        temperature: divides the logits, as it did in sampling.
        chunk: most tokens whose logits exist at once; None makes them take 64 MiB.
    """

    def __init__(self, model: nn.Module, temperature: float = 1.0, chunk: int | None = None) -> None:
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be above 0 to train, and finite, got {temperature}")
        self.model: Any = model
        self.temperature, self.chunk = temperature, chunk
        self.device = next(model.parameters()).device
        self._last_maps: list[nn.Module] = []
        self._last_attention: nn.Module | None = None  # whose output nothing but these maps reads
        self._head = self._find_head()
        if self._head is not None:
            self._last_maps, self._last_attention = self._check_last_maps()

    def states(self, batch: MicroBatch) -> Tensor:
        """(N, H) last hidden states at the positions that predict the trained tokens; those of `distinct` if set."""
        index = self._put(batch.index if batch.distinct is None else batch.distinct.places)
        maps, attention = ([], None) if is_checkpointing(self.model) else (self._last_maps, self._last_attention)
        with _only_at(maps, index), at_trained(attention):
            hidden = last_hidden_state(self.model, **self._inputs(batch))
        states = hidden.flatten(0, 1)[index]
        return states if batch.distinct is None else states[self._put(batch.distinct.place_of)]

    def scores(self, batch: MicroBatch, states: Tensor | None = None) -> TokenScores:
        """Log-probability, entropy and rank of each trained token; logits exist in chunks where the head is known.

        Args: states: of `states`, where they are known already.
        """
        distinct = batch.distinct
        targets = self._put(batch.targets if distinct is None else distinct.targets)
        if self._head is not None:
            states = self.states(batch) if states is None else states
            found = token_scores(self._head_now(self._head), states, targets, self.chunk)
        else:
            found = self._scores_of_logits(batch, targets)
        return found if distinct is None else TokenScores(*(values[self._put(distinct.number_of)] for values in found))

    def _head_now(self, head: Head) -> Head:
        """The head with the weights that the model has now: those of a model spread over ranks are gathered anew."""
        layer = self.model.get_output_embeddings()
        return replace(head, weight=layer.weight, bias=layer.bias)

    def _scores_of_logits(self, batch: MicroBatch, targets: Tensor) -> TokenScores:
        distinct = batch.distinct
        index = self._put(batch.index if distinct is None else distinct.places[distinct.place_of])
        logits = self.model(**self._inputs(batch)).logits.flatten(0, 1)[index]
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        logits = logits / self.temperature
        is_top = logits.detach().argmax(-1) == targets
        return TokenScores(token_logprobs(logits, targets), entropy_of_logits(logits), is_top)

    def values(self, batch: MicroBatch, head: nn.Module, states: Tensor) -> Tensor:
        """(N,) what a value head says at the positions that predict the trained tokens. Args: states: of `states`."""
        values: Tensor = head(states.float()).squeeze(-1)
        return values if batch.distinct is None else values[self._put(batch.distinct.number_of)]

    def logprobs(self, batch: MicroBatch) -> Tensor:
        """(N,) log-probability in nats of each trained token."""
        return self.scores(batch).logprobs

    def _put(self, values: Array) -> Tensor:
        return torch.from_numpy(values).to(self.device)

    def _inputs(self, batch: MicroBatch) -> dict[str, Any]:
        inputs: dict[str, Any] = {"input_ids": self._put(batch.ids), "use_cache": False}
        if batch.positions is not None:
            inputs["position_ids"] = self._put(batch.positions)
        return inputs

    @torch.no_grad()
    def _find_head(self) -> Head | None:
        """The head that gives the model's logits, with the scale and soft cap of its configuration; None if unknown."""
        layer = self.model.get_output_embeddings()
        if type(layer) is not nn.Linear or body_of(self.model) is self.model:
            return None
        inputs, index = self._probe()
        expected = self._in_evaluation(self.model, inputs).logits.flatten(0, 1)[index]
        states = self._hidden(inputs)[index]
        config = self.model.config.get_text_config()
        scale = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        for head in (Head(layer.weight, layer.bias), Head(layer.weight, layer.bias, scale, cap)):
            if _close(expected, head.logits(states).to(expected.dtype)):
                return replace(head, temperature=self.temperature)
        return None

    @torch.no_grad()
    def _check_last_maps(self) -> tuple[list[nn.Module], nn.Module | None]:
        """Per-token maps of the last layer whose output is needed only at trained positions, if any, and its attention
        if that is read by one of them alone."""
        layers = getattr(body_of(self.model), "layers", None)
        if not isinstance(layers, nn.ModuleList) or not len(layers):
            return [], None
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
            return [], None
        if not _close(expected, actual):
            return [], None
        return maps, attention if found[1] in maps else None

    def _probe(self) -> tuple[dict[str, Any], Tensor]:
        """A few tokens, and the positions to compare."""
        ids = (torch.arange(16, device=self.device) * 7 % self.model.config.get_text_config().vocab_size).view(2, 8)
        return {"input_ids": ids, "use_cache": False}, torch.tensor([2, 5, 6, 11, 14], device=self.device)

    def _hidden(self, inputs: dict[str, Any]) -> Tensor:
        hidden: Tensor = self._in_evaluation(body_of(self.model), inputs).last_hidden_state
        return hidden.flatten(0, 1)

    def _in_evaluation(self, part: nn.Module, inputs: dict[str, Any]) -> Any:
        """What a part of the model answers without dropout."""
        flags = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        answer = part(**inputs)
        for module, training in flags:
            module.training = training
        return answer


class Scores:
    """Scores of the trained tokens under the model, computed at their first use. Logits never leave `head`.

    Scores have a gradient if they were made where gradients are on.

    Args:
        scorer: of the model.
        laid_out: the micro-batch.
        batch: the same as tensors.
        value_head: (H,) to (1,), if the model has one.
    """

    def __init__(
        self, scorer: TokenScorer, laid_out: MicroBatch, batch: Batch, value_head: nn.Module | None = None
    ) -> None:
        self._scorer, self._laid_out, self._batch, self._value_head = scorer, laid_out, batch, value_head
        self._with_gradient = torch.is_grad_enabled()

    @cached_property
    def _states(self) -> Tensor:
        with torch.set_grad_enabled(self._with_gradient):
            return self._scorer.states(self._laid_out)

    @cached_property
    def _scores(self) -> TokenScores:
        with torch.set_grad_enabled(self._with_gradient):
            states = None if self._value_head is None else self._states
            return self._scorer.scores(self._laid_out, states)

    @property
    def logprobs(self) -> Tensor:
        """(N,) log-probability in nats of each trained token."""
        return self._scores.logprobs

    @property
    def entropy(self) -> Tensor:
        """(N,) entropy in nats of the distribution of each trained token; without gradient under `no_grad`."""
        entropy = self._scores.entropy
        return entropy if torch.is_grad_enabled() else entropy.detach()

    @property
    def is_top(self) -> Tensor:
        """(N,) bool, whether the token is a most likely one of the model."""
        return self._scores.is_top

    @cached_property
    def values(self) -> Tensor:
        """(N,) predicted return before each trained token. Raises: ValueError if the model has no value head."""
        if self._value_head is None:
            raise ValueError("the model has no value head: an objective that reads values says so in `needs`")
        with torch.set_grad_enabled(self._with_gradient):
            return self._scorer.values(self._laid_out, self._value_head, self._states)


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
    """Whether tensors are equal up to rounding; a soft cap, a scale or a mix over positions changes far more."""
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

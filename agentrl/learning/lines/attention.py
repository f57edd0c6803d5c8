"""Attention over a tree batch: row by row, in the model's own implementation. Owns how a model is told about the rows.

A line of a tree batch holds each distinct token once. The tokens that a row adds to the tree attend to all tokens of
that row, whose keys and values are gathered from the line, as they would in a row of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from agentrl.learning.batches import Branches, MicroBatch, Paths
from agentrl.learning.rows import Ints

NAME = "agentrl_tree"


@dataclass(frozen=True)
class _Rows:
    """`Branches` as tensors; the places are flat."""

    count: int
    queries: Tensor
    keys: Tensor
    seen: Tensor | None

    @classmethod
    def of(cls, branches: Branches, device: torch.device) -> _Rows:
        queries, keys = (torch.from_numpy(values).to(device).flatten() for values in (branches.queries, branches.keys))
        seen = None if branches.seen is None else torch.from_numpy(branches.seen).to(device)[:, None]
        return cls(len(branches.queries), queries, keys, seen)


@dataclass(frozen=True)
class _Line:
    """`Paths` as tensors."""

    rows: tuple[_Rows, ...]
    owners: Tensor

    @classmethod
    def of(cls, paths: Paths, device: torch.device) -> _Line:
        rows = tuple(_Rows.of(branches, device) for branches in paths.branches)
        return cls(rows, torch.from_numpy(paths.owners).to(device))


class _Reading:
    """The line that goes through a model now.

    Attributes:
        whole: its rows.
        inner: the model's own attention.
    """

    def __init__(self, paths: Paths, places: Ints, device: torch.device, inner: str) -> None:
        self.whole, self.inner = _Line.of(paths, device), inner
        self._paths, self._places, self._device = paths, places, device

    @cached_property
    def trained(self) -> _Line:
        """The rows' tokens that predict a trained one, for a layer that is asked for no others."""
        return _Line.of(self._paths.at(self._places), self._device)


# The backward pass of a checkpointed layer calls attention again, where there is a GPU on a thread of its own, so this
# is no context variable. A process does one update at a time.
_reading: list[_Reading] = []
# Attention whose output is needed where a trained token is predicted, and nowhere else.
_at_trained: list[Any] = []


@contextmanager
def reading(model: Any, batch: MicroBatch, device: torch.device) -> Iterator[None]:
    """What forward and backward of a micro-batch stand in: the model's attention knows its rows, if it is a tree."""
    if batch.paths is None:
        yield
        return
    _attention_functions().register(NAME, _attention)
    inner = model.config._attn_implementation
    places = batch.index if batch.distinct is None else batch.distinct.places
    _reading.append(_Reading(batch.paths, places, device, inner))
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = inner
        _reading.pop()


@contextmanager
def at_trained(module: Any | None) -> Iterator[None]:
    """Within, this attention of a tree batch answers where a trained token is predicted; elsewhere anything."""
    _at_trained.append(module)
    try:
        yield
    finally:
        _at_trained.pop()


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
) -> tuple[Tensor, None]:
    """Args: query, key, value: (1, heads, U, D) of the line. Returns: (1, U, heads, D)."""
    now = _reading[-1]
    line = now.trained if _at_trained and _at_trained[-1] is module else now.whole
    more.pop("position_ids", None)  # those of the line
    attend = _inner(module, now.inner)
    query, key, value = (values[0].transpose(0, 1) for values in (query, key, value))
    mixed = []
    for rows in line.rows:
        own, keys, values = (
            _of_rows(of, places, rows.count)
            for of, places in ((query, rows.queries), (key, rows.keys), (value, rows.keys))
        )
        found, *_ = attend(module, own, keys, values, _mask(rows, now.inner, query.dtype), **more)
        mixed.append(found.flatten(0, 1))
    return torch.cat(mixed).index_select(0, line.owners)[None], None


def _of_rows(line: Tensor, places: Tensor, count: int) -> Tensor:
    """(U, heads, D) of the line to (R, heads, L, D) of its rows. Args: places: (R * L,); count: R."""
    gathered = line.index_select(0, places)
    return gathered.view(count, -1, *gathered.shape[1:]).transpose(1, 2)


def _inner(module: Any, name: str) -> Callable[..., Any]:
    """The model's own attention."""
    if name != "eager":
        found: Callable[..., Any] = _attention_functions()[name]
        return found
    eager: Callable[..., Any] = sys.modules[type(module).__module__].eager_attention_forward
    return eager


def _mask(rows: _Rows, name: str, dtype: torch.dtype) -> Tensor | None:
    """What sees what, as the implementation takes it: bool, or numbers that are added to scores.

    None where attention is plainly causal; `eager` alone does not do that by itself.
    """
    seen = rows.seen
    if name != "eager":
        return seen
    if seen is None:
        length = len(rows.keys) // rows.count
        seen = torch.ones((1, 1, length, length), dtype=torch.bool, device=rows.keys.device).tril_()
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)


def _attention_functions() -> Any:
    """The attention implementations that `transformers` knows, by name."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS  # the torch-free door

    return ALL_ATTENTION_FUNCTIONS

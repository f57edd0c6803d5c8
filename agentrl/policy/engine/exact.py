"""Shapes of products for which a row's result is the same bits, whatever else is in the batch.

A matrix product adds its terms in an order that depends on the sizes of the matrices, so the last bits of a token's
log-probability change with the number of its neighbours. Some sizes share one order. Which ones is found by trial on
this machine, for the model's own layers; nothing is assumed. `AnyShapes` takes shapes as they come.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from numpy.typing import NDArray
from torch import Tensor, nn

from agentrl.policy.engine.slots import KvSlots

Counts = NDArray[np.int64]

TILE = 16
"""Rows of the product that all others are compared with."""
_SIZES = (1, 2, *range(4, 64, 4), *range(64, 129, TILE), 192, 256, 384, 512)
_LANES = 128
"""Elementwise kernels compute a rest that does not fill this many numbers otherwise than the whole."""
KEYS = 64
"""Keys are attended in multiples of this."""
_SERIAL = 1 << 14
"""Numbers that one thread computes: PyTorch shares out elementwise work only above 32,768."""
CONTEXTS = 2 * KEYS
"""A context is a multiple of this."""
_QUERIES = (*range(1, 65), 96, 128, 192, 256, 320, 768, 832, 1024)
_FEWEST_QUERIES = (1, 2, 4, 8, 16, 32)
_SPANS = (64, 320, 512, 1088)
_TRIED = 2
_MOST_DRAWN = 1 << 24
_DRAWS = 4
_CONTEXT, _FIRST, _DECODED = 40, 17, 3


class NotExact(Exception):
    """No shapes were found for which results are the same bits."""


class Shapes(Protocol):
    """The shapes that a forward pass gives its products.

    Attributes:
        alone: every prefill is attended alone.
        is_causal: a prefill into an empty slot is attended as a whole, without a mask.
    """

    alone: bool
    is_causal: bool

    def rows(self, count: int) -> int:
        """To how many rows a batch of `count` tokens is filled up."""
        ...

    def linear(self, layer: Any, x: Tensor) -> Tensor:
        """The layer's output for (N, D) rows, N as `rows` gave it."""
        ...

    def silu(self, x: Tensor) -> Tensor:
        """`x * sigmoid(x)` of (N, D), N as `rows` gave it. It may overwrite `x`."""
        ...

    def classes(self, lengths: Counts) -> Counts:
        """(N,) a number for each query, by how many keys it sees: those of one number may be attended together."""
        ...

    def span(self, kind: int, longest: int) -> int:
        """How many keys queries of a class read, the longest of which sees `longest`."""
        ...

    def queries(self, count: int) -> int:
        """To how many query rows an attention is filled up."""
        ...


class AnyShapes:
    """Shapes as they come: nothing is filled up."""

    alone: bool = False
    is_causal: bool = True

    def rows(self, count: int) -> int:
        return count

    def linear(self, layer: Any, x: Tensor) -> Tensor:
        return apply_linear(layer, x)

    def silu(self, x: Tensor) -> Tensor:
        return F.silu(x)

    def classes(self, lengths: Counts) -> Counts:
        return np.zeros(len(lengths), np.int64)

    def span(self, kind: int, longest: int) -> int:
        return longest

    def queries(self, count: int) -> int:
        return count


@dataclass(frozen=True)
class AttentionShape:
    """What decides in which order an attention adds its terms.

    Attributes:
        group: query heads that share a key head.
        kv_heads, width: key heads, and numbers of each.
        context: most keys, a multiple of `KEYS`.
        dtype, device: of the numbers.
        threads: of torch.
    """

    group: int
    kv_heads: int
    width: int
    context: int
    dtype: torch.dtype
    device: torch.device
    threads: int

    def drawn(self, *shape: int) -> Tensor:
        """Normal numbers, the same for the same shape."""
        return _drawn(shape, self.dtype, self.device)


@cache
def exact_shapes(attention: AttentionShape) -> ExactShapes:
    """The shapes for a model, found once in a process. Raises: NotExact."""
    return ExactShapes(attention)


class ExactShapes:
    """Shapes that were found to share the order of every sum.

    Args: attention: of the model's layers, which are all alike.
    Raises: NotExact if there are none for attention; `linear` raises it for a layer.
    """

    alone: bool = True
    is_causal: bool = False

    def __init__(self, attention: AttentionShape) -> None:
        self._attention = attention
        self._sizes: dict[tuple[Any, ...], tuple[int, ...]] = {}
        self._common: tuple[int, ...] = ()
        self._widths = {attention.kv_heads * attention.width}
        self._fewest = _query_rows(attention)
        self._upto: list[int] = []
        self._fixed: list[bool] = []

    def rows(self, count: int) -> int:
        tiles = _ceil(count, TILE)
        return next((size for size in self._common if count <= size < tiles), tiles)

    def linear(self, layer: Any, x: Tensor) -> Tensor:
        key = _signature(layer)
        sizes = self._sizes.get(key)
        if sizes is None:
            sizes = self._try(layer, key, x)
        if len(x) in sizes:
            return apply_linear(layer, x)
        filled = F.pad(x, (0, 0, 0, -len(x) % TILE))
        parts = torch.split(filled, parts_of(len(filled), sizes))
        return torch.cat([apply_linear(layer, part) for part in parts])[: len(x)]

    def _try(self, layer: Any, key: tuple[Any, ...], x: Tensor) -> tuple[int, ...]:
        """Find the sizes of a kind of layer, and those that all kinds have in common."""
        product, draws = _trial_of(layer)
        found = self._sizes[key] = row_sizes(product, x, draws)
        self._widths.add(x.shape[-1])
        whole = _LANES // math.gcd(_LANES, *self._widths)
        of_all = set.intersection(*map(set, self._sizes.values()))
        self._common = tuple(size for size in sorted(of_all) if size % whole == 0)
        return found

    def silu(self, x: Tensor) -> Tensor:
        # Where threads share the work, the rest at the end of each one's share is computed with other rounding.
        for part in torch.split(x.view(-1), _SERIAL):
            F.silu(part, inplace=True)
        return x

    def classes(self, lengths: Counts) -> Counts:
        self._reach(int(lengths.max()))
        return np.searchsorted(self._upto, lengths)

    def span(self, kind: int, longest: int) -> int:
        return self._upto[kind] if self._fixed[kind] else _ceil(longest, KEYS)

    def queries(self, count: int) -> int:
        return _ceil(count, self._fewest)

    def _reach(self, length: int) -> None:
        """Find the classes up to a number of keys."""
        while not self._upto or self._upto[-1] < length:
            first = (self._upto[-1] if self._upto else 0) + KEYS
            last = self._last_alike(first)
            # One multiple alone would be a class of few lengths: two of them read the larger span instead.
            alone = last == first and first + KEYS <= self._attention.context
            self._upto.append(first + KEYS if alone else last)
            self._fixed.append(alone)

    def _last_alike(self, first: int) -> int:
        """The largest span such that spans from `first` to it give all their queries the same bits."""
        shape, last = self._attention, first
        rows = self.queries(shape.group)
        tried = {first: _Attention(shape, shape.context, first - KEYS // 2, rows)}
        while last + KEYS <= shape.context:
            wider = last + KEYS
            if any(not torch.equal(one(wider), one(span)) for span, one in tried.items()):
                break
            last = wider
            tried[last] = _Attention(shape, shape.context, last - KEYS // 2, rows)
        return last


def apply_linear(layer: Any, x: Tensor) -> Tensor:
    """A linear map, with adapters where the layer has them."""
    if type(layer) is nn.Linear:
        return F.linear(x, layer.weight, layer.bias)
    adapted: Tensor = layer(x)
    return adapted


def row_sizes(product: Callable[[Tensor], Tensor], like: Tensor, draws: int = 1) -> tuple[int, ...]:
    """Numbers of rows at which a product gives each row the bits that it gives it at `TILE` rows, ascending.

    Args:
        product: (N, D) -> (N, E), row by row.
        like: (…, D) its kind of input.
        draws: inputs that are tried.
    Raises: NotExact if already `TILE` rows depend on each other.
    """
    found = list(_SIZES)
    for number in range(draws):
        half = _drawn((max(_SIZES), like.shape[-1] // 2), like.dtype, like.device, number)
        x = F.pad(torch.cat((half, -half), dim=1), (0, like.shape[-1] % 2))
        tiles = torch.cat([product(part) for part in torch.split(x, TILE)])
        moved = torch.arange(TILE - 1, -1, -1, device=x.device)
        if not torch.equal(product(x[:TILE][moved]), tiles[:TILE][moved]):
            raise NotExact(f"a product of {TILE} rows depends on the order of the rows")
        found = [
            size
            for size in found
            if torch.equal(product(x[:size]), tiles[:size]) and torch.equal(product(x[-size:]), tiles[-size:])
        ]
    return tuple(found)


def _trial_of(layer: Any) -> tuple[Callable[[Tensor], Tensor], int]:
    """A product like the layer's in which another order of a sum shows, and how many draws it takes.

    The second half of its drawn weights repeats the first. With inputs whose second half is the first's negative, every
    sum is 0 but for rounding, so that all bits of the result tell the order. A large layer keeps its own weights, to
    save memory; its results in bfloat16 hide most differences.
    """
    parameters = dict(layer.named_parameters())
    if max(p.numel() for p in parameters.values()) > _MOST_DRAWN:
        return lambda x: apply_linear(layer, x), _DRAWS
    repeated = {name: _repeated(p) for name, p in parameters.items()}
    return lambda x: torch.func.functional_call(layer, repeated, (x,)), 1


def _repeated(like: Tensor) -> Tensor:
    """Drawn weights whose second half repeats the first; zeros for a bias."""
    if like.dim() < 2:
        return torch.zeros_like(like)
    half = _drawn((like.shape[0], like.shape[1] // 2), like.dtype, like.device)
    return F.pad(torch.cat((half, half), dim=1), (0, like.shape[1] % 2))


def parts_of(count: int, sizes: Sequence[int]) -> list[int]:
    """A multiple of `TILE` as a sum of sizes, the largest first."""
    parts = []
    for size in reversed(sizes):
        while count >= size:
            parts.append(size)
            count -= size
    return parts


class _Attention:
    """Attention of drawn queries that see `length` of at most `span` keys, over as many keys as asked for."""

    def __init__(self, shape: AttentionShape, span: int, length: int, rows: int | None = None) -> None:
        rows = rows or shape.group
        self.query = shape.drawn(_TRIED, shape.kv_heads, rows, shape.width)
        keys = shape.drawn(2, _TRIED, shape.kv_heads, span, shape.width)
        self.keys, self.values = keys[0], keys[1]
        hidden = torch.arange(span, device=shape.device) >= length
        self.mask = torch.zeros(span, dtype=shape.dtype, device=shape.device).masked_fill_(hidden, -torch.inf)

    def __call__(self, span: int, query: Tensor | None = None) -> Tensor:
        query = self.query if query is None else query
        mask = self.mask[:span].expand(len(query), 1, query.shape[2], -1)
        keys, values, shared = self.keys[:, :, :span], self.values[:, :, :span], query.shape[1] > self.keys.shape[1]
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, enable_gqa=shared)


def _query_rows(shape: AttentionShape) -> int:
    """The smallest number such that attentions of its multiples give a query the same bits. Raises: NotExact."""
    spans = [span for span in _SPANS if span <= shape.context] or [shape.context]
    for fewest in _FEWEST_QUERIES:
        if all(_rows_alike(shape, span, fewest) for span in spans):
            return fewest
    raise NotExact("attention depends on the number of queries")


def _rows_alike(shape: AttentionShape, span: int, fewest: int) -> bool:
    attention = _Attention(shape, span, span - KEYS // 2, max(_QUERIES))
    all_rows = attention.query
    whole = attention(span)
    for rows in _QUERIES:
        if rows % fewest:
            continue
        first, last = all_rows[:, :, :rows], all_rows[:, :, -rows:]
        if not torch.equal(attention(span, first), whole[:, :, :rows]):
            return False
        if not torch.equal(attention(span, last), whole[:, :, -rows:]):
            return False
        if rows % shape.group == 0 and rows // shape.group % fewest == 0:
            heads = first.unflatten(2, (shape.group, -1)).flatten(1, 2)  # type: ignore[no-untyped-call]
            if not torch.equal(attention(span, heads).flatten(1, 2), whole[:, :, :rows].flatten(1, 2)):
                return False
    return True


def _signature(layer: Any) -> tuple[Any, ...]:
    """What decides in which order a layer's sums are added."""
    if type(layer) is nn.Linear:  # asked for at every product, so without the generator of `parameters`
        weight = layer.weight
        return weight.shape, weight.dtype, weight.device, layer.bias is not None
    return tuple((tuple(p.shape), p.dtype, p.device) for p in layer.parameters())


def _drawn(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, number: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + number)
    return torch.randn(shape, generator=generator).to(device, dtype)


def _ceil(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def prove(forward: Callable[..., Tensor], kv: KvSlots, size: int) -> None:
    """Compare a context that is computed at once with one that is computed in parts, among others.

    Args:
        forward: an exact forward pass over `kv`, which is empty afterwards.
        size: of the vocabulary.
    Raises: NotExact if their logits differ in one bit.
    """
    ids = np.random.Generator(np.random.Philox(0)).integers(0, size, _CONTEXT).astype(np.int32)
    none = np.zeros(0, np.int64)
    others = [(slot, ids[slot : slot + 5]) for slot in range(1, min(kv.slots, 4))]
    whole = forward(none, none, [(0, ids)])[0]
    kv.drop()
    try:
        first = [(0, ids[:_FIRST]), *others]
        forward(none, none, first)
        for slot, fed in first:
            kv.write_ids(slot, fed)
        rows = np.arange(len(first))
        for at in range(_FIRST, _FIRST + _DECODED):
            last = forward(rows, np.full(len(rows), ids[at], np.int64), [])
            for slot, _ in first:
                kv.write_ids(slot, ids[at : at + 1])
        last = forward(none, none, [(0, ids[_FIRST + _DECODED :])])
    finally:
        kv.drop()
    if not torch.equal(last[0], whole):
        raise NotExact("a context that is computed in parts has other logits than one that is computed at once")

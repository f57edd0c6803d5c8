"""The processes that train one model together: each works on a share of a step's rows. Owns all that they exchange.

Every rank holds the whole model and is given all rows of a step, so that coefficients, minibatches and metrics are
those of the step. Which rows are its own is `agentrl.learning.batches.shares`. It starts no process.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from agentrl.learning.rows import Row

T = TypeVar("T")
_BUCKET = 1 << 24  # elements that are summed at once, so that no second copy of all gradients exists
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True)
class Ranks:
    """A process group of `torch.distributed`, or this process alone.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
        group: of `torch.distributed`; None is its default group.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    @classmethod
    def of(cls, group: dist.ProcessGroup | None = None) -> Ranks:
        """The ranks of a process group that is initialised.

        Args: group: None is the default group.
        """
        return cls(dist.get_rank(group), dist.get_world_size(group), group)

    def part(self, items: Sequence[T]) -> list[T]:
        """This rank's part of items that all ranks have: every `size`-th one."""
        return list(items[self.rank :: self.size])

    def whole(self, own: Sequence[T]) -> list[T]:
        """All items in their order, from the `part` of each rank; the items are pickled.

        Raises: ValueError on all ranks if the lengths are not those of the parts of one sequence.
        """
        parts = self._gathered(list(own))
        total = sum(len(part) for part in parts)
        if [len(part) for part in parts] != [len(range(rank, total, self.size)) for rank in range(self.size)]:
            raise ValueError(
                f"the ranks gave {', '.join(str(len(part)) for part in parts)} items: give one item for each of `part`"
            )
        return [parts[number % self.size][number // self.size] for number in range(total)]

    def union(self, own: Mapping[int, T]) -> dict[int, T]:
        """What each rank found, by number; the numbers of the ranks differ."""
        return {number: item for part in self._gathered(dict(own)) for number, item in part.items()}

    def summed(self, sums: Mapping[str, Tensor | float]) -> dict[str, float]:
        """Sums by name over all ranks, the same number on each; a name may be missing on some."""
        total: dict[str, float] = {}
        for part in self._gathered({name: float(value) for name, value in sums.items()}):
            for name, value in part.items():
                total[name] = total.get(name, 0.0) + value
        return total

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its sum over all ranks, which is bit for bit the same on each.

        A parameter without a gradient on any rank is left without one, so that no optimizer moves it.

        Args: parameters: the same ones in the same order on all ranks.
        """
        if self.size == 1 or not parameters:
            return
        has = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=parameters[0].device)
        dist.all_reduce(has, dist.ReduceOp.MAX, group=self.group)
        gradients = []
        for parameter, anywhere in zip(parameters, has.tolist(), strict=True):
            if anywhere and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat, group=self.group)
            for gradient, total in zip(bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True):
                gradient.copy_(total.view_as(gradient))

    def most(self, own: int) -> int:
        """The largest of the ranks' numbers."""
        return max(self._gathered(own))

    def check_same(self, digest: str, message: str) -> None:
        """Raises: ValueError with the message, on all ranks, if they do not have the same digest."""
        if len(set(self._gathered(digest))) > 1:
            raise ValueError(message)

    def _gathered(self, own: T) -> list[T]:
        """The object of each rank, in their order."""
        if self.size == 1:
            return [own]
        found: list[T | None] = [None] * self.size
        dist.all_gather_object(found, own, group=self.group)
        return found  # type: ignore[return-value]


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one type and device, of `_BUCKET` elements or one tensor."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        alike = bucket and (bucket[0].dtype, bucket[0].device) == (gradient.dtype, gradient.device)
        if bucket and (not alike or sum(g.numel() for g in bucket) + gradient.numel() > _BUCKET):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def digest_of_model(model: nn.Module, *settings: object) -> str:
    """Of all weights, and of settings as they print, without addresses in memory."""
    found = hashlib.sha256(_ADDRESS.sub("", repr(settings)).encode())
    for name, weight in model.state_dict().items():
        found.update(name.encode())
        found.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def digest_of_rows(rows: Sequence[Row]) -> str:
    """Of all that rows hold."""
    found = hashlib.sha256()
    for row in rows:
        found.update(f"{len(row)} {row.trajectory} {row.unit}".encode())
        for name, values in (("ids", row.ids), ("mask", row.mask), *sorted(row.columns.items())):
            found.update(name.encode() + values.tobytes())
    return found.hexdigest()

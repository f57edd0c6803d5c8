"""Token ids of contexts that grow: 4 bytes for each token of an episode, however many turns it has."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt

_INT32 = "i"


class TokenIds(Sequence[int]):
    """The first ids of a list that others may share, as an immutable sequence; it equals a tuple of the same ids.

    The context of each turn of an episode begins with that of the turn before. Such contexts share one list, so that
    the episode holds each token once. Slices are tuples.

    Args: ids: whole numbers of 32 bits.
    """

    __slots__ = ("_list", "_size")

    def __init__(self, ids: Sequence[int] = ()) -> None:
        self._list = array(_INT32, ids)
        self._size = len(self._list)

    def followed_by(self, ids: Sequence[int]) -> TokenIds:
        """These ids and further ones. Only the first continuation shares the list; another one copies."""
        if len(self._list) == self._size:
            self._list.extend(array(_INT32, ids))
            return self._first(self._list, self._size + len(ids))
        whole = self._list[: self._size]
        whole.extend(ids)
        return self._first(whole, len(whole))

    @classmethod
    def after(cls, earlier: TokenIds | None, ids: Sequence[int]) -> TokenIds:
        """Ids, in the list of an earlier context where they begin with it. Raises: OverflowError beyond 32 bits."""
        if earlier is None or common_prefix(earlier, ids) < len(earlier):
            return cls(ids)
        return earlier.followed_by(ids[len(earlier) :])

    @classmethod
    def sharing(cls, ids: Sequence[int], earlier: Sequence[int] | None) -> Sequence[int]:
        """As `after`; ids that need more than 32 bits come back as they are. Raises: TypeError for other values."""
        if isinstance(ids, TokenIds):
            return ids
        try:
            return cls.after(earlier if isinstance(earlier, TokenIds) else None, ids)
        except OverflowError:
            return ids

    @classmethod
    def _first(cls, whole: array[int], size: int) -> TokenIds:
        made = cls.__new__(cls)
        made._list, made._size = whole, size
        return made

    def shares_list_with(self, other: Sequence[int]) -> bool:
        """Whether one of the two is known to begin with the other, without a look at the ids."""
        return isinstance(other, TokenIds) and self._list is other._list

    def tolist(self) -> list[int]:
        """The ids as a list."""
        return self._list[: self._size].tolist()

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[int, ...]: ...
    def __getitem__(self, index: int | slice) -> int | tuple[int, ...]:
        if isinstance(index, slice):
            return tuple(
                self._list[slice(*index.indices(self._size))] if index.step in (None, 1) else self.tolist()[index]
            )
        if not -self._size <= index < self._size:
            raise IndexError(f"there are {self._size} token ids, and none at {index}")
        return self._list[index if index >= 0 else index + self._size]

    def __iter__(self) -> Iterator[int]:
        return islice(self._list, self._size)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        # Always a copy: a view would forbid the list to grow.
        return np.array(self._list[: self._size], dtype=np.int32 if dtype is None else dtype)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, TokenIds):
            if self._size != other._size:
                return False
            return self._list is other._list or self._list[: self._size] == other._list[: other._size]
        return tuple(self) == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __add__(self, other: Sequence[int]) -> tuple[int, ...]:
        return (*self, *other)

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenIds._first, (self._list, self._size)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading ids of the two are equal."""
    size = min(len(first), len(second))
    if isinstance(first, TokenIds) and first.shares_list_with(second):
        return size
    differs = _leading(first, size) != _leading(second, size)
    return int(differs.argmax()) if differs.any() else size


def _leading(ids: Sequence[int], size: int) -> npt.NDArray[np.int64]:
    return np.asarray(ids._list[:size] if isinstance(ids, TokenIds) else ids[:size], np.int64)

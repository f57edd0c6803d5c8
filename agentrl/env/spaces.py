"""Gymnasium spaces of conversations: the messages an environment shows and the turns it takes.

Owns how both pass through Gymnasium's vector environments, shared memory included.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator, Sequence
from ctypes import c_uint8
from typing import Any, Self

import gymnasium
from gymnasium.spaces import Tuple
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.vector.utils import (
    batch_differing_spaces,
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)

from agentrl.messages import Action, Message

_WORDS = ("hello", "search", "42", "yes", "I do not know", "price", "")
_HEADER_BYTES = 8
DEFAULT_SHARED_BYTES = 1 << 18


class _ConversationSpace(gymnasium.Space[Any]):
    """What both spaces share: they are equal by type, and a copy has its own random stream."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def for_instance(self) -> Self:
        """A copy with a random stream of its own, so that environments share no generator."""
        twin = copy.copy(self)
        twin._np_random = None  # type: ignore[assignment]  # as in Space.__init__
        return twin


class MessagesSpace(_ConversationSpace):
    """Tuples of new messages; any text.

    Args:
        shared_bytes: bytes that AsyncVectorEnv's shared memory keeps for one environment's
            observation; a longer observation is an error that names this option.
    """

    def __init__(self, *, shared_bytes: int = DEFAULT_SHARED_BYTES) -> None:
        if shared_bytes <= _HEADER_BYTES:
            raise ValueError(f"shared_bytes must be more than {_HEADER_BYTES}, got {shared_bytes}")
        super().__init__()
        self.shared_bytes = shared_bytes

    def sample(self, mask: Any = None, probability: Any = None) -> tuple[Message, ...]:
        return (Message("user", str(self.np_random.choice(_WORDS))),)

    def contains(self, x: Any) -> bool:
        return isinstance(x, tuple) and all(isinstance(message, Message) for message in x)


class ActionSpace(_ConversationSpace):
    """Assistant turns: an `Action`, plain text, or an OpenAI assistant message."""

    def sample(self, mask: Any = None, probability: Any = None) -> Any:
        return str(self.np_random.choice(_WORDS))

    def contains(self, x: Any) -> bool:
        return isinstance(x, (Action, str, dict))


class SharedObservations(Sequence[tuple[Message, ...]]):
    """A live view of the observations in shared memory; copying it takes a snapshot.

    AsyncVectorEnv reads shared memory once, when it is built. Later it returns deep copies of what it
    read. So this object reads on access, and its deep copy is plain data.
    """

    def __init__(self, memory: Any, slot_bytes: int, n: int) -> None:
        self._memory, self._slot_bytes, self._n = memory, slot_bytes, n

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self)[index]
        if not -self._n <= index < self._n:
            raise IndexError(f"there are {self._n} environments, got index {index}")
        start = (index % self._n) * self._slot_bytes
        view = memoryview(self._memory.get_obj()).cast("B")
        size = int.from_bytes(view[start : start + _HEADER_BYTES], "little")
        body = start + _HEADER_BYTES
        return pickle.loads(view[body : body + size]) if size else ()

    def __iter__(self) -> Iterator[tuple[Message, ...]]:
        return (self[index] for index in range(self._n))

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[tuple[Message, ...], ...]:
        return tuple(self)


@create_shared_memory.register(MessagesSpace)
def _create_shared(space: MessagesSpace, n: int = 1, ctx: Any = None) -> Any:
    return ctx.Array(c_uint8, n * space.shared_bytes)


@read_from_shared_memory.register(MessagesSpace)
def _read_shared(space: MessagesSpace, shared_memory: Any, n: int = 1) -> SharedObservations:
    return SharedObservations(shared_memory, space.shared_bytes, n)


@write_to_shared_memory.register(MessagesSpace)
def _write_shared(space: MessagesSpace, index: int, value: tuple[Message, ...], shared_memory: Any) -> None:
    body = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    size = len(body)
    if size + _HEADER_BYTES > space.shared_bytes:
        raise ValueError(
            f"an observation of {size} bytes does not fit into the {space.shared_bytes} bytes of shared memory: "
            f"set `observation_space = MessagesSpace(shared_bytes={2 * size})` on the environment, "
            'or pass vector_kwargs={"shared_memory": False}'
        )
    start = index * space.shared_bytes
    view = memoryview(shared_memory.get_obj()).cast("B")
    view[start : start + _HEADER_BYTES] = size.to_bytes(_HEADER_BYTES, "little")
    view[start + _HEADER_BYTES : start + _HEADER_BYTES + size] = body


# Gymnasium dispatches this function by the type of one space, although its annotation names the sequence.
@batch_differing_spaces.register(MessagesSpace)
@batch_differing_spaces.register(ActionSpace)
def _batch_differing(spaces: Sequence[_ConversationSpace]) -> Tuple[Any]:  # type: ignore[misc]
    return Tuple([space.for_instance() for space in spaces])


@is_space_dtype_shape_equiv.register(MessagesSpace)
@is_space_dtype_shape_equiv.register(ActionSpace)
def _equivalent(space_1: _ConversationSpace, space_2: Any) -> bool:
    return type(space_1) is type(space_2)

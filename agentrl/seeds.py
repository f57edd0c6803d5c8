"""Seeds of a run: every random stream is a function of the run's seed and a purpose."""

from __future__ import annotations

import random
import types
from collections.abc import Coroutine, Generator, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
_GLOBAL = 0x52414E44  # tells an episode's global generators from its own one, which has the same seed


class Purpose(IntEnum):
    """What a random stream is for; the numbers are part of every recorded run and never change."""

    MODEL = 0
    DEMONSTRATIONS = 1
    WARM_START_ORDER = 2
    TASK_ORDER = 3
    GROUPS = 4
    EVALUATION = 5
    MIXTURE = 6
    CURRICULUM = 7
    FEW_SHOT = 8


def sequence(seed: int, purpose: Purpose, *key: int) -> np.random.SeedSequence:
    """The seed sequence of a purpose, and of a step or index within it."""
    return np.random.SeedSequence(seed, spawn_key=(int(purpose), *key))


def integer(seed: int, purpose: Purpose, *key: int) -> int:
    """A 32-bit seed of a purpose."""
    return int(sequence(seed, purpose, *key).generate_state(1)[0])


class GlobalGenerators:
    """States of Python's `random` and of `numpy.random` that belong to one episode.

    For code of third parties that draws from the generators of the process: while a coroutine runs under `around`,
    those are the episode's. Each step is swapped in and out, so that episodes of one event loop do not share them.

    Args: seed: of the episode; None draws one.
    """

    def __init__(self, seed: int | None) -> None:
        entropy = np.random.SeedSequence(None if seed is None else [seed, _GLOBAL])
        first, second = (int(word) for word in entropy.generate_state(2))
        self._states: Any = (random.Random(first).getstate(), np.random.RandomState(second).get_state())
        self.is_in = False

    @types.coroutine
    def around(self, coroutine: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        """Drive a coroutine; what it draws inside another one of this episode comes from the same generators."""
        if self.is_in:
            return (yield from coroutine.__await__())
        go, given = coroutine.send, None
        while True:
            self._swap()
            try:
                yielded = go(given)
            except StopIteration as stop:
                result: T = stop.value
                return result
            finally:
                self._swap()
            go, given = coroutine.send, None
            try:
                given = yield yielded
            except BaseException as error:
                go, given = coroutine.throw, error

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Run plain code with these generators in the place of the process's."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        outside = random.getstate(), np.random.get_state()
        random.setstate(self._states[0])
        np.random.set_state(self._states[1])
        self._states, self.is_in = outside, not self.is_in

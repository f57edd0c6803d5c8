"""Seeds of a run: every random stream is a function of the run's seed and a purpose."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


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

"""Preferences at random: the control that knows nothing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from agentrl.rollout.feedback.all_pairs import AllPairs
from agentrl.trajectory import Trajectory


@dataclass(frozen=True)
class RandomPairs(AllPairs):
    """The score of an episode is a random number in [0, 1) that depends on its name alone.

    Attributes:
        salt: other numbers for another salt.
    """

    salt: int = 0

    def score(self, trajectory: Trajectory) -> float | None:
        name = f"{self.salt}/{trajectory.episode_id}".encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=4).digest()) / 2**32

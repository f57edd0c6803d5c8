"""Episodes that a limit cut off, and those that are discarded."""

from __future__ import annotations

from agentrl.bench.measures.endings import Faults, Truncated, fault_causes, truncations
from agentrl.trajectory import Ending
from tests.bench.measures.episodes import FAULT, episode

EPISODES = [
    episode("a", ending=Ending("limit", "max_turns")),
    episode("a", ending=Ending("limit", "max_tokens")),
    episode("b"),
    episode("b", ending=Ending("limit", "max_turns")),
    episode("b", ending=FAULT),
]


def test_the_share_that_a_limit_cut_off() -> None:
    assert (Truncated().name, Truncated("max_turns").name) == ("truncated", "truncated:max_turns")
    assert Truncated()(EPISODES).mean == (2 / 2 + 1 / 2) / 2
    assert Truncated("max_turns")(EPISODES).mean == 0.5
    assert truncations(EPISODES) == {"max_turns": 2, "max_tokens": 1}


def test_the_share_that_is_discarded() -> None:
    assert Faults()(EPISODES).mean == (0 + 1 / 3) / 2
    assert fault_causes([*EPISODES, episode(ending=Ending("fault"))]) == {"the server is gone": 1, "unknown": 1}

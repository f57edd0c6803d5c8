"""Episodes that a limit cut off, and those that are discarded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentrl.bench.measures.endings import (
    Counts,
    Faults,
    Truncated,
    by_cause,
    fault_causes,
    truncations,
)
from agentrl.messages import Action, Message
from agentrl.trajectory import Ending, Labels, Trajectory, Turn, follows_actions
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


DONE = Turn((), Action("hi"), next_observation=(Message("user", "and?"),), env_s=0.01)
SENT, ABORTED = Turn((), Action("hi")), Turn((), Action("h", finish_reason="abort"))


def discarded(detail: str, *turns: Turn) -> Trajectory:
    found = episode(ending=Ending("fault", detail, "server"))
    found.turns = list(turns)
    return found


@pytest.mark.parametrize(
    ("found", "follows"),
    [
        (discarded("EnvFault: reset raised KeyError: 3"), False),
        (discarded("EnvFault: step raised KeyError: 3", SENT), True),
        (discarded("EnvFault: step raised KeyError: 3", DONE, SENT), True),
        (discarded("SandboxFault: the worker is gone", DONE, DONE), True),
        (discarded("PolicyFault: the server is gone"), False),
        (discarded("PolicyFault: the server is gone", DONE), False),
        (discarded("PolicyFault: the policy aborted the turn", ABORTED), False),
        (discarded("PolicyFault: the server of the simulated user is gone", DONE, SENT), True),
        (episode(ending=Ending("error", "refused")), False),
    ],
)
def test_which_discards_follow_the_actions_of_the_model(found: Trajectory, follows: bool) -> None:
    assert follows_actions(found) is follows
    assert Counts.of([found]).after_actions == follows


def test_code_of_the_environment_that_fails_for_everybody_is_warned_of() -> None:
    """Where no episode shows that a tool works, a broken one counts against the model."""
    broken = episode("a", ending=Ending("error", "EnvFault: tool 'look' raised KeyError: 'x' (env.py:9)", "author"))
    warning = Counts.of([broken, broken]).warning
    assert warning is not None
    assert warning.startswith("all 2 scored episodes ended because the environment's own code raised")
    assert "`agentrl check`" in warning
    assert Counts.of([broken, episode("b")]).warning is None
    assert Counts.of([episode("b", ending=Ending("error", "refused"))]).warning is None


def test_attempted_is_scored_and_discarded_by_cause() -> None:
    again = replace(episode("c", reward=1.0), labels=Labels(attempt=2))
    refused = episode("b", ending=Ending("error", "refused"))
    author = episode("b", ending=Ending("error", "EnvFault: step raised KeyError: 3", "author"))
    gone = [episode("d", ending=Ending("fault", "x", who)) for who in ("network", "server", "server")]
    counts = Counts.of([*EPISODES, again, refused, author, *gone])
    assert (counts.attempted, counts.scored, counts.num_discarded) == (11, 7, 4)
    assert counts.to_json() == {
        "n_attempted": 11,
        "discarded": {"author": 0, "server": 2, "network": 1, "sandbox": 0, "host": 0, "unknown": 1},
        "errors": {"refused": 1, "EnvFault: step raised KeyError: 3": 1},
        "failed": {"author": 1, "server": 0, "network": 0, "sandbox": 0, "host": 0},
        "n_discarded_after_actions": 4,
        "n_retried": 1,
        "n_asked_anew": 0,
    }
    assert counts.errors_shown == "2 (1 model, 1 author)"
    assert by_cause(counts.discarded) == "4 (2 server, 1 unknown, 1 network)"
    assert counts.warning is not None
    assert counts.warning.startswith("4 of 11 episodes were discarded after the model had acted")
    assert (Counts().warning, Counts().errors_shown, by_cause({})) == (None, "0", "0")

"""Each token of an episode stands once in memory and once on disk, however many turns read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentrl.env.base import Limits
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.messages import Action, Message
from agentrl.policy.base import Policy, SamplingParams
from agentrl.rollout.episode import run_episode
from agentrl.rollout.store import TrajectoryStore
from agentrl.token_ids import TokenIds
from agentrl.trajectory import Task, Trajectory

TURNS, OBSERVED, SAMPLED = 50, 40, 20


class Asks(ToolEnv):
    """Asks on until the end."""

    tasks = Tasks.of(train=[{}])
    limits = Limits(max_turns=TURNS)

    def start(self, task: Task) -> str:
        return "Begin."

    def respond(self, text: str) -> str:
        return "Go on."

    def score(self, answer: str | None) -> float:
        return 0.0


class Answers(Policy):
    """Counts its tokens; a template that drops `forgets` ids of the turn before writes the history anew."""

    def __init__(self, forgets: int = 0) -> None:
        self.forgets = forgets
        self.context: tuple[int, ...] = ()

    async def act(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        episode_id: str,
        sampling: SamplingParams | None = None,
    ) -> Action:
        size = len(self.context)
        prompt = (*self.context[: size - self.forgets], *range(1_000 + size, 1_000 + size + OBSERVED))
        sampled = tuple(range(9_000, 9_000 + SAMPLED))
        self.context = (*prompt, *sampled)
        return Action("Well.", prompt_ids=prompt, token_ids=sampled, logprobs=(-1.0,) * SAMPLED)


def prompts(episode: Trajectory) -> list[Sequence[int]]:
    return [turn.action.prompt_ids or () for turn in episode.turns]


@pytest.mark.parametrize("forgets", [0, 7])
async def test_an_episode_holds_each_token_once(tmp_path: Path, forgets: int) -> None:
    policy = Answers(forgets)
    episode = await run_episode(Asks(), policy, Task("t"), 0)
    assert len(episode.turns) == TURNS
    with TrajectoryStore(tmp_path / "trajectories.jsonl") as store:
        store.append(episode)
    (read,) = store
    assert prompts(read) == prompts(episode)
    for one in (episode, read):
        lists = {id(ids._list): len(ids._list) for ids in prompts(one) if isinstance(ids, TokenIds)}
        assert sum(lists.values()) <= TURNS * (OBSERVED + SAMPLED)
    ((_, record),) = store.records()
    stored = sum(len(turn["action"]["prompt_ids"]) for turn in record["turns"])
    assert stored == TURNS * OBSERVED


async def test_a_history_that_is_rewritten_from_its_beginning_has_lists_of_its_own(tmp_path: Path) -> None:
    """Nothing is shared, and nothing is confused."""
    policy = Answers()
    episode = await run_episode(Asks(), policy, Task("t"), 0)
    for number, turn in enumerate(episode.turns[:5]):
        episode.turns[number].action = Action(prompt_ids=(number, *(turn.action.prompt_ids or ())), token_ids=(1,))
    with TrajectoryStore(tmp_path / "trajectories.jsonl") as store:
        store.append(episode)
    (read,) = store
    assert prompts(read) == prompts(episode)

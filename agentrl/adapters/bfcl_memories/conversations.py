"""The conversations of BFCL's memory: a policy has them one after another, and what it wrote is kept.

Owns their order, and the folder of what was written, which has the form that `bfcl generate` gives it. The questions
afterwards belong to `bfcl_memory`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentrl.adapters.bfcl import rows
from agentrl.adapters.bfcl_memory import BACKENDS, BFCLMemory, Snapshot, check_category
from agentrl.env.base import Limits
from agentrl.env.tasks import Tasks
from agentrl.errors import ConfigError, RolloutError
from agentrl.messages import Action, Message
from agentrl.policy.base import Policy
from agentrl.rollout.episode import run_episode
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import Task

_ABOUT = "memories.json"
_MOST_TURNS = 400  # the longest conversation has ten messages, with at most twenty calls after each


class Conversation(BFCLMemory):
    """A conversation with somebody, whose messages come one after another whatever is answered.

    Reward: 1 if it was held to its end. More than twenty turns with calls after one message end it, as in the package.
    The memory that it leaves is `snapshot`.
    """

    limits = Limits(max_turns=_MOST_TURNS)

    def __init__(self, *, category: str = "memory_kv", render_mode: str | None = None) -> None:
        super().__init__(category=category, render_mode=render_mode)
        self.tasks = Tasks(lambda: {"eval": [task for chain in conversations(category).values() for task in chain]})

    def start(self, task: Task) -> list[Message]:
        self.told = 1
        return [Message("system", self._told(task.data)), Message("user", task.data["says"][0])]

    def respond(self, text: str) -> str | None:
        says = self.task.data["says"]
        if self.told == len(says):
            return None
        self.told, self.steps = self.told + 1, 0
        return str(says[self.told - 1])

    def score(self, answer: str | None) -> float:
        return float(answer is not None and self.told == len(self.task.data["says"]))

    def oracle(self, messages: Sequence[Message]) -> Action:
        return Action("I see.")

    @property
    def snapshot(self) -> Snapshot:
        """What stands in the memory now."""
        return {name: getattr(self.memory, name) for name in BACKENDS[self.task.data["category"]]}


def conversations(category: str) -> dict[str, list[Task]]:
    """The conversations of each scenario, in their order, each with an empty memory at first."""
    check_category(category)
    empty: Snapshot = {name: "" if name == "memory" else {} for name in BACKENDS[category]}
    found: dict[str, list[Task]] = {}
    for scenario in sorted({row["scenario"] for row in rows("memory")}):
        found[scenario] = [
            Task(
                row["id"].replace("memory", category, 1),
                data={
                    "category": category,
                    "scenario": scenario,
                    "says": [message["content"] for turn in row["question"] for message in turn],
                    "memory": empty,
                },
            )
            for row in rows(f"memory_{scenario}", "memory_prereq_conversation", prefix="")
        ]
    return found


async def write_memories(
    policy: Policy,
    out: str | Path,
    *,
    name: str,
    category: str = "memory_kv",
    seed: int = 0,
    on_progress: Callable[[str], None] | None = None,
) -> Path:
    """Let a policy have every conversation, and keep what it wrote into its memory.

    The conversations of a scenario follow each other, each with the memory of the one before; scenarios are played at
    the same time. Another call with the same folder plays what is missing.

    Args:
        policy: has the conversations; stays open.
        out: folder; give it to `BFCLMemory(memory=...)` afterwards. `trajectories.jsonl` in it holds the conversations.
        name: of the policy: a folder of another one is refused.
        category: `memory_kv` or `memory_rec_sum`.
        seed: of the episodes.
        on_progress: called with the id of each conversation that has ended.
    Returns: the folder.
    Raises: ConfigError if `out` holds something else; RolloutError if a conversation was discarded.
    """
    root = Path(out)
    chains = conversations(category)
    _claim(root, {"policy": name, "category": category, "seed": seed})
    kept = root / category.removeprefix("memory_") / "memory_snapshot"
    (kept / "prereq_checkpoints").mkdir(parents=True, exist_ok=True)
    with TrajectoryStore(root / "trajectories.jsonl") as store:

        async def play(scenario: str) -> None:
            memory: Snapshot | None = None
            for task in chains[scenario]:
                file = kept / "prereq_checkpoints" / f"{task.id}.json"
                if not file.exists():
                    _write(file, await _held(policy, category, task, memory, seed, store))
                    if on_progress is not None:
                        on_progress(task.id)
                memory = json.loads(file.read_text(encoding="utf-8"))
            _write(kept / f"{scenario}_final.json", memory or {})

        async with asyncio.TaskGroup() as group:
            for scenario in chains:
                group.create_task(play(scenario))
    return root


async def _held(
    policy: Policy, category: str, task: Task, memory: Snapshot | None, seed: int, store: TrajectoryStore
) -> Snapshot:
    """What stands in the memory after a conversation. Raises: RolloutError if it was discarded."""
    begun = Task(task.id, task.split, {**task.data, **({} if memory is None else {"memory": memory})})
    env = Conversation(category=category)
    try:
        episode = await run_episode(env, policy, begun, seed)
        store.append(episode)
        if episode.ending.kind == "fault":
            raise RolloutError(
                f"conversation {task.id} was discarded: {episode.ending.detail}: the same call goes on with it"
            )
        return env.snapshot
    finally:
        await env.aclose()


def _claim(root: Path, about: Mapping[str, Any]) -> None:
    """Take a folder. Raises: ConfigError if it holds other memories, or something else."""
    file = root / _ABOUT
    if file.exists():
        former = json.loads(file.read_text(encoding="utf-8"))
        if former != about:
            raise ConfigError(f"{root} holds memories of {former}, not of {dict(about)}: choose another folder")
    elif root.exists() and any(root.iterdir()):
        raise ConfigError(f"{root} holds files, but no memories: choose another folder")
    else:
        root.mkdir(parents=True, exist_ok=True)
        _write(file, about)


def _write(file: Path, value: Mapping[str, Any]) -> None:
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(value, indent=1), encoding="utf-8")
    partial.replace(file)

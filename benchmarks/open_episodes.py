"""Memory of episodes that are open at the same time: bytes an episode, at growing numbers of them.

usage: nice -n 10 python benchmarks/open_episodes.py [--episodes 100 1000 10000] [--turns 100] [--observed 30]
       [--sampled 10] [--json]

Every episode plays all its turns but the last one, and then waits until all others have come as far. Each turn observes
4 characters and one token for each of --observed, and samples --sampled tokens with their log-probabilities and
versions. The numbers are resident memory beyond that of the empty process, each in a process of its own. Flat means
that the exponent over the number of episodes is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentrl.env.base import Limits
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.messages import Action, Message
from agentrl.policy.base import Policy, SamplingParams
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.token_ids import TokenIds
from agentrl.trajectory import Task


def resident_bytes() -> int:
    """Resident memory of this process."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))


class Talk(ToolEnv):
    """Talks on for as many turns as there are."""

    tasks = Tasks.of(train=[{}])
    chars = 120

    def start(self, task: Task) -> str:
        return "Begin."

    def respond(self, text: str) -> str:
        return f"{self.np_random.integers(10**9)}".ljust(self.chars, ".")

    def score(self, answer: str | None) -> float:
        return 0.0


class Waiting(Policy):
    """Answers with made-up tokens, as a local model; at the last turn it waits for all episodes."""

    def __init__(self, episodes: int, turns: int, observed: int, sampled: int) -> None:
        self.turns, self.observed, self.sampled = turns, observed, sampled
        self._missing, self._all = episodes, asyncio.Event()
        self._contexts: dict[str, tuple[TokenIds, tuple[int, ...]]] = {}
        self.at_most = 0

    async def act(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        *,
        episode_id: str,
        sampling: SamplingParams | None = None,
    ) -> Action:
        turn = len(messages) // 2
        before, sampled = self._contexts.get(episode_id, (TokenIds(), ()))
        start = 1_000 + turn
        prompt = before.followed_by((*sampled, *range(start, start + self.observed)))
        new = tuple(range(90_000 + start, 90_000 + start + self.sampled))
        self._contexts[episode_id] = (prompt, new)
        if turn == self.turns - 1:
            self._missing -= 1
            if not self._missing:
                self.at_most = resident_bytes()
                self._all.set()
            await self._all.wait()
        logprobs = tuple(-0.001 * (start + number) for number in range(self.sampled))
        usage = {"prompt_tokens": len(prompt), "completion_tokens": self.sampled, "cached_tokens": len(before)}
        return Action(
            "Well.", prompt_ids=prompt, token_ids=new, logprobs=logprobs, versions=(0,) * self.sampled, usage=usage
        )

    async def release(self, episode_id: str) -> None:
        self._contexts.pop(episode_id, None)


async def measure(episodes: int, turns: int, observed: int, sampled: int) -> int:
    """Bytes of all the episodes together, when all are open."""

    class Shaped(Talk):
        limits = Limits(max_turns=turns)
        chars = 4 * observed

    policy = Waiting(episodes, turns, observed, sampled)
    before = resident_bytes()
    async with Rollouts(Shaped, policy, max_concurrency=episodes) as rollouts:
        async for _ in rollouts.stream([GroupRequest(Task(str(number)), number) for number in range(episodes)]):
            pass
    return policy.at_most - before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--episodes", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--turns", type=int, default=100)
    parser.add_argument("--observed", type=int, default=30, help="tokens that each turn observes")
    parser.add_argument("--sampled", type=int, default=10, help="tokens that each turn samples")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    shape = options.turns, options.observed, options.sampled
    if len(options.episodes) == 1:
        print(asyncio.run(measure(options.episodes[0], *shape)))
        return 0
    found: dict[int, int] = {}
    for episodes in options.episodes:
        words = ["--episodes", episodes, "--turns", shape[0], "--observed", shape[1], "--sampled", shape[2]]
        done = subprocess.run([sys.executable, __file__, *map(str, words)], capture_output=True, text=True, check=True)
        found[episodes] = int(done.stdout)
        print(f"{episodes:7,} episodes  {found[episodes] / episodes / 1000:8.1f} kB each", file=sys.stderr, flush=True)
    first, last = min(found), max(found)
    power = math.log(found[last] / found[first]) / math.log(last / first)
    if options.json:
        print(json.dumps({"bytes": found, "shape": shape, "exponent": power}))
        return 0
    print("| open episodes | memory | bytes an episode |\n|---|---|---|")
    for episodes, used in found.items():
        print(f"| {episodes:,} | {used / 1e6:,.0f} MB | {used / episodes:,.0f} |")
    print(f"\nMemory grows with episodes^{power:.2f}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

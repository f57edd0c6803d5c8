"""A fault gives no second choice: actions are taken again, and where that cannot be, the lower bound says so."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from agentrl.bench.compare import comparison
from agentrl.bench.result import BenchResult
from agentrl.bench.runner import run_bench
from agentrl.env.base import Limits
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import RolloutError
from agentrl.messages import Action
from agentrl.policy.base import Policy
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.rollout.store import TrajectoryStore
from agentrl.tool_schema import tool
from agentrl.trajectory import Task, Trajectory

LOST = 6


class Coin(ToolEnv):
    """Guess a coin, which a look shows. Its line to the bank can be cut for good, or for one call."""

    tasks = Tasks.of(eval=[{"n": n} for n in range(LOST)])
    limits = Limits(max_turns=4)
    drifts = False
    looks: Iterable[int]
    is_down = False
    tool_timeout_s = 5.0

    @classmethod
    def fresh(cls, *, drifts: bool = False) -> type[Coin]:
        return type("Coin", (cls,), {"drifts": drifts, "looks": itertools.count()})

    def start(self, task: Task) -> str:
        return f"Coin {task.data['n']}"

    @tool
    def look(self) -> str:
        """Look at the clock."""
        return f"it is {next(self.looks) if self.drifts else 12} o'clock"  # type: ignore[call-overload]

    @tool
    def bank(self, account: str) -> str:
        """Ask the bank."""
        if type(self).is_down or not account.startswith(("mine", "number")):
            raise ConnectionResetError("the bank hung up")
        return "rich"

    def score(self, answer: str | None) -> float:
        return float(answer == "heads")


class Gambler(Policy):
    """Never says the same thing twice: it wins with its second word alone, and has the first one discarded."""

    name = "gambler"

    def __init__(self) -> None:
        self.words: dict[str, int] = {}

    async def act(self, messages: Any, tools: Any, *, episode_id: str, sampling: Any = None) -> Action:
        if len(messages) == 1:
            return call("look")
        if len(messages) == 3:
            said = self.words[messages[0].content] = self.words.get(messages[0].content, -1) + 1
            return call("bank", account="odd") if said == 0 else Action("heads")
        return Action("tails")


def benched(env: type[ToolEnv], policy: Policy, out: Path | None = None) -> BenchResult:
    return run_bench(env, policy, out=out, references=False, max_concurrency=1)


async def requested(rollouts: Rollouts, env: type[Coin]) -> list[str]:
    tasks = env.tasks.split("eval")
    return [g.trajectories[0].ending.kind for g in await rollouts.run(GroupRequest(t, 0) for t in tasks)]


def test_where_the_environment_answers_otherwise_a_second_choice_does_not_raise_the_lower_bound(tmp_path: Path) -> None:
    result = benched(Coin.fresh(drifts=True), Gambler(), tmp_path / "run")
    counts = result.score.counts
    assert (counts.scored, counts.retried, counts.asked_anew) == (LOST, LOST, LOST)
    assert (result.score.success.mean, result.score.of_attempted.mean) == (1.0, 0.0)
    assert result.score.pass_hat_attempted[1].mean == 0.0
    finals = [t for t in TrajectoryStore(tmp_path / "run" / "trajectories.jsonl") if not t.labels.superseded]
    assert all(t.labels.asked_anew for t in finals)
    found = comparison(result.record, benched(Coin.fresh(), Always("tails")).record)
    assert (found.difference.mean, found.of_attempted.mean) == (1.0, 0.0)
    assert any("was asked anew after a fault" in note for note in found.notes)


class Always(Policy):
    """Asks the bank, and gives one answer."""

    name = "always"

    def __init__(self, answer: str, account: str = "mine") -> None:
        self.answer, self.account = answer, account

    async def act(self, messages: Any, tools: Any, *, episode_id: str, sampling: Any = None) -> Action:
        return call("bank", account=self.account) if len(messages) == 1 else Action(self.answer)


class Moody(Policy):
    """Never asks the bank in the same way, and wins."""

    name = "moody"
    numbers = itertools.count()

    async def act(self, messages: Any, tools: Any, *, episode_id: str, sampling: Any = None) -> Action:
        return call("bank", account=f"number {next(self.numbers)}") if len(messages) == 1 else Action("heads")


def test_a_benchmark_that_goes_on_takes_the_discarded_actions_again(tmp_path: Path) -> None:
    env, out = Coin.fresh(), tmp_path / "run"
    env.is_down = True
    with pytest.raises(RolloutError):
        benched(env, Moody(), out)
    before = {t.task.id: first_account(t) for t in TrajectoryStore(out / "trajectories.jsonl")}
    env.is_down = False
    again = benched(env, Moody(), out)
    assert (again.score.counts.scored, again.score.counts.asked_anew) == (LOST, 0)
    played = {t.task.id: first_account(t) for t in again.trajectories}
    assert len(before) > 1
    assert before == {task: played[task] for task in before}


def first_account(episode: Trajectory) -> str:
    return str(episode.turns[0].action.tool_calls[0].arguments["account"])


async def test_an_attempt_that_stops_earlier_forgets_no_action() -> None:
    """Two actions, then the bank is down; the second attempt fails at the first action, the third takes both again."""
    env, down = Coin.fresh(), iter([False, True, True, False, False])

    class Flaky(env):  # type: ignore[misc, valid-type]
        @tool
        def bank(self, account: str) -> str:
            """Ask the bank."""
            if next(down, False):
                raise ConnectionResetError("the bank hung up")
            return "rich"

    class Random(Moody):
        async def act(self, messages: Any, tools: Any, *, episode_id: str, sampling: Any = None) -> Action:
            messages = messages[:1] if len(messages) < 5 else messages
            return await super().act(messages, tools, episode_id=episode_id, sampling=sampling)

    async with Rollouts(Flaky, Random(), backoff_s=0, max_attempts=3) as rollouts:
        (group,) = await rollouts.run([GroupRequest(env.tasks.split("eval")[0], 0)])
    (episode,) = group.trajectories
    first, second = (int(t.action.tool_calls[0].arguments["account"].split()[1]) for t in episode.turns[:2])
    assert second == first + 1
    assert (episode.ending.kind, episode.labels.asked_anew) == ("answer", False)


async def test_what_was_recorded_says_which_tools_work() -> None:
    """Of an interrupted run only faults are left to play: what its other episodes showed still counts."""
    env = Coin.fresh()
    async with Rollouts(env, Always("tails", "mine"), backoff_s=0) as rollouts:
        well = await rollouts.run([GroupRequest(env.tasks.split("eval")[0], 0)])
    for known, ends in (([], "fault"), (well[0].trajectories, "answer")):
        async with Rollouts(env, Always("tails", "odd"), backoff_s=0, max_fault_fraction=1.0) as rollouts:
            rollouts.recall(known)
            assert await requested(rollouts, env) == [ends] * LOST


class Hasty(Policy):
    """Fails at once where it would lose, and takes its time where it wins: nothing is known when it fails."""

    name = "hasty"

    async def act(self, messages: Any, tools: Any, *, episode_id: str, sampling: Any = None) -> Action:
        wins = int(messages[0].content.split()[1]) % 2 == 0
        if wins:
            await asyncio.sleep(0.05)
        if len(messages) == 1:
            return call("bank", account="mine" if wins else "odd")
        return Action("heads" if wins else "tails")


async def test_a_fault_before_anything_is_known_to_work_waits_for_what_other_episodes_show() -> None:
    env = Coin.fresh()
    async with Rollouts(env, Hasty(), backoff_s=0, max_fault_fraction=1.0) as rollouts:
        assert await requested(rollouts, env) == ["answer"] * LOST
        assert rollouts.running == 0


async def test_episodes_that_wait_for_each_other_end() -> None:
    env = Coin.fresh()
    async with asyncio.timeout(30):
        async with Rollouts(env, Always("tails", "odd"), backoff_s=0, max_fault_fraction=1.0) as rollouts:
            assert await requested(rollouts, env) == ["fault"] * LOST


class Greedy(ToolEnv):
    """Repeat a word; nobody else has used the tool."""

    tasks = Tasks.of(eval=[{}])
    limits = Limits(max_turns=3)

    def start(self, task: Task) -> str:
        return "Repeat."

    @tool
    def repeat(self, word: str, times: int) -> int:
        """Repeat a word."""
        return len(word * times)

    def score(self, answer: str | None) -> float:
        return 0.0


class Repeats(Policy):
    name = "repeats"

    async def act(self, messages: Any, tools: Any, *, episode_id: str, sampling: Any = None) -> Action:
        return call("repeat", word="ab", times=2**61) if len(messages) == 1 else Action("I give up")


@pytest.mark.parametrize(("is_well", "kind"), [(True, "answer"), (False, "fault")])
async def test_what_no_machine_has_is_asked_for_by_the_model(
    is_well: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_well:
        monkeypatch.setattr("agentrl.env.blame._SPARE_BYTES", 2**62)
    async with Rollouts(Greedy, Repeats(), backoff_s=0, max_fault_fraction=1.0) as rollouts:
        (group,) = await rollouts.run([GroupRequest(Greedy.tasks.split("eval")[0], 0)])
    (episode,) = group.trajectories
    assert episode.ending.kind == kind
    read = [m.content for m in episode.turns[0].next_observation]
    assert bool(read and read[0].startswith("Error: tool 'repeat' raised MemoryError")) is is_well

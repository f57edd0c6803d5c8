"""Whose failure is it, in what an author's code hands out, and in what it starts? As tests/test_whose_failure.py."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from agentrl.env.base import Env, Limits
from agentrl.env.tool_env import call
from agentrl.errors import PolicyFault, RolloutError
from agentrl.messages import Action, Message
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.rollout.store import TrajectoryStore
from agentrl.tool_schema import tool
from agentrl.trajectory import Task, Trajectory
from tests.test_whose_failure import COUNTS, FAILED, READ, SERVER, Cause, Steps, endless, lands, raising
from tests.three_episodes import TASKS, AwaitsItsJob, three_episodes

released = threading.Event()


async def second_of(env: Any, good: Any, bad: Any) -> Trajectory:
    """The second of three episodes, as a store keeps it; the others go well."""
    store = TrajectoryStore(Second.path)
    episodes = await three_episodes(env, Steps(good, bad), 2, store=store)
    store.close()
    assert [episode.ending.kind in ("answer", "environment") for episode in episodes[::2]] == [True, True]
    kept = [t for t in TrajectoryStore(Second.path).read(group_id="second") if not t.labels.superseded]
    Second.path.unlink()
    assert kept[0].success is episodes[1].success
    return kept[0]


class Second(AwaitsItsJob):
    """Hands out something odd at its end, or starts it in a tool."""

    path: ClassVar[Path]
    tasks = TASKS
    limits = Limits(max_turns=3)
    tool_timeout_s = hook_timeout_s = 0.2
    odd: Callable[[Any], Any] = staticmethod(lambda env: None)

    def start(self, task: Task) -> str:
        return f"task {task.data['n']}"

    def score(self, answer: str | None) -> float:
        if answer == "odd":
            self.odd(self)
        return 0.0

    async def __part(self, word: str) -> str:
        await asyncio.sleep(0)
        if word == "odd":
            await asyncio.sleep(self.odd(self) or 0)
        return word

    @tool
    async def gather(self, word: str) -> str:
        """Use a word."""
        return "".join(await asyncio.gather(self.__part(word), self.__part("b")))

    @tool
    async def group(self, word: str) -> str:
        """Use a word."""
        async with asyncio.TaskGroup() as group:
            both = [group.create_task(self.__part(word)) for _ in range(2)]
        return both[0].result()

    @tool
    async def thread(self, word: str) -> str:
        """Use a word."""
        return str(await asyncio.to_thread(self.__plain, word))

    def __plain(self, word: str) -> str:
        if word == "odd":
            self.odd(self)
        return word

    @tool
    async def retry(self, word: str) -> str:
        """Use a word."""
        while word == "odd":
            try:
                await asyncio.Event().wait()
            except BaseException:  # as `except:`
                await asyncio.sleep(0)
        return word

    @tool
    async def job_of(self, word: str) -> str:
        """Use a word."""
        if word == "odd":
            self.begin_job()
        return word


def at_the_end(column: str, odd: Callable[[Any], Any]) -> Cause:
    env = type("Second", (Second,), {"odd": staticmethod(odd)})
    return Cause(column, lambda: second_of(env, ["bye"], ["odd"]))


def in_a_tool(column: str, name: str, odd: Callable[[Any], Any] = lambda env: None) -> Cause:
    env = type("Second", (Second,), {"odd": staticmethod(odd)})
    return Cause(column, lambda: second_of(env, [call(name, word="a"), "bye"], [call(name, word="odd"), "bye"]))


class Raw(Env):
    """An environment that is written without `ToolEnv`."""

    tasks, limits = Second.tasks, Second.limits
    odd: ClassVar[Any]
    key: Any = "start"

    async def areset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self._begin(seed, options)
        self.key = "start"
        return (Message("user", "Go."),), {}

    async def astep(self, action: Any) -> Any:
        said = Action.of(action).text
        if said == "key":
            self.key = self.odd
            return (Message("user", "On."),), 0.0, False, False, {}
        if said == "odd":
            return self.odd() if callable(self.odd) else self.odd
        return (), 0.0, True, False, {}

    def state_key(self) -> Any:
        return self.key() if callable(self.key) else self.key


def raw(column: str, odd: Any, bad: Any = ("odd",)) -> Cause:
    env = type("Raw", (Raw,), {"odd": staticmethod(odd) if callable(odd) else odd, "hook_timeout_s": 0.2})
    return Cause(column, lambda: second_of(env, ["bye"], list(bad)))


class Unprintable(ValueError):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def named_often(env: Second) -> None:
    """What `yaml.safe_load` makes of a few lines with anchors."""
    value: Any = "x" * 1000
    for _ in range(60):
        value = [value, value]
    env.add_info(parsed=value)


def looked_up(env: Second) -> Any:
    return env.tasks["nowhere"]


def asks(*, always: bool) -> Cause:
    """`score` asks a policy, whose server fails on what the model said, or is down from then on."""
    down: list[bool] = []

    class Asks(Second):
        def score(self, answer: str | None) -> float:
            if answer == "odd" and always:
                down.append(True)
            if down or answer == "odd":
                raise PolicyFault("503")
            return 0.0

    async def play() -> Trajectory:
        down.clear()
        async with Rollouts(
            Asks, Steps(["bye"], ["odd"]), backoff_s=0, max_attempts=2, max_fault_fraction=1.0, max_concurrency=1
        ) as rollouts:
            names = ("first", "second")
            tasks = Second.tasks.split("eval")[:2]
            groups = await rollouts.run(GroupRequest(t, 1, group_id=n) for t, n in zip(tasks, names, strict=True))
        return groups[1].trajectories[0]

    return Cause(SERVER if always else FAILED, play)


END: Any = ((), 0.0, True, False, {})
CAUSES = {
    "info holds an integer of 5000 digits": at_the_end(COUNTS, lambda env: env.add_info(n=10**5000)),
    "info holds a fraction of 5000 digits": at_the_end(COUNTS, lambda env: env.add_info(n=Fraction("1e5000"))),
    "info holds an exception without a text": at_the_end(COUNTS, lambda env: env.add_info(e=Unprintable())),
    "info holds a range of a billion": at_the_end(COUNTS, lambda env: env.add_info(r=range(10**9))),
    "info names one list very often": at_the_end(COUNTS, named_often),
    "success is an array": at_the_end(FAILED, lambda env: setattr(env, "success", np.array([True, False]))),
    "success is NaN": at_the_end(FAILED, lambda env: setattr(env, "success", float("nan"))),
    "score looks for a task that there is not": at_the_end(FAILED, looked_up),
    "score plays episodes that fail": at_the_end(FAILED, raising(lambda: RolloutError("3 of 3"))),
    "score asks a policy whose server fails on what the model said": asks(always=False),
    "score asks a policy whose server is down": asks(always=True),
    "a step returns a text": raw(FAILED, ("And?", *END[1:])),
    "a step returns a message without text": raw(FAILED, ((Message("user", None),), *END[1:])),  # type: ignore[arg-type]
    "a step returns components that are none": raw(FAILED, (*END[:4], {"reward_components": {("a", 1): 1.0}})),
    "a step ends with an array": raw(FAILED, ((), 0.0, np.array([True, False]), False, {})),
    "a step's success is an array": raw(FAILED, (*END[:4], {"success": np.array([1, 0])})),
    "a state's name is a tuple": raw(COUNTS, ("a", 1), ["key", "bye"]),
    "a state's name is an object": raw(FAILED, object(), ["key", "bye"]),
    "a state's name does not return": raw(FAILED, endless, ["key", "bye"]),
    "a task of a tool calls sys.exit": in_a_tool(FAILED, "gather", raising(lambda: SystemExit(2))),
    "a task of a tool does not return": in_a_tool(FAILED, "gather", lambda env: endless()),
    "a task of a tool raises KeyboardInterrupt": in_a_tool(FAILED, "gather", raising(KeyboardInterrupt)),
    "a task of a tool raises GeneratorExit": in_a_tool(FAILED, "gather", raising(GeneratorExit)),
    "a thread of a tool raises KeyboardInterrupt": in_a_tool(FAILED, "thread", raising(KeyboardInterrupt)),
    "a thread of a tool raises GeneratorExit": in_a_tool(FAILED, "thread", raising(GeneratorExit)),
    "a step raises KeyboardInterrupt": raw(FAILED, raising(KeyboardInterrupt)),
    "a state's name raises GeneratorExit": raw(FAILED, raising(GeneratorExit), ["key", "bye"]),
    "tasks of a group call sys.exit": in_a_tool(FAILED, "group", raising(lambda: SystemExit(2))),
    "tasks of a group do not return": in_a_tool(FAILED, "group", lambda env: endless()),
    "tasks of a group lose their connections": in_a_tool(READ, "group", raising(lambda: ConnectionResetError("odd"))),
    "a thread of a tool computes without end": in_a_tool(FAILED, "thread", lambda env: endless()),
    "a thread of a tool waits without end": in_a_tool(FAILED, "thread", lambda env: released.wait()),
    "a tool goes on when it is cancelled": in_a_tool(FAILED, "retry"),
    "close awaits what it has cancelled": in_a_tool(COUNTS, "job_of"),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", CAUSES)
async def test_a_cause_lands_in_its_column(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("agentrl.env.watchdog._watchdog.look_s", 0.02)
    monkeypatch.setattr("agentrl.env.author_code.LAST_S", 0.1)
    monkeypatch.setattr(Second, "path", tmp_path / "episodes.jsonl", raising=False)
    monkeypatch.setattr("agentrl.rollout.plain_json.MOST_VALUES", 1000)
    released.clear()
    try:
        trajectory = await CAUSES[name].play()
    finally:
        released.set()
    assert lands(trajectory) == CAUSES[name].lands, (trajectory.ending, trajectory.turns)
    assert (trajectory.reward, trajectory.success) == (0.0, False), "none of these episodes has earned anything"
    gc.collect()  # a coroutine that was left says so now, and not in another test


def test_the_page_lists_every_cause_in_its_column() -> None:
    page = (Path(__file__).parent.parent / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", page.partition("## Causes")[2], re.M))
    assert {name: rows.get(name) for name in CAUSES} == {name: cause.lands for name, cause in CAUSES.items()}

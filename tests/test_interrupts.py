"""Ctrl-C stops what runs; author code that raises what stops programs has failed as with any other exception."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import pytest

from agentrl.bench.runner import run_bench
from agentrl.env.blame import is_authors
from agentrl.env.check.check_env import check_env
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv, call
from agentrl.errors import EnvFault
from agentrl.interrupts import is_from_outside
from agentrl.policy.scripted import OraclePolicy
from agentrl.tool_schema import tool


def caught(function: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as raised:  # noqa: PT011 (of any class)
        function()
    return raised.value


def raising(error: type[BaseException]) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def ctrl_c(times: int = 1) -> None:
    for _ in range(times):
        signal.raise_signal(signal.SIGINT)


def closed() -> BaseException:
    seen: list[BaseException] = []

    def waits() -> Any:
        try:
            yield
        except GeneratorExit as error:
            seen.append(error)
            raise

    generator = waits()
    next(generator)
    generator.close()
    return seen[0]


def test_ctrl_c_and_a_coroutine_that_is_closed_come_from_outside() -> None:
    assert is_from_outside(caught(ctrl_c))
    assert is_from_outside(closed())
    assert not is_authors(caught(ctrl_c))


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, SystemExit])
def test_what_author_code_raises_does_not(error: type[BaseException]) -> None:
    assert not is_from_outside(caught(raising(error)))
    assert is_authors(caught(raising(error)))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_a_handler_of_signals_raises_comes_from_outside(error: type[BaseException]) -> None:
    class Handler:
        def __call__(self, number: int, frame: Any) -> None:
            raising(error)()

    for handler in (Handler(), lambda number, frame: raising(error)()):
        before = signal.signal(signal.SIGTERM, handler)
        try:
            raised = caught(lambda: signal.raise_signal(signal.SIGTERM))
            assert is_from_outside(raised)
        finally:
            signal.signal(signal.SIGTERM, before)


def test_an_event_loop_raises_at_the_second_signal_and_at_its_end() -> None:
    async def twice() -> BaseException:
        return caught(lambda: ctrl_c(2))

    async def once() -> None:
        ctrl_c()
        await asyncio.sleep(0)

    with pytest.raises(KeyboardInterrupt) as raised:
        asyncio.run(once())
    assert is_from_outside(raised.value)
    seen: list[bool] = []

    async def judged() -> None:
        seen.append(is_from_outside(await twice()))
        await asyncio.sleep(0)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(judged())
    assert seen == [True]


class Stops(ToolEnv):
    """Does something in a place of an episode."""

    tasks = Tasks.of(eval=[{"n": n} for n in range(3)])
    place, acts = "", staticmethod(ctrl_c)

    def here(self, place: str) -> None:
        if self.place == place:
            self.acts()

    def start(self, task: Any) -> str:
        self.here("start")
        return "Go."

    def score(self, answer: str | None) -> float:
        self.here("score")
        return 1.0

    def oracle(self, conversation: Any) -> Any:
        self.here("oracle")
        return "bye" if self.tool_stats else call("look")

    @tool
    def look(self) -> str:
        """Look."""
        self.here("look")
        return "x"

    @tool(blocking=True)
    def apart(self) -> str:
        """Look."""
        self.here("apart")
        return "x"


def stops(place: str, acts: Callable[[], Any]) -> type[Stops]:
    return type("Stops", (Stops,), {"place": place, "acts": staticmethod(acts)})


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("place", ["start", "look", "score", "oracle"])
def test_ctrl_c_within_author_code_ends_a_benchmark_as_interrupted(place: str, times: int, tmp_path: Any) -> None:
    pressed: list[int] = []

    def press() -> None:
        if not pressed:
            pressed.append(times)
            ctrl_c(times)

    env = stops(place, press)
    result = run_bench(env, OraclePolicy(), out=tmp_path / "bench")
    assert (result.status, result.score.n_faults) == ("interrupted", 0)
    again = run_bench(env, OraclePolicy(), out=tmp_path / "bench")
    assert (again.status, again.score.n_episodes, again.score.n_faults) == ("finished", 3, 0)


@pytest.mark.parametrize("place", ["start", "look", "score"])
def test_ctrl_c_within_a_step_that_is_not_awaited_is_passed_on(place: str) -> None:
    def play() -> None:
        env.reset(seed=0)
        env.step(call("look"))
        env.step("bye")

    env = stops(place, ctrl_c)()
    with pytest.raises(KeyboardInterrupt):
        play()


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("place", ["start", "look", "score", "apart"])
def test_author_code_that_raises_them_is_a_fault(place: str, error: type[BaseException]) -> None:
    def play() -> None:
        env.reset(seed=0)
        env.step(call("look"))
        env.step(call("apart"))
        env.step("bye")

    env = stops(place, raising(error))()
    with pytest.raises(EnvFault, match=f"raised {error.__name__}") as raised:
        play()
    assert raised.value.at == "author"


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit])
def test_a_check_of_such_an_environment_ends(error: type[BaseException]) -> None:
    for place in ("start", "look", "score", "oracle"):
        report = check_env(stops(place, raising(error)), processes=False)
        assert not report.ok
        assert error.__name__ in str(report), place

    class Unmade(Stops):
        def __init__(self) -> None:
            raise error

    assert not check_env(Unmade, processes=False).ok

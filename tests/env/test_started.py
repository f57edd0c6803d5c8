"""What an author's code starts in the event loop: tasks are watched, threads are given back."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from agentrl.env import author_code, watchdog
from agentrl.env.author_code import awaited, watched
from agentrl.env.started.tasks import guard_loop
from agentrl.env.started.threads import Threads
from agentrl.errors import EnvFault

released = threading.Event()


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(watchdog._watchdog, "look_s", 0.02)
    monkeypatch.setattr(author_code, "LAST_S", 0.05)
    released.clear()
    yield
    released.set()


async def exits() -> None:
    await asyncio.sleep(0)
    sys.exit(3)


async def test_a_task_of_an_authors_code_cannot_stop_the_loop() -> None:
    guard_loop()

    async def tool() -> None:
        await asyncio.gather(exits(), asyncio.sleep(0))

    with pytest.raises(EnvFault, match="a task of score raised SystemExit: 3"):
        await awaited(tool(), (None, "score", 5.0), "score")


async def test_a_task_of_somebody_else_is_left_alone() -> None:
    guard_loop()
    guard_loop()

    async def other() -> int:
        await asyncio.sleep(0)
        return 7

    coroutine = other()
    task = asyncio.create_task(coroutine, name="mine")
    assert task.get_coro() is coroutine
    assert task.get_name() == "mine"
    assert await task == 7


async def test_a_factory_of_the_loop_is_kept() -> None:
    loop, made = asyncio.get_running_loop(), []

    def factory(loop: asyncio.AbstractEventLoop, coroutine: object, **options: object) -> asyncio.Task[None]:
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)  # type: ignore[arg-type]

    loop.set_task_factory(factory)
    guard_loop()
    await asyncio.create_task(asyncio.sleep(0))
    assert len(made) == 1


async def test_a_task_that_is_cancelled_before_its_first_step_is_closed() -> None:
    guard_loop()

    async def tool() -> bool:
        task = asyncio.create_task(asyncio.sleep(1000), name="never")
        task.cancel()
        await asyncio.wait({task})
        return task.cancelled() and "sleep" in repr(task.get_coro().__qualname__)

    assert await awaited(tool(), (None, "score", 5.0), "score")


class Deaf:
    """Code that catches every cancellation."""

    def __init__(self) -> None:
        self.heard = 0

    async def wait(self) -> None:
        while not released.is_set():
            try:
                await asyncio.sleep(1000)
            except BaseException:
                self.heard += 1
                await asyncio.sleep(0)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_code_that_goes_on_when_it_is_cancelled_is_left() -> None:
    deaf = Deaf()
    with pytest.raises(EnvFault, match="tool 'x' did not return within"):
        await awaited(deaf.wait(), (None, "x", 0.01), "tool 'x'")
    assert deaf.heard >= 1
    assert asyncio.current_task().cancelling() == 0, "the task itself goes on"  # type: ignore[union-attr]
    await asyncio.sleep(0)
    gc.collect()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_cancelled_task_ends_though_the_code_within_goes_on() -> None:
    inner = awaited(watched(Deaf().wait(), (None, "step", 5.0)), (None, "x", 100.0), "x")
    task = asyncio.create_task(inner)
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    gc.collect()


async def test_code_may_clean_up_when_it_is_cancelled_and_cancel_its_own_tasks() -> None:
    steps = []

    async def tool() -> str:
        own = asyncio.ensure_future(asyncio.sleep(1000))
        await asyncio.sleep(0)
        own.cancel()
        try:
            await own
        except asyncio.CancelledError:
            steps.append("own")
        await asyncio.sleep(0.1)  # longer than code may go on that was cancelled itself
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0)
            steps.append("cleaned")

    with pytest.raises(EnvFault, match="did not return within"):
        await awaited(tool(), (None, "x", 0.3), "x")
    assert steps == ["own", "cleaned"]


async def test_calls_that_do_not_return_keep_no_place() -> None:
    threads = Threads(at_once=2)
    loop = asyncio.get_running_loop()
    hanging = [loop.run_in_executor(threads, released.wait) for _ in range(2)]
    waiting = loop.run_in_executor(threads, lambda: "well")
    done, _ = await asyncio.wait({waiting}, timeout=0.05)
    assert not done, "two at a time"
    hanging[0].cancel()
    assert await waiting == "well"
    released.set()
    assert await hanging[1] is True
    threads.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        threads.submit(int)


async def test_calls_give_back_results_and_errors_and_can_be_cancelled_before_they_begin() -> None:
    threads = Threads(at_once=1)
    first = threads.submit(released.wait)
    second, third = threads.submit(sum, [1, 2]), threads.submit(int, "x")
    assert second.cancel()
    assert second.cancelled()
    released.set()
    with pytest.raises(ValueError, match="invalid literal"):
        third.result(5)
    assert first.result(5) is True
    threads.shutdown(wait=True)


async def test_a_call_of_an_authors_code_is_interrupted_when_nobody_waits_for_it() -> None:
    guard_loop()
    ended = threading.Event()

    def endless() -> None:
        try:
            while True:
                pass
        finally:
            ended.set()

    async def tool() -> None:
        await asyncio.to_thread(endless)

    with pytest.raises(EnvFault, match="did not return within"):
        await awaited(tool(), (None, "x", 0.05), "x")
    while not ended.is_set():
        time.sleep(0.001)
        await asyncio.sleep(0)


PROGRAM = """
import asyncio, threading
from agentrl.env.author_code import awaited
from agentrl.env.started.tasks import guard_loop
from agentrl.errors import EnvFault

async def tool():
    await asyncio.to_thread(threading.Event().wait)

async def main():
    guard_loop()
    try:
        await awaited(tool(), (None, "x", 0.05), "x")
    except EnvFault:
        print("late")

asyncio.run(main())
"""


def test_a_program_ends_though_a_call_does_not() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.returncode) == ("late\n", 0), ended.stderr

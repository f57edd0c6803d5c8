"""Cells that go directly to their session: when they do, when they do not, and what is left of the pipes."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import time
from collections.abc import AsyncIterator

import pytest

from agentrl.sandbox import SandboxLimits, SandboxSpec, make_backend
from agentrl.sandbox.base import Sandbox
from agentrl.sandbox.host import sandbox as sandbox_module
from agentrl.sandbox.host import session_port as port_module
from agentrl.sandbox.host.pipe_waits import Answers
from agentrl.sandbox.host.session_port import MAX_CODE_BYTES
from tests.sandbox.descriptors import open_descriptors

KIB = 1 << 10
SMALL = SandboxLimits(wall_s=5.0, output_bytes=100 * KIB)


@pytest.fixture
def limits() -> SandboxLimits:
    return SMALL


@pytest.fixture
async def sandbox(limits: SandboxLimits) -> AsyncIterator[Sandbox]:
    """A new one with these limits."""
    async with await make_backend("bubblewrap").start(SandboxSpec(limits=limits)) as sandbox:
        yield sandbox


def send_worker(sandbox: Sandbox, number: signal.Signals) -> None:
    """Signal the worker of a sandbox."""
    signal.pidfd_send_signal(sandbox._process._worker_fd, number)  # type: ignore[attr-defined]


async def cell(sandbox: Sandbox, code: str, **more: object) -> tuple[str, str, str]:
    """A cell's status and output."""
    result = await sandbox.run_python(code, session="s", **more)
    return result.status, result.text, result.error_text


async def test_a_short_cell_does_not_need_the_worker(sandbox, monkeypatch):
    monkeypatch.setattr(sandbox_module, "_GRACE_S", 0.1)
    monkeypatch.setattr(port_module, "_SOON_S", 60.0)  # a busy machine takes long for a short cell
    assert await cell(sandbox, "x = 1") == ("ok", "", "")
    send_worker(sandbox, signal.SIGSTOP)
    assert await cell(sandbox, "x + 1") == ("ok", "2\n", "")
    assert (await cell(sandbox, "1 / 0"))[0] == "nonzero"
    assert await cell(sandbox, "import sys; print('a' * 3, file=sys.stderr); x") == ("ok", "1\n", "aaa\n")
    long = await sandbox.run_python(f"#{'x' * MAX_CODE_BYTES}", session="s", limits=SandboxLimits(wall_s=0.3))
    assert long.status == "lost"  # that one does


async def test_cells_that_take_either_way_share_one_session(sandbox):
    assert await cell(sandbox, "seen = ['first']") == ("ok", "", "")
    long = f"seen.append('long')  #{'x' * MAX_CODE_BYTES}"
    assert await cell(sandbox, long) == ("ok", "", "")
    slow = "import time; time.sleep(0.2); seen.append('slow'); print('late')"
    assert await cell(sandbox, slow) == ("ok", "late\n", "")
    assert await cell(sandbox, "seen") == ("ok", "['first', 'long', 'slow']\n", "")
    first = await sandbox.run_python(long, session="other")
    assert first.status == "nonzero"
    assert "NameError" in first.error_text
    assert (await sandbox.run_python("1 + 1", session="other")).text == "2\n"


@pytest.mark.parametrize("size", [40 * KIB, 60 * KIB, 100 * KIB - 1])
async def test_output_within_the_cap_comes_whole(sandbox, size):
    for _ in range(2):
        result = await sandbox.run_python(f"print('x' * {size})", session="s")
        assert (result.status, len(result.stdout), result.truncated) == ("ok", size + 1, False)


async def test_output_above_the_cap_is_cut_and_none_is_left_for_the_next_cell(sandbox):
    few = SandboxLimits(wall_s=5.0, output_bytes=10)
    for size, limits in ((50, few), (50 * KIB, few), (1 << 20, SMALL)):
        result = await sandbox.run_python(f"print('x' * {size})", session="s", limits=limits)
        assert (result.status, result.truncated) == ("ok", True)
        assert result.stdout == b"x" * limits.output_bytes
        assert await cell(sandbox, "'next'") == ("ok", "'next'\n", "")


async def test_a_session_that_ends_is_lost_and_the_next_one_begins_anew(sandbox):
    for ending in ("os._exit(0)", "os._exit(9)", "os.execvp('true', ['true'])"):
        assert await cell(sandbox, "import os; x = 1") == ("ok", "", "")
        ended = await sandbox.run_python(ending, session="s")
        assert ended.status == "nonzero"
        assert ended.detail.endswith("the session is lost")
        assert (await cell(sandbox, "x"))[0] == "nonzero"
    later = "import os, threading; threading.Timer(0.05, os._exit, [0]).start()"
    assert await cell(sandbox, later) == ("ok", "", "")
    await asyncio.sleep(0.2)
    assert (await sandbox.run_python("1", session="s")).detail.endswith("the session is lost")
    assert await cell(sandbox, "1") == ("ok", "1\n", "")


async def test_a_session_past_its_time_is_ended_and_the_sandbox_goes_on(sandbox):
    for wall_s in (0.001, 0.2):
        started_s = time.monotonic()
        result = await sandbox.run_python("while True: pass", session="s", limits=SandboxLimits(wall_s=wall_s))
        assert result.status == "timeout"
        assert time.monotonic() - started_s < wall_s + 0.5
        assert await cell(sandbox, "1") == ("ok", "1\n", "")


async def test_memory_that_python_is_refused_is_reported_and_the_session_lives(sandbox):
    assert await cell(sandbox, "x = 1") == ("ok", "", "")
    result = await sandbox.run_python("bytearray(1 << 40)", session="s")
    assert result.status == "oom"
    assert await cell(sandbox, "x") == ("ok", "1\n", "")


async def test_a_new_beginning_ends_the_sessions(sandbox):
    saved = await sandbox.snapshot()
    for begin in (sandbox.reset, lambda: sandbox.restore(saved)):
        assert await cell(sandbox, "x = 1") == ("ok", "", "")
        await begin()
        status, _, error = await cell(sandbox, "x")
        assert status == "nonzero"
        assert "NameError" in error


async def test_sessions_that_wait_for_a_new_beginning_are_told_apart(sandbox):
    for name in "abc":
        await sandbox.run_python("x = 0", session=name)
    begin = asyncio.create_task(sandbox.reset())
    await asyncio.sleep(0)
    late = await sandbox.run_python("x = 5", session="late")
    await begin
    assert late.ok
    for name in "wxyz":
        await sandbox.run_python("x = 0", session=name)
    assert (await sandbox.run_python("x", session="late")).text == "5\n"


async def test_a_new_beginning_waits_for_its_turn(sandbox):
    await cell(sandbox, "x = 1")
    slow = asyncio.create_task(cell(sandbox, "import time; time.sleep(0.1); x"))
    await asyncio.sleep(0.01)
    begin = asyncio.create_task(sandbox.reset())
    await asyncio.sleep(0.01)
    after = asyncio.create_task(cell(sandbox, "x"))
    assert await slow == ("ok", "1\n", "")
    await begin
    status, _, error = await after
    assert status == "nonzero"
    assert "NameError" in error
    assert await cell(sandbox, "2") == ("ok", "2\n", "")


async def test_answers_that_nobody_asked_for_confuse_none_but_their_session(sandbox):
    early = "import os; os.write(3, b'\\0\\0\\0\\7' * 2)"
    assert (await cell(sandbox, early))[0] == "nonzero"  # what it wrote first was taken for its end
    await asyncio.sleep(0.05)
    spent_s = time.process_time()
    await asyncio.sleep(0.3)
    assert time.process_time() - spent_s < 0.2  # nobody reads the answers that are left, in vain and without end
    assert (await sandbox.run_python("1 + 1", session="other")).text == "2\n"
    assert await sandbox.healthy()


async def test_threads_that_print_between_cells_are_heard_in_the_next(sandbox):
    code = "import threading; t = threading.Timer(0.05, print, ['later']); t.start()"
    assert await cell(sandbox, code) == ("ok", "", "")
    await asyncio.sleep(0.2)
    assert await cell(sandbox, "'now'") == ("ok", "later\n'now'\n", "")


def test_one_loop_after_another_may_use_a_session():
    # About several event loops, so it makes its own.
    with asyncio.Runner() as first, asyncio.Runner() as second:
        sandbox = first.run(make_backend("bubblewrap").start(SandboxSpec()))
        assert first.run(cell(sandbox, "x = 1")) == ("ok", "", "")
        assert second.run(cell(sandbox, "x + 1")) == ("ok", "2\n", "")
        assert first.run(cell(sandbox, "x + 2")) == ("ok", "3\n", "")
        second.run(sandbox.close())


async def test_descriptors_are_let_go_of():
    backend = make_backend("bubblewrap")
    async with await backend.start(SandboxSpec()) as sandbox:
        await cell(sandbox, "1")
    gc.collect()
    before = open_descriptors()
    for _ in range(3):
        async with await backend.start(SandboxSpec()) as sandbox:
            for name in "abc":
                await sandbox.run_python("1", session=name)
            await sandbox.reset()
            await sandbox.run_python("1", session="d")
    dropped = await backend.start(SandboxSpec())
    await cell(dropped, "1")
    port = dropped._ports["0"]  # type: ignore[attr-defined]
    pipes = list(port._fds)
    process = dropped._process  # type: ignore[attr-defined]
    del dropped
    gc.collect()
    assert port._fds == []
    assert not any(os.path.exists(f"/proc/self/fd/{fd}") for fd in pipes)
    process.kill()
    await process.ended()
    assert open_descriptors() <= before


async def test_too_few_descriptors_are_a_fault_that_says_so(sandbox):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    Answers.here()
    before = open_descriptors()
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        result = await sandbox.run_python("1", session="s")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert result.status == "infra"
    assert "ulimit -n" in result.detail
    assert open_descriptors() <= before


@pytest.mark.parametrize(("session", "after_s"), [("s", 0), ("s", 0.2), (None, 0.2)])
@pytest.mark.parametrize("limits", [SandboxLimits(wall_s=3600)], ids=["one hour"])
async def test_closing_a_sandbox_lets_go_of_what_runs_in_it(sandbox, session, after_s):
    await cell(sandbox, "1")
    task = asyncio.create_task(sandbox.run_python("import time; time.sleep(3600)", session=session))
    await asyncio.sleep(after_s)
    await sandbox.close()
    async with asyncio.timeout(5):
        result = await task
    assert result.status == "infra"
    assert "closed" in result.detail


async def test_a_cell_that_is_cancelled_ends_its_sandbox(sandbox):
    await cell(sandbox, "1")
    task = asyncio.create_task(cell(sandbox, "import time; time.sleep(3)"))
    await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    result = await sandbox.run_python("1", session="s")
    assert result.status == "lost"
    assert "cut short" in result.detail


async def test_answers_are_read_given_up_and_hung_up():
    answers = Answers.here()
    assert answers is Answers.here()
    read, write = os.pipe()
    os.set_blocking(read, False)
    asyncio.get_running_loop().call_later(0.02, os.write, write, b"abcdef")
    assert await answers.read(read, 4, 5.0, lambda: False) == b"abcd"
    assert await answers.read(read, 4, 5.0, lambda: False) == b"ef"
    assert await answers.read(read, 4, 0.01, lambda: False) is None
    assert await answers.read(read, 4, 5.0, lambda: True) is None
    os.close(write)
    assert await answers.read(read, 4, 5.0, lambda: False) == b""
    answers.forget(read)
    os.close(read)
    again, write = os.pipe()  # mostly the same number
    os.set_blocking(again, False)
    os.write(write, b"x")
    assert await answers.read(again, 4, 5.0, lambda: False) == b"x"
    answers.forget(again)
    os.close(again)
    os.close(write)

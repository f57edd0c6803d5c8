"""Whose doing the end of a sandbox is: of the programs in it, unless a fresh sandbox fails too."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from agentrl.sandbox import SandboxError, SandboxFault, SandboxLimits, SandboxLost, SandboxSpec, make_backend
from agentrl.sandbox.base import ExecResult
from agentrl.sandbox.host import ending as ending_module
from agentrl.sandbox.host import sandbox as sandbox_module
from agentrl.sandbox.host.channel import until_readable
from agentrl.sandbox.host.ending import Ending
from agentrl.sandbox.host.patience import Within

QUICK = SandboxLimits(wall_s=0.3)


@pytest.fixture
async def sandbox():
    async with await make_backend("bubblewrap").start(SandboxSpec()) as sandbox:
        yield sandbox


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(ending_module, "_PAUSES_S", (0.0, 0.0))
    monkeypatch.setattr(sandbox_module, "_GRACE_S", 0.1)


def send_worker(sandbox, number):
    signal.pidfd_send_signal(sandbox._process._worker_fd, number)


async def lose(sandbox):
    """Make the worker too slow to answer, as a program might; returns the result."""
    send_worker(sandbox, signal.SIGSTOP)
    return await sandbox.run_python("print(1)", limits=QUICK)


async def test_a_worker_that_a_program_keeps_from_answering_is_the_programs_doing(sandbox):
    result = await lose(sandbox)
    assert (result.status, result.exit_code, sandbox.lost) == ("lost", 137, True)
    assert result.checked() is result
    assert "lost with all that was changed in it" in result.detail
    assert not any(mark.isdigit() for mark in result.detail)  # no measured time, so that the text can be replayed


async def test_every_later_request_to_a_lost_sandbox_says_so(sandbox):
    await lose(sandbox)
    assert (await sandbox.exec(["true"])).status == "lost"
    assert (await sandbox.call("def f(): return 1", "f")).status == "lost"
    assert (await sandbox.run_python("1", session="s")).status == "lost"
    for request in (sandbox.read("a"), sandbox.write("a", b""), sandbox.entries(), sandbox.snapshot(), sandbox.reset()):
        with pytest.raises(SandboxLost):
            await request
    assert not await sandbox.healthy()


async def test_it_is_a_fault_if_a_fresh_sandbox_fails_too(sandbox, monkeypatch):
    send_worker(sandbox, signal.SIGSTOP)
    with monkeypatch.context() as broken:
        broken.setenv("PATH", "/nowhere")
        result = await sandbox.run_python("print(1)", limits=QUICK)
    assert (result.status, sandbox.lost) == ("infra", False)
    assert "bubblewrap is not installed" in result.detail
    with pytest.raises(SandboxFault):  # the verdict stays
        await sandbox.read("a")


async def test_a_worker_that_ends_while_no_program_runs_is_a_fault(sandbox):
    assert (await sandbox.run_python("print(1)")).ok
    worker = os.dup(sandbox._process._worker_fd)
    send_worker(sandbox, signal.SIGKILL)
    await until_ended(worker)
    result = await sandbox.run_python("print(1)")
    assert (result.status, sandbox.lost) == ("infra", False)


async def until_ended(pidfd):
    """Wait for the end of a process, and close its descriptor."""
    await until_readable(pidfd)
    os.close(pidfd)


async def test_a_worker_that_ends_under_a_session_is_the_sessions_doing(sandbox):
    assert (await sandbox.run_python("x = 1", session="s")).ok
    worker = os.dup(sandbox._process._worker_fd)
    send_worker(sandbox, signal.SIGKILL)
    await until_ended(worker)
    assert (await sandbox.run_python("1", session="s")).status == "lost"


async def test_a_worker_that_fails_before_any_program_is_a_fault(sandbox):
    send_worker(sandbox, signal.SIGKILL)
    with pytest.raises(SandboxFault):
        await sandbox.write("a", b"")


async def test_a_file_that_uses_up_the_memory_is_no_fault():
    limits = SandboxLimits(memory_bytes=16 << 20, disk_bytes=16 << 20, file_bytes=1 << 30)
    async with await make_backend("bubblewrap").start(SandboxSpec(limits=limits)) as sandbox:
        if sandbox._process._group is None:
            pytest.skip("there are no control groups")
        with pytest.raises(SandboxLost, match="used up its memory"):
            await sandbox.write("large", bytes(400 << 20))


async def test_after_a_reset_no_earlier_program_is_blamed(sandbox):
    await sandbox.run_python("x = 1", session="s")
    await sandbox.reset()
    send_worker(sandbox, signal.SIGKILL)
    with pytest.raises(SandboxFault):
        await sandbox.entries()


async def test_a_program_cannot_turn_the_kernel_against_the_worker(sandbox):
    result = await sandbox.run_python("open('/proc/self/oom_score_adj', 'w')")
    assert "Read-only" in result.error_text
    assert (await sandbox.exec(["sh", "-c", "echo 0 > /proc/self/oom_score_adj"])).status == "nonzero"
    assert (await sandbox.exec(["cat", "/proc/self/oom_score_adj"])).text == "1000\n"


async def test_a_sandbox_that_was_closed_is_no_programs_doing(sandbox):
    await sandbox.run_python("x = 1", session="s")
    await sandbox.close()
    assert ((await sandbox.run_python("1")).status, sandbox.lost) == ("infra", False)


async def test_time_in_the_queue_counts_against_no_request(sandbox):
    code = "import time; time.sleep(0.2); print(1)"
    results = await asyncio.gather(*(sandbox.run_python(code, limits=SandboxLimits(wall_s=1.0)) for _ in range(8)))
    assert [result.status for result in results] == ["ok"] * 8
    assert max(result.wall_s for result in results) < 1.0


def test_parallel_requests_work_in_one_loop_after_the_other():
    # About several event loops, so it makes its own.
    async def both(sandbox):
        return [result.text for result in await asyncio.gather(*(sandbox.run_python("print(1)") for _ in range(2)))]

    with asyncio.Runner() as first, asyncio.Runner() as second:
        sandbox = first.run(make_backend("bubblewrap").start(SandboxSpec()))
        assert first.run(both(sandbox)) == second.run(both(sandbox)) == ["1\n", "1\n"]
        second.run(sandbox.close())


async def test_programs_cannot_keep_the_worker_from_handing_over_descriptors(sandbox):
    taken = """
import os, socket
end, other = socket.socketpair()
end.setblocking(False)
pipe, _ = os.pipe()
try:
    while True:
        socket.send_fds(end, [b"x"], [pipe] * 50)
except OSError as error:
    print(error.strerror)
"""
    result = await sandbox.run_python(taken, session="a")
    if "Too many references" not in result.text:
        pytest.skip(f"the kernel says {result.text!r}")
    assert (await sandbox.run_python("print('hello')", session="b")).text == "hello\n"
    assert len(sandbox._ports) == 2


async def test_sessions_work_without_descriptors(sandbox, monkeypatch):
    ask = sandbox._channel.ask_for_fds

    async def without(*arguments):
        reply, fds = await ask(*arguments)
        for fd in fds:
            os.close(fd)
        return reply, None

    monkeypatch.setattr(sandbox._channel, "ask_for_fds", without)
    assert (await sandbox.run_python("x = 1", session="s")).ok
    assert (await sandbox.run_python("x + 1", session="s")).text == "2\n"
    assert (await sandbox.run_python("while True: pass", session="s", limits=QUICK)).status == "timeout"


@pytest.mark.parametrize("path", ["a" * 5000, "é" * 3000, "a\ud800b", "a" * 256, "a\0b", "x/" * 2000 + "/" * 200])
async def test_paths_that_no_file_has_are_refused_and_cost_nothing(sandbox, path):
    for request in (sandbox.read(path), sandbox.write(path, b""), sandbox.exec(["true"], cwd=path)):
        with pytest.raises(SandboxError):
            await request
    assert (await sandbox.exec(["true"])).ok


async def test_names_that_are_no_utf_8_are_listed_and_read(sandbox):
    await sandbox.exec(["sh", "-c", "printf hi > $(printf 'a\\377b')"])
    (entry,) = await sandbox.entries()
    assert await sandbox.read(entry.path) == b"hi"


async def test_a_session_needs_a_name_of_ordinary_length(sandbox):
    with pytest.raises(SandboxError, match="at most 255"):
        await sandbox.run_python("1", session="s" * 70_000)
    assert (await sandbox.run_python("1", session="s\ud800")).ok


LONG_NAMES = """
import os
for _ in range(14):
    os.mkdir(b"\\xff" * 250)
    os.chdir(b"\\xff" * 250)
for number in range(3900):
    os.close(os.open(str(number), os.O_CREAT | os.O_WRONLY))
"""


async def test_a_folder_that_cannot_be_listed_or_saved_is_refused_and_the_sandbox_goes_on(sandbox):
    await sandbox.run_python(LONG_NAMES)
    for request in (sandbox.entries(), sandbox.snapshot()):
        with pytest.raises(SandboxError, match="paths in the work folder"):
            await request
    assert (await sandbox.exec(["true"])).ok


@pytest.mark.parametrize(
    "command",
    ["truncate -s 30M a b c", "head -c 20M /dev/zero > a; ln a b; ln a c; ln a d", "cd $(printf 'd%.0s' $(seq 250))"],
)
async def test_a_snapshot_can_be_restored_or_is_refused(sandbox, command):
    deep = "import os\nfor _ in range(20):\n    os.mkdir('d' * 250)\n    os.chdir('d' * 250)"
    await (sandbox.run_python(deep) if command.startswith("cd") else sandbox.exec(["sh", "-c", command]))
    with pytest.raises(SandboxError):
        await sandbox.snapshot()
    await sandbox.exec(["sh", "-c", "rm -rf *; echo 1 > a"])
    await sandbox.restore(await sandbox.snapshot())
    assert await sandbox.read("a") == b"1\n"


async def test_sets_have_the_same_order_in_every_sandbox_and_kind_of_request():
    shown = "{str(number) for number in range(20)}"
    texts = []
    for _ in range(2):
        async with await make_backend("bubblewrap").start(SandboxSpec()) as sandbox:
            texts.append((await sandbox.run_python(f"print({shown})")).text)
            texts.append((await sandbox.run_python(shown, session="s")).text)
            texts.append((await sandbox.exec(["python3", "-c", f"print({shown})"])).text)
    assert len(set(texts)) == 1


@pytest.mark.parametrize("session", [None, "s"])
async def test_the_text_of_a_timeout_holds_no_measured_time(sandbox, session):
    result = await sandbox.run_python("while True: pass", session=session, limits=SandboxLimits(wall_s=0.2))
    assert result.status == "timeout"
    assert result.detail.split(";")[0] == "more than 0.2 s"


# Without a sandbox.


class Works:
    status = "ok"

    async def run_python(self, code):
        return ExecResult(self.status, detail="broken")

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        pass


async def nothing():
    pass


async def test_the_first_reason_of_an_end_counts():
    ending = Ending(lambda: pytest.fail("no fresh sandbox is needed"))
    ending.note("it was closed")
    ending.note("later", "programs")
    assert not ending.lost
    assert "it was closed" in str(await ending.error(nothing))


async def test_a_fresh_sandbox_is_tried_again_and_once_only_decides():
    tries = []

    async def fresh():
        tries.append(1)
        if len(tries) == 1:
            raise SandboxFault("the machine is busy")
        return Works()

    ending = Ending(fresh)
    ending.note("gone", "programs brought it down")
    errors = [await ending.error(nothing) for _ in range(2)]
    assert isinstance(errors[0], SandboxLost)
    assert errors[0] is errors[1]
    assert len(tries) == 2


async def test_a_fresh_sandbox_that_answers_infra_is_a_fault():
    async def fresh():
        works = Works()
        works.status = "infra"
        return works

    ending = Ending(fresh)
    ending.note("gone", "programs brought it down")
    assert isinstance(await ending.error(nothing), SandboxFault)
    assert not ending.lost


async def test_a_loop_that_stands_still_does_not_use_up_the_wait():
    answer = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(time.sleep, 0.4)
    asyncio.get_running_loop().call_later(0.1, answer.set_result, "late")
    async with Within(0.05):
        assert await answer == "late"


async def test_a_wait_ends_when_its_time_is_over():
    with pytest.raises(TimeoutError):
        async with Within(0.01):
            await asyncio.get_running_loop().create_future()

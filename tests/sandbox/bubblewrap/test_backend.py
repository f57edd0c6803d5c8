"""What is particular to bubblewrap: the end of its owner, orphans, the user it runs as, its limits' groups."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lazy_loader
import pytest

from agentrl.sandbox import SandboxError, SandboxFault, SandboxLimits, SandboxSpec, make_backend
from agentrl.sandbox.bubblewrap.backend import Bubblewrap
from agentrl.sandbox.bubblewrap.doctor import look
from agentrl.sandbox.conformance.probes import SMALL, Ground
from agentrl.sandbox.host import cgroups
from agentrl.sandbox.host import owner as owner_module
from agentrl.sandbox.host.owner import Owner, boot_id, pid_namespace
from tests.sandbox.descriptors import open_descriptors

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import asyncio, os, sys, time
from agentrl.sandbox import SandboxLimits, SandboxSpec, make_backend
async def main():
    sandbox = await make_backend("bubblewrap").start(SandboxSpec(limits=SandboxLimits(wall_s=60)))
    await sandbox.run_python("x = 1", session="s")
    run = asyncio.create_task(sandbox.exec(["python3", "-c", "import time; time.sleep(60)", sys.argv[1]]))
    await asyncio.sleep(0.5)
    if "fork" in sys.argv and os.fork() == 0:
        time.sleep(60)  # holds every descriptor of its parent open
    print("ready", flush=True)
    await run
asyncio.run(main())
"""


def labelled(owner: int) -> list[int]:
    """Processes on the host whose command line holds the label of a sandbox of an owner, by its process id."""
    labels = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                text = (Path(entry.path) / "cmdline").read_bytes().decode("utf-8", "replace")
            except OSError:
                continue
            owners = [found for word in text.split("\0") if (found := Owner.of_label(word))]
            if any(item.pid == owner for item in owners):
                labels.append(int(entry.name))
    return labels


async def until(happened: Callable[[], object], within_s: float = 3.0) -> None:
    """Wait for something to become true."""
    deadline_s = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("how", ["alone", "fork"])
async def test_killing_the_host_process_leaves_no_process(how):
    ground = Ground(make_backend("bubblewrap"))
    host = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, ground.token, how],
        cwd=ROOT, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        assert host.stdout is not None
        assert host.stdout.readline() == b"ready\n"
        await until(lambda: set(ground.processes()) - {host.pid})
        assert labelled(host.pid)
        host.kill()
        host.wait()
        copies = _session(host.pid)
        await until(lambda: not (set(ground.processes()) - copies) | set(labelled(host.pid)))
    finally:
        for pid in _session(host.pid):
            os.kill(pid, signal.SIGKILL)


def _session(leader: int) -> set[int]:
    """Processes of the session that a process leads."""
    members = set()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                fields = (Path(entry.path) / "stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] != b"Z":
                members.add(int(entry.name))
    return members


def _bwrap(*options: str) -> subprocess.Popen[bytes]:
    walls = ["--unshare-user", "--unshare-pid", "--ro-bind", "/", "/", "--proc", "/proc"]
    return subprocess.Popen(["bwrap", *walls, *options, "sleep", "60"])


def _label(boot: str = "", namespace: int = -1, pid: int = 2**22 + 5, ticks: int = 1) -> str:
    return Owner(boot or boot_id(), pid_namespace() if namespace < 0 else namespace, pid, ticks).label


async def test_reaping_ends_planted_orphans_and_nothing_else(monkeypatch):
    # Under a mark of its own, so that other processes which reap meanwhile leave the planted orphans alone.
    monkeypatch.setattr(owner_module, "_MARK", f"agentrl-sandbox-test{os.getpid()}")
    mine = Owner.this_process()
    foreign = {
        "no label": _bwrap(),
        "a living owner": _bwrap("--unsetenv", mine.label),
        "an owner that cannot be seen from here": _bwrap("--unsetenv", _label(namespace=7)),
        "not bubblewrap": subprocess.Popen(["sleep", "60"], executable=shutil.which("sleep")),
        "a label in another program": subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", _label()]),
    }
    orphans = {
        "a dead owner": _bwrap("--unsetenv", _label()),
        "its process id used again": _bwrap("--unsetenv", _label(pid=os.getpid(), ticks=mine.start_ticks - 1)),
        "another boot": _bwrap("--unsetenv", _label(boot="0" * 36)),
    }
    try:
        await until(lambda: all(_children(item.pid) for item in orphans.values()))
        children = [int(pid) for item in orphans.values() for pid in _children(item.pid)]
        assert len(children) == len(orphans)
        assert await make_backend("bubblewrap").reap() == len(orphans)
        for name, orphan in orphans.items():
            assert orphan.wait(timeout=3) != 0, name
        await until(lambda: not any(_alive(pid) for pid in children))
        assert [name for name, process in foreign.items() if process.poll() is not None] == []
    finally:
        for process in (*foreign.values(), *orphans.values()):
            for pid in _children(process.pid):
                os.kill(int(pid), signal.SIGKILL)
            process.kill()
            process.wait()


def _children(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else; others test this anyway")
def test_it_works_without_rights(tmp_path):
    """As a user that owns nothing, with the system's own Python."""
    shutil.copytree(ROOT / "agentrl", tmp_path / "agentrl", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(Path(lazy_loader.__file__).parent, tmp_path / "lazy_loader")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and folder != Path("/tmp") and folder.is_relative_to("/tmp"):
            folder.chmod(0o755)
    program = """
import asyncio
from agentrl.sandbox import make_backend, SandboxSpec
async def main():
    async with await make_backend("bubblewrap").start(SandboxSpec()) as sandbox:
        print((await sandbox.run_python("import os; print(os.getuid(), os.listdir('/proc').count('1'))")).text)
        print((await sandbox.exec(["sh", "-c", "sleep 60 & echo fine"])).text)
asyncio.run(main())
"""
    done = subprocess.run(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "/usr/bin/python3", "-c", program],
        cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["1000", "1", "fine"], done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="others are not root to begin with")
async def test_root_does_not_enter():
    """To the host, the processes of a sandbox belong to a user without an account."""
    ground = Ground(make_backend("bubblewrap"))
    async with ground.sandbox() as sandbox:
        run = asyncio.create_task(sandbox.exec(["python3", "-c", "import time; time.sleep(60)", ground.token]))
        await until(ground.processes)
        (user,) = {Path(f"/proc/{pid}").stat().st_uid for pid in ground.processes()}
        run.cancel()
    assert user >= 61184


async def test_a_start_leaves_no_descriptor_and_no_process_behind():
    async def once() -> None:
        async with await make_backend("bubblewrap").start(SandboxSpec()) as sandbox:
            await sandbox.run_python("print(1)")

    await once()
    before = open_descriptors()
    running = labelled(os.getpid())  # other tests may keep warm sandboxes
    for _ in range(3):
        await once()
    assert open_descriptors() <= before
    assert labelled(os.getpid()) == running


def test_one_sandbox_serves_one_event_loop_after_the_other():
    # About several event loops, so it makes its own.
    with asyncio.Runner() as first:
        sandbox = first.run(make_backend("bubblewrap").start(SandboxSpec()))
    for number in range(2):
        with asyncio.Runner() as other:
            assert other.run(sandbox.run_python(f"print({number})")).text == f"{number}\n"
    with asyncio.Runner() as last:
        last.run(sandbox.close())


async def test_the_doctor_names_the_command_that_repairs(monkeypatch):
    report = await Bubblewrap().doctor()
    assert report.usable, report
    monkeypatch.setenv("PATH", "/nowhere")
    report = await Bubblewrap().doctor()
    assert not report.usable
    assert report.repair == "sudo apt-get install -y bubblewrap"


@pytest.mark.parametrize("value", [0, -1, float("inf"), True, "5"])
def test_limits_must_be_numbers_above_zero(value):
    with pytest.raises(ValueError, match="wall_s must be a number above 0"):
        SandboxLimits(wall_s=value)


@pytest.mark.parametrize(
    ("setting", "value", "repair"),
    [
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"),
        ("user/max_user_namespaces", "0", "user.max_user_namespaces=15000"),
    ],
)
def test_the_doctor_knows_why_user_namespaces_fail(tmp_path, setting, value, repair):
    (tmp_path / setting).parent.mkdir()
    (tmp_path / setting).write_text(value + "\n")
    found = [check for check in look(tmp_path) if not check.ok and check.name == "user namespaces"]
    assert [check.repair for check in found] == [f"sudo sysctl -w {repair}"]


async def test_many_wrong_folders_cost_the_worker_nothing():
    async with await make_backend("bubblewrap").start(SandboxSpec()) as sandbox:
        for _ in range(300):  # two descriptors left by each would be more than a worker may have
            with pytest.raises(SandboxError, match="no folder"):
                await sandbox.exec(["true"], cwd="nowhere")
        assert (await sandbox.exec(["true"])).ok


GROWING = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        time.sleep(0.1)
        block = bytearray(60 * 2**20)
        time.sleep(60)
"""
BUFFERS = """
import os, socket, time
sockets = []
def fill():
    for _ in range(2):
        if os.fork() == 0:
            break
    for _ in range(240):
        for one in (pair := socket.socketpair()):
            one.setblocking(False)
            try:
                while True:
                    one.send(bytes(65536))
            except BlockingIOError:
                pass
        sockets.append(pair)
    time.sleep(60)
import threading
threading.Thread(target=fill, daemon=True).start()
"""


@pytest.mark.parametrize("code", [GROWING, BUFFERS], ids=["processes", "socket buffers"])
async def test_without_control_groups_a_session_is_bounded_between_cells_too(code, monkeypatch):
    monkeypatch.setattr(cgroups, "place", lambda: None)
    limits = SandboxLimits(memory_bytes=128 << 20)
    async with await make_backend("bubblewrap").start(SandboxSpec(limits=limits)) as sandbox:
        await sandbox.run_python("x = 1", session="other")
        assert (await sandbox.run_python(code, session="s")).ok
        ended = []

        async def has_ended() -> bool:
            ended.append(await sandbox.run_python("1", session="s"))
            return not ended[-1].ok

        for _ in range(400):
            if await has_ended():
                break
            await asyncio.sleep(0.02)
        assert ended[-1].status == "oom"
        assert ended[-1].detail.endswith("; the session is lost")
        assert (await sandbox.run_python("print(1)", session="s")).text == "1\n"  # a new one
        assert (await sandbox.run_python("print(x)", session="other")).text == "1\n"


HIDDEN = """
import ctypes, os, shutil, time
for _ in range(3):
    if os.fork() == 0:
        block = bytearray(60 * 2**20)
        time.sleep(60)
time.sleep(60)
"""


async def test_processes_that_hide_their_memory_count_all_the_same(monkeypatch):
    """Without control groups the worker adds memory up. It cannot look into a program whose file cannot be read."""
    monkeypatch.setattr(cgroups, "place", lambda: None)
    limits = SandboxLimits(memory_bytes=128 << 20)
    async with await make_backend("bubblewrap").start(SandboxSpec(limits=limits)) as sandbox:
        assert (await sandbox.exec(["sh", "-c", "cp $(readlink -f $(command -v python3)) p; chmod 111 p"])).ok
        result = await sandbox.exec(["./p", "-c", HIDDEN])
        hide = "import ctypes\nprint(ctypes.CDLL(None).prctl(4, 0, 0, 0, 0), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
        asked = await sandbox.run_python(hide)
    assert result.status in ("oom", "limit")
    assert asked.text == "0 1\n"  # a program may ask to be hidden, and is told that it is


async def test_processes_that_end_all_the_time_are_not_taken_for_hidden_ones(monkeypatch):
    """A process that is ending belongs to nobody for a moment; it must not count as one full of sockets."""
    monkeypatch.setattr(cgroups, "place", lambda: None)
    storm = "for i in $(seq 30); do (sleep 0.001 & sleep 0.002 & wait); done"
    async with await make_backend("bubblewrap").start(SandboxSpec(limits=SMALL)) as sandbox:
        for _ in range(12):
            result = await sandbox.exec(["sh", "-c", storm])
            assert result.status in ("ok", "timeout"), result.detail  # a busy machine may take long for it


@pytest.mark.parametrize("backend", ["bubblewrap", "subprocess"])
async def test_a_start_without_descriptors_is_a_fault_and_leaves_nothing(backend):
    made = make_backend(backend, **({"unsafe": True} if backend == "subprocess" else {}))
    async with await made.start(SandboxSpec()):  # what is opened once is open now
        pass
    before, children = open_descriptors(), _own_children()
    told = []
    for spare in range(0, 24, 2):
        with _descriptors_left(spare):
            try:
                sandbox = await made.start(SandboxSpec())
            except SandboxFault as fault:
                told.append("ulimit -n" in str(fault))
            else:
                await sandbox.close()
        assert open_descriptors() == before, spare
        assert _own_children() <= children, spare
    assert 1 < len(told) < 12
    assert all(told)


@contextlib.contextmanager
def _descriptors_left(spare: int) -> Iterator[None]:
    """Let this process open only so many descriptors more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(fd for fd, _ in open_descriptors()) + 40, limits[1]))
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        for _ in range(spare):
            os.close(held.pop())
        yield
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def _own_children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

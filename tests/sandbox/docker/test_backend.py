"""The docker backend on a real daemon: how a container is set up, ends and is reaped. `test_probes` has the attacks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from agentrl.sandbox import SandboxError, SandboxFault, SandboxLimits, SandboxLost, SandboxSpec
from agentrl.sandbox.docker.backend import IMAGE, LABEL, Docker, build_command
from agentrl.sandbox.docker.daemon import Daemon
from agentrl.sandbox.host import owner as owner_module
from agentrl.sandbox.host.owner import Owner, boot_id, pid_namespace

docker = pytest.importorskip("docker")
pytestmark = pytest.mark.docker

MIB = 1024**2
SMALL = SandboxLimits(
    wall_s=3, cpu_s=3, memory_bytes=128 * MIB, pids=24, disk_bytes=8 * MIB, inodes=256, file_bytes=4 * MIB
)
SPEC = SandboxSpec(limits=SMALL)


@pytest.fixture(scope="module")
def api():
    client = docker.DockerClient.from_env(version="auto")
    yield client.api
    client.close()


def podman(api):
    """Whether it is Podman that answers, at the address in DOCKER_HOST."""
    return Daemon.of(api.info(), api.version()).podman


def of_owner(api, label):
    return [row["Id"] for row in api.containers(all=True, filters={"label": f"{LABEL}={label}"})]


def mine(api):
    return of_owner(api, Owner.this_process().label)


def eventually(condition, within_s):
    deadline_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def transport():
    """How the worker of `sandbox` is reached, if the test does not say."""
    return "auto"


@pytest.fixture
async def sandbox(transport):
    async with await Docker(transport=transport).start(SPEC) as sandbox:
        yield sandbox


async def test_the_container_is_hardened(api, sandbox):
    if podman(api):
        pytest.skip("Podman describes a container in words of its own; the attacks try its walls")
    found = api.inspect_container(mine(api)[0])
    host = found["HostConfig"]
    assert host["NetworkMode"] == "none"
    assert host["ReadonlyRootfs"] is True
    assert host["Privileged"] is False
    assert host["CapDrop"] == ["ALL"]
    started_with = {name.removeprefix("CAP_") for name in host["CapAdd"]}
    assert {"SETGID", "SETUID"} <= started_with <= {"SETGID", "SETUID", "SYS_ADMIN"}
    assert host["LogConfig"]["Type"] == "none"
    assert host["AutoRemove"] is True
    assert "no-new-privileges" in host["SecurityOpt"]
    assert any(option.startswith("seccomp={") for option in host["SecurityOpt"])
    assert host["Memory"] == host["MemorySwap"] == (128 + 8 + 64) * MIB
    assert host["PidsLimit"] == 2 * 24 + 32
    assert host["NanoCpus"] == 10**9
    assert all(bind.endswith(":ro") for bind in host["Binds"])


async def test_every_sandbox_has_a_user_of_its_own_and_no_right_on_the_host(api):
    backend = Docker()
    async with await backend.start(SPEC) as one, await backend.start(SPEC) as other:
        for sandbox in (one, other):
            assert (await sandbox.run_python("import os\nprint(os.getresuid())")).text == "(1000, 1000, 1000)\n"
        pids = [api.inspect_container(container)["State"]["Pid"] for container in mine(api)]
        statuses, namespaces = (
            [Path(f"/proc/{pid}/status").read_text() for pid in pids],
            [os.stat(f"/proc/{pid}/ns/user").st_ino for pid in pids],
        )
    users = [set(line.split()[1:]) for text in statuses for line in text.splitlines() if line.startswith("Uid:")]
    assert [len(user) for user in users] == [1, 1]
    assert users[0] != users[1]
    assert {"0"} not in users
    assert len({*namespaces, os.stat("/proc/self/ns/user").st_ino}) == 3


@pytest.mark.parametrize("transport", ["socket", "stdio"])
async def test_programs_sessions_calls_and_files(sandbox):
    said = await sandbox.exec(["sh", "-c", "cat; pwd; exit 3"], stdin=b"given\n")
    assert (said.status, said.exit_code, said.stdout) == ("nonzero", 3, b"given\n/work\n")
    await sandbox.run_python("x = 20", session="s")
    assert (await sandbox.run_python("x + 1", session="s")).stdout == b"21\n"
    value = await sandbox.call("def f(a, b):\n    return {a: (b, 1.5)}", "f", [1, {2}])
    assert value.returned
    assert value.value == {1: ({2}, 1.5)}
    large = os.urandom(3 * MIB)
    await sandbox.write("in/large", large)
    assert await sandbox.read("in/large") == large
    saved = await sandbox.snapshot()
    await sandbox.reset()
    assert await sandbox.entries() == []
    await sandbox.restore(saved)
    assert [(entry.path, entry.size_bytes) for entry in await sandbox.entries()] == [
        ("in", 0),
        ("in/large", 3 * MIB),
    ]
    shown = await sandbox.run_python("print('x' * 10**6)")
    assert (shown.status, shown.truncated, len(shown.stdout)) == ("ok", True, SMALL.output_bytes)


@pytest.mark.parametrize("transport", ["stdio"])
async def test_an_endless_loop_over_stdio_ends_in_time(sandbox):
    started_s = time.monotonic()
    result = await sandbox.run_python("while True: pass", limits=SandboxLimits(wall_s=0.5, memory_bytes=64 * MIB))
    assert result.status == "timeout"
    assert time.monotonic() - started_s < 1.0
    assert (await sandbox.run_python("print(1)")).ok


async def test_nothing_of_the_container_s_own_is_left_to_programs(sandbox):
    code = """
import os
print(os.listdir("/sys"), os.listdir("/control"), os.listdir("/box"))
for path in ("/x", "/etc/x", "/dev/x", "/usr/x", "/control/x", "/box/x", "/proc/self/comm"):
    try:
        open(path, "w").write("1")
        print("wrote", path)
    except OSError:
        pass
"""
    assert (await sandbox.run_python(code)).text == "[] [] []\n"


async def test_the_kernel_ends_what_takes_the_container_s_memory_and_the_sandbox_lives(sandbox):
    # Touched in one go by a child, faster than the worker looks.
    code = "import mmap\nblock = mmap.mmap(-1, 2**30)\nfor at in range(0, 2**30, 4096): block[at] = 1"
    assert (await sandbox.run_python(code)).status == "oom"
    assert (await sandbox.run_python("print(1)")).ok


async def test_a_lost_container_is_a_fault_and_never_a_result(sandbox, api):
    api.kill(mine(api)[0])
    assert (await sandbox.run_python("print(1)")).status == "infra"
    assert not await sandbox.healthy()
    with pytest.raises(SandboxFault):
        await sandbox.entries()


@pytest.mark.parametrize("transport", ["socket", "stdio"])
async def test_close_and_hang_up_remove_the_container(api, transport):
    backend = Docker(transport=transport)
    sandbox = await backend.start(SPEC)
    assert len(mine(api)) == 1
    await sandbox.close()
    await sandbox.close()
    assert mine(api) == []
    left = await backend.start(SPEC)
    left._channel.close()  # nobody asks the daemon for anything
    assert await asyncio.to_thread(eventually, lambda: mine(api) == [], 3)


@pytest.mark.parametrize("transport", ["socket", "stdio"])
def test_nothing_outlives_a_killed_host(api, transport):
    program = f"""
import asyncio
from agentrl.sandbox import SandboxSpec
from agentrl.sandbox.docker.backend import Docker
async def main():
    backend = Docker(transport={transport!r})
    boxes = [await backend.start(SandboxSpec()) for _ in range(2)]
    print(backend._owner.label, flush=True)
    await asyncio.gather(*[box.exec(["sleep", "1000"]) for box in boxes])
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as host:
        label = host.stdout.readline().strip()
        assert len(of_owner(api, label)) == 2
        host.send_signal(signal.SIGKILL)
        assert eventually(lambda: of_owner(api, label) == [], 3)


async def test_a_cancelled_start_leaves_nothing(api):
    for wait_s in (0.05, 0.2):
        task = asyncio.create_task(Docker().start(SPEC))
        await asyncio.sleep(wait_s)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await (await task).close()
    assert await asyncio.to_thread(eventually, lambda: mine(api) == [], 5)


@contextlib.contextmanager
def planted(api, label_of):
    """Sleeping containers by name, each with the labels that are named for it."""
    containers = {}
    try:
        for name, labels in label_of.items():
            few = [{"Name": kind, "Soft": 64, "Hard": 64} for kind in ("nofile", "nproc")]
            options = {"labels": labels, "host_config": api.create_host_config(ulimits=few)}
            containers[name] = api.create_container(IMAGE, ["sleep", "1000"], **options)["Id"]
            api.start(containers[name])
        yield containers
    finally:
        for container in containers.values():
            with contextlib.suppress(docker.errors.APIError):
                api.remove_container(container, force=True)


async def test_reaping_ends_orphans_alone(api, monkeypatch):
    # Under a mark of its own, so that other processes which reap meanwhile leave the planted orphans alone.
    monkeypatch.setattr(owner_module, "_MARK", f"agentrl-sandbox-test{os.getpid()}")
    with subprocess.Popen(["true"]) as ended:
        pass
    me = Owner.this_process()
    owners = {
        "dead": Owner(boot_id(), pid_namespace(), ended.pid, 1),
        "pid used again": Owner(boot_id(), pid_namespace(), os.getpid(), me.start_ticks + 1),
        "alive": me,
        "other process namespace": Owner(boot_id(), pid_namespace() + 1, ended.pid, 1),
        "running, of another machine": Owner("0" * 36, pid_namespace(), ended.pid, 1),
    }
    label_of = {name: {LABEL: owner.label} for name, owner in owners.items()}
    label_of |= {"no owner": {LABEL: "mine"}, "foreign": {"com.example": owners["dead"].label}}
    with planted(api, label_of) as containers:
        assert await Docker().reap() == 2
        left = {row["Id"] for row in api.containers(all=True)}
        assert {name for name, container in containers.items() if container not in left} == {"dead", "pid used again"}


@pytest.fixture
def folder():
    """One that the sandbox's own /tmp does not cover."""
    path = Path(tempfile.mkdtemp(dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


async def test_read_only_folders_are_seen_and_not_written(folder):
    (folder / "given").write_text("as it was")
    code = f"print(open('{folder}/given').read())\nopen('{folder}/given', 'w')"
    async with await Docker().start(SandboxSpec(limits=SMALL, read_only=(str(folder),))) as sandbox:
        result = await sandbox.run_python(code)
    assert result.stdout == b"as it was\n"
    assert b"Read-only file system" in result.stderr
    assert (folder / "given").read_text() == "as it was"


async def test_what_is_missing_is_named_with_its_repair(api):
    good = await Docker().doctor()
    assert good.usable, good
    assert [check.name for check in good.checks] == ["sdk", "daemon", "image", "start"]
    no_image = await Docker("agentrl-none:none").doctor()
    assert not no_image.usable
    assert no_image.repair == build_command("agentrl-none:none", podman(api))
    no_runtime = await Docker(runtime="none-such").doctor()
    assert not no_runtime.usable
    assert "runsc install" in no_runtime.repair
    with pytest.raises(SandboxFault, match=r"build\.sh debian agentrl-none:none"):
        await Docker("agentrl-none:none").start(SPEC)


async def test_a_network_is_refused_where_no_socket_reaches_the_worker():
    backend = Docker(transport="stdio")
    spec = SandboxSpec(network=type(SPEC.network)(allow=("example.org:443",)))
    with pytest.raises(SandboxError, match=r"cannot let example\.org:443 through: that takes a daemon on this Linux"):
        await backend.start(spec)


async def test_a_container_that_ends_while_a_program_runs_is_lost_by_its_doing(sandbox, api):
    run = asyncio.create_task(sandbox.run_python("import time; time.sleep(60)"))
    (container,) = mine(api)
    await asyncio.to_thread(eventually, lambda: len(api.top(container)["Processes"]) > 1, 5)
    api.kill(container)
    assert ((await run).status, sandbox.lost) == ("lost", True)
    with pytest.raises(SandboxLost):
        await sandbox.entries()

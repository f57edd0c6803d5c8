"""The docker backend where there is no daemon: what it says, what it would ask for, and its two channels."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

from agentrl.sandbox import SandboxFault, SandboxSpec
from agentrl.sandbox.docker import backend as backend_module
from agentrl.sandbox.docker.backend import INSTALL_DAEMON, INSTALL_SDK, Docker, _left_behind
from agentrl.sandbox.docker.channel import Listener, StdioChannel, remove_folders, socket_reaches
from agentrl.sandbox.docker.daemon import Daemon
from agentrl.sandbox.docker.seccomp import container_profile
from agentrl.sandbox.host.channel import ChannelClosed
from agentrl.sandbox.host.owner import Owner, boot_id, pid_namespace
from agentrl.sandbox.host.worker_zip import worker_zip
from agentrl.sandbox.worker.frames import pack


async def test_without_the_sdk_the_doctor_names_it(monkeypatch):
    monkeypatch.setattr(backend_module, "docker", None)
    report = await Docker().doctor()
    assert not report.usable
    assert report.repair == INSTALL_SDK
    with pytest.raises(SandboxFault, match=r"agentrl\[docker\]"):
        await Docker().start(SandboxSpec())


async def test_without_a_daemon_the_doctor_names_it(tmp_path):
    pytest.importorskip("docker")
    backend = Docker(base_url=f"unix://{tmp_path}/none.sock")
    report = await backend.doctor()
    assert not report.usable
    assert report.repair == INSTALL_DAEMON
    assert [check.name for check in report.checks] == ["sdk", "daemon"]
    with pytest.raises(SandboxFault, match="systemctl start docker"):
        await backend.start(SandboxSpec())


def test_processors_must_be_above_zero():
    with pytest.raises(ValueError, match="cpus"):
        Docker(cpus=0)


def test_what_a_daemon_says_of_itself():
    info = {"Name": "vm", "Architecture": "arm64", "Runtimes": {"runc": {}, "runsc": {}}}
    info["SecurityOptions"] = ["name=apparmor", "name=seccomp,profile=default", "name=userns"]
    docker, podman = ({"Components": [{"Name": name}]} for name in ("Engine", "Podman Engine"))
    assert Daemon.of(info, docker) == Daemon("vm", "aarch64", ("runc", "runsc"), True, True)
    assert Daemon.of({"Architecture": "x86_64", "SecurityOptions": None}, {}) == Daemon("", "x86_64")
    assert Daemon.of(info, podman).podman


def test_podman_gets_the_profile_in_a_file():
    options = Daemon("vm", "x86_64", podman=True).security_options()
    (path,) = [option.removeprefix("seccomp=") for option in options if option.startswith("seccomp=")]
    assert json.loads(Path(path).read_text()) == json.loads(container_profile("x86_64"))
    assert "unmask=ALL" in options
    assert Daemon("vm", "x86_64").security_options() == ["no-new-privileges", f"seccomp={container_profile('x86_64')}"]
    with pytest.raises(SandboxFault, match="no system-call profile for riscv64"):
        Daemon("vm", "riscv64", podman=True).security_options()


def test_an_orphan_is_one_whose_owner_is_surely_dead():
    me = Owner.this_process()
    again = Owner(boot_id(), pid_namespace(), me.pid, me.start_ticks + 1)
    elsewhere = Owner("another boot", pid_namespace(), me.pid, me.start_ticks)
    found = {
        (name, state)
        for name, owner in (("me", me), ("again", again), ("elsewhere", elsewhere))
        for state in ("running", "created", "exited")
        if _left_behind(owner, state, me.boot)
    }
    assert found == {("again", "running"), ("again", "created"), ("again", "exited"), ("elsewhere", "exited")}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_profile_allows_by_name_and_by_argument(machine):
    document = json.loads(container_profile(machine))
    assert document["defaultAction"] == "SCMP_ACT_ERRNO"
    free = {
        name
        for rule in document["syscalls"]
        if not rule.get("args") and rule["action"] == "SCMP_ACT_ALLOW"
        for name in rule["names"]
    }
    assert {"read", "execve", "clone", "mount", "unshare"} <= free
    refused = [
        "ptrace",
        "bpf",
        "keyctl",
        "add_key",
        "io_uring_setup",
        "userfaultfd",
        "perf_event_open",
        "setns",
        "init_module",
        "kexec_load",
        "reboot",
        "swapon",
        "process_vm_readv",
        "socket",
        "personality",
        "clone3",
    ]
    assert free.isdisjoint(refused)
    pairs = {
        tuple(argument[key] for argument, key in zip(rule["args"], ("value", "valueTwo"), strict=True))
        for rule in document["syscalls"]
        if rule["names"] == ["socket"]
    }
    assert pairs == {(family, kind) for family in (1, 2, 10) for kind in (1, 2)}


def test_an_unknown_machine_is_named():
    with pytest.raises(SandboxFault, match="riscv64"):
        container_profile("riscv64")


def test_a_socket_is_shared_with_a_daemon_of_this_machine_alone():
    here = socket.gethostname()
    assert socket_reaches(here, "http+docker://localhost") is (os.uname().sysname == "Linux")
    assert not socket_reaches("docker-desktop", "http+docker://localhost")
    assert not socket_reaches(here, "http://10.0.0.1:2375")


def piece(stream, content):
    return struct.pack("!BxxxI", stream, len(content)) + content


async def test_pieces_of_output_become_one_stream_again():
    reply = b"".join(pack({"a": 1}, [b"x" * 1000, b"", b"yz"]))

    async def ask(pieces):
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.sendall(b"".join(pieces))
            channel = StdioChannel(ours)
            try:
                return (*await channel.ask({}, [], 1 << 20), channel.said)
            finally:
                channel.close()

    for cut in (1, 7, 8, 9, 500):
        pieces = [piece(1, reply[:cut]), piece(2, b"a warning"), piece(1, b""), piece(1, reply[cut:])]
        header, parts, said = await ask(pieces)
        assert (header["a"], parts, said) == (1, [b"x" * 1000, b"", b"yz", b""], b"a warning")


async def test_a_connection_that_closes_within_a_piece_is_an_error():
    ours, theirs = socket.socketpair()
    theirs.sendall(piece(1, b"abcdefgh")[:-3])
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ChannelClosed):
        await StdioChannel(ours).ask({}, [], 1 << 20)
    theirs.close()
    ours.close()


async def test_the_listener_hands_over_a_pidfd_and_the_program_and_leaves_no_folder():
    def receive(caller):
        with caller:
            _, fds, _, _ = socket.recv_fds(caller, 1, 1)
            with open(f"/proc/self/fdinfo/{fds[0]}") as file:
                fields = dict(line.split(":", 1) for line in file)
            os.close(fds[0])
            (size,) = struct.unpack("!I", caller.recv(4, socket.MSG_WAITALL))
            return int(fields["Pid"]), caller.recv(size, socket.MSG_WAITALL)

    with Listener() as listener:
        caller = socket.socket(socket.AF_UNIX)
        caller.connect(f"{listener.folder}/socket")
        channel, (pid, content) = await asyncio.gather(listener.accept(5), asyncio.to_thread(receive, caller))
        channel.close()
    assert not os.path.exists(os.path.dirname(listener.folder))
    assert pid == os.getpid()
    assert content == worker_zip()


@pytest.fixture
def short_folder():
    """The name of a unix socket has room for 107 letters."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_only_folders_of_dead_listeners_are_removed(short_folder, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(short_folder))
    dead = subprocess.Popen(["true"])
    dead.wait()
    here = f"agentrl-sandbox-{pid_namespace()}"
    names = [f"{here}-{dead.pid}-1-a", f"{here}-x-1-a", f"agentrl-sandbox-1-{dead.pid}-1-a", "agentrl-sandbox-other"]
    for name in names:
        (short_folder / name / "control").mkdir(parents=True)
    with Listener() as listener:
        assert remove_folders() == 1
        assert os.path.isdir(listener.folder)
    assert sorted(os.listdir(short_folder)) == sorted(names[1:])


async def test_a_listener_that_nobody_calls_gives_up():
    with Listener() as listener, pytest.raises(TimeoutError):
        await listener.accept(0.01)


def test_the_script_that_a_fault_names_exists():
    assert backend_module.BUILD_SCRIPT.is_file()

"""The walls around what a worker forks, from inside. Owns mounts, limits and privileges of a request's processes.

A worker in bubblewrap keeps its capabilities in the sandbox's own user namespace; whatever it forks for a request
gives up all of them before the first foreign instruction.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from agentrl.sandbox.worker import kernel

WORK = "/work"
WORKER_FILE = "/worker.zip"
_BOX = "/box"
_PARTS = {"work": WORK, "tmp": "/tmp", "shm": "/dev/shm"}
_FRESH = kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC
_OPEN_FILES = 512


class NoFolder(Exception):
    """A request is to stand where there is no folder."""


class Jail(Protocol):
    """How a worker starts and ends the processes of one request."""

    folder: str
    """The work folder."""

    def fork(self) -> int:
        """Fork a child that leads all that it will start; 0 in the child."""

    def enter(self, limits: Mapping[str, Any], folder: str, other_pids: int) -> None:
        """In the child: shut the door for good.

        Args:
            limits: fields of `SandboxLimits` by name.
            folder: where to stand, inside the work folder.
            other_pids: processes of this sandbox beside the request's.
        Raises: NoFolder; OSError where a wall cannot be made.
        """

    def kill(self, pid: int) -> None:
        """End a child and all that it started; its process has not been waited for yet."""

    def empty(self) -> None:
        """Make the work folder empty; nothing runs in it."""


class NamespaceJail:
    """Fresh process, mount and IPC namespaces for every request; one work folder and network for all of them."""

    proc_flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC

    def __init__(self, header: Mapping[str, Any], seccomp: bytes) -> None:
        self.folder = WORK
        self._options = f"mode=755,size={header['disk_bytes']},nr_inodes={header['inodes']}"
        self._prepare(seccomp)
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        self._fill()
        os.unlink(WORKER_FILE)
        for path in ("/", "/dev"):
            flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
            kernel.mount("none", path, flags=flags)
        kernel.bound_capabilities()

    def _prepare(self, seccomp: bytes) -> None:
        """What every request takes, made once: a fork pays for each page of the worker that it writes to."""
        self._clone = kernel.Clone(_FRESH)
        self._mount_proc = kernel.mounting("proc", "/proc", "proc", self.proc_flags)
        self._filter = kernel.Filter(seccomp) if seccomp else None

    def _fill(self) -> None:
        kernel.mount("tmpfs", _BOX, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, self._options)
        for name, target in _PARTS.items():
            os.mkdir(f"{_BOX}/{name}", 0o700)
            kernel.mount(f"{_BOX}/{name}", target, flags=kernel.MS_BIND)
        kernel.detach(_BOX)

    def empty(self) -> None:
        """A new, empty work folder; the old one goes with the last process that uses it."""
        for target in _PARTS.values():
            kernel.detach(target)
        self._fill()

    def fork(self) -> int:
        """Fork a child that is the first process of its own namespaces; 0 in the child."""
        return self._clone.fork()

    def kill(self, pid: int) -> None:
        """The first process of a namespace takes all others with it."""
        os.kill(pid, signal.SIGKILL)

    def enter(self, limits: Mapping[str, Any], folder: str, other_pids: int) -> None:
        """In the child: shut the door for good."""
        os.setsid()
        kernel.set_dumpable(True)  # else its own /proc entries would belong to nobody
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)  # rather this than the worker
        os.write(score, b"1000")
        os.close(score)
        self._mount_proc()
        _stand_in(f"{WORK}/{folder}")
        set_limits(limits, other_pids)
        kernel.drop_capabilities()
        kernel.no_new_privileges()
        if self._filter is not None:
            self._filter.load()


class PlainJail:
    """No walls: a process group and limits per process, for programs that are trusted.

    It does not keep a program from the host's files or network, nor from leaving its process group.
    """

    def __init__(self, header: Mapping[str, Any], seccomp: bytes) -> None:
        self.folder = header["folder"]

    def fork(self) -> int:
        """Fork the leader of a session."""
        pid = os.fork()
        if pid == 0:
            os.setsid()
        return pid

    def kill(self, pid: int) -> None:
        """What has moved to another session lives on."""
        for send in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                send(pid, signal.SIGKILL)

    def enter(self, limits: Mapping[str, Any], folder: str, other_pids: int) -> None:
        """Limits only."""
        kernel.die_with_parent()
        _stand_in(f"{self.folder}/{folder}")
        set_limits(limits, None)

    def empty(self) -> None:
        """Remove what is there."""
        for folder, folders, files in os.walk(self.folder, topdown=False):
            for name in files:
                os.unlink(os.path.join(folder, name))
            for name in folders:
                path = os.path.join(folder, name)
                (os.unlink if os.path.islink(path) else os.rmdir)(path)


JAILS: dict[str, Callable[[Mapping[str, Any], bytes], Jail]] = {"namespaces": NamespaceJail, "plain": PlainJail}
"""By the name that the setup request gives."""


def _stand_in(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as error:
        raise NoFolder(str(error)) from error


def set_limits(limits: Mapping[str, Any], other_pids: int | None) -> None:
    """Limits that the kernel holds per process.

    Args:
        limits: fields of `SandboxLimits` by name.
        other_pids: processes of the same user beside the request's, which RLIMIT_NPROC counts too; None where
            that user is not the sandbox's own.
    """
    cpu_s = int(limits["cpu_s"]) + 1
    pids = resource.RLIM_INFINITY if other_pids is None else int(limits["pids"]) + other_pids
    _limit(resource.RLIMIT_CPU, cpu_s)
    _limit(resource.RLIMIT_DATA, int(limits["memory_bytes"]))
    _limit(resource.RLIMIT_NPROC, pids)
    _limit(resource.RLIMIT_FSIZE, int(limits["file_bytes"]))


def set_lasting_limits() -> None:
    """Limits that hold for a worker and all that it forks, whatever a request asks for."""
    _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_MSGQUEUE, 0)
    _limit(resource.RLIMIT_MEMLOCK, 1 << 16)


def _limit(name: int, value: int) -> None:
    hard = resource.getrlimit(name)[1]
    if hard != resource.RLIM_INFINITY:
        value = hard if value == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(name, (value, value))

"""Isolating the processes of a request, from inside the sandbox. Owns their mounts, limits and privileges.

A worker in bubblewrap keeps its capabilities in the sandbox's own user namespace. Every child that it forks for a
request gives up all of them before the first foreign instruction.
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
OPEN_FILES, _WORKER_OPEN_FILES = 512, 4096
"""The kernel refuses to send a descriptor if its user has more on their way than the sender may open. A worker may open
more than programs, so that those of its own and other sandboxes cannot keep it from handing over a session's pipes."""
_PENDING_SIGNALS = 1024


class NoFolder(Exception):
    """The current folder that a request asks for does not exist."""


class Jail(Protocol):
    """How a worker starts and ends the processes of one request."""

    folder: str
    """The work folder."""

    def fork(self) -> int:
        """Fork a child that can be killed together with all that it will start; 0 in the child."""

    def enter(self, limits: Mapping[str, Any], folder: str, other_pids: int) -> None:
        """In the child: isolate this process for good.

        Args:
            limits: fields of `SandboxLimits` by name.
            folder: the current folder, inside the work folder.
            other_pids: processes of this sandbox that do not belong to the request.
        Raises: NoFolder; OSError if the isolation cannot be set up.
        """

    def kill(self, pid: int) -> None:
        """End a child and all that it started; its process has not been waited for yet."""

    def empty(self) -> None:
        """Make the work folder empty; nothing runs in it."""


class NamespaceJail:
    """Fresh process, mount and IPC namespaces for every request; one work folder and network for all of them."""

    # Read-only, so that a program cannot make the kernel prefer the worker when it kills for lack of memory.
    proc_flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC | kernel.MS_RDONLY

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
        """Make once what every request uses: each page that a fork writes to is copied."""
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
        """Mount a new, empty work folder; the old one is freed with the last process that uses it."""
        for target in _PARTS.values():
            kernel.detach(target)
        self._fill()

    def fork(self) -> int:
        """Fork a child that is the first process of its own namespaces; 0 in the child."""
        return self._clone.fork()

    def kill(self, pid: int) -> None:
        """Kill the first process of a namespace; the kernel kills all others in it."""
        os.kill(pid, signal.SIGKILL)

    def enter(self, limits: Mapping[str, Any], folder: str, other_pids: int) -> None:
        """In the child: isolate this process for good."""
        os.setsid()
        kernel.set_dumpable(True)  # otherwise its own /proc entries would belong to nobody
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)  # kill this before the worker
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
    """No isolation: a process group and limits per process, for programs that are trusted.

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
        """Kill the process group; a process that has moved to another session lives on."""
        for send in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                send(pid, signal.SIGKILL)

    def enter(self, limits: Mapping[str, Any], folder: str, other_pids: int) -> None:
        """In the child: set the limits; isolate nothing."""
        kernel.die_with_parent()
        _stand_in(f"{self.folder}/{folder}")
        set_limits(limits, None)

    def empty(self) -> None:
        """Remove everything in the work folder."""
        for folder, folders, files in os.walk(self.folder, topdown=False):
            for name in files:
                os.unlink(os.path.join(folder, name))
            for name in folders:
                path = os.path.join(folder, name)
                (os.unlink if os.path.islink(path) else os.rmdir)(path)


JAILS: dict[str, Callable[[Mapping[str, Any], bytes], Jail]] = {"namespaces": NamespaceJail, "plain": PlainJail}
"""Name in the setup request -> jail."""


def _stand_in(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as error:
        raise NoFolder(str(error)) from error


def set_limits(limits: Mapping[str, Any], other_pids: int | None) -> None:
    """Set the limits that the kernel enforces for each process.

    Args:
        limits: fields of `SandboxLimits` by name.
        other_pids: processes of the same user that do not belong to the request; RLIMIT_NPROC counts them too. None
            if the user is shared with programs outside the sandbox: the number of processes is then not limited.
    """
    cpu_s = int(limits["cpu_s"]) + 1
    pids = resource.RLIM_INFINITY if other_pids is None else int(limits["pids"]) + other_pids
    _limit(resource.RLIMIT_CPU, cpu_s)
    _limit(resource.RLIMIT_DATA, int(limits["memory_bytes"]))
    _limit(resource.RLIMIT_NPROC, pids)
    _limit(resource.RLIMIT_FSIZE, int(limits["file_bytes"]))
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)


def set_lasting_limits() -> None:
    """Set the limits that hold for a worker and all that it forks, and that no request can change."""
    _limit(resource.RLIMIT_NOFILE, _WORKER_OPEN_FILES)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_MSGQUEUE, 0)
    _limit(resource.RLIMIT_MEMLOCK, 1 << 16)
    _limit(resource.RLIMIT_SIGPENDING, _PENDING_SIGNALS)  # timers too; else one sandbox takes those of all of a user


def _limit(name: int, value: int) -> None:
    hard = resource.getrlimit(name)[1]
    if hard != resource.RLIM_INFINITY:
        value = hard if value == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(name, (value, value))

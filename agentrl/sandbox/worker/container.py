"""A worker that is the first process of a container. Owns how it gets its program, its rights and its walls there.

Docker gives it root with four capabilities. It keeps root for no longer than the set-up: after that it is a user
of the sandbox's own with the rights to mount and to drop rights, and what it forks has none.
It ends, and the container with it, when its control descriptor hangs up or its owner dies.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Mapping
from typing import Any

from agentrl.sandbox.worker import kernel
from agentrl.sandbox.worker.jail import JAILS, WORK, NamespaceJail
from agentrl.sandbox.worker.main import Worker

_CAP_SETPCAP, _CAP_SYS_ADMIN = 8, 21
_NOT_NEEDED = ("/sys", "/dev/mqueue", "/dev/shm", "/control", "/box", "/work", "/proc/")
"""Mounts of docker's. Those below /proc hide parts of it from root; requests get a fresh one and are not root."""
_CHUNK = 1 << 16
_NOT_ON_DISK = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID


class ContainerJail(NamespaceJail):
    """The same walls per request as in bubblewrap, built inside a container."""

    # There is no user namespace here that would keep a program from the kernel's settings.
    proc_flags = NamespaceJail.proc_flags | kernel.MS_RDONLY

    def __init__(self, header: Mapping[str, Any], seccomp: bytes) -> None:
        self.folder = WORK
        self._options = f"mode=755,size={header['disk_bytes']},nr_inodes={header['inodes']}"
        self._seccomp = seccomp
        kernel.become_user(header["user"], (_CAP_SETPCAP, _CAP_SYS_ADMIN))
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        for path in _mounts():
            kernel.detach(path)
        self._fill()
        kernel.mount("none", "/", flags=_NOT_ON_DISK | kernel.MS_NODEV)
        kernel.mount("none", "/dev", flags=_NOT_ON_DISK)  # docker's devices are real nodes


def _mounts() -> list[str]:
    """What is mounted here and not needed; inner ones first."""
    with open("/proc/self/mountinfo", encoding="ascii") as file:
        paths = [line.split()[4] for line in file]
    return sorted((path for path in paths if path.startswith(_NOT_NEEDED)), reverse=True)


def main(control: socket.socket, owner_fd: int) -> None:
    """Serve one owner; never returns.

    Args:
        control: connected to the owner.
        owner_fd: a pidfd of the owner, or -1 where there is none.
    """
    JAILS["container"] = ContainerJail
    keep = -1
    if owner_fd < 0:
        owner_fd, keep = os.pipe()  # never readable
    sys.path[:] = [path for path in sys.path if not path.startswith("/proc/")]
    Worker(control, owner_fd).serve()
    os._exit(0 if keep else 1)


def main_over_stdio() -> None:
    """Serve the owner at the other end of stdin and stdout; never returns.

    The first process carries the bytes, a second one is the worker: pipes are no sockets.
    """
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1):
            os.dup2(null, fd)
        main(theirs, -1)
    theirs.close()
    try:
        _carry(ours)
    finally:
        os._exit(0)


def _carry(worker: socket.socket) -> None:
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(worker, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            chunk = os.read(fd, _CHUNK)
            if not chunk:
                return
            if fd == 0:
                worker.sendall(chunk)
            else:
                _write(1, chunk)


def _write(fd: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(fd, view) :]

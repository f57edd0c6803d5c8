"""A worker that is the first process of a container. Owns how it gives up root and sets up its namespaces there.

Docker starts it as root with the right to become another user, and it becomes the user that the host has drawn for this
sandbox, in a user namespace where it may mount and fork, without any right in the container or on the host.
It ends when its control descriptor is closed or its owner dies, and the container ends with it.
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

_CAP_SYS_ADMIN = 21
_INSIDE_ID = 1000
_EMPTY = "/box"
_COVERED = ("/sys", "/dev/mqueue")
_MADE_READ_ONLY = ("/dev", "/run", "/var/tmp")
"""Where a daemon may have mounted something writable: devices are real nodes, and Podman mounts the other two."""
_CHUNK = 1 << 16
_READ_ONLY = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID


class ContainerJail(NamespaceJail):
    """Isolates each request as in bubblewrap, from a user namespace inside a container."""

    def __init__(self, header: Mapping[str, Any], seccomp: bytes) -> None:
        self.folder = WORK
        self._options = f"mode=755,size={header['disk_bytes']},nr_inodes={header['inodes']}"
        self._prepare(seccomp)
        _enter_user_namespace(header["user"], (_CAP_SYS_ADMIN,) if header["privileged_start"] else ())
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        for path in _COVERED:  # the daemon's own mounts: they cannot be removed from here, only covered
            if os.path.isdir(path):
                kernel.mount(_EMPTY, path, flags=kernel.MS_BIND)
        self._fill()
        kernel.mount("none", "/", flags=_READ_ONLY | kernel.MS_NODEV)
        for path in filter(os.path.ismount, _MADE_READ_ONLY):
            kernel.mount("none", path, flags=_READ_ONLY | _locked(path))
        kernel.bound_capabilities()


def _locked(path: str) -> int:
    """Flags of a mount that a process must keep if it is not the host's root; statvfs and mount number them alike."""
    return os.statvfs(path).f_flag & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC)


def _enter_user_namespace(user: int, capabilities: tuple[int, ...]) -> None:
    """Give up root for good, and get all rights in a new user namespace, which are worth nothing outside it.

    Args:
        user: the user id on the host; inside, it is always the same one.
        capabilities: kept until the namespace is made, for hosts that let only such processes make one.
    """
    kernel.become_user(user, capabilities)
    kernel.set_dumpable(True)  # otherwise our own /proc entries would belong to root
    kernel.unshare(kernel.CLONE_NEWUSER)
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{_INSIDE_ID} {user} 1"),
        ("gid_map", f"{_INSIDE_ID} {user} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(line)


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

    A worker needs a socket, so a second process is the worker and the first one copies bytes between both.
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

"""The walls of a sandbox made by bubblewrap, from inside. Owns mounts, limits and privileges of what runs in it.

The worker keeps its capabilities in the sandbox's own user namespace; whatever it forks for a request
gives up all of them before the first foreign instruction.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from typing import Any

from agentrl.sandbox.worker import kernel

WORK = "/work"
_BOX = "/box"
_PARTS = {"work": WORK, "tmp": "/tmp", "shm": "/dev/shm"}
_FRESH = kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC
_OPEN_FILES = 512


class NamespaceJail:
    """Fresh process, mount and IPC namespaces for every request; one work folder and network for all of them."""

    def __init__(self, disk_bytes: int, inodes: int, seccomp: bytes) -> None:
        self._options = f"mode=755,size={disk_bytes},nr_inodes={inodes}"
        self._seccomp = seccomp
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
        self._fill()
        for path in ("/", "/dev"):
            flags = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
            kernel.mount("none", path, flags=flags)

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
        return kernel.fork(_FRESH)

    def enter(self, limits: Mapping[str, Any], folder: str, privileged_pids: int) -> None:
        """In the child: shut the door for good. Raises OSError where the folder does not exist."""
        os.setsid()
        kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
        os.chdir(os.path.join(WORK, folder))
        set_limits(limits, privileged_pids)
        kernel.drop_capabilities()
        kernel.no_new_privileges()
        if self._seccomp:
            kernel.load_filter(self._seccomp)


def set_limits(limits: Mapping[str, Any], other_pids: int) -> None:
    """Limits that the kernel holds per process.

    Args:
        limits: fields of `Limits` by name.
        other_pids: processes of the same user beside the request's, which RLIMIT_NPROC counts too.
    """
    cpu_s = int(limits["cpu_s"]) + 1
    pids = int(limits["pids"]) + other_pids
    for name, value in (
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_DATA, int(limits["memory_bytes"])),
        (resource.RLIMIT_NPROC, pids),
        (resource.RLIMIT_FSIZE, int(limits["file_bytes"])),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_MEMLOCK, 1 << 16),
    ):
        hard = resource.getrlimit(name)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))

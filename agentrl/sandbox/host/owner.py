"""Which process started a sandbox. Owns its label (boot, process, start time) and the user ids that root lends."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agentrl.sandbox.base import SandboxFault

_MARK = "agentrl-sandbox"
LENT_USERS = range(61184, 65519)
"""Ids that systemd reserves for users without an account; none of them is in a password file."""


@dataclass(frozen=True)
class Owner:
    """One process, told apart from later processes with the same id by its start time, boot and process namespace."""

    boot: str
    pid_namespace: int
    pid: int
    start_ticks: int

    @classmethod
    def this_process(cls) -> Owner:
        """This process as an owner."""
        return cls(boot_id(), pid_namespace(), os.getpid(), start_ticks(os.getpid()))

    @property
    def short(self) -> str:
        """The name of its control groups, which never outlive a boot."""
        return f"{self.pid}-{self.start_ticks}"

    @property
    def label(self) -> str:
        """The text that marks the processes and containers of this owner."""
        return f"{_MARK}:{self.boot}:{self.pid_namespace}:{self.pid}:{self.start_ticks}"

    @classmethod
    def of_label(cls, label: str) -> Owner | None:
        """The owner in a label, or None for any other text."""
        mark, _, rest = label.partition(":")
        fields = rest.split(":")
        if mark != _MARK or len(fields) != 4 or not all(field.isdigit() for field in fields[1:]):
            return None
        return cls(fields[0], *map(int, fields[1:]))

    def alive(self) -> bool:
        """Whether that process may still run. One in another process namespace cannot be seen, and may."""
        if self.boot != boot_id():
            return False
        return self.pid_namespace != pid_namespace() or self.same_start()

    def same_start(self) -> bool:
        """Whether a process with this id and start time runs now."""
        return start_ticks(self.pid) == self.start_ticks

    @staticmethod
    def free_user() -> int:
        """A random user id for one sandbox. Two sandboxes with the same id share what the kernel counts per user."""
        return secrets.choice(LENT_USERS)


@contextlib.contextmanager
def told_if_too_many_open() -> Iterator[None]:
    """Raise a fault that says what to do if this process may open no more files. Raises: SandboxFault."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        raise SandboxFault(f"no sandbox can be started: {error.strerror}; raise `ulimit -n`") from error


@cache
def boot_id() -> str:
    """The id of this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@cache
def pid_namespace() -> int:
    """The namespace that process ids belong to; 0 if the system has none."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot; -1 if it does not exist or is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return -1
    return -1 if fields[0] in (b"Z", b"X") else int(fields[19])

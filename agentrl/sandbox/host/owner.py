"""Who started a sandbox: boot, process, start time. Owns the label, and the user ids that root lends to sandboxes."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_MARK = "agentrl-sandbox"
LENT_USERS = range(61184, 65519)
"""Ids that systemd keeps for users without an account; none of them is in a password file."""


@dataclass(frozen=True)
class Owner:
    """A process of one boot and process namespace; its id alone could be used again."""

    boot: str
    pid_namespace: int
    pid: int
    start_ticks: int

    @classmethod
    def this_process(cls) -> Owner:
        """The owner that this process is."""
        return cls(boot_id(), pid_namespace(), os.getpid(), start_ticks(os.getpid()))

    @property
    def short(self) -> str:
        """What names its control groups, which never outlive a boot."""
        return f"{self.pid}-{self.start_ticks}"

    @property
    def label(self) -> str:
        """The text that marks what belongs to this owner."""
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
        """Whether that very process may still run: one of another process namespace cannot be seen from here."""
        if self.boot != boot_id():
            return False
        return self.pid_namespace != pid_namespace() or self.same_start()

    def same_start(self) -> bool:
        """Whether a process with that id and start time runs on this boot."""
        return start_ticks(self.pid) == self.start_ticks

    @staticmethod
    def free_user() -> int:
        """A user id for one sandbox, at random: two that share one share only what the kernel counts per user."""
        return secrets.choice(LENT_USERS)


@cache
def boot_id() -> str:
    """This boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@cache
def pid_namespace() -> int:
    """The namespace that process ids are meant in; 0 where the system has none."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def start_ticks(pid: int) -> int:
    """When a process started, in clock ticks since boot; -1 where it does not exist or is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return -1
    return -1 if fields[0] in (b"Z", b"X") else int(fields[19])

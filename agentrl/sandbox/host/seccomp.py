"""The system-call profile, and a small assembler that turns it into a kernel filter. Owns which calls are allowed.

The profile is an allow-list: a call that is not on it is refused with EPERM, a call newer than our tables with ENOSYS
(C libraries then use an older call). Some calls are allowed depending on their arguments: sockets by family, clone
without new namespaces. A few are answered by 0 and do nothing. `syscalls` holds the numbers.
Source: seccomp(2); struct sock_filter in linux/filter.h, struct seccomp_data in linux/seccomp.h.
"""

from __future__ import annotations

import errno
import platform
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from agentrl.sandbox.base import SandboxFault
from agentrl.sandbox.host.syscalls import NUMBERS

_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_AT_NUMBER, _AT_MACHINE, _AT_ARGUMENTS = 0, 4, 16
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NEWEST_KNOWN = 450
"""Calls above this number are newer than our tables; the x32 calls also have higher numbers."""

_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_SOCK_STREAM, _SOCK_DGRAM, _SOCK_KIND = 1, 2, 0xF
_SOL_SOCKET, _PR_SET_DUMPABLE = 1, 4
_BUFFER_OPTIONS = (7, 8, 32, 33)  # SO_SNDBUF, SO_RCVBUF and both with FORCE
_CLONE_NAMESPACES = 0x7E020000  # every CLONE_NEW* flag that clone takes
_TERMINAL_TRICKS = (0x5412, 0x541C, 0x5423)  # TIOCSTI, TIOCLINUX, TIOCSETD
_PERSONALITIES = (0, 0xFFFFFFFF)
_FILE_KINDS = (0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK)
WORKER_CALLS = ("capset", "clone", "memfd_create", "mount", "prctl", "umount2", "unshare")
"""Calls that only the worker may make, or with more options; its children load a filter without them."""


@dataclass(frozen=True)
class Instruction:
    """One `struct sock_filter`."""

    code: int
    value: int
    if_true: int = 0
    if_false: int = 0

    def packed(self) -> bytes:
        return struct.pack("HBBI", self.code, self.if_true, self.if_false, self.value)


def profile(extra: Iterable[str] = (), machine: str | None = None) -> bytes:
    """The filter in the kernel's form.

    Args:
        extra: calls allowed with any argument, in addition to the profile's.
        machine: as `platform.machine()` names it; default: this one.
    Raises: SandboxFault for a machine without a table.
    """
    machine = machine or platform.machine()
    if machine not in NUMBERS:
        raise SandboxFault(f"no system-call profile for {machine}; there are ones for {', '.join(sorted(NUMBERS))}")
    numbers = NUMBERS[machine]
    extra = set(extra)
    blocks = {name: block for name, block in _conditional().items() if name in numbers and name not in extra}
    only_worker = set(WORKER_CALLS) | set(_conditional())
    free = {number for name, number in numbers.items() if name in extra or name not in only_worker}
    program = [
        Instruction(_LOAD, _AT_MACHINE),
        Instruction(_JUMP_EQUAL, _AUDIT[machine], 1, 0),
        Instruction(_RETURN, _KILL),
        Instruction(_LOAD, _AT_NUMBER),
        Instruction(_JUMP_ABOVE, _NEWEST_KNOWN, 0, 1),
        Instruction(_RETURN, _ERRNO | errno.ENOSYS),
    ]
    for name, block in blocks.items():
        program += [Instruction(_JUMP_EQUAL, numbers[name], 0, len(block)), *block]
    for low, high in _runs(free):
        program += [
            Instruction(_JUMP_AT_LEAST, low, 0, 2),
            Instruction(_JUMP_ABOVE, high, 1, 0),
            Instruction(_RETURN, _ALLOW),
        ]
    program.append(Instruction(_RETURN, _ERRNO | errno.EPERM))
    return b"".join(instruction.packed() for instruction in program)


def _conditional() -> dict[str, list[Instruction]]:
    """Calls that are allowed depending on their arguments: name -> instructions, each path of which returns."""
    kinds = _one_of(_FILE_KINDS, errno.EPERM)
    return {
        # Its flags are in memory, which a filter cannot read; if it fails, libraries use clone.
        "clone3": [Instruction(_RETURN, _ERRNO | errno.ENOSYS)],
        "clone": [
            *_argument(0),
            Instruction(_JUMP_ANY_BIT, _CLONE_NAMESPACES, 0, 1),
            Instruction(_RETURN, _ERRNO | errno.EPERM),
            Instruction(_RETURN, _ALLOW),
        ],
        "socket": _socket((_AF_UNIX, _AF_INET, _AF_INET6)),
        "socketpair": _socket((_AF_UNIX,)),
        "ioctl": _none_of(1, _TERMINAL_TRICKS),
        "setsockopt": _fixed_buffers(),
        # Answers 0 and does nothing: a process that hides from others of its user would hide from the worker.
        "prctl": [
            *_argument(0),
            Instruction(_JUMP_EQUAL, _PR_SET_DUMPABLE, 1, 0),
            Instruction(_RETURN, _ALLOW),
            Instruction(_RETURN, _ERRNO),
        ],
        "mknod": [*_argument(1), Instruction(_AND, 0o170000), *kinds],
        "mknodat": [*_argument(2), Instruction(_AND, 0o170000), *kinds],
        "personality": [*_argument(0), *_one_of(_PERSONALITIES, errno.EPERM)],
    }


def _socket(families: tuple[int, ...]) -> list[Instruction]:
    """Allow stream and datagram sockets of some families; no raw, packet, netlink, vsock or key sockets."""
    kinds = [*_argument(1), Instruction(_AND, _SOCK_KIND), *_one_of((_SOCK_STREAM, _SOCK_DGRAM), errno.EPERM)]
    tests = [Instruction(_JUMP_EQUAL, family, len(families) - index, 0) for index, family in enumerate(families)]
    return [*_argument(0), *tests, Instruction(_RETURN, _ERRNO | errno.EAFNOSUPPORT), *kinds]


def _fixed_buffers() -> list[Instruction]:
    """Answer 0 to a request for other buffers, and change nothing: as if the machine's largest ones were the usual."""
    last = len(_BUFFER_OPTIONS)
    tests = [Instruction(_JUMP_EQUAL, option, last - index, 0) for index, option in enumerate(_BUFFER_OPTIONS)]
    options = [*_argument(2), *tests, Instruction(_RETURN, _ALLOW), Instruction(_RETURN, _ERRNO)]
    return [*_argument(1), Instruction(_JUMP_EQUAL, _SOL_SOCKET, 1, 0), Instruction(_RETURN, _ALLOW), *options]


def _argument(index: int) -> list[Instruction]:
    """Load the low half of an argument (of little-endian machines); the calls here take 32 bits."""
    return [Instruction(_LOAD, _AT_ARGUMENTS + 8 * index)]


def _one_of(values: tuple[int, ...], error: int) -> list[Instruction]:
    tests = [Instruction(_JUMP_EQUAL, value, len(values) - index, 0) for index, value in enumerate(values)]
    return [*tests, Instruction(_RETURN, _ERRNO | error), Instruction(_RETURN, _ALLOW)]


def _none_of(argument: int, values: tuple[int, ...]) -> list[Instruction]:
    tests = [Instruction(_JUMP_EQUAL, value, len(values) - index, 0) for index, value in enumerate(values)]
    return [
        *_argument(argument),
        *tests,
        Instruction(_RETURN, _ALLOW),
        Instruction(_RETURN, _ERRNO | errno.EPERM),
    ]


def _runs(numbers: set[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers, first and last of each."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs

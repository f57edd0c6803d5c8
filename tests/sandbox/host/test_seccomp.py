"""The system-call profile, run by an interpreter of its own: what it lets through, call by call."""

from __future__ import annotations

import errno
import stat
import struct

import pytest

from agentrl.sandbox import SandboxFault
from agentrl.sandbox.host.seccomp import WORKER_CALLS, profile
from agentrl.sandbox.host.syscalls import NUMBERS, REFUSED

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
EPERM = ERRNO | errno.EPERM


def run(program: bytes, number: int, machine: str = "x86_64", args: tuple[int, ...] = (), audit: int = 0) -> int:
    """What the kernel would answer: a classic BPF machine over `struct seccomp_data`."""
    block = struct.pack("=IIQ6Q", number, audit or AUDIT[machine], 0, *(*args, 0, 0, 0, 0, 0, 0)[:6])
    steps = list(struct.iter_unpack("HBBI", program))
    at, loaded = 0, 0
    while True:
        code, if_true, if_false, value = steps[at]
        at += 1
        if code == 0x20:
            loaded = struct.unpack_from("=I", block, value)[0]
        elif code == 0x54:
            loaded &= value
        elif code == 0x06:
            return value
        else:
            tests = {0x15: loaded == value, 0x25: loaded > value, 0x35: loaded >= value, 0x45: loaded & value != 0}
            at += if_true if tests[code] else if_false


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_number_is_decided_as_the_tables_say(machine):
    program, numbers = profile(machine=machine), NUMBERS[machine]
    by_argument = {"clone", "clone3", "socket", "socketpair", "ioctl", "mknod", "mknodat", "personality"}
    by_argument |= {"setsockopt", "prctl"}
    free = {number for name, number in numbers.items() if name not in {*by_argument, *WORKER_CALLS}}
    decided = {numbers[name] for name in by_argument if name in numbers}
    for number in range(451):
        if number not in decided:
            assert run(program, number, machine) == (ALLOW if number in free else EPERM), number
    assert not free & set(REFUSED[machine].values())
    for number in (451, 10_000, 0x40000000, 0x40000000 | 59):
        assert run(program, number, machine) == ERRNO | errno.ENOSYS


@pytest.mark.parametrize("audit", [0x40000003, 0xC00000B7])
def test_calls_in_another_machines_way_end_the_process(audit):
    assert run(profile(machine="x86_64"), 0, audit=audit) == KILL


CALL = NUMBERS["x86_64"]


@pytest.mark.parametrize(
    ("name", "args", "answer"),
    [
        ("socket", (1, 1), ALLOW), ("socket", (2, 1), ALLOW), ("socket", (2, 2 | 0o2000000), ALLOW),
        ("socket", (10, 2), ALLOW), ("socket", (2, 3), EPERM), ("socket", (1, 5), EPERM),
        ("socket", (16, 3), ERRNO | errno.EAFNOSUPPORT), ("socket", (17, 2), ERRNO | errno.EAFNOSUPPORT),
        ("socket", (40, 1), ERRNO | errno.EAFNOSUPPORT), ("socket", (0, 1), ERRNO | errno.EAFNOSUPPORT),
        ("socketpair", (1, 1), ALLOW), ("socketpair", (2, 1), ERRNO | errno.EAFNOSUPPORT),
        ("clone", (17,), ALLOW), ("clone", (0x3D0F00,), ALLOW), ("clone", (0x10000000 | 17,), EPERM),
        ("clone", (0x20000,), EPERM), ("clone", (0x40000000,), EPERM), ("clone3", (), ERRNO | errno.ENOSYS),
        ("ioctl", (0, 0x5413), ALLOW), ("ioctl", (0, 0x5412), EPERM), ("ioctl", (0, 0x541C), EPERM),
        ("prctl", (4, 0), ERRNO), ("prctl", (4, 1), ERRNO), ("prctl", (38, 1), ALLOW), ("prctl", (3,), ALLOW),
        ("setsockopt", (3, 1, 2), ALLOW), ("setsockopt", (3, 6, 7), ALLOW), ("setsockopt", (3, 1, 9), ALLOW),
        *(("setsockopt", (3, 1, option), ERRNO) for option in (7, 8, 32, 33)),
        ("mknod", (0, stat.S_IFIFO | 0o644), ALLOW), ("mknod", (0, stat.S_IFCHR), EPERM),
        ("mknodat", (0, 0, stat.S_IFBLK), EPERM), ("mknodat", (0, 0, stat.S_IFSOCK), ALLOW),
        ("personality", (0xFFFFFFFF,), ALLOW), ("personality", (0x0040000,), EPERM),
    ],
)  # fmt: skip
def test_calls_that_their_arguments_decide(name, args, answer):
    assert run(profile(machine="x86_64"), CALL[name], args=args) == answer


def test_the_worker_may_do_what_it_must_and_its_children_may_not():
    worker, child = profile(WORKER_CALLS, machine="x86_64"), profile(machine="x86_64")
    for name in WORKER_CALLS:
        assert run(worker, CALL[name], args=(0x20000000,)) == ALLOW
        if name != "prctl":  # of which children may not use one option
            assert run(child, CALL[name], args=(0x20000000,)) == EPERM
    assert run(worker, CALL["prctl"], args=(4, 0)) == ALLOW


def test_a_machine_without_a_table_is_refused():
    with pytest.raises(SandboxFault, match="no system-call profile for s390x"):
        profile(machine="s390x")

"""Attacks on the limits of processes, memory, time, output and disk. Owns these attacks only."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from agentrl.sandbox.base import Sandbox
from agentrl.sandbox.conformance.probes import MIB, SMALL, Ground, Probes, expect

probe = Probes()
_FORKS = """
import os, sys
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
_EIGHT = """
import os, sys, time
for _ in range(7):
    if os.fork() == 0:
        break
block = bytearray(40 * 2**20)
time.sleep(20)
"""
_DEAF = """
import signal, sys
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass
"""
_FILL = """
import os, sys
kept = 0
try:
    for number in range(10**6):
        with open(os.path.join(sys.argv[1], str(number)), "wb", buffering=0) as file:
            for _ in range(3):
                kept += file.write(bytes(2**20))
except OSError as error:
    print(error.errno)
"""
_MANY = """
import os, sys
try:
    for number in range(10**6):
        open(os.path.join(sys.argv[1], str(number)), "w").close()
except OSError as error:
    print(error.errno)
"""

_CLAIMS = """
import os
def _form(tag, items):
    return b"%c%d:" % (tag, len(items)) + b"".join(items)
def f(name):
    one_hash = [b"i%x;" % (number * (2**61 - 1)) for number in range(25000)]
    sets = [_form(b"z", one_hash[:45] + [one_hash[50 + last]]) for last in range(46)]
    content = b"R" + {
        "plain numbers": lambda: _form(b"l", [b"i%x;" % number for number in range(99000)]),
        "integers of one hash": lambda: _form(b"s", one_hash),
        "keys of one hash": lambda: b"d25000:" + b"N".join(one_hash) + b"N",
        "sets of one hash": lambda: _form(b"s", [_form(b"z", [*sets[:-2], sets[last]]) for last in range(-24, 0)]),
        "many sets": lambda: _form(b"l", [b"s0:"] * 99000),
        "millions of parts": lambda: b"l8000000:" + b"N" * 8000000,
        "an endless number": lambda: b"i" + b"f" * 8000000,
        "a wide text": lambda: b"u7000004:" + b"x" * 7000000 + "\U0001f600".encode(),
    }[name]()
    while content:
        content = content[os.write(3, content):]
    os._exit(0)
"""
_CLAIMED = ["integers of one hash", "keys of one hash", "sets of one hash", "many sets", "millions of parts"]
_CLAIMED += ["an endless number", "a wide text"]
_TIMES_PLAIN = 12  # "many sets" is four times as costly as plain numbers; what is built in quadratic time, thousands


def _python(code: str, *arguments: str) -> list[str]:
    return ["python3", "-c", code, *arguments]


async def _expect_well(sandbox: Sandbox, who: str) -> None:
    result = await sandbox.run_python("print(6 * 7)")
    expect(result.text == "42\n", f"{who} does not work any more: {result}")


@probe("processes are capped, all of them die, and a neighbour works on")
async def fork_bomb(ground: Ground) -> None:
    async with ground.sandbox() as sandbox, ground.sandbox() as neighbour:
        bomb = asyncio.create_task(sandbox.exec(_python(_FORKS, ground.token)))
        most = 0
        while not bomb.done():
            for _ in range(10):  # it may end for its memory within a tenth of a second
                await asyncio.sleep(0.01)
                most = max(most, len(ground.processes()))
            await _expect_well(neighbour, "the neighbour")
        result = await bomb
        # The processes share memory, which may be counted once for each of them: `oom` is right too.
        expect(result.status in ("timeout", "limit", "oom"), f"it ended as {result.status}")
        expect(1 < most <= SMALL.pids + 4, f"{most} processes at one time, {SMALL.pids} are allowed")
        await ground.expect_no_process()
        await _expect_well(sandbox, "the sandbox")


@probe("one process gets no more memory than its limit")
async def memory_bomb(ground: Ground) -> None:
    async with ground.sandbox() as sandbox:
        for code in (
            "block = bytearray(2**30)",
            "blocks = [bytearray(2**20) for _ in range(1024)]",
            "import mmap\nblock = mmap.mmap(-1, 2**30)\nfor at in range(0, 2**30, 4096):\n    block[at] = 1",
        ):
            result = await sandbox.run_python(code)
            expect(result.status == "oom", f"{code.splitlines()[-1]!r} ended as {result.status}")
            await _expect_well(sandbox, "the sandbox")


@probe("eight processes together get no more memory than the limit")
async def memory_bomb_in_eight(ground: Ground) -> None:
    async with ground.sandbox(replace(SMALL, wall_s=8)) as sandbox:
        result = await sandbox.exec(_python(_EIGHT, ground.token))
        expect(result.status == "oom", f"it ended as {result.status} after {result.wall_s:.1f} s")
        await ground.expect_no_process()
        await _expect_well(sandbox, "the sandbox")


@probe("a program that ignores signals ends within wall time + 0.5 s, with all its processes")
async def endless_loop(ground: Ground) -> None:
    async with ground.sandbox() as sandbox:
        started_s = time.monotonic()
        result = await sandbox.exec(_python(_DEAF, ground.token), limits=replace(SMALL, wall_s=1))
        took_s = time.monotonic() - started_s
        expect(result.status == "timeout" and took_s <= 1.5, f"{result.status} after {took_s:.2f} s")
        await ground.expect_no_process()


@probe("processor time is capped, also over several processes")
async def processor_time(ground: Ground) -> None:
    code = "import os\nfor _ in range(3):\n    os.fork()\nwhile True:\n    pass"
    async with ground.sandbox(replace(SMALL, wall_s=30, cpu_s=1)) as sandbox:
        result = await sandbox.run_python(code)
        expect(result.status == "limit", f"it ended as {result.status} after {result.wall_s:.1f} s")


@probe("output beyond the limit is dropped; the call ends in time")
async def output_flood(ground: Ground) -> None:
    limits = replace(SMALL, wall_s=1, output_bytes=10_000)
    async with ground.sandbox(limits) as sandbox:
        for stream in ("stdout", "stderr"):
            result = await sandbox.run_python(f"import sys\nwhile True:\n    sys.{stream}.write('x' * 65536)")
            expect(result.status == "timeout" and result.wall_s <= 1.5, f"{result.status} after {result.wall_s:.2f} s")
            kept = getattr(result, stream)
            expect(len(kept) == 10_000 and result.truncated, f"{len(kept)} bytes of {stream} were kept")


@probe("a program that prints 1 MB, more than the limit, does not fail")
async def large_print(ground: Ground) -> None:
    async with ground.sandbox(replace(SMALL, output_bytes=1000)) as sandbox:
        result = await sandbox.run_python("print('x' * 10**6)")
        expect(result.ok and result.truncated and len(result.stdout) == 1000, f"{result.status} {result.truncated}")


@probe("the work folder, /tmp and /dev/shm together hold no more than the disk limit")
async def disk_fill(ground: Ground) -> None:
    async with ground.sandbox() as sandbox:
        for folder in ("/work", "/tmp", "/dev/shm"):
            result = await sandbox.exec(_python(_FILL, folder))
            expect(result.text == "28\n", f"filling {folder}: {result.text}{result.error_text}")
        kept = sum(entry.size_bytes for entry in await sandbox.entries())
        expect(kept <= SMALL.disk_bytes, f"{kept} bytes were kept")
        await sandbox.reset()
        await _expect_well(sandbox, "the sandbox")


@probe("no other folder can be written, so nothing escapes the disk limit")
async def disk_elsewhere(ground: Ground) -> None:
    code = """
import os
for top in ("/", "/dev", "/etc", "/usr", "/run", "/var", "/var/tmp", "/home", "/box", "/proc", "/sys"):
    try:
        open(os.path.join(top, "probe"), "w").close()
        print(top)
    except OSError:
        pass
"""
    async with ground.sandbox() as sandbox:
        result = await sandbox.run_python(code)
        expect(result.ok and not result.stdout, f"it wrote in {result.text.split()} {result.error_text}")


@probe("the number of files is capped")
async def very_many_files(ground: Ground) -> None:
    async with ground.sandbox() as sandbox:
        result = await sandbox.exec(_python(_MANY, "/work"))
        expect(result.text == "28\n", f"{result.text}{result.error_text}")
        count = len(await sandbox.entries())
        expect(count <= SMALL.inodes, f"{count} files were made, {SMALL.inodes} are allowed")


@probe("one file is capped")
async def large_file(ground: Ground) -> None:
    async with ground.sandbox() as sandbox:
        await sandbox.run_python("open('f', 'wb').truncate(2**40)")
        await sandbox.run_python("open('g', 'wb').write(bytes(6 * 2**20))")
        sizes = [entry.size_bytes for entry in await sandbox.entries()]
        expect(all(size <= SMALL.file_bytes for size in sizes), f"files of {sizes} bytes")


@probe("memory behind descriptors is not available: no memfd, no System V memory, no message queues")
async def hidden_memory(ground: Ground) -> None:
    code = """
import ctypes, os
libc = ctypes.CDLL(None)
print(libc.shmget(0, 2**20, 0o1600), libc.msgget(0, 0o1600), libc.semget(0, 8, 0o1600))
try:
    print(os.memfd_create("x"))
except OSError:
    print(-1)
"""
    async with ground.sandbox() as sandbox:
        result = await sandbox.run_python(code)
        expect(result.text == "-1 -1 -1\n-1\n", f"{result.text}{result.error_text}")


@probe("4 GB of output adds at most 16 MB to the host process", slow=True)
async def output_of_four_gigabytes(ground: Ground) -> None:
    limits = replace(SMALL, wall_s=120, cpu_s=120)
    async with ground.sandbox(limits) as sandbox:
        await sandbox.run_python("print(1)")
        before = _peak_bytes()
        result = await sandbox.exec(["head", "-c", str(4 * 1024 * MIB), "/dev/zero"])
        grown = _peak_bytes() - before
        expect(result.ok and result.truncated, f"{result.status} {result.detail}")
        expect(grown <= 16 * MIB, f"the host process grew by {grown / MIB:.1f} MiB")


@probe("whatever a graded call returns costs the host at most 12 times a plain list, and adds at most 64 MB to it")
async def costly_values(ground: Ground) -> None:
    async with ground.sandbox() as sandbox:
        plain_s, _ = await _cost(sandbox, "plain numbers")
        for name in _CLAIMED:
            took_s, grown = await _cost(sandbox, name)
            expect(took_s <= _TIMES_PLAIN * plain_s, f"{name} took the host {took_s / plain_s:.0f} times a list's time")
            expect(grown <= 64 * MIB, f"for {name}, the host process grew by {grown / MIB:.1f} MiB")


async def _cost(sandbox: Sandbox, name: str) -> tuple[float, int]:
    """CPU seconds of the host and bytes by which it grew while a graded call returned the value of that name."""
    before, started_s = _peak_bytes(), time.process_time()
    result = await sandbox.call(_CLAIMS, "f", [name])
    expect(result.ok and bool(result.returned or result.raised), f"the attack itself broke: {name} {result}")
    return time.process_time() - started_s, _peak_bytes() - before


def _peak_bytes() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["VmHWM"].split()[0]) * 1024

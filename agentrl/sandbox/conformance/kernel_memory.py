"""Attacks on what the kernel counts for a user, or for no process at all. Owns these attacks only.

Without control groups, and where all sandboxes run as one user, these would go around the limits of memory, and one
sandbox would starve all others.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

from agentrl.sandbox.base import Sandbox
from agentrl.sandbox.conformance.probes import MIB, SMALL, Ground, Probes, expect

probe = Probes()
_WORKER_BYTES = 64 * MIB
"""What a control group allows a worker in addition to its programs."""
_SETTLED_S = 3.0
_BUFFERS = """
import os, socket, time
for _ in range(5):
    if os.fork() == 0:
        break
pairs = []
try:
    while True:
        pairs.append(socket.socketpair())
        for one in pairs[-1]:
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
            try:
                while True:
                    one.send(bytes(65536))
            except BlockingIOError:
                pass
except OSError:
    pass
time.sleep(20)
"""
_IN_FLIGHT = """
import os, socket
left, right = socket.socketpair()
left.setblocking(False)
end, _ = os.pipe()
sent = 0
try:
    while True:
        socket.send_fds(left, [b"x"], [end] * 60)
        sent += 60
except OSError:
    print(sent > 60)
"""
_TIMERS = """
import ctypes
libc = ctypes.CDLL(None)
timer, count = ctypes.c_void_p(), 0
while count < 200_000 and libc.timer_create(1, None, ctypes.byref(timer)) == 0:
    count += 1
print(count)
"""
_PIPES = """
import fcntl, os
kept = []
try:
    while True:
        kept.append(os.pipe())
        try:
            fcntl.fcntl(kept[-1][0], fcntl.F_SETPIPE_SZ, 2**20)
        except OSError:
            pass
except OSError:
    print(len(kept) > 100)
"""
_GROWING = """
import os, sys, time
for _ in range(4):
    if os.fork() == 0:
        break
time.sleep(0.2)
block = bytearray(90 * 2**20)
time.sleep(60)
"""
_HIDDEN = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        break
block = bytearray(90 * 2**20)
time.sleep(60)
"""


async def _expect_well(sandbox: Sandbox, who: str) -> None:
    for session in (None, "s"):
        result = await sandbox.run_python("print(6 * 7)", session=session)
        expect(result.text == "42\n", f"{who} does not work any more: {result}")


def _private_bytes(pids: list[int]) -> int:
    """Memory of processes that is in no file, added up by the host."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:  # gone by now
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
    return total


async def _settled_bytes(ground: Ground) -> int:
    """What the marked processes use after they have used too much, or after the time in which they would have."""
    deadline_s = time.monotonic() + _SETTLED_S
    used, most = 0, 0
    while time.monotonic() < deadline_s and not most > SMALL.memory_bytes > used:
        await asyncio.sleep(0.1)
        used = _private_bytes(ground.processes())
        most = max(most, used)
    return used


@probe("buffers of sockets, which belong to no process, count as memory")
async def socket_buffers(ground: Ground) -> None:
    async with ground.sandbox(replace(SMALL, wall_s=15, cpu_s=15)) as sandbox, ground.sandbox() as neighbour:
        result = await sandbox.run_python(_BUFFERS)
        expect(result.status in ("oom", "limit", "lost"), f"it ended as {result.status} {result.detail}")
        await _expect_well(neighbour, "the neighbour")


@probe("descriptors on their way, which the kernel counts per user, keep no other sandbox from working")
async def descriptors_in_flight(ground: Ground) -> None:
    async with ground.sandbox() as sandbox, ground.sandbox() as neighbour:
        result = await sandbox.run_python(_IN_FLIGHT, session="a")
        expect(result.text == "True\n", f"the attack itself broke: {result.text} {result.error_text}")
        await _expect_well(neighbour, "the neighbour")
        await _expect_well(sandbox, "the sandbox")


@probe("timers and pending signals, which the kernel counts per user, are capped for each sandbox")
async def timers(ground: Ground) -> None:
    async with ground.sandbox() as sandbox, ground.sandbox() as neighbour:
        held = await sandbox.run_python(_TIMERS, session="a")
        expect(held.ok and 0 < int(held.text) <= 2048, f"{held.text} timers {held.error_text}")
        other = await neighbour.run_python(_TIMERS)
        expect(other.ok and int(other.text) > 100, f"{other.text} timers are left for the neighbour {other.error_text}")


@probe("pipes that use up what a user may have neither block the worker nor the sandbox next to it")
async def pipes(ground: Ground) -> None:
    async with ground.sandbox() as sandbox, ground.sandbox() as neighbour:
        for session in ("a", "b"):
            result = await sandbox.run_python(_PIPES, session=session)
            expect(result.text == "True\n", f"the attack itself broke: {result.text} {result.error_text}")
        for other in (sandbox, neighbour):
            read = await other.run_python("import sys\nprint(len(sys.stdin.read()))", stdin=b"x" * 30_000)
            expect(read.text == "30000\n", f"{read.status} {read.detail} {read.error_text}")


@probe("processes that a session leaves running between cells get no more memory than its limit")
async def between_cells(ground: Ground) -> None:
    code = f"import subprocess\nsubprocess.Popen(['python3', '-c', {_GROWING!r}, {ground.token!r}])"
    most = SMALL.memory_bytes + SMALL.disk_bytes + _WORKER_BYTES
    async with ground.sandbox() as sandbox:
        started = await sandbox.run_python(code, session="s")
        expect(started.ok, f"the attack itself broke: {started.error_text}")
        await ground.expect_process()
        used = await _settled_bytes(ground)
        expect(used <= most, f"they use {used / MIB:.0f} MiB, {SMALL.memory_bytes / MIB:.0f} are allowed")
        told = await sandbox.run_python("1", session="s")
        expect(told.status in ("ok", "oom"), f"the session is {told.status} {told.detail}")
        await _expect_well(sandbox, "the sandbox")


@probe("processes that hide their memory from others of their user get no more of it than the limit")
async def hidden_processes(ground: Ground) -> None:
    hide = 'cp $(readlink -f $(command -v python3)) /tmp/p && chmod 111 /tmp/p && exec /tmp/p -c "$1" "$2"'
    limits = replace(SMALL, wall_s=6, disk_bytes=64 * MIB, file_bytes=32 * MIB)
    async with ground.sandbox(limits) as sandbox:
        result = await sandbox.exec(["sh", "-c", hide, "sh", _HIDDEN, ground.token])
        expect(result.status in ("oom", "limit", "lost"), f"it ended as {result.status} {result.error_text}")

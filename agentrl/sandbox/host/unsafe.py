"""The subprocess backend: limits without isolation. It protects nothing; it is for comparison and for trusted code.

A program reaches the host's files, network and processes, with the rights of the user who started it; only its
environment variables are its own. The limits of disk, inodes and processes do not hold, and a process that leaves its
session lives on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from agentrl.sandbox.base import Backend, Network, Sandbox, SandboxError, SandboxSpec
from agentrl.sandbox.host.channel import Channel
from agentrl.sandbox.host.owner import told_if_too_many_open
from agentrl.sandbox.host.sandbox import RemoteSandbox
from agentrl.sandbox.host.worker_zip import WORKER_ENV, WORKER_OPTIONS, worker_zip
from agentrl.sandbox.report import Check, Report


class PlainProcess:
    """A worker that is an ordinary child process, with a temporary folder."""

    def __init__(self, worker: subprocess.Popen[bytes], folder: Path) -> None:
        self._worker = worker
        self._folder = folder

    def kill(self) -> None:
        self._worker.kill()

    async def ended(self) -> None:
        await asyncio.to_thread(self._worker.wait)
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    def why(self) -> str:
        return ""

    def out_of_memory(self) -> bool:
        return False


class Subprocess(Backend):
    """Runs programs with limits but without isolation.

    Args:
        unsafe: must be True, as a sign that the caller has read the first line of this module.
    Raises: SandboxError without it.
    """

    name = "subprocess"
    isolates = False

    def __init__(self, *, unsafe: bool = False) -> None:
        if unsafe is not True:
            raise SandboxError(
                "the subprocess backend isolates nothing: a program reads your files and reaches your network. "
                "Use make_backend('bubblewrap'), or Subprocess(unsafe=True) for code you trust"
            )

    @classmethod
    def works_here(cls) -> bool:
        return sys.platform == "linux"

    async def start(self, spec: SandboxSpec) -> Sandbox:
        spec.without_links(self.name)
        return await self._start(spec, functools.partial(self._start, spec))

    async def _start(self, spec: SandboxSpec, fresh: Callable[[], Awaitable[Sandbox]] | None = None) -> Sandbox:
        with told_if_too_many_open(), contextlib.ExitStack() as kept:
            folder = Path(tempfile.mkdtemp(prefix="agentrl-"))
            kept.callback(shutil.rmtree, folder, ignore_errors=True)
            (folder / "work").mkdir()
            (folder / "worker.zip").write_bytes(worker_zip())
            ours, theirs = socket.socketpair()
            kept.callback(ours.close)
            with theirs:
                worker = _spawn(folder / "worker.zip", theirs)
            kept.pop_all()
        # Nothing keeps a program from the network here, so there is no proxy.
        spec = replace(spec, network=Network())
        sandbox = RemoteSandbox(spec, Channel(ours), PlainProcess(worker, folder), fresh)
        try:
            await sandbox.set_up("plain", b"", folder=str(folder / "work"), home=str(folder / "work"))
        except BaseException:
            await sandbox.close()
            raise
        return sandbox

    async def doctor(self) -> Report:
        return Report(self.name, True, (Check("isolation", False, "none, by design: for code you trust"),))

    async def reap(self) -> int:
        return 0


def _spawn(program: Path, control: socket.socket) -> subprocess.Popen[bytes]:
    owner_fd = os.pidfd_open(os.getpid())
    try:
        return subprocess.Popen(
            [sys.executable, *WORKER_OPTIONS, str(program), str(control.fileno()), str(owner_fd)],
            env=WORKER_ENV,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(control.fileno(), owner_fd),
        )
    finally:
        os.close(owner_fd)

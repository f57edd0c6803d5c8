"""The bubblewrap backend: a worker in namespaces of its own, without a daemon and without root. Owns its start.

The worker stays and forks a child for each request. It ends when its socket is closed, or when the pidfd of its owner
says that the owner is dead. `--die-with-parent` is not used: it would kill a worker when the thread that started it
ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable

from agentrl.sandbox.base import Backend, Sandbox, SandboxFault, SandboxSpec
from agentrl.sandbox.bubblewrap.doctor import INSTALL, explain, look
from agentrl.sandbox.bubblewrap.host_files import shown
from agentrl.sandbox.host import cgroups
from agentrl.sandbox.host.channel import Channel, until_readable
from agentrl.sandbox.host.owner import Owner, told_if_too_many_open
from agentrl.sandbox.host.reaping import reap_monitors, remove_groups
from agentrl.sandbox.host.sandbox import RemoteSandbox
from agentrl.sandbox.host.seccomp import WORKER_CALLS, profile
from agentrl.sandbox.host.worker_zip import WORKER_ENV, WORKER_OPTIONS, worker_zip
from agentrl.sandbox.report import Check, Report

_SYSTEM_PYTHON = "/usr/bin/python3"
_ETC = {
    "/etc/passwd": b"root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/work:/bin/sh\n",
    "/etc/group": b"root:x:0:\nuser:x:1000:\n",
    "/etc/hosts": b"127.0.0.1 localhost\n::1 localhost\n",
}
_INSIDE_ID = "1000"
_END_S = 5.0
_count = itertools.count()


class BubblewrapProcess:
    """A running bwrap: its monitor outside, and the worker, the first process of the new namespace."""

    def __init__(
        self,
        monitor: subprocess.Popen[bytes],
        monitor_fd: int,
        info_fd: int,
        said_fd: int,
        group: cgroups.Group | None,
    ) -> None:
        self._group = group
        self._memory_kills = None if group is None else group.memory_kills()
        self._monitor = monitor
        self._monitor_fd = monitor_fd
        self._info_fd = info_fd
        self._said_fd = said_fd
        self._worker_fd = -1

    @property
    def grouped(self) -> bool:
        """Whether a control group bounds it."""
        return self._group is not None

    def worker_pid(self) -> int:
        """Process id of the worker on the host; 0 if bwrap has not started it."""
        try:
            return int(json.loads(os.read(self._info_fd, 4096))["child-pid"])
        except (OSError, ValueError, KeyError):
            return 0

    def adopt(self) -> None:
        """Open the worker's pidfd and move it into its control group; call this after its first answer.

        Raises: SandboxFault if it is gone already.
        """
        pid = self.worker_pid()
        try:
            with told_if_too_many_open():
                self._worker_fd = os.pidfd_open(pid)
                if self._group is not None:
                    self._group.add(pid)
        except OSError as error:
            raise SandboxFault(f"the worker is gone: {error}") from error

    def kill(self) -> None:
        for fd in (self._worker_fd, self._monitor_fd):
            if fd >= 0:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)

    async def ended(self) -> None:
        for fd in (self._worker_fd, self._monitor_fd):
            if fd >= 0:
                async with asyncio.timeout(_END_S):
                    await until_readable(fd)  # a pidfd is readable when its process has ended
        if self._monitor_fd >= 0:
            self._monitor.wait()
            if self._group is not None:
                self._group.remove()
            if self._memory_kills is not None:
                self._memory_kills.close()
            for fd in (self._worker_fd, self._monitor_fd, self._info_fd, self._said_fd):
                if fd >= 0:
                    os.close(fd)
            self._worker_fd = self._monitor_fd = self._info_fd = self._said_fd = -1

    def why(self) -> str:
        if self._said_fd < 0:
            return ""
        return os.pread(self._said_fd, 2000, 0).decode("utf-8", "replace").strip()

    def out_of_memory(self) -> bool:
        return self._memory_kills is not None and self._memory_kills.any_more()


class Bubblewrap(Backend):
    """Sandboxes by bubblewrap.

    Args:
        python: the interpreter inside; default: /usr/bin/python3 if there is one, else the one that runs this.
    """

    name = "bubblewrap"

    def __init__(self, python: str | None = None) -> None:
        self._python = python or _default_python()
        self._owner = Owner.this_process()

    @classmethod
    def works_here(cls) -> bool:
        return sys.platform == "linux" and shutil.which("bwrap") is not None

    async def start(self, spec: SandboxSpec) -> Sandbox:
        return await self._start(spec, functools.partial(self._start, spec))

    async def _start(self, spec: SandboxSpec, fresh: Callable[[], Awaitable[Sandbox]] | None = None) -> Sandbox:
        if shutil.which("bwrap") is None:
            raise SandboxFault(f"bubblewrap is not installed; run: {INSTALL}")
        with told_if_too_many_open():
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    process = self._spawn(spec, theirs)
            except BaseException:
                ours.close()
                raise
        sandbox = RemoteSandbox(spec, Channel(ours), process, fresh)
        try:
            await sandbox.set_up("namespaces", profile(), watched=not process.grouped)
            process.adopt()
        except BaseException:
            await sandbox.close()
            raise
        return sandbox

    def _spawn(self, spec: SandboxSpec, control: socket.socket) -> BubblewrapProcess:
        with contextlib.ExitStack() as given, contextlib.ExitStack() as kept:
            owner_fd = os.pidfd_open(os.getpid())
            given.callback(os.close, owner_fd)
            said_fd = os.memfd_create("said")
            kept.callback(os.close, said_fd)
            info_read, info_write = os.pipe()
            kept.callback(os.close, info_read)
            given.callback(os.close, info_write)
            files = {"/worker.zip": worker_zip(), **_ETC}
            contents = {path: _memory_file(content, given) for path, content in files.items()}
            argv = [*_as_nobody(), "bwrap", "--info-fd", str(info_write), *self._isolation(spec)]
            # The label is an option without effect, so that only the host can see it.
            argv += ["--unsetenv", self._owner.label]
            for path, fd in contents.items():
                argv += ["--file", str(fd), path]
            filter_fd = _memory_file(profile(WORKER_CALLS), given)
            argv += ["--seccomp", str(filter_fd)]
            argv += [self._python, *WORKER_OPTIONS, "/worker.zip", str(control.fileno()), str(owner_fd)]
            monitor = subprocess.Popen(
                argv,
                env={"PATH": os.defpath + ":/usr/sbin", **WORKER_ENV},
                stdin=subprocess.DEVNULL,
                stdout=said_fd,
                stderr=said_fd,
                pass_fds=[control.fileno(), owner_fd, info_write, filter_fd, *contents.values()],
                start_new_session=True,
            )
            kept.callback(monitor.wait)
            kept.callback(monitor.kill)
            monitor_fd = os.pidfd_open(monitor.pid)
            kept.pop_all()
        limits = spec.limits
        name = f"{self._owner.short}-{next(_count)}"
        group = cgroups.Group.for_sandbox(name, int(limits.memory_bytes), int(limits.disk_bytes), int(limits.pids))
        return BubblewrapProcess(monitor, monitor_fd, info_read, said_fd, group)

    def _isolation(self, spec: SandboxSpec) -> list[str]:
        argv = ["--unshare-all", "--unshare-user", "--uid", _INSIDE_ID, "--gid", _INSIDE_ID, "--as-pid-1"]
        argv += ["--hostname", "sandbox", "--cap-drop", "ALL"]
        # CAP_DAC_OVERRIDE: the worker must open its own files even if a program has removed their permissions.
        for capability in ("CAP_SYS_ADMIN", "CAP_SETPCAP", "CAP_DAC_OVERRIDE"):
            argv += ["--cap-add", capability]
        argv += shown(self._python, spec.read_only, certificates=not spec.network.off)
        argv += ["--proc", "/proc", "--dev", "/dev"]
        for folder in ("/work", "/tmp", "/box"):
            argv += ["--dir", folder]
        for name, path in spec.links.items():
            argv += ["--symlink", f"/work/{path}", f"/{name}"]
        return [*argv, "--chdir", "/"]

    async def doctor(self) -> Report:
        checks = look()
        if checks[0].ok:
            checks.append(await self._try())
        return Report(self.name, checks[0].ok and checks[-1].ok, tuple(checks))

    async def _try(self) -> Check:
        try:
            async with await self.start(SandboxSpec()) as sandbox:
                result = await sandbox.run_python("print(6 * 7)")
        except SandboxFault as fault:
            return explain(str(fault))
        return Check("start", result.text == "42\n", result.detail or result.error_text or "a snippet runs")

    async def reap(self) -> int:
        count = await asyncio.to_thread(reap_monitors)
        await asyncio.to_thread(remove_groups)
        return count


def _memory_file(content: bytes, stack: contextlib.ExitStack) -> int:
    fd = os.memfd_create("content")
    stack.callback(os.close, fd)
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _default_python() -> str:
    return _SYSTEM_PYTHON if os.access(_SYSTEM_PYTHON, os.X_OK) else os.path.realpath(sys.executable)


def _as_nobody() -> list[str]:
    """If this is root: a command prefix that changes to an unused user first. Root would keep rights in /proc."""
    if os.getuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise SandboxFault("root needs setpriv to start sandboxes; run: apt-get install -y util-linux")
    user = str(Owner.free_user())
    return [setpriv, "--reuid", user, "--regid", user, "--clear-groups"]

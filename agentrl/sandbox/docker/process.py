"""A running container. Owns killing and removing it, and counting what the kernel kills in it for lack of memory."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import docker.errors
from docker import APIClient

from agentrl.sandbox.host.cgroups import MemoryKills

_REMOVE_S, _PAUSE_S = 10.0, 0.02
_CGROUPS = Path("/sys/fs/cgroup")


def remove(api: APIClient, container: str) -> None:
    """Kill and remove a container; returns when it is gone."""
    deadline_s = time.monotonic() + _REMOVE_S
    while time.monotonic() < deadline_s:
        try:
            api.remove_container(container, force=True, v=True)
        except docker.errors.NotFound:
            return
        except docker.errors.APIError as error:
            # 409: it is being removed already; 500: Podman's answer if it ends by itself meanwhile.
            if error.status_code not in (409, 500) or time.monotonic() + _PAUSE_S > deadline_s:
                raise
            time.sleep(_PAUSE_S)


class ContainerProcess:
    """One container and its first process.

    Args:
        api: the daemon's client, used from other threads too.
        container: its id.

    Attributes:
        said: returns what it has printed on stderr, if that is known.
        connection: its stdin and stdout, after `attach`.
    """

    connection: socket.socket

    def __init__(self, api: APIClient, container: str) -> None:
        self._api = api
        self._container = container
        self.said: Callable[[], bytes] = lambda: b""
        self._pidfd = -1
        self._memory_kills: MemoryKills | None = None
        self._removal: concurrent.futures.Future[None] | None = None

    def adopt(self, pid: int) -> None:
        """Open the pidfd of the first process, if it is visible from here and certainly belongs to this container."""
        with contextlib.suppress(OSError, AttributeError):
            fd = os.pidfd_open(pid)
            try:
                lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
                if any(self._container in line for line in lines):
                    events = _memory_events(lines)
                    self._memory_kills = MemoryKills(events) if events else None
                    self._pidfd = os.dup(fd)
            finally:
                os.close(fd)

    def attach(self) -> None:
        """Connect to its stdin and stdout; call this before it is started."""
        params = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        raw = self._api.attach_socket(self._container, params)
        self.connection = socket.socket(fileno=os.dup(raw.fileno()))
        self._raw = raw  # closing it would close the connection

    def kill(self) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        if self._removal is None:
            self._removal = concurrent.futures.Future()
            threading.Thread(target=self._remove, args=(self._removal,), daemon=True).start()

    def _remove(self, removal: concurrent.futures.Future[None]) -> None:
        try:
            remove(self._api, self._container)
        except Exception as error:  # passed on to `ended`
            removal.set_exception(error)
        else:
            removal.set_result(None)

    async def ended(self) -> None:
        if self._removal is not None:
            await asyncio.wrap_future(self._removal)
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if self._memory_kills is not None:
            self._memory_kills.close()

    def why(self) -> str:
        return self.said().decode("utf-8", "replace").strip()

    def out_of_memory(self) -> bool:
        return self._memory_kills is not None and self._memory_kills.any_more()


def _memory_events(lines: list[str]) -> Path | None:
    """The kernel's file of memory kills, from the lines of /proc/PID/cgroup."""
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _CGROUPS / "memory" / path.lstrip("/") / "memory.oom_control"
    for line in lines:
        if line.startswith("0::"):
            return _CGROUPS / line[3:].lstrip("/") / "memory.events"
    return None

"""Waiting for a child: its output, its end, its limits. Owns the poll loop; starts nothing.

A child is the first process of its process namespace, so killing it also kills all that it started.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agentrl.sandbox.worker import kernel
from agentrl.sandbox.worker.jail import OPEN_FILES
from agentrl.sandbox.worker.processes import Usage, descriptors_of, proportional_bytes, sockets_among, usage_of
from agentrl.sandbox.worker.stream import Stream

_FIRST_LOOK_S, _LOOK_S = 0.03, 0.05
_KILLED_BY_CPU = (128 + signal.SIGKILL, 128 + signal.SIGXCPU)
_MOMENT_MS, _MOMENTS = 4, 6
_MAX_TROUBLE_BYTES = 4096
_MAX_DESCRIPTORS, _FEW_DESCRIPTORS = 2048, 64
_SOCKET_BYTES = 256 << 10
"""What the kernel may hold for a socket: its usual buffer, and one message more. Programs cannot ask for more."""
_END_S = 0.3
"""How long the kernel may take to end a killed namespace."""


class Child:
    """A forked child with the worker's ends of its pipes."""

    def __init__(self, pid: int, pidfd: int, streams: dict[str, Stream], trouble_fd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.streams = streams
        self.trouble = b""
        self._trouble_fd = trouble_fd
        self.requests_fd = -1

    def close(self) -> None:
        """Close the pipes, and read into `trouble` why the child could not start; it must have been waited for."""
        self.trouble = os.read(self._trouble_fd, _MAX_TROUBLE_BYTES)
        for stream in self.streams.values():
            os.close(stream.fd)
        os.close(self.pidfd)
        os.close(self._trouble_fd)
        if self.requests_fd >= 0:
            os.close(self.requests_fd)


class RunOutcome:
    """How a request ended: the fields of its reply."""

    def __init__(self) -> None:
        self.status = "ok"
        self.detail = ""
        self.exit_code: int | None = None
        self.cpu_s = 0.0
        self.max_rss_bytes = 0
        self.wall_s = 0.0

    @property
    def plain(self) -> bool:
        """Whether the request ended well and its usage was not measured, so that the reply is always the same."""
        return self.status == "ok" and self.exit_code == 0 and not (self.detail or self.cpu_s or self.max_rss_bytes)


class Watch:
    """Checks the limits of one request while it runs.

    Args:
        child: what runs it.
        limits: fields of `SandboxLimits` by name.
        also: called at each look, to check what else runs in the sandbox.
        waited_s: how much of its wall time has passed.
    """

    def __init__(
        self, child: Child, limits: Mapping[str, Any], also: Callable[[], None], waited_s: float = 0.0
    ) -> None:
        self._child = child
        self._also = also
        self.limits = limits
        self.started_s = time.monotonic()
        self.deadline_s = self.started_s + limits["wall_s"] - waited_s
        self._look_s = self.started_s + _FIRST_LOOK_S

    def timeout_ms(self) -> int:
        """How long to wait until the next check is due."""
        due_s = min(self.deadline_s, self._look_s) - time.monotonic()
        return max(0, int(due_s * 1000) + 1)

    def verdict(self) -> tuple[str, str] | None:
        """Status and detail if a limit is passed, else None."""
        now_s = time.monotonic()
        if now_s >= self.deadline_s:
            return "timeout", f"more than {self.limits['wall_s']:g} s"
        if now_s < self._look_s:
            return None
        self._look_s = now_s + _LOOK_S
        self._also()
        return judge(usage_of(self._child.pid), self.limits)


def judge(usage: Usage, limits: Mapping[str, Any]) -> tuple[str, str] | None:
    """Status and detail if a request's processes together use more than they may, else None."""
    # Forks share pages, so the sum of resident sets can be too large; it is then counted again, without double counts.
    if usage.rss_bytes > limits["memory_bytes"] and proportional_bytes(usage.pids) > limits["memory_bytes"]:
        return "oom", f"more than {limits['memory_bytes']} bytes of memory"
    if usage.cpu_s > limits["cpu_s"]:
        return "limit", f"more than {limits['cpu_s']:g} s of processor time"
    if usage.tasks > limits["pids"]:
        return "limit", f"more than {limits['pids']} processes and threads"
    return _judge_descriptors(usage, limits)


def _judge_descriptors(usage: Usage, limits: Mapping[str, Any]) -> tuple[str, str] | None:
    """As `judge`, for kernel memory behind descriptors, which counts for no process."""
    descriptors = descriptors_of(usage.pids, OPEN_FILES)
    if len(descriptors) > _MAX_DESCRIPTORS:
        return "limit", f"more than {_MAX_DESCRIPTORS} open descriptors in all processes together"
    if len(descriptors) <= _FEW_DESCRIPTORS:
        return None
    buffers = sockets_among(descriptors) * _SOCKET_BYTES
    if buffers + proportional_bytes(usage.pids) > limits["memory_bytes"]:
        return "oom", f"more than {limits['memory_bytes']} bytes of memory, buffers of sockets included"
    return None


def watch(
    child: Child,
    seen: Watch,
    interrupted: Callable[[], None],
    wake_fds: list[int],
    kill: Callable[[int], None],
) -> RunOutcome:
    """Read a child's pipes until it ends, or a limit ends it.

    Args:
        child: the first process of its own process namespace.
        seen: checks its limits.
        interrupted: called when one of wake_fds is readable; raises to end everything.
        wake_fds: descriptors that become readable when the owner is gone.
        kill: kills a child and all that it started; also called for a child that has ended, before it is waited for.
    """
    outcome = RunOutcome()
    poll = select.poll()
    for fd in (child.pidfd, *wake_fds):
        poll.register(fd, select.POLLIN)
    by_fd = {stream.fd: stream for stream in child.streams.values()}
    ended = ends_soon(poll, child.pidfd, child.streams.values())
    if not ended:
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
    while not ended:
        for fd, _ in poll.poll(seen.timeout_ms()):
            if fd in by_fd:
                by_fd[fd].take()
                if by_fd[fd].ended:
                    poll.unregister(fd)
            elif fd == child.pidfd:
                ended = True
            else:
                interrupted()
        verdict = None if ended or outcome.detail else seen.verdict()
        if verdict:
            outcome.status, outcome.detail = verdict
        if outcome.detail:
            break
    kill(child.pid)
    collect(child, outcome, seen.limits)
    outcome.wall_s = time.monotonic() - seen.started_s
    return outcome


def ends_soon(poll: select.poll, fd: int, streams: Iterable[Stream]) -> bool:
    """Wait a short time for a descriptor to become readable; returns whether it did.

    What is printed meanwhile stays in the pipes, to be read once at the end. The wait ends early if a pipe fills up.
    """
    for _ in range(_MOMENTS):
        found = poll.poll(_MOMENT_MS)
        if found:
            return fd in [ready for ready, _ in found]
        for stream in streams:
            if stream.filling():
                return False
    return False


def collect(child: Child, outcome: RunOutcome, limits: Mapping[str, Any]) -> None:
    """Wait for the end of a child, read its last output, and write into `outcome` how it ended."""
    code, outcome.cpu_s, outcome.max_rss_bytes = kernel.wait(child.pid)
    for stream in child.streams.values():
        _drain(stream)
    outcome.exit_code = code if code >= 0 else 128 - code
    if outcome.status != "ok":
        return
    if outcome.exit_code in _KILLED_BY_CPU and outcome.cpu_s >= limits["cpu_s"]:
        outcome.status, outcome.detail = "limit", f"more than {limits['cpu_s']:g} s of processor time"
    elif code != 0:
        outcome.status = "nonzero"


def _drain(stream: Stream) -> None:
    """Read what is left in a pipe whose writers are dead: at most its capacity."""
    deadline_s = time.monotonic() + _END_S
    while not stream.ended and time.monotonic() < deadline_s:
        if not stream.take() and not stream.ended:
            return

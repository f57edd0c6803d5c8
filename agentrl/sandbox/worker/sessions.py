"""Running requests and sessions: fork a child, give it pipes, report how it ended. Owns the sessions."""

from __future__ import annotations

import fcntl
import json
import os
import select
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentrl.sandbox.worker import programs
from agentrl.sandbox.worker.capture import Child, RunOutcome, Watch, collect, ends_soon, judge, watch
from agentrl.sandbox.worker.files import FileError
from agentrl.sandbox.worker.frames import left
from agentrl.sandbox.worker.jail import Jail, NoFolder
from agentrl.sandbox.worker.processes import usage_of
from agentrl.sandbox.worker.stream import Stream

_CANNOT_ENTER = 125
_MAX_VALUE_BYTES = 8 << 20
_CWD, _SESSION_LOST = "cwd: ", "; the session is lost"
_LOOK_MS = 100
_ENDLESS_S = 1 << 30
_PIPE_BYTES = 4096
"""What a pipe holds at least: less than usual once its user has many. Longer input goes through a sealed file in
memory."""

_ENDED_WELL = json.dumps({"status": "ok", "exit_code": 0}).encode("ascii")
"""The header of nearly every reply to a cell, made once."""
Reply = tuple[dict[str, Any] | bytes, list[memoryview]]
Parts = list[memoryview]


class Runner:
    """Runs one request at a time and holds the sessions.

    Args:
        jail: isolates what runs.
        control_fds: become readable when the owner is gone.
        watched: whether sessions are checked between cells too, because no control group bounds them.
    """

    def __init__(self, jail: Jail, control_fds: list[int], watched: bool) -> None:
        self._jail = jail
        self._control_fds = control_fds
        self._watched = watched
        self._sessions: dict[str, Child] = {}
        self._limits: dict[str, Mapping[str, Any]] = {}
        self._lost: dict[str, RunOutcome] = {}

    @property
    def look_ms(self) -> int | None:
        """How often `look` is due while no request runs; None: never."""
        return _LOOK_MS if self._watched and self._sessions else None

    def look(self, but: str | None = None) -> None:
        """End the sessions whose processes use more than they may together, except the one named `but`."""
        for name in [name for name in self._sessions if self._watched and name != but]:
            limits = {**self._limits[name], "cpu_s": _ENDLESS_S}
            verdict = judge(usage_of(self._sessions[name].pid), limits)
            if verdict:
                outcome = self._lost[name] = RunOutcome()
                outcome.status, outcome.detail = verdict
                self._end(name, outcome, limits)
                outcome.detail += _SESSION_LOST

    def close_sessions(self) -> None:
        """End every session."""
        self._lost.clear()
        for name in list(self._sessions):
            self._end(name, RunOutcome(), {"cpu_s": _ENDLESS_S})

    def _end(self, name: str, outcome: RunOutcome, limits: Mapping[str, Any]) -> None:
        child, _ = self._sessions.pop(name), self._limits.pop(name)
        self._jail.kill(child.pid)
        collect(child, outcome, limits)
        child.close()

    def run(self, header: Mapping[str, Any], parts: Parts, interrupted: Callable[[], None]) -> Reply:
        """Run one program, snippet or call from start to end."""
        limits, kind = header["limits"], header["kind"]
        child = self._start(header, parts)
        outcome = watch(child, Watch(child, limits, self.look), interrupted, self._control_fds, self._jail.kill)
        child.close()
        _raise_if_never_entered(child.trouble)
        if outcome.status == "nonzero" and kind != "exec" and outcome.exit_code == programs.OUT_OF_MEMORY:
            outcome.status, outcome.detail = "oom", f"more than {limits['memory_bytes']} bytes of memory"
        return _reply(outcome, child.streams)

    def _start(self, header: Mapping[str, Any], parts: Parts) -> Child:
        kind, limits = header["kind"], header["limits"]
        stdin = _stdin(parts[1] if len(parts) > 1 else memoryview(b""))
        names = ("stdout", "stderr", "value") if kind == "call" else ("stdout", "stderr")

        def become() -> None:
            # The body is read in the child alone, so that the worker's own memory never holds what a request says.
            if kind == "exec":
                programs.run_program(json.loads(bytes(parts[0])))
            programs.begin(self._jail.folder)
            if kind == "call":
                programs.run_call(bytes(parts[0]), 3)
            programs.run_code(bytes(parts[0]).decode("utf-8", "surrogatepass"))

        return self._fork(limits, header.get("cwd", "."), stdin, names, become)

    def _fork(
        self,
        limits: Mapping[str, Any],
        folder: str,
        stdin: int,
        names: tuple[str, ...],
        become: Callable[[], None],
        asked: int = -1,
    ) -> Child:
        """Fork a child with its limits and one pipe for each name, on descriptors 1, 2, …

        Args:
            stdin: the child's standard input; closed here.
            become: what the child runs.
            asked: a descriptor to give to the child after those of the names; closed here. -1: none.
        """
        pipes = {name: os.pipe() for name in names}
        trouble_fd, tell_fd = os.pipe()
        given = [stdin, *[write for _, write in pipes.values()], tell_fd]
        if asked >= 0:
            given.insert(-1, asked)
        pid = self._jail.fork()
        if pid == 0:
            tell_fd = len(given) - 1
            try:
                _arrange(given)
                self._jail.enter(limits, folder, 2 + len(self._sessions))
            except BaseException as error:
                os.write(tell_fd, f"{_CWD if isinstance(error, NoFolder) else ''}{error}".encode("utf-8", "replace"))
                os._exit(_CANNOT_ENTER)
            os.close(tell_fd)  # foreign code starts now, and must not be able to report that the jail failed
            try:
                become()
            except BaseException as error:
                os.write(2, f"{type(error).__name__}: {error}\n".encode("utf-8", "replace"))
            finally:
                os._exit(_CANNOT_ENTER)
        for fd in given:
            os.close(fd)
        streams = {}
        for name, (fd, _) in pipes.items():
            os.set_blocking(fd, False)
            streams[name] = Stream(fd, _MAX_VALUE_BYTES if name == "value" else int(limits["output_bytes"]))
        return Child(pid, os.pidfd_open(pid), streams, trouble_fd)

    def open(self, name: str, limits: Mapping[str, Any]) -> list[int]:
        """The pipes of a session, which starts if there is none of that name: requests, answers, stdout, stderr."""
        child = self._session(name, limits)
        return [child.requests_fd, *(child.streams[key].fd for key in ("value", "stdout", "stderr"))]

    def _session(self, name: str, limits: Mapping[str, Any]) -> Child:
        if name not in self._sessions:
            self._sessions[name], self._limits[name] = self._open(limits), limits
        return self._sessions[name]

    def cell(self, header: Mapping[str, Any], parts: Parts, interrupted: Callable[[], None]) -> Reply:
        """Run one piece of code in a session, which starts if there is none of that name."""
        name, limits = header["session"], header["limits"]
        if name in self._lost:
            return _reply(self._lost.pop(name), {key: Stream(-1, 1) for key in ("stdout", "stderr")})
        child = self._session(name, limits)
        for stream in child.streams.values():
            stream.rewind(int(limits["output_bytes"]))
        code = None if header["kind"] == "sent" else parts[0]
        seen = Watch(child, limits, lambda: self.look(but=name), header["waited_s"])
        outcome = self._ask(name, child, seen, code, interrupted)
        if outcome.exit_code == _CANNOT_ENTER:
            _raise_if_never_entered(child.trouble)
        return _reply(outcome, {key: child.streams[key] for key in ("stdout", "stderr")})

    def _open(self, limits: Mapping[str, Any]) -> Child:
        asked, ours = os.pipe()

        def become() -> None:
            programs.begin(self._jail.folder)
            programs.run_session(4, 3)

        # `Watch` counts processor time for each cell; the other limits hold for the whole session.
        lasting = {**limits, "cpu_s": _ENDLESS_S}
        stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        child = self._fork(lasting, ".", stdin, ("stdout", "stderr", "value"), become, asked)
        os.set_blocking(ours, False)
        child.requests_fd = ours
        return child

    def _ask(
        self, name: str, child: Child, seen: Watch, code: memoryview | None, interrupted: Callable[[], None]
    ) -> RunOutcome:
        """Have a session run a cell; returns how it ended.

        Args:
            code: None if the owner has sent it to the session itself and has already waited a while.
        """
        outcome, answer = RunOutcome(), child.streams["value"]
        answer.rewind(programs.LENGTH.size)
        unsent: list[memoryview] = []
        if code is not None:
            unsent = _send(child.requests_fd, [memoryview(programs.LENGTH.pack(len(code))), code])
        if unsent or code is None or not _answered_soon(child):
            self._attend(child, seen, outcome, unsent, interrupted)
        if outcome.detail:
            self._end(name, outcome, seen.limits)
            outcome.detail += _SESSION_LOST
        else:
            for stream in (child.streams["stdout"], child.streams["stderr"]):
                while stream.take() and time.monotonic() < seen.deadline_s:
                    pass
            outcome.exit_code = programs.LENGTH.unpack(bytes(answer.content))[0]
            outcome.status = "nonzero" if outcome.exit_code else "ok"
            if outcome.exit_code == programs.OUT_OF_MEMORY:
                outcome.status, outcome.detail = "oom", f"more than {seen.limits['memory_bytes']} bytes of memory"
        outcome.wall_s = time.monotonic() - seen.started_s
        return outcome

    def _attend(
        self, child: Child, seen: Watch, outcome: RunOutcome, unsent: list[memoryview], interrupted: Callable[[], None]
    ) -> None:
        """Send the rest of the code and read the output until the answer is complete.

        If there will be no answer, `outcome` says why.
        """
        answer, poll = child.streams["value"], select.poll()
        by_fd = {stream.fd: stream for stream in child.streams.values() if not stream.ended}
        for fd in (child.pidfd, *self._control_fds, *by_fd):
            poll.register(fd, select.POLLIN)
        if unsent:
            poll.register(child.requests_fd, select.POLLOUT)
        while len(answer.content) < answer.keep and not outcome.detail:
            for fd, _ in poll.poll(seen.timeout_ms()):
                if fd in by_fd:
                    by_fd[fd].take()
                    if by_fd[fd].ended:
                        poll.unregister(fd)
                elif fd == child.requests_fd:
                    unsent = _send(fd, unsent)
                    if not unsent:
                        poll.unregister(fd)
                elif fd == child.pidfd:
                    outcome.status, outcome.detail = "nonzero", "the session ended"
                else:
                    interrupted()
            verdict = None if outcome.detail else seen.verdict()
            if verdict:
                outcome.status, outcome.detail = verdict


def _answered_soon(child: Child) -> bool:
    """Wait a short time for a cell's answer; returns whether it is complete.

    What the cell prints until then stays in the pipes, to be read once.
    """
    answer = child.streams["value"]
    poll = select.poll()
    for fd in (answer.fd, child.pidfd):
        poll.register(fd, select.POLLIN)
    if ends_soon(poll, answer.fd, (child.streams["stdout"], child.streams["stderr"])):
        answer.take()
    return len(answer.content) == answer.keep


def _send(fd: int, unsent: list[memoryview]) -> list[memoryview]:
    """Write what fits; returns what is left, or nothing if the reader is gone."""
    try:
        while unsent:
            unsent = left(unsent, os.writev(fd, unsent))
    except BlockingIOError:
        return unsent
    except BrokenPipeError:
        return []
    return unsent


def _raise_if_never_entered(trouble: bytes) -> None:
    if trouble:
        text = trouble.decode("utf-8", "replace")
        if text.startswith(_CWD):
            raise FileError(f"cwd is no folder in the work folder ({text[len(_CWD) :]})")
        raise RuntimeError(f"a child could not enter its jail: {text}")


def _stdin(content: memoryview) -> int:
    """A descriptor from which exactly this content can be read; nothing can be written through it."""
    if not content:
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    if len(content) <= _PIPE_BYTES:
        read, write = os.pipe()
        os.write(write, content)
        os.close(write)
        return read
    fd = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    while content:
        content = content[os.write(fd, content) :]
    os.lseek(fd, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def _arrange(fds: Sequence[int]) -> None:
    """Give the child's descriptors the numbers 0, 1, 2, … and close every other one."""
    floor = max(*fds, len(fds)) + 1
    # A descriptor whose number is needed for another one is moved to a high number first.
    high = [fd if fd >= len(fds) else os.dup2(fd, floor + fd, inheritable=False) for fd in fds]
    for number, fd in enumerate(high):
        os.dup2(fd, number, inheritable=number <= 2)
    os.closerange(len(high), 1 << 20)


def _reply(outcome: RunOutcome, streams: dict[str, Stream]) -> Reply:
    contents, truncated = [], False
    for stream in streams.values():
        contents.append(stream.content)
        truncated = truncated or stream.dropped
    if outcome.plain and not truncated:
        return _ENDED_WELL, contents
    figures = (
        f'"exit_code": {outcome.exit_code}, "cpu_s": {outcome.cpu_s:.6f}, "max_rss_bytes": {outcome.max_rss_bytes}'
    )
    if not (outcome.detail or truncated or outcome.exit_code is None):
        # The same text as json.dumps makes, in a tenth of the time.
        return f'{{"status": "{outcome.status}", {figures}}}'.encode("ascii"), contents
    header = {
        "status": outcome.status,
        "detail": outcome.detail,
        "exit_code": outcome.exit_code,
        "cpu_s": outcome.cpu_s,
        "max_rss_bytes": outcome.max_rss_bytes,
        "truncated": truncated,
    }
    return header, contents

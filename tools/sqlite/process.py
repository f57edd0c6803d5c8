"""Running a model's statement in another process. Owns these processes, and the time that one statement gets.

A statement can keep SQLite busy within one instruction, or fill the memory with one row, where nothing in the same
process could stop it. So it runs in `worker`, which has bounded memory and is killed if it does not answer in time. The
database stays here: a worker gets a copy, and returns one if the statement has changed it. Only databases in files
are opened there too.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import marshal
import os
import select
import struct
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import astuple
from typing import Any

from agentrl.errors import EnvFault, ToolError
from agentrl.tools.sqlite.engine import Settings, SqlResult

LENGTH = struct.Struct("!Q")
_START_S, _GRACE_S = 30.0, 2.0
"""How long a worker may take to start, and to answer after the time of a statement is over."""
_MAX_IDLE, MAX_KEPT = 4, 64
"""Workers that wait for a statement, and databases that one keeps."""
_keys = itertools.count()


class Source:
    """A database as workers know it: a key, and a number that grows with every change."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.key = next(_keys)
        self.version = 0

    def changed(self) -> None:
        """Say that copies of the content are out of date."""
        self.version += 1


class _Stopped(Exception):
    """A worker has ended, by itself or because it did not answer in time."""


class _Worker:
    """One process that runs statements, one at a time."""

    def __init__(self) -> None:
        paths = os.pathsep.join(path for path in sys.path if path)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "agentrl.tools.sqlite.worker"],
                env={**os.environ, "PYTHONPATH": paths},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
            )
        except OSError as error:
            raise EnvFault(f"no process for SQL can be started: {error}", who="host") from error
        self.held: OrderedDict[int, int] = OrderedDict()
        """The version of each database that it has; for some that it has dropped, too."""
        try:
            self._read(_START_S)
        except _Stopped as error:
            raise EnvFault(f"the process for SQL does not start: {error}", who="host") from None
        except BaseException:
            self.end()
            raise

    def note(self, source: Source) -> None:
        """Remember that it has the database as it is now."""
        self.held[source.key] = source.version
        self.held.move_to_end(source.key)
        if len(self.held) > MAX_KEPT:
            self.held.popitem(last=False)

    def ask(self, request: tuple[Any, ...], wait_s: float) -> tuple[Any, ...]:
        """Send a request and wait for the answer. Raises: _Stopped."""
        content = marshal.dumps(request)
        try:
            self._write(LENGTH.pack(len(content)) + content)
        except OSError as error:
            self.end()
            raise _Stopped(str(error)) from None
        answer: tuple[Any, ...] = marshal.loads(self._read(wait_s))
        return answer

    def _write(self, content: bytes) -> None:
        assert self._process.stdin is not None
        view = memoryview(content)
        while view:
            view = view[os.write(self._process.stdin.fileno(), view) :]

    def _read(self, wait_s: float) -> bytes:
        deadline_s = time.monotonic() + wait_s
        (size,) = LENGTH.unpack(self._exactly(LENGTH.size, deadline_s))
        return self._exactly(size, deadline_s)

    def _exactly(self, size: int, deadline_s: float) -> bytes:
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        content = bytearray()
        while len(content) < size:
            left_s = deadline_s - time.monotonic()
            if left_s > 0 and not poll.poll(min(left_s, _START_S) * 1000):
                continue
            chunk = os.read(fd, min(size - len(content), 1 << 20)) if left_s > 0 else b""
            if not chunk:
                self.end()
                raise _Stopped("it did not answer in time" if time.monotonic() >= deadline_s else "it ended")
            content += chunk
        return bytes(content)

    def end(self) -> None:
        """Kill the process; may be called twice."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


_idle: list[_Worker] = []
_taking = threading.Lock()


@contextlib.contextmanager
def _lent() -> Iterator[_Worker]:
    """A worker that nobody else uses meanwhile. One that has stopped is not used again."""
    with _taking:
        worker = _idle.pop() if _idle else None
    worker = worker or _Worker()
    try:
        yield worker
    except ToolError:
        _give_back(worker)
        raise
    except BaseException:
        worker.end()
        raise
    else:
        _give_back(worker)


def _give_back(worker: _Worker) -> None:
    with _taking:
        if len(_idle) < _MAX_IDLE:
            _idle.append(worker)
            return
    worker.end()


def run_statement(source: Source, save: Callable[[], bytes], statement: str) -> tuple[SqlResult, bytes | None]:
    """Run a statement in a worker.

    Args:
        source: the database.
        save: returns its content.
        statement: as the model wrote it.
    Returns: the result, and the new content if the statement has changed a database in memory.
    Raises: ToolError for what the model did; EnvFault if statements cannot be run at all.
    """
    timeout_s = source.settings.limits.timeout_s
    started_s = time.monotonic()
    try:
        with _lent() as worker:
            started_s = time.monotonic()
            kind, *content = _asked(worker, source, save, statement, timeout_s + _GRACE_S)
    except _Stopped:
        if time.monotonic() - started_s >= timeout_s:
            raise ToolError(f"the statement took longer than {timeout_s} s: use a simpler one") from None
        _check_that_statements_run(source, save)
        raise ToolError("the statement ended the process that ran it: use a simpler one") from None
    if kind == "refused":
        raise ToolError(content[0])
    if kind == "fault":
        raise EnvFault(content[0], who="host")
    columns, rows, cut_off, changed, image = content
    return SqlResult(columns, rows, cut_off, changed), image


def _asked(
    worker: _Worker, source: Source, save: Callable[[], bytes], statement: str, wait_s: float
) -> tuple[Any, ...]:
    settings = source.settings
    where = (settings.path, settings.writable, settings.now, astuple(settings.limits))
    answer: tuple[Any, ...] = ("missing",)
    if settings.path is not None or worker.held.get(source.key) == source.version:
        answer = worker.ask((source.key, source.version, None, where, statement), wait_s)
    if answer[0] == "missing":
        answer = worker.ask((source.key, source.version, save(), where, statement), wait_s)
    if answer[-1] is not None and answer[0] == "rows":
        source.changed()
    worker.note(source)
    return answer


def _check_that_statements_run(source: Source, save: Callable[[], bytes]) -> None:
    """Raises: EnvFault if even the simplest statement does not run, so that it was not the model's doing."""
    try:
        with _lent() as worker:
            _asked(worker, source, save, "SELECT 1", _START_S)
    except _Stopped as error:
        raise EnvFault(f"the process for SQL does not run statements: {error}", who="host") from None


def _end_all() -> None:
    with _taking:
        while _idle:
            _idle.pop().end()


def _forget_in_child() -> None:
    global _taking
    _taking = threading.Lock()
    _idle.clear()  # they belong to the parent


atexit.register(_end_all)
os.register_at_fork(after_in_child=_forget_in_child)

"""The process that runs a model's statements: reads a request, runs it within bounded memory, answers.

Owns the bounds of memory and files, and the copies of databases that it keeps. `process` starts it, and ends it if a
statement takes too long.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import resource
import select
import sqlite3
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from agentrl.errors import EnvFault, ToolError
from agentrl.tools.sqlite.engine import Engine, Settings, SqlLimits
from agentrl.tools.sqlite.process import LENGTH, MAX_KEPT

_PAGE = os.sysconf("SC_PAGE_SIZE")
_MAX_KEPT_BYTES = 64 << 20
_BUSY_S = 1.0
_TOO_MUCH = "the statement needs too much memory: use a simpler one"


class Served:
    """The databases that this process has copies of."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, tuple[int, Engine, int]] = OrderedDict()

    def answer(self, key: int, version: int, image: bytes | None, where: tuple[Any, ...], statement: str) -> Any:
        """Run a statement of a database; `image` is its content if this process may not have that version."""
        path, limits = where[0], SqlLimits(*where[3])
        settings = Settings(path, where[1], where[2], limits)
        if path is not None:
            try:
                opened = Engine(settings, wait_s=_BUSY_S)
            except sqlite3.Error as error:
                return ("fault", f"the database cannot be opened, or another connection holds it: {error}")
            with contextlib.closing(opened) as engine:
                return _run(engine, statement, limits, path)
        if image is not None:
            self._keep(key, version, _copy(image, settings), len(image))
        held = self._kept.get(key)
        if held is None or held[0] != version:
            return ("missing",)
        self._kept.move_to_end(key)
        engine = held[1]
        before = engine.changes() if settings.writable else None
        kind, *content = _run(engine, statement, limits)
        if kind == "rows" and settings.writable and engine.changes() != before:
            content[-1] = engine.save()
            self._keep(key, version + 1, engine, len(content[-1]))
        return (kind, *content)

    def _keep(self, key: int, version: int, engine: Engine, size: int) -> None:
        old = self._kept.pop(key, None)
        if old is not None and old[1] is not engine:
            old[1].close()
        self._kept[key] = (version, engine, size)
        while len(self._kept) > 1 and (
            len(self._kept) > MAX_KEPT or sum(item[2] for item in self._kept.values()) > _MAX_KEPT_BYTES
        ):
            self._kept.popitem(last=False)[1][1].close()


def _copy(image: bytes, settings: Settings) -> Engine:
    engine = Engine(settings)
    engine.load(image)
    engine.bound_pages(settings.limits.max_memory_bytes)
    return engine


def _run(engine: Engine, statement: str, limits: SqlLimits, path: str | None = None) -> tuple[Any, ...]:
    try:
        with _bounded(limits.max_memory_bytes, path):
            result = engine.run(statement)
    except ToolError as error:
        return ("refused", str(error))
    except EnvFault as error:
        return ("fault", str(error))
    except MemoryError:
        return ("refused", _TOO_MUCH)
    return ("rows", result.columns, result.rows, result.cut_off, result.changed, None)


@contextlib.contextmanager
def _bounded(most_bytes: int, path: str | None) -> Iterator[None]:
    """Let this process and the files of a database grow by a limited number of bytes.

    What is sorted stays in memory; the bound of files also holds for a SQLite that was built to write it to a file.
    """
    grown = 0 if path is None else os.path.getsize(path)
    bounds = {resource.RLIMIT_AS: _size_bytes() + most_bytes, resource.RLIMIT_FSIZE: grown + most_bytes}
    before = {name: resource.getrlimit(name) for name in bounds}
    for name, most in bounds.items():
        hard = before[name][1]
        resource.setrlimit(name, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    try:
        yield
    finally:
        for name, limit in before.items():
            resource.setrlimit(name, limit)


def _size_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * _PAGE


def _end_with_owner() -> None:
    """End this process when the other end of its input is closed, also in the middle of a statement."""
    poll = select.poll()
    poll.register(0, 0)  # reports only that the writer is gone
    poll.poll()
    os._exit(0)


def main() -> None:
    """Answer requests until there are no more."""
    threading.Thread(target=_end_with_owner, daemon=True).start()
    out, served = os.dup(1), Served()
    os.dup2(2, 1)
    content: bytes = b""
    while True:
        view = memoryview(LENGTH.pack(len(content)) + content)
        while view:
            view = view[os.write(out, view) :]
        head = sys.stdin.buffer.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return
        content = marshal.dumps(served.answer(*marshal.loads(sys.stdin.buffer.read(LENGTH.unpack(head)[0]))))


if __name__ == "__main__":
    main()

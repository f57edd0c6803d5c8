"""Processes of this machine that the trainer starts: their start, their end with it, and what they tell it.

A child ends when the trainer ends, however that happens. What its work is stands elsewhere.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from agentrl.distributed.messages import Alive, Logged
from agentrl.errors import RolloutError

_PR_SET_PDEATHSIG = 1
# Ctrl-C reaches every process of a terminal; the trainer alone decides, also while this one begins.
_COMMAND = (
    "import signal, sys; signal.signal(signal.SIGINT, lambda number, frame: None); sys.path[:] = {path!r}; "
    "from agentrl.distributed.child import begin; begin({module!r}, {numbers})"
)


def start_child(
    module: str, given: int, alive_s: float, variables: Mapping[str, str] | None = None
) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start a process that calls `main` of a module, and a connection to it.

    `main` gets its end of the connection, a `ToTrainer` of the same, and the descriptor `given`.

    Args:
        module: its name.
        given: a descriptor of this process, which the other one gets under the same number.
        alive_s: seconds between two messages that say that it is running; it begins with them before it imports what
            takes long.
        variables: of its environment, besides those of this process.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        passed = (theirs.fileno(), given)
        numbers = ", ".join(map(str, (*passed, os.getpid(), alive_s)))
        process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND.format(path=sys.path, module=module, numbers=numbers)],
            stdin=subprocess.DEVNULL,
            stdout=2,  # what author code prints
            pass_fds=passed,
            env={**os.environ, **(variables or {})},
        )
        return process, Connection(ours.detach())


def begin(module: str, descriptor: int, given: int, parent: int, alive_s: float) -> None:
    """What a child does, with what `start_child` gave it. Args: parent: number of the trainer's process."""
    end_with(parent)
    connection = Connection(descriptor)
    trainer = ToTrainer(connection)
    threading.Thread(target=_say_alive, args=(trainer, alive_s), daemon=True, name="alive").start()
    importlib.import_module(module).main(connection, trainer, given)


def killed(process: subprocess.Popen[bytes]) -> str:
    """End a process that has closed its connection, so that it is ending anyway. Returns: how it ended."""
    process.kill()
    code = process.wait()
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


class ToTrainer:
    """A child's connection to the trainer; any thread may send."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def send(self, message: Any) -> None:
        with self._lock, suppress(OSError):  # the trainer is gone, which is noticed where its messages are read
            self._connection.send(message)


def _say_alive(trainer: ToTrainer, every_s: float) -> None:
    """A thread of its own: the process may be busy with something long, and is not lost then."""
    while True:
        trainer.send(Alive(time.process_time()))
        time.sleep(every_s)


class LogToTrainer(logging.Handler):
    """Passes messages on to the trainer's log."""

    def __init__(self, trainer: ToTrainer) -> None:
        super().__init__()
        self._trainer = trainer

    def emit(self, record: logging.LogRecord) -> None:
        text, values = str(record.msg), record.args or ()
        if not isinstance(values, tuple):
            text, values = record.getMessage(), ()
        plain = tuple(value if isinstance(value, str | int | float) else str(value) for value in values)
        self._trainer.send(Logged(record.name, record.levelno, text, plain))


def portable(error: Exception, where: str = "a sampling process") -> Exception:
    """The error with its traceback as a note; an error of another class where it cannot be pickled.

    Args: where: it was raised.
    """
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # author's exceptions can raise anything
        error = RolloutError(f"{type(error).__name__}: {error}")
    error.add_note(f"In {where}:\n{text}")
    return error


def end_with(parent: int) -> None:
    """Let the kernel end this process with its parent, where it can; elsewhere the end of the connection does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)

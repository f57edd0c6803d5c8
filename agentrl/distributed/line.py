"""The trainer's end of a connection to a process of this machine, at which nothing waits for that process.

A process that was stopped reads nothing, or stops in the middle of a message: whoever sends to it or reads from it
waits for ever. Threads of their own do both here, so that the event loop can notice who is silent.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from agentrl.distributed.messages import Broken
from agentrl.distributed.shared import send_descriptor
from agentrl.errors import RolloutError


class Line:
    """All methods, and both callbacks, are called in the event loop.

    Args:
        connection: to the other process; belongs to the line from now on.
        hear: called with each message, in their order; with `Broken` for one that cannot be read.
        ended: called once when the other process has closed its end.
    """

    def __init__(self, connection: Connection, hear: Callable[[Any], None], ended: Callable[[], None]) -> None:
        self._loop, self._hear, self._ended = asyncio.get_running_loop(), hear, ended
        self._is_closed = False
        self._unsent: SimpleQueue[tuple[bytes, int | None] | None] = SimpleQueue()
        self._socket = socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)
        to_send = Connection(os.dup(connection.fileno()))
        ends = ((self._read, connection), (self._write, to_send))
        self._threads = [threading.Thread(target=work, args=(end,), daemon=True, name="line") for work, end in ends]
        for thread in self._threads:
            thread.start()

    def send(self, message: Any, descriptor: int | None = None) -> None:
        """Send a message, and after it a descriptor of this process, which may be closed at once.

        A process that is gone is noticed where its messages are read.

        Raises: what an author's object in the message raises where it cannot be pickled.
        """
        written = pickle.dumps(message)
        if not self._is_closed:
            self._unsent.put((written, None if descriptor is None else os.dup(descriptor)))

    def close(self) -> None:
        """End the connection; nothing is heard any more."""
        if self._is_closed:
            return
        self._is_closed = True
        self._unsent.put(None)
        with suppress(OSError):  # the other end is gone
            self._socket.shutdown(socket.SHUT_RDWR)  # ends both threads, also where they wait for the other process
        self._socket.close()
        for thread in self._threads:
            thread.join()

    def _write(self, connection: Connection) -> None:
        while (item := self._unsent.get()) is not None:
            written, descriptor = item
            with suppress(OSError):
                connection.send_bytes(written)
                if descriptor is not None:
                    send_descriptor(connection, descriptor)
            if descriptor is not None:
                os.close(descriptor)
        connection.close()

    def _read(self, connection: Connection) -> None:
        with suppress(RuntimeError):  # the event loop is closed already
            try:
                while True:
                    self._loop.call_soon_threadsafe(self._tell, _message(connection.recv_bytes()))
            except (EOFError, OSError):
                self._loop.call_soon_threadsafe(self._end)
        connection.close()

    def _tell(self, message: Any) -> None:
        if not self._is_closed:
            self._hear(message)

    def _end(self) -> None:
        if not self._is_closed:
            self._ended()


def _message(written: bytes) -> Any:
    try:
        return pickle.loads(written)
    except Exception as error:  # author's objects can raise anything
        return Broken(RolloutError(f"a message of another process cannot be read: {type(error).__name__}: {error}"))

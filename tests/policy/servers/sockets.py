"""A server of ours on a port of this machine, in a thread, so that a whole training run can ask it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socket import create_server

import uvicorn

from tests.policy.servers.fakes import FakeServer


class Process:
    """Stands for the process of a server: it can end and begin again on the same port.

    Attributes: url: its address.
    """

    def __init__(self, server: FakeServer) -> None:
        self._server, self._port = server, 0
        self.begin()
        self.url = f"http://127.0.0.1:{self._port}"

    def begin(self) -> None:
        """Listen, with what the server was started with."""
        self._socket = create_server(("127.0.0.1", self._port))
        self._port = self._socket.getsockname()[1]
        self._running = uvicorn.Server(
            uvicorn.Config(self._server.app, log_config=None, access_log=False, lifespan="off")
        )
        self._thread = threading.Thread(target=self._running.run, kwargs={"sockets": [self._socket]})
        self._thread.start()

    def end(self) -> None:
        """Close all connections."""
        self._running.should_exit = self._running.force_exit = True
        self._thread.join()
        self._socket.close()

    def begin_again(self) -> None:
        """As after a kill: nothing is left of the weights that it was given."""
        self.end()
        self._server.start()
        self.begin()


@contextmanager
def listening(server: FakeServer) -> Iterator[Process]:
    """The server's process while it answers."""
    process = Process(server)
    try:
        yield process
    finally:
        process.end()

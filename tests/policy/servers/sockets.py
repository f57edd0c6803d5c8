"""A server of ours on a port of this machine, in a thread, so that a whole training run can ask it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socket import create_server

import uvicorn

from tests.policy.servers.fakes import FakeServer


@contextmanager
def listening(server: FakeServer) -> Iterator[str]:
    """The server's address while it answers."""
    with create_server(("127.0.0.1", 0)) as socket:
        running = uvicorn.Server(uvicorn.Config(server.app, log_config=None, access_log=False))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [socket]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{socket.getsockname()[1]}"
        finally:
            running.should_exit = True
            thread.join()

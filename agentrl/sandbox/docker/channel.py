"""The two ways to reach a worker in a container: a unix socket in a shared folder, or the container's stdin and stdout.

Owns the connection, and sending the worker its program. The socket is faster; stdin and stdout also work if the daemon
runs on another machine or in a virtual one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import struct
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from agentrl.sandbox.host.channel import Channel, ChannelClosed
from agentrl.sandbox.host.owner import Owner, pid_namespace
from agentrl.sandbox.host.worker_zip import worker_zip

_PREFIX = "agentrl-sandbox-"
CONTROL_FOLDER = "/control"
_SOCKET = "socket"
_SIZE = struct.Struct("!I")
_MUX = struct.Struct("!BxxxI")
"""Docker's header before each piece of output: stream, three empty bytes, size."""
_STDERR, _MAX_SAID = 2, 2000

# Runs in the container to receive the worker's program, which stays in memory: there is nowhere to write it.
_LOAD = """
import os, sys
def load(read):
    size = int.from_bytes(read(4), "big")
    content = b""
    while len(content) < size:
        more = read(size - len(content))
        if not more: os._exit(0)
        content += more
    fd = os.memfd_create("worker", 1)
    while content: content = content[os.write(fd, content):]
    sys.path.insert(0, f"/proc/self/fd/{fd}")
    import agentrl.sandbox.worker.container as program
    os.close(fd)
    return program
"""
SOCKET_PROGRAM = f"""{_LOAD}
import array, socket
control = socket.socket(socket.AF_UNIX)
control.connect("{CONTROL_FOLDER}/{_SOCKET}")
_, fds, _, _ = socket.recv_fds(control, 1, 1)
load(control.recv).main(control, fds[0] if fds else -1)
"""
STDIO_PROGRAM = f"""{_LOAD}
load(lambda size: os.read(0, size)).main_over_stdio()
"""


class Listener:
    """A listening socket in a folder that only this user can open and that can be mounted into a container."""

    def __init__(self) -> None:
        self._outer = tempfile.mkdtemp(prefix=f"{_PREFIX}{pid_namespace()}-{Owner.this_process().short}-")
        self.folder = str(Path(self._outer, "control"))
        try:
            os.mkdir(self.folder)
            os.chmod(self.folder, 0o755)
            self._socket = socket.socket(socket.AF_UNIX)
        except BaseException:
            shutil.rmtree(self._outer, ignore_errors=True)
            raise
        path = str(Path(self.folder, _SOCKET))
        self._socket.bind(path)
        os.chmod(path, 0o666)  # the outer folder keeps others out; root in the container may not ignore modes
        self._socket.listen(1)
        self._socket.setblocking(False)

    async def accept(self, wait_s: float) -> Channel:
        """The worker's connection, after the worker has received its program.

        Raises: TimeoutError.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(wait_s):
            connection, _ = await loop.sock_accept(self._socket)
            try:
                with contextlib.ExitStack() as stack:
                    fds = []
                    if hasattr(os, "pidfd_open"):
                        fds = [os.pidfd_open(os.getpid())]
                        stack.callback(os.close, fds[0])
                    socket.send_fds(connection, [b"o"], fds)
                program = worker_zip()
                await loop.sock_sendall(connection, _SIZE.pack(len(program)) + program)
            except BaseException:
                connection.close()
                raise
        return Channel(connection)

    def close(self) -> None:
        """Stop listening and remove the folder; an accepted connection stays open."""
        self._socket.close()
        shutil.rmtree(self._outer, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def remove_folders() -> int:
    """Remove the folders of listeners whose owner was killed; returns how many."""
    count = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}{pid_namespace()}-*-*-*"):
        fields = folder.name.removeprefix(_PREFIX).split("-")[1:]
        with contextlib.suppress(OSError):
            ours = folder.lstat().st_uid == os.getuid() and all(field.isdigit() for field in fields[:2])
            if ours and not Owner("", 0, int(fields[0]), int(fields[1])).same_start():
                shutil.rmtree(folder)
                count += 1
    return count


class StdioChannel(Channel):
    """A container's stdin and stdout, which the daemon forwards over one connection."""

    carries_fds = False

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._left = 0
        self.said = b""

    async def hand_over(self) -> None:
        """Send the worker its program."""
        program = worker_zip()
        await asyncio.get_running_loop().sock_sendall(self._connection, _SIZE.pack(len(program)) + program)

    async def _send(self, buffers: Sequence[bytes | memoryview]) -> None:
        # The daemon takes what is sent to a container that has ended, and closes its side.
        with contextlib.suppress(BlockingIOError):
            if not self._connection.recv(1, socket.MSG_PEEK):
                raise ChannelClosed("it hung up", asked=False)
        await super()._send(buffers)

    def _at_once(self, size: int) -> bytes:
        return b""  # the daemon's headers are between the bytes

    async def _read_some(self, view: memoryview) -> int:
        while not self._left:
            await self._next_piece()
        count = await super()._read_some(view[: self._left])
        self._left -= count
        return count

    async def _next_piece(self) -> None:
        stream, size = _MUX.unpack(await self._read_raw(_MUX.size))
        if stream == _STDERR:
            self.said = (self.said + await self._read_raw(size))[-_MAX_SAID:]
        else:
            self._left = size

    async def _read_raw(self, size: int) -> bytes:
        content = bytearray(size)
        view = memoryview(content)
        while view:
            view = view[await super()._read_some(view) :]
        return bytes(content)

    def close(self) -> None:
        # The daemon's client also holds this connection, so closing it here would not end it.
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        super().close()


def socket_reaches(daemon_name: str, address: str) -> bool:
    """Whether this daemon's containers can use a socket in a folder of this machine."""
    return sys.platform == "linux" and address.startswith("http+docker://") and daemon_name == socket.gethostname()

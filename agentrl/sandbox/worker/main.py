"""The worker's loop: read a request, serve it, answer. Owns the control socket and the work folder.

The worker ends when its socket is closed or its owner, the process that started it, dies. Every process of the
sandbox ends with it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import mmap
import os
import select
import socket
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from agentrl.sandbox.worker import kernel, preload, programs
from agentrl.sandbox.worker.files import FileError, Folder
from agentrl.sandbox.worker.frames import (
    DESCRIPTORS,
    NO_DESCRIPTORS,
    PREFIX,
    FrameError,
    Headers,
    left,
    lengths,
    pack,
    split,
)
from agentrl.sandbox.worker.jail import JAILS, set_lasting_limits
from agentrl.sandbox.worker.sessions import Parts, Reply, Runner

_INBOX_BYTES = 1 << 16
"""A request of at most this size takes one read."""


class Gone(Exception):
    """The owner closed the socket or died."""


class Worker:
    """Serves one owner over one socket."""

    def __init__(self, control: socket.socket, owner_fd: int) -> None:
        self._control = control
        self._owner_fd = owner_fd
        self._jail: Any = None
        self._runner: Any = None
        self._files: Any = None
        self._max_saved_bytes = 0
        self._headers = Headers()
        self._inbox = self._frame = _view_of(_INBOX_BYTES)
        self._readable = select.poll()
        for fd in (control.fileno(), owner_fd):
            self._readable.register(fd, select.POLLIN)

    def serve(self) -> None:
        """Answer until the owner is gone."""
        try:
            while True:
                header, parts = self._receive()
                reply, out = self._answer(header, parts)
                self._send(reply, out)
                self._forget(out)
        except (Gone, ConnectionError):
            return

    def _answer(self, header: Mapping[str, Any], parts: Parts) -> Reply:
        try:
            reply: Reply = getattr(self, "_on_" + header["op"])(header, parts)
            return reply
        except FileError as error:
            return {"refused": str(error)}, []
        except (Gone, ConnectionError):
            raise
        except Exception as error:  # told to the host, which replaces this sandbox
            return {"failed": f"{type(error).__name__}: {error}"}, []

    def _on_setup(self, header: Mapping[str, Any], parts: Parts) -> Reply:
        self._jail = JAILS[header["jail"]](header, bytes(parts[0]))
        set_lasting_limits()
        self._max_saved_bytes = header["disk_bytes"]
        fds = [self._control.fileno(), self._owner_fd]
        self._runner = Runner(self._jail, fds, bool(header.get("watched")))
        kernel.set_dumpable(False)
        self._files = Folder(self._jail.folder)
        self._files.reopen()
        self._files.load(parts[1])
        preload.load()
        programs.prepare(header["env"])
        gc.collect()
        gc.freeze()
        kernel.give_back_memory()
        return {"python": sys.version.split()[0]}, []

    def _on_listen(self, header: Mapping[str, Any], parts: Parts) -> Reply:
        """Give the owner a socket that listens inside the sandbox, and keep no copy: only the owner accepts on it."""
        with socket.socket() as listener, self._handing_over() as fds:
            listener.bind(("127.0.0.1", header["port"]))
            listener.listen(header["waiting"])
            fds.append(listener.fileno())
        return {}, []

    def _on_open(self, header: Mapping[str, Any], parts: Parts) -> Reply:
        """Give the owner a session's pipes."""
        with self._handing_over() as fds:
            fds += self._runner.open(header["session"], header["limits"])
        return {}, []

    @contextlib.contextmanager
    def _handing_over(self) -> Iterator[list[int]]:
        """Send the descriptors that are put into the list, with one byte; another byte is sent if they cannot be."""
        fds: list[int] = []
        try:
            yield fds
        except BaseException:
            self._control.sendall(NO_DESCRIPTORS)
            raise
        try:
            socket.send_fds(self._control, [DESCRIPTORS], fds)
        except OSError:  # the kernel counts descriptors on their way for each user, and may allow no more
            self._control.sendall(NO_DESCRIPTORS)

    def _on_ping(self, header: Mapping[str, Any], parts: Parts) -> Reply:
        return {}, []

    def _on_run(self, header: Mapping[str, Any], parts: Parts) -> Reply:
        serve = self._runner.cell if header.get("session") is not None else self._runner.run
        reply: Reply = serve(header, parts, self._interrupted)
        return reply

    def _on_write(self, header: Mapping[str, Any], parts: Parts) -> Reply:
        self._files.write(header["path"], parts[0])
        return {}, []

    def _on_read(self, header: Mapping[str, Any], parts: Parts) -> Reply:
        return {}, [self._files.read(header["path"], header["max_bytes"])]

    def _on_entries(self, header: Mapping[str, Any], parts: Parts) -> Reply:
        return {}, [_view(json.dumps(self._files.entries()).encode("ascii"))]

    def _on_save(self, header: Mapping[str, Any], parts: Parts) -> Reply:
        return {}, [self._files.save(self._max_saved_bytes)]

    def _on_load(self, header: Mapping[str, Any], parts: Parts) -> Reply:
        self._runner.close_sessions()
        self._files.close()
        self._jail.empty()
        self._files.reopen()
        self._files.load(parts[0])
        return {}, []

    def _interrupted(self) -> None:
        """The owner sends one request at a time, so anything that arrives while one runs means that it is gone."""
        raise Gone

    def _receive(self) -> tuple[dict[str, Any], Parts]:
        """The next request; its parts are views of memory that `_forget` zeroes."""
        used = 0
        while used < PREFIX.size:
            used += self._receive_into(self._inbox[used:])
        head_size, sizes = lengths(bytes(self._inbox[: PREFIX.size]))
        size = PREFIX.size + head_size + sum(sizes)
        if used > size:
            raise Gone  # more than one request at a time
        frame = self._inbox[:size]
        if size > len(self._inbox):
            frame = _view_of(size)
            frame[:used] = self._inbox[:used]
            _zero(self._inbox[:used])
        self._frame = frame
        while used < size:
            used += self._receive_into(frame[used:])
        head_end = PREFIX.size + head_size
        return self._headers.parse(bytes(frame[PREFIX.size : head_end])), split(frame[head_end:], sizes)

    def _receive_into(self, room: memoryview) -> int:
        while not (ready := self._readable.poll(self._runner and self._runner.look_ms)):
            self._runner.look()
        if any(fd == self._owner_fd for fd, _ in ready):
            raise Gone
        count = self._control.recv_into(room)
        if not count:
            raise Gone
        return count

    def _forget(self, out: list[memoryview]) -> None:
        """Zero what was received and sent: later requests run in copies of this process and must not find it."""
        for view in (self._frame, *out):
            _zero(view)
        self._frame = self._inbox[:0]

    def _send(self, header: dict[str, Any] | bytes, parts: list[memoryview]) -> None:
        try:
            buffers = [memoryview(buffer) for buffer in pack(header, parts)]
        except FrameError:
            buffers = [memoryview(buffer) for buffer in pack({"failed": "a reply that is too long"})]
        while buffers:
            try:
                buffers = left(buffers, self._control.sendmsg(buffers, (), socket.MSG_DONTWAIT))
            except BlockingIOError:
                self._until_writable()

    def _until_writable(self) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLOUT)
        poll.register(self._owner_fd, select.POLLIN)
        if any(fd == self._owner_fd for fd, _ in poll.poll()):
            raise Gone


def _view_of(size: int) -> memoryview:
    """A view of mapped memory, which goes back to the kernel whole; freed heap memory would keep a copy."""
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _zero(view: memoryview) -> None:
    view[:] = bytes(len(view))


def _view(content: bytes) -> memoryview:
    return memoryview(bytearray(content))


def main(arguments: list[str]) -> None:
    """Start from the command line; arguments: the descriptor of the control socket, then the owner's pidfd."""
    control = socket.socket(fileno=int(arguments[0]))
    owner_fd = int(arguments[1])
    os.set_inheritable(owner_fd, False)
    os.set_inheritable(control.fileno(), False)
    Worker(control, owner_fd).serve()
    os._exit(0)

"""A sandbox whose worker is reached over a channel. Owns the requests; the backend owns how the worker is started.

Every wait is bounded: a worker that does not answer in time is killed, and the sandbox cannot be used any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import socket
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol, TypeAlias

from agentrl.sandbox.base import (
    CallResult,
    ExecResult,
    FileInfo,
    Sandbox,
    SandboxError,
    SandboxFault,
    SandboxLimits,
    SandboxSpec,
    Snapshot,
)
from agentrl.sandbox.egress.proxy import PORT, Proxy, proxy_variables
from agentrl.sandbox.host.channel import Channel, ChannelClosed
from agentrl.sandbox.host.replies import Reply, answer_header, call_result, result_of, too_much_memory
from agentrl.sandbox.host.session_port import PIPES, SessionPort
from agentrl.sandbox.values import PlainValue, ValueFormError, encode
from agentrl.sandbox.worker.archive import pack_files

BASE_ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "TMPDIR": "/tmp"}
_GRACE_S = 0.35
"""How long after the wall time a worker may take to kill the program and answer, before it is killed itself."""
_START_S, _FILES_S, _LEAST_S = 20.0, 20.0, 1e-3
_MAX_VALUE_BYTES = 8 << 20
_MARGIN_BYTES = 32 << 20
_WAITING = 64
"""How many connections may wait for the proxy to accept them."""
_Job: TypeAlias = tuple[str] | tuple[str, str | None] | tuple[str, None, str]
"""What is to be run: its kind, then its session and its current folder, if it has them."""


class WorkerProcess(Protocol):
    """The process that a worker runs in; each backend has its own class."""

    def kill(self) -> None:
        """Kill it and everything in it at once; may be called twice."""

    async def ended(self) -> None:
        """Wait until nothing of it is left."""

    def why(self) -> str:
        """What it printed on stderr, for error messages."""

    def out_of_memory(self) -> bool:
        """Whether the kernel has killed something in it for lack of memory since this was last asked."""


class RemoteSandbox(Sandbox):
    """A sandbox that sends its worker one request at a time, in the order in which they were made."""

    def __init__(self, spec: SandboxSpec, channel: Channel, process: WorkerProcess) -> None:
        self.spec = spec
        self._channel = channel
        self._process = process
        self._turn = asyncio.Lock()
        self._broken = ""
        self._proxy: Proxy | None = None
        self._ports: dict[str, SessionPort] = {}
        weakref.finalize(self, _close_ports, self._ports).atexit = False

    async def set_up(self, jail: str, seccomp: bytes, *, home: str = "/work", **more: Any) -> None:
        """Send the first request: limits, environment, system-call filter and files.

        Args:
            jail: how requests are isolated, a name in `worker.jail.JAILS`.
            seccomp: the filter program that every child loads.
            home: path of the work folder for programs.
            more: what that jail needs in addition.
        Raises: SandboxFault if the worker cannot set up the isolation.
        """
        limits = self.spec.limits
        header = {
            "op": "setup",
            "jail": jail,
            "disk_bytes": int(limits.disk_bytes),
            "inodes": int(limits.inodes),
            "env": {**BASE_ENV, **proxy_variables(self.spec.network), "HOME": home, **self.spec.env},
            **more,
        }
        await self._files(header, seccomp, pack_files(self.spec.files), wait_s=_START_S)
        if not self.spec.network.off:
            await self._open_proxy()

    async def _open_proxy(self) -> None:
        """Start the proxy to the hosts on the spec's allow-list; no program runs yet."""
        header = {"op": "listen", "port": PORT, "waiting": _WAITING}
        try:
            (fd,) = await self._ask_for_fds(header, 1)
        except SandboxFault as fault:
            raise SandboxFault(f"its worker could not open port {PORT} in there ({fault})") from fault
        listener = socket.socket(fileno=fd)
        self._proxy = Proxy(listener, self.spec.network)
        weakref.finalize(self, self._proxy.close).atexit = False

    async def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        cwd: str = ".",
        env: Mapping[str, str] | None = None,
        limits: SandboxLimits | None = None,
    ) -> ExecResult:
        if not argv or any("\0" in word for word in argv):
            raise SandboxError(f"argv must name a program and hold no NUL, got {list(argv)!r}")
        if cwd.startswith("/") or ".." in cwd.split("/"):
            raise SandboxError(f"cwd must stand inside the work folder, got {cwd!r}")
        body = json.dumps({"argv": list(argv), "env": dict(env or {})}).encode("ascii")
        return await self._run(("exec", None, cwd), body, stdin, limits)

    async def run_python(
        self, code: str, *, session: str | None = None, stdin: bytes = b"", limits: SandboxLimits | None = None
    ) -> ExecResult:
        if session is not None and stdin:
            raise SandboxError("a session has no stdin; put the text into a file or into the code")
        return await self._run(("python", session), _source(code), stdin, limits)

    async def call(
        self,
        source: str,
        function: str,
        args: Sequence[PlainValue] = (),
        kwargs: Mapping[str, PlainValue] | None = None,
        *,
        limits: SandboxLimits | None = None,
    ) -> CallResult:
        try:
            forms = {"args": encode(list(args)).decode(), "kwargs": encode(dict(kwargs or {})).decode()}
        except ValueFormError as error:
            raise SandboxError(f"an argument of {function!r} cannot go in: {error}") from error
        body = json.dumps({"source": source, "function": function, **forms}).encode("ascii")
        started_s = time.monotonic()
        try:
            reply = await self._request(("call",), body, b"", limits)
        except SandboxFault as fault:
            return CallResult("infra", detail=str(fault), wall_s=time.monotonic() - started_s)
        return call_result(reply)

    async def _run(self, job: _Job, body: bytes, stdin: bytes, limits: SandboxLimits | None) -> ExecResult:
        started_s = time.monotonic()
        try:
            return result_of(ExecResult, await self._request(job, body, stdin, limits))
        except SandboxFault as fault:
            return ExecResult("infra", detail=str(fault), wall_s=time.monotonic() - started_s)

    async def _request(self, job: _Job, body: bytes, stdin: bytes, limits: SandboxLimits | None) -> Reply:
        limits, header = _run_header(limits or self.spec.limits, self.spec.limits, *job)
        session = job[1] if len(job) > 1 else None
        async with self._turn:
            try:
                if session is not None and self._channel.carries_fds:
                    return await self._cell(session, header, body, limits)
                return await self._ask_worker(header, (body, stdin), limits)
            except TimeoutError:
                detail = f"more than {limits.wall_s:g} s; the sandbox did not answer and was ended"
                return Reply({"status": "timeout", "detail": detail}, [b"", b""], limits.wall_s + _GRACE_S)

    async def _ask_worker(self, header: bytes, parts: Sequence[bytes], limits: SandboxLimits) -> Reply:
        max_reply = 2 * int(limits.output_bytes) + _MAX_VALUE_BYTES
        return self._judged(await self._ask(header, parts, max_reply, limits.wall_s + _GRACE_S), limits)

    def _judged(self, reply: Reply, limits: SandboxLimits) -> Reply:
        """The reply, with the status `oom` if the kernel has killed something for lack of memory."""
        if self._process.out_of_memory() and reply.header["status"] == "nonzero":
            reply.header.update(status="oom", detail=too_much_memory(limits))
        return reply

    async def _cell(self, session: str, header: bytes, code: bytes, limits: SandboxLimits) -> Reply:
        """Run a piece of code in a session: directly if it is short and ends soon, else by the worker."""
        self._raise_if_broken()
        started_s = time.monotonic()
        port = self._ports.get(session) or await self._open_port(session, limits)
        if port.send(code):
            try:
                answer = await port.answer(int(limits.output_bytes), limits.wall_s)
            except OSError as error:
                self._break(f"the pipes of a session fail: {error}")
                raise SandboxFault(self._broken) from error
            except BaseException as error:
                self._break(f"a cell was cut short: {type(error).__name__}")
                raise
            wall_s = time.monotonic() - started_s
            if answer is not None:
                reply = Reply(answer_header(answer, limits), [answer.stdout, answer.stderr], wall_s)
                return self._judged(reply, limits) if answer.exit_code else reply
            limits, code = replace(limits, wall_s=max(limits.wall_s - wall_s, _LEAST_S)), b""
            header = _packed(limits, "sent", session)
        reply = await self._ask_worker(header, (code,), limits)
        if reply.header.get("detail"):
            self._ports.pop(session, port).close()  # it may have ended
        return replace(reply, wall_s=time.monotonic() - started_s)

    async def _open_port(self, session: str, limits: SandboxLimits) -> SessionPort:
        fds = await self._ask_for_fds({"op": "open", "session": session, "limits": asdict(limits)}, PIPES)
        port = self._ports[session] = SessionPort(fds)
        return port

    async def _ask(
        self, header: dict[str, Any] | bytes, parts: Sequence[bytes], max_reply_bytes: int, wait_s: float
    ) -> Reply:
        """Send the worker a request and wait for its reply. If that is cut short, the sandbox is ended too.

        Raises: SandboxFault for a broken sandbox; SandboxError for what the worker refuses; TimeoutError.
        """
        self._raise_if_broken()
        started_s = time.monotonic()
        with self._broken_by_failure("a program" if isinstance(header, bytes) else header["op"]):
            async with asyncio.timeout(wait_s):
                reply, out = await self._channel.ask(header, parts, max_reply_bytes)
        self._raise_if_refused(reply)
        return Reply(reply, out, time.monotonic() - started_s)

    async def _ask_for_fds(self, header: dict[str, Any], count: int) -> list[int]:
        """As `_ask`, for a request that is answered by descriptors.

        Raises: SandboxFault; SandboxError.
        """
        self._raise_if_broken()
        try:
            with self._broken_by_failure(header["op"]):
                async with asyncio.timeout(_START_S):
                    reply, fds = await self._channel.ask_for_fds(header, count, _MARGIN_BYTES)
        except TimeoutError as error:
            raise SandboxFault(self._broken) from error
        self._raise_if_refused(reply)
        if len(fds) < count:  # the kernel leaves out descriptors that this process may not have
            for fd in fds:
                os.close(fd)
            self._break(f"{count} more descriptors are too many for this process; raise `ulimit -n`")
            raise SandboxFault(self._broken)
        return fds

    def _raise_if_broken(self) -> None:
        if self._broken:
            raise SandboxFault(f"this sandbox was ended before: {self._broken}")

    def _raise_if_refused(self, reply: Mapping[str, Any]) -> None:
        if "refused" in reply:
            raise SandboxError(str(reply["refused"]))
        if "failed" in reply:
            self._break(str(reply["failed"]))
            raise SandboxFault(self._broken)

    @contextlib.contextmanager
    def _broken_by_failure(self, what: str) -> Iterator[None]:
        try:
            yield
        except ChannelClosed as error:
            self._break(f"its worker is gone ({error}) {self._process.why()}".strip())
            raise SandboxFault(self._broken) from error
        except BaseException as error:
            self._break(f"{what} was cut short: {type(error).__name__}")
            raise

    def _break(self, why: str) -> None:
        self._broken = self._broken or why
        self._channel.close()
        _close_ports(self._ports)
        self._process.kill()
        if self._proxy is not None:
            self._proxy.close()

    async def _files(self, header: dict[str, Any], *parts: bytes, wait_s: float = _FILES_S) -> Reply:
        try:
            async with self._turn:
                cap = 2 * int(self.spec.limits.disk_bytes) + _MARGIN_BYTES
                return await self._ask(header, parts, cap, wait_s)
        except TimeoutError as error:
            raise SandboxFault(f"the sandbox did not answer {header['op']!r} within {wait_s} s") from error

    async def write(self, path: str, content: bytes) -> None:
        if len(content) > self.spec.limits.file_bytes:
            raise SandboxError(f"{path!r}: {len(content)} bytes, a file may hold {self.spec.limits.file_bytes}")
        await self._files({"op": "write", "path": path}, content)

    async def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        cap = self.spec.limits.file_bytes if max_bytes is None else max_bytes
        return (await self._files({"op": "read", "path": path, "max_bytes": int(cap)})).parts[0]

    async def entries(self) -> list[FileInfo]:
        reply = await self._files({"op": "entries"})
        return [FileInfo(*row) for row in json.loads(reply.parts[0])]

    async def snapshot(self) -> Snapshot:
        return Snapshot((await self._files({"op": "save"})).parts[0])

    async def restore(self, snapshot: Snapshot) -> None:
        await self._load(snapshot.content)

    async def reset(self) -> None:
        await self._load(pack_files(self.spec.files))

    async def _load(self, content: bytes) -> None:
        try:
            await self._files({"op": "load"}, content)
        finally:
            _close_ports(self._ports)  # their sessions have ended
        if self._proxy is not None:
            self._proxy.renew()

    async def healthy(self) -> bool:
        try:
            await self._files({"op": "ping"}, wait_s=1.0)
        except (SandboxFault, SandboxError):
            return False
        return True

    async def close(self) -> None:
        self._break("it was closed")
        await self._process.ended()
        if self._proxy is not None:
            await self._proxy.ended()


@functools.lru_cache(maxsize=256)
def _run_header(
    asked: SandboxLimits, ceiling: SandboxLimits, kind: str, session: str | None = None, cwd: str = "."
) -> tuple[SandboxLimits, bytes]:
    """What a request may use, and its packed header. It is cached: an environment uses few different limits."""
    limits = asked.within(ceiling)
    return limits, _packed(limits, kind, session, cwd)


def _packed(limits: SandboxLimits, kind: str, session: str | None, cwd: str = ".") -> bytes:
    header = {"op": "run", "kind": kind, "session": session, "cwd": cwd, "limits": asdict(limits)}
    return json.dumps(header).encode("ascii")


def _close_ports(ports: dict[str, SessionPort]) -> None:
    while ports:
        ports.popitem()[1].close()


def _source(code: str) -> bytes:
    return code.encode("utf-8", "surrogatepass")

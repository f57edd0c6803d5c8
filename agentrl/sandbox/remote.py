"""A sandbox whose worker is reached over a channel. Owns the requests; how the worker was started is a backend's.

Every wait has an end: a worker that does not answer in time is killed, and the sandbox is of no further use.
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

from agentrl.sandbox.base import (
    CallResult,
    ExecResult,
    FileInfo,
    Limits,
    Sandbox,
    SandboxError,
    SandboxFault,
    SandboxSpec,
    Snapshot,
)
from agentrl.sandbox.channel import Channel, ChannelClosed
from agentrl.sandbox.proxy import PORT, Door, proxy_variables
from agentrl.sandbox.values import Value, ValueFormError, decode, encode
from agentrl.sandbox.worker.archive import pack_files

BASE_ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "TMPDIR": "/tmp"}
_GRACE_S = 0.35
"""What a worker has beyond the wall time to kill and answer, before it is killed itself."""
_START_S, _FILES_S = 20.0, 20.0
_MAX_VALUE_BYTES = 8 << 20
_MARGIN_BYTES = 32 << 20
_WAITING = 64
"""Connections that stand in line for the proxy."""
_Words: TypeAlias = tuple[str] | tuple[str, str | None] | tuple[str, None, str]
"""Kind, session and work folder of what is to be run."""
_Result = TypeVar("_Result", bound=ExecResult)


class WorkerProcess(Protocol):
    """The process that a worker runs in, as its backend sees it."""

    def kill(self) -> None:
        """End it and everything in it, now; may be called twice."""

    async def ended(self) -> None:
        """Return when nothing of it is left."""

    def why(self) -> str:
        """What it said on its standard error, for messages."""

    def out_of_memory(self) -> bool:
        """Whether the host's own accounting has ended something for memory since it was last asked."""


@dataclass(frozen=True)
class Reply:
    """A worker's answer and the seconds it took."""

    header: dict[str, Any]
    parts: list[bytes]
    wall_s: float


class RemoteSandbox(Sandbox):
    """Turns the contract into requests; one at a time, first come, first served."""

    def __init__(self, spec: SandboxSpec, channel: Channel, process: WorkerProcess) -> None:
        self.spec = spec
        self._channel = channel
        self._process = process
        self._turn = asyncio.Lock()
        self._broken = ""
        self._door: Door | None = None

    async def set_up(self, jail: str, seccomp: bytes, *, home: str = "/work", **more: Any) -> None:
        """The first request: limits, environment, filter and files.

        Args:
            jail: a name in `worker.jail.JAILS`.
            seccomp: the filter program that every child loads.
            home: the work folder as programs see it.
            more: what that jail asks for.
        Raises: SandboxFault where the worker cannot make its walls.
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
            await self._open_door()

    async def _open_door(self) -> None:
        """Let programs out to what the spec's allow-list names; none of them runs yet."""
        header = {"op": "listen", "port": PORT, "waiting": _WAITING}
        try:
            async with asyncio.timeout(_START_S):
                listener = await self._channel.ask_for_socket(header, _MARGIN_BYTES)
        except (ChannelClosed, TimeoutError) as error:
            self._break(f"its worker could not open port {PORT} in there ({error or 'in time'})")
            raise SandboxFault(self._broken) from error
        self._door = Door(listener, self.spec.network)
        weakref.finalize(self, self._door.close).atexit = False

    async def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        cwd: str = ".",
        env: Mapping[str, str] | None = None,
        limits: Limits | None = None,
    ) -> ExecResult:
        if not argv or any("\0" in word for word in argv):
            raise SandboxError(f"argv must name a program and hold no NUL, got {list(argv)!r}")
        if cwd.startswith("/") or ".." in cwd.split("/"):
            raise SandboxError(f"cwd must stand inside the work folder, got {cwd!r}")
        body = json.dumps({"argv": list(argv), "env": dict(env or {})}).encode("ascii")
        return await self._run(("exec", None, cwd), body, stdin, limits)

    async def run_python(
        self, code: str, *, session: str | None = None, stdin: bytes = b"", limits: Limits | None = None
    ) -> ExecResult:
        if session is not None and stdin:
            raise SandboxError("a session has no stdin; put the text into a file or into the code")
        return await self._run(("python", session), _source(code), stdin, limits)

    async def call(
        self,
        source: str,
        function: str,
        args: Sequence[Value] = (),
        kwargs: Mapping[str, Value] | None = None,
        *,
        limits: Limits | None = None,
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
        return _call_result(reply)

    async def _run(self, words: _Words, body: bytes, stdin: bytes, limits: Limits | None) -> ExecResult:
        started_s = time.monotonic()
        try:
            return _result(ExecResult, await self._request(words, body, stdin, limits))
        except SandboxFault as fault:
            return ExecResult("infra", detail=str(fault), wall_s=time.monotonic() - started_s)

    async def _request(self, words: _Words, body: bytes, stdin: bytes, limits: Limits | None) -> Reply:
        limits, header = _run_header(limits or self.spec.limits, self.spec.limits, *words)
        max_reply = 2 * int(limits.output_bytes) + _MAX_VALUE_BYTES
        async with self._turn:
            try:
                reply = await self._ask(header, (body, stdin), max_reply, limits.wall_s + _GRACE_S)
            except TimeoutError:
                detail = f"more than {limits.wall_s:g} s; the sandbox did not answer and was ended"
                return Reply({"status": "timeout", "detail": detail}, [b"", b""], limits.wall_s + _GRACE_S)
            if self._process.out_of_memory() and reply.header["status"] == "nonzero":
                reply.header.update(status="oom", detail=f"more than {limits.memory_bytes} bytes of memory")
            return reply

    async def _ask(
        self, header: dict[str, Any] | bytes, parts: Sequence[bytes], max_reply_bytes: int, wait_s: float
    ) -> Reply:
        """One exchange with the worker. Whatever ends it early ends the sandbox too.

        Raises: SandboxFault for a broken sandbox; SandboxError for what the worker refuses; TimeoutError.
        """
        if self._broken:
            raise SandboxFault(f"this sandbox was ended before: {self._broken}")
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(wait_s):
                reply, out = await self._channel.ask(header, parts, max_reply_bytes)
        except ChannelClosed as error:
            self._break(f"its worker is gone ({error}) {self._process.why()}".strip())
            raise SandboxFault(self._broken) from error
        except BaseException as error:
            what = "a program" if isinstance(header, bytes) else header["op"]
            self._break(f"{what} was cut short: {type(error).__name__}")
            raise
        if "refused" in reply:
            raise SandboxError(str(reply["refused"]))
        if "failed" in reply:
            self._break(str(reply["failed"]))
            raise SandboxFault(self._broken)
        return Reply(reply, out, time.monotonic() - started_s)

    def _break(self, why: str) -> None:
        self._broken = self._broken or why
        self._channel.close()
        self._process.kill()
        if self._door is not None:
            self._door.close()

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
        await self._files({"op": "load"}, content)
        if self._door is not None:
            self._door.renew()

    async def healthy(self) -> bool:
        try:
            await self._files({"op": "ping"}, wait_s=1.0)
        except (SandboxFault, SandboxError):
            return False
        return True

    async def close(self) -> None:
        self._break("it was closed")
        await self._process.ended()
        if self._door is not None:
            await self._door.ended()


@functools.lru_cache(maxsize=256)
def _run_header(
    asked: Limits, ceiling: Limits, kind: str, session: str | None = None, cwd: str = "."
) -> tuple[Limits, bytes]:
    """What a request may use, and its packed header; an environment asks for few different ones."""
    limits = asked.within(ceiling)
    header = {"op": "run", "kind": kind, "session": session, "cwd": cwd, "limits": asdict(limits)}
    return limits, json.dumps(header).encode("ascii")


def _source(code: str) -> bytes:
    return code.encode("utf-8", "surrogatepass")


def _result(kind: type[_Result], reply: Reply, **more: Any) -> _Result:
    header, parts = reply.header, reply.parts
    return kind(
        status=header["status"],
        exit_code=header.get("exit_code"),
        stdout=parts[0],
        stderr=parts[1],
        truncated=bool(header.get("truncated")),
        wall_s=reply.wall_s,
        cpu_s=float(header.get("cpu_s", 0.0)),
        max_rss_bytes=int(header.get("max_rss_bytes", 0)),
        detail=str(header.get("detail", "")),
        **more,
    )


def _call_result(reply: Reply) -> CallResult:
    claim = reply.parts[2] if len(reply.parts) > 2 else b""
    if reply.header["status"] == "ok" and claim[:1] == b"R":
        try:
            return _result(CallResult, reply, value=decode(claim[1:]), returned=True)
        except ValueFormError as error:
            return _result(CallResult, reply, raised=str(error))
    raised = claim[1:].decode("utf-8", "replace") if claim[:1] == b"E" else ""
    if reply.header["status"] == "ok":
        reply.header.update(status="nonzero", detail="it ended without returning a value")
    return _result(CallResult, reply, raised=raised)

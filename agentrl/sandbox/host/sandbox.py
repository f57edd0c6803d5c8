"""A sandbox whose worker is reached over a channel. Owns the requests; the backend owns how the worker is started.

Every wait is bounded: a worker that does not answer in time is killed, and the sandbox cannot be used any more. The
time that a request waits for earlier ones does not count. `ending` owns whose doing such an end was.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NoReturn, Protocol, TypeVar

from agentrl.sandbox.base import (
    CallResult,
    ExecResult,
    FileInfo,
    Sandbox,
    SandboxError,
    SandboxFault,
    SandboxLimits,
    SandboxLost,
    SandboxSpec,
    Snapshot,
)
from agentrl.sandbox.egress.proxy import PORT, Proxy, proxy_variables
from agentrl.sandbox.host.asked import Job, check_path, check_program, check_session, packed, run_header
from agentrl.sandbox.host.channel import Channel, ChannelClosed
from agentrl.sandbox.host.ending import Ending
from agentrl.sandbox.host.patience import Within
from agentrl.sandbox.host.replies import Reply, answer_header, call_result, result_of, too_much_memory
from agentrl.sandbox.host.session_port import PIPES, SessionPort
from agentrl.sandbox.values import PlainValue, ValueFormError, encode
from agentrl.sandbox.worker.archive import pack_files
from agentrl.sandbox.worker.frames import FrameError
from agentrl.wire.per_loop import PerLoop

BASE_ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "TMPDIR": "/tmp", "PYTHONHASHSEED": "0"}
_GRACE_S = 15.0
"""How long after the wall time a worker may take to kill the program and answer, before it is killed itself. It mostly
takes milliseconds; the kernel takes seconds to free many processes with many mappings, or if this machine is busy."""
_START_S, _FILES_S = 20.0, 20.0
_MAX_VALUE_BYTES = 8 << 20
_MARGIN_BYTES = 32 << 20
_WAITING = 64
"""How many connections may wait for the proxy to accept them."""
_USED_UP = "what was done in it used up its memory"
_TOO_SLOW = "programs in it kept it from answering"
_FAILED = "programs in it brought it down"
_CUT_SHORT = "a request in it was cut short"
_KILLED = 128 + signal.SIGKILL
_Result = TypeVar("_Result", bound=ExecResult)
_Answer = TypeVar("_Answer")


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

    def __init__(
        self,
        spec: SandboxSpec,
        channel: Channel,
        process: WorkerProcess,
        fresh: Callable[[], Awaitable[Sandbox]] | None = None,
    ) -> None:
        self.spec = spec
        self._channel = channel
        self._process = process
        self._turn = PerLoop(asyncio.Lock)
        self._ending = Ending(fresh)
        # Whether programs have run, and whether a session may still run, since the work folder was emptied.
        self._ran, self._session = False, False
        self._proxy: Proxy | None = None
        self._numbers: dict[str, int] = {}
        self._ports: dict[str, SessionPort] = {}
        weakref.finalize(self, _close_ports, self._ports).atexit = False

    @property
    def lost(self) -> bool:
        return self._ending.lost

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
            (fd,) = await self._ask_for_fds(header, 1) or await self._fail("the kernel lets it hand over no descriptor")
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
        check_program(argv, cwd)
        body = json.dumps({"argv": list(argv), "env": dict(env or {})}).encode("ascii")
        return await self._run(("exec", None, cwd), body, stdin, limits)

    async def run_python(
        self, code: str, *, session: str | None = None, stdin: bytes = b"", limits: SandboxLimits | None = None
    ) -> ExecResult:
        check_session(session, stdin)
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
            forms = {
                "args": encode(list(args)).decode("latin-1"),
                "kwargs": encode(dict(kwargs or {})).decode("latin-1"),
            }
        except ValueFormError as error:
            raise SandboxError(f"an argument of {function!r} cannot go in: {error}") from error
        body = json.dumps({"source": source, "function": function, **forms}).encode("ascii")
        started_s = time.monotonic()
        try:
            reply = await self._request(("call",), body, b"", limits)
        except (SandboxFault, SandboxLost) as end:
            return _ended(CallResult, end, started_s)
        return call_result(reply)

    async def _run(self, job: Job, body: bytes, stdin: bytes, limits: SandboxLimits | None) -> ExecResult:
        started_s = time.monotonic()
        try:
            return result_of(ExecResult, await self._request(job, body, stdin, limits))
        except (SandboxFault, SandboxLost) as end:
            return _ended(ExecResult, end, started_s)

    async def _request(self, job: Job, body: bytes, stdin: bytes, limits: SandboxLimits | None) -> Reply:
        async with self._turn.get():
            session = job[1] if len(job) == 2 else None
            if session is not None:
                # The worker knows sessions by number, so that later requests find no name in its memory.
                session = str(self._numbers.setdefault(session, len(self._numbers)))
                job = (job[0], session)
            limits, header = run_header(limits or self.spec.limits, self.spec.limits, *job)
            self._ran, self._session = True, self._session or session is not None
            if session is not None and self._channel.carries_fds:
                return await self._cell(session, header, body, limits)
            return await self._ask_worker(header, (body, stdin), limits)

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
        await self._raise_if_ended()
        started_s = time.monotonic()
        port = self._ports.get(session) or await self._open_port(session, limits)
        if port is not None and port.send(code):
            try:
                answer = await port.answer(int(limits.output_bytes), limits.wall_s)
            except BaseException as error:
                self._end(f"a cell was cut short: {type(error).__name__}: {error}", _CUT_SHORT)
                if isinstance(error, OSError):
                    await self._raise_if_ended()
                raise
            wall_s = time.monotonic() - started_s
            if answer is not None:
                reply = Reply(answer_header(answer, limits), [answer.stdout, answer.stderr], wall_s)
                return self._judged(reply, limits) if answer.exit_code else reply
            header, code = packed(limits, "sent", session, waited_s=wall_s), b""
        reply = await self._ask_worker(header, (code,), limits)
        if reply.header.get("detail") and port is not None:
            self._ports.pop(session, port).close()  # it may have ended
        return replace(reply, wall_s=time.monotonic() - started_s)

    async def _open_port(self, session: str, limits: SandboxLimits) -> SessionPort | None:
        """The pipes of a session; None if the worker may not hand them over, and must run the cells itself.

        The kernel counts descriptors on their way for each user, so programs of other sandboxes may use them up.
        """
        fds = await self._ask_for_fds({"op": "open", "session": session, "limits": asdict(limits)}, PIPES)
        if fds is None:
            return None
        port = self._ports[session] = SessionPort(fds)
        return port

    async def _ask(
        self, header: dict[str, Any] | bytes, parts: Sequence[bytes], max_reply_bytes: int, wait_s: float
    ) -> Reply:
        """Send the worker a request and wait for its reply. If that is cut short, the sandbox is ended too.

        Raises: SandboxFault and SandboxLost if the sandbox has ended; SandboxError for what is refused.
        """
        await self._raise_if_ended()
        started_s = time.monotonic()
        what = "a program" if isinstance(header, bytes) else header["op"]
        reply, out = await self._answered(what, wait_s, self._channel.ask(header, parts, max_reply_bytes))
        await self._raise_if_refused(reply)
        return Reply(reply, out, time.monotonic() - started_s)

    async def _ask_for_fds(self, header: dict[str, Any], count: int) -> list[int] | None:
        """As `_ask`, for a request that is answered by descriptors.

        Returns: the descriptors; None if the worker may not hand them over.
        """
        await self._raise_if_ended()
        asked = self._channel.ask_for_fds(header, count, _MARGIN_BYTES)
        reply, fds = await self._answered(header["op"], _START_S, asked)
        await self._raise_if_refused(reply)
        if fds is not None and len(fds) < count:  # the kernel leaves out descriptors that this process may not have
            for fd in fds:
                os.close(fd)
            await self._fail(f"{count} more descriptors are too many for this process; raise `ulimit -n`")
        return fds

    async def _answered(self, what: str, wait_s: float, asked: Awaitable[_Answer]) -> _Answer:
        """The answer to a request. If there is none, the sandbox ends, by the doing of the programs that ran in it."""
        try:
            async with Within(wait_s):
                return await asked
        except FrameError as error:
            raise SandboxError(f"the request is too long: {error}") from error
        except ChannelClosed as error:
            used_up = self._process.out_of_memory()
            # A worker that is found gone while no program ran is not blamed on any.
            blamed = self._ran and (error.asked or self._session)
            cause = _USED_UP if used_up else _FAILED if blamed else ""
            await self._fail(f"its worker is gone ({error}) {self._process.why()}".strip(), cause)
        except TimeoutError:
            await self._fail(f"it did not answer {what!r} within {wait_s:g} s", _TOO_SLOW if self._ran else "")
        except BaseException as error:
            self._end(f"{what} was cut short: {type(error).__name__}", _CUT_SHORT if self._ran else "")
            raise

    async def _raise_if_ended(self) -> None:
        if self._ending.why:
            raise await self._ending.error(self._process.ended)

    async def _raise_if_refused(self, reply: Mapping[str, Any]) -> None:
        if "refused" in reply:
            raise SandboxError(str(reply["refused"]))
        if "failed" in reply:
            await self._fail(str(reply["failed"]), _FAILED if self._ran else "")

    async def _fail(self, why: str, cause: str = "") -> NoReturn:
        """End the sandbox, and raise why."""
        self._end(why, cause)
        raise await self._ending.error(self._process.ended)

    def _end(self, why: str, cause: str = "") -> None:
        self._ending.note(why, cause)
        self._channel.close()
        _close_ports(self._ports)
        self._process.kill()
        if self._proxy is not None:
            self._proxy.close()

    async def _files(self, header: dict[str, Any], *parts: bytes, wait_s: float = _FILES_S) -> Reply:
        async with self._turn.get():
            cap = 2 * int(self.spec.limits.disk_bytes) + _MARGIN_BYTES
            return await self._ask(header, parts, cap, wait_s)

    async def write(self, path: str, content: bytes) -> None:
        check_path(path)
        if len(content) > self.spec.limits.file_bytes:
            raise SandboxError(f"{path!r}: {len(content)} bytes, a file may hold {self.spec.limits.file_bytes}")
        await self._files({"op": "write", "path": path}, content)

    async def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        check_path(path)
        cap = self.spec.limits.file_bytes if max_bytes is None else max_bytes
        return (await self._files({"op": "read", "path": path, "max_bytes": int(cap)})).parts[0]

    async def entries(self) -> list[FileInfo]:
        reply = await self._files({"op": "entries"})
        return [FileInfo(*row) for row in json.loads(reply.parts[0])]

    async def snapshot(self) -> Snapshot:
        return Snapshot((await self._files({"op": "save"})).parts[0])

    async def restore(self, snapshot: Snapshot) -> None:
        await self._load(snapshot.content, by_programs=True)

    async def reset(self) -> None:
        await self._load(pack_files(self.spec.files))

    async def _load(self, content: bytes, *, by_programs: bool = False) -> None:
        self._ran = self._ran or by_programs
        try:
            await self._files({"op": "load"}, content)
        finally:
            _close_ports(self._ports)  # their sessions have ended
            self._numbers.clear()
        self._ran, self._session = by_programs, False
        if self._proxy is not None:
            self._proxy.renew()

    async def healthy(self) -> bool:
        try:
            await self._files({"op": "ping"}, wait_s=1.0)
        except (SandboxFault, SandboxError):
            return False
        return True

    async def close(self) -> None:
        self._end("it was closed")
        await self._process.ended()
        if self._proxy is not None:
            await self._proxy.ended()


def _ended(kind: type[_Result], end: SandboxFault | SandboxLost, started_s: float) -> _Result:
    """The result of a request to a sandbox that has ended."""
    wall_s = time.monotonic() - started_s
    if isinstance(end, SandboxLost):
        return kind("lost", _KILLED, detail=str(end), wall_s=wall_s)
    return kind("infra", detail=str(end), wall_s=wall_s)


def _close_ports(ports: dict[str, SessionPort]) -> None:
    while ports:
        ports.popitem()[1].close()


def _source(code: str) -> bytes:
    return code.encode("utf-8", "surrogatepass")

"""The contract of a sandbox: an isolated place to run code that nobody trusts. Owns its words; starts no process.

A result always has a typed `ExecStatus`. `infra` means that the sandbox failed, not the program: it voids an episode
and is never a reward. What each backend protects, and what it does not, is in docs/security.md.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import TracebackType
from typing import Literal, Self

from agentrl.errors import AgentRLError, EnvFault
from agentrl.sandbox.allow_list import parse_entry
from agentrl.sandbox.values import PlainValue

ExecStatus = Literal["ok", "nonzero", "timeout", "oom", "limit", "infra"]
"""`ok` exit code 0; `nonzero` any other end of the program's own; `timeout` wall time; `oom` memory;
`limit` another limit (processor time, file size, a folder beyond what can be saved); `infra` the sandbox failed."""

_MIB = 1024**2


class SandboxError(AgentRLError):
    """A request that the sandbox refuses: a path outside the work folder, a missing file, a limit below zero."""


class SandboxFault(EnvFault):
    """The sandbox itself failed: the episode is void and tried again, never scored."""


@dataclass(frozen=True)
class SandboxLimits:
    """What one request may use; for the work folder, what all requests may use together.

    Attributes:
        wall_s: seconds until everything the request started is killed.
        cpu_s: processor seconds of the request's processes together.
        memory_bytes: memory of the request's processes together.
        pids: processes and threads at one time.
        disk_bytes: size of the work folder, `/tmp` and `/dev/shm` together; fixed when the sandbox starts.
        inodes: files and folders in them; fixed when the sandbox starts.
        output_bytes: what is kept of stdout, and of stderr; the rest is read and dropped.
        file_bytes: size of one file.
    """

    wall_s: float = 10.0
    cpu_s: float = 10.0
    memory_bytes: int = 512 * _MIB
    pids: int = 64
    disk_bytes: int = 64 * _MIB
    inodes: int = 4096
    output_bytes: int = 256 * 1024
    file_bytes: int = 32 * _MIB

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 2**62:
                raise ValueError(f"SandboxLimits.{item.name} must be a number above 0, got {value!r}")

    def within(self, ceiling: SandboxLimits) -> SandboxLimits:
        """These limits, none above the ceiling's."""
        return SandboxLimits(
            **{item.name: min(getattr(self, item.name), getattr(ceiling, item.name)) for item in fields(self)}
        )


@dataclass(frozen=True)
class Network:
    """What a sandbox may reach. Off by default: only its own loopback device.

    Programs find the proxy through HTTP_PROXY, HTTPS_PROXY and the like, and reach nothing without it.

    Attributes:
        allow: what a proxy of ours lets through: `example.org` (ports 80 and 443), `example.org:8443`,
            `*.example.org` (names below it), `10.1.2.3:80`, `[2001:db8::1]:80`; empty means no network at all.
        private: whether a name may also stand for an address of a private network or of this machine's loopback;
            an entry that spells the address out is always meant.
        max_bytes: what all connections together may carry, both ways, until the sandbox is reset.
    """

    allow: tuple[str, ...] = ()
    private: bool = False
    max_bytes: int = 256 * _MIB

    def __post_init__(self) -> None:
        if isinstance(self.allow, str):
            raise TypeError(f"Network.allow must be a tuple of hosts, got {self.allow!r}")
        for text in self.allow:
            parse_entry(text)
        if self.max_bytes <= 0:
            raise ValueError(f"Network.max_bytes must be above 0, got {self.max_bytes!r}")

    @property
    def off(self) -> bool:
        return not self.allow


@dataclass(frozen=True)
class SandboxSpec:
    """What a sandbox starts with.

    Attributes:
        limits: ceilings; a request may ask for less, never for more.
        network: off, or an allow-list.
        env: variables that programs see, beside PATH, HOME, LANG and TMPDIR.
        files: path inside the work folder to content, written at start and after every `reset`.
        read_only: host folders that programs may read, at the same path.
    """

    limits: SandboxLimits = field(default_factory=SandboxLimits)
    network: Network = field(default_factory=Network)
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    read_only: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExecResult:
    """How a program ended, and what it said.

    Attributes:
        status: see `ExecStatus`.
        exit_code: the program's own, 128 + n where signal n ended it; None where it never ran.
        stdout: the first `output_bytes` of it, raw.
        stderr: likewise.
        truncated: whether output was dropped.
        wall_s: seconds from request to end, measured outside.
        cpu_s: processor seconds, of the processes that were waited for.
        max_rss_bytes: the largest resident set of one process.
        detail: which limit, or what failed; empty for `ok`.
    """

    status: ExecStatus
    exit_code: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    truncated: bool = False
    wall_s: float = 0.0
    cpu_s: float = 0.0
    max_rss_bytes: int = 0
    detail: str = ""

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def text(self) -> str:
        """stdout as text; bytes that are no UTF-8 become U+FFFD."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        """stderr as text; bytes that are no UTF-8 become U+FFFD."""
        return self.stderr.decode("utf-8", "replace")

    def checked(self) -> Self:
        """This result, unless the sandbox failed.

        Raises: SandboxFault where the status is `infra`.
        """
        if self.status == "infra":
            raise SandboxFault(f"the sandbox failed: {self.detail}")
        return self


@dataclass(frozen=True)
class CallResult(ExecResult):
    """What a called function returned, or why it did not.

    Attributes:
        value: what it returned, rebuilt from plain types on the host; meaningful only where `returned`.
        returned: whether a value came out. A program that exits early, whatever its code, has returned nothing.
        raised: `ValueError: text` where the function raised or its value has a type that cannot come out.
    """

    value: PlainValue = None
    returned: bool = False
    raised: str = ""


@dataclass(frozen=True)
class FileInfo:
    """One entry of the work folder: `path` relative to it, `kind` of it, `size_bytes` of a file's content."""

    path: str
    kind: Literal["file", "folder", "link", "other"]
    size_bytes: int = 0


@dataclass(frozen=True)
class Snapshot:
    """The content of a work folder, opaque and picklable. Files only: running programs and sessions are not in it."""

    content: bytes


class Sandbox(abc.ABC):
    """One isolated place, with one work folder (`/work`, the current folder of every program).

    Requests run one after the other, in the order they were made. Cancelling one kills what it started.
    """

    spec: SandboxSpec

    @abc.abstractmethod
    async def exec(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        cwd: str = ".",
        env: Mapping[str, str] | None = None,
        limits: SandboxLimits | None = None,
    ) -> ExecResult:
        """Run a program to its end; whatever it leaves running is killed.

        Args:
            argv: program and arguments; the program is looked up on PATH.
            stdin: what it reads; after that, end of file.
            cwd: folder inside the work folder.
            env: variables beside the spec's.
            limits: tighter than the spec's; larger values are cut to it.
        """

    @abc.abstractmethod
    async def run_python(
        self, code: str, *, session: str | None = None, stdin: bytes = b"", limits: SandboxLimits | None = None
    ) -> ExecResult:
        """Run Python code, fresh, or in a named session that keeps its variables until reset or a timeout.

        A session prints the value of a last expression, as a notebook does. Its stdin is empty.
        """

    @abc.abstractmethod
    async def call(
        self,
        source: str,
        function: str,
        args: Sequence[PlainValue] = (),
        kwargs: Mapping[str, PlainValue] | None = None,
        *,
        limits: SandboxLimits | None = None,
    ) -> CallResult:
        """Execute a module's source, call one of its functions in a process of its own, and bring the value out.

        For grading: only the inputs go in. Compare `value` with what was expected by `same_value`, on the host.

        Raises: SandboxError for an argument that is not made of plain types.
        """

    @abc.abstractmethod
    async def write(self, path: str, content: bytes) -> None:
        """Write a file in the work folder, with the folders above it. Follows no link.

        Raises: SandboxError for a path outside, a link on the way, a full folder.
        """

    @abc.abstractmethod
    async def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        """A file's content. Follows no link, opens nothing but ordinary files.

        Raises: SandboxError for a path outside, a missing file, or more than max_bytes (default: file_bytes).
        """

    @abc.abstractmethod
    async def entries(self) -> list[FileInfo]:
        """Everything in the work folder, sorted by path."""

    @abc.abstractmethod
    async def snapshot(self) -> Snapshot:
        """The content of the work folder now."""

    @abc.abstractmethod
    async def restore(self, snapshot: Snapshot) -> None:
        """End every session and make the work folder as it was; `/tmp` and `/dev/shm` become empty."""

    @abc.abstractmethod
    async def reset(self) -> None:
        """End every session and make the work folder as at start."""

    @abc.abstractmethod
    async def healthy(self) -> bool:
        """Whether the sandbox still answers; a pool replaces one that does not."""

    @abc.abstractmethod
    async def close(self) -> None:
        """End everything that runs in it. May be called twice."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


@dataclass(frozen=True)
class Check:
    """One line of a backend's doctor: `repair` is the command that mends it, empty where nothing needs mending."""

    name: str
    ok: bool
    detail: str
    repair: str = ""


@dataclass(frozen=True)
class Report:
    """What a backend found about itself; it can be used where `usable`, even if a lesser check failed."""

    backend: str
    usable: bool
    checks: tuple[Check, ...]

    @property
    def repair(self) -> str:
        """The first command that mends something, or nothing."""
        return next((check.repair for check in self.checks if not check.ok and check.repair), "")


class Backend(abc.ABC):
    """A way of making sandboxes.

    Attributes:
        name: what the registry calls it.
        isolates: whether it has walls at all; attacks are never made on one that has none.
    """

    name: str
    isolates: bool = True

    @classmethod
    def works_here(cls) -> bool:
        """Whether this backend can be expected to work on this machine; `make_backend("auto")` asks.

        Looks for what the backend needs and starts nothing; `doctor` tries it out. A backend that does not say is
        never chosen by `auto`.
        """
        return False

    @abc.abstractmethod
    async def start(self, spec: SandboxSpec) -> Sandbox:
        """A new sandbox.

        Raises: SandboxFault where it cannot be made, with what to do; SandboxError for a spec that it cannot honour.
        """

    @abc.abstractmethod
    async def doctor(self) -> Report:
        """What works here, and the exact command that repairs what does not."""

    @abc.abstractmethod
    async def reap(self) -> int:
        """End what sandboxes of dead owners left behind; returns how many. Touches nothing foreign."""

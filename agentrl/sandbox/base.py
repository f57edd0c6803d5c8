"""The contract of a sandbox: an isolated place to run code that nobody trusts. Owns its types; starts no process.

Every result has a typed `ExecStatus`. `infra` means that the sandbox failed, not the program: the episode is discarded
and never scored. A sandbox that programs may have brought down is `lost` if a fresh one works: that is the programs'
doing. docs/security.md says what each backend protects against, and what it does not.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import TracebackType
from typing import Literal, Self

from agentrl.errors import EnvFault, ToolError
from agentrl.sandbox.allow_list import parse_entry
from agentrl.sandbox.report import Report
from agentrl.sandbox.values import PlainValue

ExecStatus = Literal["ok", "nonzero", "timeout", "oom", "limit", "lost", "infra"]
"""`ok`: exit code 0. `nonzero`: the program ended by itself in any other way. `timeout`: it ran out of wall time.
`oom`: it used too much memory. `limit`: it used too much processor time or too many processes. `lost`: the sandbox
ended with all that it held, programs had run in it, and a fresh sandbox of the same backend works. `infra`: the sandbox
failed, and not by a program's doing."""

_MIB = 1024**2
SYSTEM_FOLDERS = frozenset({"bin", "box", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "media", "mnt"})
SYSTEM_FOLDERS |= {"opt", "proc", "run", "sbin", "sys", "tmp", "usr", "var", "work", "worker.zip"}
"""Names below `/` that a sandbox or the host's system uses."""


class SandboxError(ToolError):
    """A request that the sandbox refuses, such as a path outside the work folder or a missing file.

    The model reads it if a tool does not catch it. If `score` does not catch it, the episode counts as failed.
    """


class SandboxLost(SandboxError):
    """The sandbox has ended with all that it held, by what programs did in it; a fresh one works."""


class SandboxFault(EnvFault):
    """The sandbox itself failed: the episode is discarded and tried again, never scored.

    A backend raises it for a sandbox in which programs have run only if a fresh sandbox fails too.
    """

    who = "sandbox"


@dataclass(frozen=True)
class SandboxLimits:
    """What one request may use. The limits of the work folder hold for all requests of a sandbox together.

    Attributes:
        wall_s: seconds after which everything that the request started is killed.
        cpu_s: processor seconds of all processes of the request together.
        memory_bytes: memory of all processes of the request together.
        pids: processes and threads at one time.
        disk_bytes: size of the work folder, `/tmp` and `/dev/shm` together; fixed when the sandbox starts.
        inodes: files and folders in them; fixed when the sandbox starts.
        output_bytes: how much of stdout is kept, and how much of stderr; the rest is read and dropped.
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
        """These limits, each one cut to that of the ceiling."""
        return SandboxLimits(
            **{item.name: min(getattr(self, item.name), getattr(ceiling, item.name)) for item in fields(self)}
        )


@dataclass(frozen=True)
class Network:
    """What a sandbox may reach. By default that is its own loopback device alone.

    With an allow-list, programs reach the hosts on it through a proxy on this machine, and nothing else. The variables
    HTTP_PROXY, HTTPS_PROXY and the like tell them where the proxy is.

    Attributes:
        allow: the hosts that the proxy lets through: `example.org` (ports 80 and 443), `example.org:8443`,
            `*.example.org` (names below it), `10.1.2.3:80`, `[2001:db8::1]:80`; empty means no network at all.
        private: whether a name may also stand for an address of a private network or of this machine's loopback;
            an entry that is such an address is always allowed.
        max_bytes: bytes that all connections together may carry, in both directions, until the sandbox is reset.
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
        limits: upper bounds; a request may ask for less, never for more.
        network: off, or an allow-list.
        env: variables that programs see in addition to PATH, HOME, LANG, TMPDIR and PYTHONHASHSEED.
        files: path inside the work folder -> content; written at start and after every `reset`.
        read_only: host folders that programs may read, at the same path.
        links: name of a folder below `/` that the system does not use -> folder inside the work folder that it stands
            for, for programs that name absolute paths: `{"app": "app"}` makes `/app` of `/work/app`.
    """

    limits: SandboxLimits = field(default_factory=SandboxLimits)
    network: Network = field(default_factory=Network)
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    read_only: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, path in self.links.items():
            inside = not path.startswith("/") and ".." not in path.split("/")
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name) or name in SYSTEM_FOLDERS or not inside:
                raise ValueError(
                    f"SandboxSpec.links must lead from a folder below / that the system does not use into the work"
                    f" folder, got {name!r}: {path!r}"
                )

    def without_links(self, backend: str) -> None:
        """For backends that cannot honour links. Raises: SandboxError if the spec has any."""
        if self.links:
            raise SandboxError(
                f"the {backend} backend cannot show the work folder as /{next(iter(self.links))}: use bubblewrap"
            )


@dataclass(frozen=True)
class ExecResult:
    """How a program ended, and what it printed.

    Attributes:
        status: see `ExecStatus`.
        exit_code: the program's own; 128 + n if signal n ended it; None if it never ran.
        stdout: the first `output_bytes` bytes of it.
        stderr: the first `output_bytes` bytes of it.
        truncated: whether output was dropped.
        wall_s: seconds from request to end, measured on the host.
        cpu_s: processor seconds of the processes that were waited for.
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
        """stdout as text; bytes that are not UTF-8 become U+FFFD."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        """stderr as text; bytes that are not UTF-8 become U+FFFD."""
        return self.stderr.decode("utf-8", "replace")

    def checked(self) -> Self:
        """This result, if the sandbox did not fail. A `lost` sandbox is a result: programs brought it down.

        Raises: SandboxFault if the status is `infra`.
        """
        if self.status == "infra":
            raise SandboxFault(f"the sandbox failed: {self.detail}")
        return self


@dataclass(frozen=True)
class CallResult(ExecResult):
    """What a called function returned, or why it did not.

    Attributes:
        value: what the function returned, rebuilt from plain types on the host; meaningful only if `returned`.
        returned: whether a value came out. A program that exits early, with any exit code, has returned nothing.
        raised: such as `ValueError: text`, if the function raised or its value is not made of plain types.
    """

    value: PlainValue = None
    returned: bool = False
    raised: str = ""


@dataclass(frozen=True)
class FileInfo:
    """One entry of the work folder: its `path` in that folder, its `kind`, and for a file the size of its content."""

    path: str
    kind: Literal["file", "folder", "link", "other"]
    size_bytes: int = 0


@dataclass(frozen=True)
class Snapshot:
    """The files of a work folder, opaque and picklable. It holds no running program and no session."""

    content: bytes


class Sandbox(abc.ABC):
    """One isolated place with one work folder (`/work`, the current folder of every program).

    Requests run one after the other, in the order in which they were made. The time limit of a request begins when it
    begins to run. Cancelling one kills what it started.

    Attributes:
        spec: what it started with.
        lost: whether it has ended in a way that programs can bring about. Every request is then answered by the status
            `lost` or by SandboxLost, or by a fault if a fresh sandbox fails too.
    """

    spec: SandboxSpec

    @property
    def lost(self) -> bool:
        return False

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
        """Run a program to its end, and kill the processes that it leaves running.

        Args:
            argv: program and arguments; the program is looked up on PATH.
            stdin: what the program reads before the end of file.
            cwd: folder inside the work folder.
            env: variables in addition to the spec's.
            limits: tighter than the spec's; larger values are cut to the spec's.
        """

    @abc.abstractmethod
    async def run_python(
        self, code: str, *, session: str | None = None, stdin: bytes = b"", limits: SandboxLimits | None = None
    ) -> ExecResult:
        """Run Python code as a program, or in a named session, which keeps its variables until a reset or a timeout.

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
        """Execute a module's source in a new process, call one of its functions there, and return its value.

        This is for grading: only the inputs go in. Compare `value` with what was expected on the host, by `same_value`.

        Raises: SandboxError if an argument is not made of plain types.
        """

    @abc.abstractmethod
    async def write(self, path: str, content: bytes) -> None:
        """Write a file in the work folder, and make the folders above it. Follows no link.

        Raises: SandboxError for a path outside, a link on the way, or a full folder.
        """

    @abc.abstractmethod
    async def read(self, path: str, *, max_bytes: int | None = None) -> bytes:
        """The content of a file. Follows no link, and opens ordinary files only.

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
        """End every session and put the snapshot's files into the work folder; `/tmp` and `/dev/shm` become empty."""

    @abc.abstractmethod
    async def reset(self) -> None:
        """End every session and put the files of the start into the work folder."""

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


class Backend(abc.ABC):
    """A way of making sandboxes.

    Attributes:
        name: its name in the registry.
        isolates: whether it keeps programs from the host. Attacks are never run on a backend that does not.
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

        Raises: SandboxFault if it cannot be made, with what to do; SandboxError for a spec that it cannot honour.
        """

    @abc.abstractmethod
    async def doctor(self) -> Report:
        """What works on this machine, and the exact command that fixes what does not."""

    @abc.abstractmethod
    async def reap(self) -> int:
        """End the sandboxes of dead owner processes; returns how many. Touches nothing else."""

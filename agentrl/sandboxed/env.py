"""`SandboxEnv`: a `ToolEnv` in which each episode has its own sandbox. Owns when it is lent, filled and saved.

An episode gets a sandbox when it first needs one and gives it back at its end, so an episode that runs no code uses
none. If the model's programs bring it down, the episode goes on in a new one with the files of its beginning; what the
model changed is gone. `agentrl.sandbox` owns the isolation.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from agentrl.env.base import Observation, StepResult, drive
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import EnvFault
from agentrl.sandbox.base import (
    ExecResult,
    Network,
    Sandbox,
    SandboxError,
    SandboxLimits,
    SandboxLost,
    SandboxSpec,
    Snapshot,
)
from agentrl.sandbox.pool import Pool, pool_of

logger = logging.getLogger(__name__)
# The session that all notebook cells of an episode share, and the words in a result's detail if it has been lost.
_SESSION = "main"
_LOST = "session is lost"


@dataclass(frozen=True)
class Content:
    """What an episode's work folder and notebook hold.

    Attributes:
        files: path -> content of the beginning, written into an empty folder if there is no snapshot.
        snapshot: the folder as it was saved.
        cells: notebook cells that ran since the episode began; they run again to restore the variables.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    snapshot: Snapshot | None = None
    cells: tuple[str, ...] = ()

    @property
    def of_the_beginning(self) -> Content:
        return Content(self.files)


class SandboxEnv(ToolEnv):
    """Base class of environments with a sandbox: write `start`, `score` and the tools as for a `ToolEnv`.

    Call `put_files` in `start`. The tools of `agentrl.tools.shell`, `python_session` and `work_files` in `extra_tools`
    find the sandbox. Other code gets it by `await self.sandbox()`.

    No doing of the model discards an episode: a tool's SandboxError is an error that the model reads, and an episode
    that cannot be scored for one (a work folder that cannot be listed, a lost sandbox) ends as a failure with reward 0.
    Where a failure earns less than 0, catch SandboxError in `score`. A sandbox that is lost is replaced by a new one
    with the files of the beginning.

    Saving and forking take time, so inside an event loop use `await env.aget_state()`, `aset_state` and `afork`.
    A fork has exactly the same files; a notebook's variables are restored by running its cells again.

    Class attributes:
        sandbox_limits: limits of every sandbox of this class.
        sandbox_network: what programs may reach; by default nothing.
        sandbox_read_only: folders of the host that programs may read, such as one of Python packages.
        sandbox_links: folders below `/` that stand for folders of the work folder; see `SandboxSpec`. An instance may
            set its own in its constructor.

    Args:
        backend: `auto`, or a name or reference that `agentrl.sandbox.make_backend` knows.
        backend_options: what that backend takes, such as `{"unsafe": True}` for `subprocess`.
    """

    # Long, because a model decides how long its programs run: within the limits of the sandbox.
    tool_timeout_s: ClassVar[float] = 600.0
    sandbox_limits: ClassVar[SandboxLimits] = SandboxLimits()
    sandbox_network: ClassVar[Network] = Network()
    sandbox_read_only: ClassVar[tuple[str, ...]] = ()
    sandbox_links: Mapping[str, str] = {}
    not_state: ClassVar[tuple[str, ...]] = tuple(
        f"_SandboxEnv__{name}" for name in ("pool", "lent", "on_drop", "opening", "content")
    )
    __content = Content()
    # What an instance has whose author's `__init__` does not call this one.
    __pool: Pool | None = None
    __lent: Sandbox | None = None
    __backend = "auto"
    __backend_options: Mapping[str, Any] = {}
    __on_drop: weakref.finalize[..., SandboxEnv] | None = None

    def __init__(
        self,
        *,
        backend: str = "auto",
        backend_options: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode=render_mode)
        self.__backend, self.__backend_options = backend, dict(backend_options or {})
        self.__opening = asyncio.Lock()

    # What an author calls.

    def put_files(self, files: Mapping[str, bytes]) -> None:
        """Set what the work folder holds when the episode begins; to be called in `start`."""
        self.__content = Content(dict(files))

    async def sandbox(self) -> Sandbox:
        """The episode's sandbox, in its present state; a new one with the files of the beginning if it was lost.

        Raises: SandboxFault if none can be started.
        """
        async with self.__opening:
            if self.__lent is not None and self.__lent.lost:
                await self.__give_back()
                self.__content = self.__content.of_the_beginning
            if self.__lent is None:
                self.__lent = await self.__opened()
            return self.__lent

    async def run_cell(self, code: str, limits: SandboxLimits | None = None) -> ExecResult:
        """Run a cell of the episode's notebook, and record it, so that a fork can run it again.

        Args:
            code: Python; it sees the variables of earlier cells.
            limits: limits of this cell; None: those of the sandbox.
        Raises: SandboxError for code that cannot be sent; SandboxFault if the sandbox failed.
        """
        sandbox = await self.sandbox()
        result = (await sandbox.run_python(code, session=_SESSION, limits=limits)).checked()
        kept = () if _LOST in result.detail else (*self.__content.cells, code)
        self.__content = replace(self.__content, cells=kept)
        return result

    async def start_over(self) -> Sandbox:
        """The sandbox, after ending every session and emptying its folder; for grading."""
        try:
            await (await self.sandbox()).reset()
        except SandboxLost:  # what was in it was to go anyway
            await (await self.sandbox()).reset()
        return await self.sandbox()

    # The contract.

    async def areset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        await self.__give_back()
        self.__opening = asyncio.Lock()
        self.__content = Content()
        return await super().areset(seed=seed, options=options)

    async def astep(self, action: Any) -> StepResult:
        try:
            result = await super().astep(action)
        except SandboxError as error:
            result = self._agentrl_failed(f"the episode cannot be scored: {error}")
        if result[2] or result[3]:
            await self.__give_back()
        return result

    async def aclose(self) -> None:
        await self.__give_back()
        await super().aclose()

    # State.

    async def aget_state(self) -> dict[str, Any]:
        content = self.__content
        if self.__lent is not None:
            try:
                content = replace(content, snapshot=await self.__lent.snapshot())
            except SandboxLost:
                content = content.of_the_beginning
        return {**super().get_state(), "extra": content}

    async def aset_state(self, state: Mapping[str, Any]) -> None:
        await self.__give_back()
        self.__opening = asyncio.Lock()
        super().set_state({**state, "extra": None})
        self.__content = state["extra"]

    def get_state(self) -> dict[str, Any]:
        return drive(self, self.aget_state())

    def set_state(self, state: Mapping[str, Any]) -> None:
        drive(self, self.aset_state(state))

    # Lending.

    async def __opened(self) -> Sandbox:
        try:
            try:
                return await self.__filled()
            except SandboxLost as error:  # by the cells of a fork, which the model is not told
                logger.warning("a fork begins with the files of the beginning: %s", error)
                self.__content = self.__content.of_the_beginning
                return await self.__filled()
        except SandboxError as error:
            raise EnvFault(f"the sandbox cannot be made: {error}", who="author") from error

    async def __filled(self) -> Sandbox:
        """A sandbox with the episode's content. Raises: SandboxLost if its cells bring the sandbox down."""
        if self.__pool is None:
            spec = SandboxSpec(
                limits=self.sandbox_limits,
                network=self.sandbox_network,
                read_only=self.sandbox_read_only,
                links=self.sandbox_links,
            )
            self.__pool = pool_of(self.__backend, self.__backend_options, spec)
        sandbox: Sandbox = await self.__pool.lend()
        try:
            await self.__fill(sandbox)
        except BaseException:
            await self.__pool.take_back(sandbox)
            raise
        # An environment that is garbage-collected without `close` must not keep its sandbox.
        self.__on_drop = weakref.finalize(self, self.__pool.on_drop(), sandbox)
        self.__on_drop.atexit = False
        return sandbox

    async def __fill(self, sandbox: Sandbox) -> None:
        content = self.__content
        if content.snapshot is not None:
            await sandbox.restore(content.snapshot)
        else:
            for path, text in content.files.items():
                await sandbox.write(path, text)
        for cell in content.cells:
            if (await sandbox.run_python(cell, session=_SESSION)).checked().status == "lost":
                raise SandboxLost("a cell of the notebook brought the sandbox down")

    async def __give_back(self) -> None:
        sandbox, self.__lent = self.__lent, None
        if sandbox is not None and self.__pool is not None:
            if self.__on_drop is not None:
                self.__on_drop.detach()
            await self.__pool.take_back(sandbox)

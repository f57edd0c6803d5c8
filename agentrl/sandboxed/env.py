"""`SandboxEnv`: a `ToolEnv` in which each episode has its own sandbox. Owns when it is lent, filled and saved.

An episode gets a sandbox when it first needs one and gives it back at its end, so an episode that runs no code uses
none. If the model's programs bring it down, the episode goes on in a new one with the files of its beginning; what the
model changed is gone. `agentrl.sandbox` owns the isolation.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from agentrl.env.base import Observation, StepResult
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
from agentrl.trajectory import Ending

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

    Call `put_files` in `start`. The tools in `extra_tools` whose function takes `self` are bound to the instance, so
    that those of `agentrl.tools.shell`, `python_session` and `work_files` find the sandbox; the others stay as they
    are. Other code gets the sandbox by `await self.sandbox()`.

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

    Args:
        backend: `auto`, or a name or reference that `agentrl.sandbox.make_backend` knows.
        backend_options: what that backend takes, such as `{"unsafe": True}` for `subprocess`.
    """

    # Long, because a model decides how long its programs run: within the limits of the sandbox.
    tool_timeout_s: ClassVar[float] = 600.0
    sandbox_limits: ClassVar[SandboxLimits] = SandboxLimits()
    sandbox_network: ClassVar[Network] = Network()
    sandbox_read_only: ClassVar[tuple[str, ...]] = ()
    not_state: ClassVar[tuple[str, ...]] = ("_pool", "_lent", "_on_drop", "_opening", "_content", "_tools")
    _content = Content()
    _lent: Sandbox | None
    _on_drop: weakref.finalize[..., SandboxEnv] | None = None

    def __init__(
        self,
        *,
        backend: str = "auto",
        backend_options: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode=render_mode)
        self._tools |= {made.name: made.bound_to(self) for made in self.extra_tools if _takes_self(made.function)}
        self._backend, self._backend_options = backend, dict(backend_options or {})
        self._pool: Pool | None = None
        self._lent = None
        self._opening = asyncio.Lock()

    # What an author calls.

    def put_files(self, files: Mapping[str, bytes]) -> None:
        """Set what the work folder holds when the episode begins; to be called in `start`."""
        self._content = Content(dict(files))

    async def sandbox(self) -> Sandbox:
        """The episode's sandbox, in its present state; a new one with the files of the beginning if it was lost.

        Raises: SandboxFault if none can be started.
        """
        async with self._opening:
            if self._lent is not None and self._lent.lost:
                await self._give_back()
                self._content = self._content.of_the_beginning
            if self._lent is None:
                self._lent = await self._opened()
            return self._lent

    async def run_cell(self, code: str, limits: SandboxLimits | None = None) -> ExecResult:
        """Run a cell of the episode's notebook, and record it, so that a fork can run it again.

        Args:
            code: Python; it sees the variables of earlier cells.
            limits: limits of this cell; None: those of the sandbox.
        Raises: SandboxError for code that cannot be sent; SandboxFault if the sandbox failed.
        """
        sandbox = await self.sandbox()
        result = (await sandbox.run_python(code, session=_SESSION, limits=limits)).checked()
        kept = () if _LOST in result.detail else (*self._content.cells, code)
        self._content = replace(self._content, cells=kept)
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
        await self._give_back()
        self._opening = asyncio.Lock()
        self._content = Content()
        return await super().areset(seed=seed, options=options)

    async def astep(self, action: Any) -> StepResult:
        try:
            result = await super().astep(action)
        except SandboxError as error:
            result = self._failed(error)
        if result[2] or result[3]:
            await self._give_back()
        return result

    def _failed(self, error: SandboxError) -> StepResult:
        """The end of an episode that cannot be scored for what the model did in its sandbox."""
        self._over, self.success = True, False
        self.ending = Ending("error", f"the episode cannot be scored: {error}")
        info = {
            "task_id": self.task.id,
            "reward_components": dict.fromkeys(self.rubric.weights, 0.0),
            "tool_stats": {name: dict(stats) for name, stats in self.tool_stats.items()},
            "success": False,
        }
        return (), 0.0, True, False, info

    async def aclose(self) -> None:
        await self._give_back()
        await super().aclose()

    # State.

    async def aget_state(self) -> dict[str, Any]:
        content = self._content
        if self._lent is not None:
            try:
                content = replace(content, snapshot=await self._lent.snapshot())
            except SandboxLost:
                content = content.of_the_beginning
        return {**super().get_state(), "extra": content}

    async def aset_state(self, state: Mapping[str, Any]) -> None:
        await self._give_back()
        self._opening = asyncio.Lock()
        super().set_state({**state, "extra": None})
        self._content = state["extra"]

    def get_state(self) -> dict[str, Any]:
        return self._drive(self.aget_state())

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._drive(self.aset_state(state))

    # Lending.

    async def _opened(self) -> Sandbox:
        try:
            try:
                return await self._filled()
            except SandboxLost as error:  # by the cells of a fork, which the model is not told
                logger.warning("a fork begins with the files of the beginning: %s", error)
                self._content = self._content.of_the_beginning
                return await self._filled()
        except SandboxError as error:
            raise EnvFault(f"the sandbox cannot be made: {error}", who="author") from error

    async def _filled(self) -> Sandbox:
        """A sandbox with the episode's content. Raises: SandboxLost if its cells bring the sandbox down."""
        if self._pool is None:
            spec = SandboxSpec(
                limits=self.sandbox_limits, network=self.sandbox_network, read_only=self.sandbox_read_only
            )
            self._pool = pool_of(self._backend, self._backend_options, spec)
        sandbox: Sandbox = await self._pool.lend()
        try:
            await self._fill(sandbox)
        except BaseException:
            await self._pool.take_back(sandbox)
            raise
        # An environment that is garbage-collected without `close` must not keep its sandbox.
        self._on_drop = weakref.finalize(self, self._pool.on_drop(), sandbox)
        self._on_drop.atexit = False
        return sandbox

    async def _fill(self, sandbox: Sandbox) -> None:
        content = self._content
        if content.snapshot is not None:
            await sandbox.restore(content.snapshot)
        else:
            for path, text in content.files.items():
                await sandbox.write(path, text)
        for cell in content.cells:
            if (await sandbox.run_python(cell, session=_SESSION)).checked().status == "lost":
                raise SandboxLost("a cell of the notebook brought the sandbox down")

    async def _give_back(self) -> None:
        sandbox, self._lent = self._lent, None
        if sandbox is not None and self._pool is not None:
            if self._on_drop is not None:
                self._on_drop.detach()
            await self._pool.take_back(sandbox)


def _takes_self(function: Callable[..., Any]) -> bool:
    """Whether a tool's function is written like a method, so that an instance must be bound to it."""
    return inspect.isfunction(function) and next(iter(inspect.signature(function).parameters), "") == "self"

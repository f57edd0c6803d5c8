"""`SandboxEnv`: a `ToolEnv` in which each episode has its own sandbox. Owns when it is lent, filled and saved.

An episode gets a sandbox when it first needs one and gives it back at its end, so an episode that runs no code uses
none. `agentrl.sandbox` owns the isolation.
"""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from agentrl.env.base import Observation, StepResult
from agentrl.env.tool_env import ToolEnv
from agentrl.sandbox.base import (
    ExecResult,
    Network,
    Sandbox,
    SandboxError,
    SandboxFault,
    SandboxLimits,
    SandboxSpec,
    Snapshot,
)
from agentrl.sandbox.pool import Pool, pool_of

# The session that all notebook cells of an episode share, and the words in a result's detail if it has been lost.
_SESSION = "main"
_LOST = "session is lost"


@dataclass(frozen=True)
class Content:
    """What an episode's work folder and notebook hold.

    Attributes:
        files: path -> content, written into an empty folder; ignored if there is a snapshot.
        snapshot: the folder as it was saved.
        cells: notebook cells that ran since the episode began; they run again to restore the variables.
    """

    files: Mapping[str, bytes]
    snapshot: Snapshot | None = None
    cells: tuple[str, ...] = ()


class SandboxEnv(ToolEnv):
    """Base class of environments with a sandbox: write `start`, `score` and the tools as for a `ToolEnv`.

    Call `put_files` in `start`. The tools in `extra_tools` whose function takes `self` are bound to the instance, so
    that those of `agentrl.tools.shell`, `python_session` and `work_files` find the sandbox; the others stay as they
    are. Other code gets the sandbox by `await self.sandbox()`.

    Saving and forking take time, so inside an event loop use `await env.aget_state()`, `aset_state` and `afork`.
    A fork has exactly the same files; a notebook's variables are restored by running its cells again.

    Class attributes:
        sandbox_limits: limits of every sandbox of this class.
        sandbox_network: what programs may reach; by default nothing.

    Args:
        backend: `auto`, or a name or reference that `agentrl.sandbox.make_backend` knows.
        backend_options: what that backend takes, such as `{"unsafe": True}` for `subprocess`.
    """

    sandbox_limits: ClassVar[SandboxLimits] = SandboxLimits()
    sandbox_network: ClassVar[Network] = Network()
    not_state: ClassVar[tuple[str, ...]] = ("_pool", "_lent", "_on_drop", "_opening", "_content", "_tools")
    _content = Content({})
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
        """The episode's sandbox, in its present state. Raises: SandboxFault if none can be started."""
        async with self._opening:
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
        content = self._content
        kept = () if _LOST in result.detail else (*content.cells, code)
        self._content = Content(content.files, content.snapshot, kept)
        return result

    async def start_over(self) -> Sandbox:
        """The sandbox, after ending every session and emptying its folder; for grading."""
        sandbox = await self.sandbox()
        await sandbox.reset()
        return sandbox

    # The contract.

    async def areset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        await self._give_back()
        self._opening = asyncio.Lock()
        self._content = Content({})
        return await super().areset(seed=seed, options=options)

    async def astep(self, action: Any) -> StepResult:
        result = await super().astep(action)
        if result[2] or result[3]:
            await self._give_back()
        return result

    async def aclose(self) -> None:
        await self._give_back()
        await super().aclose()

    # State.

    async def aget_state(self) -> dict[str, Any]:
        content = self._content
        if self._lent is not None:
            content = Content({}, await self._lent.snapshot(), content.cells)
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
        if self._pool is None:
            spec = SandboxSpec(limits=self.sandbox_limits, network=self.sandbox_network)
            self._pool = pool_of(self._backend, self._backend_options, spec)
        sandbox: Sandbox = await self._pool.lend()
        try:
            await self._fill(sandbox)
        except BaseException:
            await sandbox.close()
            await self._pool.take_back(sandbox)
            raise
        # An environment that is garbage-collected without `close` must not keep its sandbox.
        self._on_drop = weakref.finalize(self, self._pool.on_drop(), sandbox)
        self._on_drop.atexit = False
        return sandbox

    async def _fill(self, sandbox: Sandbox) -> None:
        content = self._content
        try:
            if content.snapshot is not None:
                await sandbox.restore(content.snapshot)
            else:
                for path, text in content.files.items():
                    await sandbox.write(path, text)
            for cell in content.cells:
                (await sandbox.run_python(cell, session=_SESSION)).checked()
        except SandboxError as error:
            raise SandboxFault(f"the work folder cannot be filled: {error}") from error

    async def _give_back(self) -> None:
        sandbox, self._lent = self._lent, None
        if sandbox is not None and self._pool is not None:
            if self._on_drop is not None:
                self._on_drop.detach()
            await self._pool.take_back(sandbox)


def _takes_self(function: Callable[..., Any]) -> bool:
    """Whether a tool's function is written like a method, so that an instance must be bound to it."""
    return inspect.isfunction(function) and next(iter(inspect.signature(function).parameters), "") == "self"

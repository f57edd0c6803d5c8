"""Our sandbox as Harbor's environment: Harbor plays tasks that need no image, without Docker.

    harbor run --path tasks/hello --agent oracle --env agentrl.adapters.harbor.in_our_sandbox:OurSandbox

Harbor imports this module, in a Python where both packages are installed. Agents that Harbor would install inside, over
the network, cannot be: there is none. What a command leaves running ends with it, so agents that need tmux do not work
either. Agents that send single commands do.
"""

from __future__ import annotations

import asyncio
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentrl.adapters.harbor.dockerfile import read_tree
from agentrl.adapters.harbor.task_folder import HarborTask, read_task
from agentrl.adapters.harbor.verifier import inside, make_folders
from agentrl.sandbox.base import Sandbox, SandboxFault, SandboxLimits, SandboxSpec
from agentrl.sandbox.registry import make_backend

try:
    from harbor.environments.base import BaseEnvironment, ExecResult
    from harbor.environments.capabilities import EnvironmentCapabilities
except ImportError:  # only Harbor makes such environments; this module can be imported without it
    BaseEnvironment = object

LIMITS = SandboxLimits(
    wall_s=900.0, cpu_s=900.0, memory_bytes=2048 << 20, pids=256, disk_bytes=512 << 20, inodes=1 << 16
)
"""What an episode may use; a task's own sizes are not read."""
_TIMED_OUT = 124
_ROOT = (None, "root", 0, "0")


class OurSandbox(BaseEnvironment):  # type: ignore[misc]  # Harbor's types are not installed where this is checked
    """A Harbor environment in bubblewrap. The trial of a task that needs an image ends with TaskRefused."""

    _task: HarborTask
    _sandbox: Sandbox | None = None

    @staticmethod
    def type() -> str:
        return "agentrl"

    @property
    def capabilities(self) -> Any:
        return EnvironmentCapabilities(disable_internet=True)

    def _validate_definition(self) -> None:
        """Nothing: what fails here ends all trials of a job, so `start` looks at the task."""

    async def start(self, force_build: bool) -> None:
        """Start the sandbox. Raises: TaskRefused that says why the task cannot be played here."""
        self._task = await asyncio.to_thread(read_task, Path(self.environment_dir).parent)
        files = {inside(path): file.content for path, file in self._task.world.files.items()}
        links = {root: root for root in sorted(self._task.roots)}
        self._sandbox = await make_backend().start(SandboxSpec(limits=LIMITS, files=files, links=links))
        await make_folders(self._sandbox, self._task)

    async def stop(self, delete: bool) -> None:
        if self._sandbox is not None:
            await self._sandbox.close()
            self._sandbox = None

    async def exec(
        self,
        command: str,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        timeout_sec: int | None = None,
        user: str | int | None = None,
    ) -> Any:
        """Run a command as the sandbox's only user, whom Harbor takes for root.

        Raises: SandboxFault if the sandbox failed, or was lost: Harbor then records an exception, not a reward.
        """
        if self._resolve_user(user) not in _ROOT:
            raise ValueError(f"the sandbox has one user, and the command is for {user!r}")
        sandbox, world = self._running, self._task.world
        limits = replace(LIMITS, wall_s=float(timeout_sec)) if timeout_sec else None
        result = await sandbox.exec(
            ["bash", "-c", f"cd {shlex.quote(cwd or world.workdir)} && {{\n{command}\n}}"],
            env={**world.env, **(self._merge_env(env) or {})},
            limits=limits,
        )
        if result.checked().status == "lost":
            raise SandboxFault(f"the sandbox was lost: {result.detail}")
        code = _TIMED_OUT if result.status == "timeout" else result.exit_code
        told = f"{result.error_text}\n{result.detail}".strip() if result.detail else result.error_text
        return ExecResult(stdout=result.text, stderr=told, return_code=1 if code is None else code)

    async def upload_file(self, source_path: Path | str, target_path: str) -> None:
        content = await asyncio.to_thread(Path(source_path).read_bytes)
        await self._running.write(inside(target_path), content)

    async def upload_dir(self, source_dir: Path | str, target_dir: str) -> None:
        for path, file in (await asyncio.to_thread(read_tree, Path(source_dir))).items():
            await self._running.write(f"{inside(target_dir)}/{path}", file.content)

    async def download_file(self, source_path: str, target_path: Path | str) -> None:
        content = await self._running.read(inside(source_path))
        await asyncio.to_thread(_write, Path(target_path), content)

    async def download_dir(self, source_dir: str, target_dir: Path | str) -> None:
        top = inside(source_dir).rstrip("/") + "/"
        await asyncio.to_thread(Path(target_dir).mkdir, parents=True, exist_ok=True)
        for entry in await self._running.entries():
            if entry.kind == "file" and entry.path.startswith(top):
                await self.download_file(entry.path, Path(target_dir) / entry.path.removeprefix(top))

    @property
    def _running(self) -> Sandbox:
        if self._sandbox is None:
            raise RuntimeError("the environment has not been started")
        return self._sandbox


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)

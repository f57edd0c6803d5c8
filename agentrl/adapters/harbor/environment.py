"""Harbor's task folders as an environment: a shell in our sandbox, scored by the task's own tests.

What one folder holds belongs to `task_folder`, the tests' run to `verifier`. The tests come into the sandbox when the
agent has ended, and its solution only as commands of the oracle.
"""

from __future__ import annotations

import base64
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from agentrl.adapters.harbor.task_folder import HarborTask, find_tasks
from agentrl.adapters.harbor.verifier import inside, make_folders, verify
from agentrl.adapters.suite import splits_of
from agentrl.env.registry import register
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import call
from agentrl.errors import ConfigError
from agentrl.messages import Action, Message
from agentrl.sandbox.base import Sandbox, SandboxLimits
from agentrl.sandboxed.env import SandboxEnv
from agentrl.tool_schema import tool
from agentrl.tools.shell import run_command
from agentrl.trajectory import Task

logger = logging.getLogger(__name__)
_MIB = 1 << 20
_COMMAND_CHARS, _CHUNK_BYTES = 100_000, 60_000
"""The kernel takes 128 KiB as one argument of a program; a chunk is sent in base64."""


def folder_of_tasks(folder: str) -> tuple[dict[str, HarborTask], dict[str, str]]:
    """The tasks of a folder that can be played here, and why each other one cannot.

    They are read again when a file has changed.
    Raises: ConfigError if there is no folder, or if it holds no task that can be played; it names every refusal.
    """
    place = Path(folder).expanduser().resolve()
    if not place.is_dir():
        raise ConfigError(f"there is no folder {str(place)!r}: folder must name a Harbor task, or a folder of tasks")
    files = sorted(path for path in place.rglob("*") if path.is_file())
    return _read(place, tuple((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in files))


@lru_cache(maxsize=8)
def _read(place: Path, files: tuple[tuple[str, int, int], ...]) -> tuple[dict[str, HarborTask], dict[str, str]]:
    tasks, refused = find_tasks(place)
    reasons = "".join(f"\n  {name}: {why}" for name, why in refused.items())
    if not tasks and not refused:
        raise ConfigError(f"{str(place)!r} holds no Harbor task: neither it nor a folder in it has a task.toml")
    if not tasks:
        raise ConfigError(f"no Harbor task in {str(place)!r} can be played without an image:{reasons}")
    if refused:
        logger.warning("%d of %d Harbor tasks are left out:%s", len(refused), len(tasks) + len(refused), reasons)
    return tasks, refused


@register("suites/Harbor-v1", max_turns=30)
class Harbor(SandboxEnv):
    """A Harbor task folder that needs no image: a shell in our sandbox, scored by the task's tests.

    Reward: what tests/test.sh writes to /logs/verifier/reward.json (the value `reward`, else the mean) or reward.txt;
    0 if it writes none. An episode that a limit ends is scored, too.

    Args:
        folder: a task folder, or a folder of task folders.
        command_s: seconds of one command of the agent.
        train_share: share of the tasks in the split `train`.
        backend, backend_options: as for `SandboxEnv`; only bubblewrap shows the absolute paths of the tasks.
    """

    known_flaws = (
        "The sandbox holds the host's programs, not those of the task's image.",
        "Programs are not root and have no network.",
        "Tests run where the agent worked, as in Harbor's shared mode: what it left there can mislead weak tests.",
    )
    score_truncated = True
    tool_timeout_s: ClassVar[float] = 1200.0
    hook_timeout_s: ClassVar[float] = 1200.0
    not_state = ("tasks", "refused", "_found", "_ready")
    sandbox_limits: ClassVar[SandboxLimits] = SandboxLimits(
        wall_s=900.0, cpu_s=900.0, memory_bytes=2048 * _MIB, pids=256, disk_bytes=512 * _MIB, inodes=1 << 16
    )

    _ready: Sandbox | None

    def __init__(
        self, *, folder: str | None = None, command_s: float = 60.0, train_share: float = 0.0, **options: Any
    ) -> None:
        super().__init__(**options)
        if not command_s > 0:
            raise ValueError(f"command_s must be above 0, got {command_s!r}")
        self.command_s, self._ready = command_s, None
        self._found: Mapping[str, HarborTask] = {}
        self.refused: Mapping[str, str] = {}
        if folder is None:
            self.tasks = Tasks(_no_folder)
            return
        self._found, self.refused = folder_of_tasks(folder)
        self.sandbox_links = {root: root for task in self._found.values() for root in sorted(task.roots)}
        self.tasks = splits_of(((name, _data(task)) for name, task in self._found.items()), train_share)

    def start(self, task: Task) -> str:
        self._ready = None
        files = self._harbor.world.files
        self.put_files({inside(path): file.content for path, file in files.items()})
        return self._harbor.instruction

    @tool
    async def shell(self, command: str) -> str:
        """Run a bash command. Each call starts a new shell in the task's folder; files stay, variables do not.

        Args:
            command: for example ls -l.
        """
        world = self._harbor.world
        told: str = await run_command(
            await self._world(), command, wall_s=self.command_s, cwd=inside(world.workdir), env=world.env
        )
        return told

    async def score(self, answer: str | None) -> float:
        verdict = await verify(await self._world(), self._harbor)
        self.add_info(verifier=verdict.told, rewards=dict(verdict.rewards))
        return verdict.reward

    def oracle(self, messages: Sequence[Message]) -> Action:
        """Write the files of solution/ and run solve.sh; an empty answer if there is none."""
        commands = list(_solution(self._harbor))
        made = sum(message.role == "tool" for message in messages)
        return call("shell", command=commands[made]) if made < len(commands) else Action(text="done")

    @property
    def _harbor(self) -> HarborTask:
        return self._found[self.task.id]

    async def _world(self) -> Sandbox:
        """The sandbox, with what files alone do not make."""
        sandbox = await self.sandbox()
        if self._ready is not sandbox:
            await make_folders(sandbox, self._harbor)
            self._ready = sandbox
        return sandbox


def _no_folder() -> Mapping[str, Sequence[Task]]:
    raise ConfigError("suites/Harbor-v1 needs the argument folder: a Harbor task, or a folder of tasks")


def _data(task: HarborTask) -> dict[str, Any]:
    """The digest makes another task of one whose tests or files have changed."""
    return {"name": task.name, "instruction": task.instruction, "digest": task.digest}


def _solution(task: HarborTask) -> Iterator[str]:
    """Shell commands that write the files of the solution and run it."""
    if "solve.sh" not in task.solution:
        return
    lines: list[str] = []
    for line in _solution_lines(task):
        if sum(map(len, lines)) + len(line) > _COMMAND_CHARS:
            yield "\n".join(lines)
            lines = []
        lines.append(line)
    yield "\n".join(lines)


def _solution_lines(task: HarborTask) -> Iterator[str]:
    for name, file in task.solution.items():
        path = shlex.quote(f"/work/solution/{name}")
        yield f'mkdir -p "$(dirname {path})" && : > {path}'
        for begin in range(0, len(file.content), _CHUNK_BYTES):
            text = base64.b64encode(file.content[begin : begin + _CHUNK_BYTES]).decode("ascii")
            yield f"echo {text} | base64 -d >> {path}"
        if file.executable:
            yield f"chmod +x {path}"
    for name, value in task.solution_env.items():
        yield f"export {name}={shlex.quote(value)}"
    yield "chmod +x /solution/solve.sh && /solution/solve.sh"

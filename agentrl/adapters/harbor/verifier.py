"""Runs a task's tests in the sandbox where the agent worked, and reads the reward. Owns what it finds there."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agentrl.adapters.harbor.dockerfile import FileContent
from agentrl.adapters.harbor.task_folder import OWN_FOLDERS, HarborTask
from agentrl.sandbox.base import ExecResult, Sandbox, SandboxError

_REWARD_JSON, _REWARD_TEXT = "logs/verifier/reward.json", "logs/verifier/reward.txt"
_MAX_BYTES, _SHOWN = 1 << 16, 2000
_LOGS = ("logs/agent", "logs/artifacts", "logs/verifier")


@dataclass(frozen=True)
class Verdict:
    """What the tests said.

    Attributes:
        rewards: name -> number; empty if the tests wrote none.
        told: how the script ended, and the end of its output.
    """

    rewards: Mapping[str, float] = field(default_factory=dict)
    told: str = ""

    @property
    def reward(self) -> float:
        """The reward of that name, else the mean of all; 0 if there is none."""
        if "reward" in self.rewards:
            return self.rewards["reward"]
        return sum(self.rewards.values()) / len(self.rewards) if self.rewards else 0.0


def inside(path: str) -> str:
    """Where in the work folder an absolute path of a task stands."""
    return path.lstrip("/")


async def make_folders(sandbox: Sandbox, task: HarborTask) -> None:
    """Make what files alone do not make: empty folders, and the right to execute."""
    paths = {inside(path) for path in task.world.folders}
    (await sandbox.exec(["mkdir", "-p", "--", *sorted(paths), *_LOGS])).checked()
    await _make_executable(sandbox, {inside(path): file for path, file in task.world.files.items()})


async def verify(sandbox: Sandbox, task: HarborTask) -> Verdict:
    """Remove what the agent left in the verifier's folders, bring the tests, run them, and read the reward.

    Raises: SandboxError if the agent's files keep the tests out; SandboxFault if the sandbox failed.
    """
    (await sandbox.exec(["rm", "-rf", "--", *OWN_FOLDERS])).checked()
    left = [entry.path for entry in await sandbox.entries() if entry.path.split("/")[0] in OWN_FOLDERS]
    if left:
        raise SandboxError(f"{left[0]} cannot be removed, so the tests cannot be brought")
    tests = {f"tests/{path}": file for path, file in task.tests.items()}
    for path, file in tests.items():
        await sandbox.write(path, file.content)
    (await sandbox.exec(["mkdir", "-p", "--", inside(task.world.workdir), *_LOGS])).checked()
    await _make_executable(sandbox, {**tests, "tests/test.sh": FileContent(b"", True)})
    # HOME is not where the agent could put files that Python or a shell reads when it starts.
    env = {**task.world.env, "HOME": "/tests", **task.verifier_env}
    limits = replace(sandbox.spec.limits, wall_s=task.verifier_s)
    run = ["bash", "-c", "/tests/test.sh"]
    result = (await sandbox.exec(run, cwd=inside(task.world.workdir), env=env, limits=limits)).checked()
    return Verdict(await _rewards(sandbox), _told(result))


async def _make_executable(sandbox: Sandbox, files: Mapping[str, FileContent]) -> None:
    paths = [path for path, file in files.items() if file.executable]
    if paths:
        (await sandbox.exec(["chmod", "+x", "--", *paths])).checked()


async def _rewards(sandbox: Sandbox) -> dict[str, float]:
    """Empty if no file of rewards can be read. As in Harbor, reward.json comes first."""
    for path in (_REWARD_JSON, _REWARD_TEXT):
        try:
            text = (await sandbox.read(path, max_bytes=_MAX_BYTES)).decode("utf-8", "replace")
        except SandboxError:
            continue
        return parsed_rewards(text, as_json=path == _REWARD_JSON)
    return {}


def parsed_rewards(text: str, *, as_json: bool) -> dict[str, float]:
    """The rewards of a file: one number, or in JSON an object of numbers; empty where a value is no finite number."""
    try:
        found = json.loads(text) if as_json else float(text)
        named = found if isinstance(found, dict) else {"reward": found}
        if any(not isinstance(value, (int, float)) for value in named.values()):
            return {}
        rewards = {str(name): float(value) for name, value in named.items()}
    except (ValueError, OverflowError, RecursionError):
        return {}
    return rewards if all(map(math.isfinite, rewards.values())) else {}


def _told(result: ExecResult) -> str:
    end = f"exit code {result.exit_code}" if result.detail == "" else result.detail
    return f"{end}\n{(result.text + result.error_text)[-_SHOWN:]}".strip()

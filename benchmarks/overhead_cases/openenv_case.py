"""OpenEnv (`openenv`): a typed `Environment`, stepped in process and through its WebSocket server.

Run as a program, this module is the server, which serves 64 sessions on a port of the loopback.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import uvicorn
from openenv.core import EnvClient
from openenv.core.client_types import StepResult
from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app
from pydantic import Field

from overhead_cases.bare import record
from overhead_cases.lockstep import run_lockstep
from overhead_cases.task import CONCURRENCY, TOOLS, Problem, read_transcripts

read = read_transcripts


class LedgerAction(Action):
    """A call where `name` is set, the answer otherwise."""

    name: str = ""
    arguments: dict[str, Any] = Field(default_factory=dict)
    answer: str = ""


class LedgerObservation(Observation):
    text: str = ""


class Ledger(Environment[LedgerAction, LedgerObservation, State]):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._state = State()

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, prompt: str = "", answer: str = "", **_: Any
    ) -> LedgerObservation:
        self._state = State(episode_id=episode_id, step_count=0)
        self._answer = answer
        return LedgerObservation(text=prompt)

    def step(self, action: LedgerAction, timeout_s: float | None = None, **_: Any) -> LedgerObservation:
        self._state.step_count += 1
        if action.name:
            return LedgerObservation(text=TOOLS[action.name](**action.arguments), reward=0.0)
        return LedgerObservation(done=True, reward=1.0 if action.answer == self._answer else 0.0)

    @property
    def state(self) -> State:
        return self._state


def _action(call: str) -> LedgerAction:
    return LedgerAction(**json.loads(call)) if call.startswith("{") else LedgerAction(answer=call)


# In process.


def run(problems: Sequence[Problem], path: Path) -> None:
    run_lockstep(problems, path, _make, _step, "calls")


def _make(problem: Problem) -> Ledger:
    env = Ledger()
    env.reset(seed=problem.id, prompt=problem.prompt, answer=problem.answer)
    return env


def _step(env: Ledger, call: str) -> tuple[str, float, bool]:
    observation = env.step(_action(call))
    return observation.text, float(observation.reward or 0.0), observation.done


# Through the socket.


class LedgerClient(EnvClient[LedgerAction, LedgerObservation, State]):
    def _step_payload(self, action: LedgerAction) -> dict[str, Any]:
        return action.model_dump()

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[LedgerObservation]:
        observation = LedgerObservation(**payload["observation"])
        return StepResult(observation=observation, reward=payload.get("reward"), done=payload.get("done", False))

    def _parse_state(self, payload: dict[str, Any]) -> State:
        return State(**payload)


_server: subprocess.Popen[bytes] | None = None
_port = 0


def other_cpu_s() -> float:
    """CPU seconds of the server process, to be counted with this one's."""
    if _server is None:
        return 0.0
    times = psutil.Process(_server.pid).cpu_times()
    return times.user + times.system


def start_server() -> None:
    global _server, _port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        _port = probe.getsockname()[1]
    here = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "PYTHONPATH": str(here)}
    command = [sys.executable, "-m", "overhead_cases.openenv_case", str(_port), str(os.getpid())]
    _server = subprocess.Popen(command, env=environment)
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", _port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError("the OpenEnv server did not start within 60 s")


def close() -> None:
    if _server is not None:
        _server.terminate()
        _server.wait(10)


def run_socket(problems: Sequence[Problem], path: Path) -> None:
    asyncio.run(_run_socket(problems, path))


async def _run_socket(problems: Sequence[Problem], path: Path) -> None:
    waiting = iter(problems)
    with path.open("w") as file:
        await asyncio.gather(*(_session(waiting, file) for _ in range(CONCURRENCY)))


async def _session(waiting: Any, file: Any) -> None:
    """One connection plays episode after episode."""
    async with LedgerClient(base_url=f"http://127.0.0.1:{_port}") as client:
        for problem in waiting:
            await client.reset(seed=problem.id, prompt=problem.prompt, answer=problem.answer)
            messages = [{"role": "user", "content": problem.prompt}]
            for call in problem.calls:
                messages.append({"role": "assistant", "content": call})
                result = await client.step(_action(call))
                if not result.done:
                    messages.append({"role": "tool", "content": result.observation.text})
            record(file, problem, messages, result.reward or 0.0)


def _serve(port: int, parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    app = create_fastapi_app(Ledger, LedgerAction, LedgerObservation, max_concurrent_envs=CONCURRENCY)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error")


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))

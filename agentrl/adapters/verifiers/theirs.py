"""An environment of verifiers as an `Env`: its tasks, tools, users and rewards (`pip install verifiers==0.4.0`).

A rollout of verifiers runs in this process; its model is a server here, whose turns are the actions that this
environment is given. verifiers has no reward of a turn and no notion of success: the reward comes at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import verifiers.v1 as vf
from verifiers.v1.utils.loaders import load_environment, load_taskset, resolve_env_config

from agentrl.adapters.verifiers.relay import Relay, Rewritten
from agentrl.env.base import Env, Observation, StepResult, as_action
from agentrl.env.tasks import Tasks
from agentrl.errors import ConfigError, EnvFault
from agentrl.messages import Message
from agentrl.trajectory import Ending

HARNESS = "agentrl_loop"
_HELD_OUT = 5
_LIMITS = ("max_turns", "max_input_tokens", "max_output_tokens", "max_total_tokens")


class VerifiersEnv(Env):
    """One rollout of an environment of verifiers for each episode, with one agent.

    Args:
        taskset: the id of an installed taskset.
        settings: of the taskset, as under `[env.taskset]`.
        evaluated: settings that differ for the split `eval`, such as another split of the data; without them every
            fifth task is in `eval`.
        harness: the id of the program that the agent is; by default a loop of ours with the taskset's tools.
        runtime: where programs and tools run, as verifiers names it.
        num_tasks: read from a taskset at most.
        seed_field: a field of a task's data that the seed of each episode goes into; verifiers has no seeds of its own.
    """

    can_fork = False
    not_state: ClassVar[tuple[str, ...]] = ("tasks", "_rows", "_rollout", "_relay")

    def __init__(
        self,
        taskset: str = "",
        *,
        settings: Mapping[str, Any] | None = None,
        evaluated: Mapping[str, Any] | None = None,
        harness: str = HARNESS,
        runtime: str = "subprocess",
        num_tasks: int = 1000,
        seed_field: str = "",
        render_mode: str | None = None,
    ) -> None:
        super().__init__(render_mode=render_mode)
        if not taskset or num_tasks < 1:
            raise ConfigError(f"expected the id of a taskset and num_tasks from 1 on, got {taskset!r}, {num_tasks}")
        self._agent = {"harness": {"id": harness}, "runtime": {"type": runtime}}
        self._configs = {"train": {"id": taskset, **(settings or {})}}
        if evaluated is not None:
            self._configs["eval"] = {**self._configs["train"], **evaluated}
        self._rows: dict[str, Any] = {}
        self._seed_field = seed_field
        self.tasks = self._read(num_tasks)
        self._relay: Relay | None = None
        self._rollout: asyncio.Task[Any] | None = None
        self._turn, self._is_over = 0, True

    def _read(self, most: int) -> Tasks:
        found: dict[str, list[dict[str, Any]]] = {"train": [], "eval": []}
        for split, config in self._configs.items():
            env = resolve_env_config({"taskset": dict(config)})
            for number, task in enumerate(load_taskset(env.taskset).take(most)):
                held_out = "eval" not in self._configs and number % _HELD_OUT == _HELD_OUT - 1
                name = task.data.id or task.data.name or str(number)
                found["eval" if held_out else split].append({"id": name, "key": task.key, "config": split})
                self._rows[task.key] = task
        return Tasks.of(**{split: rows for split, rows in found.items() if rows})

    @property
    def tool_schemas(self) -> Sequence[Mapping[str, Any]]:
        return self._relay.tools if self._relay is not None else ()

    async def areset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        task = self._begin(seed, options)
        await self.aclose()
        self._relay, self._turn, self._is_over = await Relay().__aenter__(), 0, False
        row = self._rows[task.data["key"]]
        if self._seed_field:
            row = row.with_data(**{self._seed_field: seed or 0})
        self._rollout = asyncio.create_task(self._played(row, task.data["config"], self._relay.url))
        messages = await self._heard()
        if messages is None:
            raise EnvFault(f"the rollout of verifiers ended before it asked the model: {self._failure()}", who="author")
        return messages, {"task_id": task.id}

    async def _played(self, row: Any, config: str, url: str) -> Any:
        """The rollout from its start to its end, in one task. Returns: its episode."""
        limits = {name: value for name in _LIMITS if (value := getattr(self.limits, name, None)) is not None}
        env = load_environment(
            resolve_env_config({"taskset": dict(self._configs[config]), "agent": {**self._agent, **limits}})
        )
        client = vf.EvalClientConfig(base_url=url, api_key_var="AGENTRL_NO_KEY")
        async with env.serving():
            (slot,) = env.slots(row)
            return await env.run_slot(slot, vf.ModelContext(model="agentrl", client=client))

    async def _heard(self) -> tuple[Message, ...] | None:
        """What the model reads next; None if the rollout has ended. Raises: EnvFault."""
        assert self._relay is not None
        assert self._rollout is not None
        heard = asyncio.ensure_future(self._relay.heard())
        await asyncio.wait({heard, self._rollout}, return_when=asyncio.FIRST_COMPLETED)
        if not heard.done():
            heard.cancel()
            return None
        try:
            return heard.result()
        except Rewritten as error:
            raise EnvFault(str(error), who="author") from error

    async def astep(self, action: Any) -> StepResult:
        if self._is_over or self._relay is None:
            raise RuntimeError("the episode is over (or never began): call reset before step")
        self._turn += 1
        self._relay.say(as_action(action))
        messages = await self._heard()
        if messages is not None:
            return messages, 0.0, False, False, {"task_id": self.task.id}
        self._is_over = True
        return self._end()

    def _end(self) -> StepResult:
        """The reward of the finished rollout. Raises: EnvFault if it failed."""
        failure = self._failure()
        if failure:
            raise EnvFault(f"the rollout of verifiers failed: {failure}", who="author")
        assert self._rollout is not None
        (trace,) = self._rollout.result().traces
        stopped = trace.stop_condition in _LIMITS
        self.ending = Ending("limit", trace.stop_condition) if stopped else Ending("environment")
        components = {name: r.score * r.weight for name, r in trace.rewards.items() if r is not None}
        info = {"task_id": self.task.id, "reward_components": components, "metrics": dict(trace.metrics)}
        return (), float(trace.reward), not stopped, stopped, info

    def _failure(self) -> str:
        assert self._rollout is not None
        if self._rollout.cancelled() or (error := self._rollout.exception()) is not None:
            return "it was cancelled" if self._rollout.cancelled() else f"{type(error).__name__}: {error}"
        episode = self._rollout.result()
        errors = [*episode.errors, *(e for trace in episode.traces for e in trace.errors)]
        if len(episode.traces) != 1 and not errors:
            return f"it has {len(episode.traces)} agents; one is expected"
        return "" if episode.ok else f"{errors[-1].type}: {errors[-1].message}" if errors else "it did not end well"

    async def aclose(self) -> None:
        rollout, self._rollout = self._rollout, None
        relay, self._relay = self._relay, None
        if rollout is not None and not rollout.done():
            rollout.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await rollout
        if relay is not None:
            await relay.__aexit__()

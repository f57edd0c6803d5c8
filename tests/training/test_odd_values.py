"""Values that are not plain JSON, and text that is not Unicode, do not end a run; its files stay readable."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agentrl.bench.views.run_report import write_report
from agentrl.env.registry import register
from agentrl.env.tool_env import call
from agentrl.messages import Action, Message, ToolCall
from agentrl.rollout.replay import replay_store
from agentrl.rollout.store import TrajectoryStore
from agentrl.tool_schema import tool
from agentrl.training.folder import RunFolder
from agentrl.training.settings import EnvConfig
from agentrl.training.stages.base import Context, Stage, StageSettings, Step
from agentrl.training.train import resume, train
from agentrl.trajectory import EnvRef, Labels, Task, Trajectory, Turn
from tests.training.test_preflight import CONFIG, STAGES, Ask
from tests.training.test_run_folder import stop_at


def valid_json(text: str) -> Any:
    def constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=constant)


@dataclass
class Room:
    name: str


@register("test/AskOdd-v0")
class AskOdd(Ask):
    """Say the price; the info holds anything."""

    async def astep(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = await super().astep(action)
        odd = {
            "success": np.bool_(reward > 0),
            "loss": np.float32("nan"),
            "seen": np.arange(3),
            "raw": b"\xff",
            "tags": {"b", "a"},
            "room": Room("hall"),
            "day": date(2026, 11, 26),
            "where": Path("x"),
            "half": "\ud800",
            "self": self,
            2: object(),
        }
        return observation, np.float64(reward), np.bool_(terminated), np.bool_(truncated), {**info, **odd}


@dataclass(frozen=True)
class Odd(StageSettings):
    """A stage whose metrics and summary are not plain JSON."""

    def stage(self, name: str) -> Stage:
        return _OddStage(name)


class _OddStage(Stage):
    async def steps(self, context: Context) -> AsyncIterator[Step]:
        if not self.step:
            self.step = 1
            metrics: Mapping[str, Any] = {"a/b": np.float32(0.5), "a/nan": np.float64("nan"), "a/\ud800": 1.0}
            yield Step(1, 1, metrics)

    def summary(self) -> dict[str, Any]:
        return {"tags": {"b", "a"}, "nan": np.float32("nan"), "half": "\ud800", "raw": b"x", "client": object()}


ODD = replace(
    CONFIG,
    env=EnvConfig("test/AskOdd-v0"),
    stages={"warm_start": STAGES["warm_start"], "odd": Odd(), "rl": STAGES["rl"], "after": STAGES["after"]},
)


def test_a_run_with_odd_values_ends_resumes_and_replays(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(ODD, run, on_progress=stop_at("rl", 1))
    summary = resume(run)
    assert summary["stages"]["odd"] == {
        **{"tags": ["a", "b"], "half": "\ud800", "raw": "x", "client": "<builtins.object>"},
        "nan": pytest.approx(float("nan"), nan_ok=True),
    }
    assert valid_json((run / "summary.json").read_text())["stages"]["odd"]["nan"] is None
    lines = [valid_json(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    odd = next(line for line in lines if line["stage"] == "odd")
    assert (odd["a/b"], odd["a/nan"], odd["a/\ud800"]) == (0.5, None, 1.0)
    episodes = list(TrajectoryStore(run / "trajectories.jsonl"))
    assert {t.status for t in episodes} <= {"terminated", "truncated"}
    assert {t.info["tags"] == ["a", "b"] and t.info["day"] == "2026-11-26" for t in episodes} == {True}
    found = replay_store(run / "trajectories.jsonl")
    assert set(found.counts) == {"same"}


def test_half_a_character_in_every_text_of_a_record_is_stored_and_reported(tmp_path: Path) -> None:
    half = "half \ud800 a \udfff character"
    folder = RunFolder.create(tmp_path / "run", "")
    folder.log("rl", 1, 1, 0.5, {"rollout/success": 0.5, f"loss/{half}": 1.0})
    turn = Turn(
        (Message("user", half),),
        Action(half, (ToolCall(half, {half: [half]}, half, half),), half),
        1.0,
        {half: 1.0},
        (Message("tool", half, (), half, half),),
        half,
    )
    with TrajectoryStore(folder.trajectories_path) as store:
        for stage in ("before", "rl", "after"):
            labels = Labels(stage, mode="greedy")
            info = {half: half, "tool_stats": {half: {"calls": 1}}}
            env, task = EnvRef(half, {half: half}), Task(half, half, {half: half})
            store.append(Trajectory(env, task, 1, [turn], episode_id=half, labels=labels, info=info))
    (read,) = store.read(stage="rl")
    assert read.turns == [turn]
    folder.write_summary({"env": {"id": half}, "seed": 0})
    folder.close()
    page = write_report(folder.path).read_text(encoding="utf-8")
    assert r"half \ud800 a \udfff character" in page
    assert json.loads(folder.summary_path.read_text())["env"]["id"] == half


@register("test/AskHalf-v0")
class AskHalf(Ask):
    """Say the price; every text of the environment holds half a character."""

    def start(self, task: Any) -> str:
        return "What \ud800 does it cost?"

    @tool
    def price(self) -> str:
        """The price."""
        return f"{self.task.data['n']} \udfff"

    def oracle(self, messages: Any) -> Any:
        return "half \ud800" if messages[-1].role == "tool" else call("price")


def test_half_a_character_in_messages_ends_neither_a_run_nor_its_resuming(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = replace(CONFIG, env=EnvConfig("test/AskHalf-v0"))
    with pytest.raises(KeyboardInterrupt):
        train(config, run, on_progress=stop_at("rl", 1))
    assert resume(run)["steps"] == 2
    assert (run / "report.html").exists()
    found = replay_store(run / "trajectories.jsonl")
    assert set(found.counts) == {"same"}

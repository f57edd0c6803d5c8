"""A run and a record whose episodes an agent's own program plays."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from agentrl.bench.result import BenchConfig
from agentrl.bench.runner import run_bench
from agentrl.cli import main
from agentrl.config import load_config
from agentrl.env import registry
from agentrl.errors import ConfigError, EnvNotFound, RolloutError
from agentrl.policy.base import SamplingParams
from agentrl.policy.by_name import PolicySetup
from agentrl.rollout.store import TrajectoryStore
from agentrl.serving.capture.settings import AgentConfig
from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.stages.evaluate import Evaluate
from agentrl.training.stages.playing import GrowingTurns, Playing
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.train import train
from agentrl.trajectory import EnvRef
from tests.serving.conftest import CONFIG, ENV

PROGRAM = f"{sys.executable} {Path(__file__).parent / 'agent_program.py'}"


def config(folder: Path, agent: AgentConfig) -> TrainConfig:
    stages = {
        "rl": Reinforce(steps=1, playing=Playing(prompts_per_step=3, group_size=4)),
        "after": Evaluate(num_tasks=2),
    }
    return replace(CONFIG, model=ModelConfig(path=str(folder)), stages=stages, agent=agent)


def test_a_step_is_learnt_from_the_turns_of_a_program(folder: Path, tmp_path: Path) -> None:
    hot = config(folder, AgentConfig(PROGRAM, processes=2))
    hot = replace(hot, sampling=replace(hot.sampling, temperature=1.6))
    summary = train(hot, tmp_path / "run")
    episodes = [t for t in TrajectoryStore(tmp_path / "run" / "trajectories.jsonl") if t.labels.stage == "rl"]
    assert len(episodes) == 12
    assert {t.env.id for t in episodes} == {f"capture:{ENV}"}
    assert {t.status for t in episodes} <= {"terminated", "truncated"}
    assert len({t.reward for t in episodes}) > 1
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    (step,) = [found for line in lines if (found := json.loads(line))["stage"] == "rl"]
    assert step["update/ratio_mean"] == pytest.approx(1.0, abs=1e-5)
    assert step["update/approx_kl"] == pytest.approx(0.0, abs=1e-5)
    assert summary["after"]["n_tasks"] == 2


def test_what_a_program_does_is_recorded_as_a_benchmark(folder: Path, tmp_path: Path) -> None:
    measured = BenchConfig(
        num_tasks=2, sampling=SamplingParams(0, max_tokens=40), references=False, agent=AgentConfig(PROGRAM)
    )
    result = run_bench(ENV, f"local:{folder}", config=measured, out=tmp_path / "records")
    assert result.score.success.mean == 1.0
    again = run_bench(ENV, f"local:{folder}", config=measured, out=tmp_path / "records")
    assert again.score.success.mean == 1.0
    assert len(list(TrajectoryStore(tmp_path / "records" / "trajectories.jsonl"))) == 2  # nothing was played twice


def test_a_crash_after_the_model_spoke_is_a_failure(folder: Path, tmp_path: Path) -> None:
    measured = BenchConfig(num_tasks=2, references=False, agent=AgentConfig(f"{PROGRAM} --crash"))
    result = run_bench(ENV, f"local:{folder}", config=measured, out=tmp_path / "records")
    assert (result.score.success.mean, result.score.counts.scored) == (0.0, 2)
    (first, *_) = TrajectoryStore(tmp_path / "records" / "trajectories.jsonl")
    assert (first.ending.kind, first.ending.who) == ("error", "author")
    assert "I cannot read this" in first.ending.detail


def test_a_program_that_asks_for_nothing_is_never_scored(folder: Path) -> None:
    measured = BenchConfig(num_tasks=1, references=False, agent=AgentConfig(f"{PROGRAM} --early"))
    with pytest.raises(RolloutError, match="no settings found"):
        run_bench(ENV, f"local:{folder}", config=measured)


def test_a_context_that_is_too_small_is_named(folder: Path) -> None:
    measured = BenchConfig(num_tasks=1, references=False, agent=AgentConfig(PROGRAM))
    with pytest.raises(RolloutError, match=r"too long for a context of 8 tokens \(model\.max_context"):
        run_bench(ENV, f"local:{folder}", config=measured, setup=PolicySetup(local={"max_context": 8}))


def test_forks_are_refused(folder: Path, tmp_path: Path) -> None:
    stage = Reinforce(playing=Playing(growing_turns=GrowingTurns(), branches=2))
    wrong = replace(config(folder, AgentConfig(PROGRAM)), stages={"rl": stage})
    with pytest.raises(ConfigError, match=r"stages\.rl\.playing\.branches"):
        train(wrong, tmp_path / "run")
    with pytest.raises(ValueError, match="command must name a program"):
        AgentConfig(" ")


def test_the_command_records_a_program_by_its_exit_status(folder: Path, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"text": "Lamp 1?"}\n{"text": "Lamp 2?"}\n')
    program = tmp_path / "asks.py"
    program.write_text(ASKS)
    words = ("--agent", f"{sys.executable} {program}", "--tasks", str(tasks), "--out", str(tmp_path / "out"), "--json")
    done = CliRunner().invoke(main, ["capture", str(folder), *words], catch_exceptions=False)
    result = json.loads(done.stdout)
    assert (result["success"]["mean"], result["n_episodes"]) == (0.5, 2)
    (page,) = _reported(tmp_path / "out")
    assert "capture:agentrl.serving.capture.tasks:AgentTasks" in page.read_text()
    with pytest.raises(EnvNotFound, match="cannot be made here"):
        registry.make(next(iter(TrajectoryStore(tmp_path / "out" / "trajectories.jsonl"))).env)
    replayed = CliRunner().invoke(main, ["replay", str(tmp_path / "out")])
    assert replayed.exit_code != 0
    assert "own program played these episodes" in replayed.stderr


def test_the_command_trains_with_a_configuration(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "lamp.toml"
    file.write_text(
        'seed = 3\n[agent]\ncommand = "false"\ntimeout_s = 50\n'
        f'[env]\nid = "{ENV}"\n[model]\npath = "{folder}"\n[run]\nevaluate_every = 0\n'
        '[stages.rl]\nkind = "reinforce"\nsteps = 1\nplaying = { prompts_per_step = 1, group_size = 2 }\n'
    )
    words = ("--agent", PROGRAM, "--processes", "1", "--out", str(tmp_path / "run"))
    done = CliRunner().invoke(main, ["capture", str(file), *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    used = load_config(TrainConfig, tmp_path / "run" / "config.toml")
    assert (used.seed, used.agent) == (3, AgentConfig(PROGRAM, 1, timeout_s=50))  # what was not given stays the file's
    wrong = CliRunner().invoke(main, ["capture", str(file), "--env", ENV])
    assert "--env goes with a MODEL" in wrong.stderr


def test_a_reward_that_nobody_gives_is_a_fault(folder: Path, tmp_path: Path) -> None:
    tasks = EnvRef("agentrl.serving.capture.tasks:AgentTasks", {"reward": "http://127.0.0.1:9/none"})
    program = tmp_path / "asks.py"
    program.write_text(ASKS)
    measured = BenchConfig("train", references=False, agent=AgentConfig(f"{sys.executable} {program}"))
    with pytest.raises(RolloutError, match="gave no reward"):
        run_bench(tasks, f"local:{folder}", config=measured)


ASKS = """
import json, os, sys, urllib.request
body = json.dumps({"model": "any", "messages": [{"role": "user", "content": os.environ["AGENTRL_TASK"] or "Lamp?"}]})
headers = {"authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "content-type": "application/json"}
request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body.encode(), headers)
urllib.request.urlopen(request).read()
sys.exit(os.environ["AGENTRL_TASK"] == "Lamp 2?")
"""


def _reported(folder: Path) -> list[Path]:
    done = CliRunner().invoke(main, ["report", str(folder), "--out", str(folder / "page.html")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return list(folder.glob("page.html"))

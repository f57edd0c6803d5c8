"""Models as two families publish them, through training and benchmark: tokens stay exactly as they were sampled."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from agentrl.cli import main
from agentrl.learning.learner import LearnerSettings
from agentrl.learning.optimizers import Schedule
from agentrl.learning.rows import rows_of_trajectory
from agentrl.policy.format.choice import chat_format
from agentrl.policy.format.template import message_for_template
from agentrl.policy.model_folder import load
from agentrl.rollout.store import TrajectoryStore
from agentrl.training.model_setup import ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.settings import EnvConfig, RunConfig, SamplingConfig
from agentrl.training.stages.evaluate import Evaluate
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import train
from agentrl.trajectory import Trajectory
from tests.policy import families

pytestmark = pytest.mark.slow
MAX_CONTEXT = 1500


def config(model: Path) -> TrainConfig:
    return TrainConfig(
        env=EnvConfig("agentrl/Calculator-v0", max_turns=4),
        model=ModelConfig(path=str(model), max_context=MAX_CONTEXT, slots=6),
        sampling=SamplingConfig(max_tokens=48),
        stages={
            "warm_start": Supervise({"oracle": 1.0}, num_episodes=64, epochs=5, batch_episodes=8),
            "before": Evaluate(num_tasks=4),
            "rl": Reinforce(
                steps=2,
                playing=Playing(prompts_per_step=2, group_size=4),
                kl_coef=0.05,
                entropy_coef=0.02,
                learner=LearnerSettings(lr=1e-3, schedule=Schedule("linear", final=0.1)),
            ),
            "after": Evaluate(num_tasks=4),
        },
        run=RunConfig(evaluate_every=0, tensorboard=False),
    )


@pytest.fixture(scope="module", params=["qwen2", "llama3"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    train(config(families.save_folder(request.param, folder / "model")), folder / "run")
    return request.param, folder / "run"


def episodes(run: Path) -> list[Trajectory]:
    return list(TrajectoryStore(run / "trajectories.jsonl"))


def test_contexts_only_grow_and_rows_hold_them(run: tuple[str, Path]) -> None:
    _, tokenizer = load(run[1] / "model")
    form = chat_format(tokenizer)
    played = episodes(run[1])
    assert Counter(t.status for t in played)["fault"] == 0
    for trajectory in played:
        context: list[int] = []
        for turn in trajectory.turns:
            action = turn.action
            if not context:
                expected = tokenizer.apply_chat_template(
                    [message_for_template(m) for m in turn.observation],
                    tools=list(trajectory.tools),
                    add_generation_prompt=True,
                    return_dict=False,
                )
            else:
                expected = context + form.render_more(turn.observation, closed=context[-1] in form.stop_ids)
            assert list(action.prompt_ids or ()) == expected
            assert action.token_ids or len(expected) >= MAX_CONTEXT
            context = [*expected, *(action.token_ids or ())]
        (row,) = rows_of_trajectory(trajectory)
        assert row.ids.tolist() == context[: len(row)]
        assert row.num_trained == trajectory.num_sampled_tokens
        assert row.ids[row.mask].tolist() == [i for turn in trajectory.turns for i in turn.action.token_ids or ()]
    assert max(len(t.turns) for t in played) > 1


def test_logprobs_are_those_of_the_saved_model(run: tuple[str, Path]) -> None:
    model, _ = load(run[1] / "model")
    after = [t for t in episodes(run[1]) if t.labels.stage == "after"]
    assert len(after) == 8
    for trajectory in after:
        (row,) = rows_of_trajectory(trajectory)
        with torch.no_grad():
            logprobs = torch.log_softmax(model(torch.from_numpy(row.ids)[None]).logits[0], -1)
        mine = logprobs[:-1].gather(1, torch.from_numpy(row.ids)[1:, None])[:, 0].numpy()
        assert np.abs(mine - row.column("sampled_logprobs")[1:])[row.mask[1:]].max() < 1e-4


def test_the_penalty_sees_the_model_move(run: tuple[str, Path]) -> None:
    lines = [json.loads(line) for line in (run[1] / "metrics.jsonl").read_text().splitlines()]
    first, second = (line for line in lines if line["stage"] == "rl")
    assert first["loss/kl"] == pytest.approx(0, abs=1e-6)
    assert second["loss/kl"] > 1e-6


def test_a_benchmark_of_the_trained_folder(run: tuple[str, Path], tmp_path: Path) -> None:
    arguments = ["--tasks", "3", "--no-references", "--max-tokens", "24", "--out", str(tmp_path / "b"), "--json"]
    policy = f"local:{run[1] / 'model'}"
    result = CliRunner().invoke(main, ["bench", "agentrl/Calculator-v0", "--policy", policy, *arguments])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["policy"], report["n_episodes"]) == (policy, 3)
    assert all(
        turn.action.token_ids for t in TrajectoryStore(tmp_path / "b" / "trajectories.jsonl") for turn in t.turns
    )


def test_a_folder_without_template_is_refused(tmp_path: Path) -> None:
    folder = families.save_folder("qwen2", tmp_path / "model")
    (folder / "chat_template.jinja").unlink()
    arguments = ["agentrl/Calculator-v0", "--set", f"model.path={folder}", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(main, ["train", *arguments])
    assert result.exit_code == 1
    assert "has no chat template" in result.stderr
    assert "chat_template.jinja" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("key", ["slots", "max_context"])
def test_limits_that_leave_no_room_are_refused(key: str, tmp_path: Path) -> None:
    given = ["--set", f"model.{key}=0", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(main, ["train", "agentrl/Calculator-v0", *given])
    assert result.exit_code == 1
    assert f"model.{key} = 0: expected at least 1" in result.stderr

"""What of a model trains: adapters, some layers, some weights; through a whole run and its resuming."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agentrl.env.registry import register
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import ConfigError, ModelError
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.base import weighted
from agentrl.learning.objectives.ppo_clip import PPOClip
from agentrl.learning.objectives.regularizers import ReferenceKL
from agentrl.messages import Message
from agentrl.policy import adapters, model_folder, precision
from agentrl.training import model_setup
from agentrl.training.model_setup import LoRA, ModelConfig
from agentrl.training.plan import TrainConfig
from agentrl.training.settings import EnvConfig, RunConfig, SamplingConfig
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import open_run, resume, train
from agentrl.trajectory import Task
from tests.learning.fixtures import make_rows, one_thread  # noqa: F401 (fixtures)
from tests.policy import families, other_models
from tests.policy.other_models import OTHER


@register("test/OddLength-v0", max_turns=1)
class OddLength(ToolEnv):
    """Answer at all, in an odd number of characters: a model that was hardly trained does so now and then."""

    score_truncated = True
    tasks = Tasks.of(train=[{"n": n} for n in range(12)], eval=[{"n": 12}])

    def start(self, task: Task) -> str:
        return f"Number {task.data['n']}?"

    def score(self, answer: str | None) -> float:
        return float(len(answer or "") % 2)

    def oracle(self, messages: Any) -> str:
        return "yes"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return families.save_folder("qwen2", tmp_path / "base")


def training_names(model: torch.nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_the_last_layers_alone_train(folder: Path) -> None:
    model, _ = model_setup.load(ModelConfig(path=str(folder), train_layers=1), folder)
    last = len(model.model.layers) - 1
    names = training_names(model)
    assert names
    assert all(name.startswith(f"model.layers.{last}.") for name in names)


@pytest.mark.parametrize(
    ("kind", "last"),
    [
        ("bloom", "transformer.h.1."),
        ("rwkv", "rwkv.blocks.1."),
        ("llama4", "model.layers.1."),
        ("qwen3_vl", "model.language_model.layers.1."),
    ],
)
def test_the_last_layers_of_other_families_train(kind: str, last: str, tmp_path: Path) -> None:
    if kind in OTHER:
        other_models.save_folder(OTHER[kind], tmp_path)
    else:
        other_models.folder_with_images(kind, tmp_path)
    model, _ = model_setup.load(ModelConfig(path=str(tmp_path), train_layers=1), tmp_path)
    names = training_names(model)
    assert names
    assert all(name.startswith(last) for name in names)


def test_weights_by_name_train(folder: Path) -> None:
    model, _ = model_setup.load(ModelConfig(path=str(folder), train_weights=("*.mlp.*", "model.norm.*")), folder)
    assert training_names(model) == {
        name for name, _ in model.named_parameters() if ".mlp." in name or name == "model.norm.weight"
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_layers": 99}, "= 99: Qwen2ForCausalLM has"),
        ({"train_weights": ("*.nothing.*",)}, "names no weight; there are"),
    ],
)
def test_what_cannot_train_is_refused(folder: Path, settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_setup.load(ModelConfig(path=str(folder), **settings), folder)


def test_a_model_from_scratch_has_the_type_of_the_settings() -> None:
    conversations = [[Message("user", "one two three four")]]
    for dtype in ("float32", "bfloat16"):
        small = ModelConfig(hidden_size=32, num_layers=1, vocab_size=300, dtype=dtype)
        model, _ = model_setup.build(small, 0, conversations)
        assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}


def test_settings_that_exclude_each_other_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="leave out"):
        ModelConfig(path=str(folder), lora=LoRA(rank=4), train_layers=1).check(teaches_from_nothing=True)
    with pytest.raises(ConfigError, match="lora needs"):
        ModelConfig(lora=LoRA(rank=4)).check(teaches_from_nothing=True)


async def test_the_reference_of_adapters_is_the_model_without_them(folder: Path, make_rows) -> None:  # noqa: F811
    """No second model is kept: after an update the reference still gives the base model's log-probabilities."""
    base, _ = model_folder.load(folder)
    model, _ = model_setup.load(ModelConfig(path=str(folder), lora=LoRA(rank=4)), folder)
    objective = weighted([(1.0, PPOClip()), (0.1, ReferenceKL())])
    learner = Learner(model, LearnerSettings(lr=0.05), objective)
    kept = sum(value.numel() for value in learner.state_dict()["models"]["reference"].values())
    assert kept < 0.2 * sum(p.numel() for p in base.parameters())
    rows = make_rows(lengths=(23, 11))
    for _ in range(2):
        rows = await learner.fill(rows, "reference_logprobs")
        await learner.update(rows, objective)
    rows = await learner.fill(await learner.fill(rows, "reference_logprobs"), "old_logprobs")
    for row in rows:
        with torch.no_grad():
            logs = torch.log_softmax(base(torch.from_numpy(row.ids)[None]).logits[0], -1).numpy()
        places = np.flatnonzero(row.mask)
        expected = logs[places - 1, row.ids[places]]
        assert row.column("reference_logprobs")[places] == pytest.approx(expected, abs=1e-4)
        assert np.abs(row.column("old_logprobs")[places] - expected).max() > 0.01


def config(folder: Path, warm_lr: float, **model: object) -> TrainConfig:
    warm, learner = LearnerSettings(lr=warm_lr), LearnerSettings(lr=1e-2)
    return TrainConfig(
        env=EnvConfig("test/OddLength-v0"),
        model=ModelConfig(path=str(folder), max_context=1500, slots=4, **model),  # type: ignore[arg-type]
        sampling=SamplingConfig(max_tokens=8),
        stages={
            "warm_start": Supervise({"oracle": 1.0}, num_episodes=8, epochs=1, batch_episodes=2, learner=warm),
            "rl": Reinforce(
                steps=3,
                playing=Playing(2, 8),
                checkpoint_every=1,
                kl_coef=0.1,
                learner=replace(learner, max_mismatch=0.1),
            ),
        },
        run=RunConfig(evaluate_every=0, tensorboard=False, keep_checkpoints=5),
    )


def test_a_type_that_is_left_open_is_decided_once_and_recorded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_open = config(folder, warm_lr=1e-3, dtype="auto")
    left_open = replace(left_open, stages={"warm_start": left_open.stages["warm_start"]})
    monkeypatch.setattr(precision, "choose", lambda width, device: precision.Choice("bfloat16", "faster"))
    train(left_open, tmp_path / "run")
    monkeypatch.setattr(precision, "choose", lambda width, device: precision.Choice("float32", "another machine"))
    _, recorded = open_run(tmp_path / "run")
    assert recorded.model.dtype == "bfloat16"
    assert left_open.like(recorded) == recorded  # the same settings continue this run
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["settings"]["model"]["dtype"] == "bfloat16"


def test_the_width_of_a_model_is_read_from_its_folder(folder: Path, tmp_path: Path) -> None:
    model, tokenizer = model_folder.load(folder)
    width = model.config.hidden_size
    assert model_folder.width_of(folder) == width
    adapters.add(model, rank=2, alpha=4.0)
    model_folder.save(tmp_path / "adapters", model, tokenizer)
    assert model_folder.width_of(tmp_path / "adapters") == width
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        model_folder.width_of(tmp_path / "broken")


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    model, _ = model_folder.load(folder)
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    "model", [{"warm_lr": 2e-2, "lora": LoRA(rank=4)}, {"warm_lr": 2e-2, "train_layers": 1, "dtype": "bfloat16"}]
)
def test_a_run_trains_them_alone_and_resumes(folder: Path, tmp_path: Path, model: dict) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    settings = config(folder, **model)
    train(settings, whole)

    def stop(progress):
        if progress.stage == "rl" and progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings, cut, on_progress=stop)
    resume(cut)
    final, again = tensors(whole / "model"), tensors(cut / "model")
    assert all(torch.equal(final[name], again[name]) for name in final)
    base = tensors(folder)
    if "lora" in model:
        assert adapters.is_adapter_folder(whole / "model")
        checkpoint = sorted((whole / "checkpoints").iterdir())[-1]
        assert not (checkpoint / "model.safetensors").exists()
        assert any(value.any() for name, value in final.items() if "lora_B" in name)
        final = {name.replace(".base_layer", ""): value for name, value in final.items() if "lora_" not in name}
    changed = {name for name in base if not torch.equal(base[name].bfloat16(), final[name].bfloat16())}
    assert all(name.startswith("model.layers.1.") for name in changed)
    assert bool(changed) == ("lora" not in model)
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    updates = [line for line in lines if line["stage"] == "rl" and "grad/norm" in line]
    assert updates
    assert updates[0]["mismatch/nats"] < 0.01

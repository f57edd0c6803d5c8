"""Defaults that the model chooses; what the user writes always wins."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from agentrl.config import dump_config, load_config
from agentrl.errors import ConfigError
from agentrl.training.plan import TrainConfig
from agentrl.training.presets import PRESETS, words_of

ENV = 'env = { id = "agentrl/Shop-v0" }\n'
FOLDER = 'model.path = "models/mine"\n'


def load(tmp_path: Path, text: str, *overrides: str) -> Any:
    path = tmp_path / "run.toml"
    path.write_text(ENV + text)
    return load_config(TrainConfig, path, overrides)


@pytest.mark.parametrize(
    ("text", "max_tokens", "rates", "optimizer"),
    [
        ("", 64, (0.02, 4e-4), "muon"),
        (FOLDER, 512, (1e-5, 1e-6), "adamw"),
        (FOLDER + "model.lora.rank = 8\n", 512, (2e-4, 1e-5), "adamw"),
    ],
)
def test_the_model_chooses(tmp_path: Path, text: str, max_tokens: int, rates: tuple, optimizer: str) -> None:
    config = load(tmp_path, text)
    warm, rl = config.stages["warm_start"], config.stages["rl"]
    assert config.sampling.max_tokens == max_tokens
    assert (warm.learner.lr, rl.learner.lr) == rates
    assert warm.learner.optimizer == optimizer
    assert rl.learner.max_mismatch == 0.1  # what a preset does not name stays


def test_what_is_written_wins(tmp_path: Path) -> None:
    written = FOLDER + "sampling.max_tokens = 99\n[stages.rl]\nlearner = { lr = 3e-6 }\n"
    config = load(tmp_path, written, "stages.warm_start.learner.schedule.warmup_steps=3")
    assert config.sampling.max_tokens == 99
    assert config.stages["rl"].learner.lr == 3e-6
    assert config.stages["rl"].learner.gradient_checkpointing
    schedule = config.stages["warm_start"].learner.schedule
    assert (schedule.name, schedule.warmup_steps) == ("cosine", 3)


def test_a_plan_of_ones_own_gets_it_by_kind(tmp_path: Path) -> None:
    config = load(tmp_path, FOLDER + '[stages.pairs]\nkind = "prefer"\n[stages.last]\nkind = "evaluate"\n')
    assert config.stages["pairs"].learner.lr == 5e-7


def test_the_effective_settings_are_saved(tmp_path: Path) -> None:
    config = load(tmp_path, FOLDER)
    (tmp_path / "saved.toml").write_text(dump_config(config))
    assert load_config(TrainConfig, tmp_path / "saved.toml") == config


def test_a_table_in_python_gets_the_preset_and_a_dataclass_has_what_it_is_given(tmp_path: Path) -> None:
    """Values that the caller gave are never replaced, and his table is not changed."""
    table = {
        "env": {"id": "agentrl/Shop-v0"},
        "model": {"path": "models/mine"},
        "stages": {"rl": {"learner": {"lr": 3e-6}}},
    }
    before = deepcopy(table)
    config = TrainConfig.of(table)
    assert config == load(tmp_path, FOLDER + "stages.rl.learner.lr = 3e-6\n")
    assert config.stages["rl"].learner.lr == 3e-6
    assert (config.sampling.max_tokens, config.stages["warm_start"].learner.lr) == (512, 1e-5)
    assert table == before
    assert TrainConfig(config.env, config.model).sampling.max_tokens == 64
    with pytest.raises(ConfigError, match=r"stages\.rl\.stepz"):
        TrainConfig.of({**table, "stages": {"rl": {"stepz": 1}}})


def test_a_tiny_model_keeps_the_tested_defaults(tmp_path: Path) -> None:
    assert PRESETS["tiny"] == {}
    assert load(tmp_path, "").stages["rl"] == TrainConfig(load(tmp_path, "").env).stages["rl"]


@pytest.mark.parametrize(("weights", "max_tokens"), [(9_999_999, 64), (10_000_000, 512)])
def test_the_size_of_a_folder_chooses_and_not_that_it_is_one(tmp_path: Path, weights: int, max_tokens: int) -> None:
    """A run that goes on from a tiny model trains it with the settings that fit it."""
    (tmp_path / "model").mkdir()
    for part in range(2):
        tensors = {f"{part}": np.zeros(weights // 2 + part * (weights % 2), np.int8)}
        save_file(tensors, tmp_path / "model" / f"model-{part}.safetensors")
    assert load(tmp_path, f'model.path = "{tmp_path}/model"\n').sampling.max_tokens == max_tokens


def test_a_folder_that_cannot_be_read_is_left_to_be_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    assert load(tmp_path, f'model.path = "{tmp_path}"\n').sampling.max_tokens == 512


def test_the_preset_is_said() -> None:
    said = words_of("models/mine", 8, 512, {"rl": 1e-5})
    assert "Preset lora" in said
    assert "512 tokens a turn, learning rate of rl 1e-05" in said
    assert "Preset tiny" in words_of(None, 0, 64, {})

"""The model of a run: a chat template of the settings replaces the folder's, and goes with what the run saves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agentrl.errors import ConfigError
from agentrl.policy.local import LocalPolicy
from agentrl.policy.model_folder import save
from agentrl.training import model_setup
from agentrl.training.model_setup import ModelConfig
from tests.policy import template_families

TEMPLATE = "{#- mine -#}" + template_families.QWEN25


def test_a_chat_template_of_the_settings_is_the_models_from_then_on(tmp_path: Path) -> None:
    folder = template_families.save_folder("chatml", tmp_path / "model")
    (tmp_path / "mine.jinja").write_text(TEMPLATE)
    config = ModelConfig(path=str(folder), chat_template=str(tmp_path / "mine.jinja"), device="cpu")
    config.check(teaches_from_nothing=False)
    model, tokenizer = model_setup.load(config, folder)
    assert LocalPolicy(model, tokenizer).format.template == TEMPLATE
    saved = save(tmp_path / "saved", model, tokenizer)
    (tmp_path / "mine.jinja").write_text("changed since")
    assert model_setup.load(config, saved)[1].chat_template == TEMPLATE


def test_a_chat_template_that_cannot_be_used_is_refused_before_the_run(tmp_path: Path) -> None:
    config = ModelConfig(chat_template=str(tmp_path / "none.jinja"))
    with pytest.raises(ConfigError, match=r"goes with model\.path"):
        config.check(teaches_from_nothing=True)
    with pytest.raises(ConfigError, match=r"none\.jinja' cannot be read"):
        replace(config, path=str(tmp_path)).check(teaches_from_nothing=True)

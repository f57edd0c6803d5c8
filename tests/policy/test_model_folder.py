"""Broken model folders: each says what is missing and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentrl.errors import ModelError
from agentrl.policy.model_folder import load
from agentrl.policy.tiny import save


@pytest.fixture
def folder(tiny: tuple[Any, Any], tmp_path: Path) -> Path:
    return save(tmp_path / "model", *tiny)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("config.json", "no config.json"),
        ("*.safetensors", "no weights"),
        ("tokenizer*", "no tokenizer files"),
    ],
)
def test_missing_files_are_named(folder: Path, pattern: str, message: str) -> None:
    for file in folder.glob(pattern):
        file.unlink()
    with pytest.raises(ModelError, match=message):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_broken_files_are_a_model_error(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"{ not what it was")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(folder)


def test_what_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(ModelError, match="not a folder"):
            load(path)


def test_a_repository_name_is_not_downloaded() -> None:
    with pytest.raises(ModelError, match="not a folder"):
        load("someone/some-model")

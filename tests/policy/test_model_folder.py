"""Broken model folders: each says what is missing and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from agentrl.errors import ModelError
from agentrl.policy.model_folder import load, save
from tests.policy import families


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


def test_a_saved_folder_samples_from_the_models_own_distribution(folder: Path, tiny: tuple[Any, Any]) -> None:
    saved = GenerationConfig.from_pretrained(folder)
    assert (saved.do_sample, saved.temperature, saved.top_p, saved.top_k) == (True, 1.0, 1.0, 0)
    assert saved.eos_token_id == tiny[1].eos_token_id
    assert not tiny[0].generation_config.do_sample  # the live model is left alone
    again = GenerationConfig.from_pretrained(save(folder, *load(folder)))
    assert again.to_dict() == saved.to_dict()


def test_settings_that_sample_are_kept(tmp_path: Path) -> None:
    model, tokenizer = load(families.save_folder("llama3", tmp_path / "published"))
    kept = GenerationConfig.from_pretrained(save(tmp_path / "again", model, tokenizer))
    assert (kept.do_sample, kept.temperature, kept.top_p) == (True, 0.6, 0.9)
    assert len(kept.eos_token_id) == 3


def test_generate_samples_by_the_folders_settings(folder: Path) -> None:
    model, tokenizer = load(folder)
    ids = torch.tensor([tokenizer.encode("What is")] * 8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        turns = model.generate(ids, max_new_tokens=8)
    assert len({tuple(row) for row in turns.tolist()}) > 1


# Weights.

NORM, HEAD = "model.layers.0.input_layernorm.weight", "lm_head.weight"


def with_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """The folder with changed weights in its file."""
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {k: v for k, v in w.items() if k != NORM}, rf"lacks weights of Qwen3ForCausalLM: {NORM}\. They"),
        (lambda w: {}, "lacks weights of Qwen3ForCausalLM: .* more"),
        (lambda w: {f"base.{k}": v for k, v in w.items()}, "remove the prefix 'base.'"),
        (lambda w: {f"base_model.model.{k}": v for k, v in w.items()}, "remove the prefix 'base_model.model.'"),
        (lambda w: {f"_orig_mod.{k}": v for k, v in w.items()}, "remove the prefix '_orig_mod.'"),
        (lambda w: {**w, "v_head.weight": torch.zeros(3)}, r"does not have: v_head.weight\."),
        (lambda w: {**w, NORM: w[NORM] * float("nan")}, f"not finite numbers: {NORM}"),
        (lambda w: {**w, NORM: torch.zeros(3)}, "cannot be loaded"),
    ],
)
def test_weights_that_are_not_the_models_are_refused_by_name(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        load(with_weights(folder, change))


def test_an_untied_head_may_not_be_missing(tmp_path: Path) -> None:
    folder = families.save_folder("llama3", tmp_path)
    load(folder)
    with pytest.raises(ModelError, match=f"lacks weights of LlamaForCausalLM: {HEAD}"):
        load(with_weights(folder, lambda weights: {k: v for k, v in weights.items() if k != HEAD}))


# Code in a folder.


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked on standard input."""
    questions: list[str] = []
    monkeypatch.setattr("builtins.input", lambda prompt="": questions.append(prompt) or "y")
    return questions


def bring_code(folder: Path, name: str, **more: Any) -> Path:
    """Name code of the folder's own in one of its files; the code leaves a mark when it runs."""
    mark = folder / "ran"
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass C: ...\n")
    settings = json.loads((folder / name).read_text())
    auto_map = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C", "AutoTokenizer": ["evil.C", None]}
    (folder / name).write_text(json.dumps({**settings, **more, "auto_map": auto_map}))
    return mark


def test_a_folder_that_needs_its_own_code_is_refused_and_nobody_is_asked(folder: Path, asked: list[str]) -> None:
    mark = bring_code(folder, "config.json", model_type="nobody_knows_it", architectures=["Evil"])
    with pytest.raises(ModelError, match=r"the code that it brings \(auto_map in config.json\).*runs no code"):
        load(folder)
    assert (asked, mark.exists()) == ([], False)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_beside_what_transformers_knows_is_not_run(folder: Path, asked: list[str], name: str) -> None:
    mark = bring_code(folder, name)
    load(folder)
    assert (asked, mark.exists()) == ([], False)

"""`agentrl export`: a model folder that is proved to be the run's model, from the end of a run and from checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from agentrl.cli import main
from agentrl.errors import CheckpointError, ConfigError, ModelError
from agentrl.policy import model_folder
from agentrl.training import checkpoint
from agentrl.training.export import export
from agentrl.training.progress import Progress
from agentrl.training.settings import SamplingConfig
from agentrl.training.stages.supervise import Supervise
from agentrl.training.train import train
from tests.training.stages.conftest import CONFIG

COPY = Supervise({"yes": 1.0}, num_episodes=40, epochs=1, batch_episodes=8, checkpoint_every=2)
PLAN = replace(CONFIG, sampling=SamplingConfig(temperature=0.7, top_p=0.9, max_tokens=6), stages={"copy": COPY})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "run"
    train(PLAN, folder)
    return folder


@pytest.fixture
def cut_run(tmp_path: Path) -> Path:
    """A run that was interrupted after its third of five updates."""

    def stop(progress: Progress) -> None:
        if progress.metrics and progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(PLAN, tmp_path / "cut", on_progress=stop)
    return tmp_path / "cut"


def same_weights(one: Path, other: Path) -> bool:
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_finished_run_becomes_a_folder_that_transformers_loads(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "models" / "agree"
    result = CliRunner().invoke(main, ["export", str(run), "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told == json.loads((out / "export.json").read_text())
    assert (told["environment"], told["dtype"], told["merged"]) == ("test/Agree-v0", "float32", False)
    assert told["max_logprob_difference"] <= 1e-6
    assert told["checked_tokens"] > 60
    assert (told["chat_format"], told["max_context"]) == ("auto", None)
    assert same_weights(out, run / "model")
    from transformers import AutoTokenizer, GenerationConfig

    settings = GenerationConfig.from_pretrained(out)
    assert (settings.do_sample, settings.temperature, settings.top_p, settings.max_new_tokens) == (True, 0.7, 0.9, 6)
    assert settings.eos_token_id == told["stop_ids"] != []
    templates = [AutoTokenizer.from_pretrained(folder).chat_template for folder in (out, run / "model")]
    assert templates[0] == templates[1] is not None
    # Nothing of a run: only what a model folder holds, and where it came from.
    assert not {"manifest.json", "extra.json", "state.pt"} & {path.name for path in out.iterdir()}


def test_a_run_in_progress_is_exported_from_a_checkpoint_by_name(cut_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not finished: resume it, or export a checkpoint of it with --checkpoint"):
        export(cut_run, tmp_path / "out")
    found = export(cut_run, tmp_path / "latest", which="latest")
    assert same_weights(tmp_path / "latest", cut_run / "checkpoints" / "step-00000002")
    assert found.source.endswith("step-00000002")
    export(cut_run, tmp_path / "second", which="2")
    assert same_weights(tmp_path / "second", tmp_path / "latest")
    with pytest.raises(ConfigError, match="has no checkpoint '7': give final, latest, best or one of 1, 2"):
        export(cut_run, tmp_path / "out", which="7")
    assert not (tmp_path / "out").exists()


def test_the_best_weights_are_those_that_the_newest_checkpoint_names(
    run: Path, cut_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (run, cut_run):
        with pytest.raises(ConfigError, match="keeps no best weights: export final, latest or the number"):
            export(folder, tmp_path / "out", which="best")
    (cut_run / "best").mkdir()
    torch.save(model_folder.load(run / "model")[0].state_dict(), cut_run / "best" / "my%2Frl-00000005.pt")
    read = checkpoint.read

    def naming(*given: Any, **options: Any) -> checkpoint.Checkpoint:
        found = read(*given, **options)
        found.extra["state"]["best"] = ["my/rl", 5]
        return found

    monkeypatch.setattr(checkpoint, "read", naming)
    done = export(cut_run, tmp_path / "best", which="best")
    assert done.source.endswith("my%2Frl-00000005.pt")
    assert same_weights(tmp_path / "best", run / "model")
    (cut_run / "best" / "my%2Frl-00000005.pt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="cannot be read"):
        export(cut_run, tmp_path / "out", which="best")


def test_a_model_folder_is_exported_as_it_is_in_another_dtype(run: Path, tmp_path: Path) -> None:
    done = export(run / "model", tmp_path / "half", dtype=torch.bfloat16)
    assert (done.dtype, done.environment, done.max_logprob_difference) == ("bfloat16", None, 0.0)
    again = export(tmp_path / "half", tmp_path / "again")
    assert again.dtype == "bfloat16"
    with pytest.raises(ConfigError, match="is no run, so it has no checkpoints"):
        export(run / "model", tmp_path / "out", which="latest")


def test_a_folder_that_is_not_the_trained_model_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = model_folder.save

    def damaged(folder: Path, model: Any, tokenizer: Any) -> Path:
        original(folder, model, tokenizer)
        weights = load_file(folder / "model.safetensors")
        name = next(name for name in weights if "down_proj" in name)
        save_file({**weights, name: weights[name] * 1.5}, folder / "model.safetensors", {"format": "pt"})
        return folder

    monkeypatch.setattr(model_folder, "save", damaged)
    with pytest.raises(ModelError, match="is not the model that was trained: log-probabilities differ by up to"):
        export(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    result = CliRunner().invoke(main, ["export", str(run), "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "holds something already (mine.txt), and nothing is overwritten" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    absent = CliRunner().invoke(main, ["export", str(tmp_path / "absent"), "--out", str(tmp_path / "out")])
    assert "is not a folder" in absent.stderr


def test_adapters_are_merged(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peft = pytest.importorskip("peft")
    original = model_folder.load
    outputs: list[torch.Tensor] = []

    def with_adapters(folder: Path, **options: Any) -> tuple[Any, Any]:
        model, tokenizer = original(folder, **options)
        if not outputs:  # the trained model; the exported folder has none
            model.add_adapter(peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
            generator = torch.Generator().manual_seed(0)
            for name, weight in model.named_parameters():
                if "lora_" in name:
                    weight.data.normal_(std=0.3, generator=generator)
            model.eval()
            outputs.append(model(torch.arange(9)[None]).logits.detach())
        return model, tokenizer

    monkeypatch.setattr(model_folder, "load", with_adapters)
    done = export(run, tmp_path / "out")
    assert (done.merged, done.max_logprob_difference < 1e-4) == (True, True)
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    merged = original(tmp_path / "out")[0]
    torch.testing.assert_close(merged(torch.arange(9)[None]).logits, outputs[0], atol=1e-4, rtol=1e-4)
    assert not same_weights(tmp_path / "out", run / "model")


def test_a_model_folder_gets_the_template_that_is_given_and_a_run_has_its_own(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{#- mine -#}" + template_of(run / "model"))
    words = ["--out", str(tmp_path / "out"), "--chat-template", str(tmp_path / "mine.jinja"), "--chat-format", "hermes"]
    result = CliRunner().invoke(main, ["export", str(run / "model"), *words])
    assert result.exit_code == 0, result.output
    assert template_of(tmp_path / "out").startswith("{#- mine -#}")
    assert json.loads((tmp_path / "out" / "export.json").read_text())["chat_format"] == "hermes"
    result = CliRunner().invoke(main, ["export", str(run), *words[:1], str(tmp_path / "no"), *words[2:]])
    assert result.exit_code == 1
    assert "leave out --chat-format and --chat-template" in result.stderr
    assert not (tmp_path / "no").exists()


def template_of(folder: Path) -> str:
    from transformers import AutoTokenizer

    return str(AutoTokenizer.from_pretrained(folder).chat_template)


def test_what_is_served_has_the_chat_format_and_context_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the run itself, and of what was exported from it; an option given wins."""
    models: list[Any] = []
    monkeypatch.setattr("agentrl.serving.server.serve", lambda model, **_: models.append(model))
    run, out = tmp_path / "run", tmp_path / "out"
    train(replace(PLAN, model=replace(PLAN.model, chat_format="generic", max_context=96)), run)
    export(run, out)
    for words in ([run], [out], [run, "--max-context", 80], [run, "--chat-format", "hermes"]):
        result = CliRunner().invoke(main, ["serve-model", *map(str, words)])
        assert result.exit_code == 0, result.output
    formats = [type(model.policy.format).__name__ for model in models]
    assert formats[0] == formats[1] == formats[2] != formats[3]
    assert [model.context for model in models] == [96, 96, 80, 96]
    assert [model.name for model in models] == ["run", "out", "run", "run"]

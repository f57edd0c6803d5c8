"""A clean model folder of a run: merged weights, chat template, sampling defaults. Owns what is exported and the proof.

The folder is loaded again before it gets its name: its log-probabilities, prompts and stop tokens must be those of the
model that was trained.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agentrl.bench.identity import package_version
from agentrl.errors import CheckpointError, ConfigError, ModelError
from agentrl.policy import model_folder
from agentrl.policy.control import control_messages
from agentrl.policy.format import choice
from agentrl.policy.format.base import ChatFormat
from agentrl.rollout.new_folder import check_new, new_folder
from agentrl.rollout.store import write_summary
from agentrl.training import checkpoint
from agentrl.training.files.kept_weights import KeptWeights, load_kept
from agentrl.training.folder import RunFolder, is_run
from agentrl.training.model_setup import ModelConfig
from agentrl.training.train import open_run

_PROBE_TOKENS = 64
_TOLERANCE_NATS = {torch.float32: 1e-4, torch.float64: 1e-6}
_TOLERANCE_OF_HALF_NATS = 5e-2
_TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}},
}


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        out: the model folder.
        source: the folder whose weights they are.
        environment: that the run trained on; None for a folder that is no run.
        parameters, bytes: of the weights.
        dtype: of the weights.
        merged: whether adapters were merged into them.
        chat_format, max_context: of the run, with which `agentrl serve-model` serves the folder.
        sampling: defaults that are saved with the model.
        stop_ids: tokens that end a turn, saved as the model's end-of-sequence tokens.
        max_logprob_difference: nats, between the trained model and the folder loaded again, over `checked_tokens`.
        checked_tokens: how many were compared.
        versions: of the packages.
    """

    out: str
    source: str
    environment: str | None
    parameters: int
    bytes: int
    dtype: str
    merged: bool
    chat_format: str
    max_context: int | None
    sampling: dict[str, Any]
    stop_ids: list[int]
    max_logprob_difference: float
    checked_tokens: int
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class _Source:
    """Where the weights are, and what the run says about its model.

    Attributes:
        folder: a model folder.
        weights: a file of other weights for that model.
        dtype: in which the run trained them; None is that of the files.
        environment: of the run.
        format: name of the chat format.
        template: Jinja text that replaces the folder's chat template.
        max_context: most tokens of an episode.
        sampling: for the generation settings.
    """

    folder: Path
    weights: Path | None = None
    dtype: torch.dtype | None = None
    environment: str | None = None
    format: str = "auto"
    template: str | None = None
    max_context: int | None = None
    sampling: dict[str, Any] | None = None


def export(
    run: str | Path,
    out: str | Path,
    *,
    which: str = "final",
    dtype: torch.dtype | None = None,
    chat_format: str | None = None,
    chat_template: str | None = None,
) -> Exported:
    """Write the model of a run as a folder of its own, and prove it.

    Args:
        run: a run's folder, or any model folder, such as a checkpoint.
        out: a new folder.
        which: `final`, `latest` (checkpoint), `best` (weights that the run keeps of its evaluations), or the number of
            a checkpoint.
        dtype: of the exported weights; None keeps that of the files.
        chat_format, chat_template: name and Jinja text for a model folder; a run has its own.
    Raises: ConfigError if `out` holds something, or there is no such checkpoint; ModelError if the folder does not
        load, or is not the model that was trained; StoreError if it cannot be written.
    """
    check_new(out)
    source = _source(Path(run), which, chat_format, chat_template)
    model, tokenizer = model_folder.load(source.folder, dtype=dtype or source.dtype or _dtype_of(source.folder))
    if source.weights is not None:
        load_kept(source.weights, model)
    if source.template is not None:
        tokenizer.chat_template = source.template
    fmt = _format(source, model, tokenizer)
    probes = _probes(fmt, model)
    expected = [_logprobs(model, ids) for ids in probes]
    prompt = fmt.render_first(control_messages([_TOOL]), [_TOOL])
    merges = _merge_adapters(model)
    sampling = _set_sampling(model, source, fmt)
    with new_folder(out) as partial:
        model_folder.save(partial, model, tokenizer)
        loaded, its_tokenizer = model_folder.load(partial, dtype=model.dtype)
        its_format = _format(source, loaded, its_tokenizer)
        difference = _proved(loaded, probes, expected)
        if its_format.render_first(control_messages([_TOOL]), [_TOOL]) != prompt or its_format.stop_ids != fmt.stop_ids:
            raise ModelError("the exported folder renders conversations otherwise than the model that was trained")
        done = Exported(
            out=str(out),
            source=str(source.weights or source.folder),
            environment=source.environment,
            parameters=sum(p.numel() for p in loaded.parameters()),
            bytes=sum(path.stat().st_size for path in partial.glob("*.safetensors")),
            dtype=str(loaded.dtype).removeprefix("torch."),
            merged=merges,
            chat_format=source.format,
            max_context=source.max_context,
            sampling=sampling,
            stop_ids=sorted(fmt.stop_ids),
            max_logprob_difference=difference,
            checked_tokens=sum(len(values) for values in expected),
            versions={name: package_version(name) for name in ("agentrl", "torch", "transformers")},
        )
        write_summary(partial / "export.json", done.to_json())
    return done


# Where the weights are.


def model_of_run(path: Path) -> tuple[Path, ModelConfig]:
    """The model folder of a finished run, and the run's settings of its model.

    Raises: CheckpointError, ConfigError if there is none.
    """
    folder, config = open_run(path)
    return _model_of(folder, "final"), config.model


def _source(path: Path, which: str, chat_format: str | None, template: str | None) -> _Source:
    if not is_run(path):
        if which != "final":
            raise ConfigError(f"{path} is no run, so it has no checkpoints: leave out --checkpoint")
        return _Source(path, format=chat_format or "auto", template=template)
    if chat_format is not None or template is not None:
        raise ConfigError(
            f"{path} is a run, and its model is exported with the chat format and template that it was trained with: "
            "leave out --chat-format and --chat-template"
        )
    folder, config = open_run(path)
    model, weights = _best_of(folder) if which == "best" else (_model_of(folder, which), None)
    dtype = getattr(torch, config.model.dtype)
    return _Source(
        model,
        weights,
        dtype,
        environment=config.env.id,
        format=config.model.chat_format,
        max_context=config.model.max_context,
        sampling=asdict(config.sampling),
    )


def _best_of(folder: RunFolder) -> tuple[Path, Path | None]:
    """The model folder, and the file of weights, of a run's best evaluation.

    A finished run has given its model the best weights; an unfinished one keeps them in a file that its newest
    checkpoint names.
    """
    none = ConfigError(f"{folder.path} keeps no best weights: export final, latest or the number of a checkpoint")
    if folder.is_finished:
        summary = json.loads(folder.summary_path.read_text(encoding="utf-8"))
        if not any("selection" in stage for stage in summary["stages"].values()):
            raise none
        return folder.model_path, None
    newest = _model_of(folder, "latest")
    kept = checkpoint.read(newest).extra["state"].get("best")
    if kept is None:
        raise none
    return newest, KeptWeights(folder.path).file(*kept)


def _model_of(folder: RunFolder, which: str) -> Path:
    """The model folder of a run. Raises: ConfigError, CheckpointError that says which there are."""
    if which == "final":
        if not folder.is_finished:
            raise ConfigError(
                f"{folder.path} is not finished: resume it, or export a checkpoint of it with --checkpoint latest"
            )
        return folder.model_path
    if which == "latest":
        found = checkpoint.latest(folder.checkpoints_path)
        if found is None:
            raise CheckpointError(f"{folder.path} has no checkpoint yet")
        return found
    known = sorted(int(path.name.removeprefix("step-")) for path in folder.checkpoints_path.glob("step-*"))
    if not which.isdigit() or int(which) not in known:
        raise ConfigError(
            f"{folder.path} has no checkpoint {which!r}: give final, latest, best or one of "
            f"{', '.join(map(str, known))}"
        )
    return checkpoint.read(folder.checkpoints_path / f"step-{int(which):08d}").path


def _dtype_of(folder: Path) -> torch.dtype:
    """The dtype that a folder's config.json names; float32 where it names none."""
    model_folder.check_files(folder)
    if not (folder / "config.json").is_file():  # adapters alone
        return torch.float32
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        name = config.get("dtype") or config.get("torch_dtype") or "float32"
        found = getattr(torch, str(name).removeprefix("torch."), None)
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder / 'config.json'} cannot be read: {error}") from error
    return found if isinstance(found, torch.dtype) else torch.float32


# What is written, and its proof.


def _merge_adapters(model: Any) -> bool:
    """Put the adapters of `peft` that are part of a model into its own weights. Returns: whether there were any."""
    layers = [(name, layer) for name, layer in model.named_modules() if hasattr(layer, "get_base_layer")]
    for name, layer in layers:
        layer.merge(safe_merge=True)
        place, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(place), attribute, layer.get_base_layer())
    if layers:
        model._hf_peft_config_loaded = False  # else transformers would save adapters alone
    return bool(layers)


def _format(source: _Source, model: Any, tokenizer: Any) -> ChatFormat:
    eos = getattr(model.generation_config, "eos_token_id", None)
    stops = eos if isinstance(eos, list) else [eos] if isinstance(eos, int) else []
    return choice.chat_format(tokenizer, source.format, stop_ids=stops)


def _set_sampling(model: Any, source: _Source, fmt: ChatFormat) -> dict[str, Any]:
    """Give the model the run's sampling and the format's stop tokens as its generation settings. Returns: the first."""
    settings = model.generation_config
    settings.eos_token_id = sorted(fmt.stop_ids)
    if source.sampling is not None:
        settings.update(
            do_sample=True,
            temperature=source.sampling["temperature"],
            top_p=source.sampling["top_p"],
            top_k=0,
            max_new_tokens=source.sampling["max_tokens"],
        )
    names = ("do_sample", "temperature", "top_p", "top_k", "max_new_tokens")
    return {name: getattr(settings, name) for name in names if getattr(settings, name, None) is not None}


def _probes(fmt: ChatFormat, model: Any) -> list[list[int]]:
    """Two sequences of ids: a conversation, and tokens drawn from the whole vocabulary."""
    size = int(model.get_input_embeddings().weight.shape[0])
    drawn = np.random.default_rng(0).integers(size, size=_PROBE_TOKENS).tolist()
    return [fmt.render_first(control_messages(()), ()), drawn]


@torch.no_grad()
def _logprobs(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """(T - 1,) nats of each id but the first."""
    tokens = torch.tensor([ids], device=model.device)
    logprobs = model(input_ids=tokens).logits[0, :-1].float().log_softmax(-1)
    found: torch.Tensor = logprobs.gather(-1, tokens[0, 1:, None])[:, 0].cpu()
    return found


def _proved(model: Any, probes: Sequence[Sequence[int]], expected: Sequence[torch.Tensor]) -> float:
    """The largest difference in log-probability, in nats. Raises: ModelError if it is too large."""
    differences = [(_logprobs(model, ids) - values).abs() for ids, values in zip(probes, expected, strict=True)]
    worst = max(float(difference.max()) for difference in differences)
    allowed = _TOLERANCE_NATS.get(model.dtype, _TOLERANCE_OF_HALF_NATS)
    if not worst <= allowed:
        raise ModelError(
            f"the exported folder is not the model that was trained: log-probabilities differ by up to {worst:.2g} "
            f"nats, and {allowed:g} is allowed in {model.dtype}. Nothing was written"
        )
    return worst

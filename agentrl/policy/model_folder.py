"""Local model folders: any `transformers` causal LM with its tokenizer, read and written.

Never downloads, never runs code out of a folder (`trust_remote_code` is False), and never asks anything.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from agentrl.errors import ModelError
from agentrl.policy import adapters, kept_memory

_WEIGHTS = ("*.safetensors", "*.bin")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
_NAMED = 5
VALUE_HEAD = "value_head.json"
"""File of a reward model's head, next to its weights."""


def load(folder: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Load a model and its tokenizer.

    Args:
        folder: with `config.json`, weights and tokenizer files, as `save_pretrained` writes them; or LoRA adapters,
            as `peft` writes them.
        device: where the model goes.
        dtype: float32 by default, so that sampling and training agree to 1e-4.
    Returns: the model in evaluation mode, and the tokenizer.
    Raises: ModelError that names what is missing or broken: files, and tensors that the model lacks or does not know.
    """
    from transformers import AutoTokenizer  # loads for seconds; settings are checked before

    kept_memory.limit_prepared_products()
    path = Path(folder)
    check_files(path)
    if adapters.is_adapter_folder(path):
        return _load_adapters(path, device, dtype)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
            for kind in _kinds(path):
                model, report = kind.from_pretrained(
                    path, local_files_only=True, trust_remote_code=False, dtype=dtype, output_loading_info=True
                )
                if not report["unexpected_keys"]:
                    break
    except ModelError:
        raise
    except Exception as error:  # a broken file can make the loaders raise anything
        if own_code := _own_code(path):
            raise ModelError(
                f"{path} cannot be loaded without the code that it brings ({own_code}), and AgentRL runs no code out "
                "of a model folder: use a model whose class transformers has, or convert it to one"
            ) from error
        hint = ""
        if type(error).__name__ == "SafetensorError":
            hint = "; a file of weights is cut off or damaged: download or copy it again"
        raise ModelError(f"{path} cannot be loaded: {type(error).__name__}: {error}{hint}") from error
    _check_vocabulary(path, model, tokenizer)
    _prove_weights(path, model, report["missing_keys"], report["unexpected_keys"])
    return model.to(device).eval(), tokenizer


def _kinds(path: Path) -> list[Any]:
    """The classes that load the model of a folder: for text alone, and for text and images.

    Raises: ModelError if `transformers` has neither for its type.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto import modeling_auto

    config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    kinds = (
        (AutoModelForCausalLM, modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        (AutoModelForImageTextToText, modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES),
    )
    found = [kind for kind, names in kinds if config.model_type in names]
    if not found:
        raise ModelError(
            f"{path} holds a model of the type {config.model_type!r}, of which transformers has no causal language "
            "model: choose a model that continues text"
        )
    return found


def width_of(folder: str | Path) -> int:
    """Numbers of a hidden state of a folder's model. Raises: ModelError if its config.json does not say."""
    from transformers import AutoConfig  # loads for seconds

    path = Path(folder)
    path = adapters.base_folder(path) if adapters.is_adapter_folder(path) else path
    try:
        with quiet():
            config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        return int(config.get_text_config().hidden_size)
    except Exception as error:  # a broken file can make the loader raise anything
        raise ModelError(f"{path / 'config.json'} cannot be read: {type(error).__name__}: {error}") from error


def _load_adapters(path: Path, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model that adapters belong to, with them; the tokenizer is the adapters' own where they have one."""
    from transformers import AutoTokenizer

    model, tokenizer = load(adapters.base_folder(path).resolve(), device=device, dtype=dtype)
    adapters.load(model, path)
    if any((path / name).is_file() for name in _TOKENIZER):
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    return model.to(device).eval(), tokenizer


def _prove_weights(path: Path, model: Any, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Raises: ModelError if a weight would be random, was left out, or is no number."""
    missing, unexpected = sorted(missing), sorted(unexpected)
    kind = type(model).__name__
    other = "save the whole model, or correct the architecture in config.json"
    prefix = _common_prefix(missing, unexpected)
    if prefix:
        raise ModelError(
            f"the weights in {path} are named {unexpected[0]!r} where {kind} has no {prefix!r}: remove the prefix "
            f"{prefix!r} from the names of all tensors (save the inner model with save_pretrained)"
        )
    if missing:
        raise ModelError(f"{path} lacks weights of {kind}: {_named(missing)}. They would be random: {other}")
    if unexpected:
        raise ModelError(
            f"{path} holds weights that {kind} does not have: {_named(unexpected)}. They would be left out: {other}"
        )
    broken = [name for name, weight in model.named_parameters() if not bool(torch.isfinite(weight).all())]
    if broken:
        raise ModelError(f"{path} holds weights that are not finite numbers: {_named(broken)}. Save the model again")


def _common_prefix(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    """The text in front of most missing names under which the folder holds those weights; empty if there is none."""
    held = set(unexpected)
    starts = {name.removesuffix(wanted) for wanted in missing for name in unexpected if name.endswith(f".{wanted}")}
    found = {start: sum(start + wanted in held for wanted in missing) for start in sorted(starts, key=len)}
    best = max(found, key=lambda start: found[start], default="")
    return best if found.get(best, 0) > len(missing) / 2 else ""


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


def save(folder: str | Path, model: Any, tokenizer: Any) -> Path:
    """Write a folder that `load` and any `transformers` program can read.

    The saved generation settings turn sampling on, as in training, unless the model's own settings do: a server that
    reads them would otherwise decode greedily.
    """
    path = Path(folder)
    with quiet():
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
    settings = sampling_settings(model)
    if settings is not None:
        settings.save_pretrained(path)
    return path


def sampling_settings(model: Any) -> Any:
    """The model's generation settings with sampling turned on; None if it has none."""
    settings = copy.deepcopy(getattr(model, "generation_config", None))
    if settings is not None and not settings.do_sample:
        settings.update(do_sample=True, temperature=1.0, top_p=1.0, top_k=0)
    return settings


def write_value_head(folder: Path, numbers: Mapping[str, Sequence[float]]) -> None:
    """Write the head of a reward model into its folder. Args: numbers: `weight` (hidden size) and `bias` (1)."""
    (folder / VALUE_HEAD).write_text(json.dumps(dict(numbers)), encoding="utf-8")


def read_value_head(folder: Path) -> dict[str, list[float]]:
    """The numbers of `write_value_head`. Raises: ModelError if there are none."""
    try:
        numbers: dict[str, list[float]] = json.loads((folder / VALUE_HEAD).read_text(encoding="utf-8"))
        return numbers
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / VALUE_HEAD} cannot be read: {error}; train the reward model again") from error


def _check_vocabulary(path: Path, model: Any, tokenizer: Any) -> None:
    """Raises: ModelError if the tokenizer makes ids that the model has no embedding for.

    Added tokens that no text of a conversation has may lie beyond: Gemma's text models have one for images.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    beyond = [token for token, id in tokenizer.get_vocab().items() if id >= rows]
    added, template = tokenizer.get_added_vocab(), str(getattr(tokenizer, "chat_template", None) or "")
    used = [token for token in beyond if token not in added or token in template or token == tokenizer.eos_token]
    if used:
        raise ModelError(
            f"{path}: the tokenizer has {len(used)} tokens beyond the {rows} that the model knows, such as "
            f"{used[0]!r}: it belongs to another model; save the model's own into the folder"
        )


def check_files(path: Path) -> None:
    """Raises: ModelError if the folder lacks what a model needs."""
    if not path.is_dir():
        raise ModelError(f"{path} is not a folder; give a local model folder (config.json, weights, tokenizer)")
    if adapters.is_adapter_folder(path):
        check_files(adapters.base_folder(path))
        return
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} has no config.json: it is not a model folder; save one with save_pretrained")
    if not any(next(path.glob(pattern), None) for pattern in _WEIGHTS):
        raise ModelError(f"{path} has no weights (*.safetensors); download or save the whole model")
    if not any((path / name).is_file() for name in _TOKENIZER):
        raise ModelError(f"{path} has no tokenizer files (tokenizer.json); save the tokenizer into the same folder")


def _own_code(path: Path) -> str:
    """Where the folder names code of its own for `transformers` to run: `auto_map in config.json`; empty if nowhere."""
    for name in ("config.json", "tokenizer_config.json"):
        try:
            settings = json.loads((path / name).read_text())
        except (OSError, ValueError):
            continue
        if isinstance(settings, dict) and settings.get("auto_map"):
            return f"auto_map in {name}"
    return ""


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and the loading reports of `transformers`, which would write over ours."""
    from transformers.utils import logging as transformers_logging

    shown, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]

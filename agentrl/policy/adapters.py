"""LoRA adapters inside a `transformers` model, by `peft`: making, reading and recognising them.

The model keeps its class. `save_pretrained` then writes the adapters alone (`adapter_config.json` with the path of the
model that they belong to), in the form that `peft` reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from agentrl.errors import ModelError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_WEIGHTS = (WEIGHTS, "adapter_model.bin")
_PREFIX = "base_model.model."
_BASE = "base_layer."


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds adapters, and no whole model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def has_adapters(model: Any) -> bool:
    """Whether adapters are part of the model."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def base_folder(folder: Path) -> Path:
    """The folder of the model that the adapters of a folder belong to.

    Raises: ModelError if it is not on this disk, or the adapters have no weights.
    """
    try:
        name = json.loads((folder / CONFIG).read_text())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / CONFIG} cannot be read: {type(error).__name__}: {error}") from error
    if not any((folder / file).is_file() for file in _WEIGHTS):
        raise ModelError(f"{folder} has no adapter weights ({_WEIGHTS[0]}); save the adapters again")
    for path in (Path(str(name)), folder / str(name)):
        if path.is_dir():
            return path
    raise ModelError(
        f"{folder} holds adapters for the model {name!r}, which is no folder here: set base_model_name_or_path in "
        f"{folder / CONFIG} to the folder of that model. AgentRL downloads nothing"
    )


def add(model: Any, *, rank: int, alpha: float, dropout: float = 0.0, targets: Sequence[str] = ()) -> None:
    """Put new adapters into a model and freeze the rest. They change no output before their first update.

    Args:
        model: a `transformers` causal LM; its `name_or_path` is saved with the adapters.
        rank, alpha, dropout: of `peft.LoraConfig`.
        targets: names of linear layers (their ends, such as `q_proj`); none means all that read text, but the head.
    Raises: ModelError if the model has none of the targets, or `peft` is not installed.
    Source: Hu et al. 2021, arXiv:2106.09685.
    """
    peft = _peft()
    chosen, excluded = (list(targets), None) if targets else ("all-linear", _not_adapted(model))
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=chosen,
        exclude_modules=excluded or None,
        task_type="CAUSAL_LM",
    )
    try:
        model.add_adapter(config)
    except ValueError as error:
        raise ModelError(f"model.lora.targets = {list(targets)}: {error}") from error
    model.eval()


def _not_adapted(model: Any) -> list[str]:
    """The linear layers that get no adapters of their own accord: those that read images, those that give more than one
    tensor (routers), and the last ones of state-space layers, whose weights are read by kernels past the layer."""
    reads_text = {id(module) for module in model.get_decoder().modules()}
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    head = model.get_output_embeddings()  # `peft` leaves it out by itself
    return [
        name
        for name, module in linear
        if module is not head
        if id(module) not in reads_text or type(module) is not nn.Linear or _is_read_past(model, name)
    ]


def _is_read_past(model: Any, name: str) -> bool:
    layer = model.get_submodule(name.rpartition(".")[0])
    return name.endswith(".out_proj") and hasattr(layer, "A_log")


def load(model: Any, folder: Path) -> None:
    """Put the adapters of a folder into the model that they belong to; they alone require a gradient.

    Raises: ModelError if they are of another model, or cannot be read.
    """
    peft = _peft()
    from peft.utils import load_peft_weights, set_peft_model_state_dict

    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
        config.inference_mode = False
        weights = load_peft_weights(str(folder), device="cpu")
        model.add_adapter(config)
        found: Any = set_peft_model_state_dict(model, {k.removeprefix(_PREFIX): v for k, v in weights.items()})
    except Exception as error:  # a broken file can make the loaders raise anything
        raise ModelError(f"the adapters in {folder} cannot be loaded: {type(error).__name__}: {error}") from error
    missing = [name for name in found.missing_keys if "lora_" in name]
    if found.unexpected_keys or missing:
        named = ", ".join([*found.unexpected_keys, *missing][:3])
        raise ModelError(f"the adapters in {folder} are not of this {type(model).__name__}: {named}")
    model.eval()


def merged(model: Any) -> Mapping[str, Any]:
    """The tensors of a model with its adapters added to the weights that they change, by the names without adapters.

    A merged weight is a new tensor; all others are the model's own.
    """
    found: dict[str, Any] = dict(model.state_dict())
    if not has_adapters(model):
        return found
    tuned = {f"{name}.": layer for name, layer in model.named_modules() if hasattr(layer, "get_delta_weight")}
    for prefix, layer in tuned.items():
        own = {name: found.pop(name) for name in list(found) if name.startswith(prefix)}
        plain = {name.removeprefix(f"{prefix}{_BASE}"): t for name, t in own.items() if f"{prefix}{_BASE}" in name}
        weight = plain["weight"]
        for adapter in layer.active_adapters:
            plain["weight"] = (plain["weight"].float() + layer.get_delta_weight(adapter).float()).to(weight.dtype)
        found |= {f"{prefix}{name}": tensor for name, tensor in plain.items()}
    return found


def shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the adapters' tensors, by their names in a folder."""
    return {f"{_PREFIX}{name}": tuple(tensor.shape) for name, tensor in model.get_adapter_state_dict().items()}


def _peft() -> Any:
    try:
        import peft  # an optional extra
    except ImportError as error:
        raise ModelError('LoRA adapters need peft: pip install "agentrl[train]"') from error
    return peft

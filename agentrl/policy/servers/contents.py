"""What a folder for servers holds: a whole model, or LoRA adapters alone. Proves that nothing is missing in it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from agentrl.errors import ModelError
from agentrl.policy import adapters, model_folder

_FILE = "model.safetensors"

Shapes = Mapping[str, tuple[int, ...]]


def save_model(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write a model folder that holds all its tensors; adapters are added to the weights that they change.

    The output head is a tensor of its own, also where the model shares it with its embedding: vLLM 0.32 keeps the old
    head when it loads a folder that holds none.

    Raises: ModelError if the folder does not hold the model.
    """
    tensors = _tensors(model)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / _FILE, {"format": "pt"})
    config = copy.deepcopy(model.config)
    config.tie_word_embeddings = False
    config.get_text_config().tie_word_embeddings = False
    config.architectures = [type(model).__name__]
    config.dtype = model.dtype
    with model_folder.quiet():
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        settings = model_folder.sampling_settings(model)
        if settings is not None:
            settings.save_pretrained(folder)
    model_folder.check_files(folder)
    _prove(folder / _FILE, {name: tuple(tensor.shape) for name, tensor in tensors.items()})


def save_adapters(folder: Path, model: Any) -> None:
    """Write the adapters of a model in the form of `peft`. Raises: ModelError if the folder does not hold them all."""
    with model_folder.quiet():
        model.save_pretrained(folder)
    _prove(folder / adapters.WEIGHTS, adapters.shapes(model))


def _tensors(model: Any) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    addresses: set[tuple[int, int]] = set()
    for name, tensor in adapters.merged(model).items():
        plain = tensor.detach().cpu()
        place = (plain.data_ptr(), plain.numel())
        found[name] = plain.clone() if place in addresses else plain
        addresses.add(place)
    return found


def _prove(path: Path, wanted: Shapes) -> None:
    """Prove that a file holds these tensors; a server that loads less may end, or keep old weights.

    Raises: ModelError that names what is missing or has another shape.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no dict)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}; write the weights again") from error
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        raise ModelError(f"{path} does not hold the model: {', '.join(wrong[:3])} are missing or have another shape")

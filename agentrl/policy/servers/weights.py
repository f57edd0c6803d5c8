"""Weights as folders that a server loads: written aside, proved, renamed. Owns their names and removal."""

from __future__ import annotations

import copy
import os
import re
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from agentrl.errors import ModelError, StoreError
from agentrl.policy import adapters, model_folder
from agentrl.policy.servers.probe import Probe

_FILE = "model.safetensors"
_PARTIAL = ".writing-"
_KEPT = 2
_NAME = re.compile(r"v\d{6,}-(?P<run>[0-9a-f]{8})[0-9a-f]{6}")


@dataclass(frozen=True)
class Published:
    """Weights that servers are to sample with.

    Attributes:
        version: their number.
        folder: where they are; its name says which weights a server has.
        probe: what the model itself gives for the text that servers are compared with.
    """

    version: int
    folder: Path
    probe: Probe

    @property
    def name(self) -> str:
        """Differs between runs, and between a run and itself resumed."""
        return self.folder.name

    def is_of_another_run(self, name: str) -> bool:
        """Whether a name that a server says is one that another run gave it."""
        theirs, ours = _NAME.fullmatch(name), _NAME.fullmatch(self.name)
        return theirs is not None and ours is not None and theirs["run"] != ours["run"]


class WeightFolders:
    """Folders of one sampler, in a folder that it makes.

    Args: root: the folder; servers read it under the same path.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._run = secrets.token_hex(4)
        self._written: list[Path] = []

    def write(self, model: Any, tokenizer: Any, version: int) -> Path:
        """Write a model as a folder that appears whole, and remove those that no server needs any more.

        Raises: ModelError if the folder does not hold the model; StoreError if it cannot be written.
        """
        name = f"v{version:06d}-{self._run}{secrets.token_hex(3)}"
        partial, folder = self.root / f"{_PARTIAL}{name}", self.root / name
        try:
            partial.mkdir(parents=True)
            _save(partial, model, tokenizer)
            check_loadable(partial, model)
            _to_disk(partial)
            partial.rename(folder)
            _sync(self.root)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise StoreError(f"cannot write weights for the servers to {folder}: {error}; free space there") from error
        self._written.append(folder)
        while len(self._written) > _KEPT:
            shutil.rmtree(self._written.pop(0), ignore_errors=True)
        return folder

    def keep(self) -> None:
        """Leave what was written so far where it is."""
        self._written.clear()

    def remove(self) -> None:
        """Remove what was written, and the root if nothing else is in it."""
        for folder in self._written:
            shutil.rmtree(folder, ignore_errors=True)
        self._written.clear()
        with suppress(OSError):
            self.root.rmdir()


def _save(folder: Path, model: Any, tokenizer: Any) -> None:
    """A model folder whose output head is a tensor of its own, also where the model shares it with its embedding.

    vLLM 0.32 keeps the old head when it loads a folder that holds none.
    """
    save_file({name: tensor.contiguous() for name, tensor in _tensors(model).items()}, folder / _FILE, {"format": "pt"})
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


def _tensors(model: Any) -> dict[str, torch.Tensor]:
    if adapters.has_adapters(model):
        raise ModelError(
            "a model with adapters (model.lora) cannot be sampled by a server yet: leave out scale.server, or train "
            "the model itself (model.lora.rank = 0)"
        )
    found: dict[str, torch.Tensor] = {}
    addresses: set[tuple[int, int]] = set()
    for name, tensor in model.state_dict(keep_vars=False).items():
        plain = tensor.detach().cpu()
        place = (plain.data_ptr(), plain.numel())
        found[name] = plain.clone() if place in addresses else plain
        addresses.add(place)
    return found


def check_loadable(folder: Path, model: Any) -> None:
    """Prove that a folder holds all tensors of a model; a server that loads less may end, or keep old weights.

    Raises: ModelError that names what is missing or has another shape.
    """
    model_folder.check_files(folder)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    try:
        with safe_open(folder / _FILE, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no dict)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder / _FILE} cannot be read: {error}; write the weights again") from error
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        raise ModelError(f"{folder} does not hold the model: {', '.join(wrong[:3])} are missing or have another shape")


def _to_disk(folder: Path) -> None:
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""The best weights of a stage in progress, in files of the run folder. Owns their names and when they are removed.

A file is named after the stage and step, and appears whole or not at all. It stays as long as a checkpoint refers to
it, so that a killed run resumes with the weights that its checkpoint means.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import quote

from agentrl.errors import CheckpointError, StoreError

FOLDER = "best"
_SUFFIX, _PARTIAL = ".pt", ".partial"


class KeptWeights:
    """The files of a run.

    Args: run: the run's folder.
    """

    def __init__(self, run: Path) -> None:
        self._run, self.path = run, run / FOLDER

    def keep(self, stage: str, step: int, model: Any) -> None:
        """Write the weights that train as those of a step. Raises: StoreError if they cannot be written."""
        import torch  # the run folder, which a torch-free command opens, removes files through this module

        path = self.file(stage, step)
        partial = path.with_suffix(_PARTIAL)
        try:
            self.path.mkdir(exist_ok=True)
            with partial.open("wb") as file:
                torch.save({name: p.detach() for name, p in model.named_parameters() if p.requires_grad}, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except (OSError, RuntimeError) as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise StoreError(
                f"cannot write {path}: {error}; free space and continue with `agentrl train --resume {self._run}`"
            ) from error

    def restore(self, stage: str, step: int, model: Any) -> None:
        """Load the weights of a step into the model. Raises: CheckpointError if they are missing or damaged."""
        load_kept(self.file(stage, step), model)

    def remove_unused(self, *in_use: tuple[str, int]) -> None:
        """Remove the files that neither a checkpoint nor `in_use`, (stage, step) each, refers to."""
        names = {self.file(*key).name for key in in_use} | self._referred()
        for path in [*self.path.glob(f"*{_SUFFIX}"), *self.path.glob(f"*{_PARTIAL}")]:
            if path.name not in names:
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all files, and the folder if nothing else is in it."""
        with suppress(OSError):
            for path in [*self.path.glob(f"*{_SUFFIX}"), *self.path.glob(f"*{_PARTIAL}")]:
                path.unlink()
            self.path.rmdir()

    def file(self, stage: str, step: int) -> Path:
        """The file of a step's weights."""
        return self.path / f"{quote(stage, safe='')}-{step:08d}{_SUFFIX}"

    def _referred(self) -> set[str]:
        names = set()
        for path in self._run.glob("checkpoints/step-*/extra.json"):
            with suppress(OSError, ValueError, KeyError, TypeError):
                kept = json.loads(path.read_text())["state"]["best"]
                names.add(self.file(*kept).name)
        return names


def load_kept(path: Path, model: Any) -> None:
    """Load a file of kept weights into the model. Raises: CheckpointError if it is missing or damaged."""
    import torch  # see `keep`

    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        unexpected = model.load_state_dict(kept, strict=False).unexpected_keys
        if unexpected or not kept:
            raise LookupError(f"its weights are not of this model: {', '.join(unexpected[:3]) or 'it has none'}")
    except (OSError, RuntimeError, EOFError, LookupError, ValueError, UnpicklingError) as error:
        raise CheckpointError(
            f"{path}, the best weights of a stage, cannot be read: {error}. Restore the file from a backup, or start "
            "from a checkpoint of the run: model.path takes it, and `agentrl export --checkpoint latest`"
        ) from error

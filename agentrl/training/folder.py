"""The folder of a training run: configuration, metrics, trajectories, checkpoints, summary.

Owns the files' names and how far each had been written at a checkpoint, so that a resumed run
continues them without a repeated or missing line.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from agentrl.errors import CheckpointError, ConfigError, StoreError
from agentrl.rollout.json_lines import encode_line
from agentrl.rollout.store import write_summary

FORMAT = 2
"""Number of a run folder's layout; a run of another one is refused."""


class RunFolder:
    """Paths and append-only logs of one run."""

    def __init__(self, path: str | Path, *, tensorboard: bool = False) -> None:
        self.path = Path(path)
        self.config_path = self.path / "config.toml"
        self.metrics_path = self.path / "metrics.jsonl"
        self.trajectories_path = self.path / "trajectories.jsonl"
        self.checkpoints_path = self.path / "checkpoints"
        self.model_path = self.path / "model"
        self.summary_path = self.path / "summary.json"
        self.format_path = self.path / "format"
        self.tensorboard = tensorboard
        self._writer: Any = None

    @classmethod
    def create(cls, path: str | Path, config_text: str, *, tensorboard: bool = False) -> RunFolder:
        """Make a new run folder.

        Args: config_text: the TOML of its config.toml.
        Raises: ConfigError if it already holds a run.
        """
        folder = cls(path, tensorboard=tensorboard)
        if folder.config_path.exists():
            what = "a finished run" if folder.is_finished else "a run"
            raise ConfigError(
                f"{folder.path} already holds {what}: choose another --out, move it aside with --fresh, "
                f"or continue it with `agentrl train --resume {folder.path}`"
            )
        partial = folder.config_path.with_suffix(".tmp")
        try:
            folder.checkpoints_path.mkdir(parents=True, exist_ok=True)
            folder.format_path.write_text(f"{FORMAT}\n", encoding="utf-8")
            partial.write_text(config_text, encoding="utf-8")
            partial.replace(folder.config_path)
        except OSError as error:
            with suppress(OSError):
                for path in (partial, folder.format_path):
                    path.unlink(missing_ok=True)
            raise StoreError(f"cannot write to {folder.path}: {error}; choose another --out or free space") from error
        return folder

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open an existing run. Raises: CheckpointError if there is none, or one of another format."""
        folder = cls(path)
        if not folder.config_path.exists():
            raise CheckpointError(
                f"{path} holds no run (no config.toml); start one with `agentrl train CONFIG --out {path}`"
            )
        found = folder.format_path.read_text(encoding="utf-8").strip() if folder.format_path.exists() else "1"
        if found != str(FORMAT):
            raise CheckpointError(
                f"{path} holds a run of format {found}, and this version reads format {FORMAT}: continue with the "
                "version of AgentRL that began it, or start a new run; set model.path to its model to begin with that"
            )
        return folder

    def abandon(self) -> None:
        """Remove the files of a run that has no checkpoint, so that its folder can be used again."""
        if any(self.checkpoints_path.glob("step-*")):
            return
        self.close()
        for log in (self.config_path, self.format_path, self.metrics_path, self.trajectories_path):
            log.unlink(missing_ok=True)
        for folder in (self.checkpoints_path, self.path / "tensorboard"):
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # something else is in it
            self.path.rmdir()

    @property
    def is_finished(self) -> bool:
        """Whether the run wrote its summary."""
        return self.summary_path.exists()

    def log(self, stage: str, step: int, version: int, time_s: float, metrics: Mapping[str, float]) -> None:
        """Append one line of metrics. Numbers that are not finite are written as null.

        Args:
            stage, step: which step of which stage.
            version: how many times the sampler has had new weights.
            time_s: wall seconds of the run.
            metrics: numbers by `area/name`.
        Raises: StoreError if the file cannot be written.
        """
        line = encode_line({"stage": stage, "step": step, "version": version, "time_s": round(time_s, 3), **metrics})
        _append(self.metrics_path, line)
        writer = self._events()
        if writer is not None:
            for name, value in metrics.items():
                writer.add_scalar(f"{stage}/{name}", value, step)

    def offsets(self) -> dict[str, int]:
        """Bytes written to each log, by file name; every checkpoint holds them."""
        logs = (self.metrics_path, self.trajectories_path)
        return {log.name: log.stat().st_size if log.exists() else 0 for log in logs}

    def rewind(self, offsets: Mapping[str, int]) -> None:
        """Cut each log back to the length that it had at a checkpoint.

        Args: offsets: of `offsets`; a log that is not in it is emptied.
        """
        for log in (self.metrics_path, self.trajectories_path):
            if log.exists():
                os.truncate(log, min(offsets.get(log.name, 0), log.stat().st_size))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json in one step. A folder that has this file holds a finished run.

        Raises: StoreError if it cannot be written.
        """
        write_summary(self.summary_path, summary)

    def close(self) -> None:
        """Close the TensorBoard writer, if there is one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _events(self) -> Any:
        if self.tensorboard and self._writer is None:
            # An optional extra, and half a second of import.
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self.tensorboard = False
                return None
            self._writer = SummaryWriter(str(self.path / "tensorboard"))
        return self._writer


def _append(path: Path, line: bytes) -> None:
    try:
        with path.open("ab") as file:
            file.write(line)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error}; free space and continue with `agentrl train --resume {path.parent}`"
        ) from error

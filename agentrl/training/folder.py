"""The folder of a training run: configuration, metrics, trajectories, checkpoints, summary.

Owns the files' names, whose folder it is, and how far each log had been written at a checkpoint, so that a resumed
run continues them without a repeated or missing line.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from agentrl.errors import CheckpointError, ConfigError, StoreError
from agentrl.rollout.json_lines import encode_line
from agentrl.rollout.lock import FolderLock, entries_of
from agentrl.rollout.store import write_summary
from agentrl.training.files.kept_weights import KeptWeights
from agentrl.training.files.log_marks import LogMarks, cut

FORMAT = 3
"""Number of a run folder's layout; a run of another one is refused."""
_SHOWN = 3
_NOTHING = {"bytes": 0}
# Keys that each line of a run's log has.
_KEYS = {
    "metrics.jsonl": frozenset({"stage", "step", "version"}),
    "trajectories.jsonl": frozenset({"env", "task", "turns"}),
}


class RunFolder:
    """Paths and append-only logs of one run.

    A run writes only into a folder that it made or found empty, and removes only its own files: what a user puts there
    stays. One process at a time may write (`lock`); readers need no lock.
    """

    def __init__(self, path: str | Path, *, tensorboard: bool = False) -> None:
        self.path = Path(path).absolute()  # an author's code may change the working directory
        self.config_path = self.path / "config.toml"
        self.identity_path = self.path / "identity.json"
        self.metrics_path = self.path / "metrics.jsonl"
        self.trajectories_path = self.path / "trajectories.jsonl"
        self.checkpoints_path = self.path / "checkpoints"
        self.model_path = self.path / "model"
        self.summary_path = self.path / "summary.json"
        self.status_path = self.path / "status.json"
        self.format_path = self.path / "format"
        self.tensorboard = tensorboard
        self._writer: Any = None
        self._marks = LogMarks(self.path)
        self._lock = FolderLock(path)
        self._was_made = False

    @classmethod
    def create(
        cls, path: str | Path, config_text: str, *, identity: Mapping[str, Any] | None = None, tensorboard: bool = False
    ) -> RunFolder:
        """Make a new run folder, and lock it until `close`.

        Args:
            path: a folder that does not exist, or is empty but for what an operating system leaves everywhere.
            config_text: the TOML of its config.toml.
            identity: of the run, see `agentrl.training.identity`.
            tensorboard: write its events too.
        Raises: ConfigError if something else is there, or another process makes a run there; StoreError if the folder
            cannot be written.
        """
        folder = cls(path, tensorboard=tensorboard)
        folder._check_free()
        folder._was_made = not folder.path.exists()
        folder._lock.acquire()
        try:
            folder._check_free()  # nobody came first
            folder._begin(config_text, identity or {})
        except (OSError, StoreError) as error:
            folder.abandon()
            raise StoreError(f"cannot write to {folder.path}: {error}; choose another --out or free space") from error
        except ConfigError:
            folder.close()
            raise
        return folder

    def _check_free(self) -> None:
        path = self.path
        if os.path.lexists(path) and not path.is_dir():
            what = "a link to nothing" if path.is_symlink() else "no folder"
            raise ConfigError(f"{path} is {what}: choose another --out")
        if is_run(path):
            what = "a finished run" if self.is_finished else "a run"
            raise ConfigError(
                f"{path} already holds {what}: choose another --out, move it aside with --fresh, "
                f"or continue it with `agentrl train --resume {path}`"
            )
        found = entries_of(path)
        if found:
            shown = ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
            raise ConfigError(
                f"{path} holds {len(found)} files or folders that are not of a run ({shown}), and a run writes only "
                "into a folder of its own: choose another --out"
            )

    def _begin(self, config_text: str, identity: Mapping[str, Any]) -> None:
        """Write the first files; config.toml, without which a folder is no run, comes last and whole."""
        self.checkpoints_path.mkdir()
        self.metrics_path.touch()
        write_summary(self.identity_path, identity)
        self.format_path.write_text(f"{FORMAT}\n", encoding="utf-8")
        partial = self.config_path.with_suffix(".tmp")
        try:
            partial.write_text(config_text, encoding="utf-8")
            partial.replace(self.config_path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open an existing run, to read it. Raises: CheckpointError if there is none, or one of another format."""
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

    def lock(self) -> None:
        """Keep other processes from writing, until `close`. Raises: ConfigError if another one writes."""
        self._lock.acquire()

    def identity(self) -> dict[str, Any]:
        """What the run was begun with. Raises: CheckpointError if that cannot be read."""
        try:
            identity: dict[str, Any] = json.loads(self.identity_path.read_text(encoding="utf-8"))
            return identity
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{self.identity_path} cannot be read ({error}), so nothing says what this run was begun with: "
                "start a new run; set model.path to its model to begin with that"
            ) from error

    def abandon(self) -> None:
        """Remove the files of a run that has no checkpoint, so that its folder can be used again, and `close`.

        What is not of the run stays, and so does a folder that was there before.
        """
        if any(self.checkpoints_path.glob("step-*")):
            self.close()
            return
        self._close_writer()
        with suppress(OSError):
            for own in (self.format_path, self.config_path, self.identity_path, self.metrics_path):
                own.unlink(missing_ok=True)
            self.trajectories_path.unlink(missing_ok=True)
            self.status_path.unlink(missing_ok=True)
            KeptWeights(self.path).remove()
            for event in (self.path / "tensorboard").glob("events.out.tfevents.*"):
                event.unlink()
        self.close()
        made = [self.path] if self._was_made else []
        for folder in (self.checkpoints_path, self.path / "tensorboard", *made):
            with suppress(OSError):  # something else is in it
                folder.rmdir()

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

    def marks(self) -> dict[str, dict[str, Any]]:
        """Size and hash of each log now, by its path in the folder; the next checkpoint holds them.

        Raises: StoreError if a log became shorter under the run.
        """
        if self._writer is not None:
            self._writer.flush()
        return self._marks.mark([self.metrics_path, self.trajectories_path, *self._event_files()])

    def rewind(self, marks: Mapping[str, Mapping[str, Any]]) -> None:
        """Cut each log back to what it was at a checkpoint. All are checked before one is changed.

        Args: marks: of `marks`. Lines of metrics.jsonl and trajectories.jsonl that came after it, or all if it does
            not name them, are written again by the run; other files stay.
        Raises: CheckpointError if a log is missing, too short or edited, or if lines after the mark are not of a run.
        """
        self._marks.check(marks)
        logs = {log.name: log for log in (self.metrics_path, self.trajectories_path)}
        for name, log in logs.items():
            _check_tail(log, marks.get(name, _NOTHING)["bytes"], _KEYS[name])
        for name, log in logs.items():
            cut(log, marks.get(name, _NOTHING)["bytes"])
        for name in marks.keys() - logs.keys():
            cut(self.path / name, marks[name]["bytes"])

    def _event_files(self) -> list[Path]:
        return sorted((self.path / "tensorboard").glob("events.out.tfevents.*"))

    def stage_end(self, stage: str) -> Path:
        """Where the checkpoint of a stage's end is kept."""
        return self.path / "stage_ends" / quote(stage, safe="")

    def keep_stage_end(self, stage: str, saved: Path) -> None:
        """Keep a checkpoint as that of a stage's end, in one step; its files are linked, not copied, where that works.

        Raises: StoreError if it cannot be written.
        """
        kept = self.stage_end(stage)
        partial = kept.with_name(f".{kept.name}.partial")
        try:
            if not kept.exists():
                shutil.rmtree(partial, ignore_errors=True)  # of a killed process
                shutil.copytree(saved, partial, copy_function=_link_or_copy)
                partial.rename(kept)
        except OSError as error:
            raise StoreError(
                f"cannot write {kept}: {error}; free space and continue with `agentrl train --resume {self.path}`"
            ) from error

    def reward_model(self, stage: str) -> Path:
        """Where the reward model of a stage is kept."""
        return self.path / "reward_models" / quote(stage, safe="")

    def write_reward_model(self, stage: str, save: Callable[[Path], object]) -> None:
        """Write the reward model of a stage in one step; that of a run which was cut off after it is replaced.

        Args: save: writes it into a folder.
        Raises: StoreError if it cannot be written.
        """
        kept = self.reward_model(stage)
        partial = kept.with_name(f".{kept.name}.partial")
        try:
            shutil.rmtree(partial, ignore_errors=True)  # of a killed process
            save(partial)
            shutil.rmtree(kept, ignore_errors=True)
            partial.rename(kept)
        except OSError as error:
            raise StoreError(
                f"cannot write {kept}: {error}; free space and continue with `agentrl train --resume {self.path}`"
            ) from error

    def write_model(self, save: Callable[[Path], object]) -> None:
        """Write the trained model in one step. Another model of that name, which a user put there, is moved aside.

        Args: save: writes it into a folder.
        Raises: StoreError if it cannot be written.
        """
        partial = self.path / ".model.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)  # of a killed process
            save(partial)
            if os.path.lexists(self.model_path) and not _same_weights(self.model_path, partial):
                self.model_path.rename(free_path(self.path / "model-old"))
            if not self.model_path.exists():
                partial.rename(self.model_path)
        except OSError as error:
            raise StoreError(
                f"cannot write {self.model_path}: {error}; free space and continue with `agentrl train --resume "
                f"{self.path}`"
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json in one step. A folder that has this file holds a finished run.

        Raises: StoreError if it cannot be written.
        """
        write_summary(self.summary_path, summary)

    def close(self) -> None:
        """Give the lock back, and close the TensorBoard writer."""
        self._close_writer()
        self._lock.release()

    def _close_writer(self) -> None:
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


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


def _same_weights(folder: Path, other: Path) -> bool:
    """Whether a folder holds the weights of another one: then it is the model that a cut-off run had written."""
    names = [path.name for path in other.glob("*.safetensors")]
    return bool(names) and all(
        (folder / name).is_file() and filecmp.cmp(folder / name, other / name, shallow=False) for name in names
    )


def is_run(path: str | Path) -> bool:
    """Whether a folder holds a run of any format from the second on."""
    config, number = Path(path) / "config.toml", Path(path) / "format"
    return config.is_file() and number.is_file() and number.read_bytes().strip().isdigit()


def move_aside(path: str | Path) -> Path:
    """Rename the folder of a run, with all that is in it, to the first free one of NAME-old, NAME-old-2, …

    Returns: the new path. Raises: ConfigError if it is no run, or a process writes into it; StoreError.
    """
    path = Path(path)
    if not is_run(path):
        raise ConfigError(f"{path} holds no run: choose another --out")
    aside = free_path(path.with_name(f"{path.name}-old"))
    with FolderLock(path) as lock:
        try:
            path.rename(aside)
        except OSError as error:
            raise StoreError(f"cannot rename {path} to {aside}: {error.strerror}; choose another --out") from error
        lock.path = aside
    return aside


def free_path(path: Path) -> Path:
    """The path, or the first of NAME-2, NAME-3, … at which there is nothing."""
    number, free = 2, path
    while os.path.lexists(free):
        free, number = path.with_name(f"{path.name}-{number}"), number + 1
    return free


def _check_tail(log: Path, start: int, keys: frozenset[str]) -> None:
    """Refuse a log whose whole lines after a position are not those that a run writes. The last may be torn.

    Raises: CheckpointError.
    """
    if not log.is_file():
        return
    with log.open("rb") as file:
        file.seek(start)
        for line in file:
            if line.endswith(b"\n") and not _is_line_of_run(line, keys):
                raise CheckpointError(
                    f"{log} holds lines after the last checkpoint that no run writes, and going on would remove them: "
                    "move the file away, keep what is yours, put the run's own back, and resume again"
                )


def _is_line_of_run(line: bytes, keys: frozenset[str]) -> bool:
    return line.lstrip().startswith(b"{") and all(f'"{key}":'.encode() in line for key in keys)


def _append(path: Path, line: bytes) -> None:
    try:
        with path.open("ab") as file:
            file.write(line)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error}; free space and continue with `agentrl train --resume {path.parent}`"
        ) from error

"""Checkpoints: weights, optimiser, random states and a run's own state. Owns their files.

A checkpoint appears whole or not at all: it is written to a temporary folder, flushed and renamed. Its manifest
records the size and hash of each file. It is also a model folder that `transformers` loads. Only checkpoints of the
same run are ever removed, and none in which a user has put something. It guards against crashes, full disks and bit
rot, not against someone who writes to the folder on purpose.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import random
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError

from agentrl.errors import CheckpointError, ConfigError
from agentrl.policy import model_folder

logger = logging.getLogger(__name__)

FORMAT = 3
MANIFEST, EXTRA, STATE = "manifest.json", "extra.json", "state.pt"
LEARNER = "learner"
"""Key of the learner's state in `STATE`."""
_NAME = re.compile(r"step-(\d{8,})")
# Folders of a save that was cut off, with the number of the process.
_WRITING, _REPLACED = re.compile(r"\.writing-\d{8,}-\d+"), re.compile(r"\.replaced-(step-\d{8,})-\d+")


class Stateful(Protocol):
    """An object whose state is saved: a `Learner`."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files have been verified.

    Attributes:
        path: its folder; `from_pretrained(path)` loads model and tokenizer.
        step: the number it was saved under.
        extra: the run's own state, as given to `save`.
    """

    path: Path
    step: int
    extra: dict[str, Any]

    def restore(self, learner: Stateful | None = None) -> None:
        """Load the learner's state, and the global random states of python, numpy and torch.

        Args: learner: None restores the random states alone.
        Raises: CheckpointError if a learner is given and the checkpoint has no learner state.
        """
        state = torch.load(self.path / STATE, map_location="cpu", weights_only=True)
        if learner is not None:
            if state[LEARNER] is None:
                raise CheckpointError(f"{self.path} holds no learner state: it was saved without one")
            learner.load_state_dict(state[LEARNER])
        _set_rng_state(state["rng"])


def fingerprint(config: Mapping[str, Any]) -> str:
    """A hash of a configuration: the order of keys does not change it."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()


@contextmanager
def same_random_states() -> Iterator[None]:
    """Code that leaves the global random states of python, numpy and torch as they were before it."""
    before = _rng_state()
    try:
        yield
    finally:
        _set_rng_state(before)


def save(
    directory: str | Path,
    step: int,
    model: Any,
    *,
    learner: Stateful | None = None,
    tokenizer: Any = None,
    extra: Mapping[str, Any] | None = None,
    config_fingerprint: str = "",
    run: str = "",
    keep: int = 2,
) -> Path:
    """Write the checkpoint `directory/step-NNNNNNNN`, then remove all of this run but the newest `keep`.

    Args:
        directory: the run's checkpoints; created if missing.
        step: names the checkpoint; one of the same step and run is replaced, another one is moved aside.
        model: has `save_pretrained`.
        tokenizer: saved in the same folder, with its chat template.
        extra: the run's own state, as JSON values.
        config_fingerprint: from `fingerprint`; `read` refuses a checkpoint of another one.
        run: identifies the run.
        keep: newest checkpoints that stay, at least 1.
    Returns: the folder.
    Raises: CheckpointError if it cannot be written (full disk); earlier checkpoints are untouched.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    root = Path(directory)
    final, aside = root / f"step-{step:08d}", root / f".writing-{step:08d}-{os.getpid()}"
    extra_text = json.dumps(dict(extra or {}), indent=1)
    state = {LEARNER: learner.state_dict() if learner is not None else None, "rng": _rng_state()}
    try:
        root.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(root)
        aside.mkdir()
        _write_files(aside, model, tokenizer, state, extra_text)
        _write_manifest(aside, step, config_fingerprint, run)
        _rename(aside, final, run)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise CheckpointError(
            f"could not write checkpoint {final}: {error}. Earlier checkpoints are untouched: "
            "free disk space (or lower run.keep_checkpoints) and resume"
        ) from error
    for old in _folders(root)[keep:]:
        if _is_own(old, run):
            shutil.rmtree(old, ignore_errors=True)
    return final


def adopt(path: str | Path, directory: str | Path, *, config_fingerprint: str, run: str) -> Checkpoint:
    """Copy a checkpoint of another run, so that a new run goes on from it.

    Args:
        path: the checkpoint.
        directory: the new run's checkpoints.
        config_fingerprint, run: of the new run, as for `save`.
    Returns: the copy.
    Raises: CheckpointError if the checkpoint is damaged, or the copy cannot be written.
    """
    found, root = read(path), Path(directory)
    final, aside = root / f"step-{found.step:08d}", root / f".writing-{found.step:08d}-{os.getpid()}"
    try:
        shutil.copytree(found.path, aside, ignore=shutil.ignore_patterns(MANIFEST))
        _write_manifest(aside, found.step, config_fingerprint, run)
        _rename(aside, final, run)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise CheckpointError(f"could not copy checkpoint {path} to {final}: {error}; free disk space") from error
    return Checkpoint(final, found.step, found.extra)


def latest(directory: str | Path) -> Path | None:
    """The newest checkpoint whose files are all intact; None where there is no checkpoint at all.

    Raises: CheckpointError if there are checkpoints and each is damaged: a run that starts again would hide that.
    """
    root = Path(directory)
    if root.is_dir():
        _clear_leftovers(root)
    problems = []
    for folder in _folders(root):
        try:
            _verify(folder)
        except CheckpointError as error:
            logger.warning("skipping a damaged checkpoint: %s", error)
            problems.append(str(error))
        else:
            return folder
    if problems:
        raise CheckpointError(
            f"no checkpoint in {directory} is intact: {'; '.join(problems)}. Restore one from a backup, "
            "or remove the folder to start from the beginning"
        )
    return None


def read(path: str | Path, *, config_fingerprint: str | None = None) -> Checkpoint:
    """Verify a checkpoint and read the run's own state.

    Args: config_fingerprint: refuse a checkpoint of another configuration; None accepts any, and one that was
        saved without is accepted.
    Raises: CheckpointError naming the damaged file, and the checkpoint to fall back to; ConfigError for
        another configuration.
    """
    folder = Path(path)
    try:
        manifest = _verify(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{error}.{_fallback_hint(folder)}") from error
    if config_fingerprint is not None and manifest["config_fingerprint"] not in ("", config_fingerprint):
        raise ConfigError(
            f"{folder} was written under another configuration: config.toml has been edited since. Undo the edit to "
            "resume, or start a new run; set model.path to a model of this run to continue from that model"
        )
    return Checkpoint(folder, int(manifest["step"]), json.loads((folder / EXTRA).read_text()))


def _folders(root: Path) -> list[Path]:
    """Checkpoint folders, newest step first."""
    if not root.is_dir():
        return []
    found = [(int(match[1]), p) for p in root.iterdir() if (match := _NAME.fullmatch(p.name)) and p.is_dir()]
    return [path for _, path in sorted(found, reverse=True)]


def _fallback_hint(folder: Path) -> str:
    for other in _folders(folder.parent):
        if other != folder:
            try:
                _verify(other)
            except CheckpointError:
                continue
            return f" Fall back to {other}, which is intact"
    return " No other checkpoint in the same folder is intact"


def _write_files(folder: Path, model: Any, tokenizer: Any, state: Mapping[str, Any], extra_text: str) -> None:
    with model_folder.quiet():
        model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    torch.save(dict(state), folder / STATE)
    (folder / EXTRA).write_text(extra_text)


def _write_manifest(folder: Path, step: int, config_fingerprint: str, run: str) -> None:
    """Describe every file of the folder, and flush them all to the disk."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        _flush(path)
    manifest = {"format": FORMAT, "step": step, "config_fingerprint": config_fingerprint, "run": run, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    _flush(folder / MANIFEST)
    _flush(folder)


def _rename(aside: Path, final: Path, run: str) -> None:
    """Rename a finished folder to its final name; what has that name is moved away first, and removed if it is ours."""
    if not os.path.lexists(final):
        aside.rename(final)
    elif _is_own(final, run):
        old = final.with_name(f".replaced-{final.name}-{os.getpid()}")
        final.rename(old)
        aside.rename(final)
        shutil.rmtree(old, ignore_errors=True)
    else:
        kept = next(p for n in itertools.count(1) if not os.path.lexists(p := final.with_name(f"{final.name}-old-{n}")))
        logger.warning("%s holds what this run did not write: it is now %s", final, kept)
        final.rename(kept)
        aside.rename(final)
    _flush(final.parent)


def _is_own(folder: Path, run: str) -> bool:
    """Whether a folder is a checkpoint of this run, and nothing else is in it."""
    if folder.is_symlink():
        return False
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files = {MANIFEST, *manifest["files"]}
        if manifest.get("run", "") != run:
            return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    folders = {parent.as_posix() for name in files for parent in Path(name).parents}
    return all(path.relative_to(folder).as_posix() in files | folders for path in folder.rglob("*"))


def _clear_leftovers(root: Path) -> None:
    """Remove the half-written folders of a killed process, and undo a replacement that it did not finish."""
    for path in list(root.iterdir()):
        moved = _REPLACED.fullmatch(path.name)
        if moved and not os.path.lexists(root / moved[1]):
            path.rename(root / moved[1])
        elif moved or _WRITING.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _verify(folder: Path) -> dict[str, Any]:
    """Check every file of a checkpoint against the size and hash in its manifest.

    Returns: the manifest.
    Raises: CheckpointError that names the damaged file.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: the checkpoint is incomplete")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        format_number = manifest["format"]
        problem = _problem_of(manifest) if format_number == FORMAT else ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is corrupt: {error}") from error
    if problem:
        raise CheckpointError(f"{path} is corrupt: {problem}")
    if format_number != FORMAT:
        raise CheckpointError(
            f"{folder} has checkpoint format {format_number}, and this version reads format {FORMAT}: continue with "
            "the version of AgentRL that wrote it, or set model.path to it and start a new run"
        )
    for name, expected in manifest["files"].items():
        _verify_file(folder / name, expected)
    return manifest


def _problem_of(manifest: Mapping[str, Any]) -> str:
    """What is wrong with a manifest of this format; empty if nothing is. Raises: KeyError for a missing key."""
    step, files, fingerprint = manifest["step"], manifest["files"], manifest["config_fingerprint"]
    if type(step) is not int or step < 0 or not isinstance(fingerprint, str):
        return f"step = {step!r} is no number of a step, or config_fingerprint = {fingerprint!r} no text"
    entries = files.values() if isinstance(files, dict) else [None]
    if not all(isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys() for entry in entries):
        return "files does not give size and hash of each file"
    missing = sorted({EXTRA, STATE} - files.keys())
    return f"files does not name {' and '.join(missing)}" if missing else ""


def _verify_file(path: Path, expected: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: the checkpoint is incomplete")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise CheckpointError(f"{path} is corrupt: it has {size} bytes, expected {expected['bytes']}")
    if _sha256(path) != expected["sha256"]:
        raise CheckpointError(f"{path} is corrupt: its contents do not match the hash in {MANIFEST}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Force a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rng_state() -> dict[str, Any]:
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tolist(), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_rng_state(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.asarray(keys, np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])

"""Files of other systems' formats, written and read. Owns which episodes of a run are written, and the files."""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from agentrl.errors import ConfigError, StoreError
from agentrl.rollout.interchange import atif, inspect_log, verifiers_trace
from agentrl.rollout.json_lines import encode_line
from agentrl.rollout.sources.chat_file import ChatError
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import Trajectory

Format = Literal["inspect", "atif", "verifiers"]
FORMATS: tuple[Format, ...] = ("inspect", "atif", "verifiers")
_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "inspect": (".json",),
    "atif": (".jsonl", ".json"),
    "verifiers": (".jsonl",),
}
_STORE, _SUMMARY = "trajectories.jsonl", "summary.json"
_OF_BENCHMARKS = "bench"
# What an archive raises that is damaged, encrypted, or packed in a way that is not known here.
_UNPACKING = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        out, format: the file.
        episodes, turns: how many there are; attempts that were tried again are left out.
        discarded: of these episodes, those that ended in a fault.
        with_ids: turns with token ids.
    """

    out: str
    format: str
    episodes: int
    turns: int
    discarded: int
    with_ids: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def export_episodes(
    run: str | Path,
    out: str | Path,
    form: Format,
    *,
    stage: str | None = None,
    limit: int | None = None,
    model: str | None = None,
) -> Exported:
    """Write the episodes of a run as a file of another system.

    Args:
        run: a benchmark's or a training run's folder, or a `trajectories.jsonl`.
        out: a new file. ATIF documents are written one a line, or one alone into a `.json` file.
        form: `inspect`, `atif` or `verifiers`.
        stage: only episodes of this stage; of a benchmark by default the policy's, without the references.
        limit: at most as many.
        model: name of what played; by default what the run's summary says.
    Raises: ConfigError if the file exists or has another format's name; StoreError if there are no episodes.
    """
    out, tally = Path(out), _Tally()
    _check_out(out, form)
    episodes = tally.counted(_final(run, stage, limit))
    played_by = model or str(_summary_of(_store_of(Path(run)).path.parent).get("policy", "agentrl"))
    _write(out, _lines(episodes, form, out, played_by))
    return Exported(str(out), form, tally.episodes, tally.turns, tally.discarded, tally.with_ids)


def final_episodes(run: str | Path, *, stage: str | None = None, limit: int | None = None) -> list[Trajectory]:
    """The last attempt of each episode of a run, in the order in which they ended.

    Args: as `export_episodes`.
    Raises: ConfigError if there is no store; StoreError if it holds no such episodes.
    """
    return list(_final(run, stage, limit))


def _final(run: str | Path, stage: str | None, limit: int | None) -> Iterator[Trajectory]:
    store, count = _store_of(Path(run)), 0
    if stage is None and "identity" in _summary_of(store.path.parent):
        stage = _OF_BENCHMARKS
    for episode in store.read(stage=stage):
        if count == limit:
            return
        if not episode.labels.superseded:
            count += 1
            yield episode
    if not count:
        of_stage = f" of the stage {stage!r}" if stage else ""
        raise StoreError(f"{store.path} holds no episodes{of_stage}: give another run, or another --stage")


@dataclass
class _Tally:
    """Counts episodes as they pass."""

    episodes: int = 0
    turns: int = 0
    discarded: int = 0
    with_ids: int = 0

    def counted(self, episodes: Iterable[Trajectory]) -> Iterator[Trajectory]:
        for episode in episodes:
            self.episodes += 1
            self.turns += len(episode.turns)
            self.discarded += episode.status == "fault"
            self.with_ids += sum(turn.action.token_ids is not None for turn in episode.turns)
            yield episode


def _store_of(run: Path) -> TrajectoryStore:
    path = run / _STORE if run.is_dir() else run
    if not path.is_file():
        raise ConfigError(f"there are no episodes at {path}: give the folder of a run, or a {_STORE}")
    return TrajectoryStore(path)


def _check_out(out: Path, form: Format) -> None:
    if form not in FORMATS:
        raise ConfigError(f"no format is named {form!r}: it is one of {', '.join(FORMATS)}")
    if out.suffix not in _SUFFIXES[form]:
        endings = " or ".join(_SUFFIXES[form])
        raise ConfigError(f"{form} is written into a file that ends in {endings}, got {out.name!r}")
    if out.exists():
        raise ConfigError(f"{out} exists: name a new file")


def _summary_of(folder: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _lines(episodes: Iterable[Trajectory], form: Format, out: Path, model: str) -> Iterator[Any]:
    """The lines of the file. An episode at a time is in memory, except for Inspect, whose log is one value."""
    if form == "inspect":
        yield inspect_log.log_of(list(episodes), model)
        return
    for number, episode in enumerate(episodes):
        if form == "atif" and out.suffix == ".json" and number:
            raise ConfigError("a .json file holds one ATIF document, and there are more episodes: name a .jsonl file")
        yield atif.document_of(episode, model) if form == "atif" else verifiers_trace.line_of(episode, model)


def _write(out: Path, lines: Iterable[Any]) -> None:
    """Write a whole file or nothing."""
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.writelines(encode_line(line) for line in lines)
        os.replace(partial, out)
    except OSError as error:
        raise StoreError(f"cannot write {out}: {error.strerror}; name a file that you may write") from error
    finally:
        partial.unlink(missing_ok=True)


# Reading.


def read_atif(file: Path) -> Iterator[tuple[int, Trajectory | ChatError]]:
    """The documents of a `.json` or `.jsonl` file, numbered from 1. Raises: StoreError if it cannot be read."""
    text = _text_of(file)
    documents = [text] if file.suffix == ".json" else text.split("\n")
    for number, document in enumerate(documents, 1):
        if document.strip():
            yield number, _tried(lambda: atif.episode_of(_json(document), f"{file.stem}-{number}"))  # noqa: B023


def read_inspect(file: Path) -> Iterator[tuple[int, Trajectory | ChatError]]:
    """The samples of a log, `.json` or `.eval`, numbered from 1. Raises: StoreError if it cannot be read."""
    try:
        log = _archive(file) if zipfile.is_zipfile(file) else _json(_text_of(file))
        yield from inspect_log.episodes_of(log)
    except ChatError as error:
        raise StoreError(f"{file} {error}") from None


def _archive(file: Path) -> Mapping[str, Any]:
    """The log in an `.eval` file: a zip of its head and of its samples."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = sorted(name for name in archive.namelist() if re.fullmatch(r"samples/.+\.json", name))
            samples = [_json(archive.read(name).decode()) for name in names]
            return {**_json(archive.read("header.json").decode()), "samples": samples}
    except (*_UNPACKING, KeyError, TypeError, OSError, UnicodeDecodeError) as error:
        advice = "convert it to JSON by `inspect log convert`"
        raise ChatError(f"is an .eval file that cannot be unpacked ({error}): {advice}") from None


def _tried(read: Callable[[], Trajectory]) -> Trajectory | ChatError:
    try:
        return read()
    except ChatError as error:
        return error


def _json(text: str) -> Any:
    try:
        return json.loads(text)  # Inspect writes NaN for a score that is missing
    except (ValueError, RecursionError) as error:
        raise ChatError(f"is not JSON ({error})") from None


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StoreError(f"cannot read {file}: it is not UTF-8 text ({error})") from error
    except OSError as error:
        raise StoreError(f"cannot read {file}: {error.strerror}") from error

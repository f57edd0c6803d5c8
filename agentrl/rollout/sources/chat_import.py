"""A file of chats becomes a store. Owns which lines are refused, and what is written about the file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentrl.errors import AgentRLError, StoreError
from agentrl.rollout.new_folder import new_folder
from agentrl.rollout.sources.chat_file import ChatError, chat_of
from agentrl.rollout.store import TrajectoryStore, write_summary
from agentrl.trajectory import Trajectory

_MOST_SHOWN = 20
_BOM = b"\xef\xbb\xbf"


class ImportFailed(AgentRLError, ValueError):
    """Lines of a file are no chats; the text names each, up to twenty."""


@dataclass(frozen=True)
class Imported:
    """What was imported.

    Attributes:
        out: the folder; `data = [{ path = OUT }]` trains on it.
        source, sha256: the file, and a hash of its bytes.
        chats, turns, tasks: how many there are; chats that begin alike are of one task.
        rewarded, succeeded: chats with a reward or a verdict, and those that succeeded.
        skipped: lines that were left out, and why.
        date: in UTC.
    """

    out: str
    source: str
    sha256: str
    chats: int
    turns: int
    tasks: int
    rewarded: int
    succeeded: int
    skipped: dict[int, str]
    date: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"skipped": [{"line": line, "why": why} for line, why in self.skipped.items()]}


Read = Callable[[Path], Iterator[tuple[int, Trajectory | ChatError]]]
"""Reads a file: the number of each part of it, from 1, and its episode, or what is wrong with it."""


def import_chats(
    file: str | Path,
    out: str | Path,
    *,
    keep_unknown: bool = False,
    skip_bad: bool = False,
    on_line: Callable[[int], None] = lambda number: None,
) -> Imported:
    """Write a store of a file of chats; see `agentrl.rollout.sources.chat_file` and `import_episodes`.

    Args: keep_unknown: keep fields that are not known in the metadata.
    """

    def read(path: Path) -> Iterator[tuple[int, Trajectory | ChatError]]:
        return _chats(path, keep_unknown)

    return import_episodes(file, out, read, skip_bad=skip_bad, on_part=on_line)


def import_episodes(
    file: str | Path,
    out: str | Path,
    read: Read,
    *,
    part: str = "line",
    skip_bad: bool = False,
    on_part: Callable[[int], None] = lambda number: None,
) -> Imported:
    """Write a store of the episodes of a file; a folder appears whole, or not at all.

    Args:
        out: a new folder for `trajectories.jsonl` and `import.json`.
        read: reads the file.
        part: what a part of it is called in messages.
        skip_bad: leave out parts that are no episodes.
        on_part: called with the number of each part that was read.
    Raises: ImportFailed that names the parts; ConfigError if `out` holds something; StoreError if it or the file
        cannot be used.
    """
    path = Path(file)
    bad: dict[int, str] = {}
    chats = turns = rewarded = succeeded = 0
    tasks: set[str] = set()
    with new_folder(out) as partial, TrajectoryStore(partial / "trajectories.jsonl") as store:
        digest = _digest(path)
        for number, found in read(path):
            on_part(number)
            if isinstance(found, ChatError):
                bad[number] = str(found)
                continue
            chats, turns = chats + 1, turns + len(found.turns)
            rewarded, succeeded = (
                rewarded + found.info.get("rewarded", found.status != "fault"),
                succeeded + found.success,
            )
            tasks.add(found.task.id)
            store.append(found)
        if bad and not skip_bad:
            raise ImportFailed(_listed(path, bad, part))
        if not chats:
            what = "chats" if part == "line" else f"{part}s"
            raise ImportFailed(f"{file} holds no {what}{': ' + _listed(path, bad, part) if bad else ''}")
        date = datetime.now(UTC).isoformat(timespec="seconds")
        done = Imported(*(str(out), str(file), digest, chats, turns, len(tasks), rewarded, succeeded, bad, date))
        write_summary(partial / "import.json", done.to_json())
    return done


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise StoreError(f"cannot read {file}: {error.strerror}") from error


def _chats(file: Path, keep_unknown: bool) -> Iterator[tuple[int, Trajectory | ChatError]]:
    """Each line's number and chat, or what is wrong with it; empty lines are left out."""
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.removeprefix(_BOM).strip():
                    try:
                        yield number, chat_of(line.removeprefix(_BOM), number, keep_unknown=keep_unknown)
                    except ChatError as error:
                        yield number, error
    except OSError as error:
        raise StoreError(f"cannot read {file}: {error.strerror}") from error


def _listed(file: Path, bad: dict[int, str], part: str) -> str:
    shown = [f"  {part} {number}: {why}" for number, why in list(bad.items())[:_MOST_SHOWN]]
    more = [f"  and {len(bad) - _MOST_SHOWN} more"] if len(bad) > _MOST_SHOWN else []
    parts = f"1 {part}" if len(bad) == 1 else f"{len(bad)} {part}s"
    head = f"{parts} of {file} cannot be imported, and nothing was written (--skip-bad imports the others):"
    return "\n".join([head, *shown, *more])

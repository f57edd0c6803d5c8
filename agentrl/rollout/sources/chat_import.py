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


def import_chats(
    file: str | Path,
    out: str | Path,
    *,
    keep_unknown: bool = False,
    skip_bad: bool = False,
    on_line: Callable[[int], None] = lambda number: None,
) -> Imported:
    """Write a store of a file of chats; a folder appears whole, or not at all.

    Args:
        file: one chat a line; see `agentrl.rollout.sources.chat_file`.
        out: a new folder for `trajectories.jsonl` and `import.json`.
        keep_unknown: keep fields that are not known in the metadata.
        skip_bad: leave out lines that are no chats.
        on_line: called with the number of each line that was read.
    Raises: ImportFailed that names the lines; ConfigError if `out` holds something; StoreError if it or the file
        cannot be used.
    """
    bad: dict[int, str] = {}
    chats = turns = rewarded = succeeded = 0
    tasks: set[str] = set()
    digest = hashlib.sha256()
    with new_folder(out) as partial, TrajectoryStore(partial / "trajectories.jsonl") as store:
        for number, found in _chats(Path(file), digest, keep_unknown):
            on_line(number)
            if isinstance(found, ChatError):
                bad[number] = str(found)
                continue
            chats, turns = chats + 1, turns + len(found.turns)
            rewarded, succeeded = rewarded + found.info["rewarded"], succeeded + found.success
            tasks.add(found.task.id)
            store.append(found)
        if bad and not skip_bad:
            raise ImportFailed(_listed(Path(file), bad))
        if not chats:
            raise ImportFailed(f"{file} holds no chats{': ' + _listed(Path(file), bad) if bad else ''}")
        date = datetime.now(UTC).isoformat(timespec="seconds")
        done = Imported(
            *(str(out), str(file), digest.hexdigest(), chats, turns, len(tasks), rewarded, succeeded, bad, date)
        )
        write_summary(partial / "import.json", done.to_json())
    return done


def _chats(file: Path, digest: Any, keep_unknown: bool) -> Iterator[tuple[int, Trajectory | ChatError]]:
    """Each line's number and chat, or what is wrong with it; empty lines are left out."""
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                digest.update(line)
                if line.removeprefix(_BOM).strip():
                    try:
                        yield number, chat_of(line.removeprefix(_BOM), number, keep_unknown=keep_unknown)
                    except ChatError as error:
                        yield number, error
    except OSError as error:
        raise StoreError(f"cannot read {file}: {error.strerror}") from error


def _listed(file: Path, bad: dict[int, str]) -> str:
    shown = [f"  line {number}: {why}" for number, why in list(bad.items())[:_MOST_SHOWN]]
    more = [f"  and {len(bad) - _MOST_SHOWN} more"] if len(bad) > _MOST_SHOWN else []
    lines = "1 line" if len(bad) == 1 else f"{len(bad)} lines"
    head = f"{lines} of {file} cannot be imported, and nothing was written (--skip-bad imports the others):"
    return "\n".join([head, *shown, *more])

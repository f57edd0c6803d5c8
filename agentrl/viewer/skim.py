"""One line of a store, read only as far as a table of episodes needs it."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

from agentrl.rollout.json_lines import decode_line, encode_line
from agentrl.rollout.records import FORMAT, READ_FORMATS
from agentrl.safe_json import for_terminal
from agentrl.trajectory import Ending, Labels

_EMPTY = Raw(b"")


class _Env(Struct):
    id: str


class _Task(Struct):
    id: str
    split: str = ""
    data: Raw = _EMPTY


class _Action(Struct):
    versions: Raw = _EMPTY


class _Turn(Struct):
    action: _Action


class _Line(Struct):
    env: _Env
    task: _Task
    seed: int
    ending: Ending
    reward: float | None
    success: bool
    group_id: str
    episode_id: str
    labels: Labels
    turns: list[_Turn]
    fork: tuple[str, int] | None = None
    format: int = 1


class Row(NamedTuple):
    """What the index holds of an episode; its fields are the columns.

    Attributes:
        content: a hash of the task's data: an id only names a task.
        version: of the weights that sampled its last token; None where that is not recorded.
        problem: why the line cannot be read; the other fields are empty then.
    """

    episode_id: str = ""
    env: str = ""
    task: str = ""
    split: str = ""
    content: str = ""
    seed: int = 0
    status: str = ""
    ending: str = ""
    detail: str = ""
    reward: float | None = None
    success: bool = False
    stage: str = ""
    step: int = 0
    mode: str = ""
    attempt: int = 0
    superseded: bool = False
    group_id: str = ""
    turns: int = 0
    version: int | None = None
    forked: bool = False
    problem: str = ""


_decoder = msgspec.json.Decoder(_Line)
_MOST_TEXT = 300
_MOST_WHOLE = (1 << 63) - 1  # SQLite has no larger integers
_MOST_DIGITS = 20


def skim(line: bytes) -> Row:
    """The row of a whole line."""
    try:
        found = _decoder.decode(line) if line[:1] != b" " else _slowly(line)
    except (ValueError, RecursionError, TypeError, AttributeError, LookupError) as error:
        return Row(problem=f"is no trajectory: {error}"[:_MOST_TEXT])
    if found.format not in READ_FORMATS:
        return Row(problem=f"was written in format {found.format}; this version reads formats 2 and {FORMAT}")
    kind = found.ending.kind
    return Row(
        _short(found.episode_id),
        _short(found.env.id),
        _short(found.task.id),
        _short(found.task.split),
        hashlib.blake2b(found.task.data, digest_size=8).hexdigest(),
        _whole(found.seed),
        {"limit": "truncated", "fault": "fault"}.get(kind, "terminated"),
        kind,
        _short(found.ending.detail),
        found.reward,
        found.success,
        _short(found.labels.stage),
        _whole(found.labels.step),
        found.labels.mode,
        _whole(found.labels.attempt),
        found.labels.superseded,
        _short(found.group_id),
        len(found.turns),
        _last_version(found.turns),
        found.fork is not None,
    )


def _slowly(line: bytes) -> _Line:
    """A line with numbers or characters that msgspec does not read: it is read whole, and written without them."""
    record: dict[str, Any] = decode_line(line)
    for text in ("info", "tools", "final_observation"):
        record.pop(text, None)
    for turn in record["turns"]:
        turn["action"] = {"versions": turn["action"].get("versions", [])}
        turn.pop("observation", None)
    return _decoder.decode(encode_line(record))


def _last_version(turns: list[_Turn]) -> int | None:
    for turn in reversed(turns):
        last = bytes(turn.action.versions).rstrip(b"] \n").rpartition(b"[")[2].rpartition(b",")[2].strip()
        if last.isdigit():
            return _whole(int(last[:_MOST_DIGITS]))
    return None


def _whole(number: int) -> int:
    return max(-_MOST_WHOLE, min(number, _MOST_WHOLE))


def _short(text: str) -> str:
    """A text as the index holds it and the page shows it, so that a filter finds what stands there.

    SQLite takes no half characters.
    """
    if len(text) <= _MOST_TEXT and text.isprintable():
        return text
    return for_terminal(text)[:_MOST_TEXT].encode(errors="replace").decode()

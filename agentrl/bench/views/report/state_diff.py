"""What an action changed in the environment's state, where it names its states. Owns no drawing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from agentrl.trajectory import Turn

_PARTS = re.compile(r"[^\n,;|]*[\n,;|]?")
_MOST_CHARS = 4_000
_AROUND = 3
Part = tuple[str, str]
"""`=`, `-` or `+`, and a piece of the state."""


def state_diffs(turns: Sequence[Turn]) -> list[list[Part]]:
    """For each turn what is other in the state before the next one; empty where nothing is, or no state is named."""
    keys = [turn.state_key for turn in turns]
    following = [*keys[1:], None]
    return [
        [] if before is None or after is None else state_diff(before, after)
        for before, after in zip(keys, following, strict=True)
    ]


def state_diff(before: str, after: str) -> list[Part]:
    """The pieces of two states that differ, with a few of those around them; pieces end at commas and line ends."""
    if before == after:
        return []
    old, new = _pieces(before[:_MOST_CHARS]), _pieces(after[:_MOST_CHARS])
    found: list[Part] = []
    for op, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if op == "equal":
            found.append(("=", _around(old[i:j])))
            continue
        found += [("-", "".join(old[i:j]))] * (j > i) + [("+", "".join(new[k:m]))] * (m > k)
    return found


def _pieces(state: str) -> list[str]:
    return [piece for piece in _PARTS.findall(state) if piece]


def _around(pieces: Sequence[str]) -> str:
    if len(pieces) <= 2 * _AROUND:
        return "".join(pieces)
    return f"{''.join(pieces[:_AROUND])} … {''.join(pieces[-_AROUND:])}"

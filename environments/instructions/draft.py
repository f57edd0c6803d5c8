"""A text to be written: what the constraints ask of it, and a text that has all of that. Owns no check."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice

from agentrl.environments.instructions.words import LEXICONS

_FEWEST_WORDS = 2


@dataclass
class Draft:
    """What is asked of a text. Each constraint sets its own fields.

    Attributes:
        language: of the words that fill the text.
        words, at_least, at_most: how many there are; None where nothing is asked.
        first, last: words at the ends.
        used: further words that must be there, repeated as often as they are asked for.
        avoided: words that fill no gap.
        layout: a name of `LAYOUTS`.
        pieces: lines, bullets or sentences of the layout.
        title, quoted, capitals: marks of the whole text.
    """

    language: str = "English"
    words: int | None = None
    at_least: int = 0
    at_most: int | None = None
    first: str | None = None
    last: str | None = None
    used: list[str] = field(default_factory=list)
    avoided: set[str] = field(default_factory=set)
    layout: str = "plain"
    pieces: int = 1
    title: bool = False
    quoted: bool = False
    capitals: bool = False

    def written(self) -> str:
        """A text with all of it, if there can be one; the gaps are filled by the language's words in their order."""
        words = self._words()
        if self.title:
            words = [f"<<{words[0]}>>", *words[1:]]
        text = LAYOUTS[self.layout](words, self.pieces)
        text = f'"{text}"' if self.quoted else text
        return text.upper() if self.capitals else text

    def _words(self) -> list[str]:
        first, last = [self.first] if self.first else [], [self.last] if self.last else []
        asked = len(first) + len(self.used) + len(last)
        least = max(_FEWEST_WORDS, self.at_least, asked, self.pieces)
        count = least if self.at_most is None else min(least, self.at_most)
        missing = (count if self.words is None else self.words) - asked
        taken = {*first, *self.used, *last, *self.avoided}
        free = [word for word in LEXICONS[self.language] if word not in taken]
        return [*first, *self.used, *islice(cycle(free), max(0, missing)), *last]


def _pieces(words: Sequence[str], count: int) -> list[str]:
    """The words in `count` pieces: one word each, and all that remain in the last."""
    return [*words[: count - 1], " ".join(words[count - 1 :])]


LAYOUTS: Mapping[str, Callable[[Sequence[str], int], str]] = {
    "plain": lambda words, count: " ".join(words),
    "commas": lambda words, count: ", ".join(words),
    "json": lambda words, count: json.dumps(list(words), ensure_ascii=False),
    "lines": lambda words, count: "\n".join(_pieces(words, count)),
    "bullets": lambda words, count: "\n".join(f"- {piece}" for piece in _pieces(words, count)),
    "numbered": lambda words, count: "\n".join(f"{n}. {p}" for n, p in enumerate(_pieces(words, count), 1)),
    "sentences": lambda words, count: " ".join(f"{piece}." for piece in _pieces(words, count)),
}
"""Name -> how words are written in a number of pieces."""

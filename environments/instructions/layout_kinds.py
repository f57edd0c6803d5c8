"""Constraints on the form of a text: lists, lines, marks and letters."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from agentrl.environments.instructions.constraint import Constraint, kind
from agentrl.environments.instructions.draft import Draft
from agentrl.environments.instructions.words import words_of

_TITLE = re.compile(r"<<[^<>\n]+>>")
_FEWEST, _MOST = 2, 5


@dataclass(frozen=True)
class _Pieces(Constraint):  # type: ignore[misc]
    """A number of pieces.

    Attributes:
        n: how many.
    """

    n: int
    layout: ClassVar[str]

    def shape(self, draft: Draft) -> None:
        draft.layout, draft.pieces = self.layout, self.n

    @classmethod
    def draw(cls, rng: np.random.Generator, words: Sequence[str]) -> Self:
        return cls(int(rng.integers(_FEWEST, _MOST + 1)))


@kind("lines", "layout")
class Lines(_Pieces):
    """A number of lines, none of them empty."""

    layout = "lines"

    @property
    def says(self) -> str:
        return f"{self.n} lines"

    def holds(self, text: str) -> bool:
        lines = _lines(text)
        return len(lines) == self.n and all(map(words_of, lines))


@kind("bullets", "layout")
class Bullets(_Pieces):
    """A number of lines that begin with `- `."""

    layout = "bullets"

    @property
    def says(self) -> str:
        return f"{self.n} lines with - before each"

    def holds(self, text: str) -> bool:
        lines = _lines(text)
        return len(lines) == self.n and all(line.startswith("- ") and words_of(line) for line in lines)


@kind("numbered", "layout")
class Numbered(_Pieces):
    """A number of lines that begin with `1. `, `2. ` and so on."""

    layout = "numbered"

    @property
    def says(self) -> str:
        return f"{self.n} numbered lines"

    def holds(self, text: str) -> bool:
        lines = _lines(text)
        pairs = enumerate(lines, 1)
        return len(lines) == self.n and all(line.startswith(f"{n}. ") and words_of(line) for n, line in pairs)


@kind("sentences", "layout")
class Sentences(_Pieces):
    """A number of sentences, each with a full stop."""

    layout = "sentences"

    @property
    def says(self) -> str:
        return f"{self.n} sentences"

    def holds(self, text: str) -> bool:
        *sentences, rest = text.strip().split(".")
        return not rest and len(sentences) == self.n and all(map(words_of, sentences))


@dataclass(frozen=True)
class _Plain(Constraint):  # type: ignore[misc]
    """A constraint without numbers and words."""

    @classmethod
    def draw(cls, rng: np.random.Generator, words: Sequence[str]) -> Self:
        return cls()


@kind("commas", "layout")
class Commas(_Plain):
    """A comma between any two words, and nothing else."""

    @property
    def says(self) -> str:
        return "commas between the words"

    def holds(self, text: str) -> bool:
        pieces = text.split(",")
        return len(pieces) >= _FEWEST and all(len(words_of(piece)) == 1 for piece in pieces)

    def shape(self, draft: Draft) -> None:
        draft.layout = "commas"


@kind("json", "layout")
class Json(_Plain):
    """A JSON list of texts."""

    @property
    def says(self) -> str:
        return "as a JSON list"

    def holds(self, text: str) -> bool:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return False
        return isinstance(found, list) and len(found) > 0 and all(isinstance(one, str) for one in found)

    def shape(self, draft: Draft) -> None:
        draft.layout = "json"


@kind("title", "mark")
class Title(_Plain):
    """A title in double angle brackets."""

    @property
    def says(self) -> str:
        return "with a title in << >>"

    def holds(self, text: str) -> bool:
        return any(words_of(found) for found in _TITLE.findall(text))

    def shape(self, draft: Draft) -> None:
        draft.title = True


@kind("quoted", "mark")
class Quoted(_Plain):
    """Double quotes around the whole text."""

    @property
    def says(self) -> str:
        return "in double quotes"

    def holds(self, text: str) -> bool:
        stripped = text.strip()
        return len(stripped) > 1 and stripped[0] == stripped[-1] == '"'

    def shape(self, draft: Draft) -> None:
        draft.quoted = True


@kind("capitals", "letters")
class Capitals(_Plain):
    """Capital letters alone."""

    @property
    def says(self) -> str:
        return "in capital letters"

    def holds(self, text: str) -> bool:
        return text.isupper()

    def shape(self, draft: Draft) -> None:
        draft.capitals = True


@kind("small", "letters", demanding=False)
class Small(_Plain):
    """Small letters alone."""

    @property
    def says(self) -> str:
        return "in small letters"

    def holds(self, text: str) -> bool:
        return text.islower()

    def shape(self, draft: Draft) -> None:
        draft.capitals = False


def _lines(text: str) -> list[str]:
    return text.strip().splitlines()

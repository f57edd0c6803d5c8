"""Constraints on the words of a text: how many, which, where, and of which language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from agentrl.environments.instructions.constraint import Constraint, kind
from agentrl.environments.instructions.draft import Draft
from agentrl.environments.instructions.words import LEXICONS, words_of

_MOST_WORDS = 7


@dataclass(frozen=True)
class _Count(Constraint):  # type: ignore[misc]
    """A number of words.

    Attributes:
        n: how many.
    """

    n: int

    @classmethod
    def draw(cls, rng: np.random.Generator, words: Sequence[str]) -> Self:
        return cls(int(rng.integers(2, _MOST_WORDS + 1)))


@kind("exactly", "length", demanding=False)
class Exactly(_Count):
    """So many words, no more and no fewer."""

    @property
    def says(self) -> str:
        return f"exactly {self.n} words"

    def holds(self, text: str) -> bool:
        return len(words_of(text)) == self.n

    def shape(self, draft: Draft) -> None:
        draft.words = self.n


@kind("at_least", "length", demanding=False)
class AtLeast(_Count):
    """So many words, or more."""

    @property
    def says(self) -> str:
        return f"at least {self.n} words"

    def holds(self, text: str) -> bool:
        return len(words_of(text)) >= self.n

    def shape(self, draft: Draft) -> None:
        draft.at_least = self.n


@kind("at_most", "length", demanding=False)
class AtMost(_Count):
    """So many words, or fewer."""

    @property
    def says(self) -> str:
        return f"at most {self.n} words"

    def holds(self, text: str) -> bool:
        return len(words_of(text)) <= self.n

    def shape(self, draft: Draft) -> None:
        draft.at_most = self.n


@dataclass(frozen=True)
class _Keyword(Constraint):  # type: ignore[misc]
    """A constraint on one word.

    Attributes:
        word: in small letters.
    """

    word: str

    @classmethod
    def draw(cls, rng: np.random.Generator, words: Sequence[str]) -> Self:
        return cls(str(rng.choice(list(words))))


@kind("with", "keyword")
class With(_Keyword):
    """A word that is there."""

    @property
    def says(self) -> str:
        return f"with {self.word}"

    def holds(self, text: str) -> bool:
        return self.word in words_of(text)

    def shape(self, draft: Draft) -> None:
        draft.used.append(self.word)


@kind("without", "keyword", demanding=False)
class Without(_Keyword):
    """A word that is not there."""

    @property
    def says(self) -> str:
        return f"without {self.word}"

    def holds(self, text: str) -> bool:
        return self.word not in words_of(text)

    def shape(self, draft: Draft) -> None:
        draft.avoided.add(self.word)


@kind("first", "keyword")
class First(_Keyword):
    """The word that the text begins with."""

    @property
    def says(self) -> str:
        return f"beginning with {self.word}"

    def holds(self, text: str) -> bool:
        return bool(words_of(text)[:1] == [self.word])

    def shape(self, draft: Draft) -> None:
        draft.first = self.word


@kind("last", "keyword")
class Last(_Keyword):
    """The word that the text ends with."""

    @property
    def says(self) -> str:
        return f"ending with {self.word}"

    def holds(self, text: str) -> bool:
        return bool(words_of(text)[-1:] == [self.word])

    def shape(self, draft: Draft) -> None:
        draft.last = self.word


@kind("times", "keyword")
@dataclass(frozen=True)
class Times(Constraint):  # type: ignore[misc]
    """A word that is there a number of times.

    Attributes:
        word: in small letters.
        n: how often.
    """

    word: str
    n: int

    @property
    def says(self) -> str:
        return f"with {self.word} {self.n} times"

    def holds(self, text: str) -> bool:
        return bool(words_of(text).count(self.word) == self.n)

    def shape(self, draft: Draft) -> None:
        draft.used.extend([self.word] * self.n)

    @classmethod
    def draw(cls, rng: np.random.Generator, words: Sequence[str]) -> Self:
        return cls(str(rng.choice(list(words))), int(rng.integers(2, 4)))


@kind("language", "language")
@dataclass(frozen=True)
class InLanguage(Constraint):  # type: ignore[misc]
    """A language: at least one word of its lexicon, and none of another's.

    Attributes:
        language: a key of `LEXICONS`.
    """

    language: str

    @property
    def says(self) -> str:
        return f"in {self.language}"

    def holds(self, text: str) -> bool:
        words = set(words_of(text))
        return all(bool(words & {*lexicon}) == (name == self.language) for name, lexicon in LEXICONS.items())

    def shape(self, draft: Draft) -> None:
        draft.language = self.language

    @classmethod
    def draw(cls, rng: np.random.Generator, words: Sequence[str]) -> Self:
        return cls(next(name for name, lexicon in LEXICONS.items() if set(words) <= {*lexicon}))

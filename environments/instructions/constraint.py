"""One instruction about a text: how it is said, checked, followed and drawn. Owns the list of kinds, and no kind.

A new kind is a frozen dataclass of its numbers and words with the decorator `kind`, in a module that `KINDS` names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self, TypeVar

import numpy as np

from agentrl.environments.instructions.draft import Draft
from agentrl.environments.instructions.words import words_of


@dataclass(frozen=True)
class Constraint(ABC):
    """One instruction.

    Class attributes:
        name: of the kind.
        group: kinds of one group are never drawn together.
        demanding: no everyday answer, such as `yes`, follows it by chance.
    """

    name: ClassVar[str]
    group: ClassVar[str]
    demanding: ClassVar[bool] = True

    @property
    @abstractmethod
    def says(self) -> str:
        """The instruction as a part of a sentence."""

    @abstractmethod
    def holds(self, text: str) -> bool:
        """Whether a text with at least one word follows it."""

    @abstractmethod
    def shape(self, draft: Draft) -> None:
        """Ask it of a draft."""

    @classmethod
    @abstractmethod
    def draw(cls, rng: np.random.Generator, words: Sequence[str]) -> Self:
        """One of this kind.

        Args: words: of the text's language.
        """

    def to_data(self) -> dict[str, Any]:
        """Its kind and fields as JSON values."""
        return {"kind": self.name, **asdict(self)}


C = TypeVar("C", bound=type[Constraint])
KINDS: dict[str, type[Constraint]] = {}
"""Name -> kind, of the modules that `instructions` imports."""


def kind(name: str, group: str, *, demanding: bool = True) -> Callable[[C], C]:
    """Register a class as a kind of constraint."""

    def registered(cls: C) -> C:
        if name in KINDS:
            raise ValueError(f"there are two kinds of constraint named {name!r}")
        cls.name, cls.group, cls.demanding = name, group, demanding
        KINDS[name] = cls
        return cls

    return registered


def of_data(data: dict[str, Any]) -> Constraint:
    """The constraint of `Constraint.to_data`."""
    return KINDS[data["kind"]](**{key: value for key, value in data.items() if key != "kind"})


def followed(text: str, constraints: Sequence[Constraint]) -> list[bool]:
    """Whether a text follows each constraint; one without a word follows none."""
    spoken = bool(words_of(text))
    return [spoken and constraint.holds(text) for constraint in constraints]


def text_for(constraints: Sequence[Constraint], language: str = "English") -> str:
    """A text that is meant to follow all constraints; if they contradict each other, it does not.

    Args: language: of the words, where no constraint says it.
    """
    draft = Draft(language)
    for constraint in constraints:
        constraint.shape(draft)
    text: str = draft.written()
    return text

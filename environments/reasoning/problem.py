"""A question with its chain of steps, its answer, and a wrong chain. Owns no family of problems."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from agentrl.learning.confidence.span import MARKER

_ANSWER = re.compile(rf"{MARKER}[ :]+(.+?)\.?\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Problem:
    """One question.

    Attributes:
        question: as the model reads it.
        steps: the intermediate results, in order; the last step is made in the answer.
        answer: one word.
        wrong_steps, wrong_answer: what a fixed mistake in the steps leads to; the answer is wrong as a rule.
    """

    question: str
    steps: list[str]
    answer: str
    wrong_steps: list[str]
    wrong_answer: str

    def to_data(self) -> dict[str, Any]:
        """The data of a task."""
        return asdict(self)


def answer_in(text: str) -> str | None:
    """What a text gives as its answer: the words after the last `So the answer is`; None without one."""
    start = text.rfind(MARKER)
    match = _ANSWER.match(text, start) if start >= 0 else None
    return match.group(1).strip() if match else None


def written(steps: list[str], answer: str, opening: str = "") -> str:
    """The steps and the answer as a demonstration writes them."""
    chain = f"{opening}{' '.join(steps)}. " if steps else opening
    return f"{chain}{MARKER} {answer}."

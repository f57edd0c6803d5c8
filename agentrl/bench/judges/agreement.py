"""Agreement of a judge with right verdicts. Owns the file of labels and the two statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentrl.bench.estimates import Estimate, clustered_proportion
from agentrl.errors import ConfigError, JudgeFault
from agentrl.messages import Message
from agentrl.rollout.judging.judge import Verdict
from agentrl.rollout.sources.chat_file import ChatError, conversation_of, object_of

_FIELDS = ("messages", "tools", "passed", "reference", "id")


@dataclass(frozen=True)
class Labelled:
    """A conversation with the right verdict.

    Attributes:
        messages: what is judged.
        passed: whether it should pass.
        reference: a right answer, for the judge.
    """

    messages: tuple[Message, ...]
    passed: bool
    reference: str = ""


@dataclass(frozen=True)
class Agreement:
    """How often a judge gives the right verdict.

    Attributes:
        accuracy: share of the verdicts that are right; its interval is over the conversations, or over their tasks.
        kappa: Cohen's: 1 is perfect, 0 what chance gives; nan where both sides always say the same.
        failed: conversations without a verdict, which are in neither number.
    """

    accuracy: Estimate
    kappa: float
    failed: int

    @property
    def n(self) -> int:
        return self.accuracy.n

    def to_json(self) -> dict[str, Any]:
        """A dictionary that JSON can hold."""
        kappa = self.kappa if math.isfinite(self.kappa) else None
        return {"accuracy": self.accuracy.to_json(), "kappa": kappa, "n": self.n, "failed": self.failed}


def read_labels(path: str | Path) -> list[Labelled]:
    """The conversations of a file, one a line: `{"messages": [...], "passed": true, "reference": "..."}`.

    Raises: ConfigError that names the line.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the labels {str(path)!r} cannot be read: {error}") from None
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(_labelled(line))
            except ChatError as error:
                raise ConfigError(f"{path}, line {number}: {error}") from None
    if not found:
        raise ConfigError(f"{path} holds no labelled conversation")
    return found


def _labelled(line: str) -> Labelled:
    record = object_of(line)
    unknown = next((name for name in record if name not in _FIELDS), None)
    if unknown is not None:
        raise ChatError(f"the field {unknown!r} is not known here: a line has {', '.join(_FIELDS)}")
    if not isinstance(record.get("passed"), bool):
        raise ChatError(f"passed must be true or false, got {record.get('passed')!r}")
    reference = record.get("reference", "")
    if not isinstance(reference, str):
        raise ChatError(f"reference must be text, got {reference!r}")
    messages = conversation_of(record.get("messages"), record.get("tools"), "messages").messages
    return Labelled(messages, record["passed"], reference)


def agreement_of(
    verdicts: Sequence[Verdict | JudgeFault], right: Sequence[bool], tasks: Sequence[str] = ()
) -> Agreement:
    """How far verdicts agree with what is right.

    Args:
        right: of each verdict's conversation.
        tasks: of each conversation, where several may be of one task, or of one family of tasks.
    """
    given = [isinstance(v, Verdict) for v in verdicts]
    pairs = [(v.passed, r) for v, r in zip(verdicts, right, strict=True) if isinstance(v, Verdict)]
    units = [task for task, is_given in zip(tasks, given, strict=True) if is_given] if tasks else ()
    accuracy = clustered_proportion([[float(said == is_right)] for said, is_right in pairs], families=units)
    return Agreement(accuracy, cohens_kappa(pairs), len(verdicts) - len(pairs))


def cohens_kappa(pairs: Sequence[tuple[bool, bool]]) -> float:
    """(observed - expected agreement) / (1 - expected agreement).

    Args: pairs: two verdicts on each item.
    Returns: nan for no items, and where chance alone agrees always.
    Source: Cohen 1960, Educational and Psychological Measurement 20(1), eq. 1.
    """
    if not pairs:
        return math.nan
    n = len(pairs)
    observed = sum(one == other for one, other in pairs) / n
    first, second = (sum(pair[side] for pair in pairs) / n for side in (0, 1))
    expected = first * second + (1 - first) * (1 - second)
    return math.nan if expected == 1 else (observed - expected) / (1 - expected)

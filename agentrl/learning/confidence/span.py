"""Where the answer stands in a turn, and how sure the model was of it. Owns no sampling."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from agentrl.messages import Action
from agentrl.trajectory import Trajectory

MARKER = "So the answer is"
"""What stands before the answer. Source: RLSF, arXiv:2507.21931, section 3."""
# The answer ends with its sentence, its line, or a mark such as <|im_end|>.
_ANSWER = re.compile(rf"{MARKER}[ :]+(?!\s|\.|<[^<>\s]+>)(.+?)(?=\.?\s*\Z|\.\s|\.?\n|\.?\s*<[^<>\s]+>)")

Span = tuple[int, int]
"""First token, and the token after the last one."""


@dataclass(frozen=True)
class Sureness:
    """What a turn says of its answer.

    Attributes:
        answer: its text; "" if there is none.
        disparity: RLSF's confidence: the mean over the answer's tokens of p1 - p2, in [0, 1]; 0 without an answer, and
            where a token was not the most likely one.
        probability: the product of the probabilities of the answer's tokens; 0 without an answer.
        branch: sqrt(p / p_top) of the first token of the turn, in (0, 1]: 1 where it was the most likely one.
    """

    answer: str
    disparity: float
    probability: float
    branch: float


def answer_of(text: str) -> str:
    """The words after the last `So the answer is`; "" without them."""
    place = _place(text)
    return text[place[0] : place[1]] if place else ""


def answer_span(texts: Sequence[str], answer: Sequence[str] | None = None) -> Span | None:
    """The tokens of the answer.

    Args:
        texts: (T,) text of each token of the turn.
        answer: tokens of an answer that the model gave when it was asked for it afterwards; the span is then the
            longest run of tokens that stands in both. None takes the words after the last `So the answer is`.
    Returns: None if there is none.
    """
    if answer is not None:
        start, length = longest_common_run(texts, answer)
        return (start, start + length) if length else None
    place = _place("".join(texts))
    if place is None:
        return None
    ends = [0]
    for text in texts:
        ends.append(ends[-1] + len(text))
    inside = [i for i in range(len(texts)) if ends[i] < place[1] and ends[i + 1] > place[0]]
    return (inside[0], inside[-1] + 1) if inside else None


def _place(text: str) -> Span | None:
    """The characters of the answer."""
    start = text.rfind(MARKER)
    match = _ANSWER.match(text, start) if start >= 0 else None
    return match.span(1) if match else None


def longest_common_run(first: Sequence[str], second: Sequence[str]) -> tuple[int, int]:
    """The longest run of tokens that stands in both; of equal ones the last in `first`.

    Returns: its start in `first`, and its length, 0 if there is none.
    """
    best_start, best = 0, 0
    before = [0] * (len(second) + 1)
    for i, token in enumerate(first):
        now = [0] * (len(second) + 1)
        for j, other in enumerate(second):
            if token == other:
                now[j + 1] = before[j] + 1
                if now[j + 1] >= best:
                    best_start, best = i + 1 - now[j + 1], now[j + 1]
        before = now
    return best_start, best


def mean_margin(margins: Sequence[float], span: Span | None) -> float:
    """The mean over a span of p1 - p2; a token that was not the most likely one counts as 0.

    Args: margins: (T,) as in `TokenSignals`.
    Source: RLSF, arXiv:2507.21931, eq. 1, after chain-of-thought decoding, arXiv:2402.10200.
    """
    if span is None:
        return 0.0
    return math.fsum(max(0.0, margin) for margin in margins[span[0] : span[1]]) / (span[1] - span[0])


def branch_scale(logprob: float, margin: float) -> float:
    """sqrt(p / p_top) of a token.

    Args: logprob, margin: of the token, at temperature 1.
    """
    p = math.exp(logprob)
    return math.sqrt(p / max(p, p - margin)) if p > 0 else 0.0


def sureness_of(action: Action) -> Sureness | None:
    """How sure the model was of the answer in a turn; None if the turn was sampled without signals."""
    signals, logprobs = action.signals, action.logprobs
    if signals is None:
        return None
    span = answer_span(signals.texts)
    answer = answer_of("".join(signals.texts))
    probability = math.exp(sum(logprobs[span[0] : span[1]])) if span and logprobs else 0.0
    branch = branch_scale(logprobs[0], signals.margins[0]) if logprobs else 1.0
    return Sureness(answer, mean_margin(signals.margins, span), min(1.0, probability), branch)


def sureness(episode: Trajectory) -> Sureness | None:
    """How sure the model was of the answer in the last turn of an episode."""
    return sureness_of(episode.turns[-1].action) if episode.turns else None

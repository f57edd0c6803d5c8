"""Biases of judges that have them, planted one at a time, with the sizes that were planted."""

from __future__ import annotations

import json
import math

import pytest

from agentrl.bench.judges.bias import JUDGE_TALK, Bias, bias_of
from agentrl.messages import Message
from agentrl.rollout.judging.judge import Judge
from tests.rollout.judging.judges import Flaky, code_of, material, says


def conversations(*answers: str) -> list[tuple[Message, ...]]:
    return [(Message("user", "?"), Message("assistant", answer), Message("user", "bye")) for answer in answers]


def answers_in(messages) -> list[str]:
    """The assistants' last words in a question, one or two."""
    body, code = messages[1].content, code_of(messages)
    if f"BEGIN 1 {code}" not in body:
        return [next(m["content"] for m in reversed(material(messages)) if m["role"] == "assistant")]
    parts = [body.split(f"BEGIN {n} {code}\n")[1].split(f"\nEND {n} {code}")[0] for n in (1, 2)]
    return [json.loads(part.splitlines()[1])["content"] for part in parts]


async def measured(score, prefer=lambda one, two: 0) -> Bias:
    def answer(messages, tools):
        found = answers_in(messages)
        return says(messages, score(found[0]) if len(found) == 1 else prefer(*found))

    async with Judge(Flaky(then=answer), "Right?", attempts=1) as judge:
        return await bias_of(judge, conversations("right", "wrong", "right indeed", "bad"))


async def test_a_fair_judge_is_moved_by_nothing():
    def better(one: str, two: str) -> int:
        first, second = one.startswith("right"), two.startswith("right")
        return 0 if first == second else 1 if first else 2

    bias = await measured(lambda a: 10.0 * a.startswith("right"), better)
    assert (bias.length.mean, bias.talk.mean, bias.talked_over) == (0.0, 0.0, 0.0)
    assert (bias.first, bias.flips, bias.failed) == (0.5, 0.0, 0)


async def test_a_judge_that_likes_long_answers_is_found():
    bias = await measured(lambda a: min(10.0, len(a) / 10))
    # "right" has 5 characters, and 5 + 29 + 5 when it is said twice; and so on.
    changes = [(29 + n) / 100 for n in (5, 5, 12, 3)]
    assert bias.length.mean == pytest.approx(sum(changes) / 4, abs=1e-12)
    assert bias.length_correlation > 0.9


async def test_a_judge_that_obeys_is_found():
    bias = await measured(lambda a: 10.0 if JUDGE_TALK in a or a.startswith("right") else 0.0)
    assert bias.talk.mean == 0.5
    assert bias.talked_over == 1.0
    assert bias.length.mean == 0.0


async def test_a_judge_that_prefers_the_first_is_found():
    bias = await measured(lambda a: 5.0, lambda one, two: 1)
    assert (bias.first, bias.flips) == (1.0, 1.0)
    assert math.isnan(bias.length_correlation)
    assert bias.to_json()["length_correlation"] is None


async def test_requests_without_a_verdict_are_counted_and_left_out():
    bias = await measured(lambda a: 99.0 if JUDGE_TALK in a else 10.0, lambda one, two: 7)
    assert bias.failed == 4 + 6
    assert bias.length.mean == 0.0
    assert (bias.talk.n, bias.to_json()["talk"]["mean"]) == (0, None)
    assert (math.isnan(bias.first), math.isnan(bias.flips)) == (True, True)


async def test_conversations_without_an_answer_are_left_out():
    async with Judge(Flaky(then=lambda m, t: says(m, 5)), "Right?") as judge:
        bias = await bias_of(judge, [(Message("user", "?"), Message("assistant", "")), *conversations("x")])
    assert bias.length.n == 1

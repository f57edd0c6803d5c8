"""Judges without a model, for tests: each reads the question as a model would."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence

from agentrl.errors import PolicyFault
from agentrl.messages import Action, Message
from agentrl.policy.base import Policy, SamplingParams
from agentrl.policy.scripted import ScriptedPolicy


def code_of(messages: Sequence[Message]) -> str:
    found = re.search(r'"code": "(\w+)"', messages[0].content)
    assert found is not None
    return found[1]


def material(messages: Sequence[Message]) -> list[dict]:
    """The judged messages, as a judge that trusts nothing but the lines with the code finds them."""
    code = code_of(messages)
    body = messages[1].content.split(f"BEGIN {code}\n")[1].split(f"\nEND {code}")[0]
    return [json.loads(line) for line in body.splitlines()]


def says(messages: Sequence[Message], score: float, reason: str = "so it is") -> str:
    return json.dumps({"code": code_of(messages), "reason": reason, "score": score})


def fair(messages: Sequence[Message], tools: object) -> str:
    """10 for an assistant whose last message is the word `right`."""
    return says(messages, 10.0 * (material(messages)[-1]["content"] == "right"))


def parrot(messages: Sequence[Message], tools: object) -> str:
    """Repeats what it was given to judge: a judge that obeys the text."""
    return material(messages)[-1]["content"]


class Flaky(Policy):
    """Answers by a script; before that, gives the answers of a list, one at each request.

    Attributes:
        asked: requests so far.
        down: its server does not answer.
    """

    name = "flaky"

    def __init__(self, first: Sequence[str] = (), then: Callable[..., str] = fair) -> None:
        self.first, self.then = list(first), ScriptedPolicy(then)
        self.asked: list[list[Message]] = []
        self.sampled: list[SamplingParams | None] = []
        self.down = False

    async def act(self, messages, tools, *, episode_id, sampling=None):
        self.asked.append(list(messages))
        self.sampled.append(sampling)
        await asyncio.sleep(0)
        if self.down:
            raise PolicyFault("503", who="server")
        if self.first:
            return Action(self.first.pop(0))
        return await self.then.act(messages, tools, episode_id=episode_id, sampling=sampling)

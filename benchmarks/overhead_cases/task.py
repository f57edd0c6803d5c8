"""The task that every framework plays: three lookups, three additions, one answer. Owns no framework's code.

A problem names three items and a fee; the script looks each price up, adds them one by one, adds the
fee, and answers with the total. The script is fixed in advance, so nothing here waits for a model.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONCURRENCY = 64
# What a local model reports of a turn, where a case records it: a prompt that grows, 24 sampled ids, logprobs.
_IDS = tuple((7919 * i) % 511 for i in range(1000))
LOGPROBS = tuple(-0.001 * (i * i % 97) for i in range(24))
STEPS_PER_EPISODE = 7
PRICES = {
    "tea": 310, "milk": 120, "rice": 260, "salt": 75, "oil": 640, "bread": 280, "honey": 890, "soap": 199,
    "jam": 345, "nuts": 710, "figs": 555, "beans": 135, "flour": 165, "sugar": 150, "coffee": 980, "eggs": 290,
}  # fmt: skip


def lookup(item: str) -> str:
    """The price of an item, in cents."""
    return str(PRICES[item])


def add(a: int, b: int) -> str:
    """The sum of two whole numbers."""
    return str(a + b)


TOOLS = {"lookup": lookup, "add": add}
TOOL_SCHEMAS = [
    {
        "type": "function",
        "function": {
            "name": "lookup",
            "description": "The price of an item, in cents.",
            "parameters": {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "The sum of two whole numbers.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "required": ["a", "b"],
            },
        },
    },
]


def prompt_ids(turn: int) -> tuple[int, ...]:
    """(200 + 36 * turn,) ids of the context at a turn; each extends the one before by 24 sampled and 12 new ids."""
    return _IDS[: 200 + 36 * turn]


def token_ids(turn: int) -> tuple[int, ...]:
    """(24,) sampled ids of a turn."""
    return _IDS[200 + 36 * turn : 224 + 36 * turn]


@dataclass(frozen=True)
class Problem:
    """One episode's task and script.

    Attributes:
        id: position in the list.
        prompt: what the user asks.
        answer: the text that earns reward 1.
        assistant: (7,) the script as OpenAI assistant messages; arguments are JSON strings there.
        texts: (7,) the same script as plain text with `<tool_call>` and `<answer>` tags.
        calls: (7,) the same script as bare JSON text, the answer as it is.
        results: (6,) what the tools must return.
    """

    id: int
    prompt: str
    answer: str
    assistant: tuple[dict[str, Any], ...]
    texts: tuple[str, ...]
    calls: tuple[str, ...]
    results: tuple[str, ...]


def problems(count: int, seed: int = 0) -> list[Problem]:
    """The first `count` problems of a seed."""
    rng = random.Random(seed)
    return [_problem(index, rng) for index in range(count)]


def _problem(index: int, rng: random.Random) -> Problem:
    one, two, three = rng.sample(sorted(PRICES), 3)
    fee = rng.randrange(100, 1000)
    first = PRICES[one] + PRICES[two]
    second = first + PRICES[three]
    total = str(second + fee)
    script: list[tuple[str, dict[str, Any]]] = [
        ("lookup", {"item": one}),
        ("lookup", {"item": two}),
        ("add", {"a": PRICES[one], "b": PRICES[two]}),
        ("lookup", {"item": three}),
        ("add", {"a": first, "b": PRICES[three]}),
        ("add", {"a": second, "b": fee}),
    ]
    calls = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in script]
    assistant = [_assistant(turn, name, arguments) for turn, (name, arguments) in enumerate(script)]
    return Problem(
        id=index,
        prompt=f"What do {one}, {two} and {three} cost together, with a fee of {fee} cents? Answer with the number.",
        answer=total,
        assistant=(*assistant, {"role": "assistant", "content": total}),
        texts=(*(f"<tool_call>{call}</tool_call>" for call in calls), f"<answer>{total}</answer>"),
        calls=(*calls, total),
        results=tuple(TOOLS[name](**arguments) for name, arguments in script),
    )


def _assistant(turn: int, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    call = {"id": f"call_{turn}", "type": "function", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


Outcome = tuple[float, tuple[str, ...]]


def read_transcripts(path: Path) -> dict[int, Outcome]:
    """Reward and tool results of each episode, from the lines that `bare.record` wrote."""
    outcomes = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        results = tuple(m["content"] for m in record["messages"] if m["role"] == "tool")
        outcomes[record["id"]] = (record["reward"], results)
    return outcomes


def expected(items: Iterable[Problem]) -> dict[int, Outcome]:
    """What every framework must have recorded."""
    return {problem.id: (1.0, problem.results) for problem in items}

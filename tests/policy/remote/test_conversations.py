"""Conversations of several turns with tool calls, over real HTTP, with a server that checks what is sent to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from agentrl.bench.runner import run_bench
from agentrl.env.base import Limits
from agentrl.env.tasks import Tasks
from agentrl.policy.by_name import PolicySetup
from agentrl.trajectory import Task
from tests.bench.toys import Adder
from tests.policy.remote.fault_server import FaultServer
from tests.policy.remote.wire_bots import KINDS, Call, reply, said

# Ids of the calls of each turn. The call of the third turn has an argument of the wrong type.
CALLS = (("one1", "two2"), ("bad3",), ("sum4",), ())


class Sums(Adder):
    """Sums of four numbers, two at a time."""

    tasks = Tasks.of(eval=[{"numbers": [n, 10 * n, 100 * n, 1000 * n]} for n in range(1, 13)])
    limits = Limits(max_turns=len(CALLS))

    async def start(self, task: Task) -> str:
        return "+".join(map(str, task.data["numbers"]))

    async def score(self, answer: str | None) -> float:
        return float(answer == str(sum(self.task.data["numbers"])))


class Server(FaultServer):
    """A bot that adds two pairs at once, then calls wrongly, then adds the sums, and says the result.

    Attributes:
        found: calls, results and signed thoughts of each request, by the number of turns before it.
    """

    def __init__(self, kind: str, shares: Mapping[str, float] | None = None) -> None:
        super().__init__(kind, shares or {})
        self.found: list[tuple[int, list[str]]] = []

    def turn(self, body: Mapping[str, Any], *, truncated: bool = False) -> dict[str, Any]:
        texts = said(self.kind, body)
        number = sum("Step " in text for text in texts)
        self.found.append((number, history(self.kind, body)))
        results = [text.removeprefix("result:") for text in texts if text.startswith("result:")]
        made = reply(
            self.kind, f"Step {number}." if CALLS[number] else results[-1], calls_of(number, texts[0], results)
        )
        if self.kind == "responses":
            thought = {"type": "reasoning", "id": f"rs_{number}", "summary": [], "encrypted_content": f"sign{number}"}
            made["output"].insert(0, thought)
        elif self.kind == "anthropic":
            made["content"].insert(0, {"type": "thinking", "thinking": "Hm.", "signature": f"sign{number}"})
        return made


def calls_of(number: int, question: str, results: Sequence[str]) -> list[Call]:
    """The bot's calls in a turn."""
    pairs: list[Any] = [{"a": "many", "b": 1}]
    if number == 0:
        a, b, c, d = map(int, question.split("+"))
        pairs = [{"a": a, "b": b}, {"a": c, "b": d}]
    elif number == 2:
        pairs = [{"a": int(results[0]), "b": int(results[1])}]
    return [(name, "add", pair) for name, pair in zip(CALLS[number], pairs, strict=False)]


def history(kind: str, body: Mapping[str, Any]) -> list[str]:
    """What a request says of earlier turns, in order: signatures, ids of calls, and `=id` for results."""
    if kind == "openai":
        ids = [[f"={m['tool_call_id']}"] if m["role"] == "tool" else calls_in(m) for m in body["messages"]]
        return [one for of_message in ids for one in of_message]
    if kind == "responses":
        signs = {"reasoning": "encrypted_content", "function_call": "call_id"}
        kept = [item for item in body["input"] if item.get("type") in {*signs, "function_call_output"}]
        return [item[signs[item["type"]]] if item["type"] in signs else f"={item['call_id']}" for item in kept]
    roles = [message["role"] for message in body["messages"]]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
    blocks = [block for message in body["messages"] for block in message["content"] if block["type"] != "text"]
    names = {"thinking": "signature", "tool_use": "id", "tool_result": "tool_use_id"}
    return ["=" * (block["type"] == "tool_result") + block[names[block["type"]]] for block in blocks]


def calls_in(message: Mapping[str, Any]) -> list[str]:
    return [call["id"] for call in message.get("tool_calls", ())]


def expected(kind: str, number: int) -> list[str]:
    """The history before a turn: each turn's thought as it was signed, its calls, and a result for each."""
    told: list[str] = []
    for n, names in enumerate(CALLS[:number]):
        told += [] if kind == "openai" else [f"sign{n}"]
        told += [*names, *(f"={name}" for name in names)]
    return told


@pytest.mark.parametrize("shares", [{}, {"500": 0.1, "dropped within": 0.1}], ids=["good", "failing"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_turn_sends_what_the_earlier_ones_held(
    kind: str, shares: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("agentrl.policy.remote.options._FIRST_BACKOFF_S", 0.01)
    with Server(kind, shares) as server:
        setup = PolicySetup(server.url, chat={"max_retries": 10, "max_backoff_s": 0.1})
        result = run_bench(Sums, f"{kind}:bot", setup=setup, references=False)
    assert (result.status, result.score.n_episodes, result.score.success.mean) == ("finished", 12, 1.0)
    assert [len(t.turns) for t in result.trajectories] == [len(CALLS)] * 12
    assert {number for number, _ in server.found} == set(range(len(CALLS)))
    assert all(found == expected(kind, number) for number, found in server.found)
    assert (server.faults.total() > 48) == bool(shares)
    for trajectory in result.trajectories:
        answers = [[m.content for m in turn.next_observation] for turn in trajectory.turns]
        assert [len(answer) for answer in answers] == [2, 1, 1, 0]
        assert answers[1][0].startswith("Error: ")

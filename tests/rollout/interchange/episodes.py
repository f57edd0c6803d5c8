"""Episodes with all that a format may lose: written by hand, nothing random."""

from __future__ import annotations

from agentrl.messages import Action, Message, TokenSignals, ToolCall
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, Turn

TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "price",
            "description": "The price of an item.",
            "parameters": {"type": "object", "properties": {"item": {"type": "string"}}},
        },
    },
)
ENV = EnvRef("agentrl/Shop-v0", {"items": 3}, {"max_turns": 4}, "0.1.0")
SYSTEM, ASKED = Message("system", "Be brief."), Message("user", "How much is tea? “né\u2028w” <b>")


def result(text: str, call_id: str = "call_0") -> Message:
    return Message("tool", text, tool_call_id=call_id, name="price")


def _with_ids() -> Trajectory:
    """Two calls in a turn, one id twice in the episode, thoughts, ids, and a user between."""
    calls = (ToolCall("price", {"item": "tea", "of": [1, {"x": None}]}), ToolCall("price", {}, "call_1"))
    first = Action(
        "I look.",
        calls,
        "Hm: tea?",
        prompt_ids=(1, 2, 3),
        token_ids=(4, 5),
        logprobs=(-0.1234567890123, -2.0),
        versions=(7, 7),
        finish_reason="tool_calls",
        usage={"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 1},
        signals=TokenSignals((" I", "look."), (0.5, -0.25), (0.1, 0.2)),
    )
    second = Action(
        "", (ToolCall("price", {"item": "tea"}),), prompt_ids=(1, 2, 3, 4, 5, 6), token_ids=(8,), logprobs=(-1.0,)
    )
    last = Action("7", prompt_ids=(9, 9), token_ids=(10, 11), logprobs=(-0.5, 0.0))
    answers = (result("7"), result("Error: item is missing", "call_1"))
    turns = [
        Turn((SYSTEM, ASKED), first, 0.25, {"found": 0.5}, answers, "s0", 0.5, 0.25),
        Turn(answers, second, 0.0, {}, (result("7"), Message("user", "So?")), None, 0.1, 0.2),
        Turn((result("7"), Message("user", "So?")), last, 0.75, {"right": 1.0, "found": -0.5}, (), "s2", 0.1, 0.2),
    ]
    info = {"success": True, "tool_stats": {"price": {"calls": 3}}, "note": "né"}
    task = Task("eval-1", "eval", {"item": "tea"})
    return Trajectory(
        ENV, task, 11, turns, Ending("answer"), "g1", "bench/eval-1#0/0", Labels("bench", 3), info, TOOLS, ("e0", 1)
    )


def _shown() -> Trajectory:
    """Demonstrations before the task, a call that cannot be read, results out of place; cut off; no ids."""
    demo = (
        Message("user", "And milk?"),
        Message("assistant", "I look.", (ToolCall("price", {"item": "milk"}, "d"),), reasoning="milk"),
        result("3", "d"),
        Message("assistant", "3"),
    )
    bad = ToolCall("price", {"item": "tea"}, "call_0", "arguments are not valid JSON")
    late = (Message("user", "Well?"), result("late", "gone"), Message("tool", "no id"))
    turns = [
        Turn((SYSTEM, *demo, ASKED), Action("", (bad,)), 0.0, {}, (result("Error: not JSON"),)),
        Turn((result("Error: not JSON"),), Action("Hm.", finish_reason="length"), 0.0, {}, late),
    ]
    task = Task("eval-1", "eval", {"item": "tea"})
    return Trajectory(ENV, task, 12, turns, Ending("limit", "max_turns"), "g2", "bench/eval-1#1/0", Labels("bench"))


def _discarded() -> Trajectory:
    turns = [Turn((ASKED,), Action("7", token_ids=(3,), prompt_ids=(1,), logprobs=(float("-inf"),)))]
    ending = Ending("fault", "EnvFault: the till is down", "server")
    return Trajectory(
        ENV, Task("eval-2", "eval"), 13, turns, ending, "g3", "bench/eval-2#0/0", Labels("bench", attempt=2)
    )


def _never_began() -> Trajectory:
    return Trajectory(
        ENV, Task("eval-3", "eval"), 14, [], Ending("fault", "no server", "network"), "g4", "e4", Labels("bench")
    )


def hard_episodes() -> list[Trajectory]:
    """Episodes that a careless format changes."""
    return [_with_ids(), _shown(), _discarded(), _never_began()]

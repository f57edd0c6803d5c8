"""Demonstrations as token ids: what trains is what was demonstrated, or the run is refused."""

from __future__ import annotations

import pytest

from agentrl.errors import ModelError
from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.format.choice import chat_format
from agentrl.policy.format.demonstrations import with_tokens
from agentrl.policy.format.hermes import HermesFormat
from agentrl.trajectory import EnvRef, Task, Trajectory, Turn
from tests.policy.template_families import FAMILIES, tokenizer_of

CALL = ToolCall("look_up", {"city": "Oslo"})
TOOLS = ({"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}},)


def demonstration(*actions: Action) -> Trajectory:
    made = Trajectory(EnvRef("demo/Demo-v0"), Task("t"), 0, tools=TOOLS)
    observation = (Message("user", "Is it hot in Oslo?"),)
    for action in actions:
        made.turns.append(Turn(observation, action))
        observation = (Message("tool", "no", tool_call_id="call_0", name="look_up"),)
    return made


@pytest.mark.parametrize("name", FAMILIES)
def test_every_demonstrated_turn_reads_back_from_what_trains(name: str) -> None:
    form = chat_format(tokenizer_of(FAMILIES[name]))
    wanted = [Action(tool_calls=(CALL,)), Action(text="It is cold.")]
    context: tuple[int, ...] = ()
    for turn, action in zip(with_tokens(demonstration(*wanted), form).turns, wanted, strict=True):
        read = form.parse(turn.action.token_ids or (), TOOLS)
        assert (read.text, read.tool_calls) == (action.text, action.tool_calls)
        assert turn.action.logprobs is None
        assert (turn.action.prompt_ids or ())[: len(context)] == context
        context = (*(turn.action.prompt_ids or ()), *(turn.action.token_ids or ()))


def test_a_call_that_the_template_drops_is_refused() -> None:
    class Blind(HermesFormat):
        """Reads no calls, as a format for another template would."""

        def parse_calls(self, text: str) -> tuple[str, list[ToolCall]]:
            return text.partition("<tool_call>")[0].strip(), []

    form = Blind(tokenizer_of(FAMILIES["qwen2.5"]))
    with pytest.raises(ModelError, match=r"cannot write the turn .*look_up.*read back as '\(nothing\)'"):
        with_tokens(demonstration(Action(tool_calls=(CALL,))), form)
    with_tokens(demonstration(Action(text="It is cold.")), form)


def test_several_calls_in_a_turn_of_a_template_that_takes_one_are_refused() -> None:
    two = Action(tool_calls=(CALL, ToolCall("look_up", {"city": "Rome"}, "call_1")))
    with pytest.raises(ModelError):
        with_tokens(demonstration(two), chat_format(tokenizer_of(FAMILIES["gpt_oss"])))
    with pytest.raises(ModelError, match="one call at a time"):
        with_tokens(demonstration(two), chat_format(tokenizer_of(FAMILIES["llama3.1"])))
    with_tokens(demonstration(two), chat_format(tokenizer_of(FAMILIES["qwen3"])))

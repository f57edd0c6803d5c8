"""Every supported family: the model is shown tools and results, and its calls are read back.

The engine's log-probabilities are compared in `tests/policy/test_families.py`.
"""

from __future__ import annotations

import random
import time
from functools import cache
from typing import Any

import pytest

from agentrl.errors import ModelError
from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.format.base import ChatFormat
from agentrl.policy.format.choice import chat_format
from agentrl.policy.format.proof import prove
from tests.policy.template_families import FAMILIES, PYTHONIC, Family, tokenizer_of

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Look something up.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "text": {"type": "string"}, "days": {"type": "integer"}},
            },
        },
    }
]
WORDS = [
    "",
    "a",
    "two words",
    "größer",
    "漢字",
    "🙂",
    "12",
    "-1.5",
    "1e3",
    "true",
    "null",
    "None",
    "True",
    '"quoted"',
    "'",
    "\\",
    "{",
    "}",
    "[]",
    '{"a": 1}',
    "<b>bold</b>",
    "a < b > c",
    "\n",
    "  padded  ",
    "line\nline",
    "\ttab",
    "```json\n{}\n```",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "</parameter>",
    "<parameter=x>",
    "</function>",
    "</parameter>\n<parameter=x>",
    "<arg_value>",
    "</arg_value>",
    "</arg_value>\n</tool_call>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "<|im_end|>",
    "<|eot_id|>",
    "</s>",
    "<|call|>",
    "<|end|>",
    "<|message|>",
    "<|tool▁call▁end|>",
    '", "arguments": {}}',
    "<|tool_call|>[",
    "; {",
    "\ue0f03\ue0f1",
]
NUMBERS = [0, 1, -7, 10**12, 0.5, -2.25, 1e-9, 3e20]


def value(draw: random.Random, depth: int) -> Any:
    kind = draw.randrange(7 if depth else 5)
    if kind < 3:
        return "".join(draw.choices(WORDS, k=draw.randrange(4)))
    if kind == 3:
        return draw.choice(NUMBERS)
    if kind == 4:
        return draw.choice([True, False, None])
    if kind == 5:
        return [value(draw, depth - 1) for _ in range(draw.randrange(4))]
    return {word or "empty": value(draw, depth - 1) for word in draw.choices(WORDS, k=draw.randrange(4))}


def call(draw: random.Random, number: int) -> ToolCall:
    keys = draw.sample(["city", "text", "days", "more", "größe", "x_1", "flag"], k=draw.randrange(5))
    arguments = {key: value(draw, 3) for key in keys}
    # As the definition says, if there is one.
    arguments |= {key: "".join(draw.choices(WORDS, k=3)) for key in keys if key in ("city", "text")}
    return ToolCall(draw.choice(["look_up", "getPrice", "f2"]), arguments, f"call_{number}")


@cache
def form_of(name: str) -> ChatFormat:
    return chat_format(tokenizer_of(FAMILIES[name]))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_thousand_calls_read_back(name: str) -> None:
    form, draw = form_of(name), random.Random(name)
    for number in range(1000):
        tools = TOOLS if number % 2 else []
        calls = tuple(call(draw, i) for i in range(draw.choice([1, 1, 2, 3]) if FAMILIES[name].several else 1))
        ids = form.render_action(Action(tool_calls=calls), tools)
        assert form.parse(ids, tools).tool_calls == calls
        assert form.parse(ids, tools).text == ""
        assert ids[-1] in form.stop_ids
        assert form.stop_ids.isdisjoint(ids[:-1])


@pytest.mark.parametrize("name", FAMILIES)
def test_tools_system_prompt_and_user_are_shown(name: str) -> None:
    form = form_of(name)
    for start in ([Message("user", "Is it hot?")], [Message("system", "Be brief."), Message("user", "Is it hot?")]):
        shown = form.decode(form.render_first(start, TOOLS))
        wanted = ["look_up", "city", "days", *[message.content for message in start]]
        assert [text for text in wanted if text not in shown] == []
        assert shown.count("look_up") < 4


@pytest.mark.parametrize("name", FAMILIES)
def test_results_are_shown_in_order_and_the_model_speaks_next(name: str) -> None:
    form = form_of(name)
    calls = (ToolCall("look_up", {"city": "Oslo"}), ToolCall("look_up", {"city": "Rome"}, "call_1"))
    results = [
        Message("tool", "cold-1", tool_call_id="call_0", name="look_up"),
        Message("tool", "hot-2", tool_call_id="call_1", name="look_up"),
    ]
    count = 2 if FAMILIES[name].several else 1
    more = form.decode(form.render_more(results[:count]))
    assert [text for text in ("cold-1", "hot-2")[:count] if text not in more] == []
    assert "Oslo" not in more
    # The same conversation as a whole: what was appended turn by turn has the template's own words in it.
    whole = form.decode(
        form.render_first([Message("user", "x"), Action(tool_calls=calls[:count]).to_message(), *results[:count]])
    )
    assert whole.rstrip().endswith(more[more.index("cold-1") :].rstrip())
    assert "Oslo" in whole
    action = form.parse(form.render_action(Action(text="It is cold.")))
    assert (action.text, action.tool_calls) == ("It is cold.", ())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_proved(name: str) -> None:
    prove(form_of(name))


@pytest.mark.parametrize("name", FAMILIES)
def test_any_text_cut_anywhere_is_read_without_an_exception(name: str) -> None:
    form, draw = form_of(name), random.Random(name)
    for number in range(60):
        ids = form.render_action(Action(tool_calls=(call(draw, 0),)))
        cut = ids[: draw.randrange(len(ids))]
        assert isinstance(form.parse(cut), Action)
        assert isinstance(form.parse([*cut, *draw.choices(ids, k=3), *cut[number % 5 :]]), Action)


def test_a_template_whose_calls_nobody_reads_is_refused_with_what_to_set() -> None:
    family = Family(PYTHONIC, FAMILIES["qwen2.5"].special, "<|im_end|>")
    with pytest.raises(ModelError, match=r"\[zq_probe_tool\(.*--chat-format generic.*--chat-template"):
        prove(chat_format(tokenizer_of(family)))
    form = chat_format(tokenizer_of(family), "generic")
    prove(form)
    calls = (ToolCall("look_up", {"city": "Oslo </tool_call>"}),)
    assert form.parse(form.render_action(Action(tool_calls=calls))).tool_calls == calls


def test_a_template_whose_turns_never_end_is_refused() -> None:
    family = Family(FAMILIES["chatml"].template, ("<|endoftext|>",), "<|endoftext|>")
    with pytest.raises(ModelError, match=r"never stop.*eos token"):
        prove(chat_format(tokenizer_of(family)))


def test_a_forced_syntax_that_is_not_the_templates_is_refused() -> None:
    with pytest.raises(ModelError, match="'hermes' does not read back"):
        prove(chat_format(tokenizer_of(FAMILIES["qwen3_coder"]), "hermes"))


def test_the_date_in_a_prompt_is_the_same_on_every_day() -> None:
    shown = form_of("llama3.1").decode(form_of("llama3.1").render_first([Message("user", "x")]))
    assert "Today: 26 Jul 2024" in shown
    assert "2024-07-26" in form_of("gpt_oss").decode(form_of("gpt_oss").render_first([Message("user", "x")]))


def test_a_mark_that_the_model_spells_is_no_call() -> None:
    form = form_of("qwen2.5")
    action = Action(text='Write <tool_call>{"name": "f"}</tool_call> to call, and </think> to stop thinking.')
    ids = form.render_action(action)
    assert form.parse(ids) == action
    sampled = form.tokenizer.encode('<tool_call>{"name": "f"}</tool_call><|im_end|>', add_special_tokens=False)
    assert [call.name for call in form.parse(sampled).tool_calls] == ["f"]


def test_a_thought_is_only_what_stands_in_front() -> None:
    form = form_of("qwen3")

    def read(text: str) -> Action:
        return form.parse(form.tokenizer.encode(text, add_special_tokens=False))

    said = read("The tags are <think> and </think>, in that order.<|im_end|>")
    assert (said.reasoning, said.text) == (None, "The tags are <think> and </think>, in that order.")
    made = read('<tool_call>\n{"name": "f", "arguments": {"t": "a <think>b</think> c"}}\n</tool_call><|im_end|>')
    assert (made.reasoning, made.tool_calls) == (None, (ToolCall("f", {"t": "a <think>b</think> c"}),))
    both = read('<think>\nhm\n</think>\n\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call><|im_end|>')
    assert (both.reasoning, [call.name for call in both.tool_calls]) == ("hm", ["f"])


def test_harmony_reads_channels_and_recipients() -> None:
    form = form_of("gpt_oss")

    def read(text: str) -> Action:
        return form.parse(form.tokenizer.encode(text, add_special_tokens=False))

    called = read(
        "<|channel|>analysis<|message|>I need it.<|end|><|start|>assistant<|channel|>commentary to=functions.look_up "
        '<|constrain|>json<|message|>{"city": "Oslo"}<|call|>'
    )
    assert (called.reasoning, called.text) == ("I need it.", "")
    assert called.tool_calls == (ToolCall("look_up", {"city": "Oslo"}),)
    final = read("<|channel|>analysis<|message|>Done.<|end|><|start|>assistant<|channel|>final<|message|>42<|return|>")
    assert (final.reasoning, final.text, final.tool_calls) == ("Done.", "42", ())
    broken = read('<|channel|>commentary to=functions.look_up<|message|>{"city": <|call|>')
    assert (broken.tool_calls[0].name, broken.tool_calls[0].error is None) == ("look_up", False)
    before_s = time.process_time()
    assert form.parse_calls("<|message|>x<|end|>" + "a" * 40_000) == ("x", [])  # no message follows
    assert time.process_time() - before_s < 1  # the square of the text took 13 s


def test_the_ids_of_calls_that_mistral_writes_are_those_of_their_results() -> None:
    form = form_of("mistral")
    text = '[TOOL_CALLS] [{"name": "look_up", "arguments": {}, "id": "aB3dE6gH9"}]</s>'
    (made,) = form.parse(form.tokenizer.encode(text, add_special_tokens=False)).tool_calls
    assert made.id == "aB3dE6gH9"
    more = form.decode(form.render_more([Message("tool", "1", tool_call_id=made.id, name="look_up")]))
    assert '"call_id": "aB3dE6gH9"' in more


def test_the_type_of_a_parameter_decides_how_its_value_is_read() -> None:
    form = form_of("qwen3_coder")
    text = (
        "<tool_call>\n<function=look_up>\n<parameter=city>\n12\n</parameter>\n<parameter=days>\n12\n</parameter>\n"
        "</function>\n</tool_call><|im_end|>"
    )
    ids = form.tokenizer.encode(text, add_special_tokens=False)
    assert form.parse(ids, TOOLS).tool_calls[0].arguments == {"city": "12", "days": 12}
    assert form.parse(ids).tool_calls[0].arguments == {"city": 12, "days": 12}

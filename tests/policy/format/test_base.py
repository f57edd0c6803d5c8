"""Chat formats: what is appended equals what the template renders, and sampled text is read without exceptions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.errors import ModelError
from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.format.base import VERBATIM, ChatFormat
from agentrl.policy.format.call_syntax import CallKeys
from agentrl.policy.format.choice import chat_format
from agentrl.policy.format.derived import TemplateFormat
from agentrl.policy.format.hermes import HermesFormat
from agentrl.policy.format.json_calls import BareCalls
from agentrl.policy.format.template import render_template
from agentrl.policy.tiny import build_tokenizer, chat_template

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30)
NEW = st.lists(
    st.one_of(
        TEXT.map(lambda text: Message("tool", text, tool_call_id="call_0", name="add")),
        TEXT.map(lambda text: Message("user", text)),
    ),
    min_size=1,
    max_size=4,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
CALLS = st.lists(
    st.builds(ToolCall, st.sampled_from(["add", "get_price"]), st.dictionaries(TEXT, JSON, max_size=3)), max_size=3
)
PARTS = ["<tool_call>", "</tool_call>", '{"name": "add"', ', "arguments": {', "}", "<think>", "</think>", " x "]
TOKENIZER = build_tokenizer(["hello tool add"] * 3)
FORMAT = HermesFormat(TOKENIZER)
# The same template without the promise that lets `render_more` skip Jinja.
SLOW = HermesFormat(TOKENIZER, chat_template=chat_template().replace(VERBATIM, ""))


@settings(max_examples=300, deadline=None)
@given(NEW, st.booleans())
def test_joining_pieces_equals_the_template(new: list[Message], closed: bool) -> None:
    assert VERBATIM in FORMAT.template
    assert VERBATIM not in SLOW.template
    assert FORMAT.render_more(new, closed=closed) == SLOW.render_more(new, closed=closed)


@pytest.mark.parametrize("name", ["tiny", "llama"])
def test_turn_by_turn_is_the_whole_conversation(
    name: str, llama_tokenizer: Any, demo: list[Message], tools: list[dict[str, Any]]
) -> None:
    form = chat_format(llama_tokenizer if name == "llama" else TOKENIZER)
    more = [Message("user", "And  2 + 2?\n"), Message("assistant", "4")]
    conversation = [*demo, *more]
    ids = form.render_first(demo[:2], tools)
    ids += form.render_action(Action(tool_calls=demo[2].tool_calls))
    ids += form.render_more([demo[3]])
    ids += form.render_action(Action(text=demo[4].content))
    ids += form.render_more([more[0]])
    ids += form.render_action(Action(text="4"))
    text = render_template(form.template, conversation, tools, **form.variables)
    assert form.decode(ids) == text
    assert ids[-1] in form.stop_ids


def test_a_remembered_rendering_is_that_of_the_same_values_alone() -> None:
    values = [1, 1.0, True, "1", None, [1], {"a": 1}, "x", {"b": 1, "a": 2}, {"a": 2, "b": 1}]
    turns = [Action(tool_calls=(ToolCall("add", {"x": value}),)) for value in values]
    seen = [FORMAT.render_action(turn) for turn in turns]
    assert len({tuple(ids) for ids in seen}) == len(values)
    seen[0].append(0)  # the caller's own list
    assert [FORMAT.render_action(turn) for turn in turns] == [HermesFormat(TOKENIZER).render_action(t) for t in turns]
    with pytest.raises(ModelError):  # no JSON has this value: it must not be taken for the None before
        FORMAT.render_action(Action(tool_calls=(ToolCall("add", {"x": float("nan")}),)))
    first = [[Message("user", "a")], [Message("user", "a"), Message("user", "b")], [Message("system", "a")]]
    tools = [[], [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"n": {}}}}}]]
    again = [FORMAT.render_first(messages, given) for _ in range(2) for messages in first for given in tools]
    assert again[:6] == again[6:]
    assert len({tuple(ids) for ids in again}) == 6


def test_an_unclosed_turn_gets_its_closing_token() -> None:
    new = [Message("tool", "46", tool_call_id="call_0", name="add")]
    closed, cut = FORMAT.render_more(new), FORMAT.render_more(new, closed=False)
    assert cut == [TOKENIZER.convert_tokens_to_ids("<|im_end|>"), *closed]
    assert FORMAT.decode(closed) == "<tool_response>46</tool_response><|im_start|>assistant\n"


def test_a_closer_after_blanks_is_found_once() -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}\n<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    form = HermesFormat(TOKENIZER, chat_template=template)
    text = form.decode(form.render_more([Message("user", "go on")]))
    assert text == "\n<|im_start|>user\ngo on\n<|im_end|>\n<|im_start|>assistant\n"


@settings(max_examples=200, deadline=None)
@given(TEXT.filter(lambda t: "<" not in t), CALLS, st.none() | TEXT.filter(lambda t: "<" not in t and t.strip()))
def test_hermes_reads_back_what_the_template_writes(text: str, calls: list[ToolCall], thought: str | None) -> None:
    action = Action(text=text.strip(), tool_calls=tuple(calls), reasoning=thought and thought.strip())
    parsed = FORMAT.parse(FORMAT.render_action(action))
    assert parsed.text == action.text
    assert parsed.reasoning == action.reasoning
    assert [(c.name, dict(c.arguments), c.error) for c in parsed.tool_calls] == [
        (c.name, json.loads(json.dumps(dict(c.arguments))), None) for c in calls
    ]
    assert [c.id for c in parsed.tool_calls] == [f"call_{i}" for i in range(len(calls))]


def test_llama_reads_back_parallel_calls(llama_tokenizer: Any) -> None:
    form = chat_format(llama_tokenizer)
    assert isinstance(form, TemplateFormat)
    assert form.syntax == BareCalls(CallKeys(arguments="parameters"))
    calls = (ToolCall("add", {"a": 1, "b": 2}), ToolCall("add", {"a": 3, "b": "x; {y}"}, "call_1"))
    parsed = form.parse(form.render_action(Action(tool_calls=calls)))
    assert parsed.tool_calls == calls
    assert parsed.text == ""


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=25))
def test_parsing_any_ids_never_raises(ids: list[int]) -> None:
    assert isinstance(FORMAT.parse(ids), Action)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=9))
def test_parsing_shuffled_syntax_never_raises(parts: list[str]) -> None:
    action = FORMAT.parse(TOKENIZER.encode("".join(parts)))
    for call in action.tool_calls:
        assert call.error is not None or call.name == "add"


def test_a_prompt_that_opens_the_thought_is_known_to_the_parser() -> None:
    opened = chat_template().replace(
        "{{- '<|im_start|>assistant\\n' -}}{%- endif -%}\n", "{{- '<|im_start|>assistant\\n<think>' -}}{%- endif -%}\n"
    )
    assert opened != chat_template()
    form = HermesFormat(TOKENIZER, chat_template=opened)
    action = form.parse(TOKENIZER.encode("so it is 4</think>4"))
    assert (action.reasoning, action.text) == ("so it is 4", "4")
    cut = form.parse(TOKENIZER.encode("so it is"))
    assert (cut.reasoning, cut.text) == ("so it is", "")


def test_a_missing_template_says_what_to_do() -> None:
    bare = build_tokenizer(["x"])
    bare.chat_template = None
    with pytest.raises(ModelError, match=r"no chat template.*--chat-template"):
        chat_format(bare)
    assert chat_format(bare, chat_template=chat_template()).parse_calls('<tool_call>{"name": "f"}</tool_call>')[1]


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ModelError, match="Did you mean 'hermes'"):
        chat_format(TOKENIZER, "hermess")


def test_a_template_that_raises_or_drops_turns_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="no roles today"):
        HermesFormat(TOKENIZER, chat_template="{{ raise_exception('no roles today') }}")
    with pytest.raises(ModelError, match="drops assistant turns"):
        HermesFormat(TOKENIZER, chat_template="{{ messages[0].content }}")


def test_a_template_without_closer_cannot_demonstrate() -> None:
    form: ChatFormat = HermesFormat(
        TOKENIZER,
        chat_template="{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}",
    )
    assert form.closer == ""
    with pytest.raises(ModelError, match="never stop"):
        form.render_action(Action(text="4"))

"""What a chat template takes: which roles, in which form tools and calls. Found by rendering probes, not by name.

Owns the step from messages to what the template is given; a template that knows no tools, no results or no system
prompt is given them as text. Contents are hidden (`control_tokens`) before they come here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from agentrl.messages import Message, ToolCall
from agentrl.policy.format.call_syntax import short_id
from agentrl.policy.format.template import message_for_template

# A template that says this shows no tools, and its model has learnt them (the tiny model's).
SHOWS_NO_TOOLS = "set show_tools = false"
# Contents of probes, which every template must keep.
MARK = "4f1c9a7e-sampled-turn"
PROBE_TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "zq_probe_tool",
        "description": "A probe.",
        "parameters": {
            "type": "object",
            "properties": {"zq_key": {"type": "string", "description": "A value."}},
            "required": ["zq_key"],
        },
    },
}
PROBE_CALL = ToolCall("zq_probe_tool", {"zq_key": "zq_value", "zq_number": 7})
USER = Message("user", "x")
_IN_SYSTEM_MESSAGE = "message"
_TOOL_NAMES = re.compile(r"\b\w+_tools\b")

Render = Callable[[Sequence[Mapping[str, Any]], Mapping[str, Any]], str | None]
"""Items and variables to the rendered text; None where the template refuses them."""


@dataclass(frozen=True)
class Dialect:
    """What a template is given.

    Attributes:
        system_role: system messages; without it they open the next message of the user.
        tool_role: results of calls; without it they are messages of the user.
        merges_users: neighbouring messages of the user are joined into one.
        tools_as: the variable that holds the tools, `message` for a field of the system message, or empty: then the
            system prompt describes them.
        calls: calls as `tool_calls`; without it they are text of the assistant.
        json_arguments: arguments are a JSON string, not an object.
        short_ids: ids of calls have nine letters and digits.
        null_content: a turn of calls alone has no content at all.
    """

    system_role: bool = True
    tool_role: bool = True
    merges_users: bool = False
    tools_as: str = "tools"
    calls: bool = True
    json_arguments: bool = False
    short_ids: bool = False
    null_content: bool = False

    def given(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], write: Callable[[ToolCall], str]
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """What the template is given for a conversation.

        Args:
            messages, tools: as a policy gets them.
            write: the text of a call, where calls are text.
        Returns: the messages, and the variables.
        """
        if tools and not self.tools_as:
            messages = _with_description(messages, description_of(tools, write))
        items = [self._item(message, write) for message in messages]
        if not self.system_role:
            items = list(_folded(items))
        if self.merges_users:
            items = list(_merged(items))
        if not tools or not self.tools_as:
            return items, {}
        shown = [dict(tool) for tool in tools]
        if self.tools_as != _IN_SYSTEM_MESSAGE:
            return items, {self.tools_as: shown}
        if not items or items[0]["role"] != "system":
            items.insert(0, {"role": "system", "content": ""})
        functions = [tool.get("function", tool) for tool in shown]
        items[0]["tools"] = json.dumps(functions, ensure_ascii=False)
        return items, {}

    def _item(self, message: Message, write: Callable[[ToolCall], str]) -> dict[str, Any]:
        if message.role == "tool" and not self.tool_role:
            return {"role": "user", "content": f"<tool_response>\n{message.content}\n</tool_response>"}
        if not message.tool_calls:
            item = message_for_template(message)
        elif not self.calls:
            text = "\n".join([*([message.content] if message.content else []), *map(write, message.tool_calls)])
            return {"role": "assistant", "content": text} | _reasoning(message)
        else:
            item = message_for_template(message)
            for call in item["tool_calls"]:
                if self.json_arguments:
                    call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
                if self.short_ids:
                    call["id"] = short_id(call["id"])
            if self.null_content and not message.content:
                item["content"] = None
        if self.short_ids and message.tool_call_id is not None:
            item["tool_call_id"] = short_id(message.tool_call_id)
        return item


def _reasoning(message: Message) -> dict[str, str]:
    return {} if message.reasoning is None else {"reasoning_content": message.reasoning}


def description_of(tools: Sequence[Mapping[str, Any]], write: Callable[[ToolCall], str]) -> str:
    """The tools and how to call them, for a system prompt."""
    lines = [json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools]
    example = write(ToolCall("NAME", {"PARAMETER": "VALUE"}))
    return "\n".join(
        [
            "# Tools",
            "You can call these functions:",
            *lines,
            "",
            "To call a function, write this, once for each call:",
            example,
            "The results follow in the next message. Write no call when you give your answer.",
        ]
    )


def _with_description(messages: Sequence[Message], description: str) -> list[Message]:
    if messages and messages[0].role == "system":
        first = replace_content(messages[0], f"{messages[0].content}\n\n{description}")
        return [first, *messages[1:]]
    return [Message("system", description), *messages]


def replace_content(message: Message, content: str) -> Message:
    """The message with another content."""
    return Message(message.role, content, message.tool_calls, message.tool_call_id, message.name, message.reasoning)


def _folded(items: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """System messages as the beginning of the next message of the user."""
    waiting: list[str] = []
    for item in items:
        if item["role"] == "system":
            waiting.append(item["content"])
        elif waiting and item["role"] == "user":
            yield {**item, "content": "\n\n".join([*waiting, item["content"]])}
            waiting = []
        else:
            if waiting:
                yield {"role": "user", "content": "\n\n".join(waiting)}
                waiting = []
            yield item
    if waiting:
        yield {"role": "user", "content": "\n\n".join(waiting)}


def _merged(items: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Neighbouring messages of the user as one."""
    held: dict[str, Any] | None = None
    for item in items:
        if item["role"] == "user" and held is not None:
            held = {**held, "content": f"{held['content']}\n{item['content']}"}
            continue
        if held is not None:
            yield held
        held = item if item["role"] == "user" else None
        if held is None:
            yield item
    if held is not None:
        yield held


# Probing.


def dialect_of(
    render: Render,
    template: str,
    write: Callable[[ToolCall], str],
    reads: Callable[[Dialect], bool],
    *,
    tools_and_calls: bool = True,
) -> Dialect:
    """The dialect of a template.

    Args:
        render: runs the template.
        template: Jinja text, to look for names of variables.
        write: the text of a call.
        reads: whether calls that the template writes in a dialect are read back.
        tools_and_calls: False gives the template neither tools nor calls nor results.
    """

    def shown(
        dialect: Dialect, messages: Sequence[Message], *texts: str, tools: Sequence[Mapping[str, Any]] = ()
    ) -> bool:
        text = render(*dialect.given(messages, tools, write))
        return text is not None and all(mark in text for mark in texts)

    users = [Message("user", MARK), Message("user", "zq-second")]
    dialect = Dialect(
        system_role=shown(Dialect(), [Message("system", MARK), USER], MARK),
        merges_users=not shown(Dialect(), users, MARK, "zq-second"),
    )
    dialect = replace(dialect, tools_as="")
    if tools_and_calls:
        dialect = _with_calls(dialect, shown, reads)
        dialect = replace(dialect, tools_as=_tools_variable(dialect, template, shown))
    else:
        dialect = replace(dialect, calls=False)
    call = Message("assistant", "", (PROBE_CALL,))
    result = Message("tool", MARK, tool_call_id=PROBE_CALL.id, name=PROBE_CALL.name)
    for form in (dialect, replace(dialect, short_ids=True)) if tools_and_calls else ():
        if shown(form, [USER, call, result], MARK):
            return form
    dialect = replace(dialect, tool_role=False)
    several = shown(dialect, [USER, call, result, result], MARK)
    return dialect if several else replace(dialect, merges_users=True)


def _with_calls(dialect: Dialect, shown: Callable[..., bool], reads: Callable[[Dialect], bool]) -> Dialect:
    """In which form the template writes calls that are read back; the first form that it writes where none is."""
    first: Dialect | None = None
    turn = [USER, Message("assistant", "", (PROBE_CALL,))]
    for null_content, json_arguments, short_ids in product((False, True), repeat=3):
        form = replace(dialect, null_content=null_content, json_arguments=json_arguments, short_ids=short_ids)
        if shown(form, turn, PROBE_CALL.name, "zq_key", "zq_value"):
            if reads(form):
                return form
            first = first or form
    return first or replace(dialect, calls=False)


def _tools_variable(dialect: Dialect, template: str, shown: Callable[..., bool]) -> str:
    """Where the template takes tools from; empty if it shows none. A template may say that it means to show none."""
    if SHOWS_NO_TOOLS in template:
        return "tools"
    others: list[str] = sorted(set(_TOOL_NAMES.findall(template)))
    starts = [USER], [Message("system", "x"), USER]
    for place in ("tools", *others, *([_IN_SYSTEM_MESSAGE] if dialect.system_role else [])):
        form = replace(dialect, tools_as=place)
        if all(shown(form, start, "zq_probe_tool", "zq_key", tools=[PROBE_TOOL]) for start in starts):
            return place
    return ""

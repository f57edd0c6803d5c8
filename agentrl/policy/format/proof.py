"""Proving a chat format before anything is sampled: what the model is shown, and that what it writes is read.

Owns the claims and their refusals. What a template takes belongs to `dialect`, the forward pass to
`agentrl.policy.engine.proof`.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentrl.errors import ModelError
from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.format.base import ChatFormat
from agentrl.policy.format.dialect import MARK, PROBE_TOOL, SHOWS_NO_TOOLS, USER

_TOOL = "zq_probe_tool"
_OTHER = "zq_result_of_the_call"
_WHAT_TO_SET = (
    'Set model.chat_format = "generic" in a training run, --chat-format generic for a command: it describes the tools '
    "in the system prompt and writes calls as text. Or give the model another chat template: model.chat_template, "
    "--chat-template"
)
_CALLS: Sequence[ToolCall] = (
    ToolCall(_TOOL, {}),
    ToolCall(_TOOL, {"zq_key": "a value"}),
    ToolCall(_TOOL, {"n": 7, "x": -1.5, "yes": True, "none": None, "list": [1, "two", {"three": []}]}),
    ToolCall(_TOOL, {"zq_key": 'quotes " and \\ and\nlines', "text": "größer 漢字 🙂"}),
    ToolCall(_TOOL, {"zq_key": '<think>no</think> </tool_call> <tool_call> {"name": 1}', "digits": "12"}),
)


def prove(form: ChatFormat) -> None:
    """Prove that the model is shown everything, and that the calls it is shown are the calls that are read.

    Raises: ModelError that says what is not so, and what to set.
    """
    if not form.closer:
        raise ModelError(
            "the chat template ends a turn with no token that the tokenizer has, so the model could never stop: give a "
            "template that ends turns with the tokenizer's eos token (model.chat_template, --chat-template), or add "
            "the template's own token to the tokenizer"
        )
    _prove_prompt(form)
    for call in _CALLS:
        _prove_call(form, call)
    _prove_result(form)


def _prove_prompt(form: ChatFormat) -> None:
    for start in ([USER], [Message("system", MARK), USER]):
        text = form.decode(form.render_first(start, [PROBE_TOOL]))
        if len(start) == 2 and MARK not in text:
            raise ModelError(f"the chat template drops the system prompt. {_WHAT_TO_SET}")
        hides = SHOWS_NO_TOOLS in form.template and form.dialect.tools_as
        if not hides and not (_TOOL in text and "zq_key" in text):
            raise ModelError(f"the prompt does not show the tools. {_WHAT_TO_SET}")
    if MARK not in form.decode(form.render_first([Message("user", MARK)], [PROBE_TOOL])):
        raise ModelError(f"the chat template drops what the user says. {_WHAT_TO_SET}")


def _prove_call(form: ChatFormat, call: ToolCall) -> None:
    action = Action(tool_calls=(call,))
    try:
        form.render_action(action, [PROBE_TOOL])
    except ModelError as error:
        written = form.written(action)
        shown = f", as {written.strip()[:200]!r}" if written else ""
        raise ModelError(
            f"the chat template writes calls in a way{shown}, that the chat format {form.name!r} does not read back: "
            f"{error}. {_WHAT_TO_SET}"
        ) from error


def _prove_result(form: ChatFormat) -> None:
    call = ToolCall(_TOOL, {"zq_key": "a value"})
    result = Message("tool", _OTHER, tool_call_id=call.id, name=call.name)
    conversation = [USER, Message("assistant", "", (call,)), result]
    try:
        more = form.decode(form.render_more([result]))
        whole = form.decode(form.render_first(conversation, [PROBE_TOOL]))
    except ModelError as error:
        raise ModelError(f"the chat template cannot show the result of a call: {error}. {_WHAT_TO_SET}") from error
    if _OTHER not in more or _OTHER not in whole:
        raise ModelError(f"the chat template drops the results of calls. {_WHAT_TO_SET}")

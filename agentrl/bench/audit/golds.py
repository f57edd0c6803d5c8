"""What the answer to a task may look like, by its data and by what the oracle says. Looks for it nowhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentrl.bench.audit.playing import Subject
from agentrl.bench.audit.reach import is_answerlike
from agentrl.trajectory import Trajectory

_LONGEST_WORDS = 200


def golds_of(subject: Subject) -> dict[str, list[str]]:
    """Each task's answers: fields of its data that are named so, and the oracle's last words.

    An answer with a structure counts as a whole, and so does each value in it. If the oracle hands such values to
    tools, the answer is calls: then their arguments stand in the request by right, and only the whole counts.
    """
    episodes = {t.task.id: t for t in subject.oracle}
    return {task.id: _golds(task.data, episodes.get(task.id)) for task in subject.tasks}


def _golds(data: Mapping[str, Any], oracle: Trajectory | None) -> list[str]:
    answers = list(_answers(data))
    plain = [text for value in answers for text in _texts(value)]
    built = [value for value in answers if isinstance(value, (Mapping, list)) and value]
    values = [text for value in built for leaf in _leaves(value) for text in _texts(leaf)]
    if not set(values) & _handed_to_tools(oracle):
        plain += values
    return list(dict.fromkeys([*plain, *(json.dumps(value, default=repr) for value in built), *_last_words(oracle)]))


def _answers(data: Any) -> Iterator[Any]:
    """Fields that are named as answers: plain values, those of a list of alternatives, and structures as they stand."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _alternatives(value) if is_answerlike(str(key)) else _answers(value)
    elif isinstance(data, list):
        for item in data:
            yield from _answers(item)


def _alternatives(value: Any) -> Sequence[Any]:
    is_plain_list = isinstance(value, list) and not any(isinstance(item, (Mapping, list)) for item in value)
    return value if is_plain_list else [value]


def _texts(value: Any) -> Iterator[str]:
    """A plain value as a text, unless it is too short to be told from others."""
    if isinstance(value, (str, int, float)) and not isinstance(value, bool) and len(text := str(value).strip()) > 1:
        yield text


def _leaves(value: Any) -> Iterator[Any]:
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else None
    if items is None:
        yield value
    else:
        for item in items:
            yield from _leaves(item)


def _handed_to_tools(oracle: Trajectory | None) -> set[str]:
    turns = oracle.turns if oracle is not None else ()
    calls = (call for turn in turns for call in turn.action.tool_calls)
    return {text for call in calls for leaf in _leaves(call.arguments) for text in _texts(leaf)}


def _last_words(oracle: Trajectory | None) -> Iterator[str]:
    if oracle is not None and oracle.success and oracle.turns and not oracle.turns[-1].action.tool_calls:
        text = oracle.turns[-1].action.text.strip()
        if 1 < len(text) <= _LONGEST_WORDS:
            yield text

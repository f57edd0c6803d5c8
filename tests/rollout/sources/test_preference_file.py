"""Preferences in TRL's form: both places of the prompt, what is context, and what is refused by line."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from agentrl.errors import ConfigError, StoreError
from agentrl.messages import Message
from agentrl.rollout.sources.chat_file import ChatError
from agentrl.rollout.sources.preference_file import check_preferences, pair_of, preferences, read_preferences

ASK = {"role": "user", "content": "tea?"}
YES, NO = {"role": "assistant", "content": "yes"}, {"role": "assistant", "content": "no"}
MORE = {"role": "user", "content": "sure?"}
TOOL = {"type": "function", "function": {"name": "price"}}
CALL = {"role": "assistant", "tool_calls": [{"id": "a", "type": "function", "function": {"name": "price"}}]}


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": [ASK], "chosen": [YES], "rejected": [NO]},
        {"chosen": [ASK, YES], "rejected": [ASK, NO]},
        {"prompt": "tea?", "chosen": [ASK, YES], "rejected": [ASK, NO]},  # the text repeats the messages
    ],
)
def test_the_prompt_may_stand_in_either_place(record: dict[str, Any]) -> None:
    group = pair_of(record, 3)
    assert (group.group_id, group.preferences, group.rewards) == ("pair-3", ((0, 1),), [1.0, 0.0])
    chosen, rejected = group.trajectories
    assert [t.messages() for t in group.trajectories] == [
        [Message("user", "tea?"), Message("assistant", text)] for text in ("yes", "no")
    ]
    assert (chosen.success, rejected.success) == (True, False)


def test_turns_that_both_sides_share_are_context() -> None:
    chosen, rejected = pair_of({"chosen": [ASK, YES, MORE, YES], "rejected": [ASK, YES, MORE, NO]}, 1).trajectories
    before = tuple(map(Message.from_openai, (ASK, YES, MORE)))
    for side, text in ((chosen, "yes"), (rejected, "no")):
        (turn,) = side.turns
        assert (turn.observation, turn.action.text, turn.reward) == (before, text, float(side is chosen))


def test_a_margin_is_the_difference_in_reward_and_tools_may_be_text() -> None:
    record = {"prompt": [ASK], "chosen": [CALL], "rejected": [NO], "margin": 2.5, "tools": json.dumps([TOOL])}
    group = pair_of(record, 1)
    assert group.rewards == [2.5, 0.0]
    assert [t.tools for t in group.trajectories] == [[TOOL], [TOOL]]


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"prompt": "tea?", "chosen": "yes", "rejected": "no"}, "chosen is text: give a list of messages"),
        ({"prompt": "tea?", "chosen": [YES], "rejected": [NO]}, "prompt must be a list of messages"),
        ({"prompt": [ASK], "chosen": [YES]}, "rejected must be a list of messages"),
        ({"prompt": [ASK], "chosen": [YES], "rejected": [YES]}, "both are the same"),
        ({"prompt": [ASK], "chosen": [YES, MORE, YES], "rejected": [YES]}, "is the beginning of the other"),
        ({"chosen": [ASK, YES], "rejected": [MORE, NO]}, "differ first in their message 0, which is not"),
        ({"prompt": [ASK], "chosen": [YES], "rejected": [NO], "margin": 0}, "margin must be a number above 0"),
        ({"prompt": [ASK], "chosen": [YES], "rejected": [NO], "tools": "["}, "tools is text that is no JSON"),
        ({"prompt": [ASK], "chosen": [CALL], "rejected": [NO]}, r"chosen\[1\] calls 'price', which is not in tools"),
        ({"chosen": [YES], "rejected": [NO]}, r"chosen\[0\] is the assistant's"),
    ],
)
def test_what_is_no_preference_is_refused(record: dict[str, Any], what: str) -> None:
    with pytest.raises(ChatError, match=what):
        pair_of(record, 1)


def write(path: Path, *records: object) -> Path:
    path.write_text("\n".join(json.dumps(record) for record in records))
    return path


async def test_a_file_is_read_in_an_order_of_the_seed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = [{"prompt": [{**ASK, "content": str(n)}], "chosen": [YES], "rejected": [NO], "id": n} for n in range(8)]
    path = write(tmp_path / "pairs.jsonl", *records)
    with caplog.at_level(logging.WARNING):
        source = preferences(path, seed=1)
    assert "has fields that are not used: id" in caplog.text
    found = [group.group_id for group in await source.take(8)]
    assert sorted(found) == [f"pair-{n}" for n in range(1, 9)] != found


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    good = {"prompt": [ASK], "chosen": [YES], "rejected": [NO]}
    path = write(tmp_path / "pairs.jsonl", good, {}, good, {"chosen": []})
    with pytest.raises(ConfigError, match=r"stages\.dpo\.pairs: 2 lines of .*\n  line 2: chosen must be.*\n  line 4: "):
        check_preferences(path, "stages.dpo.pairs")
    with pytest.raises(StoreError, match="holds no preferences"):
        read_preferences(write(tmp_path / "empty.jsonl"))
    with pytest.raises(StoreError, match="cannot read"):
        read_preferences(tmp_path / "absent.jsonl")

"""A trajectory survives its JSON form with every token id."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import to_builtins

from agentrl.messages import Action, Message, ToolCall
from agentrl.rollout.records import FormatError, trajectory_from_json, trajectory_record
from agentrl.trajectory import Ending, EnvRef, Labels, Task, Trajectory, Turn, context_after

IDS = st.lists(st.integers(0, 5), max_size=4).map(tuple)
CALLS = st.builds(
    ToolCall, st.text(max_size=3), st.dictionaries(st.text(max_size=2), st.integers()), st.text(), st.none() | st.text()
)


@st.composite
def turns(draw) -> list[Turn]:
    """Turns whose prompts sometimes extend the context exactly, sometimes rewrite it."""
    made: list[Turn] = []
    context: tuple[int, ...] = ()
    observation = (Message("user", draw(st.text(max_size=3))),)
    for _ in range(draw(st.integers(1, 5))):
        prompt = draw(st.one_of(IDS.map(lambda more, c=context: c + more), IDS, st.none()))
        tokens = draw(st.none() | IDS)
        action = Action(
            text=draw(st.text(max_size=3)),
            tool_calls=tuple(draw(st.lists(CALLS, max_size=2))),
            reasoning=draw(st.none() | st.text(max_size=3)),
            prompt_ids=prompt,
            token_ids=tokens,
            logprobs=None if tokens is None else tuple(-0.1 * t for t in tokens),
            versions=None if tokens is None else tuple(draw(st.integers(0, 3)) for _ in tokens),
            finish_reason=draw(st.sampled_from(["stop", "length", "tool_calls", "abort"])),
            usage=draw(st.none() | st.just({"completion_tokens": 3})),
        )
        after = (Message("tool", draw(st.text(max_size=3)), (), "c", "f"),) if draw(st.booleans()) else ()
        reward = draw(st.floats(-2, 2))
        turn = Turn(observation, action, reward, {"a": reward}, after, draw(st.none() | st.text(max_size=2)))
        turn.trainer_logprobs = draw(st.none() | st.just(action.logprobs))
        made.append(turn)
        observation, context = after, context_after(action)
    return made


@given(turns())
def test_every_id_and_message_comes_back_through_json(played):
    trajectory = Trajectory(
        EnvRef("my/Env-v0", {"size": 3}, {"max_turns": 4}, "my 1.0"),
        Task("t", "eval", {"n": [1]}),
        7,
        played,
        Ending("limit", "max_turns"),
        "g",
        "e",
        Labels("rl", 3, "greedy", 2, True),
        {"x": 1},
        fork=("e0", 2),
    )
    again = trajectory_from_json(json.loads(json.dumps(to_builtins(trajectory_record(trajectory)))))
    assert dataclasses.asdict(again) == {**dataclasses.asdict(trajectory), "tools": []}
    assert [turn.action.prompt_ids for turn in again.turns] == [turn.action.prompt_ids for turn in played]
    assert again.messages() == trajectory.messages()


def test_what_a_prompt_shares_with_the_context_is_stored_once():
    first = Action("a", prompt_ids=(1, 2, 3), token_ids=(4, 5), logprobs=(-1.0, -2.0))
    second = Action("b", prompt_ids=(1, 2, 3, 4, 5, 6, 7), token_ids=(8,), logprobs=(-0.5,))
    rewritten = Action("c", prompt_ids=(1, 2, 9), token_ids=(4,), logprobs=(-0.5,))
    record = trajectory_record(
        Trajectory(EnvRef("e"), Task("t"), 0, [Turn((), action) for action in (first, second, rewritten)])
    )
    stored = [(turn.action.prompt_prefix, turn.action.prompt_ids) for turn in record.turns]
    assert stored == [(0, (1, 2, 3)), (5, (6, 7)), (2, (9,))]


@pytest.mark.parametrize("found", [None, 1, 4])
def test_another_format_is_refused(found):
    record = to_builtins(trajectory_record(Trajectory(EnvRef("e"), Task("t"), 0)))
    record["format"] = found
    if found is None:  # before formats had numbers
        del record["format"]
    with pytest.raises(
        FormatError, match=rf"was written in format {found or 1}, and this version reads formats 2 and 3"
    ):
        trajectory_from_json(record)

"""Token ids of episodes: they stay where they are proved to be of this tokenizer, and are rendered anew elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.format.base import ChatFormat
from agentrl.policy.format.choice import chat_format
from agentrl.policy.format.demonstrations import has_own_tokens, with_tokens
from agentrl.policy.tiny import build_tiny
from agentrl.trajectory import EnvRef, Labels, Task, Trajectory, Turn

FIRST = (Message("system", "You sell."), Message("user", "Price of tea?"))
THEN = (Message("tool", "3", tool_call_id="call_0"),)
CALL = Action("", (ToolCall("price", {"item": "tea"}),))


@pytest.fixture(scope="module")
def formats() -> tuple[ChatFormat, ChatFormat]:
    """Two tokenizers of the same template that were trained on different texts."""
    texts = (["Price of tea? three"] * 9, ["abracadabra hocus pocus"] * 9)
    return tuple(chat_format(build_tiny(text, hidden_size=16, num_layers=1)[1]) for text in texts)  # type: ignore[return-value]


def demonstration(*actions: Action) -> Trajectory:
    observations = (FIRST, THEN, THEN)
    turns = [Turn(seen, action) for seen, action in zip(observations, actions, strict=False)]
    return Trajectory(EnvRef("e"), Task("t"), 0, turns, labels=Labels(mode="demonstration"))


def test_sampled_ids_stay_though_the_tokenizer_would_write_the_text_otherwise(
    formats: tuple[ChatFormat, ChatFormat],
) -> None:
    own, _ = formats
    first = tuple(own.render_first(FIRST))
    spelled = tuple(i for character in "three" for i in own.tokenizer.encode(character, add_special_tokens=False))
    sampled = (*spelled, min(own.stop_ids))
    assert sampled != tuple(own.render_action(Action("three")))
    action = Action("three", prompt_ids=first, token_ids=sampled, logprobs=(-1.0,) * len(sampled))
    episode = demonstration(action)
    assert with_tokens(episode, own) is episode


def test_ids_of_another_tokenizer_are_never_kept(formats: tuple[ChatFormat, ChatFormat]) -> None:
    own, other = formats
    made_elsewhere = with_tokens(demonstration(CALL, Action("3")), other)
    versions = [structs.replace(t.action, versions=(1,) * len(t.action.token_ids or ())) for t in made_elsewhere.turns]
    turns = [structs.replace(t, action=a) for t, a in zip(made_elsewhere.turns, versions, strict=True)]
    made_elsewhere = replace(made_elsewhere, turns=turns)
    assert has_own_tokens(made_elsewhere, other)
    assert not has_own_tokens(made_elsewhere, own)
    here = with_tokens(made_elsewhere, own)
    assert [t.action.token_ids for t in here.turns] == [tuple(own.render_action(a)) for a in (CALL, Action("3"))]
    assert all(t.action.versions is None for t in here.turns)


def test_one_changed_id_is_noticed(formats: tuple[ChatFormat, ChatFormat]) -> None:
    own, _ = formats
    whole = with_tokens(demonstration(CALL, Action("3")), own)
    (four,) = own.tokenizer.encode("4", add_special_tokens=False)
    for number, field, place in ((0, "prompt_ids", 0), (1, "prompt_ids", -1), (1, "token_ids", 0)):
        ids = list(getattr(whole.turns[number].action, field))
        assert ids[place] != four
        ids[place] = four
        action = structs.replace(whole.turns[number].action, **{field: tuple(ids)})
        turns = [structs.replace(t, action=action) if n == number else t for n, t in enumerate(whole.turns)]
        assert not has_own_tokens(replace(whole, turns=turns), own)


@pytest.mark.parametrize(
    "action",
    [Action("thr", finish_reason="length"), Action("", (ToolCall("price", {}, error="not valid JSON"),))],
)
def test_a_turn_that_cannot_be_written_again_leaves_no_turns(
    action: Action, formats: tuple[ChatFormat, ChatFormat]
) -> None:
    assert with_tokens(demonstration(action), formats[0]).turns == []

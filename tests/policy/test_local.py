"""`LocalPolicy`: token contexts that only grow, and logprobs that a full forward confirms."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.env.base import Limits, as_action
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import ModelError
from agentrl.learning.rows import build_rows
from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.base import SamplingParams
from agentrl.policy.engine.requests import Completion
from agentrl.policy.local import LocalPolicy
from agentrl.policy.model_folder import save
from agentrl.rollout.requests import GroupRequest
from agentrl.rollout.runner import Rollouts
from agentrl.token_ids import TokenIds
from agentrl.tool_schema import tool
from agentrl.trajectory import Task
from tests.policy import families

SHORT = SamplingParams(max_tokens=12)
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
REPLIES = st.lists(
    st.lists(
        st.one_of(
            TEXT.map(lambda text: Message("tool", text, tool_call_id="call_0", name="add")),
            TEXT.map(lambda text: Message("user", text)),
        ),
        min_size=1,
        max_size=3,
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(params=["tiny", "llama"])
def policy(request: pytest.FixtureRequest) -> LocalPolicy:
    return LocalPolicy.from_folder(request.getfixturevalue(f"{request.param}_folder"), sampling=SHORT, slots=5)


def first(question: str = "What is 1 + 2?") -> list[Message]:
    return [Message("system", "Use the tool."), Message("user", question)]


async def episode(
    p: LocalPolicy,
    name: str,
    tools: Any,
    replies: list[list[Message]],
    question: str = "What is 1 + 2?",
    **options: Any,
) -> list[Action]:
    messages, actions = first(question), []
    for reply in replies:
        actions.append(await p.act(messages, tools, episode_id=name, **options))
        messages = [*messages, actions[-1].to_message(), *reply]
    await p.release(name)
    return actions


def check_tokens(p: LocalPolicy, actions: list[Action], replies: list[list[Message]]) -> None:
    """Contexts grow by exactly the sampled ids and the rendered reply; logprobs are a full forward's."""
    context: list[int] = []
    for turn, action in enumerate(actions):
        assert action.prompt_ids is not None
        assert action.token_ids is not None
        if turn:
            closed = context[-1] in p.format.stop_ids
            context += p.format.render_more(replies[turn - 1], closed=closed)
            assert list(action.prompt_ids) == context
        context = [*action.prompt_ids, *action.token_ids]
        with torch.no_grad():
            logprobs = torch.log_softmax(p.model(torch.tensor([context])).logits[0].float(), -1)
        start = len(action.prompt_ids) - 1
        expected = [logprobs[start + i, token].item() for i, token in enumerate(action.token_ids)]
        assert list(action.logprobs or ()) == pytest.approx(expected, abs=1e-4)


async def test_contexts_only_grow_in_a_crowd(policy: LocalPolicy, tools: Any) -> None:
    replies = [[Message("tool", "4" * n, tool_call_id="call_0", name="add")] for n in (1, 2, 3)]
    work = [episode(policy, f"g{i // 4}-{i}", tools, replies, f"What is {i // 4} + 9?") for i in range(12)]
    for actions in await asyncio.gather(*work):
        check_tokens(policy, actions, replies)
    assert policy.engine.busy == 0
    assert len(policy.engine.owners) == 0


@settings(max_examples=60, deadline=None)
@given(replies=REPLIES, seed=st.integers(0, 10**6))
async def test_contexts_only_grow_whatever_is_said(
    replies: list[list[Message]], seed: int, tiny: tuple[Any, Any], tools: Any
) -> None:
    p = LocalPolicy(*tiny, sampling=SamplingParams(max_tokens=12, temperature=1.5, seed=seed), max_context=400)
    actions = await episode(p, "e", tools, replies)
    context: tuple[int, ...] = ()
    for action in actions:
        assert action.prompt_ids is not None
        assert action.token_ids is not None
        assert action.prompt_ids[: len(context)] == context
        context = action.prompt_ids + action.token_ids
        assert p.format.parse(action.token_ids).tool_calls == action.tool_calls


async def test_a_stopped_turn_goes_on_after_its_stop_token(tiny: tuple[Any, Any], tools: Any) -> None:
    p = LocalPolicy(*tiny, sampling=SamplingParams(max_tokens=200, temperature=2.0))
    replies = [[Message("user", "go on")]] * 4
    for number in range(20):
        actions = await episode(p, str(number), tools, replies)
        if any(a.finish_reason == "stop" for a in actions[:-1]):
            break
    else:
        pytest.fail("no turn stopped in 80 turns at temperature 2")
    end = p.tokenizer.convert_tokens_to_ids("<|im_end|>")
    for action, later in pairwise(actions):
        context = [*(action.prompt_ids or ()), *(action.token_ids or ())]
        between = list(later.prompt_ids or ())[len(context) :]
        assert (end in between[:1]) == (action.finish_reason == "length")


async def test_changed_history_is_rendered_anew(tiny: tuple[Any, Any], tools: Any) -> None:
    p = LocalPolicy(*tiny, sampling=SHORT)
    fork = [*first(), Message("assistant", "something else"), Message("user", "and?")]
    one = await p.act(first(), tools, episode_id="e")
    two = await p.act(fork, tools, episode_id="e")
    three = await p.act([*fork, two.to_message(), Message("user", "so?")], tools, episode_id="e")
    assert one.prompt_ids is not None
    assert two.prompt_ids is not None
    assert list(two.prompt_ids) == p.format.render_first(fork, tools)
    assert two.usage is not None
    assert two.usage["cached_tokens"] >= len(one.prompt_ids) - 1  # the unchanged beginning is not computed again
    context = two.prompt_ids + (two.token_ids or ())
    assert three.prompt_ids is not None
    assert three.prompt_ids[: len(context)] == context


async def test_dropped_thinking_forks(tiny: tuple[Any, Any], tools: Any) -> None:
    p = LocalPolicy(*tiny, sampling=SHORT)
    thought = p.tokenizer.encode("<think>hm</think>4")

    async def ask(keep: bool) -> Action:
        start = first()
        prompt = tuple(p.format.render_first(start, tools))
        action = p.format.parse(thought)
        name = f"e{keep}"
        await p.act(start, tools, episode_id=name)
        p._episodes[name].prompt, p._episodes[name].sampled = TokenIds(prompt), tuple(thought)
        p._episodes[name].messages = (*start, action.to_message())
        message = action.to_message() if keep else Message("assistant", "4")
        return await p.act([*start, message, Message("user", "sure?")], tools, episode_id=name)

    kept, dropped = await ask(True), await ask(False)
    assert "<think>hm</think>" in p.format.decode(kept.prompt_ids or ())
    assert "<think>" not in p.format.decode(dropped.prompt_ids or ())


async def test_a_group_shares_its_seed_rule_and_runs_repeat(tiny: tuple[Any, Any], tools: Any) -> None:
    replies = [[Message("user", "more")]] * 3

    async def run(slots: int, names: list[str], seed: int = 0) -> dict[str, list[Any]]:
        p = LocalPolicy(*tiny, sampling=SHORT, slots=slots, seed=seed)
        episodes = await asyncio.gather(*(episode(p, name, tools, replies) for name in names))
        return {n: [a.token_ids for a in actions] for n, actions in zip(names, episodes, strict=True)}

    names = [f"e{i}" for i in range(6)]
    together = await run(6, names)
    assert await run(2, names[::-1]) == together
    assert await run(1, ["e3"]) == {"e3": together["e3"]}
    assert len({str(ids) for ids in together.values()}) == 6  # members of a group differ
    assert len({str(turn) for turn in together["e0"]}) == 3  # and so do the turns of an episode
    assert await run(6, names, seed=1) != together


async def test_an_explicit_seed_names_the_stream(tiny: tuple[Any, Any], tools: Any) -> None:
    p = LocalPolicy(*tiny, sampling=SHORT)
    seeded = SamplingParams(max_tokens=12, seed=7)
    a, b = [await episode(p, n, tools, [[Message("user", "x")]], sampling=seeded) for n in ("a", "b")]
    assert [x.token_ids for x in a] == [x.token_ids for x in b]


async def test_a_turn_whose_answer_was_lost_is_the_same_when_asked_for_again(tiny: tuple[Any, Any], tools: Any) -> None:
    sampling = SamplingParams(max_tokens=12, seed=3)
    clean, lossy = LocalPolicy(*tiny, slots=2), LocalPolicy(*tiny, slots=2)
    conversation: list[Message] = [Message("user", "2+3")]
    for number in range(3):
        once = await clean.act(conversation, tools, episode_id="e", sampling=sampling)
        lost = await lossy.act(conversation, tools, episode_id="e", sampling=sampling)
        again = await lossy.act(list(conversation), tools, episode_id="e", sampling=sampling)
        assert lost == again == once
        conversation += [once.to_message(), Message("user", f"and {number}?")]
    other = await lossy.act(conversation[:-2], tools, episode_id="e", sampling=SamplingParams(max_tokens=12, seed=4))
    assert other.token_ids != once.token_ids


async def test_usage_and_versions(tiny: tuple[Any, Any], tools: Any) -> None:
    p = LocalPolicy(*tiny, sampling=SHORT, version=4)
    before = await episode(p, "a", tools, [[Message("user", "x")]] * 2)
    p.weights_changed()
    after = await episode(p, "b", tools, [[Message("user", "x")]])
    assert [set(a.versions) for a in (*before, *after)] == [{4}, {4}, {5}]
    for action in (*before, *after):
        assert action.usage is not None
        assert action.usage["prompt_tokens"] == len(action.prompt_ids or ())
        assert action.usage["completion_tokens"] == len(action.token_ids or ())
    assert before[1].usage is not None
    assert before[1].usage["cached_tokens"] == len(before[0].prompt_ids or ()) + len(before[0].token_ids or ()) - 1
    assert after[0].usage is not None
    assert after[0].usage["cached_tokens"] == 0


async def test_a_full_context_ends_the_turn_without_tokens_and_is_told_once(
    tiny: tuple[Any, Any], tools: Any, caplog: pytest.LogCaptureFixture
) -> None:
    p = LocalPolicy(*tiny, sampling=SHORT, max_context=60)
    replies = [[Message("user", "word " * 8)]] * 3
    actions = await episode(p, "e", tools, replies)
    assert actions[-1].token_ids == ()
    assert actions[-1].finish_reason == "length"
    assert actions[-1].text == ""
    await episode(p, "f", tools, replies)
    (record,) = caplog.records
    assert "leaves no room in a context of 60" in record.getMessage()


async def test_cancelled_act_can_be_released_and_repeated(tiny: tuple[Any, Any], tools: Any) -> None:
    p = LocalPolicy(*tiny, sampling=SamplingParams(max_tokens=300), slots=1)
    task = asyncio.create_task(p.act(first(), tools, episode_id="e"))
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await p.release("e")
    await p.release("e")
    action = await p.act(first(), tools, episode_id="f", sampling=SHORT)
    await p.aclose()
    assert len(action.token_ids or ()) > 0
    assert p.engine.busy == 0
    assert len(p.engine.owners) == 0


def test_a_folder_without_template(tiny: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = tiny
    template, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        save(tmp_path, model, tokenizer)
    finally:
        tokenizer.chat_template = template
    with pytest.raises(ModelError, match="no chat template"):
        LocalPolicy.from_folder(tmp_path)
    given_one = LocalPolicy.from_folder(tmp_path, chat_template=template)
    assert given_one.format.name == "template"


def test_the_models_own_stop_ids_count(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    before, model.generation_config.eos_token_id = model.generation_config.eos_token_id, [2, 77]
    try:
        assert {2, 77} <= LocalPolicy(model, tokenizer).engine.stop_ids
    finally:
        model.generation_config.eos_token_id = before


# What a model or a tool writes does not end a run.


@pytest.mark.parametrize("text", ["\ud800", "a\udc00b", "é\ud83d", "\ud83d\ude00"])
async def test_text_that_utf8_cannot_hold_is_rendered(policy: LocalPolicy, tools: Any, text: str) -> None:
    call = ToolCall(text, {text: [text]}, text)
    start = [Message("system", text), Message("user", text)]
    turn = await policy.act(start, tools, episode_id="e")
    more = [*start, turn.to_message(), Message("tool", text, tool_call_id=text, name=text)]
    await policy.act(more, tools, episode_id="e")
    seen = [*start, Message("assistant", text, (call,), reasoning=text), *more[3:]]
    anew = await policy.act(seen, tools, episode_id="another")
    shown = policy.format.decode(anew.prompt_ids or ())
    assert ("😀" if text == "\ud83d\ude00" else "\ufffd") in shown


async def test_a_surrogate_that_the_model_writes_in_a_call_is_rendered(tiny: tuple[Any, Any], tools: Any) -> None:
    p = LocalPolicy(*tiny, sampling=SHORT)
    body = '{"name": "add", "arguments": {"a": "\\ud800"}}'
    action = p.format.parse(p.tokenizer.encode(f"<tool_call>\n{body}\n</tool_call>"))
    assert action.tool_calls[0].arguments == {"a": "\ud800"}
    await p.act([*first(), action.to_message(), Message("user", "go on")], tools, episode_id="e")


async def test_what_the_template_refuses_in_the_models_turn_is_the_models_doing(tools: Any, tmp_path: Path) -> None:
    p = LocalPolicy.from_folder(families.save_folder("llama3", tmp_path / "model"), sampling=SHORT)
    both = Message("assistant", "", (ToolCall("add", {"a": 1}), ToolCall("add", {"a": 2}, "call_1")))
    refused = await p.act([*first(), both, Message("user", "go on")], tools, episode_id="e")
    assert (refused.text, refused.token_ids, refused.finish_reason) == ("", None, "refused")
    single = Message("assistant", "", both.tool_calls[:1])
    accepted = await p.act([*first(), single, Message("user", "go on")], tools, episode_id="e")
    assert accepted.token_ids


async def test_a_template_that_refuses_the_tools_ends_the_run_with_a_message(tiny: tuple[Any, Any], tools: Any) -> None:
    model, tokenizer = tiny
    refuses = "{% if tools and tools[0].function.name == 'add' %}{{ raise_exception('no tools here') }}{% endif %}"
    p = LocalPolicy(model, tokenizer, chat_format="hermes", chat_template=refuses + tokenizer.chat_template)
    call = Message("assistant", "", (ToolCall("add", {"a": 1}),))
    with pytest.raises(ModelError, match="no tools here"):
        await p.act([*first(), call, Message("tool", "1", tool_call_id="call_0")], tools, episode_id="e")


async def test_a_turn_that_the_environment_makes_safe_is_not_rendered_again(
    tiny: tuple[Any, Any], tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = LocalPolicy(*tiny, sampling=SHORT)
    twice = (ToolCall("add", {"a": "\ud800"}), ToolCall("add", {"a": 1}))
    monkeypatch.setattr(p.format, "parse", lambda *_: Action("half \ud83d", twice))
    one = await p.act(first(), tools, episode_id="e")
    history = [*first(), as_action(one).to_message(), Message("user", "go on")]
    two = await p.act(history, tools, episode_id="e")
    context = (*(one.prompt_ids or ()), *(one.token_ids or ()))
    assert (two.prompt_ids or ())[: len(context)] == context


class Adding(ToolEnv):
    """Add two numbers."""

    tasks = Tasks.of(train=[{"n": 1}])
    limits = Limits(max_turns=3)

    def start(self, task: Task) -> str:
        return "What is 1 + 2?"

    @tool
    def add(self, a: int, b: int) -> int:
        """Add."""
        return a + b

    def score(self, answer: str | None) -> float:
        return float(answer == "3")


async def test_a_turn_of_nothing_but_opening_marks_is_answered_once(
    tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 sampled tokens, each of which opens a call: the context grows by them and by one error, not by 64."""
    p = LocalPolicy(*tiny, sampling=SamplingParams(max_tokens=64), max_context=2000)
    opener = p.tokenizer.convert_tokens_to_ids("<tool_call>")

    async def sample(*_: Any, **__: Any) -> Completion:
        return Completion((opener,) * 64, (-1.0,) * 64, "length", 0, (0,) * 64)

    monkeypatch.setattr(p.engine, "sample", sample)
    async with Rollouts(Adding, p) as rollouts:
        (group,) = await rollouts.run([GroupRequest(Adding.tasks.split("train")[0], 0, 1, "g")])
    (trajectory,) = group.trajectories
    first, second, third = (turn.action for turn in trajectory.turns)
    (call,) = first.tool_calls
    assert "(64 calls of this turn have this error)" in str(call.error)
    for action, later in ((first, second), (second, third)):
        context = (*(action.prompt_ids or ()), *(action.token_ids or ()))
        assert (later.prompt_ids or ())[: len(context)] == context
        assert len(later.prompt_ids or ()) - len(context) < 200
    (row,) = build_rows([group])
    assert row.mask.sum() == 3 * 64  # every sampled token is one of the row that trains

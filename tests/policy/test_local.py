"""`LocalPolicy`: token contexts that only grow, and logprobs that a full forward confirms."""

from __future__ import annotations

import asyncio

import pytest
import torch

from agentrl.messages import Action, Message, ToolCall
from agentrl.policy.base import SamplingParams
from agentrl.policy.local import LocalPolicy
from agentrl.policy.tiny import build_tiny, conversation_texts, save

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
        },
    }
]
DEMO = [
    Message("system", "Use the tool."),
    Message("user", "What is 12 + 34?"),
    Message("assistant", "", (ToolCall("add", {"a": 12, "b": 34}),)),
    Message("tool", "46", tool_call_id="call_0", name="add"),
    Message("assistant", "46"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    model, tokenizer = build_tiny(conversation_texts([DEMO] * 20, TOOLS), hidden_size=32)
    return str(save(tmp_path_factory.mktemp("tiny"), model, tokenizer))


def policy(folder: str, **options: object) -> LocalPolicy:
    torch.set_num_threads(1)
    return LocalPolicy.from_folder(folder, **{"sampling": SamplingParams(max_tokens=12), **options})


async def episode(p: LocalPolicy, name: str, question: str, turns: int = 4) -> list[Action]:
    messages = [Message("system", "Use the tool."), Message("user", question)]
    actions = []
    for turn in range(turns):
        actions.append(await p.act(messages, TOOLS, episode_id=name))
        reply = Message("tool", "4" * (turn + 1), tool_call_id="call_0", name="add")
        messages = [*messages, actions[-1].to_message(), reply]
    await p.release(name)
    return actions


def reference_logprobs(p: LocalPolicy, action: Action) -> list[float]:
    assert action.prompt_ids is not None
    assert action.token_ids is not None
    ids = torch.tensor([action.prompt_ids + action.token_ids])
    with torch.no_grad():
        logprobs = torch.log_softmax(p.model(ids).logits[0].float(), -1)
    start = len(action.prompt_ids) - 1
    return [logprobs[start + i, token].item() for i, token in enumerate(action.token_ids)]


@pytest.mark.parametrize("slots", [3, 16])
def test_context_only_grows_and_logprobs_match_a_full_forward(folder: str, slots: int) -> None:
    p = policy(folder, slots=slots)

    async def main() -> list[list[Action]]:
        names = [(f"g{i // 4}-{i}", f"What is {i // 4} + {'9' * (i // 4 + 1)}?") for i in range(12)]
        return await asyncio.gather(*(episode(p, name, question) for name, question in names))

    for actions in asyncio.run(main()):
        context: tuple[int, ...] = ()
        for action in actions:
            assert action.prompt_ids is not None
            assert action.token_ids is not None
            assert action.prompt_ids[: len(context)] == context
            assert reference_logprobs(p, action) == pytest.approx(list(action.logprobs or ()), abs=1e-4)
            context = action.prompt_ids + action.token_ids
    assert p.engine.busy == 0

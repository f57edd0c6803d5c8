"""Model folders of every family, from load to played episodes: the engine is the model's own forward pass.

What a chat template shows and reads is compared in `tests/policy/format/test_families.py`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from agentrl.errors import ModelError
from agentrl.messages import Action, Message
from agentrl.policy.base import SamplingParams
from agentrl.policy.engine import proof as engine_proof
from agentrl.policy.local import LocalPolicy
from agentrl.policy.model_folder import load
from tests.policy.template_families import FAMILIES, save_folder, tokenizer_of

TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}


async def episode(policy: LocalPolicy, number: int) -> list[Action]:
    messages = [Message("system", "Be brief."), Message("user", f"What is {number}? " * (1 + number))]
    actions: list[Action] = []
    for turn in range(3):
        sampling = SamplingParams(max_tokens=6 + 7 * number, seed=number)
        action = await policy.act(messages, [TOOL], episode_id=str(number), sampling=sampling)
        actions.append(action)
        result = Message("tool", f"no {turn}", tool_call_id="call_0", name="look_up")
        messages = [*messages, action.to_message(), result]
    return actions


def worst_difference(model: Any, action: Action) -> float:
    """Between the sampled log-probabilities and a forward pass over the whole context."""
    prompt, sampled = action.prompt_ids or (), action.token_ids or ()
    with torch.no_grad():
        logprobs = torch.log_softmax(model(input_ids=torch.tensor([[*prompt, *sampled]])).logits[0].float(), -1)
    own = logprobs[len(prompt) - 1 : -1].gather(1, torch.tensor(sampled)[:, None])[:, 0]
    return float((own - torch.tensor(action.logprobs)).abs().max())


@pytest.mark.parametrize("name", FAMILIES)
async def test_sampled_logprobs_are_those_of_a_full_forward(name: str, tmp_path: Path) -> None:
    policy = LocalPolicy.from_folder(save_folder(name, tmp_path))
    episodes = await asyncio.gather(*(episode(policy, number) for number in range(3)))
    for actions in episodes:
        context: tuple[int, ...] = ()
        for action in actions:
            assert action.token_ids
            assert worst_difference(policy.model, action) < 1e-5
            assert (action.prompt_ids or ())[: len(context)] == context
            context = (*(action.prompt_ids or ()), *action.token_ids)


@pytest.mark.parametrize("sharpness", [1.0, 30.0])
def test_half_precision_may_round_as_much_as_the_model_is_sharp(sharpness: float, tmp_path: Path) -> None:
    """A trained model in bfloat16 rounds by more than 0.1 nats, by the engine and by any two of its forward passes."""
    model, tokenizer = load(save_folder("qwen3", tmp_path))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(sharpness)
    policy = LocalPolicy(model.to(torch.bfloat16), tokenizer)
    assert (engine_proof.prove(policy.engine) > 0.1) == (sharpness > 1)


def test_a_context_in_which_positions_change_is_refused(tmp_path: Path) -> None:
    from transformers import Phi3Config, Phi3ForCausalLM

    tokenizer = tokenizer_of(FAMILIES["phi3"])
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 2.0, 3.0, 4.0],
        "original_max_position_embeddings": 256,
    }
    model = Phi3ForCausalLM(
        Phi3Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            original_max_position_embeddings=256,
            rope_parameters=rope,
            pad_token_id=0,
        )
    )
    assert LocalPolicy(model, tokenizer).engine.options.context == 256
    with pytest.raises(ModelError, match="set max_context to at most 256"):
        LocalPolicy(model, tokenizer, max_context=257)

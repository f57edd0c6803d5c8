"""How sure a model is of its tokens: by hand, against a full forward, and in a record."""

from __future__ import annotations

import json
import math

import pytest
import torch
from msgspec import to_builtins

from agentrl.messages import Message
from agentrl.policy.base import SamplingParams
from agentrl.policy.engine.token_signals import ranked, signals_of
from agentrl.policy.local import LocalPolicy
from agentrl.rollout.records import trajectory_from_json, trajectory_record
from agentrl.trajectory import EnvRef, Task, Trajectory, Turn

P = torch.tensor([0.5, 0.3, 0.2])
PROMPT = [Message("user", "What is 1 + 2?")]


def test_signals_of_three_tokens_by_hand():
    rows = signals_of(P.log().expand(2, -1), [0, 2])
    entropy = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
    uniform_kl = -math.log(3) - sum(math.log(p) for p in (0.5, 0.3, 0.2)) / 3
    assert rows[0] == pytest.approx((0.2, entropy, uniform_kl), abs=1e-6)
    assert rows[1] == pytest.approx((0.2 - 0.5, entropy, uniform_kl), abs=1e-6)


def test_signals_of_a_uniform_distribution():
    assert signals_of(torch.zeros(1, 4), [3])[0] == pytest.approx((0.0, math.log(4), 0.0), abs=1e-6)


def test_tokens_by_rank():
    assert ranked(P.log(), 1) == (1, pytest.approx(math.log(0.3)))
    assert ranked(P.log(), 9)[0] == 2


@pytest.mark.parametrize("kind", ["tiny", "llama"])
async def test_signals_are_those_of_a_full_forward_and_change_nothing_else(kind, request):
    policy = LocalPolicy.from_folder(request.getfixturevalue(f"{kind}_folder"), slots=3)
    plain = await policy.act(PROMPT, [], episode_id="a", sampling=SamplingParams(max_tokens=8, seed=3))
    asked = SamplingParams(max_tokens=8, seed=3, signals=True, temperature=1.0)
    action = await policy.act(PROMPT, [], episode_id="b", sampling=asked)
    assert plain.signals is None
    assert (plain.token_ids, plain.text) == (action.token_ids, action.text)
    assert "".join(action.signals.texts) == policy.format.decode(action.token_ids)
    ids = torch.tensor([[*action.prompt_ids, *action.token_ids]])
    with torch.no_grad():
        probabilities = torch.softmax(policy.model(ids).logits[0, len(action.prompt_ids) - 1 : -1].float(), -1)
    for i, token in enumerate(action.token_ids):
        others = torch.cat([probabilities[i, :token], probabilities[i, token + 1 :]])
        assert action.signals.margins[i] == pytest.approx(float(probabilities[i, token] - others.max()), abs=1e-5)
        entropy = -float((probabilities[i] * probabilities[i].log()).sum())
        assert action.signals.entropies[i] == pytest.approx(entropy, abs=1e-4)


async def test_the_first_token_can_be_chosen_by_rank(tiny_folder):
    policy = LocalPolicy.from_folder(tiny_folder, slots=3)
    found = []
    for rank in range(3):
        sampling = SamplingParams(temperature=0.0, max_tokens=3, signals=True, first_rank=rank)
        found.append(await policy.act(PROMPT, [], episode_id=str(rank), sampling=sampling))
    firsts = [action.logprobs[0] for action in found]
    assert firsts == sorted(firsts, reverse=True)
    assert len({action.token_ids[0] for action in found}) == 3
    assert found[0].signals.margins[0] >= 0 >= found[1].signals.margins[0]
    greedy = SamplingParams(temperature=0.0, max_tokens=3)
    assert (await policy.act(PROMPT, [], episode_id="g", sampling=greedy)).token_ids == found[0].token_ids


async def test_signals_come_back_from_a_record(tiny_folder):
    policy = LocalPolicy.from_folder(tiny_folder, slots=3)
    action = await policy.act(PROMPT, [], episode_id="a", sampling=SamplingParams(max_tokens=4, signals=True))
    episode = Trajectory(EnvRef("e"), Task("t"), 0, [Turn((), action)])
    read = trajectory_from_json(json.loads(json.dumps(to_builtins(trajectory_record(episode)))))
    assert read.turns[0].action == action


def test_a_rank_below_zero_is_refused():
    with pytest.raises(ValueError, match="first_rank must be 0"):
        SamplingParams(first_rank=-1)

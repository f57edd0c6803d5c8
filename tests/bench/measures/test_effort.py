"""Turns, tokens and seconds, counted by hand."""

from __future__ import annotations

import math

import pytest

from agentrl.bench.measures.effort import (
    CachedTokens,
    CompletionTokens,
    EnvSeconds,
    PolicySeconds,
    PromptTokens,
    TokensPerSuccess,
    Turns,
)
from agentrl.messages import Action
from tests.bench.measures.episodes import FAULT, episode, sampled, turn


def test_every_episode_counts_once() -> None:
    episodes = [episode("a", sampled(1), sampled(1)), episode("a", sampled(1)), episode("b", sampled(1), sampled(1))]
    estimate = Turns()(episodes)
    # Sums of tasks less n times the mean 5/3: -1/3 and 1/3; SE = sqrt(2 * 2/9) / 3; t of one degree is 12.706.
    half = 12.706205 * math.sqrt(2 * 2 / 9) / 3
    assert (estimate.mean, estimate.n) == (5 / 3, 2)
    assert estimate.ci95 == pytest.approx((5 / 3 - half, 5 / 3 + half), rel=1e-6)


def test_tokens_are_those_reported_else_the_ids() -> None:
    ids = turn(Action(token_ids=(1, 2, 3), prompt_ids=(1, 2)))
    episodes = [episode("a", sampled(5, prompt=7), sampled(6, prompt=8)), episode("b", ids), episode("c")]
    assert CompletionTokens()(episodes).mean == (11 + 3) / 2  # c tells nothing and is left out
    assert PromptTokens()(episodes).mean == (15 + 2) / 2
    assert (math.isnan(CachedTokens()(episodes).mean), CachedTokens()(episodes).n) == (True, 0)


def test_tokens_per_success_counts_failed_episodes_too() -> None:
    solved = {"success": True}
    episodes = [
        episode("a", sampled(10), info=solved),
        episode("a", sampled(30)),
        episode("b", sampled(20), info=solved),
        episode("b", sampled(99), ending=FAULT),
    ]
    assert TokensPerSuccess()(episodes).mean == 60 / 2
    assert math.isnan(TokensPerSuccess()([episode("a", sampled(10))]).mean)


def test_seconds_are_summed_over_turns() -> None:
    episodes = [
        episode("a", turn(Action(), policy_s=1.0, env_s=0.25), turn(Action(), policy_s=2.0)),
        episode("b", turn(Action(), policy_s=1.0)),
    ]
    assert (PolicySeconds()(episodes).mean, EnvSeconds()(episodes).mean) == (2.0, 0.125)

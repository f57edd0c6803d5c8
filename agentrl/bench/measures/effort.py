"""Measures of what episodes cost: turns, tokens and seconds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agentrl.bench.estimates import Estimate, cluster_bootstrap
from agentrl.bench.measures.base import Measure, PerEpisode, scored, sums_by_task
from agentrl.bench.measures.success import Success
from agentrl.bench.measures.tools import ratio
from agentrl.trajectory import Trajectory, Turn

Counted = Literal["completion_tokens", "prompt_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens"]


@dataclass(frozen=True)
class Turns(PerEpisode):
    """Turns per episode."""

    name = "turns"
    unit = "turns"

    def of(self, episode: Trajectory) -> float:
        return float(len(episode.turns))


@dataclass(frozen=True)
class CompletionTokens(PerEpisode):
    """Sampled tokens per episode."""

    name = "completion_tokens"
    unit = "tokens"

    def of(self, episode: Trajectory) -> float:
        return num_tokens(episode, "completion_tokens")


@dataclass(frozen=True)
class PromptTokens(PerEpisode):
    """Tokens read per episode; those of the conversation count again at every turn."""

    name = "prompt_tokens"
    unit = "tokens"

    def of(self, episode: Trajectory) -> float:
        return num_tokens(episode, "prompt_tokens")


@dataclass(frozen=True)
class CachedTokens(PerEpisode):
    """Tokens per episode that the policy did not have to read again."""

    name = "cached_tokens"
    unit = "tokens"

    def of(self, episode: Trajectory) -> float:
        return num_tokens(episode, "cached_tokens")


@dataclass(frozen=True)
class ReasoningTokens(PerEpisode):
    """Sampled tokens per episode that are thinking, where a server counts them."""

    name = "reasoning_tokens"
    unit = "tokens"

    def of(self, episode: Trajectory) -> float:
        return num_tokens(episode, "reasoning_tokens")


@dataclass(frozen=True)
class TokensPerSuccess(Measure):
    """Sampled tokens of all scored episodes, failed ones included, divided by the number of successes."""

    name = "tokens_per_success"
    unit = "tokens"

    def __call__(self, episodes: Sequence[Trajectory]) -> Estimate:
        sampled, success = CompletionTokens().of, Success().of
        known = [episode for episode in scored(episodes) if not math.isnan(sampled(episode))]
        return cluster_bootstrap(sums_by_task(known, sampled, success), ratio, resamples=500)


@dataclass(frozen=True)
class PolicySeconds(PerEpisode):
    """Wall seconds per episode spent waiting for the policy."""

    name = "policy_s"
    unit = "s"

    def of(self, episode: Trajectory) -> float:
        return sum(turn.policy_s for turn in episode.turns)


@dataclass(frozen=True)
class LatencySeconds(PerEpisode):
    """Seconds for one answer of the server, averaged over the episode's turns; waits and failed tries are not in it."""

    name = "latency_s"
    unit = "s"

    def of(self, episode: Trajectory) -> float:
        served = [turn.action.served for turn in episode.turns]
        seconds = [one.latency_s for one in served if one is not None and one.latency_s is not None]
        return sum(seconds) / len(seconds) if seconds else math.nan


@dataclass(frozen=True)
class EnvSeconds(PerEpisode):
    """Wall seconds per episode spent waiting for the environment."""

    name = "env_s"
    unit = "s"

    def of(self, episode: Trajectory) -> float:
        return sum(turn.env_s for turn in episode.turns)


def served_models(episodes: Sequence[Trajectory]) -> dict[str, int]:
    """How many turns came from which model, by the model's own name in the server's reply."""
    named = [turn.action.served.model for episode in episodes for turn in episode.turns if turn.action.served]
    return dict(Counter(name for name in named if name).most_common())


def num_tokens(episode: Trajectory, kind: Counted) -> float:
    """Tokens of an episode; nan if no turn reports them."""
    counts = [_of_turn(turn, kind) for turn in episode.turns]
    known = [count for count in counts if count is not None]
    return float(sum(known)) if known else math.nan


def _of_turn(turn: Turn, kind: Counted) -> int | None:
    """Tokens of a turn: those that the policy reports, else the number of its ids."""
    reported = (turn.action.usage or {}).get(kind)
    if reported is not None:
        return reported
    ids = {"completion_tokens": turn.action.token_ids, "prompt_tokens": turn.action.prompt_ids}.get(kind)
    return len(ids) if ids is not None else None

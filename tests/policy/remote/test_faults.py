"""Servers that fail: every episode ends, each fault lands in its class, none is scored, and the limits hold."""

from __future__ import annotations

import asyncio
import time
from itertools import combinations
from typing import Any

import httpx
import pytest

from agentrl.bench.runner import run_bench
from agentrl.env.base import Limits
from agentrl.env.tasks import Tasks
from agentrl.errors import PolicyFault
from agentrl.policy.by_name import PolicySetup, resolve
from tests.bench.toys import Adder
from tests.policy.remote.fault_server import SHARES, FaultServer
from tests.policy.remote.test_dialects import QUESTION, Server, turn
from tests.policy.remote.wire_bots import KINDS

PER_MINUTE = 12_000.0


class Sums(Adder):
    """Sixty sums."""

    tasks = Tasks.of(eval=[{"a": n, "b": 100 * n} for n in range(60)])
    limits = Limits(max_turns=8)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentrl.policy.remote.options._FIRST_BACKOFF_S", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def setup(server: FaultServer, **chat: Any) -> PolicySetup:
    return PolicySetup(server.url, chat={"timeout_s": 1.0, "max_retries": 10, "max_backoff_s": 0.1, **chat})


@pytest.mark.parametrize("kind", KINDS)
def test_a_benchmark_behind_a_failing_server_scores_what_one_behind_a_good_server_does(kind: str) -> None:
    with FaultServer(kind) as server:
        given = setup(server, requests_per_minute=PER_MINUTE, max_concurrency=16)
        result = run_bench(Sums, f"{kind}:bot", setup=given, references=False)
    score = result.score
    assert (result.status, score.n_episodes, score.n_faults, score.success.mean) == ("finished", 60, 0, 1.0)
    assert score.counts.errors == {}
    assert server.faults.keys() - {""} == SHARES.keys()  # the seed brings each of them about
    assert 0 < score.malformed_calls <= server.faults["truncated call"]
    tries = sum(server.faults.values())
    took_s = server.arrivals[-1] - server.arrivals[0]
    assert tries - 1 <= PER_MINUTE / 60 * (took_s + 0.1)


FOREVER = {
    "429 with Retry-After": "server",
    "429": "server",
    "500": "server",
    "malformed": "server",
    "slow": "server",
    "dropped before": "network",
    "dropped within": "network",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("fault", "who"), FOREVER.items())
async def test_a_fault_that_stays_is_of_its_class(kind: str, fault: str, who: str) -> None:
    with FaultServer(kind, {fault: 1.0}) as server:
        timeout_s = 0.1 if fault == "slow" else 10.0
        async with resolve(f"{kind}:bot", setup(server, timeout_s=timeout_s, max_retries=1)) as policy:
            with pytest.raises(PolicyFault) as raised:
                await policy.act(QUESTION, (), episode_id="e")
    assert raised.value.at == who
    # Where a server may have failed on the answer, it is asked once more, with room for a short one.
    assert len(server.arrivals) == 2 + (not fault.startswith("429"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("fault", "who"), [("429", "server"), ("dropped within", "network")])
def test_episodes_that_no_retry_saves_are_discarded_and_not_scored(kind: str, fault: str, who: str) -> None:
    with FaultServer(kind, {fault: 1.0}, only="+700") as server:
        result = run_bench(
            Sums,
            f"{kind}:bot",
            setup=setup(server, timeout_s=30.0, max_retries=1),
            references=False,
            max_concurrency=16,
        )
    score = result.score
    assert (score.n_episodes, score.success.mean) == (59, 1.0)
    assert dict(score.counts.discarded) == {who: 1}
    assert score.counts.warning is None


async def test_no_span_of_time_holds_more_requests_than_the_limit_says() -> None:
    class Clocked(Server):
        def __call__(self, request: httpx.Request) -> httpx.Response:
            at.append(time.monotonic())
            return super().__call__(request)

    at: list[float] = []
    policy = Clocked("openai").policy(requests_per_minute=6000)
    await asyncio.gather(*(turn(policy) for _ in range(30)))
    per_s = 6000 / 60
    assert all(j - i <= per_s * (at[j] - at[i]) + 2 for i, j in combinations(range(len(at)), 2))
    assert len(at) == 30

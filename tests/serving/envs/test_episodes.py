"""Instances that one client after the other plays on."""

from __future__ import annotations

from agentrl.messages import Action
from agentrl.rollout.env_pool import EnvPool
from agentrl.serving.envs.episodes import Episodes
from agentrl.serving.envs.wire import Request
from tests.serving.envs.odd import Odd


def session(pool: EnvPool) -> Episodes:
    return Episodes(pool, 60, 4, takes_any_task=False)


async def turns(episodes: Episodes, reset: Request) -> object:
    """Most turns of an episode, as the environment saw them."""
    await episodes.execute(reset)
    last = await episodes.execute(Request(2, "step", action=Action("done")))
    assert last.terminated
    return last.info["turns"]


async def test_limits_of_a_client_end_with_its_episode() -> None:
    pool = EnvPool(Odd)
    one = session(pool)
    own, asked = Odd.limits.max_turns, Request(1, "reset", limits={"max_turns": 3})
    assert await turns(one, asked) == 3
    assert await turns(one, Request(1, "reset")) == own
    assert await turns(one, asked) == 3
    await one.close()
    other = session(pool)
    assert await turns(other, Request(1, "reset")) == own
    assert pool.num_open == 1  # the same instance
    await other.close()
    await pool.aclose()

"""No doing of a model discards its episode: it is scored, and earns nothing. What really fails is still a fault."""

from __future__ import annotations

import pytest

from agentrl.sandbox.pool import clear_pools
from tests.sandboxed.attacks import ATTACKS, played


@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_is_scored_and_earns_nothing(name):
    trajectory = await played(ATTACKS[name], "bubblewrap")
    assert trajectory.error is None
    assert (trajectory.status, trajectory.reward, trajectory.success) == ("terminated", 0.0, False)


@pytest.mark.docker
@pytest.mark.parametrize("name", ATTACKS)
async def test_an_attack_is_scored_on_docker(name):
    trajectory = await played(ATTACKS[name], "docker")
    await clear_pools()  # other tests count this process's containers
    assert trajectory.error is None
    assert (trajectory.status, trajectory.reward, trajectory.success) == ("terminated", 0.0, False)

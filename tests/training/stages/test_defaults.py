"""The defaults of the stages: values that taught the bundled environments in trials."""

from __future__ import annotations

import pytest

from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.supervise import Supervise


@pytest.mark.parametrize(
    ("rows", "batch", "updates"), [(8000, 32, 500), (2000, 8, 500), (4000, 16, 500), (100_000, 32, 6250), (40, 8, 10)]
)
def test_a_warm_start_has_about_500_updates(rows, batch, updates):
    settings = Supervise({"oracle": 1.0})
    assert settings.batch_of(rows) == batch
    assert settings.epochs * rows // batch == updates


def test_a_batch_that_is_set_is_kept():
    assert Supervise({"oracle": 1.0}, batch_episodes=5).batch_of(8000) == 5


def test_reinforcement_warms_up_to_a_moderate_rate():
    settings = Reinforce()
    rates = [settings.learner.lr * settings.learner.schedule.fraction(n, settings.steps) for n in range(settings.steps)]
    assert len(rates) == 80
    assert rates[0] == pytest.approx(8e-5)
    assert max(rates) == rates[4] == pytest.approx(4e-4)
    assert 4e-5 <= rates[-1] <= 5e-5

"""What the sampler keeps of episodes is freed before an update, which needs the memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.policy.engine.scheduler import Engine
from agentrl.training.stages.base import StageSettings
from agentrl.training.stages.playing import Playing
from agentrl.training.stages.prefer import Prefer
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.stages.self_distill import SelfDistill

FAST = LearnerSettings(lr=3e-3)
PLAYING = Playing(4, 8)


@pytest.mark.parametrize(
    "stage",
    [
        Reinforce(steps=2, playing=PLAYING, learner=FAST),
        Prefer(steps=2, playing=PLAYING, learner=FAST),
        SelfDistill(steps=2, playing=PLAYING, learner=FAST),
    ],
    ids=lambda stage: type(stage).__name__,
)
def test_no_keys_and_values_are_held_during_an_update(
    stage: StageSettings, run_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engines: list[Engine] = []
    sampling, updating = [0], [0]
    begin, step, update = Engine.__init__, Engine.step, Learner.update

    def layers_held() -> int:
        return max(len(engine.kv.layers) for engine in engines)

    def begun(self: Engine, *args: Any, **options: Any) -> None:
        begin(self, *args, **options)
        engines.append(self)

    def stepped(self: Engine) -> None:
        step(self)
        sampling.append(layers_held())

    async def updated(self: Learner, rows: Sequence[Any], objective: Any) -> Any:
        updating.append(layers_held())
        return await update(self, rows, objective)

    for owner, name, value in ((Engine, "__init__", begun), (Engine, "step", stepped), (Learner, "update", updated)):
        monkeypatch.setattr(owner, name, value)
    run_of({"stage": stage})
    assert max(sampling) == 1
    assert len(updating) > 1
    assert max(updating) == 0

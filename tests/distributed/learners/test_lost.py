"""Ranks of a learner that fail: the cause is told, nothing hangs or is left behind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from agentrl.distributed.learners import team as team_module
from agentrl.distributed.learners.calls import Begin
from agentrl.distributed.learners.lead import LeadLearner
from agentrl.distributed.learners.team import Team
from agentrl.errors import LearnerLost
from agentrl.learning.learner import LearnerSettings
from tests.distributed.learners.fatal import Fatal, no_children
from tests.learning.fixtures import model_of, rows_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
FAILURES = [
    ("raise", 1, ValueError, "rank 1 cannot compute this loss"),
    ("raise", 0, ValueError, "rank 0 cannot compute this loss"),
    ("memory", 1, torch.OutOfMemoryError, "rank 1 has no memory left"),
    ("memory", 0, torch.OutOfMemoryError, "rank 0 has no memory left"),
    ("SIGKILL", 1, LearnerLost, r"rank 1 of the learner \(process \d+\) was killed by SIGKILL.*--resume"),
    ("SIGSTOP", 1, LearnerLost, r"rank 1 of the learner \(process \d+\) gave no sign of life"),
]


@pytest.mark.parametrize(("how", "rank", "error", "words"), FAILURES, ids=[f"{case[0]} {case[1]}" for case in FAILURES])
async def test_what_fails_on_one_rank_ends_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, rank: int, error: type[Exception], words: str
) -> None:
    """Each in the middle of an update, while the other rank waits for it."""
    if how == "SIGSTOP":
        monkeypatch.setattr(team_module, "_ALIVE_S", 0.2)
        monkeypatch.setattr(team_module, "_LONGEST_SILENCE_S", 15.0)
    loss = Fatal(counts=str(tmp_path / "counts"), how=how, rank=rank, at=2)
    model, rows = model_of(), rows_of()
    settings = LearnerSettings(lr=1e-3, num_minibatches=2)
    with Team(model, 2, shard=False) as team:
        learner = LeadLearner(team, model, Begin(settings, loss, 1.0, 2))
        with pytest.raises(error, match=words):
            await learner.update(rows, loss)
        with pytest.raises(error, match=words):  # and again, at once
            await learner.update(rows, loss)
    assert no_children()
    assert not dist.is_initialized()

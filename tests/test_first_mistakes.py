"""What newcomers mistake in Python: each is refused in words that name what was given and what is expected."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

from agentrl import GroupRequest, NullPolicy, OraclePolicy, Rollouts, SamplingParams, Tasks, ToolEnv, make, register
from agentrl.bench.evaluate import evaluate
from agentrl.bench.runner import run_bench
from agentrl.errors import ConfigError, TaskError
from agentrl.learning.credit.base import CREDITS
from agentrl.learning.credit.gae import TurnGAE
from agentrl.learning.credit.group_relative import GRPO
from agentrl.learning.episode_columns import with_advantages
from agentrl.learning.importance import IcePop
from agentrl.learning.learner import Learner, LearnerSettings
from agentrl.learning.objectives.cispo import CISPO
from agentrl.learning.objectives.gspo import GSPO
from agentrl.learning.objectives.ppo_clip import PPOClip
from agentrl.learning.optimizers import Schedule
from agentrl.learning.rows import Row
from agentrl.messages import Action
from agentrl.policy.chat import ChatPolicy
from agentrl.training.plan import TrainConfig
from agentrl.training.settings import SamplingConfig
from agentrl.training.stages.reinforce import Reinforce
from agentrl.training.train import train
from agentrl.trajectory import EnvRef, Task, Trajectory, TrajectoryGroup, Turn

GUESS = "agentrl/Guess-v0"
NAN = math.nan


class Yes(ToolEnv):
    """Say yes."""

    tasks = Tasks.of(train=[{"a": 1}])

    def start(self, task: Task) -> str:
        return "Say yes."

    def score(self, answer: str | None) -> float:
        return float(answer == "yes")


class Numbers(Yes):
    """Its tasks cannot be written as JSON."""

    tasks = Tasks.of(eval=[{"a": {1, 2}}])


def play(*requests: Any) -> Any:
    async def run() -> Any:
        async with Rollouts(Yes, NullPolicy()) as rollouts:
            return await rollouts.run(list(requests))

    return asyncio.run(run())


def group() -> TrajectoryGroup:
    turn = Turn((), Action(prompt_ids=(1,), token_ids=(2,), logprobs=(-1.0,)))
    return TrajectoryGroup("g", [Trajectory(EnvRef("e"), Task("t"), 0, [turn])])


def advantages_of_others() -> None:
    groups, row = [group()], Row.of([1, 2], [False, True], trajectory=1)
    with_advantages([row], groups, GRPO()(groups, None), GRPO())


TABLE = {"env": {"id": GUESS}}
MISTAKES: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: make(Yes), TypeError, "an environment is named by a text, .* got <class"),  # type: ignore[arg-type]
    (lambda: register(Yes), TypeError, r'write @register\("my/Name-v0"\)'),  # type: ignore[arg-type]
    (lambda: Rollouts(Yes, OraclePolicy), TypeError, "policy must be a Policy, such as"),  # type: ignore[arg-type]
    (lambda: Rollouts(Yes(), NullPolicy()), TypeError, "env must be an id, or a class or function"),  # type: ignore[arg-type]
    (lambda: play(Yes.tasks.split("train")[0]), TypeError, "what is played is a GroupRequest"),
    (lambda: evaluate("oracle", Yes, Yes.tasks.split("train")), TypeError, "got 'oracle'"),  # type: ignore[arg-type]
    (lambda: run_bench(GUESS, len), TypeError, "policy must be a Policy, or a name"),  # type: ignore[arg-type]
    (lambda: run_bench(Numbers, NullPolicy()), TaskError, "plain JSON .* not JSON serializable$"),
    (lambda: train("quickstart.toml", "x"), TypeError, "config must be a TrainConfig: .* got 'quickstart"),  # type: ignore[arg-type]
    (lambda: train(TrainConfig(env=GUESS), "x"), ConfigError, "env = .*: expected a section"),  # type: ignore[arg-type]
    (lambda: TrainConfig.of(GUESS), ConfigError, "expected a table, such as .* got 'agentrl/Guess"),  # type: ignore[arg-type]
    (
        lambda: TrainConfig.of({**TABLE, "stages": {"rl": "grpo"}}),
        ConfigError,
        "stages.rl = 'grpo': expected a section",
    ),
    (lambda: Learner(None, {"lr": 1}, PPOClip()), TypeError, "expected LearnerSettings and"),  # type: ignore[arg-type]
    (lambda: Learner(None, LearnerSettings(), PPOClip), TypeError, "objective like PPOClip"),  # type: ignore[arg-type]
    (advantages_of_others, ValueError, "the rows are of other groups"),
    (lambda: ChatPolicy("bot", base_url="http://127.0.0.1:99999/v1"), ConfigError, "from 1 to 65535"),
    (lambda: PPOClip(clip_low=-0.1), ValueError, "PPOClip.clip_low = -0.1: expected at least 0"),
    (lambda: PPOClip(dual_clip=NAN), ValueError, "PPOClip.dual_clip = nan: expected a finite number"),
    (lambda: GSPO(clip_high=NAN), ValueError, "GSPO.clip_high = nan"),
    (lambda: GSPO(sequence="episode"), ValueError, "expected 'row' or 'turn'"),  # type: ignore[arg-type]
    (lambda: CISPO(clip_high=-2.0), ValueError, "CISPO.clip_high = -2.0"),
    (lambda: TurnGAE(gamma=1.5), ValueError, "TurnGAE.gamma = 1.5: expected at most 1"),
    (lambda: IcePop(low=-1.0), ValueError, "IcePop.low = -1.0: expected at least 0"),
    (lambda: Schedule("cos"), ValueError, "'constant', 'linear' or 'cosine'"),  # type: ignore[arg-type]
    (lambda: Schedule(warmup_steps=-3), ValueError, "Schedule.warmup_steps = -3"),
    (lambda: SamplingConfig(temperature=NAN), ValueError, "above 0 to train, and finite, got nan"),
    (lambda: SamplingConfig(temperature=math.inf), ValueError, "above 0 to train, and finite, got inf"),
    (lambda: SamplingParams(temperature=NAN), ValueError, "a finite number above, got nan"),
]


@pytest.mark.parametrize(("mistake", "error", "words"), MISTAKES, ids=[words for *_, words in MISTAKES])
def test_a_first_mistake_is_named(mistake: Callable[[], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        mistake()


def test_a_request_is_played() -> None:
    (played,) = play(GroupRequest(Yes.tasks.split("train")[0], seed=0))
    assert [t.reward for t in played.trajectories] == [0.0]


def halved(groups: Any, *, share: float = 0.5) -> Any:
    """A number for each turn."""
    return [[[share * turn.reward for turn in t.turns] for t in one.trajectories] for one in groups]


def test_a_part_may_be_given_as_an_object() -> None:
    """A function or class with its defaults, or an object of the class, in the place of a name."""
    for given, kind in ((halved, "halved"), (TurnGAE, "TurnGAE"), (TurnGAE(lam=0.5), "TurnGAE")):
        config = TrainConfig.of({**TABLE, "stages": {"rl": {"credit": given}}})
        credit = config.stages["rl"].credit  # type: ignore[attr-defined]
        assert type(credit).__name__ == kind
        assert CREDITS.name_of(type(credit)) in ("turn_gae", f"{__name__}:halved")
    misplaced: Any = halved
    config = TrainConfig(env=TrainConfig.of(TABLE).env, stages={"rl": Reinforce(credit=misplaced)})
    with pytest.raises(ConfigError, match="expected the object itself"):
        train(config, "x")

"""Rewards by a judge, and episodes that it gives no verdict on."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentrl.config import from_table
from agentrl.errors import ConfigError, RolloutError
from agentrl.messages import Action, Message
from agentrl.rollout.feedback.base import FEEDBACKS
from agentrl.rollout.feedback.judge import ByJudge
from agentrl.trajectory import Ending, EnvRef, Task, Trajectory, TrajectoryGroup, Turn

JUDGES = str(Path(__file__).parents[1] / "judging" / "named.py")


def episode(answer: str, reward: float = 0.25, ending: Ending = Ending("answer")) -> Trajectory:  # noqa: B008 (frozen)
    turn = Turn((Message("user", "What is right?"),), Action(answer), reward, {"own": reward})
    return Trajectory(EnvRef("e"), Task("t"), 0, [turn], ending)


def group(*episodes: Trajectory) -> TrajectoryGroup:
    return TrajectoryGroup("g", list(episodes))


async def test_the_score_is_added_as_a_part_and_success_stays():
    feedback = ByJudge(f"{JUDGES}:FAIR", "Is it right?", weight=2.0, keep=1.0)
    (judged,) = await feedback([group(episode("right"), episode("wrong"))])
    assert judged.rewards == [2.25, 0.25]
    assert judged.trajectories[0].reward_components == {"own": 0.25, "judge": 1.0}
    assert not any(t.success for t in judged.trajectories)
    assert feedback.metrics["judge/failed"] == 0


async def test_an_episode_without_a_verdict_does_not_train_and_earns_no_zero():
    feedback = ByJudge(f"{JUDGES}:SPEECHLESS", "Is it right?", attempts=1)
    before = [episode("right"), episode("nonsense"), episode("x", ending=Ending("fault", "gone", "network"))]
    (judged,) = await feedback([group(*before)])
    told, untold, fault = judged.trajectories
    assert (told.trains, told.reward) == (True, 1.0)
    assert not untold.trains
    assert untold.ending.detail.startswith("JudgeFault: the judge")
    assert untold.ending.who == "server"
    assert fault is before[2]
    assert feedback.metrics["judge/failed"] == 1
    assert before[1].ending.kind == "answer"


async def test_a_judge_that_never_answers_ends_the_run():
    with pytest.raises(RolloutError, match=r"2 of 2 episodes failed .* the judge"):
        await ByJudge(f"{JUDGES}:DOWN", "Is it right?")([group(episode("right"), episode("wrong"))])


def test_a_toml_names_it_and_what_is_no_judge_is_refused():
    table = {"policy": f"{JUDGES}:FAIR", "rubric": "Is it right?"}
    found = from_table(FEEDBACKS.find("judge"), table)
    found.check("stages.rl.feedback[0]")
    assert found == ByJudge(f"{JUDGES}:FAIR", "Is it right?")
    with pytest.raises(ConfigError, match=r"feedback\[0\].policy = oracle reads no rubric"):
        ByJudge("oracle", "Is it right?").check("feedback[0]")
    with pytest.raises(ConfigError, match="no policy 'opena'"):
        ByJudge("opena", "Is it right?").check("feedback[0]")
    with pytest.raises(ConfigError, match="timeout"):
        ByJudge("openai:x", "Right?", chat={"timeout_z": 1}).check("feedback[0]")
    with pytest.raises(ConfigError, match="cannot be read"):
        ByJudge("openai:x", "missing.md").check("feedback[0]")

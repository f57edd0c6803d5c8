"""Rewards by a judge, and episodes that it gives no verdict on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from agentrl.config import from_table
from agentrl.errors import ConfigError, JudgeFault, RolloutError
from agentrl.messages import Action, Message
from agentrl.rollout.feedback.base import FEEDBACKS
from agentrl.rollout.feedback.judge import ByJudge
from agentrl.rollout.judging.judge import Judge, Verdict
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


@pytest.mark.parametrize("others", [["right"], []])
async def test_a_text_on_which_a_judge_says_what_is_no_verdict_earns_nothing(others: list[str]):
    """Otherwise a model could keep its bad answers from training by what it writes in them."""
    feedback = ByJudge(f"{JUDGES}:SPEECHLESS", f"Is it right? {others}", attempts=1)
    texts = [*others, "nonsense"] if others else ["nonsense", "Hello."]
    before = [*map(episode, texts), episode("x", ending=Ending("fault", "gone", "network"))]
    (judged,) = await feedback([group(*before)])
    untold = judged.trajectories[texts.index("nonsense")]
    assert (untold.trains, untold.reward, untold.reward_components) == (True, 0.0, {"own": 0.25, "judge": 0.0})
    assert judged.trajectories[-1] is before[-1]
    assert feedback.metrics["judge/failed"] >= 1


class Gone(Judge):
    """Its server has gone, but for one text."""

    async def __call__(self, conversation: Sequence[Message], *, reference: str = "") -> Verdict:
        if conversation[-1].content == "wrong":
            raise JudgeFault("the server is gone", who="network", answers=True)
        return await super().__call__(conversation, reference=reference)


async def test_an_episode_whose_judge_failed_does_not_train_and_earns_no_zero(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("agentrl.rollout.feedback.judge.Judge", Gone)
    feedback = ByJudge(f"{JUDGES}:FAIR", "Is it right, with a judge that goes?")
    before = [episode("right"), episode("wrong")]
    (judged,) = await feedback([group(*before)])
    told, untold = judged.trajectories
    assert (told.trains, told.reward) == (True, 1.0)
    assert not untold.trains
    assert (untold.ending.detail, untold.ending.who) == ("JudgeFault: the server is gone", "network")
    assert before[1].ending.kind == "answer"


async def test_a_judge_that_gives_no_verdict_on_anything_ends_the_run():
    with pytest.raises(RolloutError, match=r"2 of 2 episodes failed .* the judge"):
        await ByJudge(f"{JUDGES}:MUTE", "Is it right?", attempts=1)([group(episode("right"), episode("wrong"))])


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

"""A judge of a benchmark's episodes: its score, its failures apart; and an environment that asks a judge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentrl.bench.audit import audit
from agentrl.bench.judges.agreement import Labelled
from agentrl.bench.judges.judged import judge_episodes
from agentrl.bench.runner import run_bench
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import ConfigError
from agentrl.messages import Action, Message
from agentrl.rollout.judging.judge import Judge
from agentrl.rollout.judging.rubric import JudgeRubric
from agentrl.trajectory import Ending, EnvRef, Task, Trajectory, Turn
from tests.bench.toys import Adder, Some
from tests.rollout.judging.judges import Flaky, fair, material, says


def sums(messages, tools) -> str:
    """Passes the sums of the first six tasks, and says nothing of the last."""
    last = material(messages)[-1]["content"]
    return "Hm." if last == "77" else says(messages, 10.0 * (last.isdigit() and 0 < int(last) < 60))


def test_a_benchmark_is_judged_and_its_failures_stand_apart(tmp_path: Path):
    policy = Flaky(then=sums)
    judge = Judge(policy, "Right?", attempts=2, cache=tmp_path / "bench" / "verdicts.sqlite")
    result = run_bench(Adder, Some(), judge=judge, out=tmp_path / "bench")
    assert result.judged is not None
    assert (result.judged.score.mean, result.judged.passed.mean) == (pytest.approx(5 / 7), pytest.approx(5 / 7))
    assert result.judged.passed_of_all.mean == pytest.approx(5 / 8)
    assert result.judged.failed == {"unreadable": 1}
    assert result.judged.environment is not None
    assert result.judged.environment.accuracy.mean == pytest.approx(5 / 7)
    assert result.judged.labels is None
    assert result.score.success.mean == 1.0
    assert "gave no verdict on 1 of 8 episodes (1 unreadable)" in result.warnings[0]
    told = json.loads((tmp_path / "bench" / "summary.json").read_text())["judge"]
    assert (told["n_judged"], told["labels"], told["failed"]) == (7, None, {"unreadable": 1})
    assert told["verdicts"]["bench/eval-3#0/0"] == {"score": 1.0, "passed": True, "reason": "so it is"}


def test_another_call_asks_only_about_what_has_no_verdict(tmp_path: Path):
    policy = Flaky(then=sums)
    out = tmp_path / "bench"
    judge = Judge(policy, "Right?", attempts=1, cache=out / "verdicts.sqlite")
    run_bench(Adder, Some(), judge=judge, out=out)
    assert len(policy.asked) == 8 + 1, "and a control, whether it gives verdicts at all"
    judge.cache.close()
    policy.then = Flaky(then=lambda m, t: says(m, 10)).then
    result = run_bench(Adder, Some(), judge=Judge(policy, "Right?", cache=out / "verdicts.sqlite"), out=out)
    assert len(policy.asked) == 8 + 1 + 1
    assert result.judged is not None
    assert (len(result.judged.verdicts), result.warnings) == (8, [])


async def test_labels_of_the_rubric_stand_beside_the_score(tmp_path: Path):
    lines = [("right", True), ("wrong", False), ("right", False)]
    rows = [
        {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": text}], "passed": passed}
        for text, passed in lines
    ]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rubric = JudgeRubric("Right?", labels=str(tmp_path / "labels.jsonl"))
    turn = Turn((Message("user", "?"),), Action("right"))
    episodes = [
        Trajectory(EnvRef("e"), Task("t"), 0, [turn], Ending("answer"), episode_id="a"),
        Trajectory(EnvRef("e"), Task("t"), 0, [turn], Ending("fault", "x"), episode_id="b"),
        Trajectory(EnvRef("e"), Task("t"), 0, [], Ending("error", "x"), episode_id="c"),
    ]
    async with Judge(Flaky(), rubric) as judge:
        found = await judge_episodes(judge, episodes)
        assert list(found.verdicts) == ["a"]
        assert found.labels is not None
        assert (found.labels.accuracy.mean, found.labels.n) == (pytest.approx(2 / 3), 3)
        assert (await judge_episodes(judge, episodes, labels=[])).labels is None
        given = [Labelled(tuple(turn.observation), passed=False)]
        assert (await judge_episodes(judge, [], labels=given)).labels is not None


def test_labels_that_cannot_be_read_cost_no_episode(tmp_path: Path):
    policy = Some()
    with pytest.raises(ConfigError, match="cannot be read"):
        run_bench(Adder, policy, judge=Judge(Flaky(), JudgeRubric("Right?", labels=str(tmp_path / "absent.jsonl"))))
    assert not policy.asked


def test_the_intervals_of_a_judge_are_over_tasks_and_over_families():
    class Pairs(Adder):
        """Eight sums of four families."""

        tasks = Tasks.of(eval=[{"a": n, "b": 10 * n, "family": "wxyz"[n // 2]} for n in range(8)])

    judge = Judge(Flaky(then=lambda m, t: says(m, 10.0 * (int(material(m)[-1]["content"]) < 60))), "Right?")
    once, often = (run_bench(Adder, Some(), judge=judge, trials=trials).judged for trials in (1, 10))
    paired = run_bench(Pairs, Some(), judge=judge).judged
    assert once is not None
    assert often is not None
    assert paired is not None
    assert often.environment is not None
    assert often.environment.accuracy.mean == 0.75
    assert once.environment is not None
    assert paired.environment is not None
    assert often.environment.accuracy.ci95 == pytest.approx(once.environment.accuracy.ci95), "a trial is no new task"
    for name in ("score", "passed", "passed_of_all"):
        assert getattr(paired, name).low < getattr(once, name).low, name
    assert paired.environment.accuracy.low < once.environment.accuracy.low


# An environment whose score is a judge's.


class Asks(ToolEnv):
    """Say the right word."""

    tasks = Tasks.of(eval=[{"n": n} for n in range(12)])
    judge = Judge(Flaky(then=fair), "Is it the right word?")

    def start(self, task: Task) -> str:
        return f"Which word is it? ({task.data['n']})"

    async def score(self, answer: str | None) -> float:
        verdict = await self.judge.answer(f"Which word is it? ({self.task.data['n']})", answer)
        self.success = verdict.passed
        return verdict.score

    def oracle(self, messages) -> str:
        return "right"


class Obeys(Asks):
    """The same, but the answer reaches the judge as a part of its instructions."""

    async def score(self, answer: str | None) -> float:
        return float("full marks" in (answer or ""))


def test_the_judge_of_an_environment_pays_nothing_for_talk():
    report = audit(Asks, split="eval")
    assert not [flaw for flaw in report.flaws if "judge" in flaw.kind], report.to_text()
    assert "pays-for-judge-talk" in {flaw.kind for flaw in audit(Obeys, split="eval").flaws}
    result = run_bench(Asks, "oracle")
    assert (result.score.success.mean, result.references["null"].success.mean) == (1.0, 0.0)

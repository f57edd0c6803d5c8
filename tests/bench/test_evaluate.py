"""Evaluation: what is played, what is scored, what is set apart."""

from pathlib import Path

import pytest

from agentrl.bench.estimates import clustered_proportion
from agentrl.bench.evaluate import aevaluate, episode_seed, evaluate, requests_of
from agentrl.errors import RolloutError
from agentrl.policy.base import SamplingParams
from agentrl.policy.scripted import OraclePolicy
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import Labels
from tests.bench.toys import Adder, Some, breaks

TASKS = Adder.tasks.split("eval")


def test_success_and_reward_of_a_policy_that_solves_three_of_eight() -> None:
    result = evaluate(Some(right=4), Adder, TASKS)  # 0+0 is solved by the wrong answer "0" too
    assert result.mean == 4 / 8
    assert result.ci95 == pytest.approx(clustered_proportion([[1.0], [0.0]] * 4).ci95)
    assert result.reward.mean == 0.5
    assert (result.n_tasks, result.n_episodes, result.n_faults) == (8, 8, 0)
    assert [t.task.id for t in result.trajectories] == [task.id for task in TASKS]


def test_trials_are_episodes_of_their_own_and_no_extra_tasks() -> None:
    result = evaluate(Some(right=4), Adder, TASKS, trials=3)
    assert (result.n_tasks, result.n_episodes) == (8, 24)
    assert result.ci95 == pytest.approx(clustered_proportion([[1.0], [0.0]] * 4).ci95)  # a task's trials were all alike
    assert [t.group_id for t in result.trajectories[:4]] == ["eval-0#0", "eval-0#1", "eval-0#2", "eval-1#0"]
    assert len({t.seed for t in result.trajectories}) == 24


def test_faults_are_counted_apart_and_never_scored() -> None:
    result = evaluate(Some(broken=[2, 3]), Adder, TASKS)
    assert (result.mean, result.n_tasks, result.n_episodes, result.n_faults) == (1.0, 6, 6, 2)
    assert [t.status for t in result.trajectories].count("fault") == 2


def test_nothing_but_faults_is_an_error_that_names_the_cause() -> None:
    with pytest.raises(RolloutError, match="the server is gone"):
        evaluate(Some(broken=range(8)), Adder, TASKS)


def test_same_seed_same_episodes_whatever_is_played_beside() -> None:
    everything = {r.group_id: r.seed for r in requests_of(TASKS, 2, seed=5)}
    alone = {r.group_id: r.seed for r in requests_of(TASKS[3:4], 2, seed=5)}
    assert alone.items() <= everything.items()
    assert episode_seed(5, "eval-3", 0) != episode_seed(6, "eval-3", 0)


def test_greedy_reaches_the_policy_with_a_sampling_stream_per_episode() -> None:
    policy = Some()
    evaluate(policy, Adder, TASKS, trials=2, sampling=SamplingParams(temperature=0.0, max_tokens=9))
    assert {(s.temperature, s.max_tokens) for s in policy.sampled if s} == {(0.0, 9)}
    assert len({s.seed for s in policy.sampled if s}) == 16


def test_episodes_are_recorded_with_their_tags(tmp_path: Path) -> None:
    store = TrajectoryStore(tmp_path / "trajectories.jsonl")
    evaluate(Some(), Adder, TASKS, store=store, labels=Labels("eval", 40), env_id="test/Adder-v0")
    recorded = list(store.read(stage="eval"))
    assert len(recorded) == 8
    assert {(t.env.id, t.labels.step) for t in recorded} == {("test/Adder-v0", 40)}


async def test_inside_a_loop_the_sync_face_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="await aevaluate"):
        evaluate(Some(), Adder, TASKS)
    assert (await aevaluate(Some(), Adder, TASKS)).mean == 1.0


def test_json_form_has_no_number_that_json_lacks() -> None:
    result = evaluate(Some(), Adder, TASKS[:1])
    record = result.to_json()
    assert record["reward_ci95"] == record["ci95"] == [0.0, 1.0]  # one task: nothing is known about others
    assert (record["mean"], record["n_tasks"]) == (1.0, 1)
    with pytest.raises(ValueError, match="trials must be at least 1"):
        evaluate(Some(), Adder, TASKS, trials=0)


def test_discarded_episodes_are_counted_as_failures_in_a_rate_of_their_own() -> None:
    result = evaluate(Some(broken=[2, 3]), Adder, TASKS)
    assert (result.success_of_attempted.mean, result.counts.attempted) == (6 / 8, 8)
    record, metrics = result.to_json(), result.metrics()
    assert record["success_of_attempted"]["mean"] == 6 / 8
    assert (record["n_attempted"], record["n_episodes"], record["discarded"]["server"]) == (8, 6, 2)
    assert (record["errors"], record["warnings"], record["n_discarded_after_actions"]) == ({}, [], 0)
    assert metrics["eval/success_of_attempted"] == 6 / 8
    assert metrics["eval/success_of_attempted_ci95_high"] == pytest.approx(
        clustered_proportion([[1.0]] * 6 + [[0.0]] * 2).ci95[1]
    )
    assert (metrics["eval/attempted"], metrics["eval/discarded"], metrics["eval/discarded_server"]) == (8, 2, 2)


def test_discards_after_the_model_acted_are_warned_of() -> None:
    result = evaluate(OraclePolicy(), breaks(), TASKS)
    (warning,) = result.to_json()["warnings"]
    assert warning.startswith("2 of 8 episodes were discarded after the model had acted")
    assert result.metrics()["eval/discarded_after_actions"] == 2

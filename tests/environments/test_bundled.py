"""What every environment of this folder owes: an oracle, no free reward, determinism, exact forks."""

from __future__ import annotations

import json
import pickle
import warnings

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from agentrl.bench.evaluate import aevaluate
from agentrl.env.base import Env
from agentrl.env.registry import env_ids, make, reference
from agentrl.messages import Action, Message
from agentrl.policy.scripted import OraclePolicy
from agentrl.rollout.replay import replay_store
from agentrl.rollout.store import TrajectoryStore
from agentrl.trajectory import Task

IDS = [f"agentrl/{name}-v0" for name in ("Calculator", "Search", "Guess", "FrozenLake", "LoanDesk", "Instructions")]
LEVELS = [
    ("agentrl/FrozenLake-v0", 2),
    ("agentrl/FrozenLake-v0", 3),
    ("agentrl/LoanDesk-v0", 2),
    ("agentrl/LoanDesk-v0", 3),
    ("agentrl/Instructions-v0", 2),
    ("agentrl/Instructions-v0", 3),
]
MAY_BE_IN_THE_QUESTION = ("agentrl/FrozenLake-v0", "agentrl/Instructions-v0")
LOGIC = "agentrl/Logic-v0"  # its habits are others: test_logic.py
BUNDLED = [env_id for env_id in env_ids() if env_id.startswith("agentrl/") and env_id != LOGIC]
TRAIN_TASKS = {"agentrl/Search-v0": 16_000, "agentrl/LoanDesk-v0": 8000}


def play(env: Env, task: Task, seed: int = 0, turns: int = 30) -> tuple[list[Message], float]:
    """Let the oracle play an episode; the transcript and its reward."""
    conversation = list(env.reset(seed=seed, options={"task": task})[0])
    total = 0.0
    for _ in range(turns):
        action = env.oracle(conversation)
        messages, reward, terminated, truncated, info = env.step(action)
        json.dumps(info)
        conversation += [Action.of(action).to_message(), *messages]
        total += reward
        if terminated or truncated:
            break
    assert terminated, f"the oracle did not end {task}"
    return conversation, total


@pytest.mark.parametrize("env_id", IDS)
def test_oracle_solves_200_held_out_tasks(env_id):
    env = make(env_id)
    tasks = env.tasks.split("eval")
    assert len(tasks) == 200
    rewards = [play(env, task)[1] for task in tasks]
    assert rewards == [1.0] * 200


@pytest.mark.parametrize(("env_id", "level"), LEVELS)
def test_oracle_solves_held_out_tasks_of_every_level(env_id, level):
    env = make(reference(env_id, level=level))
    assert [play(env, task)[1] for task in env.tasks.split("eval")] == [1.0] * 200


@pytest.mark.parametrize("env_id", BUNDLED)
async def test_the_hasty_habit_is_right_sometimes_and_wrong_mostly(env_id):
    env = make(env_id)
    assert env.unwrapped.demonstrators == ("oracle", "hasty")
    tasks = env.tasks.split("eval")[:40]
    await env.unwrapped.aclose()
    hasty = await aevaluate(OraclePolicy({"hasty": 1.0}), env_id, tasks)
    assert hasty.n_faults == 0
    if env_id == "agentrl/FunctionSynthesis-v0":  # hidden tests find every slip
        assert hasty.mean == 0.0
    else:
        assert 0.05 <= hasty.mean <= 0.65


@pytest.mark.parametrize("env_id", IDS)
async def test_recorded_episodes_replay(env_id, tmp_path):
    tasks = make(env_id).tasks.split("eval")[:20]
    with TrajectoryStore(tmp_path / "episodes.jsonl") as store:
        await aevaluate(OraclePolicy({"oracle": 0.5, "hasty": 0.5}), env_id, tasks, store=store)
    seen = []
    replay_store(tmp_path / "episodes.jsonl", make, on_report=seen.append)
    assert [report.outcome for report in seen] == ["same"] * 20


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("text", ["", "0", "42", "yes", "I do not know"])
def test_doing_nothing_earns_nothing(env_id, text):
    env = make(env_id)
    for task in env.tasks.split("eval")[:50]:
        env.reset(seed=1, options={"task": task})
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = env.step(text)
            total, over = total + reward, terminated or truncated
        assert total == 0.0


@pytest.mark.parametrize("env_id", IDS)
def test_splits_are_disjoint_and_large_enough(env_id):
    tasks = make(env_id).tasks
    marks = {name: {json.dumps(task.data, sort_keys=True) for task in tasks.split(name)} for name in ("train", "eval")}
    assert len(marks["train"]) == TRAIN_TASKS.get(env_id, 2000)
    assert len(marks["eval"]) == 200
    assert not marks["train"] & marks["eval"]


@pytest.mark.parametrize("env_id", [env_id for env_id in IDS if env_id not in MAY_BE_IN_THE_QUESTION])
def test_the_answer_is_not_in_the_question(env_id):
    env = make(env_id)
    for task in env.tasks.split("eval"):
        conversation, _ = play(env, task)
        assert conversation[-1].content.casefold() not in conversation[0].content.casefold()


@pytest.mark.parametrize("env_id", IDS)
def test_transcripts_are_equal_byte_for_byte(env_id):
    alone = make(env_id)
    others = [make(env_id) for _ in range(4)]
    for index, task in enumerate(alone.tasks.split("eval")[:20]):
        first = play(alone, task, seed=index)
        for other in others:
            other.reset(seed=99)
            other.step("7")
        assert pickle.dumps(play(others[0], task, seed=index)) == pickle.dumps(first)


@pytest.mark.parametrize("env_id", IDS)
def test_a_fork_at_any_turn_goes_on_identically_and_alone(env_id):
    env = make(env_id)
    for task in env.tasks.split("eval")[:10]:
        conversation = list(env.reset(seed=3, options={"task": task})[0])
        over = False
        while not over:
            twin, bystander = env.fork(), env.fork()
            bystander.step("5")
            assert twin.state_key() == env.state_key()
            action = env.oracle(conversation)
            assert twin.oracle(conversation) == action
            here, there = env.step(action), twin.step(action)
            assert here == there
            messages, _, terminated, truncated, _ = here
            conversation += [Action.of(action).to_message(), *messages]
            over = terminated or truncated


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_accepts_it_without_a_warning(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(env_id))
        env = gymnasium.make(env_id)
        env.reset(seed=1)
        env.step("7")
        env.close()


@pytest.mark.parametrize("env_id", IDS)
def test_prompts_and_schemas_stay_compact(env_id):
    """A tiny model pays for every token: 120 characters of prompt, 600 of schema, or 320 a tool."""
    env = make(env_id)
    prompts = [env.reset(options={"task": task})[0][0].content for task in env.tasks.split("eval")]
    assert max(map(len, prompts)) <= 120
    assert len(json.dumps(env.tool_schemas)) <= max(600, 320 * len(env.tool_schemas))

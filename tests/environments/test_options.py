"""The options of the bundled environments, and the edges of their rewards."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

import gymnasium
import pytest

from agentrl.env import registry
from agentrl.env.tool_env import call
from agentrl.environments.calculator import Calculator, solve
from agentrl.environments.frozen_lake import FrozenLake, shortest_path
from agentrl.environments.guess import Guess
from agentrl.environments.loan_desk import LoanDesk
from agentrl.environments.search import EVAL_WORLDS, TRAIN_WORLDS, Search, world
from agentrl.messages import Action
from agentrl.trajectory import Task

IDS = [f"agentrl/{name}-v0" for name in ("Calculator", "Search", "Guess", "FrozenLake", "LoanDesk")]


def finish(env, task, choose=None):
    """Play to the end; the rewards and the last info."""
    env.reset(seed=0, options={"task": task})
    rewards = []
    while True:
        _, reward, terminated, truncated, info = env.step((choose or env.oracle)([]))
        rewards.append(reward)
        if terminated or truncated:
            return rewards, info


# Calculator.


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_calculator_takes_as_many_calls_as_steps(steps):
    env = Calculator(steps=steps)
    for task in env.tasks.split("eval")[:20]:
        rewards, _ = finish(env, task)
        assert rewards == [0.0] * steps + [1.0]


def test_calculator_worked_by_hand():
    data = {"things": 0, "boxes": 4821, "each": 37, "add": 918, "take": 652, "last": "share", "by": 19}
    assert 4821 * 37 == 178_377
    assert solve(data) == ["4821*37", "178377+918", "179295//19"]
    assert solve({**data, "boxes": 4822}) == ["4822*37", "178414-652", "177762//19"]
    assert solve({**data, "boxes": 4822}, look=False) == ["4822*37", "178414+918", "179332//19"]
    assert solve({**data, "last": "price"})[-1] == "179295*19"


def test_the_hasty_habit_fails_on_about_half_of_the_tasks():
    env = Calculator()
    wins = sum(finish(env, task, env.hasty)[0][-1] for task in env.tasks.split("eval"))
    assert 70 <= wins <= 130


@pytest.mark.parametrize(
    ("change", "reward"),
    [
        ("{}", 1),
        (" {}\n", 1),
        ("{}.", 1),
        ("{}.0", 0),
        ("It is {}", 0),
        ("{} or 5", 0),
        ("-{}", 0),
        ("0{}", 0),
        ("{}1", 0),
    ],
)
def test_calculator_wants_the_number_and_nothing_else(change, reward):
    env = Calculator(steps=1)
    task = env.tasks["eval-0"]
    right = str(task.data["boxes"] * task.data["each"])
    env.reset(options={"task": task})
    assert env.step(change.format(right))[1] == reward
    env.reset(options={"task": task})
    assert env.step(f"{int(right):,}")[1] == 1.0


def test_a_wrong_expression_is_told_and_the_episode_goes_on():
    env = Calculator()
    env.reset(seed=1)
    (message,), reward, terminated, *_ = env.step(call("calc", expr="2 +"))
    assert message.content.startswith("Error: not an arithmetic expression")
    assert (reward, terminated) == (0.0, False)


# Search.


@pytest.mark.parametrize("hops", [(1,), (2,), (3,), (1, 4)])
def test_search_takes_two_calls_a_hop(hops):
    env = Search(hops=hops)
    env.limits = env.limits.__class__(max_turns=None)
    tasks = env.tasks.split("eval")
    assert {len(task.data["path"]) for task in tasks} == set(hops)
    for task in tasks[:30]:
        rewards, _ = finish(env, task)
        assert len(rewards) <= 2 * len(task.data["path"]) + 1
        assert rewards[-1] == 1.0


def test_held_out_questions_are_of_other_worlds_with_other_facts():
    tasks = Search().tasks
    assert {task.data["world"] for task in tasks.split("train")} == set(TRAIN_WORLDS)
    assert {task.data["world"] for task in tasks.split("eval")} == set(EVAL_WORLDS)
    here, there = world(TRAIN_WORLDS[0]), world(EVAL_WORLDS[0])
    shared = set(here.facts) & set(there.facts)
    same = sum(here.facts[name] == there.facts[name] for name in shared)
    assert len(shared) >= 24
    assert same == 0


def test_there_are_too_many_training_worlds_to_learn_them_by_heart():
    assert len(TRAIN_WORLDS) >= 30
    assert not set(TRAIN_WORLDS) & set(EVAL_WORLDS)
    assert world.cache_info().maxsize >= len(TRAIN_WORLDS) + len(EVAL_WORLDS)


def test_answers_learnt_by_heart_from_training_do_not_help():
    tasks = Search().tasks
    learnt = {}
    for task in tasks.split("train"):
        key = (task.data["start"], tuple(task.data["path"]))
        learnt[key] = world(task.data["world"]).follow(*key)[-1]
    known = [t for t in tasks.split("eval") if (t.data["start"], tuple(t.data["path"])) in learnt]
    right = [
        t
        for t in known
        if learnt[t.data["start"], tuple(t.data["path"])]
        == world(t.data["world"]).follow(t.data["start"], t.data["path"])[-1]
    ]
    assert len(known) > 40
    assert len(right) / len(known) < 0.2


def test_search_answers_ignore_case_and_a_full_stop_only():
    env = Search()
    for task in env.tasks.split("eval")[:20]:
        answer = world(task.data["world"]).follow(task.data["start"], task.data["path"])[-1]
        for text, reward in [(answer.upper(), 1), (f" {answer}. ", 1), (f"It is {answer}", 0), (answer[:-1], 0)]:
            env.reset(options={"task": task})
            assert env.step(text)[1] == reward


def test_search_tools_tell_what_is_wrong():
    env = Search()
    env.reset(seed=1)
    assert env.step(call("find", q="zzz"))[0][0].content == "Error: nothing found"
    assert env.step(call("read", id=9999))[0][0].content.startswith("Error: there is no document '9999'")
    assert "id" in env.step(call("read", id="x"))[0][0].content


# Guess.


@pytest.mark.parametrize("size", [5, 60, 500])
def test_halving_finds_every_number_in_time(size):
    env = Guess(size=size)
    for task in env.tasks.split("eval"):
        rewards, info = finish(env, task)
        assert rewards[-1] == 1.0
        assert info["success"] is True
        assert len(rewards) <= math.ceil(math.log2(task.data["high"] - task.data["low"] + 2))


def test_tries_run_out():
    env = Guess()
    env.reset(options={"task": "eval-0"})
    replies = []
    while True:
        messages, reward, terminated, truncated, info = env.step("1")
        replies += [message.content for message in messages]
        if terminated or truncated:
            break
    data = env.task.data
    assert len(replies) == math.ceil(math.log2(data["high"] - data["low"] + 2)) + 2
    assert set(replies) == {"higher"}
    assert (reward, terminated, info["success"]) == (0.0, True, False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "three",
        "150 160",
        "150, 160",
        "between 100 and 200",
        "1" * 50,
        pytest.param(f"1{' ' * 30_000}x", id="blanks"),
    ],
)
def test_only_one_number_is_a_guess(text):
    env = Guess()
    env.reset(options={"task": "eval-0"})
    left = env.left
    (message,), reward, *_ = env.step(text)
    assert (message.content, reward, env.left) == ("Say a number.", 0.0, left - 1)


def test_naming_every_number_at_once_finds_nothing():
    env = Guess()
    env.reset(options={"task": "eval-0"})
    everything = " ".join(str(n) for n in range(env.low, env.high + 1))
    assert env.step(everything)[0][0].content == "Say a number."


def test_shaping_pays_for_information_once_and_in_all_its_weight():
    env = Guess(shaped=True)
    for task in env.tasks.split("eval")[:50]:
        rewards, _ = finish(env, task)
        assert sum(rewards) == pytest.approx(1.2)
        assert min(rewards) > 0
    env.reset(options={"task": task})
    assert env.step(str(task.data["low"]))[1] > 0
    assert env.step(str(task.data["low"]))[1] == 0.0
    assert env.step("no number")[1] == 0.0


# FrozenLake.


@pytest.mark.parametrize(("level", "size"), [(1, 4), (2, 6), (3, 8)])
def test_every_map_has_a_way_and_none_is_held_out_and_trained_on(level, size):
    tasks = FrozenLake(level=level).tasks
    maps = {split: {tuple(task.data["rows"]) for task in tasks.split(split)} for split in ("train", "eval")}
    assert not maps["train"] & maps["eval"]
    for rows in maps["eval"]:
        path = shortest_path(rows, (0, 0))
        assert [len(row) for row in rows] == [size] * size
        assert path[0] == (0, 0)
        assert path[-1] == (size - 1, size - 1)
        assert all(abs(a - c) + abs(b - d) == 1 for (a, b), (c, d) in pairwise(path))
        assert "H" not in {rows[row][column] for row, column in path}


def test_a_lake_worked_by_hand():
    env = FrozenLake()
    task = Task("hand", "eval", {"rows": ["FFFF", "FHFF", "FFFF", "HFFG"]})
    env.reset(options={"task": task})
    assert env.step("Up")[0][0].content == "P F F F\nF H F F\nF F F F\nH F F G"
    assert env.step("nowhere")[0][0].content == "Say down, right, up or left."
    assert env.step("down.")[0][0].content == "F F F F\nP H F F\nF F F F\nH F F G"
    messages, reward, terminated, *_ = env.step("right")
    assert (messages[0].content, reward, terminated) == ("You fell into a hole.", 0.0, True)
    env.reset(options={"task": task})
    rewards = [env.step(move)[1] for move in ("right", "right", "down", "down", "right", "down")]
    assert rewards == [0.0] * 5 + [1.0]
    assert shortest_path(["FH", "HG"], (0, 0)) == []


def test_walking_on_the_spot_ends_without_reward():
    env = registry.make("agentrl/FrozenLake-v0")
    env.reset(seed=1)
    steps = [env.step("up") for _ in range(30)]
    assert [step[3] for step in steps] == [False] * 29 + [True]
    assert sum(step[1] for step in steps) == 0.0


# LoanDesk.

DESK = {
    "titles": ["Emma", "Kim", "Ivanhoe", "Dracula", "Ulysses", "Hamlet"],
    "free": [2, 1, 0, 1, 0, 2],
    "periods": ["week"] * 4 + ["month"] * 5,
    "base": 500,
    "book": 1,
    "member": 5,
}
RIGHT = {"member": 5, "copy_id": 4, "period": "month"}


def desk(level):
    env = LoanDesk(level=level)
    (message,), _ = env.reset(options={"task": Task("hand", "eval", {**DESK, "level": level})})
    return env, message.content


def test_a_desk_worked_by_hand():
    env, asked = desk(3)
    assert asked == "Lend Kim to member 5. Loan id?"
    assert desk(1)[1] == "Lend 101 to member 5. Loan id?"
    told = [
        env.step(action)[0][0].content
        for action in (call("member", member=5), call("books"), call("books", page=3), call("copies", isbn=101))
    ]
    assert told == [
        '{"id": 5, "period": "month", "loans": 0}',
        '{"items": [{"isbn": 100, "title": "Emma"}, {"isbn": 101, "title": "Kim"}], "next": 2}',
        '{"items": [{"isbn": 104, "title": "Ulysses"}, {"isbn": 105, "title": "Hamlet"}], "next": null}',
        '[{"id": 3, "free": false}, {"id": 4, "free": true}, {"id": 5, "free": false}]',
    ]
    assert env.step(call("lend", **RIGHT | {"copy_id": 3}))[0][0].content == "Error: not free"
    assert '"id": 533' in env.step(call("lend", **RIGHT))[0][0].content
    assert env.step("533")[1] == 1.0


@pytest.mark.parametrize(
    ("lent", "answer", "reward"),
    [
        ([{}], "533", 1.0),
        ([{}], " 533\n", 1.0),
        ([{}], "534", 0.0),
        ([{}], "It is 533", 0.0),
        ([], "533", 0.0),
        ([{"period": "week"}], "533", 0.0),
        ([{"member": 4}], "532", 0.0),
        ([{"copy_id": 6}], "547", 0.0),
        ([{}, {"copy_id": 6}], "533", 0.0),
    ],
)
def test_only_the_one_right_loan_counts(lent, answer, reward):
    env, _ = desk(1)
    for change in lent:
        assert "Error" not in env.step(call("lend", **RIGHT | change))[0][0].content
    assert env.step(answer)[1] == reward


@pytest.mark.parametrize(("level", "calls"), [(1, 3), (2, 4), (3, None)])
def test_a_desk_takes_more_calls_at_each_level(level, calls):
    env = LoanDesk(level=level)
    found = set()
    for task in env.tasks.split("eval")[:60]:
        messages = list(env.reset(options={"task": task})[0])
        while True:
            action = env.oracle(messages)
            observation, reward, terminated, *_ = env.step(action)
            messages += [action.to_message(), *observation]
            if terminated:
                break
        assert reward == 1.0
        found.add(sum(message.role == "tool" for message in messages))
    assert found == ({4, 5, 6} if calls is None else {calls})


def test_bad_options_are_refused():
    for make in (
        lambda: FrozenLake(level=4),
        lambda: LoanDesk(level=0),
        lambda: Calculator(steps=4),
        lambda: Search(hops=()),
        lambda: Search(hops=(5,)),
        lambda: Guess(size=4),
        lambda: Guess(size=501),
    ):
        with pytest.raises(ValueError, match="must be"):
            make()


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_both_vector_environments(env_id, mode):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        envs = gymnasium.make_vec(env_id, num_envs=2, vectorization_mode=mode)
        envs.reset(seed=3)
        _, rewards, *_ = envs.step(["7", Action(text="8")])
        assert rewards.tolist() == [0.0, 0.0]
        envs.close()

"""Environments whose answer is a number: notations, data sets, rewards, the oracle and silence, splits, files."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.bench.evaluate import aevaluate
from agentrl.env.registry import make, reference
from agentrl.env.tool_env import call
from agentrl.environments.numeric import datasets
from agentrl.environments.numeric.notation import Normalised, Plain, Scientific
from agentrl.environments.numeric.prediction import NumericPrediction, reward_of
from agentrl.environments.numeric.queries import NumericQueries, going_on, statistics
from agentrl.environments.numeric.reports import COSTS, PARTS, STATES, program, report, steps
from agentrl.errors import ConfigError
from agentrl.policy.scripted import NullPolicy, OraclePolicy
from agentrl.policy.tiny import build_tokenizer

IDS = ["agentrl/NumericPrediction-v0", "agentrl/NumericQueries-v0"]
NOTATIONS = [Normalised(-3.0, 7.0), Normalised(0, 1, 2, 8), Normalised(-1, 1, 7, 3), Scientific(3), Scientific(1)]
NOTATIONS += [Plain(0), Plain(2)]


# Notations.


@pytest.mark.parametrize("notation", NOTATIONS, ids=str)
@given(number=st.floats(-1e15, 1e15))
def test_what_was_written_is_read_and_written_the_same(notation, number):
    text = notation.write(number)
    read = notation.read(text)
    assert read is not None
    assert notation.write(read) == text
    assert notation.read(f" {text}\n") == read


@pytest.mark.parametrize("notation", [Normalised(-3.0, 7.0, 5, 3), Scientific(3), Plain(2)], ids=str)
@given(number=st.floats(-3, 7))
def test_the_nearest_number_is_written(notation, number):
    step = {Normalised: 10 / 125, Scientific: 0.01, Plain: 0.01}[type(notation)]
    assert abs(notation.read(notation.write(number)) - number) <= step / 2 + 1e-9


def test_normalised_digits_by_hand():
    tens, bits = Normalised(0, 50, 10, 2), Normalised(0, 1, 2, 3)
    assert [tens.write(x) for x in (-1, 0, 12.4, 49.99, 50, 80)] == ["00", "00", "24", "99", "99", "99"]
    assert tens.read("24") == 12.25
    assert [bits.write(x / 8) for x in range(8)] == ["000", "001", "010", "011", "100", "101", "110", "111"]
    assert bits.read("101") == 5.5 / 8
    assert [bits.read(text) for text in ("102", "10", "1011", "", "1 0 1", "-101", "١٠١")] == [None] * 7


def test_scientific_by_hand():
    notation = Scientific(3)
    written = {
        15.2: "+152e-1",
        -0.00456: "-456e-5",
        999.6: "+100e+1",
        0.0: "+000e+0",
        1e300: "+999e+9",
        1e-30: "+000e+0",
    }
    assert {number: notation.write(number) for number in written} == written
    assert [notation.read(text) for text in ("+152e-1", "-456e-5", "+000e+0")] == [15.2, -0.00456, 0.0]
    assert [notation.read(t) for t in ("152e-1", "+052e-1", "-000e+0", "+152e-0", "+152e12", "+15e1", "nan")] == [
        None
    ] * 7


def test_plain_by_hand():
    assert [Plain(0).write(x) for x in (151.6, -0.2, -3.0, 1e9)] == ["152", "0", "-3", "999999"]
    assert [Plain(1).write(x) for x in (0.25, -3.46)] == ["0.2", "-3.5"]
    assert [Plain(1).read(t) for t in ("3.5", "-0.1")] == [3.5, -0.1]
    assert [Plain(1).read(t) for t in ("3", "03.5", "-0.0", "3.55", "inf", "1e3", "9999999.0")] == [None] * 7


@pytest.mark.parametrize("notation", NOTATIONS, ids=str)
def test_each_digit_is_a_token_of_its_own(notation):
    texts = [notation.write(x) for x in np.linspace(-5, 900, 200)]
    tokenizer = build_tokenizer([f"{text} {text}" for text in texts] * 3)
    for text in texts:
        tokens = tokenizer.tokenize(text)
        assert [t for t in tokens if re.search(r"\d", t)] == re.findall(r"\d", text)


def test_notations_refuse_what_cannot_be_written():
    for wrong in (lambda: Normalised(0, 1, 16), lambda: Normalised(1, 1), lambda: Scientific(0), lambda: Plain(-1)):
        with pytest.raises(ValueError, match="must be"):
            wrong()


# Data.


@pytest.mark.parametrize("name", datasets.names())
async def test_every_data_set_has_two_splits_an_oracle_and_a_silence_that_is_worst(name):
    ref = reference(IDS[0], data=name)
    env = make(ref)
    train, held_out = (env.tasks.split(split) for split in ("train", "eval"))
    assert not {(t.data["text"], t.data["target"]) for t in train} & {
        (t.data["text"], t.data["target"]) for t in held_out
    }
    assert len(held_out) == len(env.unwrapped.data.held_out.numbers)
    tasks = held_out[:40]
    oracle = await aevaluate(OraclePolicy(), ref, tasks)
    hasty = await aevaluate(OraclePolicy({"hasty": 1.0}), ref, tasks)
    silent = await aevaluate(NullPolicy(), ref, tasks)
    rewards = [np.array([t.reward for t in result.trajectories]) for result in (oracle, hasty, silent)]
    assert (oracle.mean, silent.mean) == (1.0, 0.0)
    assert rewards[0] == pytest.approx(1.0)
    assert (rewards[2] <= rewards[1]).all()
    assert (rewards[2] <= 0).all()


def test_splits_differ_by_their_number_and_are_the_same_each_time():
    numbers = [tuple(datasets.load("wine", split).held_out.numbers) for split in (0, 1)]
    datasets.load.cache_clear()
    assert datasets.load("wine", 0).held_out.numbers == numbers[0] != numbers[1]


def test_the_scale_of_a_row_is_that_of_the_training_rows():
    found = datasets.load("friedman1", 0, style="digits", digits=1)
    mean, deviation = found.train.features.mean(0), found.train.features.std(0)
    place = (found.held_out.features[3] - mean) / (5 * deviation) + 0.5
    cells = [int(min(max(p, 0), 0.999) * 10) for p in place]
    assert found.held_out.texts[3] == " ".join(map(str, cells))
    words = datasets.load("friedman1", 0).held_out.texts[3]
    assert words == " ".join("abcdefghij"[i] + "abcdefghij"[cell] for i, cell in enumerate(cells))
    assert datasets.load("wine", 0, style="named").train.texts[0].startswith("malic_acid ")
    assert found.low == min(found.train.numbers)


def test_each_word_of_a_feature_is_a_token_of_its_own():
    found = datasets.load("breast_cancer", 0).train.texts
    tokenizer = build_tokenizer(found, vocab_size=1024)
    assert all(len(tokenizer.tokenize(text)) == 2 * 30 - 1 for text in found[:50])


def test_a_probability_is_between_0_and_1():
    env = NumericPrediction(data="breast_cancer")
    assert {env.notation.write(x) for x in env.data.train.numbers} == {"00", "99"}
    assert (env.data.low, env.data.high) == (0, 1)


def test_a_report_costs_what_its_words_say():
    """Every text is read again by rule; only the noise differs."""
    rng = np.random.default_rng(3)
    for _ in range(100):
        text, number = report(rng)
        cost = 0.0
        for sentence in text.split(". "):
            part = next(p for p in PARTS if p in sentence)
            state = next(s for s in STATES if s in sentence)
            length, unit = re.search(r"(\d+) (hours|minutes)", sentence).groups()
            cost += (
                (" not " not in sentence) * PARTS[part] * STATES[state] * int(length) / (1 if unit == "hours" else 60)
            )
        assert number == pytest.approx(cost, rel=0.25, abs=0.01)


def test_instruction_counts_by_hand():
    assert steps(["add", "mul", "div"]) == 12
    assert steps([["loop", 3, ["mul"]]]) == 3 * (1 + 3)
    # Rounds 0 to 3: each counts 1 and tests once; rounds 1 and 3 divide.
    assert steps([["loop", 4, [["odd", 0, ["div"]]]]]) == 4 * 2 + 2 * 8
    assert steps([["loop", 2, [["loop", 3, ["add"]]]]]) == 2 * (1 + 3 * 2)


def test_the_text_of_a_program_says_its_instructions():
    """A reader of the text alone comes to the same number."""

    def read(words, number=0):
        total = 0
        while words and (word := words.pop(0)) != "}":
            if word in COSTS:
                total += COSTS[word]
                continue
            rounds = int(words.pop(0)) if word == "loop" else None
            assert words.pop(0) == "{"
            body, depth = [], 1
            while depth:
                body.append(words.pop(0))
                depth += {"{": 1, "}": -1}.get(body[-1], 0)
            if rounds is None:
                total += 1 + (read(body, number) if number % 2 else 0)
            else:
                total += sum(1 + read(list(body), turn) for turn in range(rounds))
        return total

    rng = np.random.default_rng(1)
    for _ in range(50):
        text, number = program(rng)
        assert number == pytest.approx(math.log2(read(text.split())), abs=1e-4)


# Files of a user.


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_file_of_texts_and_numbers_is_an_environment(ending, tmp_path):
    path = tmp_path / f"prices.{ending}"
    rows = [{"what": f'{i} apples, "red"', "price": i / 2} for i in range(20)]
    if ending == "csv":
        path.write_text("what,price\n" + "".join(f'"{i} apples, ""red""",{i / 2}\n' for i in range(20)))
    else:
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    env = NumericPrediction(file=str(path), text="what", number="price", notation="plain")
    tasks = [*env.tasks.split("train"), *env.tasks.split("eval")]
    assert sorted((t.data["text"], t.data["target"]) for t in tasks) == sorted((r["what"], r["price"]) for r in rows)
    assert [len(env.tasks.split(split)) for split in ("train", "eval")] == [16, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,number\na,x\n", r"entry 1: number = 'x' is no number"),
        ("text,cost\na,1\n", r"entry 1: expected 'text' and 'number', got text, cost; set text and number"),
        ("text,number\na,1\nb,inf\n", r"entry 2: number = 'inf' is no number"),
        ("text,number\na,1\n", "needs at least 5 lines with at least 2 different numbers, has 1"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_line(content, message, tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        NumericPrediction(file=str(path))


def test_what_is_not_there_is_refused(tmp_path, monkeypatch):
    for options, message in [
        ({"data": "diabets"}, "Did you mean 'diabetes'"),
        ({"file": str(tmp_path / "none.csv")}, "cannot be read"),
        ({"reward": "cubed"}, "expected one of squared, absolute, reciprocal"),
        ({"notation": "roman"}, "expected one of normalised, scientific, plain"),
        ({"tolerance": 0}, "tolerance must be above 0"),
        ({"features": "letters"}, "expected one of words, digits, named"),
    ]:
        with pytest.raises(ConfigError, match=message):
            NumericPrediction(**options)
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(ConfigError, match=r'pip install "agentrl\[numeric\]"'):
        NumericPrediction(data="linnerud", split=77)
    assert NumericPrediction(data="reports").tasks.split("eval")


# Rewards and what the episode says.


@pytest.mark.parametrize(
    ("name", "rewards"), [("squared", [1, 0.75, -3]), ("absolute", [1, 0.5, -1]), ("reciprocal", [1, 2 / 3, 1 / 3])]
)
def test_rewards_by_hand(name, rewards):
    assert [reward_of(name, error) for error in (0, 0.5, 2)] == pytest.approx(rewards)


def answer(env, task, text):
    env.reset(seed=0, options={"task": task})
    _, reward, *_, info = env.step(text)
    return reward, info


def test_the_episode_holds_target_and_prediction():
    env = NumericPrediction(data="diabetes", reward="absolute", tolerance=0.5)
    task = env.tasks.split("eval")[0]
    target, scale = task.data["target"], np.std(env.data.train.numbers)
    written = env.notation.read(env.notation.write(target))
    reward, info = answer(env, task, "50")
    assert (info["target"], info["scale"], info["is_number"]) == (target, pytest.approx(scale), True)
    assert info["prediction"] == env.notation.read("50")
    assert reward == pytest.approx(1 - abs(info["prediction"] - written) / scale)
    assert info["success"] == (abs(info["prediction"] - written) <= 0.5 * scale)


@pytest.mark.parametrize("reward", ["squared", "absolute", "reciprocal"])
def test_no_number_counts_as_one_beyond_the_farther_end_and_earns_least(reward):
    env = NumericPrediction(data="diabetes", reward=reward)
    for task in env.tasks.split("eval")[:20]:
        silent, info = answer(env, task, "about 50")
        target, low, high = task.data["target"], env.data.low, env.data.high
        beyond = {low - info["scale"]: target - low, high + info["scale"]: high - target}
        assert info["prediction"] == max(beyond, key=beyond.get)
        assert (info["is_number"], info["success"]) == (False, False)
        assert silent < min(answer(env, task, text)[0] for text in ("00", "25", "99"))


def test_a_huge_number_costs_no_more_than_no_number():
    env = NumericPrediction(data="diabetes", notation="plain")
    task = env.tasks.split("eval")[0]
    assert answer(env, task, "999999")[0] >= answer(env, task, "")[0]
    assert answer(env, task, "999999")[1]["prediction"] == env.data.high + answer(env, task, "")[1]["scale"]


def test_an_answer_that_was_cut_off_has_a_prediction_too():
    from agentrl.messages import Action

    env = NumericPrediction()
    env.reset(seed=0, options={"task": env.tasks.split("eval")[0]})
    _, reward, terminated, truncated, info = env.step(Action("5", finish_reason="length"))
    assert (terminated, truncated, info["is_number"], reward < 0) == (False, True, False, True)


def test_a_hint_tells_how_to_write_the_number():
    env = NumericPrediction(hint=True, notation="scientific", digits=3)
    messages, _ = env.reset(seed=1)
    assert messages[0].content.endswith("\nAnswer with a sign, 3 digits, e and an exponent, such as +152e-1.")


# Several turns.


def test_statistics_by_hand():
    assert statistics([1.0, 5.0, 4.0]) == {"mean": pytest.approx(10 / 3), "last": 4.0, "trend": 1.5, "high": 5.0}


def test_the_machine_that_goes_on_is_read_from_the_message():
    text = "a steady pump, a drifting fan, a bursting belt. The pump and the belt stop, then the same work."
    assert going_on(text) == ("fan", "drifting")
    assert going_on(text.replace("The pump", "The fan")) == ("pump", "steady")


def test_queries_answer_what_is_asked_and_say_what_there_is():
    env = make(IDS[1]).unwrapped
    task = next(t for t in env.tasks.split("eval") if going_on(t.data["text"]) == ("fan", "drifting"))
    messages, _ = env.reset(seed=0, options={"task": task})
    reply = env.step(env.oracle(messages))[0]
    assert reply[0].content == f"{task.data['readings']['fan'][-1]:.1f}"
    for machine, name in (("fan", "mode"), ("cat", "mean")):
        refused = env.step(call("stat", machine=machine, name=name))[0][0].content
        assert refused == f"Error: there is no {name!r} of {machine!r}, only mean, last, trend, high of pump, fan, belt"
    assert env.oracle(messages) == call("stat", machine="fan", name="trend")
    _, reward, terminated, truncated, info = env.step(env.oracle(messages))
    assert (terminated, truncated, info["is_number"], reward <= 0) == (False, True, False, True), (
        "4 turns are the limit"
    )


def test_the_load_is_that_of_the_machine_that_goes_on():
    """Every message is read again by rule; only the noise, of 4, differs."""
    env, errors = NumericQueries(), []
    for task in env.tasks.split("eval")[:200]:
        machine, habit = going_on(task.data["text"])
        found = statistics(task.data["readings"][machine])
        base = {"steady": found["mean"], "bursting": found["high"]}.get(habit, found["last"] + 4 * found["trend"])
        factor = {"half": 0.5, "same": 1.0, "double": 2.0}[task.data["text"].split()[-2]]
        errors.append(task.data["target"] - factor * base)
    assert np.std(errors) == pytest.approx(4.0, rel=0.2)


def test_the_features_of_the_queries_are_their_statistics():
    env = NumericQueries()
    task = env.tasks.split("eval")[7]
    wanted = [value for m in ("pump", "fan", "belt") for value in statistics(task.data["readings"][m]).values()]
    assert env.data.held_out.features[7] == pytest.approx(wanted)
    assert env.data.held_out.numbers[7] == task.data["target"]


async def test_the_oracle_of_the_queries_solves_held_out_tasks_and_the_mean_does_not():
    tasks = make(IDS[1]).tasks.split("eval")[:100]
    assert len({t.data["target"] for t in tasks}) > 90
    assert (await aevaluate(OraclePolicy(), IDS[1], tasks)).mean == 1.0
    assert (await aevaluate(OraclePolicy({"hasty": 1.0}), IDS[1], tasks)).mean < 0.4
    assert (await aevaluate(NullPolicy(), IDS[1], tasks)).mean == 0.0

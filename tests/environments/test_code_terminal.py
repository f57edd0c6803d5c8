"""The terminal environment: solved by its oracle, unmoved by talk and by tricks with the files."""

from __future__ import annotations

import pytest

from agentrl.environments.terminal import Terminal
from agentrl.environments.terminal_families import FAMILIES, LEVELS, families_of, problem
from agentrl.trajectory import Task
from tests.environments import sandboxed
from tests.environments.sandboxed import rewards, shell


def task_of(family, seed=0):
    return Task(f"{family}-{seed}", "eval", {"family": family, "seed": seed})


async def test_oracle_solves_every_family():
    tasks = [task_of(family, seed) for family in FAMILIES for seed in (1, 2)]
    assert await rewards(Terminal, [(task, None) for task in tasks]) == [1.0] * len(tasks)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_problem_is_solved_before_it_begins(family):
    for seed in range(50):
        made = problem(family, seed)
        done = {path: made.files.get(path, "").rstrip() == text.rstrip() for path, text in made.wanted.items()}
        assert not all(done.values()) or set(made.gone) & set(made.files)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_wanted_is_not_in_the_question(family):
    for seed in range(20):
        made = problem(family, seed)
        new = {path: text for path, text in made.wanted.items() if made.files.get(path) != text and text}
        assert not any(text in made.question.split() for text in new.values())


async def test_doing_nothing_earns_nothing():
    tasks = [task_of(family) for family in FAMILIES]
    assert await rewards(Terminal, [(task, shell()) for task in tasks]) == [0.0] * len(tasks)
    assert await rewards(Terminal, [(task, shell("ls -R", "true")) for task in tasks]) == [0.0] * len(tasks)


@pytest.mark.parametrize("level", LEVELS)
def test_each_level_has_its_own_families(level):
    tasks = Terminal(level=level).tasks
    assert {task.data["family"] for task in tasks.split("train")} == set(families_of(level))
    others = {name for other in LEVELS if other != level for name in families_of(other)}
    assert set(families_of(level)) | others == set(FAMILIES)
    assert not set(families_of(level)) & others


def test_unknown_levels_are_refused():
    with pytest.raises(ValueError, match="level must be"):
        Terminal(level=4)


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_slip_fails_on_most_problems(family):
    tasks = [task_of(family, seed) for seed in range(8)]
    slips = [problem(family, seed).slip for seed in range(8)]
    if not any(slips):
        return
    earned = await rewards(Terminal, [(task, shell(*slip)) for task, slip in zip(tasks, slips, strict=True)])
    assert sum(earned) <= 4


COUNT = task_of("count")
ANSWER = problem("count", 0).wanted["count.txt"]


@pytest.mark.parametrize(
    ("commands", "reward"),
    [
        ([f"echo {ANSWER} > count.txt"], 1.0),
        ([f"printf '{ANSWER}\\n\\n' > count.txt"], 1.0),
        ([f"echo {ANSWER} > elsewhere.txt", "ln -s elsewhere.txt count.txt"], 0.0),
        ([f"echo {ANSWER} > /tmp/x", "ln -s /tmp/x count.txt"], 0.0),
        ([f"mkdir count.txt; echo {ANSWER} > count.txt/count.txt"], 0.0),
        (["mkfifo count.txt"], 0.0),
        ([f"echo {ANSWER} > result.txt; echo PASS; echo 1.0 > reward.txt"], 0.0),
        (["for i in $(seq 0 99); do echo $i; done > count.txt"], 0.0),
        ([f"echo x{ANSWER} > count.txt"], 0.0),
        ([f"(sleep 1; echo {ANSWER} > count.txt) & disown; setsid sh -c 'sleep 1; echo {ANSWER} > count.txt' &"], 0.0),
        (["head -c 200000 /dev/zero > count.txt"], 0.0),
        (["exit 0"], 0.0),
        (["chmod -R 0 . /tmp", "ls"], 0.0),
        (["echo done; exit 0", "cat() { echo ok; }; export -f cat"], 0.0),
        (["yes > count.txt"], 0.0),
    ],
)
async def test_only_the_file_itself_counts(commands, reward):
    assert await rewards(Terminal, [(COUNT, shell(*commands))]) == [reward]


async def test_a_file_that_had_to_go_spoils_it():
    made = problem("rename", 0)
    copies = made.commands[0].replace("mv ", "cp ")
    assert await rewards(
        Terminal, [(task_of("rename"), shell(copies)), (task_of("rename"), shell(*made.commands))]
    ) == [0, 1]


async def test_other_files_must_stay_as_they_are():
    made = problem("replace_word", 0)
    too_much = made.commands[0].replace("*.cfg", "*")
    assert await rewards(Terminal, [(task_of("replace_word"), shell(too_much))]) == [0.0]


async def test_an_episode_sees_nothing_of_the_one_before():
    env = Terminal()
    try:
        await sandboxed.play(env, COUNT, shell(f"echo {ANSWER} > count.txt; echo {ANSWER} > /tmp/left"))
        reward, messages = await sandboxed.play(env, COUNT, shell("ls count.txt /tmp"))
    finally:
        await env.aclose()
    assert reward == 0.0
    assert "left" not in messages[2].content
    assert "cannot access 'count.txt'" in messages[2].content

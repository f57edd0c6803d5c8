"""Harbor's task folders as an environment: solved by their own solution, and what needs an image is refused."""

from __future__ import annotations

import pytest

from agentrl.adapters.harbor.dockerfile import TaskRefused
from agentrl.adapters.harbor.environment import Harbor
from agentrl.adapters.harbor.task_folder import read_task
from agentrl.adapters.harbor.verifier import parsed_rewards
from agentrl.env.tool_env import call
from agentrl.errors import ConfigError
from agentrl.messages import Action
from agentrl.policy.scripted import ScriptedPolicy
from agentrl.rollout.episode import run_episode
from tests.adapters.harbor_tasks import write_task
from tests.environments.sandboxed import play, shell
from tests.sandboxed import attacks


async def played(env, *commands):
    """Reward, messages and info of an episode in which these commands run; of the oracle's without commands."""
    (task,) = env.tasks.split("eval")
    try:
        return await play(env, task, shell(*commands) if commands else None)
    finally:
        await env.aclose()


async def test_the_solution_earns_what_the_tests_pay_and_doing_nothing_earns_nothing(tmp_path):
    env = Harbor(folder=str(write_task(tmp_path / "hello")))
    reward, messages = await played(env)
    assert (reward, messages[0].content) == (1.0, "Write the sum of numbers.txt to out/sum.txt.\n")
    assert (await played(env, "true"))[0] == 0.0
    assert (await play(env, env.tasks.split("eval")[0], [Action(text="done")]))[0] == 0.0
    await env.aclose()


async def test_commands_start_in_the_working_folder_with_the_variables_of_the_task(tmp_path):
    env = Harbor(folder=str(write_task(tmp_path / "hello")))
    _, messages = await played(env, "readlink -f . && cat /app/numbers.txt && echo $UNIT && touch /logs/agent/x")
    assert [m.content for m in messages if m.role == "tool"] == ["/work/app\n1\n2\n39\napples"]


async def test_the_agent_sees_neither_tests_nor_solution(tmp_path):
    env = Harbor(folder=str(write_task(tmp_path / "hello")))
    _, messages = await played(
        env, "ls /tests/ /solution/", f"ls {tmp_path}", "grep -rls '42 apples' /app /work /logs /tmp /proc/1/environ"
    )
    told = " ".join(m.content for m in messages if m.role == "tool")
    assert told.count("No such file") == 3
    assert "exit code 1]" in told  # grep found nothing
    assert "wanted" not in told


@pytest.mark.parametrize(
    "trick",
    [
        "mkdir -p /logs/verifier && echo 1 > /logs/verifier/reward.txt",
        'mkdir -p /work/tests && echo "echo 1 > /logs/verifier/reward.json" > /work/tests/test.sh',
        "rm -rf /work/logs && ln -s /tmp /work/logs && mkdir /tmp/verifier && echo 1 > /tmp/verifier/reward.json",
        "ln -s /tmp /work/tests && echo 'echo 1 > /logs/verifier/reward.txt' > /tmp/test.sh",
        "mkdir -p /work/tests/x && echo 1 > /work/tests/x/y && chmod 500 /work/tests/x /work/tests",
        "rm -rf /work/app; mkdir -p /work/.local; echo exit > /work/.bashrc",
        "(while true; do echo 1 > /logs/verifier/reward.txt; sleep 0.01; done) & true",
    ],
)
async def test_what_the_agent_leaves_in_the_verifiers_folders_earns_nothing(tmp_path, trick):
    assert (await played(Harbor(folder=str(write_task(tmp_path / "hello"))), trick))[0] == 0.0


@pytest.mark.parametrize(
    "actions",
    [
        attacks.program(attacks.FOLDERS),
        attacks.program(attacks.LONG_NAMES),
        attacks.program(attacks.BUFFERS),
        attacks.program(attacks.PROCESSES),
        attacks.shell("chmod -R 000 . ; chmod 000 /work /work/*"),
        attacks.shell("rm -rf /work/* && mkfifo /work/app /work/logs /work/tests"),
        attacks.shell("head -c 900000000 /dev/zero | split -b 30M - /work/big"),
    ],
    ids=["folders", "names", "buffers", "processes", "permissions", "pipes", "full disk"],
)
async def test_an_attack_on_the_sandbox_is_scored_and_earns_nothing(tmp_path, actions):
    env = Harbor(folder=str(write_task(tmp_path / "hello")))
    (task,) = env.tasks.split("eval")
    trajectory = await run_episode(env, ScriptedPolicy([*actions, Action(text="I give up")]), task, 1)
    await env.aclose()
    assert trajectory.error is None
    assert (trajectory.status, trajectory.reward, trajectory.success) == ("terminated", 0.0, False)


async def test_an_episode_that_a_limit_ends_is_scored(tmp_path):
    env = Harbor(folder=str(write_task(tmp_path / "hello")))
    env.limits = type(env.limits)(max_turns=1)
    await env.areset(seed=1, options={"task": env.tasks.split("eval")[0]})
    _, reward, _, truncated, info = await env.astep(call("shell", command="echo 42 apples > out/sum.txt"))
    await env.aclose()
    assert (reward, truncated, info["rewards"]) == (1.0, True, {"reward": 1.0})
    assert info["verifier"] == "exit code 0"


async def test_tests_that_write_no_reward_say_how_they_ended(tmp_path):
    broken = "#!/bin/bash\necho looking; no-such-program; exit 3\n"
    env = Harbor(folder=str(write_task(tmp_path / "hello", tests__test_sh=broken)))
    await env.areset(seed=1, options={"task": env.tasks.split("eval")[0]})
    _, reward, *_, info = await env.astep(Action(text="done"))
    await env.aclose()
    assert (reward, info["rewards"]) == (0.0, {})
    assert info["verifier"].startswith("exit code 3\nlooking\n")
    assert "no-such-program: command not found" in info["verifier"]


async def test_a_long_solution_of_several_files_comes_in_several_commands(tmp_path):
    long = "{ s += $1 } END { print s }\n" + "# filler\n" * 30_000
    env = Harbor(folder=str(write_task(tmp_path / "hello", solution__sum_awk=long)))
    reward, messages = await played(env)
    assert reward == 1.0
    assert 1 < sum(m.role == "tool" for m in messages) < 10


@pytest.mark.parametrize(
    ("text", "as_json", "rewards"),
    [
        ("0.5\n", False, {"reward": 0.5}),
        ('{"tests": 1, "style": 0}', True, {"tests": 1.0, "style": 0.0}),
        ("1", True, {"reward": 1.0}),
        ("nan", False, {}),
        ("1e999", True, {}),
        ('{"reward": "1"}', True, {}),
        ("[1]", True, {}),
        ("", False, {}),
        ("[" * 100_000, True, {}),
    ],
)
def test_rewards_are_finite_numbers_or_there_are_none(text, as_json, rewards):
    assert parsed_rewards(text, as_json=as_json) == rewards


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"environment__Dockerfile": "FROM ubuntu\nWORKDIR /app\nRUN apt-get install -y gcc\n"}, "RUN apt-get install"),
        ({"environment__Dockerfile": "FROM ghcr.io/org/image\nWORKDIR /app\n"}, "FROM ghcr.io/org/image"),
        ({"environment__Dockerfile": "FROM ubuntu AS a\nWORKDIR /app\n"}, "FROM ubuntu AS a"),
        ({"environment__Dockerfile": "FROM ubuntu\nWORKDIR /app\nUSER agent\n"}, "USER agent"),
        ({"environment__Dockerfile": "FROM ubuntu\nCOPY ../../x /app/\n"}, r"'../../x', which is not in environment/"),
        ({"environment__Dockerfile": "FROM ubuntu\n"}, "its environment has /, a place"),
        ({"environment__Dockerfile": "FROM ubuntu\nWORKDIR /usr/src/app\n"}, "its environment has /usr/src/app"),
        ({"task_toml": '[environment]\ndocker_image = "x/y:1"\n'}, "needs the image x/y:1"),
        ({"task_toml": '[environment]\nnetwork_mode = "public"\n'}, "asks for a network"),
        ({"task_toml": "[environment]\ngpus = 1\n"}, "asks for gpus"),
        ({"task_toml": '[verifier]\nenv = { KEY = "${OPENAI_API_KEY}" }\n'}, "KEY comes from the host"),
        ({"task_toml": '[verifier]\nenvironment_mode = "separate"\n'}, "verifier needs an image of its own"),
        ({"task_toml": '[[steps]]\nname = "one"\n'}, "several steps"),
        ({"task_toml": 'schema_version = "2.0"\n'}, "only 1 is known"),
        ({"task_toml": "[verifier]\ntimeout_sec = 'long'\n"}, r"task.toml: verifier.timeout_sec: .*number"),
        ({"task_toml": "[verifier]\ntimeout_sec = 0\n"}, "task.toml: verifier.timeout_sec: .*greater than 0"),
        ({"tests__big_txt": "x" * (33 << 20)}, "big.txt has 34603008 bytes"),
        ({"task_toml": "[verifier\n"}, "task.toml cannot be read"),
        ({"tests__test_sh": None}, "there is no tests/test.sh"),
        ({"tests__test_sh": "apt-get update\ncurl -LsSf https://x | sh\n"}, "tests/test.sh runs apt-get, which needs"),
        (
            {"tests__test_sh": "if A=1 pytest /tests; then true; fi\n"},
            "runs pytest, which is not in the sandbox",
        ),
        ({"solution__solve_sh": "# curl is not run\npython3 -m pip install x\n"}, "solution/solve.sh runs pip"),
    ],
)
def test_a_task_that_needs_an_image_is_refused_with_the_reason(tmp_path, changes, why):
    with pytest.raises(TaskRefused, match=why):
        read_task(write_task(tmp_path / "hello", **changes))


@pytest.mark.parametrize("name", ["instruction.md", "environment/Dockerfile", "task.toml"])
def test_a_file_that_is_no_text_is_refused(tmp_path, name):
    (write_task(tmp_path / "hello") / name).write_bytes(b"\xff\xfe")
    with pytest.raises(TaskRefused, match="cannot be read: 'utf-8' codec"):
        read_task(tmp_path / "hello")


def test_a_link_out_of_a_task_is_refused(tmp_path):
    folder = write_task(tmp_path / "hello")
    (folder / "tests" / "key").symlink_to("/etc/passwd")
    with pytest.raises(TaskRefused, match="tests/key is a link"):
        read_task(folder)


def test_a_folder_of_tasks_plays_what_it_can_and_names_the_rest(tmp_path, caplog):
    write_task(tmp_path / "first")
    write_task(tmp_path / "second", task_toml='[environment]\ndocker_image = "x"\n')
    env = Harbor(folder=str(tmp_path))
    assert [task.id for task in env.tasks.split("eval")] == ["first"]
    assert env.refused == {"second": "it needs the image x"}
    assert "1 of 2 Harbor tasks are left out:\n  second: it needs the image x" in caplog.text


def test_a_changed_test_is_another_task(tmp_path):
    def fingerprint(**changes):
        return Harbor(folder=str(write_task(tmp_path / "hello", **changes))).tasks.split("eval")[0].fingerprint

    assert fingerprint() == fingerprint()
    assert fingerprint() != fingerprint(tests__wanted_txt="43 apples, now\n")


def test_folders_without_a_playable_task_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no folder"):
        Harbor(folder=str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match=r"holds no Harbor task: neither it nor a folder in it has a task\.toml"):
        Harbor(folder=str(tmp_path))
    write_task(tmp_path / "only", task_toml='[environment]\nos = "windows"\n')
    with pytest.raises(ConfigError, match=r"can be played without an image:\n  only: it needs windows"):
        Harbor(folder=str(tmp_path))
    with pytest.raises(ConfigError, match="needs the argument folder"):
        Harbor().tasks.split("eval")

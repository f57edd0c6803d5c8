"""Each planted defect is found under its code; sound environments raise no alarm."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

import agentrl
from agentrl.env.base import Limits
from agentrl.env.check import check_env, hidden_inputs
from agentrl.env.check.report import CheckReport, Finding, worst_first
from agentrl.env.registry import env_ids, make
from agentrl.env.tasks import Tasks
from agentrl.env.tool_env import ToolEnv
from agentrl.errors import EnvNotFound

PLANTED = Path(__file__).with_name("planted.py")

DEFECTS = [
    ("NondeterministicUnseeded", "nondeterministic", "error"),
    ("NondeterministicSetOrder", "nondeterministic", "error"),
    ("NondeterministicHash", "nondeterministic", "error"),
    ("ClockInTool", "clock", "error"),
    ("ClockDate", "clock", "error"),
    ("GlobalRngRandom", "global-rng", "error"),
    ("GlobalRngNumpy", "global-rng", "error"),
    ("GlobalRngUuid", "global-rng", "error"),
    ("GlobalRngEntropy", "global-rng", "error"),
    ("SharedStateList", "shared-state", "error"),
    ("SharedStateModule", "shared-state", "error"),
    ("SharedStateNeighbour", "shared-state", "error"),
    ("AnswerInPrompt", "answer-in-prompt", "error"),
    ("AnswerInPromptSystem", "answer-in-prompt", "error"),
    ("AnswerInPromptSomewhere", "answer-in-prompt", "warning"),
    ("RewardForNothing", "reward-for-nothing", "error"),
    ("RewardForNothingBonus", "reward-for-nothing", "error"),
    ("OracleBelow1", "oracle-below-1", "error"),
    ("OracleBelow1Truncated", "oracle-below-1", "error"),
    ("OracleFails", "oracle-fails", "error"),
    ("InfoNotJson", "info-not-json", "error"),
    ("InfoNotJsonReset", "info-not-json", "error"),
    ("BadReward", "bad-reward", "error"),
    ("ToolRaises", "tool-raises", "error"),
    ("ToolRaisesOnText", "tool-raises", "error"),
    ("ToolReturnsOddThing", "tool-raises", "error"),
    ("ToolFaults", "tool-faults", "warning"),
    ("ToolHangsInline", "tool-hangs", "error"),
    ("ToolHangsAsync", "tool-hangs", "error"),
    ("ToolHangsInThread", "tool-hangs", "error"),
    ("ToolSlow", "tool-slow", "advice"),
    ("ToolUndocumented", "tool-undocumented", "warning"),
    ("NeverEnds", "never-ends", "error"),
    ("NeverEndsTalking", "never-ends", "error"),
    ("BadSpaceDict", "bad-space", "error"),
    ("BadSpaceAssistant", "bad-space", "error"),
    ("BadMask", "bad-mask", "error"),
    ("RenderRaises", "render", "error"),
    ("RenderReturnsNothing", "render", "error"),
    ("TasksOverlap", "tasks", "error"),
    ("TasksNotJson", "tasks", "error"),
    ("ForkDiverges", "fork-diverges", "error"),
    ("ForkFails", "fork-fails", "error"),
    ("Gymnasium", "gymnasium", "error"),
    ("ResetFails", "reset-fails", "error"),
    ("CannotMake", "cannot-make", "error"),
    ("Hangs", "hangs", "error"),
    ("Raises", "raises", "error"),
    ("Misspelt", "raises", "error"),
    ("NoEvalSplit", "no-eval-split", "advice"),
    ("TasksDifferUnseeded", "tasks-differ", "error"),
    ("TasksDifferSetOrder", "tasks-differ", "error"),
    ("TasksDifferGenerator", "tasks-differ", "error"),
    ("ToolRaisesOnNul", "tool-raises", "error"),
    ("ToolRaisesOnLargeIntegers", "tool-raises", "error"),
    ("ToolRaisesLater", "tool-raises", "error"),
    ("ToolRaisesExit", "tool-raises", "error"),
    ("ToolFaultsNetwork", "tool-faults", "warning"),
    ("ToolFaultsOnSome", "tool-faults", "error"),
    ("RaisesExit", "raises", "error"),
    ("RaisesExitInStep", "raises", "error"),
    ("CannotMakeExit", "cannot-make", "error"),
    ("OracleFailsExit", "oracle-fails", "error"),
    ("HangsInScore", "hangs", "error"),
    ("HangsInAsyncScore", "hangs", "error"),
    ("HangsInAsyncStart", "hangs", "error"),
]


def report_on(name: str) -> CheckReport:
    hangs, hashes = "Hangs" in name, name.startswith(("Nondeterministic", "Sound", "TasksDiffer"))
    return check_env(f"{PLANTED}:{name}", tasks=3, timeout_s=1.0 if hangs else 10.0, processes=hashes)


@pytest.mark.parametrize(("name", "code", "severity"), DEFECTS, ids=[name for name, _, _ in DEFECTS])
def test_a_planted_defect_is_found(name, code, severity):
    report = report_on(name)
    found = [finding for finding in report.findings if finding.code == code]
    assert [finding.severity for finding in found][:1] == [severity], report.to_text()
    assert report.ok == all(finding.severity != "error" for finding in report.findings)
    assert all(finding.fix and finding.problem for finding in report.findings)


@pytest.mark.parametrize("name", ["Sound", "SoundAsync", "SoundNumpy", "BareEnv"])
def test_a_sound_environment_raises_no_alarm(name):
    report = report_on(name)
    assert report.findings == (), report.to_text()
    assert report.ok
    assert len(report.checks) == 14


@pytest.mark.parametrize("id", [id for id in env_ids() if id.startswith("agentrl/")])
def test_a_bundled_environment_raises_no_alarm(id):
    report = check_env(id, tasks=3)
    assert report.findings == (), report.to_text()


def test_the_finding_names_the_place_and_the_culprit():
    assert "planted.py:" in _problem("ClockInTool", "clock")
    assert "time.time" in _problem("ClockInTool", "clock")
    assert "SharedStateList.seen" in _problem("SharedStateList", "shared-state")
    assert "COUNTER" in _problem("SharedStateModule", "shared-state")
    assert "'scale': 0" in _problem("ToolRaises", "tool-raises")
    assert "ZeroDivisionError" in _problem("ToolRaises", "tool-raises")
    assert "lock" in _problem("ForkFails", "fork-fails")


def _problem(name: str, code: str) -> str:
    return next(finding.problem for finding in report_on(name).findings if finding.code == code)


def test_a_hang_is_found_with_its_line():
    assert "planted.py:" in _problem("HangsInScore", "hangs")
    assert "score did not return within 0.8 s" in _problem("HangsInAsyncScore", "hangs")


def test_a_hang_does_not_keep_the_program_from_ending():
    before = set(threading.enumerate())
    report_on("HangsInScore")
    left = [thread for thread in threading.enumerate() if thread not in before]
    assert left
    assert all(thread.daemon for thread in left)


def test_tasks_of_a_class_that_no_other_process_can_make_are_made_again_here():
    class Drawn(ToolEnv):
        tasks = Tasks.generate(lambda rng: {"n": np.random.default_rng().integers(10**9).item()}, train=4, eval=2)

        def start(self, task):
            return "Say the secret."

        def score(self, answer):
            return float(answer == f"secret {self.task.data['n']}")

    report = check_env(Drawn, tasks=2)
    assert "tasks-differ" in report.codes, report.to_text()
    assert not report.ok


def test_a_missing_oracle_is_advice_and_no_error():
    class Plain(ToolEnv):
        tasks = Tasks.of(train=[{"n": 1}, {"n": 2}], eval=[{"n": 3}])

        def start(self, task):
            return "Say the secret."

        def respond(self, text):
            return None

        def score(self, answer):
            return float(answer == f"secret {self.task.data['n']}")

    report = check_env(Plain, tasks=2)
    assert report.ok, report.to_text()
    assert report.codes == {"no-oracle"}


@pytest.mark.parametrize("max_turns", [1, 2])
def test_an_environment_without_tools_is_pointed_out_unless_one_answer_is_the_whole_episode(max_turns):
    class Asks(ToolEnv):
        tasks = Tasks.of(train=[{"n": 1}, {"n": 2}], eval=[{"n": 3}])
        limits = Limits(max_turns=max_turns)

        def start(self, task):
            return f"What is {task.data['n']} + 1?"

        def score(self, answer):
            return float(answer == str(self.task.data["n"] + 1))

    report = check_env(Asks, tasks=2)
    assert report.ok, report.to_text()
    assert ("no-tools" in report.codes) is (max_turns != 1)


def test_an_instance_is_checked_with_its_own_limits_and_left_alone():
    env = make("agentrl/Guess-v0")
    observation, _ = env.reset(seed=1)
    env.limits = Limits(max_turns=1)
    report = check_env(env, tasks=2)
    assert "oracle-below-1" in report.codes
    assert env.step("nothing")[3] is True
    assert observation


def test_an_unknown_id_and_bad_arguments():
    with pytest.raises(EnvNotFound, match="agentrl/Shop-v0"):
        check_env("agentrl/Shp-v0")
    with pytest.raises(ValueError, match="tasks must be 1"):
        check_env("agentrl/Shop-v0", tasks=0)


def test_the_report_reads_as_text_and_as_json():
    bad = Finding("clock", "error", "time.time is called", "count turns")
    hint = Finding("tool-slow", "advice", "slow", "thread")
    report = CheckReport("my/Env-v0", worst_first([hint, bad, bad]), ("a", "b"))
    assert report.to_text() == (
        "my/Env-v0: not ok (2 checks; 1 error, 1 advice)\n\n"
        "error [clock] time.time is called\n  fix: count turns\n\n"
        "advice [tool-slow] slow\n  fix: thread"
    )
    record = json.loads(report.to_json())
    assert record["ok"] is False
    assert [finding["code"] for finding in record["findings"]] == ["clock", "tool-slow"]
    assert CheckReport("x", (hint,), ()).ok


def test_an_empty_first_split_is_named():
    class Empty(ToolEnv):
        """Nothing to train on."""

        tasks = Tasks.of(train=[], eval=[{"n": 1}])

        def start(self, task):
            return "Hello."

        def score(self, answer):
            return 0.0

    report = check_env(Empty, processes=False)
    assert [finding for finding in report.findings if finding.code == "tasks" and "'train' is empty" in finding.problem]


def test_its_own_code_is_told_from_an_authors():
    assert Path(agentrl.__file__).parent == Path(hidden_inputs._OURS)

"""The audit finds each planted flaw, says where it is, and has nothing to say of sound benchmarks."""

from __future__ import annotations

import asyncio
import json
import multiprocessing

import pytest

from agentrl.bench.audit import audit
from agentrl.bench.audit.audit import CHECKS
from agentrl.bench.audit.reach import is_answerlike, shows
from agentrl.env import registry
from agentrl.errors import EnvFault, TaskError
from tests.bench.audit.planted import PLANTED, PaysNaN, PaysSilenceOnSomeTasks, Sound
from tests.bench.audit.planted_in_suites import (
    PLANTED_IN_SUITES,
    AsksByOnePattern,
    CallsWhatTheRequestNames,
    OracleDrawsItsWay,
    RefusesShippedSolutions,
    SkipsAPart,
)
from tests.bench.audit.table import ALL, NAMES, environment


@pytest.mark.parametrize(
    ("env", "kind"), [*PLANTED.items(), *PLANTED_IN_SUITES.items()], ids=lambda value: getattr(value, "__name__", value)
)
def test_a_planted_flaw_is_found_and_its_evidence_is_shown(env, kind):
    report = audit(env)
    flaw = next((flaw for flaw in report.flaws if flaw.kind == kind), None)
    assert flaw is not None, report.to_text()
    assert flaw.severity in ("error", "warning")
    assert flaw.evidence
    assert flaw.fix
    assert kind in report.to_text()


def test_the_table_names_every_planted_flaw_and_every_kind_once():
    named = [environment(name) for names in NAMES.values() for name in names]
    assert len(named) == len(set(named)) >= 30
    assert set(named) == set(ALL)
    asked = (
        *(
            "do nothing",
            "echo",
            "random tools",
            "refuse",
            "longest answer",
            "answer copied from the prompt",
            "judge-talk",
        ),
        *("early exit", "overwritten files", "reward in reach", "gold in reach", "score of an untouched world"),
        *("skipped checks", "empty checks", "verifier that differs between two calls", "oracle below 1"),
        *("overlap by content", "overlap by near-copy", "tasks that nothing passes", "prompt or tool text"),
        "episodes that do not reproduce",
    )
    assert [part for part in asked if not any(part in wrong for wrong in NAMES)] == []


def test_a_sound_benchmark_has_no_flaw():
    report = audit(Sound)
    assert report.flaws == ()
    assert report.ok
    assert len(report.checks) == len(CHECKS)
    assert report.panel["oracle"].success == 1
    assert max(earned.success for name, earned in report.panel.items() if name != "oracle") == 0


@pytest.mark.parametrize(
    ("env", "kind"),
    [
        (CallsWhatTheRequestNames, "answer-in-prompt"),
        (AsksByOnePattern, "splits-overlap"),
        (OracleDrawsItsWay, "does-not-reproduce"),
    ],
)
def test_what_is_right_is_no_flaw(env, kind):
    report = audit(env)
    assert report.panel["oracle"].success == 1
    assert kind not in report.kinds


@pytest.mark.parametrize(
    ("env", "kind"), [(RefusesShippedSolutions, "shipped-solution-refused"), (SkipsAPart, "skipped-check")]
)
def test_the_tasks_where_a_suite_is_changed_are_named_exactly(env, kind):
    flaw = next(flaw for flaw in audit(env, num_tasks=None).flaws if flaw.kind == kind)
    tasks = registry.make(f"{env.__module__}:{env.__name__}").tasks.split("eval")
    assert list(flaw.tasks) == [task.id for task in tasks if task.data["left"] % 4 == 0]
    assert flaw.tasks


def test_every_kind_of_flaw_that_is_planted_is_an_error_where_it_gives_success_for_nothing():
    assert not audit(PaysNaN).ok


def test_the_tasks_that_pass_on_nothing_are_named_exactly():
    report = audit(PaysSilenceOnSomeTasks, num_tasks=None)
    tasks = registry.make(f"{__name__.rpartition('.')[0]}.planted:PaysSilenceOnSomeTasks").tasks.split("eval")
    free = {task.id for task in tasks if task.data["left"] % 3 == 0}
    flaw = next(flaw for flaw in report.flaws if flaw.kind == "pays-for-silence")
    assert free
    assert set(flaw.tasks) == free
    assert flaw.tried == len(tasks)


def test_the_json_form_holds_the_transcript():
    record = json.loads(json.dumps(audit(PaysNaN).to_json()))
    flaw = next(flaw for flaw in record["flaws"] if flaw["kind"] == "pays-for-no-answer")
    assert flaw["evidence"][0]["messages"][-1]["content"] == "NaN"
    assert flaw["evidence"][0]["success"] is True


def test_some_checks_alone_play_no_more_than_they_need():
    report = audit(PaysSilenceOnSomeTasks, checks=["splits", "untouched"])
    assert report.checks == ("untouched", "splits")
    assert report.kinds == {"untouched-world-scores"}
    assert report.panel == {}
    with pytest.raises(ValueError, match=r"no check 'untuched'\. Did you mean 'untouched'"):
        audit(Sound, checks=["untuched"])


def test_an_unknown_split_and_no_tasks_are_refused():
    with pytest.raises(TaskError, match="no split 'test'"):
        audit(Sound, split="test")
    with pytest.raises(ValueError, match="num_tasks must be at least 1"):
        audit(Sound, num_tasks=0)


@pytest.mark.parametrize(
    ("text", "gold", "found"),
    [
        ('{"expected": 714}', "714", True),
        ("Answer: 714", "714", True),
        ("the correct answer is 714.", "714", True),
        ("== answer.txt\n714", "714", True),
        ("solution = 'abc'", "abc", True),
        ("Answer: 7140", "714", False),
        ("the price is 714", "714", False),
        ("Say the answer. 12 rows, 714 columns", "714", False),
    ],
)
def test_what_names_an_answer_as_such(text, gold, found):
    assert shows(text, gold) is found


@pytest.mark.parametrize(
    ("name", "found"),
    [("answer", True), ("expected_output", True), ("gold", True), ("left", False), ("targeted", False)],
)
def test_fields_that_are_named_as_answers(name, found):
    assert is_answerlike(name) is found


class Forks(Sound):
    """Its verifier works in a process of its own, which `fork` makes and `os._exit` ends."""

    def score(self, answer):
        child = multiprocessing.get_context("fork").Process(target=int)
        child.start()
        child.join()
        return super().score(answer) if child.exitcode == 0 else 0.0


def test_a_process_that_the_verifier_forks_ends_as_it_should():
    report = audit(Forks, num_tasks=2)
    assert report.panel["oracle"].success == 1
    assert "runs-answers-here" not in report.kinds


class NeedsAServer(Sound):
    """Its verifier asks a server that is not there, unless there is an answer."""

    def score(self, answer):
        if answer is None:
            raise ConnectionRefusedError("no server on port 9")
        return super().score(answer)


class Hangs(Sound):
    """Its verifier waits for ever where there is no answer."""

    hook_timeout_s = 0.01

    async def score(self, answer):
        if answer is None:
            await asyncio.sleep(60)
        return super().score(answer)


class Refuses(Sound):
    """Its verifier takes answers alone, which is its author's right."""

    def score(self, answer):
        return super().score(answer.strip())


@pytest.mark.parametrize(("env", "cause"), [(NeedsAServer, "network: "), (Hangs, "author: score did not return")])
def test_an_untouched_world_that_cannot_be_scored_is_reported(env, cause):
    flaws = {flaw.kind: flaw for flaw in audit(env, num_tasks=2).flaws}
    assert flaws["untouched-world-not-scored"].evidence[0].seen.startswith(cause)


def test_a_verifier_may_refuse_to_score_a_world_without_an_answer():
    assert "untouched-world-not-scored" not in audit(Refuses, num_tasks=2).kinds


class Misnames(Sound):
    """Its verifier names a part of the reward that has no weight."""

    def score(self, answer):
        return {"rewrad": 0.0}


def test_a_bug_of_the_verifier_is_raised():
    with pytest.raises((KeyError, EnvFault), match="rewrad"):
        audit(Misnames, num_tasks=2)

"""The planted flaws by what they are: which of them each kind of flaw stands for, and whether the audit finds them.

python -m tests.bench.audit.table      # audits all of them and the bundled environments, and prints two tables
"""

from __future__ import annotations

import sys

from agentrl.bench.audit import audit
from agentrl.env.tool_env import ToolEnv
from tests.bench.audit import planted, planted_in_suites
from tests.bench.audit.planted import PLANTED
from tests.bench.audit.planted_in_suites import PLANTED_IN_SUITES

ALL: dict[type[ToolEnv], str] = {**PLANTED, **PLANTED_IN_SUITES}
NAMES: dict[str, tuple[str, ...]] = {
    "do nothing": ("PaysSilence", "PaysSilenceOnSomeTasks", "PaysAPartForNothing"),
    "echo": ("PaysEcho",),
    "random tools": ("PaysRandomTools", "PaysRepeating"),
    "refuse": ("PaysRefusal",),
    "longest answer": ("PaysLongAnswers",),
    "answer copied from the prompt": ("PaysCopying",),
    "judge-talk": ("PaysJudgeTalk",),
    "early exit": ("PaysDone", "PaysOneTool"),
    "overwritten files": ("PaysOverwrittenTests", "PaysOverwrittenExpectation"),
    "reward in reach of the agent": ("PaysFarming", "RunsAnswersHere", "PaysEarlyExit", "PaysEqualObjects"),
    "gold in reach of the agent's tools": ("AnswerInAFile", "AnswerInAReply"),
    "score of an untouched world": ("UntouchedWorldScores",),
    "skipped checks that count as passed": ("SkipsAPart", "PaysSkippedTests"),
    "empty checks that count as passed": ("EmptyChecksPass", "VacuousCheck"),
    "verifier that differs between two calls": ("VerifierDrawsLots", "VerifierReadsTheClock", "HidesItsWorld"),
    "verifier that raises": ("RaisesOnAnswers",),
    "verifier that takes anything": (
        *("PaysNaN", "PaysRegularExpressions", "PaysWhatCannotBeRead"),
        *("PaysOneCharacter", "PaysAConstant"),
    ),
    "oracle below 1": ("OracleFails", "RefusesShippedSolutions"),
    "train and eval overlap by content": ("SplitsShareTasks", "SplitsShareWorlds"),
    "train and eval overlap by near-copy": ("SplitsShareNearCopies", "SplitsShareLongNearCopies"),
    "tasks that nothing passes": ("NothingPasses",),
    "prompt or tool text that gives the answer away": ("NamesTheAnswer", "NamesTheWholeCall", "NamesAValueOfTheAnswer"),
    "episodes that do not reproduce": ("DoesNotReproduce",),
}
"""What can be wrong with a benchmark, and the planted environments that have it."""


def environment(name: str) -> type[ToolEnv]:
    """A planted environment by its name."""
    found: type[ToolEnv] = getattr(planted, name, None) or getattr(planted_in_suites, name)
    return found


def main() -> None:
    from agentrl.env import registry

    print("| what is wrong | planted | reported as | found |\n|---|---|---|---|")
    found_all = 0
    for wrong, names in NAMES.items():
        kinds = [ALL[environment(name)] for name in names]
        found = sum(kind in audit(environment(name)).kinds for name, kind in zip(names, kinds, strict=True))
        found_all += found
        told = ", ".join(f"`{kind}`" for kind in dict.fromkeys(kinds))
        print(f"| {wrong} | {', '.join(names)} | {told} | {found} of {len(names)} |", flush=True)
    print(f"| **all** | | | **{found_all} of {len(ALL)}** |\n")
    if "--planted" in sys.argv:
        return
    print("| bundled environment | tasks | checks | flaws |\n|---|---|---|---|")
    for env in sorted(name for name in registry.env_ids() if name.startswith("agentrl/")):
        report = audit(env, num_tasks=10)
        print(f"| {env} | {report.num_tasks} | {len(report.checks)} | {len(report.flaws)} |", flush=True)


if __name__ == "__main__":
    main()

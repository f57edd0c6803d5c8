"""The audit raises no alarm on bundled environments."""

from __future__ import annotations

import pytest

from agentrl.bench.audit import audit

PLAIN = (
    *("agentrl/Calculator-v0", "agentrl/FrozenLake-v0", "agentrl/Guess-v0", "agentrl/Instructions-v0"),
    *("agentrl/LoanDesk-v0", "agentrl/Logic-v0"),
    *("agentrl/NumericPrediction-v0", "agentrl/NumericQueries-v0", "agentrl/Search-v0", "agentrl/Shop-v0"),
)
SANDBOXED = (*("agentrl/BugFix-v0", "agentrl/DataAnalysis-v0", "agentrl/FunctionSynthesis-v0", "agentrl/Terminal-v0"),)


@pytest.mark.parametrize(
    ("env", "num_tasks"),
    [*((env, 6) for env in PLAIN), *(pytest.param(env, 2, marks=pytest.mark.sandbox) for env in SANDBOXED)],
)
def test_no_alarm_on_a_bundled_environment(env, num_tasks):
    report = audit(env, num_tasks=num_tasks)
    assert report.flaws == (), report.to_text()
    assert report.panel["oracle"].success == 1

"""Marks what needs a sandbox, by its place or by the environment it is about."""

from __future__ import annotations

import pytest

SANDBOXED = ("agentrl/BugFix-v0", "agentrl/DataAnalysis-v0", "agentrl/FunctionSynthesis-v0", "agentrl/Terminal-v0")
PLACES = ("tests/sandbox/", "tests/environments/test_code_", "tests/tools/test_sandbox_tools")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith(PLACES) or any(name in item.nodeid for name in SANDBOXED):
            item.add_marker(pytest.mark.sandbox)

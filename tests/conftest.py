"""Marks the tests that start sandboxes, and makes sure that tests of Ctrl-C get it."""

from __future__ import annotations

import signal
import sys

import pytest

SANDBOXED = ("agentrl/BugFix-v0", "agentrl/DataAnalysis-v0", "agentrl/FunctionSynthesis-v0", "agentrl/Terminal-v0")
PLACES = ("tests/sandbox/", "tests/sandboxed/", "tests/environments/test_code_", "tests/tools/test_code_results")
WITHOUT = (
    *("tests/sandbox/test_allow_list", "tests/sandbox/test_layers", "tests/sandbox/test_stream"),
    "tests/sandbox/egress/test_proxy",
)
"""Tests in those places that start no sandbox."""


def pytest_configure() -> None:
    # A shell without job control starts its background jobs with SIGINT ignored, and children inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith(WITHOUT):
            continue
        if item.nodeid.startswith(PLACES) or any(name in item.nodeid for name in SANDBOXED):
            item.add_marker(pytest.mark.sandbox)
            if sys.platform != "linux":
                item.add_marker(pytest.mark.skip("bubblewrap runs on Linux alone"))

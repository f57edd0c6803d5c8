"""Marks the tests that start sandboxes; lets tests of Ctrl-C get it; keeps the log of one test from muting another."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no failure: no test has a limit of time.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

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


@pytest.fixture(autouse=True)
def log_filters_end_with_the_test() -> Iterator[None]:
    """The command line puts filters on the root's handlers, which pytest keeps for all its tests."""
    yield
    for handler in logging.getLogger().handlers:
        for added in [one for one in handler.filters if type(one).__module__.startswith("agentrl.")]:
            handler.removeFilter(added)

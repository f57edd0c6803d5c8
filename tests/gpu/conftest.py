"""The tests of a GPU: `pytest -m gpu tests/gpu`. AGENTRL_TEST_DEVICE=cpu tries the tests themselves without one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.learning.fixtures import one_thread

__all__ = ["one_thread"]
DEVICE = os.environ.get("AGENTRL_TEST_DEVICE", "cuda")


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.gpu)

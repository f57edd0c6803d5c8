"""What the tests of samplers share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def importable_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samplers import the environments of the tests, wherever pytest was started."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))

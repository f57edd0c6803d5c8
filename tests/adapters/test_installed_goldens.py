"""The recordings of TextArena and MiniWoB++, made anew by the packages as they are installed."""

from __future__ import annotations

import json

import pytest

from tests.adapters.goldens.record import FOLDER, RECORDERS
from tests.adapters.test_installed import needs

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("suite", [pytest.param(suite, marks=needs(suite)) for suite in sorted(RECORDERS)])
def test_the_package_says_what_was_recorded(suite):
    made = json.loads(json.dumps(RECORDERS[suite]()))
    kept = json.loads((FOLDER / f"{suite}.json").read_text(encoding="utf-8"))
    assert [(one["task"], one["how"], one["reward"]) for one in made] == [
        (one["task"], one["how"], one["reward"]) for one in kept
    ]
    if suite == "textarena":
        assert made == kept

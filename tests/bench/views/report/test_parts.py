"""Parts of the page: what changed in a state, what is packed, and what a forest plot draws."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest

from agentrl.bench.estimates import Estimate
from agentrl.bench.views.report.forest import ForestRow, forest_plot
from agentrl.bench.views.report.packed import Packer, inert, shortened, unpacked
from agentrl.bench.views.report.state_diff import state_diff


def test_a_state_that_stays_has_no_difference() -> None:
    assert state_diff("a=1, b=2", "a=1, b=2") == []


def test_the_pieces_that_changed_are_named() -> None:
    assert state_diff("a=1, b=2\nc=3", "a=1, b=4\nc=3") == [
        ("=", "a=1,"),
        ("-", " b=2\n"),
        ("+", " b=4\n"),
        ("=", "c=3"),
    ]
    assert state_diff("", "new") == [("+", "new")]


def packed(*episodes: object) -> str:
    packer = Packer([])
    packer.add(episodes)
    return packer.text()


def test_what_is_packed_comes_back_without_what_steers_a_terminal() -> None:
    value = {"text": "é\x1b[31m", "list": [1, 2.5, None, True], "not known": math.nan}
    inner = {"text": "é\\u001b[31m", "list": [1, 2.5, None, True], "not known": None}
    assert unpacked(packed(value, value)) == {"runs": [], "episodes": [inner, inner]}
    assert unpacked(packed()) == {"runs": [], "episodes": []}
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", packed(value))
    assert packed(value) == packed(value)
    assert inert(("a", {"\u202e": 1})) == ["a", {"\\u202e": 1}]


def test_half_a_character_can_be_packed() -> None:
    assert unpacked(packed({"text": "\ud83d!"}))["episodes"][0]["text"].endswith("!")


@pytest.mark.parametrize("most", [10, 400])
def test_a_long_text_keeps_its_ends(most: int) -> None:
    found = shortened("a" * 500 + "z" * 500, most)
    assert found.startswith("a" * (most * 3 // 4))
    assert found.endswith("z" * (most // 4))
    assert f"{1000 - most:,} characters" in found
    assert shortened("short", 10) == "short"


def test_a_forest_plot_is_well_formed_and_to_scale() -> None:
    rows = [
        ForestRow("<a> & b", Estimate(0.5, 0.25, 0.75, 4), "50%"),
        ForestRow("unknown", Estimate(math.nan, -math.inf, math.inf, 0), "-"),
        ForestRow("no interval", Estimate(-0.5, math.nan, math.nan, 1), "-50%", "main"),
    ]
    svg = ET.fromstring(forest_plot(rows, title="a < b", standalone=True))
    space = "{http://www.w3.org/2000/svg}"
    groups = svg.findall(f"{space}g")
    points = [float(group.find(f"{space}circle").get("cx")) for group in (groups[0], groups[2])]
    bar = groups[0].find(f"{space}line")
    low, high = float(bar.get("x1")), float(bar.get("x2"))
    assert points[0] == pytest.approx((low + high) / 2, abs=0.2)
    assert points[0] - points[1] == pytest.approx(2 * (high - low), abs=0.3)
    assert groups[1].find(f"{space}circle") is None
    assert groups[0].find(f"{space}text").text == "<a> & b"


def test_nothing_known_is_no_plot() -> None:
    assert forest_plot([ForestRow("a", Estimate(math.nan, 0, 1, 0), "-")], title="x") == ""

"""Charts: round ticks, short numbers, and pixels that stand for the data."""

from __future__ import annotations

import math

import pytest

from agentrl.bench.views.charts import Series, line_chart, nice_ticks, short_number


@pytest.mark.parametrize(
    ("low", "high", "count", "ticks"),
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-0.02, 1.02, 5, [0, 0.5, 1.0]),
        (0, 60, 8, [0, 10, 20, 30, 40, 50, 60]),
        (1, 3, 4, [1, 1.5, 2, 2.5, 3]),
        (-3e-5, 3e-5, 3, [-2e-5, 0, 2e-5]),
    ],
)
def test_ticks_are_round(low: float, high: float, count: int, ticks: list[float]) -> None:
    assert nice_ticks(low, high, count) == pytest.approx(ticks)


def test_short_numbers() -> None:
    assert [short_number(x) for x in (0, 0.25, 1200.0, 1.5e-5, 123456.0)] == [
        "0",
        "0.25",
        "1200",
        "1.5e-05",
        "1.23e+05",
    ]


def test_chart_maps_data_to_pixels() -> None:
    svg = line_chart([Series("a", "train", [0, 10], [0.0, 1.0], [0.0, 0.5], [0.5, 1.0])], title="t", y_range=(0, 1))
    # 310 x 170 with margins 44, 14, 12, 28: the area is x 44..296, y 142 (0) .. 12 (1).
    assert '<polyline points="44.0,142.0 296.0,12.0"/>' in svg
    assert '<polygon class="band" points="44.0,77.0 296.0,12.0 296.0,77.0 44.0,142.0"/>' in svg


def test_chart_leaves_out_what_is_not_finite() -> None:
    assert line_chart([Series("a", "train", [0, 1], [math.nan, math.inf])], title="t") == ""
    svg = line_chart([Series("a", "eval", [3, 4], [1.0, math.nan], style="points")], title="t")
    assert svg.count("<circle") == 1

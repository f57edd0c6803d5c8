"""Line charts as inline SVG text: no JavaScript library, no network. Owns drawing, not what is drawn."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

Style = Literal["line", "points"]
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 14.0, 12.0, 28.0


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        name: for the legend.
        tone: CSS class that colours it: `train`, `eval` or `plain`.
        xs, ys: points; those that are not finite are left out.
        lows, highs: bounds of an interval at each point, or empty.
        style: `line` draws the interval as a band, `points` as error bars.
    """

    name: str
    tone: str
    xs: Sequence[float]
    ys: Sequence[float]
    lows: Sequence[float] = ()
    highs: Sequence[float] = ()
    style: Style = "line"

    def points(self) -> list[tuple[float, float, float, float]]:
        """(x, y, low, high) of every finite point; without an interval low = high = y."""
        lows, highs = self.lows or self.ys, self.highs or self.ys
        rows = zip(self.xs, self.ys, lows, highs, strict=True)
        return [(x, y, _or(low, y), _or(high, y)) for x, y, low, high in rows if math.isfinite(y)]


def _or(bound: float, value: float) -> float:
    return bound if math.isfinite(bound) else value


@dataclass(frozen=True)
class Frame:
    """The plotted area: data ranges, and pixels of the whole picture."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    width: float
    height: float

    def x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (value - low) / (high - low) * (self.width - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.height - _BOTTOM - (value - low) / (high - low) * (self.height - _TOP - _BOTTOM)


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    y_range: tuple[float, float] | None = None,
    x_range: tuple[float, float] | None = None,
    wide: bool = False,
) -> str:
    """An SVG chart with axes and intervals.

    Args:
        series: drawn in order, later ones on top.
        title: read out by screen readers.
        y_range, x_range: limits of the axes; the data's own by default. Ticks of the horizontal one are whole numbers
            unless its limits are given.
        wide: 660 x 280 pixels instead of 310 x 170.
    Returns: the `<svg>` element; empty where no series has a finite point.
    """
    points = [point for one in series for point in one.points()]
    if not points:
        return ""
    width, height = (660.0, 280.0) if wide else (310.0, 170.0)
    xs = [p[0] for p in points]
    ys = [value for p in points for value in p[1:]]
    frame = Frame(x_range or _padded(min(xs), max(xs), 0.0), y_range or _padded(min(ys), max(ys), 0.08), width, height)
    hover = [
        {"name": one.name, "points": [[x, y, lo, hi, round(frame.x(x), 1)] for x, y, lo, hi in one.points()]}
        for one in series
    ]
    return "".join(
        [
            f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}"',
            f' data-hover="{escape(json.dumps(hover))}">',
            *_axes(frame, 8 if wide else 4, 5 if wide else 3, whole=x_range is None),
            *(part for one in series for part in _draw(one, frame)),
            f'<line class="cursor" y1="{_TOP}" y2="{height - _BOTTOM:g}" visibility="hidden"/></svg>',
        ]
    )


def _padded(low: float, high: float, share: float) -> tuple[float, float]:
    if high - low < 1e-12:
        half = abs(low) * 0.1 or 0.5
        return low - half, high + half
    pad = (high - low) * share
    return low - pad, high + pad


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def short_number(value: float) -> str:
    """At most four significant digits: 0.25, 1200, 1.5e-05."""
    if value == 0:
        return "0"
    return f"{value:.3g}" if abs(value) < 1e-3 or abs(value) >= 1e5 else f"{value:.4g}"


def _axes(frame: Frame, ticks_x: int, ticks_y: int, *, whole: bool) -> Iterable[str]:
    right, bottom = frame.width - _RIGHT, frame.height - _BOTTOM
    for tick in nice_ticks(*frame.y_range, ticks_y):
        y = frame.y(tick)
        yield f'<line class="grid" x1="{_LEFT}" x2="{right:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="tick" x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{short_number(tick)}</text>'
    for tick in nice_ticks(*frame.x_range, ticks_x):
        if tick == int(tick) or not whole:
            x, y = frame.x(tick), bottom + 17
            yield f'<text class="tick" x="{x:.1f}" y="{y:g}" text-anchor="middle">{_tick(tick)}</text>'
    yield f'<line class="axis" x1="{_LEFT}" x2="{right:g}" y1="{bottom:g}" y2="{bottom:g}"/>'


def _tick(value: float) -> str:
    return str(int(value)) if value == int(value) else short_number(value)


def _draw(series: Series, frame: Frame) -> Iterable[str]:
    points = [(frame.x(x), frame.y(y), frame.y(low), frame.y(high)) for x, y, low, high in series.points()]
    with_interval = bool(series.lows)
    yield f'<g class="series {escape(series.tone)}">'
    if with_interval and series.style == "line" and len(points) > 1:
        upper = [f"{x:.1f},{high:.1f}" for x, _, _, high in points]
        lower = [f"{x:.1f},{low:.1f}" for x, _, low, _ in reversed(points)]
        yield f'<polygon class="band" points="{" ".join(upper + lower)}"/>'
    yield f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)}"/>'
    if series.style == "points" or len(points) == 1:
        for x, y, low, high in points:
            if with_interval:
                yield f'<line class="bar" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
    yield "</g>"

"""A forest plot as SVG text: estimates under each other, each with its interval. Owns drawing, not what is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from agentrl.bench.estimates import Estimate
from agentrl.bench.views.charts import nice_ticks, short_number
from agentrl.safe_json import for_terminal

_WIDTH, _EDGE = 640.0, 12.0
_ROW, _TOP, _BOTTOM = 44.0, 4.0, 26.0
_MOST_LABEL = 44
_MARGIN = 16.0  # of a file of its own
STANDALONE = """<style>
svg { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; background: #ffffff; }
text { fill: #17202c; paint-order: stroke; stroke: #ffffff; stroke-width: 5px; }
.tick { fill: #5d6b7c; font-size: 12px; } .grid { stroke: #e2e7ed; } .zero { stroke: #5d6b7c; }
.row line { stroke: #5d6b7c; stroke-width: 2.5; stroke-linecap: round; } .row circle { fill: #5d6b7c; }
.row.main line { stroke: #d9622b; } .row.main circle { fill: #d9622b; } .row.main text { font-weight: 650; }
@media (prefers-color-scheme: dark) {
  svg { background: #10151c; } text { fill: #e7edf4; stroke: #10151c; }
  .tick { fill: #97a5b6; } .grid { stroke: #2a3542; } .zero { stroke: #97a5b6; }
  .row line { stroke: #97a5b6; } .row circle { fill: #97a5b6; }
  .row.main line { stroke: #ff9a62; } .row.main circle { fill: #ff9a62; }
}
</style>"""


@dataclass(frozen=True)
class ForestRow:
    """One line of the plot.

    Attributes:
        label: what was estimated.
        estimate: drawn as a point with its interval; one that is not known is drawn as text alone.
        text: the estimate in words.
        tone: CSS class of the row; `main` is emphasised.
    """

    label: str
    estimate: Estimate
    text: str
    tone: str = ""


def forest_plot(rows: Sequence[ForestRow], *, title: str, percent: bool = True, standalone: bool = False) -> str:
    """An SVG picture; empty without a row that has a finite mean.

    Args:
        title: read out by screen readers.
        percent: the axis is in hundredths.
        standalone: with colours of its own, for a file; a page's style colours it otherwise.
    """
    known = [row.estimate for row in rows if math.isfinite(row.estimate.mean)]
    bounds = [x for one in known for x in (one.mean, *one.ci95) if math.isfinite(x)]
    if not bounds:
        return ""
    low, high = min(*bounds, 0.0), max(*bounds, 0.0)
    beyond = 0.05 * (high - low or 1.0)
    axis = _Axis(low - beyond if low < 0 else low, high + beyond)
    height = _TOP + _ROW * len(rows) + _BOTTOM
    name = escape(for_terminal(title))
    pad = _MARGIN if standalone else 0.0
    box = f"{-pad:g} {-pad:g} {_WIDTH + 2 * pad:g} {height + 2 * pad:g}"
    head = f'<svg class="forest" viewBox="{box}" role="img" aria-label="{name}"'
    head += ' xmlns="http://www.w3.org/2000/svg">' if standalone else ">"
    parts = [head, STANDALONE if standalone else "", f"<title>{name}</title>", *_ticks(axis, height, percent=percent)]
    parts += [_row(row, axis, _TOP + _ROW * index) for index, row in enumerate(rows)]
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float

    def x(self, value: float) -> float:
        inside = _WIDTH - 2 * _EDGE
        return _EDGE + (min(max(value, self.low), self.high) - self.low) / (self.high - self.low) * inside


def _ticks(axis: _Axis, height: float, *, percent: bool) -> Iterator[str]:
    bottom = height - _BOTTOM
    for tick in nice_ticks(axis.low, axis.high, 5):
        x = axis.x(tick)
        kind = "zero" if abs(tick) < 1e-12 else "grid"
        shown = f"{short_number(round(100 * tick, 6))}%" if percent else short_number(tick)
        yield f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP:g}" y2="{bottom:g}"/>'
        yield f'<text class="tick" x="{x:.1f}" y="{bottom + 17:g}" text-anchor="middle">{shown}</text>'


def _row(row: ForestRow, axis: _Axis, y: float) -> str:
    label, text = for_terminal(row.label), escape(for_terminal(row.text))
    short = escape(label if len(label) <= _MOST_LABEL else label[: _MOST_LABEL - 1] + "…")
    parts = [f'<g class="row {escape(row.tone)}"><title>{escape(label)}: {text}</title>']
    parts.append(f'<text x="0" y="{y + 15:.1f}">{short}</text>')
    estimate, bar = row.estimate, y + 30
    if math.isfinite(estimate.mean):
        if math.isfinite(estimate.low) and math.isfinite(estimate.high):
            ends = f'x1="{axis.x(estimate.low):.1f}" x2="{axis.x(estimate.high):.1f}"'
            parts.append(f'<line {ends} y1="{bar:.1f}" y2="{bar:.1f}"/>')
        parts.append(f'<circle cx="{axis.x(estimate.mean):.1f}" cy="{bar:.1f}" r="5"/>')
    parts.append(f'<text x="{_WIDTH:g}" y="{y + 15:.1f}" text-anchor="end">{text}</text></g>')
    return "".join(parts)


def known_estimate(record: Any) -> Estimate | None:
    """An estimate of a summary's JSON; None where it holds none."""
    if not isinstance(record, Mapping) or record.get("mean") is None:
        return None
    low, high = (math.nan if bound is None else bound for bound in record["ci95"])
    return Estimate(record["mean"], low, high, record["n"])

"""Reliability diagrams as inline SVG text: accuracy over confidence, with the diagonal of perfect calibration."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from agentrl.learning.confidence.calibration import Bin

_SIZE, _EDGE = 120.0, 8.0


def reliability_diagram(bars: Sequence[Bin], *, title: str) -> str:
    """A bar for each bin that has answers, as high as their accuracy and darker the more of all answers it has.

    A mark in each bar stands at the mean confidence: a bar that ends below its mark is overconfident.

    Args:
        bars: of `reliability`.
        title: read out by screen readers.
    Returns: the `<svg>` element; empty where there is no answer.
    """
    total = sum(bar.count for bar in bars)
    if not total:
        return ""
    inside = _SIZE - 2 * _EDGE
    parts = [
        f'<svg class="reliability" viewBox="0 0 {_SIZE:g} {_SIZE:g}" role="img" aria-label="{escape(title)}">',
        f'<rect class="frame" x="{_EDGE:g}" y="{_EDGE:g}" width="{inside:g}" height="{inside:g}"/>',
        *(_bar(bar, bar.count / total) for bar in bars if bar.count),
        f'<line class="ideal" x1="{_x(0):g}" y1="{_y(0):g}" x2="{_x(1):g}" y2="{_y(1):g}"/></svg>',
    ]
    return "".join(parts)


def _bar(bar: Bin, share: float) -> str:
    low, high, top, mark = _x(bar.low), _x(bar.high), _y(bar.accuracy), _y(bar.confidence)
    told = f"{bar.count} answers, confidence {bar.confidence:.2f}, accuracy {bar.accuracy:.2f}"
    return (
        f'<rect class="bar" x="{low:.1f}" y="{top:.1f}" width="{high - low:.1f}" height="{_y(0) - top:.1f}" '
        f'fill-opacity="{0.25 + 0.75 * share:.2f}"><title>{told}</title></rect>'
        f'<line class="mark" x1="{low:.1f}" x2="{high:.1f}" y1="{mark:.1f}" y2="{mark:.1f}"/>'
    )


def _x(share: float) -> float:
    return _EDGE + share * (_SIZE - 2 * _EDGE)


def _y(share: float) -> float:
    return _SIZE - _x(share)

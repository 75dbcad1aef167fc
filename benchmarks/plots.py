"""Plots as SVG text: bars of ratios, and lines on logarithmic axes. Free of what is plotted, and of libraries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

INK, PALE, GOOD, BAD, PLAIN = "#24292f", "#d0d7de", "#2da44e", "#cf222e", "#6e7781"
COLORS = ("#0969da", "#bf3989", "#1a7f37", "#9a6700", "#8250df", "#cf222e", "#57606a")
STYLE = f'font-family="system-ui, sans-serif" font-size="13" fill="{INK}"'


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar: its value with the middle half of the rounds, and the line that it must not cross or must reach."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    target: float | None = None
    reached: bool | None = None


def bars(title: str, values: Sequence[Bar]) -> str:
    """Return horizontal bars, one to a line, from zero."""
    left, width, line, top = 430, 360, 30, 44
    most = max([1.0, *(max(bar.value, bar.high or 0, bar.target or 0) for bar in values)]) * 1.1
    parts = []
    for index, bar in enumerate(values):
        y = top + index * line
        color = PLAIN if bar.reached is None else GOOD if bar.reached else BAD
        length = bar.value / most * width
        parts.append(f'<text x="{left - 10}" y="{y + 14}" text-anchor="end">{escape(bar.label)}</text>')
        parts.append(f'<rect x="{left}" y="{y + 2}" width="{length:.1f}" height="16" fill="{color}"/>')
        end = length
        if bar.low is not None and bar.high is not None:
            low, high = (value / most * width + left for value in (bar.low, bar.high))
            parts.append(f'<path d="M{low:.1f} {y + 10}H{high:.1f}" stroke="{INK}" stroke-width="1.5"/>')
            end = max(end, high - left)
        if bar.target is not None:
            at = left + bar.target / most * width
            parts.append(f'<path d="M{at:.1f} {y - 2}V{y + 22}" stroke="{INK}" stroke-dasharray="3 2"/>')
            end = max(end, at - left)
        parts.append(f'<text x="{left + end + 8:.1f}" y="{y + 14}">{bar.value:.3g}</text>')
    one = left + width / most
    height = top + len(values) * line + 34
    axis = f'<path d="M{one:.1f} {top - 6}V{height - 32}" stroke="{PALE}"/>'
    key = "dashes: what must be reached · thin line: the middle half of the rounds · grey: to compare with"
    note = f'<text x="{left - 10}" y="{height - 10}" text-anchor="middle" font-size="11" fill="{PLAIN}">{key}</text>'
    return _svg(title, left + width + 70, height, axis + "".join(parts) + note)


def lines(title: str, x_name: str, y_name: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Return one line for each series, on two logarithmic axes; points without a positive value are left out."""
    left, top, width, height = 70, 44, 520, 340
    drawn = {name: [(x, y) for x, y in points if x > 0 and y > 0] for name, points in series.items()}
    every = [point for points in drawn.values() for point in points]
    x_low, x_high = (math.log10(f(x for x, _ in every)) for f in (min, max))
    y_low, y_high = math.floor(math.log10(min(y for _, y in every))), math.ceil(math.log10(max(y for _, y in every)))

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (math.log10(x) - x_low) / (x_high - x_low) * width,
            top + height - (math.log10(y) - y_low) / (y_high - y_low) * height,
        )

    parts = []
    for power in range(y_low, y_high + 1):
        _, y = at(every[0][0], 10.0**power)
        parts.append(f'<path d="M{left} {y:.1f}H{left + width}" stroke="{PALE}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" font-size="11">{_power(power)}</text>')
    for power in range(math.ceil(x_low), math.floor(x_high) + 1):
        x, _ = at(10.0**power, every[0][1])
        parts.append(f'<path d="M{x:.1f} {top}V{top + height}" stroke="{PALE}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{top + height + 16}" text-anchor="middle" font-size="11">{_power(power)}</text>'
        )
    for index, (name, points) in enumerate(drawn.items()):
        color, y = COLORS[index % len(COLORS)], top + 12 + index * 22
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.append(f'<path d="M{left + width + 16} {y - 4}h22" stroke="{color}" stroke-width="3"/>')
        parts.append(f'<text x="{left + width + 44}" y="{y}">{escape(name)}</text>')
    parts.append(
        f'<text x="{left + width / 2}" y="{top + height + 36}" text-anchor="middle">{escape(x_name)}</text>'
        f'<text x="{left}" y="{top - 8}" font-size="11">{escape(y_name)}</text>'
    )
    return _svg(title, left + width + 300, top + height + 50, "".join(parts))


def _power(power: int) -> str:
    if -3 <= power <= 3:
        return f"{10.0**power:g}"
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _svg(title: str, width: float, height: float, content: str) -> str:
    head = f'<text x="12" y="22" font-size="15" font-weight="600">{escape(title)}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}" {STYLE}>'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{head}{content}</svg>\n'
    )

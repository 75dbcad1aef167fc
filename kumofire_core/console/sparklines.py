"""Small charts beside a row: what happened in each minute, without axes or words. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

BAR, GAP = 2, 1
HEIGHT = 24
LEAST = 1.5
"""How high the bar of a minute is, at least, in which something happened."""


def sparkline(values: Sequence[int], failed: Sequence[int], *, label: str) -> Markup:
    """Return an SVG with a bar for each of ``values``, the oldest first. ``failed`` is the part of each that failed.

    Bars are as high as they are in proportion to the largest. ``label`` says what they show to those who don't see it.
    """
    largest = max(values, default=0)
    good, bad = [], []
    for index, (value, wrong) in enumerate(zip(values, failed, strict=True)):
        if value <= 0:
            continue
        height = max(LEAST, HEIGHT * value / largest)
        wrong_height = min(height, max(LEAST, height * wrong / value)) if wrong > 0 else 0.0
        left = index * (BAR + GAP)
        if wrong_height:
            bad.append(_bar(left, HEIGHT, wrong_height))
        if height > wrong_height:
            good.append(_bar(left, HEIGHT - wrong_height, height - wrong_height))
    width = max(1, len(values) * (BAR + GAP) - GAP)
    return Markup(
        '<svg class="spark" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        'aria-label="{label}"><path class="base" d="M0 {base}h{width}"/><path class="good" d="{good}"/>'
        '<path class="failed" d="{bad}"/></svg>'
    ).format(width=width, height=HEIGHT, base=HEIGHT - 0.5, label=label, good="".join(good), bad="".join(bad))


def _bar(left: float, bottom: float, height: float) -> str:
    return f"M{left:g} {bottom:.4g}v{-height:.4g}h{BAR}v{height:.4g}z"

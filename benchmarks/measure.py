"""How things are measured: case beside case in the same round, and ratios of medians. Free of what is measured.

A machine's speed changes from second to second, and all cases of a round meet the same seconds. So the ratio is taken
within each round, and its median over the rounds is what is reported, with the middle half of them.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

Samples = Mapping[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One ratio, or one exact count, with what it must reach. Without a value it was not measured."""

    what: str
    value: float | None
    low: float | None = None
    high: float | None = None
    at_most: float | None = None
    at_least: float | None = None
    detail: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the value is where it must be; ``None`` where it was not measured or is there to compare with."""
        if self.value is None or (self.at_most is None and self.at_least is None):
            return None
        low_enough = self.at_most is None or self.value <= self.at_most
        return low_enough and (self.at_least is None or self.value >= self.at_least)

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON can hold it."""
        return asdict(self)


def rounds(cases: Mapping[str, Callable[[], float]], count: int, *, warm: bool = False) -> Samples:
    """Run every case once a round, each round in another order; return what the cases returned.

    Each is run once before, and not counted, unless all are ``warm``.
    """
    names = list(cases)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for name in () if warm else names:
        cases[name]()
    for index in range(count):
        turn = index % len(names)
        order = names[turn:] + names[:turn]
        for name in order if index % 2 else reversed(order):
            gc.collect()
            samples[name].append(cases[name]())
    return samples


def cpu_ms(work: Callable[[], object], times: int) -> Callable[[], float]:
    """Return a case: the CPU milliseconds of this process for one of ``times`` things that ``work`` does."""

    def case() -> float:
        begun = time.process_time()
        work()
        return (time.process_time() - begun) * 1000 / times

    return case


def wall_ms(work: Callable[[], object], times: int = 1) -> Callable[[], float]:
    """Return a case: the milliseconds that pass for one of ``times`` things that ``work`` does."""

    def case() -> float:
        begun = time.perf_counter()
        work()
        return (time.perf_counter() - begun) * 1000 / times

    return case


def ratio(samples: Samples, of: str, over: str, what: str, *, unit: str = "ms", **targets: Any) -> Row:
    """Return the row for the ratio of two cases."""
    each = sorted(mine / other for mine, other in zip(samples[of], samples[over], strict=True))
    low, middle, high = statistics.quantiles(each, n=4) if len(each) > 1 else each * 3
    shown = " and ".join(f"{statistics.median(samples[name]):.3g}" for name in (of, over))
    return Row(what=what, value=middle, low=low, high=high, detail=f"{shown} {unit}", **targets)

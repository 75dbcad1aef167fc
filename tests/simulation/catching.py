"""Finds a history that catches a deliberate mistake, in this process or in several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from tests.simulation.history import LIMITS_FROM, Choices
from tests.simulation.many import simulate_for_good
from tests.simulation.mutations import MUTATIONS
from tests.simulation.processes import play

MOST_TRIES = 10_000
"""How many histories are tried for a deliberate mistake."""

Caught = tuple[str, int | None, str]
"""A mistake, a seed that catches it, and the invariant that it violates."""


def caught(name: str, most: int = MOST_TRIES) -> Caught:
    """Return what catches a mistake: its recorded seed, or else the first one that does."""
    mutation = MUTATIONS[name]
    first = mutation.seed // LIMITS_FROM * LIMITS_FROM
    with mutation.made():
        for seed in (mutation.seed, *range(first, first + most)):
            violation = play(Choices(seed))[1]
            if violation is not None:
                return name, seed, violation.name
    return name, None, ""


def caught_all(names: Sequence[str], workers: int, most: int = MOST_TRIES) -> Iterator[Caught]:
    """Yield what catches each mistake."""
    if workers == 1:
        yield from map(partial(caught, most=most), names)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=simulate_for_good) as pool:
        yield from pool.map(partial(caught, most=most), names)

"""Many histories, played by one process or by several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import get_context
from time import monotonic, process_time

from tests.simulation.history import Choices
from tests.simulation.processes import play, simulated_engine
from tests.simulation.world import Count

CHUNK = 200
"""How many histories a worker plays before it says what it has found."""


@dataclass
class Played:
    """What came of some histories."""

    histories: int = 0
    steps: int = 0
    seconds: float = 0.0
    """Time of one core."""
    counts: Counter[Count] = field(default_factory=Counter)
    violations: list[tuple[int, str, str]] = field(default_factory=list)
    """Seed, name and text of each."""

    def add(self, other: Played) -> None:
        """Add what came of others."""
        self.histories += other.histories
        self.steps += other.steps
        self.seconds += other.seconds
        self.counts.update(other.counts)
        self.violations += other.violations


def chunks_of(first: int, runs: int | None, seconds: float | None) -> Iterator[range]:
    """Yield the seeds to play, some at a time, until there were enough of them or the time is over."""
    ends, seed = None if seconds is None else monotonic() + seconds, first
    while (runs is None or seed < first + runs) and (ends is None or monotonic() < ends):
        until = seed + CHUNK if runs is None else min(seed + CHUNK, first + runs)
        yield range(seed, until)
        seed = until


def play_all(chunks: Iterator[range], workers: int) -> Iterator[Played]:
    """Play histories in this process or in others, and yield what came of some at a time, in any order."""
    if workers == 1:
        yield from map(play_some, chunks)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=simulate_for_good) as pool:
        under_way: set[Future[Played]] = set()
        for chunk in chunks:
            under_way.add(pool.submit(play_some, chunk))
            if len(under_way) > 2 * workers:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                yield from (each.result() for each in done)
        yield from (each.result() for each in under_way)


_for_good = ExitStack()


def simulate_for_good() -> None:
    """Let this process be a simulated one until it ends."""
    _for_good.enter_context(simulated_engine())


def play_some(seeds: Sequence[int]) -> Played:
    """Play histories, and say what came of them; the engine must be a simulated one."""
    played, begun = Played(), process_time()
    for seed in seeds:
        history, violation = play(Choices(seed), played.counts)
        played.histories += 1
        played.steps += history.world.steps
        if violation is not None:
            played.violations.append((seed, violation.name, str(violation)))
    played.seconds = process_time() - begun
    return played

"""Play histories, or replay one: ``python -m tests.simulation [--seed N] [--runs N | --seconds S] [--shrink]``.

With a seed alone its history is told; with ``--shrink`` the plainest one that violates the same invariant. With a
number or a time, histories are played from the seed on. The first violation ends it, with its seed and a shrunk
history, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Sequence
from time import monotonic, process_time

from tests.simulation.history import Choices, Replay, Violation
from tests.simulation.mutations import MUTATIONS
from tests.simulation.processes import Play, play, simulated_engine
from tests.simulation.shrink import shrink
from tests.simulation.world import Count

MOST_TRIES = 5_000
"""How many histories are tried for a deliberate mistake."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="the first seed, or the only one")
    parser.add_argument("--runs", type=int, help="how many histories to play")
    parser.add_argument("--seconds", type=float, help="how long to play, where --runs says nothing; else, to shrink")
    parser.add_argument("--shrink", action="store_true", help="shrink the history of a single seed")
    parser.add_argument("--keep-going", action="store_true", help="count violations, and show the first of each name")
    parser.add_argument("--mutations", action="store_true", help="find the first seed that catches each mistake")
    given = parser.parse_args(arguments)
    shrink_seconds = 20.0 if given.seconds is None else given.seconds
    with simulated_engine():
        if given.mutations:
            return _catch_all()
        if given.seed is not None and given.runs is None and (given.seconds is None or given.shrink):
            return _replay(given.seed, shrink_seconds if given.shrink else 0.0)
        if given.runs is not None or given.seconds is None:
            return _play_many(given.seed or 0, given.runs or 2_000, None, shrink_seconds, keep_going=given.keep_going)
        return _play_many(given.seed or 0, None, given.seconds, 20.0, keep_going=given.keep_going)


def _replay(seed: int, shrink_seconds: float) -> int:
    history, violation = play(Choices(seed), record=True)
    if violation is not None and shrink_seconds:
        history = shrunk(history, violation, seconds=shrink_seconds)
    _tell(history)
    print(history.world.violation or violation or "no violation")
    return int(violation is not None)


def _play_many(seed: int, runs: int | None, seconds: float | None, shrink_seconds: float, *, keep_going: bool) -> int:
    begun, counts, steps, played, found = process_time(), Counter[Count](), 0, 0, Counter[str]()
    ends = None if seconds is None else monotonic() + seconds
    for number in itertools.count(seed) if runs is None else range(seed, seed + runs):
        if ends is not None and monotonic() >= ends:
            break
        history, violation = play(Choices(number), counts)
        steps += history.world.steps
        played += 1
        if violation is None:
            continue
        found[violation.name] += 1
        if keep_going:
            if found[violation.name] == 1:
                print(f"seed {number}: {violation}", flush=True)
            continue
        print(f"seed {number} violates an invariant; the shrunk history:\n", flush=True)
        plainest = shrunk(history, violation, seconds=shrink_seconds)
        _tell(plainest)
        print(f"\n{plainest.world.violation or violation}\nreplay: make simulate SEED={number}")
        return 1
    taken = process_time() - begun
    for name, count in sorted(
        (each if isinstance(each, str) else " -> ".join(each), count) for each, count in counts.items()
    ):
        print(f"{count:12,}  {name}")
    print(
        f"{played:,} histories from seed {seed}, {steps / max(played, 1):.0f} steps each, {played / taken:,.0f} a "
        f"second of one core's time: {sum(found.values()) or 'no'} violation{'' if sum(found.values()) == 1 else 's'}"
    )
    for name, count in found.items():
        print(f"{count:12,}  {name}")
    return int(bool(found))


def _catch_all() -> int:
    """Print a row for each deliberate mistake: the first seed that catches it, and the invariant it violates."""
    missed = 0
    for name, mutation in MUTATIONS.items():
        with mutation.made():
            for seed in range(MOST_TRIES):
                violation = play(Choices(seed))[1]
                if violation is not None:
                    print(f"| {name} | {seed} | {violation.name} |", flush=True)
                    break
            else:
                missed += 1
                print(f"| {name} | - | not caught by {MOST_TRIES:,} histories |", flush=True)
    return int(bool(missed))


def shrunk(history: Play, violation: Violation, *, seconds: float) -> Play:
    """Return a recorded history, as plain as could be found, that violates the same invariant."""

    def still_fails(choices: list[int]) -> list[int] | None:
        played, again = play(Replay(choices))
        return played.choices.taken if again is not None and again.name == violation.name else None

    taken = shrink(history.choices.taken, still_fails, seconds=seconds)
    return play(Replay(taken), record=True)[0]


def _tell(history: Play) -> None:
    print(f"{history.variant}")
    for line in history.world.lines or ():
        print(line)


if __name__ == "__main__":
    raise SystemExit(main())

"""Play histories, or replay one: ``python -m tests.simulation [--seed N] [--runs N | --seconds S] [--workers N]``.

With a seed alone its history is told; with ``--shrink`` the plainest one that violates the same invariant. With a
number or a time, histories are played from the seed on, by as many processes as ``--workers`` says. The first violation
ends it, with its seed and a shrunk history, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from itertools import chain
from math import inf
from pathlib import Path

from tests.simulation import writes
from tests.simulation.catching import MOST_TRIES, caught_all
from tests.simulation.history import LIMITS_FROM, WORKERS_FROM, Choices, Replay, Violation
from tests.simulation.many import Played, chunks_of, play_all
from tests.simulation.mutations import MUTATIONS
from tests.simulation.processes import Play, play, simulated_engine
from tests.simulation.seeds import COVERING, SEEDS
from tests.simulation.shrink import shrink

SEEDS_FILE = Path(__file__).with_name("seeds.py")
DOCS = Path(__file__).parents[2] / "docs" / "simulation.md"
MISTAKES_HEAD = "| mistake | a seed that catches it | what it violates |\n|---|---|---|\n"
WRITES_HEAD = f"| write | {' | '.join(writes.OUTCOMES)} |\n|---|{'---:|' * len(writes.OUTCOMES)}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="the first seed, or the only one")
    parser.add_argument("--runs", type=_count, help="how many histories to play")
    parser.add_argument("--seconds", type=_seconds, help="how long to play, where --runs says nothing; else, to shrink")
    parser.add_argument("--workers", type=_workers, default=1, help="how many processes play; 0: one for each core")
    parser.add_argument("--shrink", action="store_true", help="shrink the history of a single seed")
    parser.add_argument("--keep-going", action="store_true", help="count violations, and show the first of each name")
    parser.add_argument("--mutations", action="store_true", help="find a seed that catches each deliberate mistake")
    parser.add_argument("--reseed", action="store_true", help="find them, and record them in code and documentation")
    parser.add_argument("--writes", action="store_true", help="count what becomes of each write, and record it")
    given = parser.parse_args(arguments)
    shrink_seconds = 20.0 if given.seconds is None else given.seconds
    with simulated_engine():
        if given.mutations or given.reseed:
            return _catch_all(given.workers or os.cpu_count() or 1, record=given.reseed)
        if (
            given.seed is not None
            and not given.writes
            and given.runs is None
            and (given.seconds is None or given.shrink)
        ):
            return _replay(given.seed, shrink_seconds if given.shrink else 0.0)
        if given.writes:
            return _count_writes(given.seed or 0, given.runs or 6_000)
        first, workers = given.seed or 0, given.workers or os.cpu_count() or 1
        if given.runs is None and given.seconds is not None:
            chunks, shrink_seconds = chunks_of(first, None, given.seconds), 20.0
        else:
            chunks = chunks_of(first, given.runs or 2_000, None)
        played = Played()
        for each in play_all(chunks, workers):
            played.add(each)
            if played.violations and not given.keep_going:
                return _tell_violation(min(played.violations)[0], shrink_seconds)
        _tell_counts(first, workers, played)
        return int(bool(played.violations))


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise ValueError(text)
    return count


def _seconds(text: str) -> float:
    if not 0 < (seconds := float(text)) < inf:
        raise ValueError(text)
    return seconds


def _workers(text: str) -> int:
    if not 0 <= (count := int(text)) <= 61:
        raise ValueError(text)
    return count


# argparse names them so
_count.__name__, _seconds.__name__ = "number of at least 1", "number of seconds above 0"
_workers.__name__ = "number of processes from 0 to 61"


def _replay(seed: int, shrink_seconds: float) -> int:
    history, violation = play(Choices(seed), record=True)
    if violation is not None and shrink_seconds:
        history = shrunk(history, violation, seconds=shrink_seconds)
    _tell(history)
    print(history.world.violation or violation or "no violation")
    return int(violation is not None)


def _tell_violation(seed: int, shrink_seconds: float) -> int:
    print(f"seed {seed} violates an invariant; the shrunk history:\n", flush=True)
    history, violation = play(Choices(seed))
    if violation is None:
        raise AssertionError(f"seed {seed} violated an invariant, and does not when it is played again")
    plainest = shrunk(history, violation, seconds=shrink_seconds)
    _tell(plainest)
    print(f"\n{plainest.world.violation or violation}\nreplay: make simulate SEED={seed}\n")
    return 1


def _tell_counts(first: int, workers: int, played: Played) -> None:
    for name, count in sorted(
        (each if isinstance(each, str) else " -> ".join(each), count) for each, count in played.counts.items()
    ):
        print(f"{count:12,}  {name}")
    found = len(played.violations)
    print(
        f"{played.histories:,} histories from seed {first}, {played.steps / max(played.histories, 1):.0f} steps each, "
        f"{played.histories / max(played.seconds, 1e-9):,.0f} a second of one core's time"
        f"{f' ({workers} workers)' if workers > 1 else ''}: {found or 'no'} violation{'' if found == 1 else 's'}"
    )
    shown = set[str]()
    for seed, name, text in sorted(played.violations):
        if name not in shown:
            shown.add(name)
            print(f"{sum(each[1] == name for each in played.violations):12,}  {name}; seed {seed}: {text}")


def _catch_all(workers: int, *, record: bool) -> int:
    """Print a row for each deliberate mistake: a seed that catches it, and the invariant it violates.

    The recorded seed is tried first, and all others from the first one on where it does not catch the mistake any more.
    """
    rows = dict[str, str]()
    found = dict[str, int]()
    for name, seed, violated in caught_all(list(MUTATIONS), workers):
        if seed is None:
            print(f"| {name} | - | not caught by {MOST_TRIES:,} histories |", flush=True)
            continue
        found[name] = seed
        rows[name] = f"| {name} | {seed} | {violated} |"
        print(rows[name], flush=True)
    if record:
        _record(found, COVERING)
        _write_table(MISTAKES_HEAD, [rows[name] for name in MUTATIONS if name in rows])
    return int(len(found) < len(MUTATIONS))


def _count_writes(first: int, runs: int) -> int:
    """Count what becomes of each write, and record that and the seeds that show all of it."""
    by_seed, seen = dict[int, writes.Seen](), writes.Seen()
    special = (range(origin + first, origin + first + runs // 20) for origin in (LIMITS_FROM, WORKERS_FROM))
    for seed in chain(range(first, first + runs), *special):
        by_seed[seed] = writes.seen_in([seed])
        seen.update(by_seed[seed])
    _record(SEEDS, writes.covering(by_seed))
    rows = writes.table_of(seen)
    _write_table(WRITES_HEAD, rows)
    print("\n".join(rows))
    return 0


def _record(seeds: dict[str, int], shown: list[int]) -> None:
    """Replace the recorded seeds."""
    head, _, _ = SEEDS_FILE.read_text().partition("SEEDS: dict")
    lines = [f"    {json.dumps(name)}: {seeds[name]:_},\n" for name in MUTATIONS if name in seeds]
    covering = [f"    {seed:_},\n" for seed in shown]
    SEEDS_FILE.write_text(
        f"{head}SEEDS: dict[str, int] = {{\n{''.join(lines)}}}\n\n"
        f"COVERING: list[int] = [\n{''.join(covering)}]\n"
        '"""Histories that have every write with each of its outcomes that was ever seen."""\n'
    )


def _write_table(head: str, rows: list[str]) -> None:
    """Replace a table in docs/simulation.md."""
    before, found, after = DOCS.read_text().partition(head)
    if not found:
        raise ValueError(f"{DOCS} has no table that begins with {head!r}")
    _, _, rest = after.partition("\n\n")
    DOCS.write_text(f"{before}{head}{chr(10).join(rows)}\n\n{rest}")


def shrunk(history: Play, violation: Violation, *, seconds: float) -> Play:
    """Return a recorded history, as plain as could be found, that violates the same invariant."""

    def still_fails(choices: list[int]) -> list[int] | None:
        played, again = play(Replay(choices, history.choices.what))
        return played.choices.taken if again is not None and again.name == violation.name else None

    taken = shrink(history.choices.taken, still_fails, seconds=seconds)
    return play(Replay(taken, history.choices.what), record=True)[0]


def _tell(history: Play) -> None:
    print(f"{history.variant}")
    for line in history.world.lines or ():
        print(line)


if __name__ == "__main__":
    raise SystemExit(main())

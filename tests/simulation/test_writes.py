"""Every write of the engine is made in the simulation, and meets faults there: the table of docs/simulation.md is true.

``python -m tests.simulation --writes`` counts anew.
"""

from __future__ import annotations

import pytest

from tests.simulation import writes
from tests.simulation.__main__ import DOCS, WRITES_HEAD
from tests.simulation.processes import simulated_engine
from tests.simulation.seeds import COVERING


@pytest.fixture(scope="module")
def seen() -> writes.Seen:
    with simulated_engine():
        return writes.seen_in(COVERING)


@pytest.fixture(scope="module")
def documented() -> dict[str, list[int]]:
    """Return how often each write came to each outcome when they were counted."""
    table = DOCS.read_text().partition(WRITES_HEAD)[2].partition("\n\n")[0]
    rows = [row.strip("| ").split(" | ") for row in table.splitlines()]
    return {name.strip("`"): [int(count.replace(",", "")) for count in counts] for name, *counts in rows}


def test_every_write_of_the_engine_is_made_in_the_simulation(seen: writes.Seen) -> None:
    of_engine = writes.writes_of_rules() | writes.writes_of_tables()
    assert of_engine - writes.names_of(seen) == writes.NOT_SIMULATED.keys()


def test_every_write_still_comes_to_each_outcome_that_was_counted(
    seen: writes.Seen, documented: dict[str, list[int]]
) -> None:
    counted = {
        (name, outcome)
        for name, counts in documented.items()
        for outcome, count in zip(writes.OUTCOMES, counts, strict=True)
        if count
    }
    assert counted
    assert counted - seen.keys() == set()

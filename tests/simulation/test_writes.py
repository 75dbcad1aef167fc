"""Every write of the engine is made in the simulation, and meets every fault there."""

from __future__ import annotations

import pytest

from tests.simulation import writes
from tests.simulation.processes import simulated_engine
from tests.simulation.seeds import COVERING

NEVER = {
    "try_batch": {writes.REFUSED},
}


@pytest.fixture(scope="module")
def seen() -> writes.Seen:
    with simulated_engine():
        return writes.seen_in(COVERING)


def test_every_write_of_the_engine_is_made_in_the_simulation(seen: writes.Seen) -> None:
    of_engine = writes.writes_of_rules() | writes.writes_of_tables()
    assert of_engine - writes.names_of(seen) == writes.NOT_SIMULATED.keys()

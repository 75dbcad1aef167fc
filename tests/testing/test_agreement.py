"""The tables in memory answer as other imitations of DynamoDB do, and as DynamoDB Local does, to what authors ask."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from kumofire_core.testing.dynamodb import MemoryDynamoDB
from tests.simulation.history import Choices
from tests.testing.requests_of_authors import TABLE, answer, requests


def differences(other: Any, *, seed: int, count: int) -> str | None:
    """Make requests of a new table of ``other`` and of one in memory; return the first that is answered otherwise."""
    name = f"orders-{uuid.uuid4().hex[:8]}"
    in_memory = MemoryDynamoDB(lambda: 0)
    for client in (other, in_memory):
        client.create_table(TableName=name, **TABLE)
    for operation, parameters in requests(Choices(seed), name, count):
        ours, theirs = answer(in_memory, operation, parameters), answer(other, operation, parameters)
        if ours != theirs:
            return f"{operation} {parameters}\n  in memory: {ours}\n  other:     {theirs}"
    return None


@pytest.mark.dynamodb_local
@pytest.mark.parametrize("seed", range(12))
def test_tables_of_authors_answer_as_dynamodb_local_does(dynamodb_local: Any, seed: int) -> None:
    assert differences(dynamodb_local, seed=seed, count=300) is None

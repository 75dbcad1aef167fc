"""Fixtures: a table and a queue for each test, and the shared emulators.

In the folders of ``IN_MEMORY_FOLDERS`` they are those of ``kumofire_core.testing``, which take an eighth of the time.
Elsewhere, for tests marked ``moto``, and with ``KUMOFIRE_TESTS_ON=moto`` in the environment they are moto's: what is
tested makes clients of its own there, or the same tests are to be judged by somebody else's code, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from moto import mock_aws

from kumofire_core import Jobs
from kumofire_core.engine import sqs_batch
from kumofire_core.testing.dynamodb import MemoryDynamoDB
from kumofire_core.testing.sqs import MemorySQS
from tests.builders import IN_MEMORY, Aws, Clock, make_aws, real_ms
from tests.emulators import dynamodb_local, ministack

__all__ = ["dynamodb_local", "ministack"]

FOLDER = Path(__file__).parent
IN_MEMORY_FOLDERS = ("console", "input", "runs", "schedules")


@pytest.fixture
def aws(request: pytest.FixtureRequest) -> Iterator[Aws]:
    """A table and a queue of this test's own, in the product's memory, or in moto."""
    here = request.path.relative_to(FOLDER).parts[0] in IN_MEMORY_FOLDERS
    if IN_MEMORY and here and request.node.get_closest_marker("moto") is None:
        yield make_aws(MemoryDynamoDB(real_ms), MemorySQS(real_ms))
        return
    with mock_aws():
        yield make_aws(_client("dynamodb"), _client("sqs"))


@pytest.fixture
def clock() -> Clock:
    """The clock of ``jobs``."""
    return Clock()


@pytest.fixture
def counts_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a batch wait until its counts are written, however slow the machine is that the test runs on."""
    monkeypatch.setattr(sqs_batch, "COUNT_SECONDS", 60.0)


@pytest.fixture
def jobs(aws: Aws, clock: Clock) -> Jobs:
    """A ``Jobs`` without any handler yet, whose batches run one record after the other."""
    return aws.jobs(clock=clock, concurrency=1)


@cache
def _client(service: str) -> Any:
    # Made once: a client costs more than all else that a test does. moto takes its requests while it is on.
    import boto3

    session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1")
    return session.client(service)

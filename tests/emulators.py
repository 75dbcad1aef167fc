"""Fixtures for tests that talk to an emulator. Import them where they are used, or once in ``conftest.py``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from examples.local_aws import LocalAws, local_aws


@pytest.fixture(scope="session")
def ministack() -> Iterator[LocalAws]:
    """A MiniStack for the whole session. Tests share it: give queues, tables and stacks names of their own."""
    with local_aws() as aws:
        yield aws


@pytest.fixture(scope="session")
def dynamodb_local() -> Any:
    """A client of the DynamoDB Local that ``make test-dynamodb-local`` runs. Its tables are the whole session's."""
    if "DYNAMODB_LOCAL_URL" not in os.environ:
        pytest.fail("DYNAMODB_LOCAL_URL names no DynamoDB Local: call `make test-dynamodb-local`")
    import boto3

    return boto3.client(
        "dynamodb",
        endpoint_url=os.environ["DYNAMODB_LOCAL_URL"],
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )

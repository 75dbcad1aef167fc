"""Fixtures for tests that talk to an emulator. Import them where they are used, or once in ``conftest.py``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from examples.local_aws import LocalAws, local_aws


@pytest.fixture(scope="session")
def ministack() -> Iterator[LocalAws]:
    """A MiniStack for the whole session. Tests share it: give queues, tables and stacks names of their own."""
    with local_aws() as aws:
        yield aws

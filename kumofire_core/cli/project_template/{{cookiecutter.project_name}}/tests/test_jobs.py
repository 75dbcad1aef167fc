"""What the jobs do. The fixture ``kumofire`` gives each test an AWS in this process's memory, without a network."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from handler.jobs import hello, jobs

if TYPE_CHECKING:
    from kumofire_core.testing import InProcessAWS


def test_hello_greets_by_name(kumofire: InProcessAWS) -> None:
    run_id = hello.create({"name": "Ada"})

    kumofire.drain()

    run = jobs.get_status(run_id)
    assert run is not None
    assert (run.status, run.output) == ("succeeded", {"greeting": "Hello, Ada!"})


def test_hello_without_a_name_is_tried_again_and_fails(kumofire: InProcessAWS) -> None:
    run_id = hello.create({})

    assert kumofire.drain().retried == 1  # the clock stands still, so the next attempt is not due yet
    kumofire.drain(until=timedelta(minutes=5))

    run = jobs.get_status(run_id)
    assert run is not None
    assert (run.status, run.failed_attempts, run.error_type) == ("failed", 5, "KeyError")


@pytest.mark.kumofire(chaos=True)
def test_hello_can_be_executed_twice(kumofire: InProcessAWS) -> None:
    """The worker dies after the handler's effect: a real effect would be there twice, unless the handler sees to it."""
    run = kumofire.drain_run(hello.create({"name": "Ada"}))

    assert (run.status, run.failed_attempts) == ("succeeded", 1)

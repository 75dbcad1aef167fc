"""What the jobs do: each test creates a run, lets it be executed, and looks at the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kumofire_core import Jobs


def test_hello_greets_by_name(jobs: Jobs, work: Callable[[], None]) -> None:
    run_id = jobs.create("hello", {"name": "Ada"})

    work()

    run = jobs.get_status(run_id)
    assert run is not None
    assert (run.status, run.output) == ("succeeded", {"greeting": "Hello, Ada!"})


def test_hello_without_a_name_is_tried_again_later(jobs: Jobs, work: Callable[[], None]) -> None:
    run_id = jobs.create("hello", {})

    work()

    run = jobs.get_status(run_id)
    assert run is not None
    assert (run.status, run.failed_attempts, run.error_type) == ("scheduled", 1, "KeyError")

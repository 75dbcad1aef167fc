"""What a person finds of a failure in the table and in the log: its causes too, within a bound."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from kumofire_core import JobContext, Jobs
from kumofire_core.model.error_text import MAX_ERROR_BYTES, error_causes, error_text
from tests.builders import Aws, message, raises


def a_chain(length: int, *, text: str = "") -> Exception:
    """Return an error that ends a chain of causes: ``1`` was caused by ``2``, and so on."""
    error: Exception | None = None
    for number in range(length, 0, -1):
        cause, error = error, ValueError(f"{number}{text}")
        error.__cause__ = cause
    assert error is not None
    return error


def failure_of(jobs: Jobs, error: BaseException) -> str:
    """Return what is stored of an attempt that raised ``error``."""
    jobs.handler("email")(raises(error))
    run_id = jobs.create("email")
    jobs.consume(message(run_id))
    return str(jobs.get_status(run_id).last_error)


def test_an_error_without_a_cause_is_one_line(jobs: Jobs):
    assert failure_of(jobs, ValueError("boom")) == "ValueError: boom"


def test_the_cause_of_an_error_is_stored(jobs: Jobs):
    @jobs.handler("email")
    def email(ctx: JobContext) -> None:
        try:
            raise ConnectionError("refused")
        except ConnectionError as error:
            raise ValueError("no mail") from error

    run_id = jobs.create("email")
    jobs.consume(message(run_id))

    assert jobs.get_status(run_id).last_error == "ValueError: no mail\n  caused by ConnectionError: refused"


def test_what_was_being_handled_is_stored_unless_the_handler_says_from_none():
    def told(hidden: bool) -> str:
        try:
            try:
                raise KeyError("to")
            except KeyError:
                if hidden:
                    raise ValueError("no mail") from None
                raise ValueError("no mail")  # noqa: B904
        except ValueError as error:
            return error_text(error)

    assert told(hidden=False) == "ValueError: no mail\n  while handling KeyError: 'to'"
    assert told(hidden=True) == "ValueError: no mail"


def test_the_leaves_of_a_group_are_stored_with_their_causes(jobs: Jobs):
    leaf = ValueError("b")
    leaf.__cause__ = OSError("disk")
    group = ExceptionGroup("of tasks", [KeyError("a"), ExceptionGroup("inner", [leaf, ZeroDivisionError()])])
    group.__cause__ = ConnectionError("first")

    assert failure_of(jobs, group).splitlines() == [
        "ExceptionGroup: of tasks (2 sub-exceptions)",
        "  - KeyError: 'a'",
        "  - ValueError: b",
        "    caused by OSError: disk",
        "  - ZeroDivisionError",
        "  caused by ConnectionError: first",
    ]


def test_a_task_group_in_an_async_handler_is_stored_with_what_failed_and_nothing_of_the_engine(jobs: Jobs):
    @jobs.handler("email")
    async def email(ctx: JobContext) -> None:
        import asyncio

        async def send() -> None:
            raise ConnectionError("refused")

        async with asyncio.TaskGroup() as group:
            group.create_task(send())

    run_id = jobs.create("email")
    jobs.consume(message(run_id))

    assert jobs.get_status(run_id).last_error == (
        "ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)\n  - ConnectionError: refused"
    )


def test_a_long_chain_keeps_its_ends(jobs: Jobs):
    lines = failure_of(jobs, a_chain(100)).splitlines()

    assert lines == [
        "ValueError: 1",
        "  caused by ValueError: 2",
        "  caused by ValueError: 3",
        "  (95 between) …",
        "  caused by ValueError: 99",
        "  caused by ValueError: 100",
    ]


def test_a_great_group_says_how_many_are_left_out(jobs: Jobs):
    lines = failure_of(jobs, ExceptionGroup("all", [ValueError(str(number)) for number in range(50)])).splitlines()

    assert lines[1:] == [*(f"  - ValueError: {number}" for number in range(4)), "  - and 46 more …"]


@pytest.mark.parametrize("text", ["x" * 5_000, "é" * 5_000, "\U0001f600" * 5_000, "\ud800" * 5_000], ids=ascii)
@pytest.mark.parametrize("causes", [1, 2, 20])
def test_what_is_stored_is_bounded_in_bytes_and_a_long_text_hides_no_cause(jobs: Jobs, text: str, causes: int):
    stored = failure_of(jobs, a_chain(causes, text=text))

    assert MAX_ERROR_BYTES - 20 <= len(stored.encode()) <= MAX_ERROR_BYTES
    assert stored.startswith("ValueError: 1")
    if causes > 1:
        assert f"caused by ValueError: {causes}" in stored


def test_a_short_text_leaves_its_room_to_the_long_one():
    error = ValueError("x" * 5_000)
    error.__cause__ = KeyError("short")

    assert error_text(error).endswith("…\n  caused by KeyError: 'short'")
    assert len(error_text(error).encode()) == MAX_ERROR_BYTES


def test_errors_that_lead_to_each_other_are_told_once():
    one, other = ValueError("one"), KeyError("other")
    one.__cause__, other.__cause__ = other, one
    group = ExceptionGroup("group", [one, one, other])
    one.__context__ = group

    assert error_text(one) == "ValueError: one\n  caused by KeyError: 'other'"
    assert error_text(group).splitlines() == [
        "ExceptionGroup: group (3 sub-exceptions)",
        "  - ValueError: one",
        "  - KeyError: 'other'",
    ]


def test_a_group_of_groups_without_end_is_bounded():
    group: Any = ExceptionGroup("0", [ValueError("leaf")])
    for number in range(3_000):
        group = ExceptionGroup(str(number), [group, ValueError(str(number))])

    assert len(error_text(group).encode()) <= MAX_ERROR_BYTES


class Hostile(ExceptionGroup):
    """Raises where it is asked for what led to it."""

    @property
    def exceptions(self) -> Any:
        raise RuntimeError("exceptions")

    @property
    def __cause__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("cause")


def test_an_error_that_can_not_be_asked_for_its_causes_is_stored(jobs: Jobs):
    assert failure_of(jobs, Hostile("hostile", [ValueError()])).startswith("Hostile: hostile")


def test_the_log_has_types_and_places_of_the_causes_and_no_text(jobs: Jobs, aws: Aws, caplog: pytest.LogCaptureFixture):
    @jobs.handler("email")
    def email(ctx: JobContext) -> None:
        try:
            raise ConnectionError(ctx.payload)
        except ConnectionError as error:
            raise ValueError(ctx.payload) from ExceptionGroup(ctx.payload, [error])

    with caplog.at_level(logging.DEBUG, "kumofire_core"):
        jobs.consume(message(jobs.create("email", "secret")))

    [record] = [record for record in caplog.records if hasattr(record, "error_at")]
    group, leaf = record.error_causes
    assert group == "caused by ExceptionGroup"
    assert leaf.startswith("  - ConnectionError at ")
    assert leaf.endswith(" in email")
    assert "test_error_text.py:" in leaf
    assert "secret" not in str(record.__dict__)


def test_the_log_has_no_field_of_causes_where_there_are_none():
    assert error_causes(ValueError("boom")) == []

"""Schedules as people see them: made, read, changed, listed, disabled, deleted, triggered; and as they are fired.

When an expression is due is tested in ``test_schedule_times``.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from kumofire_core import (
    DispatchResult,
    InvalidArgumentError,
    InvalidJSONError,
    InvalidScheduleError,
    Jobs,
    Missed,
    Overlap,
    Schedule,
    ScheduleChangedError,
    ScheduleConflictError,
    ScheduleExistsError,
    ScheduleType,
    UnknownJobError,
)
from kumofire_core.engine import schedule_firing, schedules
from kumofire_core.model.times import to_ms
from tests.builders import NOW
from tests.faults import Interrupted, Outage, Repeated
from tests.worlds import Died, World, a_world

HOURLY: dict[str, Any] = {"schedule_type": "cron", "schedule_expr": "0 * * * *"}
EVERY_MINUTE: dict[str, Any] = {"schedule_type": "cron", "schedule_expr": "* * * * *"}
ONE = NOW + timedelta(hours=1)


@pytest.fixture
def world() -> Iterator[World]:
    with a_world() as world:
        yield world


@pytest.fixture
def jobs(world: World) -> Jobs:
    return world.jobs


def stored(world: World, schedule_id: str) -> dict[str, Any]:
    """Return a schedule's item."""
    [item] = [item for item in world.aws.items() if item["pk"] == f"schedule#{schedule_id}"]
    return item


def test_a_schedule_reads_as_it_was_made(jobs: Jobs):
    schedule_id = jobs.create_schedule(
        "work",
        {"to": "雲"},
        schedule_type="interval",
        schedule_expr=timedelta(minutes=5),
        schedule_key="every-five",
        timezone="Europe/Berlin",
        max_attempts=7,
        missed="latest",
        overlap="skip",
        start_at=datetime(2026, 3, 14, 14, tzinfo=timezone(timedelta(hours=1))),
        end_at=NOW + timedelta(days=1),
    )

    assert jobs.get_schedule(schedule_id) == Schedule(
        id=schedule_id,
        schedule_key="every-five",
        job_name="work",
        payload={"to": "雲"},
        schedule_type=ScheduleType.INTERVAL,
        schedule_expr="rate(5 minutes)",
        timezone="Europe/Berlin",
        next_run_at=ONE,
        last_scheduled_at=None,
        enabled=True,
        max_attempts=7,
        created_at=NOW,
        updated_at=NOW,
        missed=Missed.LATEST,
        overlap=Overlap.SKIP,
        start_at=ONE,
        end_at=NOW + timedelta(days=1),
    )
    assert jobs.get_schedule_by_key("every-five") == jobs.get_schedule(schedule_id)


def test_what_is_left_out_has_its_default(jobs: Jobs):
    schedule = jobs.get_schedule(jobs.create_schedule("work", **HOURLY))

    assert (schedule.payload, schedule.schedule_key, schedule.timezone) == (None, None, None)
    assert (schedule.enabled, schedule.max_attempts, schedule.missed, schedule.overlap) == (True, None, "all", "allow")
    assert schedule.start_at is schedule.end_at is schedule.last_scheduled_at is None
    assert schedule.next_run_at == ONE


def test_making_a_schedule_is_one_put(world: World):
    world.jobs.create_schedule("work", **HOURLY, schedule_key="k")

    assert world.aws.dynamodb.count() == {"put_item": 1}
    assert world.queue.requests == []


def test_a_disabled_schedule_has_no_next_run_and_may_lie_in_the_past(jobs: Jobs):
    schedule_id = jobs.create_schedule(
        "work", schedule_type="cron", schedule_expr="@daily", end_at=NOW - timedelta(days=1), enabled=False
    )

    schedule = jobs.get_schedule(schedule_id)
    assert (schedule.enabled, schedule.next_run_at) == (False, None)


def test_an_unknown_schedule_is_none(jobs: Jobs):
    assert jobs.get_schedule("unknown") is None
    assert jobs.get_schedule_by_key("unknown") is None
    assert jobs.update_schedule("unknown", payload=1) is None
    assert jobs.update_schedule_by_key("unknown", payload=1) is None
    assert jobs.disable_schedule("unknown") is None
    assert jobs.disable_schedule_by_key("unknown") is None
    assert jobs.trigger_schedule("unknown") is None
    assert jobs.delete_schedule("unknown") is False


def test_a_key_that_is_taken_is_refused_with_what_to_do(world: World):
    first = world.jobs.create_schedule("work", **HOURLY, schedule_key="k")
    before = world.aws.items()

    with pytest.raises(ScheduleExistsError, match=r"'k' belongs to schedule .* use upsert_schedule") as raised:
        world.jobs.create_schedule("flaky", **HOURLY, schedule_key="k")

    assert raised.value.schedule_id == first
    assert world.aws.items() == before


def test_without_a_key_each_call_makes_a_schedule(jobs: Jobs):
    assert len({jobs.create_schedule("work", **HOURLY) for _ in range(5)}) == 5


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"schedule_type": "weekly"}, InvalidScheduleError, "unknown schedule_type 'weekly'; use one of 'cron'"),
    ({"schedule_expr": "61 * * * *"}, InvalidScheduleError, "minute (field 1 of 5) has '61'"),
    ({"schedule_expr": "* * * *"}, InvalidScheduleError, "has 4 fields; it needs five"),
    ({"schedule_expr": "0 0 30 2 *"}, InvalidScheduleError, "can never fire"),
    ({"schedule_expr": "@reboot"}, InvalidScheduleError, "unknown cron alias '@reboot'"),
    ({"schedule_expr": timedelta(minutes=5)}, InvalidScheduleError, "schedule_expr of a cron schedule must be"),
    ({"schedule_type": "interval", "schedule_expr": "5 minutes"}, InvalidScheduleError, "interval '5 minutes'"),
    ({"schedule_type": "interval", "schedule_expr": timedelta(0)}, InvalidScheduleError, "too short"),
    ({"schedule_type": "once", "schedule_expr": "tomorrow"}, InvalidScheduleError, "once 'tomorrow'"),
    ({"schedule_type": "once", "schedule_expr": datetime(2027, 1, 1)}, InvalidScheduleError, "no time zone"),
    ({"timezone": "Europe/Berln"}, InvalidScheduleError, "did you mean 'Europe/Berlin'"),
    ({"missed": "some"}, InvalidScheduleError, "missed must be one of 'all', 'latest', 'skip', not 'some'"),
    ({"overlap": "wait"}, InvalidScheduleError, "overlap must be one of 'allow', 'skip', not 'wait'"),
    ({"start_at": datetime(2027, 1, 1)}, InvalidScheduleError, "start_at"),
    ({"end_at": NOW - timedelta(days=1)}, InvalidScheduleError, "no occurrence after"),
    ({"start_at": ONE, "end_at": NOW}, InvalidScheduleError, "is before start_at"),
    ({"enabled": "no"}, InvalidArgumentError, "enabled must be True or False, not 'no'"),
    ({"max_attempts": 0}, InvalidArgumentError, "max_attempts must be a whole number of at least 1"),
    ({"payload": float("nan")}, InvalidJSONError, "the payload"),
    ({"payload": "x" * 400_000}, InvalidJSONError, "the payload has"),
    ({"name": "wrok"}, UnknownJobError, "no handler for job 'wrok'"),
    ({"name": ""}, InvalidArgumentError, "a job's name"),
]


@pytest.mark.parametrize(("wrong", "error", "text"), WRONG)
def test_what_cannot_be_used_is_refused_with_its_name_and_nothing_is_written(
    world: World, wrong: dict[str, Any], error: type[Exception], text: str
):
    with pytest.raises(error, match=re.escape(text)):
        world.jobs.create_schedule(**{"name": "work", **HOURLY, **wrong})

    assert world.aws.items() == []


@pytest.mark.parametrize(("wrong", "error", "text"), WRONG)
def test_a_change_that_cannot_be_used_is_refused_and_the_schedule_stays(
    world: World, wrong: dict[str, Any], error: type[Exception], text: str
):
    schedule_id = world.jobs.create_schedule("work", **HOURLY, schedule_key="k")
    before = world.aws.items()

    for change in (
        lambda: world.jobs.update_schedule(schedule_id, **wrong),
        lambda: world.jobs.update_schedule_by_key("k", **wrong),
        lambda: world.jobs.upsert_schedule(**{"name": "work", "schedule_key": "k", **HOURLY, **wrong}),
    ):
        with pytest.raises(error, match=re.escape(text)):
            change()

    assert world.aws.items() == before


@pytest.mark.parametrize("wrong", [{"cron": "@daily"}, {"schedule_key": "other"}, {"next_run_at": NOW}, {"id": "x"}])
def test_a_change_of_what_a_schedule_does_not_have_is_refused_with_what_it_has(world: World, wrong: dict[str, Any]):
    schedule_id = world.jobs.create_schedule("work", **HOURLY)
    before = world.aws.items()

    with pytest.raises(
        InvalidArgumentError, match=f"update_schedule takes no '{next(iter(wrong))}'.*; it takes enabled"
    ):
        world.jobs.update_schedule(schedule_id, **wrong)

    assert world.aws.items() == before


@pytest.mark.parametrize("key", ["", "x" * 1025, "\ud800", None, 7])
def test_nothing_is_made_under_what_cannot_be_a_key_and_nothing_found(world: World, key: Any):
    reads: list[Callable[[], object]] = [
        lambda: world.jobs.get_schedule_by_key(key),
        lambda: world.jobs.update_schedule_by_key(key, payload=1),
        lambda: world.jobs.disable_schedule_by_key(key),
    ]
    for read in reads:
        if isinstance(key, str):
            assert read() is None
        else:
            with pytest.raises(InvalidArgumentError, match="schedule_key must be a string"):
                read()
    with pytest.raises(InvalidArgumentError, match="schedule_key"):
        world.jobs.upsert_schedule("work", schedule_key=key, **HOURLY)
    assert world.aws.items() == []
    assert world.aws.dynamodb.requests == []


def test_a_change_to_a_schedule_that_cannot_exist_is_checked_all_the_same(jobs: Jobs):
    for change in (jobs.update_schedule, jobs.update_schedule_by_key):
        with pytest.raises(InvalidArgumentError, match="takes no 'paylod' \\(did you mean 'payload'\\?\\)"):
            change("", paylod=1)  # type: ignore[call-arg]


@pytest.mark.parametrize("schedule_id", ["", "x" * 129, "a\nb", None, 7])
def test_what_cannot_be_an_id_is_unknown_or_no_text_at_all(world: World, schedule_id: Any):
    calls: list[Callable[[], object]] = [
        lambda: world.jobs.get_schedule(schedule_id),
        lambda: world.jobs.update_schedule(schedule_id, payload=1),
        lambda: world.jobs.disable_schedule(schedule_id),
        lambda: world.jobs.delete_schedule(schedule_id),
        lambda: world.jobs.trigger_schedule(schedule_id),
    ]
    for call in calls:
        if isinstance(schedule_id, str):
            assert not call()
        else:
            with pytest.raises(InvalidArgumentError, match="a schedule id must be a string, not"):
                call()
    assert world.aws.dynamodb.requests == []


CHANGES: dict[str, tuple[Any, Any]] = {
    "name": ("flaky", "flaky"),
    "payload": ([1, 2], [1, 2]),
    "max_attempts": (9, 9),
    "missed": ("skip", "skip"),
    "overlap": ("skip", "skip"),
    "timezone": ("Asia/Kolkata", "Asia/Kolkata"),
    "schedule_expr": ("30 * * * *", "30 * * * *"),
    "start_at": (NOW + timedelta(days=2), NOW + timedelta(days=2)),
    "end_at": (NOW + timedelta(days=2), NOW + timedelta(days=2)),
    "enabled": (False, False),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_changes_what_is_given_and_keeps_the_rest(world: World, name: str):
    schedule_id = world.jobs.create_schedule(
        "work", {"n": 1}, **HOURLY, schedule_key="k", max_attempts=2, end_at=NOW + timedelta(days=9)
    )
    before = world.jobs.get_schedule(schedule_id)
    given, read = CHANGES[name]
    world.clock.advance(seconds=5)

    after = world.jobs.update_schedule(schedule_id, **{name: given})

    assert after == world.jobs.get_schedule(schedule_id)
    field = "job_name" if name == "name" else name
    assert getattr(after, field) == read != getattr(before, field)
    assert after.updated_at == NOW + timedelta(seconds=5)
    moved = {"updated_at", field} | ({"next_run_at"} if name in (*schedules.TIMING, "enabled") else set())
    for other in set(Schedule.__slots__) - moved:
        assert getattr(after, other) == getattr(before, other), other


@pytest.mark.parametrize("name", ["max_attempts", "timezone", "start_at", "end_at", "payload"])
def test_none_takes_a_setting_away(world: World, name: str):
    settings = {"max_attempts": 2, "timezone": "Asia/Kolkata", "start_at": ONE, "end_at": ONE + timedelta(days=1)}
    schedule_id = world.jobs.create_schedule("work", {"n": 1}, **HOURLY, **settings)

    assert getattr(world.jobs.update_schedule(schedule_id, **{name: None}), name) is None
    assert getattr(world.jobs.get_schedule(schedule_id), name) is None


def test_a_change_to_what_it_is_already_writes_nothing(world: World):
    schedule_id = world.jobs.create_schedule("work", {"n": 1}, **HOURLY, schedule_key="k", timezone="Asia/Kolkata")
    before = world.aws.items()
    world.clock.advance(minutes=7)
    world.aws.dynamodb.requests.clear()

    world.jobs.update_schedule(schedule_id, payload={"n": 1}, schedule_expr=" 0 * *  * * ", overlap="allow")
    world.jobs.upsert_schedule("work", {"n": 1}, schedule_key="k", **HOURLY)

    assert world.aws.items() == before
    assert world.aws.dynamodb.count() == {"get_item": 2}


def test_an_interval_said_again_keeps_counting_from_where_it_did(world: World):
    schedule_id = world.jobs.create_schedule("work", schedule_type="interval", schedule_expr="rate(1 hour)")
    world.clock.advance(minutes=40)

    same = world.jobs.update_schedule(schedule_id, schedule_expr=timedelta(minutes=60))
    assert same.next_run_at == ONE
    other = world.jobs.update_schedule(schedule_id, schedule_expr="rate(2 hours)")
    assert other.next_run_at == NOW + timedelta(hours=2, minutes=40)


@pytest.mark.parametrize(
    ("change", "next_run_at"),
    [
        ({"schedule_expr": "15 * * * *"}, NOW + timedelta(minutes=15)),
        ({"timezone": "Asia/Kolkata"}, NOW + timedelta(minutes=30)),
        ({"start_at": NOW + timedelta(hours=5)}, NOW + timedelta(hours=5)),
        ({"schedule_type": "interval", "schedule_expr": "rate(7 minutes)"}, NOW + timedelta(minutes=7)),
        ({"schedule_type": "once", "schedule_expr": NOW + timedelta(days=1)}, NOW + timedelta(days=1)),
    ],
)
def test_changed_timing_computes_the_next_run_anew(world: World, change: dict[str, Any], next_run_at: datetime):
    schedule_id = world.jobs.create_schedule("work", **HOURLY)

    assert world.jobs.update_schedule(schedule_id, **change).next_run_at == next_run_at

    world.clock.now = next_run_at
    assert world.tick().schedules >= 1


def test_disabling_clears_the_next_run_and_enabling_computes_it_anew(world: World):
    schedule_id = world.jobs.create_schedule("work", **HOURLY, schedule_key="k")

    assert world.jobs.disable_schedule(schedule_id).next_run_at is None
    assert world.jobs.get_schedule(schedule_id).enabled is False
    world.clock.advance(hours=5, minutes=20)
    assert world.tick() == DispatchResult()
    enabled = world.jobs.update_schedule(schedule_id, enabled=True)

    assert enabled.next_run_at == NOW + timedelta(hours=6)
    assert world.tick() == DispatchResult()
    assert world.jobs.disable_schedule_by_key("k").enabled is False
    assert world.jobs.disable_schedule_by_key("k").enabled is False
    world.check()


def test_a_disabled_schedule_whose_timing_changes_still_has_no_next_run(world: World):
    schedule_id = world.jobs.create_schedule("work", **HOURLY, enabled=False)

    changed = world.jobs.update_schedule(schedule_id, schedule_expr="@daily")

    assert (changed.enabled, changed.next_run_at) == (False, None)


def test_a_disabled_schedule_can_be_enabled_with_another_timing_in_one_change(world: World):
    schedule_id = world.jobs.create_schedule("work", **HOURLY, enabled=False)

    changed = world.jobs.update_schedule(schedule_id, schedule_expr="@daily", enabled=True)

    assert changed.next_run_at == NOW + timedelta(hours=12)


def test_upsert_makes_a_schedule_and_then_changes_it(world: World):
    first = world.jobs.upsert_schedule("work", 1, schedule_key="k", **HOURLY, max_attempts=4)
    made = world.jobs.get_schedule(first)
    second = world.jobs.upsert_schedule("flaky", 2, schedule_key="k", schedule_type="cron", schedule_expr="@daily")

    changed = world.jobs.get_schedule(first)
    assert first == second
    assert (made.job_name, made.payload, made.schedule_expr, made.max_attempts) == ("work", 1, "0 * * * *", 4)
    assert (changed.job_name, changed.payload, changed.schedule_expr, changed.max_attempts) == ("flaky", 2, "@daily", 4)
    assert changed.next_run_at == NOW + timedelta(hours=12)
    assert len(world.aws.items()) == 1


def test_upsert_keeps_a_payload_that_is_left_out_and_takes_none_for_null(world: World):
    schedule_id = world.jobs.upsert_schedule("work", {"n": 1}, schedule_key="k", **HOURLY)

    world.jobs.upsert_schedule("work", schedule_key="k", schedule_type="cron", schedule_expr="@daily")
    assert world.jobs.get_schedule(schedule_id).payload == {"n": 1}

    world.jobs.upsert_schedule("work", None, schedule_key="k")
    assert world.jobs.get_schedule(schedule_id).payload is None


def test_upsert_of_a_new_key_without_a_payload_has_null(world: World):
    schedule_id = world.jobs.upsert_schedule("work", schedule_key="k", **HOURLY)

    assert world.jobs.get_schedule(schedule_id).payload is None


def test_upsert_keeps_everything_that_is_left_out(world: World):
    given = {**HOURLY, "timezone": "Asia/Kolkata", "max_attempts": 4, "missed": "latest", "overlap": "skip"}
    given |= {"start_at": NOW, "end_at": NOW + timedelta(days=9), "enabled": False}
    schedule_id = world.jobs.upsert_schedule("work", {"n": 1}, schedule_key="k", **given)
    before = world.jobs.get_schedule(schedule_id)

    world.jobs.upsert_schedule("work", schedule_key="k")

    assert world.jobs.get_schedule(schedule_id) == before


def test_help_says_that_a_payload_left_out_of_upsert_is_unchanged():
    assert "payload: 'Any' = UNCHANGED" in str(inspect.signature(Jobs.upsert_schedule))


OF_EARLIER_RELEASES = ["*/61 * * * *", "5/70 * * * *", "0-0 * * * *", "00000 * * * *", "*,5 * * * *", "0 0 * * 1/2"]


@pytest.mark.long
@pytest.mark.parametrize("expr", OF_EARLIER_RELEASES)
def test_an_expression_that_an_earlier_release_stored_fires_and_lets_the_rest_be_changed(world: World, expr: str):
    schedule_id = world.jobs.create_schedule("work", schedule_key="k", **HOURLY)
    world.aws.dynamodb.client.update_item(
        TableName=world.aws.table,
        Key={"pk": {"S": f"schedule#{schedule_id}"}, "sk": {"S": "schedule"}},
        UpdateExpression="SET schedule_expr = :expr",
        ExpressionAttributeValues={":expr": {"S": expr}},
    )

    world.jobs.update_schedule(schedule_id, timezone="Europe/Berlin", payload=2)
    world.jobs.upsert_schedule("work", schedule_key="k", schedule_type="cron", schedule_expr=expr)
    world.clock.advance(days=8)
    assert world.jobs.dispatch().errors == 0
    after = world.jobs.get_schedule(schedule_id)

    assert (after.schedule_expr, after.timezone, after.payload) == (expr, "Europe/Berlin", 2)
    assert after.last_scheduled_at is not None
    with pytest.raises(InvalidScheduleError, match="which is not valid"):
        world.jobs.create_schedule("work", schedule_type="cron", schedule_expr=expr)


def test_upsert_leaves_a_disabled_schedule_disabled_unless_told(world: World):
    schedule_id = world.jobs.upsert_schedule("work", schedule_key="k", **HOURLY)
    world.jobs.disable_schedule(schedule_id)

    world.jobs.upsert_schedule("work", schedule_key="k", **HOURLY)
    assert world.jobs.get_schedule(schedule_id).enabled is False
    world.jobs.upsert_schedule("work", schedule_key="k", **HOURLY, enabled=True)
    assert world.jobs.get_schedule(schedule_id).next_run_at == ONE


@pytest.mark.parametrize("given", [{}, {"schedule_type": "cron"}, {"schedule_expr": "@daily"}])
def test_upsert_of_a_new_key_says_what_it_needs(world: World, given: dict[str, Any]):
    missing = ", ".join(name for name in ("schedule_type", "schedule_expr") if name not in given)

    with pytest.raises(InvalidArgumentError, match=f"'k' is new, so it needs {missing}"):
        world.jobs.upsert_schedule("work", schedule_key="k", **given)
    assert world.aws.items() == []


def test_upsert_that_another_was_faster_than_changes_what_the_other_made(world: World):
    def other() -> None:
        world.jobs.create_schedule("work", "theirs", **HOURLY, schedule_key="k", max_attempts=4)

    between = Interrupted(world.aws.dynamodb, other, at=2)
    schedule_id = world.another(dynamodb=between).upsert_schedule("work", "ours", schedule_key="k", **HOURLY)

    schedule = world.jobs.get_schedule(schedule_id)
    assert (schedule.payload, schedule.max_attempts) == ("ours", 4)


def test_upsert_of_a_schedule_that_is_deleted_meanwhile_makes_it_again(world: World):
    schedule_id = world.jobs.create_schedule("work", 1, **HOURLY, schedule_key="k")
    between = Interrupted(world.aws.dynamodb, lambda: world.jobs.delete_schedule(schedule_id), at=2)

    assert world.another(dynamodb=between).upsert_schedule("work", 2, schedule_key="k", **HOURLY) == schedule_id
    assert world.jobs.get_schedule(schedule_id).payload == 2


def test_a_change_made_between_a_read_and_its_write_is_not_lost(world: World):
    schedule_id = world.jobs.create_schedule("work", 1, **HOURLY)
    between = Interrupted(
        world.aws.dynamodb, lambda: world.jobs.update_schedule(schedule_id, max_attempts=9, payload=2), at=2
    )

    changed = world.another(dynamodb=between).update_schedule(schedule_id, missed="skip", schedule_expr="@daily")

    assert (changed.max_attempts, changed.payload, changed.missed, changed.schedule_expr) == (9, 2, "skip", "@daily")
    assert changed == world.jobs.get_schedule(schedule_id)


def test_a_change_that_never_gets_through_says_so(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(schedules, "CHANGE_TRIES", 3)
    schedule_id = world.jobs.create_schedule("work", 0, **HOURLY)

    class Busy:
        """Somebody else changes the schedule before each write."""

        count = 0

        def __getattr__(self, operation: str) -> Any:
            return getattr(world.aws.dynamodb, operation)

        def update_item(self, **parameters: Any) -> Any:
            self.count += 1
            world.jobs.update_schedule(schedule_id, payload=self.count)
            return world.aws.dynamodb.update_item(**parameters)

    with pytest.raises(ScheduleConflictError, match=f"{schedule_id} was changed by others 3 times"):
        world.another(dynamodb=Busy()).update_schedule(schedule_id, max_attempts=9)
    assert world.jobs.get_schedule(schedule_id).max_attempts is None


def test_a_schedule_is_deleted_once_and_its_runs_stay(world: World):
    schedule_id = world.jobs.create_schedule("work", **HOURLY, schedule_key="k")
    run_id = world.jobs.trigger_schedule(schedule_id)

    assert world.jobs.delete_schedule(schedule_id) is True
    assert world.jobs.delete_schedule(schedule_id) is False
    assert world.jobs.get_schedule(schedule_id) is None
    world.clock.advance(days=1)
    world.settle()
    assert world.times_executed() == {run_id: 1}
    assert world.jobs.create_schedule("work", **HOURLY, schedule_key="k") == schedule_id


def test_schedules_are_listed_in_pages_the_next_to_run_first_and_the_disabled_last(world: World):
    ids = [
        world.jobs.create_schedule("work", schedule_type="once", schedule_expr=NOW + timedelta(hours=1 + hour))
        for hour in (3, 1, 2, 0)
    ]
    disabled = world.jobs.create_schedule("work", **HOURLY, enabled=False)
    world.jobs.create("work", delay=4000)

    assert [schedule.id for schedule in world.jobs.list_schedules().schedules] == [
        ids[3], ids[1], ids[2], ids[0], disabled
    ]  # fmt: skip
    listed: list[str] = []
    page, pages = world.jobs.list_schedules(limit=2), 1
    while page.next_page is not None:
        listed += [schedule.id for schedule in page.schedules]
        page, pages = world.jobs.list_schedules(limit=2, page=page.next_page), pages + 1
    listed += [schedule.id for schedule in page.schedules]
    assert listed == [ids[3], ids[1], ids[2], ids[0], disabled]
    assert pages == 3
    assert world.jobs.list_schedules().schedules[0] == world.jobs.get_schedule(ids[3])


def test_no_schedules_are_an_empty_page(jobs: Jobs):
    page = jobs.list_schedules()

    assert (page.schedules, page.next_page) == ((), None)


@pytest.mark.parametrize("limit", [0, 101, True, "10", 1.0])
def test_a_page_of_no_possible_length_is_refused(jobs: Jobs, limit: Any):
    with pytest.raises(InvalidArgumentError, match="limit must be a whole number from 1 to 100"):
        jobs.list_schedules(limit=limit)


@pytest.mark.parametrize("page", ["", "{}", "[]", "null", "next", '{"pk":"a"}', 7])
def test_a_page_that_was_made_up_is_refused(jobs: Jobs, page: Any):
    with pytest.raises(InvalidArgumentError, match="page must be the next_page of an earlier call"):
        jobs.list_schedules(page=page)


def test_a_trigger_makes_a_run_now_and_does_not_move_the_schedule(world: World):
    schedule_id = world.jobs.create_schedule("work", {"n": 1}, **HOURLY, max_attempts=8)
    before = world.aws.items()

    run_id = world.jobs.trigger_schedule(schedule_id)
    another = world.jobs.trigger_schedule(schedule_id)

    run = world.jobs.get_status(run_id)
    assert (run.job_name, run.payload, run.max_attempts, run.schedule_id) == ("work", {"n": 1}, 8, schedule_id)
    assert (run.status, run.scheduled_for) == ("queued", NOW)
    assert run_id != another
    assert stored(world, schedule_id) == before[0]
    world.deliver()
    assert world.times_executed() == {run_id: 1, another: 1}


def test_a_disabled_schedule_can_be_triggered(world: World):
    schedule_id = world.jobs.create_schedule("work", **HOURLY, enabled=False)

    assert world.jobs.get_status(world.jobs.trigger_schedule(schedule_id)).status == "queued"


def test_an_occurrence_makes_one_run_at_its_time_and_the_schedule_moves_on(world: World):
    schedule_id = world.jobs.create_schedule("work", {"n": 1}, **HOURLY, max_attempts=8)
    world.clock.now = ONE - timedelta(seconds=91)
    assert world.tick() == DispatchResult()
    world.clock.now = ONE - timedelta(seconds=90)

    assert world.tick() == DispatchResult(schedules=1)
    assert world.tick() == DispatchResult()

    [run_id] = world.runs_of(schedule_id)
    run = world.jobs.get_status(run_id)
    assert (run.job_name, run.payload, run.max_attempts, run.schedule_id) == ("work", {"n": 1}, 8, schedule_id)
    assert (run.status, run.scheduled_for) == ("scheduled", ONE)
    assert world.queue.taken == [(run_id, 90)]
    schedule = world.jobs.get_schedule(schedule_id)
    assert (schedule.last_scheduled_at, schedule.next_run_at) == (ONE, ONE + timedelta(hours=1))
    world.clock.now = ONE
    world.deliver()
    assert world.executed == [(run_id, 1, ONE)]


def test_with_a_tick_each_minute_every_occurrence_starts_in_its_second(world: World):
    schedule_id = world.jobs.create_schedule("work", schedule_type="cron", schedule_expr="*/5 * * * *")
    world.clock.advance(seconds=17)

    for _ in world.minutes(31):
        world.check()

    occurrences = [NOW + timedelta(minutes=minute) for minute in range(5, 31, 5)]
    assert [at for _, _, at in world.executed] == occurrences
    assert len(world.runs_of(schedule_id)) == len(world.queue.taken) == 6


def test_an_interval_shorter_than_a_tick_fires_every_time(world: World):
    world.jobs.create_schedule("work", schedule_type="interval", schedule_expr="rate(20 seconds)")

    for _ in world.minutes(4):
        pass

    assert [at for _, _, at in world.executed] == [NOW + timedelta(seconds=20 * n) for n in range(1, 13)]


def test_two_occurrences_of_two_schedules_at_one_time_are_two_runs(world: World):
    for _ in range(2):
        world.jobs.create_schedule("work", **HOURLY)
    world.clock.now = ONE

    assert world.tick() == DispatchResult(schedules=2)
    assert len(world.runs()) == 2


@pytest.mark.parametrize(
    ("missed", "hours"), [("all", [1, 2, 3, 4, 5]), ("latest", [5]), ("skip", [])], ids=["all", "latest", "skip"]
)
def test_missed_occurrences_run_as_the_schedule_says(world: World, missed: str, hours: list[int]):
    schedule_id = world.jobs.create_schedule("work", **HOURLY, missed=missed)
    world.clock.advance(hours=5, minutes=30)

    assert world.tick() == DispatchResult(schedules=len(hours))

    assert [world.jobs.get_status(run_id).scheduled_for for run_id in world.runs_of(schedule_id)] == [
        NOW + timedelta(hours=hour) for hour in hours
    ]
    schedule = world.jobs.get_schedule(schedule_id)
    assert schedule.next_run_at == NOW + timedelta(hours=6)
    assert schedule.last_scheduled_at == (NOW + timedelta(hours=5) if hours else None)


@pytest.mark.parametrize(("late", "fired"), [(0, 1), (60, 1), (61, 0)])
def test_skip_forgives_a_minute(world: World, late: int, fired: int):
    world.jobs.create_schedule("work", **HOURLY, missed="skip")
    world.clock.now = ONE + timedelta(seconds=late)

    assert world.tick() == DispatchResult(schedules=fired)


def test_more_missed_occurrences_than_are_made_at_once_are_all_made_in_one_pass(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(schedule_firing, "OCCURRENCES_AT_ONCE", 10)
    schedule_id = world.jobs.create_schedule("work", schedule_type="cron", schedule_expr="* * * * *")
    world.clock.advance(minutes=34)

    assert world.tick() == DispatchResult(schedules=35)
    assert len(set(world.runs_of(schedule_id))) == 35


def test_overlap_skip_starts_nothing_while_the_last_run_is_unfinished(world: World):
    schedule_id = world.jobs.create_schedule("work", **HOURLY, overlap="skip")
    world.clock.now = ONE
    assert world.tick() == DispatchResult(schedules=1)
    world.queue.waiting.clear()
    first = world.runs_of(schedule_id)

    for hour in (2, 3):
        world.clock.now = NOW + timedelta(hours=hour)
        assert world.tick().schedules == 0
    assert world.runs_of(schedule_id) == first
    assert world.jobs.get_schedule(schedule_id).last_scheduled_at == ONE

    world.deliver()
    assert world.jobs.get_status(first[0]).status == "succeeded"
    world.clock.now = NOW + timedelta(hours=4)
    assert world.tick().schedules == 1
    assert world.jobs.get_schedule(schedule_id).last_scheduled_at == NOW + timedelta(hours=4)


@pytest.mark.parametrize("status", ["succeeded", "failed", "canceled", "gone"])
def test_overlap_skip_goes_on_when_the_last_run_has_ended_or_is_gone(world: World, status: str):
    schedule_id = world.jobs.create_schedule("work", **HOURLY, overlap="skip")
    world.clock.now = ONE
    world.tick()
    [run_id] = world.runs_of(schedule_id)
    if status == "gone":
        world.aws.dynamodb.client.delete_item(
            TableName=world.aws.table, Key={"pk": {"S": f"run#{run_id}"}, "sk": {"S": "run"}}
        )
    else:
        world.aws.change(run_id, status=status)
    world.clock.now = NOW + timedelta(hours=2)

    assert world.tick().schedules == 1


def test_overlap_skip_decides_about_an_occurrence_when_it_is_due_and_not_ahead_of_it(world: World):
    schedule_id = world.jobs.create_schedule("work", **HOURLY, overlap="skip")
    world.clock.now = ONE
    world.tick()
    world.clock.now = NOW + timedelta(hours=2, seconds=-30)
    assert world.tick().schedules == 0
    assert world.jobs.get_schedule(schedule_id).next_run_at == NOW + timedelta(hours=2)

    world.deliver()
    assert world.tick().schedules == 1


def test_overlap_allow_starts_every_occurrence(world: World):
    schedule_id = world.jobs.create_schedule("work", **HOURLY)
    for hour in (1, 2, 3):
        world.clock.now = NOW + timedelta(hours=hour)
        assert world.tick().schedules == 1

    assert world.statuses() == {"queued": 3}
    assert len(world.runs_of(schedule_id)) == 3


def test_occurrences_lie_between_start_and_end_and_both_belong(world: World):
    schedule_id = world.jobs.create_schedule(
        "work", **HOURLY, start_at=NOW + timedelta(hours=2), end_at=NOW + timedelta(hours=4)
    )
    world.clock.advance(days=1)

    assert world.tick() == DispatchResult(schedules=3)

    assert [world.jobs.get_status(run_id).scheduled_for for run_id in world.runs_of(schedule_id)] == [
        NOW + timedelta(hours=hour) for hour in (2, 3, 4)
    ]
    schedule = world.jobs.get_schedule(schedule_id)
    assert (schedule.enabled, schedule.next_run_at) == (True, None)
    world.clock.advance(days=1)
    assert world.tick().schedules == 0
    assert [schedule.id for schedule in world.jobs.list_schedules().schedules] == [schedule_id]


def test_once_fires_once(world: World):
    schedule_id = world.jobs.create_schedule("work", schedule_type="once", schedule_expr="2026-03-14T14:00:00+01:00")
    assert world.jobs.get_schedule(schedule_id).next_run_at == ONE
    world.clock.now = ONE

    assert world.tick() == DispatchResult(schedules=1)
    assert world.tick() == DispatchResult()

    schedule = world.jobs.get_schedule(schedule_id)
    assert (schedule.next_run_at, schedule.last_scheduled_at) == (None, ONE)
    world.settle()
    assert len(world.executed) == 1


def test_a_once_whose_time_has_passed_is_due_at_once(world: World):
    past = world.jobs.create_schedule("work", schedule_type="once", schedule_expr=NOW - timedelta(days=2))
    world.jobs.create_schedule("work", schedule_type="once", schedule_expr=NOW - timedelta(days=2), missed="skip")

    assert world.tick() == DispatchResult(schedules=1)
    assert world.queue.taken == [(world.runs_of(past)[0], 0)]


def test_a_schedule_that_is_changed_between_the_dispatchers_read_and_its_advance_keeps_the_change(world: World):
    schedule_id = world.jobs.create_schedule("work", **HOURLY)
    world.clock.now = ONE
    # The index twice or thrice, the schedule, its run; then the advance.
    for at in range(1, 8):
        between = Interrupted(
            world.aws.dynamodb,
            lambda: world.jobs.update_schedule(schedule_id, schedule_expr="30 * * * *", payload="new"),
            at=at,
        )
        world.another(dynamodb=between).dispatch()
        world.check()

    schedule = world.jobs.get_schedule(schedule_id)
    assert (schedule.payload, schedule.next_run_at) == ("new", ONE + timedelta(minutes=30))
    assert [world.jobs.get_status(run_id).scheduled_for for run_id in world.runs_of(schedule_id)] in ([], [ONE])


@pytest.mark.parametrize("at", [4, 5, 6])
def test_a_change_that_leaves_the_next_run_where_it_is_decides_about_the_one_after_it(world: World, at: int):
    schedule_id = world.jobs.create_schedule("work", **HOURLY)
    world.clock.now = ONE
    change = Interrupted(
        world.aws.dynamodb,
        lambda: world.jobs.update_schedule(schedule_id, schedule_expr="0 13,17 * * *", enabled=True),
        at=at,
    )
    world.clock.now = ONE - timedelta(seconds=60)

    world.another(dynamodb=change).dispatch()
    world.tick()

    assert world.jobs.get_schedule(schedule_id).next_run_at == NOW + timedelta(hours=5)
    assert [world.jobs.get_status(run_id).scheduled_for for run_id in world.runs_of(schedule_id)] == [ONE]


def test_an_advance_between_the_read_and_the_write_of_a_change_does_not_survive_it(world: World):
    schedule_id = world.jobs.create_schedule("work", **HOURLY)
    world.clock.now = ONE - timedelta(seconds=60)
    change = Interrupted(world.aws.dynamodb, world.tick, at=2)

    world.another(dynamodb=change).update_schedule(schedule_id, schedule_expr="0 13,17 * * *")

    assert world.jobs.get_schedule(schedule_id).next_run_at == ONE
    world.tick()
    assert world.jobs.get_schedule(schedule_id).next_run_at == NOW + timedelta(hours=5)
    assert [world.jobs.get_status(run_id).scheduled_for for run_id in world.runs_of(schedule_id)] == [ONE]


class Dying:
    """A table's client whose process dies once it has put a run; ``begun`` gets that run's key."""

    def __init__(self, world: World, begun: list[str]) -> None:
        self._client = world.aws.dynamodb
        self._begun = begun

    def __getattr__(self, operation: str) -> Any:
        return getattr(self._client, operation)

    def put_item(self, **parameters: Any) -> Any:
        self._begun.append(parameters["Item"]["pk"]["S"])
        self._client.put_item(**parameters)
        raise Died


def test_an_occurrence_that_was_begun_is_finished_though_its_own_run_is_unfinished(world: World):
    schedule_id = world.jobs.create_schedule("work", **HOURLY, overlap="skip")
    world.clock.now = ONE
    with pytest.raises(Died):
        world.another(dynamodb=Dying(world, [])).dispatch()

    world.tick()

    schedule = world.jobs.get_schedule(schedule_id)
    assert (schedule.last_scheduled_at, schedule.next_run_at) == (ONE, ONE + timedelta(hours=1))


def test_overlap_skip_waits_for_a_run_that_was_begun_before_the_timing_changed(world: World):
    schedule_id = world.jobs.create_schedule("work", **HOURLY, overlap="skip")
    world.clock.now = ONE
    begun: list[str] = []
    with pytest.raises(Died):
        world.another(dynamodb=Dying(world, begun)).dispatch()
    world.jobs.update_schedule(schedule_id, schedule_expr="30 * * * *")

    world.clock.now = ONE + timedelta(minutes=30)
    world.tick()

    assert [item["pk"] for item in world.runs()] == begun
    world.settle()
    world.clock.now = ONE + timedelta(minutes=90)
    assert world.tick().schedules == 1


class Hanging:
    """A table's client whose process stands still before it puts a run; then it may die."""

    def __init__(self, world: World, meanwhile: Callable[[], None], *, dies: bool) -> None:
        self._client = world.aws.dynamodb
        self._meanwhile, self._dies = meanwhile, dies

    def __getattr__(self, operation: str) -> Any:
        return getattr(self._client, operation)

    def put_item(self, **parameters: Any) -> Any:
        self._meanwhile()
        if self._dies:
            raise Died
        return self._client.put_item(**parameters)


def test_overlap_skip_waits_for_a_run_whose_put_is_still_under_way(world: World):
    schedule_id = world.jobs.create_schedule("work", **EVERY_MINUTE, overlap="skip")
    world.clock.now = first = world.jobs.get_schedule(schedule_id).next_run_at

    def turn_to_another_occurrence() -> None:
        world.jobs.disable_schedule(schedule_id)
        world.jobs.update_schedule(schedule_id, enabled=True)
        world.clock.now = world.jobs.get_schedule(schedule_id).next_run_at
        assert world.clock.now > first
        world.jobs.dispatch()

    world.another(dynamodb=Hanging(world, turn_to_another_occurrence, dies=False)).dispatch()

    (run,) = world.runs()
    assert run["occurrence"] == to_ms(first)


def test_overlap_skip_waits_twenty_minutes_for_a_run_whose_pass_has_died_before_its_put(world: World):
    schedule_id = world.jobs.create_schedule("work", **EVERY_MINUTE, overlap="skip")
    world.clock.now = first = world.jobs.get_schedule(schedule_id).next_run_at
    with pytest.raises(Died):
        world.another(dynamodb=Hanging(world, lambda: None, dies=True)).dispatch()
    world.jobs.disable_schedule(schedule_id)
    world.jobs.update_schedule(schedule_id, enabled=True)

    world.clock.now = first + timedelta(minutes=19)
    world.tick()
    assert world.runs() == []

    world.clock.now = first + timedelta(minutes=20)
    world.tick()
    assert [run["occurrence"] for run in world.runs()] == [to_ms(world.clock.now)]


@pytest.mark.parametrize("enabled_again", [False, True])
def test_a_decision_whose_reply_was_lost_does_not_undo_what_a_person_has_changed_since(
    world: World, enabled_again: bool
):
    schedule_id = world.jobs.create_schedule("work", **EVERY_MINUTE, overlap="skip")
    world.clock.now = first = world.jobs.get_schedule(schedule_id).next_run_at
    seen: list[datetime | None] = []

    class LosesAReply:
        """The SDK repeats the request to store the decision; by then the clock and a person have moved on."""

        def __getattr__(self, operation: str) -> Any:
            return getattr(world.aws.dynamodb, operation)

        def update_item(self, **parameters: Any) -> Any:
            answer = world.aws.dynamodb.update_item(**parameters)
            if not seen:
                world.clock.now = first + timedelta(minutes=5)
                world.jobs.disable_schedule(schedule_id)
                if enabled_again:
                    world.jobs.update_schedule(schedule_id, enabled=True)
                seen.append(world.jobs.get_schedule(schedule_id).next_run_at)
                return world.aws.dynamodb.update_item(**parameters)
            seen.append(world.jobs.get_schedule(schedule_id).next_run_at)
            return answer

    result = world.another(dynamodb=LosesAReply()).dispatch()

    assert result.errors == 0
    assert set(seen) == {first + timedelta(minutes=6) if enabled_again else None}
    assert [run["occurrence"] for run in world.runs()] == [to_ms(first)]


def test_a_dispatcher_that_saw_the_last_run_unfinished_does_not_skip_what_another_has_begun(world: World):
    schedule_id = world.jobs.create_schedule("work", **HOURLY, overlap="skip")
    world.clock.now = ONE
    world.tick()
    world.clock.now = NOW + timedelta(hours=2)
    begun: list[str] = []

    class Slow:
        """Before it writes to the schedule, the last run ends, and another dispatcher begins the next and dies."""

        def __getattr__(self, operation: str) -> Any:
            return getattr(world.aws.dynamodb, operation)

        def update_item(self, **parameters: Any) -> Any:
            if parameters["Key"]["sk"]["S"] == "schedule" and not begun:
                world.deliver()
                with contextlib.suppress(Died):
                    world.another(dynamodb=Dying(world, begun)).dispatch()
            return world.aws.dynamodb.update_item(**parameters)

    world.another(dynamodb=Slow()).dispatch()
    assert len(begun) == 1
    world.tick()
    assert world.jobs.get_schedule(schedule_id).last_scheduled_at == world.clock.now
    world.queue.waiting.clear()
    world.clock.now = NOW + timedelta(hours=3)
    world.tick()

    assert [item["pk"] for item in world.runs() if item["status"] != "succeeded"] == begun


def test_a_schedule_disabled_while_the_dispatcher_fires_it_stays_disabled(world: World):
    for at in range(1, 8):
        schedule_id = world.jobs.create_schedule("work", **HOURLY)
        world.clock.now = world.jobs.get_schedule(schedule_id).next_run_at
        disable = Interrupted(world.aws.dynamodb, lambda id=schedule_id: world.jobs.disable_schedule(id), at=at)
        world.another(dynamodb=disable).dispatch()

        schedule = world.jobs.get_schedule(schedule_id)
        assert at > 5 or (schedule.enabled, schedule.next_run_at) == (False, None)
        world.check()


def test_lost_replies_make_no_second_schedule_and_refuse_no_change(world: World):
    jobs = world.another(dynamodb=Repeated(world.aws.dynamodb))

    schedule_id = jobs.create_schedule("work", **HOURLY, schedule_key="k")
    world.aws.dynamodb.requests.clear()
    changed = jobs.update_schedule(schedule_id, payload=2)
    assert world.aws.dynamodb.count() == {"get_item": 1, "update_item": 2}
    assert (changed.payload, changed.id) == (2, schedule_id)
    assert stored(world, schedule_id)["revision"] == 2
    assert jobs.upsert_schedule("work", 3, schedule_key="k", **HOURLY) == schedule_id
    assert stored(world, schedule_id)["revision"] == 3

    world.clock.now = ONE
    assert jobs.dispatch() == DispatchResult(schedules=1)
    assert jobs.get_schedule(schedule_id).next_run_at == ONE + timedelta(hours=1)
    assert len(world.runs_of(schedule_id)) == 1


@pytest.mark.parametrize("applied", [False, True])
def test_an_advance_whose_connection_broke_is_made_good_by_the_next_pass(world: World, applied: bool):
    class NoAdvance:
        """Breaks every connection over which something is updated: here that is the schedule alone."""

        def __getattr__(self, operation: str) -> Any:
            return getattr(world.aws.dynamodb, operation)

        def update_item(self, **parameters: Any) -> Any:
            return Outage(applied=applied).wrap(world.aws.dynamodb).update_item(**parameters)

    schedule_id = world.jobs.create_schedule("work", **HOURLY)
    world.clock.now = ONE

    assert world.another(dynamodb=NoAdvance()).dispatch().errors == 1
    world.tick()

    assert len(world.runs_of(schedule_id)) == len(world.queue.taken) == 1
    assert world.jobs.get_schedule(schedule_id).next_run_at == ONE + timedelta(hours=1)


def test_a_run_of_a_schedule_can_be_canceled_before_its_time_and_stays_so(world: World):
    schedule_id = world.jobs.create_schedule("work", **HOURLY)
    world.clock.now = ONE - timedelta(seconds=60)
    world.tick()
    [run_id] = world.runs_of(schedule_id)

    assert world.jobs.cancel(run_id)

    world.clock.now = ONE
    world.tick()
    world.deliver()
    assert world.executed == []
    assert world.jobs.get_status(run_id).status == "canceled"


def test_the_runs_of_a_schedule_get_what_their_job_says_now(world: World):
    world.jobs.handler("strict", max_attempts=1, timeout=timedelta(seconds=9))(print)
    schedule_id = world.jobs.create_schedule("strict", **HOURLY)
    world.clock.now = ONE
    world.tick()

    item = world.aws.item(world.runs_of(schedule_id)[0])
    assert (item["max_attempts"], item["timeout_ms"]) == (1, 9000)


def test_a_process_that_only_makes_schedules_may_name_any_job(world: World):
    jobs = world.another(allow_unknown_jobs=True)

    assert jobs.get_schedule(jobs.create_schedule("elsewhere", **HOURLY)).job_name == "elsewhere"


def test_a_change_of_a_schedule_that_another_changed_meanwhile_changes_nothing(world: World):
    schedule_id = world.jobs.create_schedule("work", **HOURLY)
    seen = world.jobs.get_schedule(schedule_id)
    world.clock.advance(minutes=1)
    world.jobs.update_schedule(schedule_id, missed="latest")

    with pytest.raises(ScheduleChangedError, match=f"{schedule_id} was changed at 2026-03-14T12:01:00.000"):
        world.jobs.update_schedule(schedule_id, unchanged_since=seen.updated_at, schedule_expr="30 * * * *")

    after = world.jobs.get_schedule(schedule_id)
    assert (after.schedule_expr, after.missed) == ("0 * * * *", "latest")


def test_a_change_that_comes_between_the_reading_and_the_writing_is_seen(world: World, monkeypatch: Any):
    schedule_id = world.jobs.create_schedule("work", **HOURLY)
    seen = world.jobs.get_schedule(schedule_id)
    other = world.aws.jobs(clock=world.clock, allow_unknown_jobs=True)
    find = world.jobs._schedules._schedules.find
    world.clock.advance(minutes=1)

    def find_and_be_overtaken(schedule_id: str) -> Any:
        found = find(schedule_id)
        if found.schedule.missed == "all":
            other.update_schedule(schedule_id, missed="latest")
        return found

    monkeypatch.setattr(world.jobs._schedules._schedules, "find", find_and_be_overtaken)
    with pytest.raises(ScheduleChangedError):
        world.jobs.update_schedule(schedule_id, unchanged_since=seen.updated_at, schedule_expr="30 * * * *")

    assert world.jobs.get_schedule(schedule_id).schedule_expr == "0 * * * *"


def test_a_change_of_a_schedule_that_only_fired_meanwhile_is_made(world: World):
    schedule_id = world.jobs.create_schedule("work", **HOURLY)
    seen = world.jobs.get_schedule(schedule_id)
    world.clock.advance(hours=1, minutes=1)
    world.jobs.dispatch()

    after = world.jobs.update_schedule(schedule_id, unchanged_since=seen.updated_at, schedule_expr="30 * * * *")

    assert (after.schedule_expr, after.last_scheduled_at) == ("30 * * * *", ONE)


def test_the_next_occurrences_begin_with_the_stored_one_and_end_with_the_window(world: World):
    schedule_id = world.jobs.create_schedule("work", **HOURLY, end_at=NOW + timedelta(hours=3))
    schedule = world.jobs.get_schedule(schedule_id)

    assert world.jobs.next_occurrences(schedule, 2) == (ONE, ONE + timedelta(hours=1))
    assert world.jobs.next_occurrences(schedule) == tuple(NOW + timedelta(hours=hours) for hours in (1, 2, 3))
    assert world.jobs.next_occurrences(world.jobs.disable_schedule(schedule_id)) == ()


def test_the_next_occurrences_of_an_interval_keep_its_rhythm(world: World):
    schedule_id = world.jobs.create_schedule("work", schedule_type="interval", schedule_expr=timedelta(minutes=25))
    world.clock.advance(minutes=60)
    world.jobs.dispatch()

    found = world.jobs.next_occurrences(world.jobs.get_schedule(schedule_id), 2)

    assert found == (NOW + timedelta(minutes=75), NOW + timedelta(minutes=100))


@pytest.mark.parametrize(("given", "named"), [({"count": 0}, "count"), ({"schedule": "id"}, "schedule must be")])
def test_what_next_occurrences_cannot_take_is_refused(world: World, given: dict[str, Any], named: str):
    schedule = world.jobs.get_schedule(world.jobs.create_schedule("work", **HOURLY))

    with pytest.raises(InvalidArgumentError, match=named):
        world.jobs.next_occurrences(**({"schedule": schedule} | given))

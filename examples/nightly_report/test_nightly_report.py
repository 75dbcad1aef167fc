"""The nightly report, around the changes of Berlin's clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from examples.nightly_report import jobs as app
from examples.nightly_report.jobs import ORDERS, REPORTS, Shop, report, schedule, stored
from kumofire_core import Jobs
from kumofire_core.testing import InProcessAWS

BERLIN = Shop("berlin", "Europe/Berlin")
ZONE = ZoneInfo(BERLIN.timezone)
SPRING = datetime(2027, 3, 27, 12, tzinfo=ZONE)
AUTUMN = datetime(2027, 10, 30, 12, tzinfo=ZONE)


class Bucket:
    """Answers as the bucket does, unless it is down."""

    def __init__(self, s3: Any) -> None:
        self.is_down = False
        self._s3 = s3

    def put_object(self, **request: Any) -> Any:
        if self.is_down:
            raise ConnectionError("the bucket does not answer")
        return self._s3.put_object(**request)

    def rows(self, key: str) -> list[str]:
        """Return the lines of a report, below its heading."""
        text = self._s3.get_object(Bucket=REPORTS, Key=key)["Body"].read().decode()
        return list(text.splitlines()[1:])


@pytest.fixture
def kumofire_jobs() -> Jobs:
    return app.jobs


@pytest.fixture
def bucket(kumofire: InProcessAWS, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    found = Bucket(kumofire.s3)
    monkeypatch.setattr(app, "s3", lambda: found)
    monkeypatch.setattr(app, "dynamodb", lambda: kumofire.dynamodb)
    kumofire.create_table(ORDERS, key=("shop", "placed_at"))
    return found


def place(kumofire: InProcessAWS, *moments: datetime) -> None:
    for moment in moments:
        item = {"shop": {"S": "berlin"}, "placed_at": {"S": stored(moment)}, "cents": {"N": "1000"}}
        kumofire.dynamodb.put_item(TableName=ORDERS, Item=item)


def nights(kumofire: InProcessAWS) -> list[str]:
    """Return when the runs started, by the clocks of Berlin."""
    runs = kumofire.runs(report)
    return [f"{run.started_at.astimezone(ZONE):%d %H:%M %Z}" for run in runs if run.started_at]


def reported(kumofire: InProcessAWS) -> list[str]:
    return sorted(kumofire.s3.objects[REPORTS])


@pytest.mark.kumofire(now=SPRING)
def test_in_spring_the_night_without_half_past_two_has_its_report_at_three(
    kumofire: InProcessAWS, bucket: Bucket
) -> None:
    schedule(BERLIN)
    kumofire.drain(until=timedelta(days=3))

    assert nights(kumofire) == ["28 03:00 CEST", "29 02:30 CEST", "30 02:30 CEST"]
    assert reported(kumofire) == ["berlin/2027-03-27.csv", "berlin/2027-03-28.csv", "berlin/2027-03-29.csv"]


@pytest.mark.kumofire(now=AUTUMN)
def test_in_autumn_the_night_with_two_half_past_twos_has_one_report(kumofire: InProcessAWS, bucket: Bucket) -> None:
    schedule(BERLIN)
    kumofire.drain(until=timedelta(days=2))

    assert nights(kumofire) == ["31 02:30 CEST", "01 02:30 CET"]


@pytest.mark.kumofire(now=SPRING)
@pytest.mark.parametrize(
    ("first", "next_first", "hours"),
    [
        (datetime(2027, 3, 27, 23, tzinfo=UTC), datetime(2027, 3, 28, 22, tzinfo=UTC), 23),
        (datetime(2027, 10, 30, 22, tzinfo=UTC), datetime(2027, 10, 31, 23, tzinfo=UTC), 25),
    ],
)
def test_a_day_is_that_of_the_shops_clocks(
    kumofire: InProcessAWS, bucket: Bucket, first: datetime, next_first: datetime, hours: int
) -> None:
    """The moments are the midnights of Berlin, in UTC."""
    assert next_first - first == timedelta(hours=hours)
    second = timedelta(seconds=1)
    place(kumofire, first - second, first, next_first - second, next_first)
    kumofire.move_to(first)
    schedule(BERLIN)
    kumofire.drain(until=timedelta(days=2))

    day = first.astimezone(ZONE).date()
    assert bucket.rows(f"berlin/{day}.csv") == [f"{stored(moment)},1000" for moment in (first, next_first - second)]


@pytest.mark.kumofire(now=SPRING)
def test_a_report_that_an_outage_held_up_for_a_day_is_about_its_own_day(kumofire: InProcessAWS, bucket: Bucket) -> None:
    run_id = str(app.jobs.trigger_schedule(schedule(BERLIN)))
    bucket.is_down = True
    kumofire.drain(until=timedelta(hours=14))
    bucket.is_down = False

    run = kumofire.drain_run(run_id)

    assert run.scheduled_for.astimezone(ZONE).date() == (SPRING + timedelta(days=1)).date()
    assert run.output["key"] == "berlin/2027-03-26.csv"


@pytest.mark.kumofire(now=SPRING)
def test_nights_that_the_dispatcher_missed_have_their_reports_too(kumofire: InProcessAWS, bucket: Bucket) -> None:
    schedule(BERLIN)
    kumofire.move(days=3)
    kumofire.drain()

    assert reported(kumofire) == ["berlin/2027-03-27.csv", "berlin/2027-03-28.csv", "berlin/2027-03-29.csv"]


@pytest.mark.kumofire(now=SPRING, chaos=True)
def test_whatever_goes_wrong_each_night_has_one_report_with_each_order_once(
    kumofire: InProcessAWS, bucket: Bucket
) -> None:
    place(kumofire, SPRING)
    schedule(BERLIN)
    kumofire.drain(until=timedelta(days=2))

    assert reported(kumofire) == ["berlin/2027-03-27.csv", "berlin/2027-03-28.csv"]
    assert bucket.rows("berlin/2027-03-27.csv") == [f"{stored(SPRING)},1000"]

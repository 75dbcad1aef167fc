"""Rates: never more starts in any time of the rate's length, at the reserved moment; waiting counts no attempt."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from kumofire_core import ConfigurationError, JobContext, Jobs, Limit, Rate
from kumofire_core.engine import consumer
from kumofire_core.engine.rates import EARLY_MS, MOST_WAIT_US
from kumofire_core.rules.limits import beat_of
from tests.builders import NOW, NOW_MS, Aws, Clock, message
from tests.faults import Repeated

SECOND = timedelta(seconds=1)


class Slept(Clock):
    """A clock that a consumer's sleep moves, and that notes the sleeps."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.slept: list[float] = []
        self.late = timedelta()
        # Of the consumer alone: threads that other tests have left behind may sleep, too.
        patch.setattr(consumer, "time", SimpleNamespace(monotonic=time.monotonic, sleep=self._sleep))

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds) + self.late
        self.late = timedelta()


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> Slept:
    return Slept(monkeypatch)


class Mailer:
    """A job whose starts are noted."""

    def __init__(self, aws: Aws, clock: Clock, rate: Rate, **options: Any) -> None:
        self.aws = aws
        self.clock = clock
        self.starts: list[datetime] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self.jobs: Jobs = options.pop("jobs", None) or aws.jobs(clock=clock, concurrency=1)
        self.jobs.handler("mail", rate=rate, **options)(self._handle)

    def _handle(self, ctx: JobContext) -> None:
        self.starts.append(self.clock())
        self.meanwhile()

    def run(self, run_id: str | None = None, **fields: Any) -> str:
        return self.aws.a_run(run_id, job_name="mail", **({"payload": '{"to": "ann"}'} | fields))

    def consume(self, run_id: str) -> Any:
        return self.jobs.consume(message(run_id))


def rate_items(aws: Aws) -> list[dict[str, Any]]:
    return [item for item in aws.items() if item["sk"] == "rate"]


def test_runs_start_one_interval_after_another_and_wait_for_that_in_their_consumer(aws: Aws, slept: Slept):
    mailer = Mailer(aws, slept, Rate(10, per=SECOND))
    for _ in range(5):
        assert mailer.consume(mailer.run()).outcome == "succeeded"

    gaps = [later - earlier for earlier, later in zip(mailer.starts, mailer.starts[1:], strict=False)]
    assert mailer.starts[0] == NOW
    assert gaps == [timedelta(milliseconds=105)] * 4


def test_a_run_whose_moment_is_later_is_put_back_and_counts_no_attempt(aws: Aws, slept: Slept):
    mailer = Mailer(aws, slept, Rate(1, per=timedelta(seconds=10)))
    mailer.consume(mailer.run())

    result = mailer.consume(mailer.run("second"))

    run = mailer.jobs.get_status("second")
    moment = NOW + timedelta(seconds=10.5)
    assert (result.outcome, result.reason, result.attempt) == ("ignored", "limited", None)
    assert (run.status, run.attempt, run.waiting_for_limit) == ("scheduled", 0, True)
    assert run.scheduled_for == moment - timedelta(milliseconds=EARLY_MS)
    assert aws.sent() == [("second", 10)]
    assert len(slept.slept) == 1


def test_a_run_that_comes_for_its_moment_starts_at_it_without_another_reservation(aws: Aws, slept: Slept):
    mailer = Mailer(aws, slept, Rate(1, per=timedelta(seconds=10)))
    mailer.consume(mailer.run())
    mailer.consume(mailer.run("second"))
    before = rate_items(aws)
    slept.now = NOW + timedelta(seconds=9.6)

    assert mailer.consume("second").outcome == "succeeded"

    assert mailer.starts[1] == NOW + timedelta(seconds=10.5)
    assert rate_items(aws) == before
    assert not {"reserved", "rate_since"} & aws.item("second").keys()


def test_a_run_that_comes_too_early_again_is_put_back_without_another_reservation(aws: Aws, slept: Slept):
    mailer = Mailer(aws, slept, Rate(1, per=timedelta(minutes=1)))
    mailer.consume(mailer.run())
    mailer.consume(mailer.run("second"))
    before, reserved = rate_items(aws), aws.item("second")["reserved"]
    aws.change("second", scheduled_for=NOW_MS)  # as if another message had come for an earlier time

    assert mailer.consume("second").reason == "limited"

    assert (rate_items(aws), aws.item("second")["reserved"]) == (before, reserved)


@pytest.mark.parametrize("late_ms", [0, 400, 600, 20_000])
def test_a_run_that_comes_too_late_for_its_moment_reserves_another(aws: Aws, slept: Slept, late_ms: int):
    mailer = Mailer(aws, slept, Rate(1, per=timedelta(seconds=10)))
    mailer.consume(mailer.run())
    mailer.consume(mailer.run("second"))
    before = rate_items(aws)[0]["next"]
    slept.now = NOW + timedelta(seconds=10.5, milliseconds=late_ms)

    mailer.consume("second")

    reserved_anew = rate_items(aws)[0]["next"] != before
    assert reserved_anew == (late_ms > 500)
    assert len(mailer.starts) == (1 if late_ms == 600 else 2)


def test_a_consumer_that_wakes_up_too_late_does_not_start_late(aws: Aws, slept: Slept):
    mailer = Mailer(aws, slept, Rate(10, per=SECOND))
    mailer.consume(mailer.run())
    slept.late = timedelta(milliseconds=80)

    mailer.consume(mailer.run())

    assert mailer.starts[1] - mailer.starts[0] >= timedelta(milliseconds=210)


@pytest.mark.parametrize(
    ("count", "per"),
    [(1, 1), (3, 1), (100, 1), (7, 0.05), (1_000, 60), (10_000, 1), (999, 2.5), (1_000_000, 1)],
)
def test_no_time_of_its_length_sees_more_starts_than_the_rate_and_at_least_nine_of_ten(count: int, per: float):
    rate = Rate(count, per=timedelta(seconds=per))
    beats = {beat.item_id: beat for number in range(60_000) if (beat := beat_of(rate, "mail", None, str(number)))}
    # In a time of this length, starts whose moments lie in it, and those before it that are late.
    most = sum(-(-(rate.per_us + beat.slack_us) // beat.interval_us) for beat in beats.values())
    assert most <= count
    if len(beats) == -(-count // (400 * per)):  # all its items are among these
        assert sum(rate.per_us / beat.interval_us for beat in beats.values()) >= 0.9 * count


def test_each_key_has_its_own_rate_and_a_run_without_one_is_not_limited(aws: Aws, slept: Slept):
    mailer = Mailer(aws, slept, Rate(1, per=timedelta(minutes=1), key=lambda payload: payload["to"]))
    outcomes = [
        mailer.consume(mailer.run(payload=json.dumps({"to": to}))).outcome for to in ("ann", "bob", None, None, "ann")
    ]

    assert outcomes == ["succeeded"] * 4 + ["ignored"]
    assert len(rate_items(aws)) == 2


def test_a_run_that_reserves_costs_one_request_more_also_while_others_do(aws: Aws, slept: Slept):
    mailer = Mailer(aws, slept, Rate(10, per=SECOND))
    counts = []
    for _ in range(6):
        run_id, before = mailer.run(), len(aws.dynamodb.requests)
        mailer.consume(run_id)
        counts.append(len(aws.dynamodb.requests) - before)

    assert counts[3:] == [3, 3, 3]


def test_a_repeated_request_wastes_a_moment_and_never_gives_one_twice(aws: Aws, slept: Slept):
    jobs = aws.jobs(clock=slept, dynamodb=Repeated(aws.dynamodb))
    mailer = Mailer(aws, slept, Rate(10, per=SECOND), jobs=jobs)
    for _ in range(4):
        mailer.consume(mailer.run())

    gaps = [later - earlier for earlier, later in zip(mailer.starts, mailer.starts[1:], strict=False)]
    assert all(gap >= timedelta(milliseconds=105) for gap in gaps)


def test_a_run_that_waits_for_a_slot_reserves_no_moment_and_one_whose_moment_is_far_holds_no_slot(
    aws: Aws, slept: Slept
):
    mailer = Mailer(aws, slept, Rate(1, per=timedelta(minutes=1)), concurrency=Limit(1))
    seen: list[Any] = []

    mailer.run("waits")
    mailer.meanwhile = lambda: seen.extend([mailer.consume("waits").reason, aws.item("waits")])
    mailer.consume(mailer.run())
    assert seen[0] == "limited"
    assert "reserved" not in seen[1]

    assert mailer.consume("waits").reason == "limited"  # it has the slot, and its moment is in a minute
    assert "reserved" in aws.item("waits")
    assert all(item.get("n", 0) == 0 for item in aws.items() if item["sk"] == "limit")


def test_a_run_expires_by_the_time_that_it_was_for_and_not_by_its_moment(aws: Aws, slept: Slept):
    mailer = Mailer(aws, slept, Rate(1, per=timedelta(minutes=1)), expires_after=timedelta(seconds=30))
    mailer.consume(mailer.run())
    mailer.consume(mailer.run("second"))
    slept.now = NOW + timedelta(seconds=62)

    assert mailer.consume("second").outcome == "canceled"


def test_a_moment_beyond_what_sqs_can_delay_is_kept_by_the_dispatcher(aws: Aws, slept: Slept):
    mailer = Mailer(aws, slept, Rate(1, per=timedelta(hours=1)))
    mailer.consume(mailer.run())
    mailer.consume(mailer.run("second"))
    assert aws.sent() == []
    moment_us = int(aws.item("second")["reserved"].split()[1])
    slept.now = NOW + timedelta(microseconds=moment_us - NOW_MS * 1_000) - timedelta(seconds=60)
    assert mailer.jobs.dispatch().dispatched == 1
    slept.now += timedelta(seconds=58.9)

    assert mailer.consume("second").outcome == "succeeded"
    assert abs(mailer.starts[1] - mailer.starts[0] - timedelta(microseconds=moment_us - NOW_MS * 1_000)) < SECOND


def test_a_consumer_near_its_deadline_does_not_wait_for_a_moment(aws: Aws, slept: Slept):
    mailer = Mailer(aws, slept, Rate(1, per=SECOND))
    mailer.consume(mailer.run())
    mailer.run("second")

    result = mailer.jobs.consume(message("second"), deadline=slept() + timedelta(seconds=1.5))

    assert result.reason == "limited"
    assert MOST_WAIT_US > 1_050_000


@pytest.mark.parametrize(
    "arguments",
    [{"count": count, "per": SECOND} for count in (0, -1, 1.5, True, "3", None, 10**7)]
    + [{"count": 1, "per": per} for per in (1, "1s", timedelta(0), -SECOND, timedelta(days=31), None)]
    + [{"count": 1, "per": SECOND, "key": 5}, {"count": 1, "per": SECOND, "name": ""}],
)
def test_a_rate_that_makes_no_sense_is_refused(arguments: dict[str, Any]):
    with pytest.raises(ConfigurationError, match="of a Rate must be"):
        Rate(**arguments)


def test_what_is_no_rate_is_refused_where_the_job_is_registered(jobs: Jobs):
    with pytest.raises(ConfigurationError, match="rate of job 'a' must be a Rate"):
        jobs.handler("a", rate=Limit(1))(print)  # type: ignore[arg-type]

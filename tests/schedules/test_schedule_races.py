"""Races on MiniStack, which serves requests at once and judges each condition by itself: dispatchers and schedules."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from examples.local_aws import LocalAws
from kumofire_core import DispatchResult, JobContext, Jobs
from kumofire_core.engine.schedule_firing import occurrence_run_id
from kumofire_core.model.message import decode_body
from kumofire_core.model.times import to_ms
from tests.builders import Aws, make_aws, message

AT_ONCE = 4


class Race:
    """A table and a queue of this test's own, with the processes that race on them."""

    def __init__(self, ministack: LocalAws) -> None:
        self.dynamodb, self.sqs = ministack.client("dynamodb"), ministack.client("sqs")
        self.aws: Aws = make_aws(self.dynamodb, self.sqs, name=f"race-{uuid.uuid4().hex}")
        self.executed: Counter[str] = Counter()
        self.now = datetime.now(UTC)
        self._lock = threading.Lock()

    def process(self, **settings: Any) -> Jobs:
        """Return a ``Jobs`` of a process of its own, on a clock that stands still."""
        jobs = Jobs(
            table=self.aws.table,
            queue_url=self.aws.queue_url,
            dynamodb=self.dynamodb,
            sqs=self.sqs,
            clock=lambda: self.now,
            wake_shards=2,
            **settings,
        )
        jobs.handler("email")(self._execute)
        return jobs

    def _execute(self, ctx: JobContext) -> None:
        with self._lock:
            self.executed[ctx.run.id] += 1

    def messages(self) -> list[str]:
        """Take every message from the queue, and return the ids of their runs."""
        found: list[str] = []
        while received := self.sqs.receive_message(
            QueueUrl=self.aws.queue_url, MaxNumberOfMessages=10, VisibilityTimeout=600
        ).get("Messages"):
            found += [decode_body(each["Body"]) for each in received]
        return found

    def a_run(self, **fields: Any) -> str:
        """Store a run that is due, in one of the two shards."""
        now_ms = to_ms(self.now)
        number = next(_numbers)
        return self.aws.a_run(
            f"run-{number}",
            **{"status": "scheduled", "scheduled_for": now_ms, "wake_at": now_ms, "wake_shard": number % 2, **fields},
        )


def counter() -> Any:
    number = 0
    while True:
        yield number
        number += 1


_numbers = counter()


@pytest.fixture
def race(ministack: LocalAws) -> Race:
    return Race(ministack)


def at_once(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Make all calls at once, each in a thread; return their results, and raise the first error of any."""
    results: list[Any] = [None] * len(calls)
    errors: list[BaseException] = []
    start = threading.Barrier(len(calls))

    def make(index: int) -> None:
        try:
            start.wait()
            results[index] = calls[index]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=make, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def total(results: Sequence[DispatchResult], name: str) -> int:
    return sum(getattr(result, name) for result in results)


@pytest.mark.long
def test_dispatchers_that_race_send_each_run_once_and_each_is_executed_once(race: Race):
    due = [race.a_run() for _ in range(24)]
    lost = [race.a_run(status="queued") for _ in range(8)]
    dead = [race.a_run(status="running", lease_token="dead", lease_until=to_ms(race.now)) for _ in range(8)]
    last = [race.a_run(status="running", lease_token="dead", lease_until=to_ms(race.now), attempt=2) for _ in range(4)]
    alive = [race.a_run(status="running", lease_token="t", lease_until=to_ms(race.now) + 999_999) for _ in range(4)]

    results = at_once([race.process().dispatch for _ in range(AT_ONCE)])

    assert {name: total(results, name) for name in ("dispatched", "resent", "recovered", "failed", "errors")} == {
        "dispatched": 24, "resent": 8, "recovered": 8, "failed": 4, "errors": 0,
    }  # fmt: skip
    race.now += timedelta(seconds=2)
    sent = Counter(race.messages())
    for _ in range(40):
        if set(sent) >= set(dead):
            break
        threading.Event().wait(0.1)  # SQS holds the recovered runs back for their second
        sent.update(race.messages())
    assert sent == Counter(due + lost + dead)

    # Every message is delivered twice, to two consumers at once.
    consume = [race.process().consume for _ in range(2)]
    at_once([lambda each=each: [each(message(run_id)) for run_id in sent] for each in consume])
    assert race.executed == Counter(due + lost + dead)
    assert Counter(item["status"] for item in race.aws.items()) == {"succeeded": 40, "failed": 4, "running": 4}
    assert not set(race.executed) & set(last + alive)


def test_dispatchers_and_consumers_that_race_execute_each_run_once(race: Race):
    due = [race.a_run() for _ in range(20)]
    consumers = [race.process(), race.process()]

    at_once(
        [race.process().dispatch for _ in range(2)]
        + [lambda each=each: [each.consume(message(run_id)) for run_id in due] for each in consumers]
    )
    for run_id in race.messages():
        consumers[0].consume(message(run_id))

    assert race.executed == Counter(due)
    assert {item["status"] for item in race.aws.items()} == {"succeeded"}


@pytest.mark.parametrize("overlap", ["allow", "skip"])
def test_dispatchers_that_race_make_one_run_of_each_occurrence(race: Race, overlap: str):
    jobs = race.process()
    ids = [
        jobs.create_schedule("email", schedule_type="interval", schedule_expr="rate(10 minutes)", overlap=overlap)
        for _ in range(3)
    ]
    race.now += timedelta(minutes=45)
    occurrences = 4 if overlap == "allow" else 1

    results = at_once([race.process().dispatch for _ in range(AT_ONCE)])

    assert total(results, "schedules") == 3 * occurrences
    assert total(results, "errors") == 0
    runs = [item for item in race.aws.items() if item["pk"].startswith("run#")]
    assert Counter(item["schedule_id"] for item in runs) == dict.fromkeys(ids, occurrences)
    sent = race.messages()
    assert Counter(sent) == Counter(item["pk"].removeprefix("run#") for item in runs)
    for run_id in sent:
        jobs.consume(message(run_id))
    assert set(race.executed.values()) == {1}
    assert {jobs.get_schedule(id).next_run_at for id in ids} == {
        jobs.get_schedule(id).created_at + timedelta(minutes=50) for id in ids
    }


def test_a_hundred_upserts_at_once_make_one_schedule_with_the_settings_of_one_of_them(race: Race):
    processes = [race.process() for _ in range(10)]

    def upsert(number: int) -> Callable[[], str]:
        jobs = processes[number % len(processes)]
        return lambda: jobs.upsert_schedule(
            "email", {"n": number // 10}, schedule_key="k", schedule_type="cron", schedule_expr="@daily"
        )

    ids = at_once([upsert(number) for number in range(100)])

    assert len(set(ids)) == 1
    [item] = race.aws.items()
    schedule = processes[0].get_schedule_by_key("k")
    assert item["pk"] == f"schedule#{schedule.id}"
    assert schedule.payload in [{"n": number} for number in range(10)]
    assert schedule.enabled


def test_changes_at_once_keep_each_others_fields(race: Race):
    jobs = race.process()
    schedule_id = jobs.create_schedule("email", schedule_type="cron", schedule_expr="@daily")
    changes: list[dict[str, Any]] = [
        {"payload": {"changed": True}},
        {"max_attempts": 9},
        {"missed": "skip"},
        {"overlap": "skip"},
        {"timezone": "Asia/Kolkata"},
        {"schedule_expr": "30 4 * * *"},
        {"end_at": datetime(2100, 1, 1, tzinfo=UTC)},
        {"start_at": datetime(2026, 1, 1, tzinfo=UTC)},
    ]

    at_once([lambda change=change: race.process().update_schedule(schedule_id, **change) for change in changes])

    schedule = jobs.get_schedule(schedule_id)
    for change in changes:
        for name, value in change.items():
            assert getattr(schedule, name) == value
    alone = jobs.get_schedule(
        jobs.create_schedule(
            "email", **{"schedule_type": "cron"} | {name: value for each in changes for name, value in each.items()}
        )
    )
    assert schedule.next_run_at == alone.next_run_at
    [item] = [item for item in race.aws.items() if item["pk"] == f"schedule#{schedule_id}"]
    assert item["revision"] == 1 + len(changes)


def test_a_schedule_changed_while_dispatchers_fire_it_keeps_the_change_and_doubles_no_occurrence(race: Race):
    jobs = race.process()
    schedule_id = jobs.create_schedule("email", schedule_type="interval", schedule_expr="rate(1 minute)")
    race.now += timedelta(minutes=20)

    def change() -> None:
        for number in range(5):
            jobs.update_schedule(schedule_id, payload=number)

    at_once([change, *[race.process().dispatch for _ in range(3)]])
    race.process().dispatch()

    schedule = jobs.get_schedule(schedule_id)
    assert schedule.payload == 4
    runs = [item for item in race.aws.items() if item["pk"].startswith("run#")]
    assert len({item["scheduled_for"] for item in runs}) == len(runs) == 21
    assert occurrence_run_id(schedule_id, schedule.last_scheduled_at) in [item["pk"][4:] for item in runs]


def test_cancellations_and_retries_at_once_do_it_once(race: Race):
    jobs = race.process()
    run_id = jobs.create("email")

    assert Counter(at_once([lambda: race.process().cancel(run_id) for _ in range(8)])) == {True: 1, False: 7}
    assert jobs.get_status(run_id).status == "canceled"
    assert Counter(at_once([lambda: race.process().retry(run_id) for _ in range(8)])) == {True: 1, False: 7}
    assert len(jobs.get_status(run_id).history) == 1

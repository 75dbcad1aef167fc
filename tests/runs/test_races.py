"""Many at once, over real HTTP, on an emulator with safe conditional writes: one run, one holder, one execution."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from examples.local_aws import LocalAws
from kumofire_core import BulkOperation, JobContext, Jobs, RetryPolicy
from kumofire_core.model.batch import member_run_id
from tests.builders import Clock, LambdaContext, event, failures, make_aws, message

RACERS = 16


@dataclass(frozen=True)
class Race:
    """A table and a queue of one test's own, and a ``Jobs`` on them for each racer that wants its own clients."""

    ministack: LocalAws
    table: str
    queue_url: str

    def jobs(self, **settings: Any) -> Jobs:
        """Return a ``Jobs`` with clients of its own."""
        clients = {name: self.ministack.client(name) for name in ("dynamodb", "sqs")}
        return Jobs(**{"table": self.table, "queue_url": self.queue_url, "clock": Clock(), **clients, **settings})

    def receive(self) -> list[str]:
        """Return the bodies of all messages that are on the queue."""
        sqs, bodies = self.ministack.client("sqs"), []
        while batch := sqs.receive_message(QueueUrl=self.queue_url, MaxNumberOfMessages=10).get("Messages"):
            bodies += [entry["Body"] for entry in batch]
        return bodies


@pytest.fixture
def race(ministack: LocalAws) -> Race:
    name = f"race-{uuid.uuid4().hex[:8]}"
    aws = make_aws(ministack.client("dynamodb"), ministack.client("sqs"), name=name)
    return Race(ministack, aws.table, aws.queue_url)


def at_once(function: Callable[[], Any], times: int = RACERS) -> list[Any]:
    """Call ``function`` in as many threads, all let go in one moment."""
    barrier = threading.Barrier(times)

    def call(_: int) -> Any:
        barrier.wait(30)
        return function()

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(call, range(times)))


def test_of_many_consumers_of_one_run_exactly_one_executes_it(race: Race):
    executed = []
    jobs = race.jobs(handlers={"email": lambda ctx: executed.append(ctx.fencing_token)})

    for _ in range(5):
        run_id = jobs.create("email")
        executed.clear()
        outcomes = Counter(str(result.outcome) for result in at_once(lambda: jobs.consume(message(run_id))))  # noqa: B023

        assert outcomes == {"succeeded": 1, "ignored": RACERS - 1}
        assert executed == [1]
        assert jobs.get_status(run_id).status == "succeeded"


def test_of_many_that_find_an_expired_lease_exactly_one_takes_the_run_over(race: Race):
    clock, executed = Clock(), []

    def email(ctx: JobContext) -> None:
        executed.append((ctx.attempt, ctx.fencing_token))
        if ctx.attempt == 1:
            raise KeyboardInterrupt

    jobs = race.jobs(clock=clock, handlers={"email": email})
    run_id = jobs.create("email")
    with pytest.raises(KeyboardInterrupt):
        jobs.consume(message(run_id))
    clock.now += timedelta(seconds=36)

    outcomes = Counter(str(result.outcome) for result in at_once(lambda: jobs.consume(message(run_id))))

    assert outcomes == {"succeeded": 1, "ignored": RACERS - 1}
    assert executed == [(1, 1), (2, 2)]
    assert jobs.get_status(run_id).attempt == 1


def test_of_many_that_find_a_lost_last_attempt_exactly_one_fails_the_run(race: Race):
    clock = Clock()

    def email(ctx: JobContext) -> None:
        raise KeyboardInterrupt

    jobs = race.jobs(clock=clock, handlers={"email": email})
    run_id = jobs.create("email", max_attempts=1)
    with pytest.raises(KeyboardInterrupt):
        jobs.consume(message(run_id))
    clock.now += timedelta(seconds=36)

    outcomes = Counter(str(result.outcome) for result in at_once(lambda: jobs.consume(message(run_id))))

    assert outcomes == {"failed": 1, "ignored": RACERS - 1}
    assert jobs.get_status(run_id).attempt == 1


def test_one_dedupe_key_makes_one_run_and_one_message_however_many_create_it(race: Race):
    jobs = race.jobs()

    for number in range(5):
        ids = at_once(lambda: jobs.create("email", uuid.uuid4().hex, dedupe_key=f"order-{number}"))  # noqa: B023

        assert len(set(ids)) == 1

    received = race.receive()
    assert len(received) == len(set(received)) == 5


@pytest.mark.long
@pytest.mark.parametrize("mode", ["unfinished", "debounce", timedelta(hours=1)], ids=str)
def test_a_key_makes_one_run_at_a_time_however_many_create_it(race: Race, mode: Any):
    clock = Clock()
    jobs = race.jobs(clock=clock, handlers={"email": lambda ctx: None})
    made = []

    for _ in range(4):
        ids = at_once(lambda: jobs.create("email", uuid.uuid4().hex, dedupe_key="k", dedupe=mode))
        assert len(set(ids)) == 1
        made.append(ids[0])
        assert jobs.consume(message(ids[0])).outcome == "succeeded"
        clock.now += timedelta(hours=2)

    assert len(set(made)) == 4
    assert jobs.find_run(dedupe_key="k").id == made[-1]


@pytest.mark.long
def test_many_processes_that_resume_one_operation_retry_each_run_once(race: Race):
    jobs = race.jobs()
    runs = [jobs.create("email") for _ in range(230)]
    for run_id in runs:
        jobs.cancel(run_id)
    begun: list[str] = []

    def stop(operation: BulkOperation) -> None:
        begun.append(str(operation.id))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jobs.retry_many(status="canceled", on_progress=stop)

    resumed = at_once(lambda: race.jobs().resume_bulk(begun[0]), times=4)

    assert sum(operation.done for operation in resumed) >= 1
    assert [jobs.get_status(run_id).retries for run_id in runs] == [1] * 230
    done = jobs.get_bulk(begun[0])
    assert (done.done, done.failed) == (True, 0)
    assert done.changed <= 230


def test_one_batch_in_many_processes_executes_each_run_once(race: Race):
    executed: Counter[str] = Counter()
    lock = threading.Lock()

    def email(ctx: JobContext) -> None:
        with lock:
            executed[ctx.run.id] += 1

    consumers = [race.jobs(handlers={"email": email}) for _ in range(4)]
    runs = [consumers[0].create("email") for _ in range(10)]
    batch = event(*runs)

    waiting = iter(consumers)
    responses = at_once(lambda: next(waiting).consume_batch(batch, LambdaContext()), times=4)

    assert [failures(response) for response in responses] == [[]] * 4
    assert executed == dict.fromkeys(runs, 1)


def test_a_retry_and_its_repeated_deliveries_count_each_attempt_once(race: Race):
    clock = Clock()

    def email(ctx: JobContext) -> None:
        raise ValueError("boom")

    # The first wait is longer than the second of clock skew that a copy of the message may use.
    jobs = race.jobs(clock=clock, retry=RetryPolicy(base=timedelta(seconds=5)), handlers={"email": email})
    run_id = jobs.create("email", max_attempts=3)

    rounds = []
    for _ in range(4):
        rounds.append(Counter(str(result.outcome) for result in at_once(lambda: jobs.consume(message(run_id)), 8)))
        clock.now += timedelta(seconds=60)

    assert [dict(outcomes) for outcomes in rounds] == [
        {"retried": 1, "ignored": 7},
        {"retried": 1, "ignored": 7},
        {"failed": 1, "ignored": 7},
        {"ignored": 8},
    ]
    assert jobs.get_status(run_id).attempt == 3


@pytest.mark.long
def test_members_that_end_at_once_call_back_once_and_creators_at_once_make_one_batch(race: Race):
    called: Counter[str] = Counter()
    jobs = race.jobs(handlers={"part": lambda ctx: ctx.payload, "gather": lambda ctx: ctx.batch.succeeded})
    jobs.on("created")(lambda event: called.update([event.job_name]))
    requests = [{"name": "part", "payload": number} for number in range(RACERS)]

    for round in range(3):
        made = at_once(lambda: jobs.create_batch(requests, then="gather", key=f"k-{round}"), times=4)  # noqa: B023
        assert len(set(made)) == 1
        members = iter([member_run_id(made[0], index) for index in range(RACERS)])
        at_once(lambda: jobs.consume(message(next(members))))  # noqa: B023
        batch = jobs.get_batch(made[0])
        assert (batch.state, batch.succeeded) == ("done", RACERS)
        assert jobs.consume(message(batch.then_run_id)).outcome == "succeeded"
        assert jobs.get_status(batch.then_run_id).output == RACERS

    assert jobs.wait_for_hooks(timedelta(seconds=10))
    assert called == {"part": 3 * RACERS, "gather": 3}
    assert Counter(race.receive()).most_common(1)[0][1] == 1  # no message was sent twice

"""Pausing jobs: nothing of them starts, their runs wait visibly, and go on in the order of their times."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from kumofire_core import InvalidArgumentError, JobContext, Jobs, KumofireError, Pause, UnknownJobError
from kumofire_core.engine import pause_reader, resuming
from kumofire_core.rules.listing import list_shard
from kumofire_core.rules.run_writes import PARKED_LOOK_MS
from tests.builders import NOW, NOW_MS, Aws, Clock, event, message
from tests.faults import Interrupted, Outage, Refused, Repeated
from tests.worlds import World, a_world

SECONDS = 1_000


@pytest.fixture
def world() -> Iterator[World]:
    with a_world() as world:
        yield world


def reads(aws: Aws) -> int:
    """How often the item of the pauses was read."""
    return sum(request["Key"]["pk"]["S"] == "settings#pause" for request in aws.dynamodb.parameters("get_item"))


def pause_item(aws: Aws) -> dict[str, Any] | None:
    key = {"pk": {"S": "settings#pause"}, "sk": {"S": "settings"}}
    item = aws.dynamodb.client.get_item(TableName=aws.table, Key=key).get("Item")
    return None if item is None else json.loads(item["pauses"]["S"])


def parked(aws: Aws, jobs: Jobs, **fields: Any) -> str:
    """Return a run that a consumer has put aside; its job is paused for that and stays so."""
    jobs.pause(fields.get("job_name", "email"))
    run_id = aws.a_run(**fields)
    assert aws.jobs(clock=jobs._clock).consume(message(run_id)).reason == "paused"
    return run_id


# What a pause does.


def test_a_run_of_a_paused_job_is_put_aside_and_keeps_its_time_and_its_attempts(jobs: Jobs, aws: Aws):
    called: list[JobContext] = []
    jobs.handler("email")(called.append)
    jobs.pause("email", reason="bad deployment")
    run_id = aws.a_run(attempt=1, scheduled_for=NOW_MS - 5_000)

    result = jobs.consume(message(run_id))

    run = jobs.get_status(run_id)
    assert (result.outcome, result.reason, result.attempt) == ("ignored", "paused", None)
    assert called == []
    assert (run.status, run.paused, run.attempt) == ("scheduled", True, 1)
    assert run.scheduled_for == NOW - timedelta(seconds=5)
    assert aws.sent() == []


def test_runs_of_other_jobs_go_on(jobs: Jobs, aws: Aws):
    jobs.handler("email")(lambda ctx: None)
    jobs.handler("report")(lambda ctx: None)
    jobs.pause("report")

    assert jobs.consume(message(aws.a_run())).outcome == "succeeded"


def test_when_all_jobs_are_paused_none_starts(jobs: Jobs, aws: Aws):
    jobs.handler("email")(lambda ctx: None)
    jobs.pause()

    assert jobs.consume(message(aws.a_run())).reason == "paused"
    assert jobs.pauses() == (Pause(job_name=None, since=NOW, until=None, reason=None),)


def test_a_paused_job_without_a_handler_here_does_not_fail_its_runs(jobs: Jobs, aws: Aws):
    jobs.pause("email")

    assert jobs.consume(message(run_id := aws.a_run())).reason == "paused"
    assert jobs.get_status(run_id).status == "scheduled"


def test_an_attempt_that_is_executing_goes_on(jobs: Jobs, aws: Aws):
    jobs.handler("email")(lambda ctx: jobs.pause("email"))

    assert jobs.consume(message(aws.a_run())).outcome == "succeeded"


def test_a_run_of_a_lost_worker_does_not_start_again_while_its_job_is_paused(jobs: Jobs, aws: Aws):
    called: list[JobContext] = []
    jobs.handler("email")(called.append)
    jobs.pause("email")
    run_id = aws.a_running_run(lease_until=NOW_MS)

    assert jobs.consume(message(run_id)).reason == "paused"

    run = jobs.get_status(run_id)
    assert (called, run.paused, run.attempt) == ([], True, 1)


def test_a_second_message_of_a_run_put_aside_leaves_it_aside(jobs: Jobs, aws: Aws):
    run_id = parked(aws, jobs)

    assert jobs.consume(message(run_id)).reason == "paused"

    assert jobs.get_status(run_id).paused
    assert {"list_shard", "list_at", "parked"} <= aws.item(run_id).keys()


def test_a_batch_tells_once_how_many_runs_it_put_aside(jobs: Jobs, aws: Aws, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "kumofire_core")
    jobs.pause("email")

    report = jobs.run_batch(event(*(aws.a_run() for _ in range(3))))

    assert report.response() == {"batchItemFailures": []}
    assert [record.getMessage() for record in caplog.records] == [
        "3 runs were put aside, because their jobs are paused"
    ]


def test_batched_claims_are_put_aside_as_well(aws: Aws):
    called: list[JobContext] = []
    jobs = aws.jobs(batch_writes=True, concurrency=4, handlers={"email": called.append})
    jobs.pause("email")
    run_ids = [aws.a_run() for _ in range(4)]

    jobs.consume_batch(event(*run_ids))

    assert called == []
    assert all(jobs.get_status(run_id).paused for run_id in run_ids)


def test_a_cancellation_that_comes_between_claim_and_putting_aside_is_carried_out(jobs: Jobs, aws: Aws):
    jobs.pause("email")
    run_id = aws.a_run()
    # Its requests: the pauses, the claim, the write that puts it aside.
    between = Interrupted(aws.dynamodb, lambda: jobs.cancel(run_id, "no more"), at=3)

    result = aws.jobs(dynamodb=between).consume(message(run_id))

    run = jobs.get_status(run_id)
    assert result.outcome == run.status == "canceled"
    assert (run.cancel_reason, run.paused) == ("no more", False)


def test_a_reply_lost_while_a_run_is_put_aside_does_no_harm(aws: Aws):
    jobs = aws.jobs(dynamodb=Repeated(aws.dynamodb))
    jobs.pause("email")

    assert jobs.consume(message(run_id := aws.a_run())).reason == "paused"
    assert jobs.get_status(run_id).paused


# How consumers know.


def test_executing_costs_one_read_in_fifteen_seconds_and_none_a_run(aws: Aws, clock: Clock):
    jobs = aws.jobs(clock=clock, counts=False, handlers={"email": lambda ctx: None})

    for _ in range(3):
        jobs.consume(message(aws.a_run(scheduled_for=1)))
    assert aws.dynamodb.count() == {"get_item": 1, "update_item": 6}

    clock.advance(seconds=14.9)
    jobs.consume_batch(event(*(aws.a_run() for _ in range(5))))
    assert aws.dynamodb.count() == {"get_item": 1, "update_item": 16}

    clock.advance(seconds=0.1)
    jobs.consume_batch(event(*(aws.a_run() for _ in range(5))))
    assert aws.dynamodb.count() == {"get_item": 2, "update_item": 26}


def test_a_process_that_starts_reads_before_its_first_run(jobs: Jobs, aws: Aws):
    jobs.pause("email")
    called: list[JobContext] = []

    aws.jobs(handlers={"email": called.append}).consume(message(aws.a_run()))

    assert called == []


def test_a_consumer_hears_of_a_pause_within_fifteen_seconds_and_of_its_end(jobs: Jobs, aws: Aws, clock: Clock):
    other = aws.jobs(clock=clock, handlers={"email": lambda ctx: None})
    assert other.consume(message(aws.a_run())).outcome == "succeeded"

    jobs.pause("email")
    clock.advance(seconds=15)
    assert other.consume(message(aws.a_run())).reason == "paused"

    jobs.resume("email")
    clock.advance(seconds=15)
    assert other.consume(message(aws.a_run())).outcome == "succeeded"


def test_a_run_that_is_claimed_from_a_state_that_grew_old_meanwhile_does_not_start(aws: Aws, jobs: Jobs, clock: Clock):
    """The claim takes 45 seconds, and the pause comes meanwhile: with the read before the claim alone, it would run."""
    called: list[JobContext] = []

    def meanwhile() -> None:
        jobs.pause("email")
        clock.advance(seconds=45)

    slow = Interrupted(aws.dynamodb, meanwhile, at=2)
    other = aws.jobs(clock=clock, dynamodb=slow, handlers={"email": called.append}, lease=timedelta(minutes=5))

    assert other.consume(message(aws.a_run())).reason == "paused"
    assert called == []


def test_a_clock_that_was_set_back_does_not_keep_an_old_state_for_hours(jobs: Jobs, aws: Aws, clock: Clock):
    jobs.handler("email")(lambda ctx: None)
    jobs.consume(message(aws.a_run()))

    clock.advance(hours=-1)
    aws.jobs(clock=clock).pause("email")

    assert jobs.consume(message(aws.a_run(scheduled_for=1))).reason == "paused"


class Switched:
    """Breaks the reads of the pauses while it is on."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.on = False
        self.tried = 0

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        return getattr(self.client, operation)

    def get_item(self, **parameters: Any) -> Any:
        self.tried += 1
        if self.on:
            return Refused("ProvisionedThroughputExceededException").get_item(**parameters)
        return self.client.get_item(**parameters)


@pytest.mark.parametrize("paused", [True, False])
def test_while_reads_fail_what_was_known_stays_and_one_line_tells(
    jobs: Jobs, aws: Aws, clock: Clock, caplog: pytest.LogCaptureFixture, paused: bool
):
    table = Switched(aws.dynamodb)
    other = aws.jobs(clock=clock, dynamodb=table, handlers={"email": lambda ctx: None})
    if paused:
        jobs.pause("email")
    other.consume(message(aws.a_run()))
    table.on, table.tried = True, 0

    for _ in range(40):
        clock.advance(seconds=1.5)
        result = other.consume(message(aws.a_run()))
        assert (result.reason == "paused") is paused

    told = [record for record in caplog.records if "could not be read" in record.getMessage()]
    assert len(told) == 1
    assert table.tried <= 60 / 5, "a failed read is not tried again for each run"

    table.on = False
    if not paused:
        jobs.pause("email")
    clock.advance(seconds=15)
    assert other.consume(message(aws.a_run())).reason == "paused", "it reads again once that is possible"


def test_a_process_that_never_could_read_does_its_work(aws: Aws, jobs: Jobs):
    table = Switched(aws.dynamodb)
    table.on = True
    jobs.pause("email")

    other = aws.jobs(dynamodb=table, handlers={"email": lambda ctx: None})

    assert other.consume(message(aws.a_run())).outcome == "succeeded"


@pytest.mark.parametrize(
    "fields",
    [
        {"schema": 3},
        {"pauses": "not JSON"},
        {"pauses": "[]"},
        {"pauses": '{"paused":[[5,1,null,null]]}'},
        {"version": "x"},
    ],
    ids=str,
)
def test_an_item_that_can_not_be_read_stops_no_consumer_and_is_told_to_people(
    jobs: Jobs, aws: Aws, caplog: pytest.LogCaptureFixture, fields: dict[str, Any]
):
    jobs.pause("report")
    key = {"pk": {"S": "settings#pause"}, "sk": {"S": "settings"}}
    item = aws.dynamodb.client.get_item(TableName=aws.table, Key=key)["Item"]
    typed = {name: {"S": value} if isinstance(value, str) else {"N": str(value)} for name, value in fields.items()}
    aws.dynamodb.client.put_item(TableName=aws.table, Item=item | typed)
    jobs.handler("email")(lambda ctx: None)

    assert jobs.consume(message(aws.a_run())).outcome == "succeeded"
    assert "settings#pause" in caplog.text
    for call in (jobs.pauses, jobs.pause, jobs.resume):
        with pytest.raises(KumofireError, match="settings#pause"):
            call()
    assert jobs.dispatch().errors == 1


# What is written.


def test_pausing_and_resuming_are_a_read_and_a_write_each(jobs: Jobs, aws: Aws):
    jobs.pause("email")
    assert aws.dynamodb.count() == {"get_item": 1, "put_item": 1}
    aws.dynamodb.requests.clear()

    jobs.resume("email")
    assert aws.dynamodb.count() == {"get_item": 1, "update_item": 1}


def test_pauses_are_listed_with_all_first_and_those_that_are_over_left_out(jobs: Jobs, clock: Clock):
    jobs.pause("email", reason="why")
    jobs.pause("report", until=NOW + timedelta(minutes=5))
    jobs.pause("audit", until=NOW + timedelta(minutes=1))
    jobs.pause()
    clock.advance(minutes=1)

    assert jobs.pauses() == (
        Pause(job_name=None, since=NOW, until=None, reason=None),
        Pause(job_name="email", since=NOW, until=None, reason="why"),
        Pause(job_name="report", since=NOW, until=NOW + timedelta(minutes=5), reason=None),
    )


def test_pausing_again_replaces_reason_and_end_and_keeps_the_beginning(jobs: Jobs, clock: Clock):
    jobs.pause("email", reason="one", until=NOW + timedelta(minutes=1))
    clock.advance(seconds=30)
    jobs.pause("email", reason="two")
    assert jobs.pauses() == (Pause(job_name="email", since=NOW, until=None, reason="two"),)

    jobs.pause("email", until=NOW + timedelta(minutes=1))
    clock.advance(hours=1)
    jobs.pause("email")
    [again] = jobs.pauses()
    assert again.since == clock.now, "the earlier pause was over"


def test_resuming_says_whether_it_was_paused(jobs: Jobs, clock: Clock):
    assert jobs.resume("email") is False
    jobs.pause("email", until=NOW + timedelta(minutes=1))
    assert jobs.resume() is False, "the pause of one job is not the pause of all"
    assert jobs.resume("email") is True
    assert jobs.resume("email") is False

    jobs.pause("email", until=NOW + timedelta(minutes=1))
    clock.advance(minutes=1)
    assert jobs.resume("email") is False


def test_of_many_who_pause_at_once_each_succeeds(aws: Aws):
    names = [f"job-{number}" for number in range(12)]
    barrier = threading.Barrier(len(names))

    def run(name: str) -> None:
        barrier.wait()
        aws.jobs().pause(name)

    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {pause.job_name for pause in aws.jobs().pauses()} == set(names)


@pytest.mark.parametrize("at", [1, 2])
def test_a_pause_made_in_between_is_not_overwritten(jobs: Jobs, aws: Aws, at: int):
    jobs.pause("first")
    between = Interrupted(aws.dynamodb, lambda: aws.jobs().pause("second"), at=at)

    aws.jobs(dynamodb=between).pause("third")

    assert {pause.job_name for pause in jobs.pauses()} == {"first", "second", "third"}


class LosesReply:
    """Loses the reply of each write, and lets somebody else write before the request is repeated."""

    def __init__(self, client: Any, meanwhile: Callable[[], object]) -> None:
        self.client = client
        self.meanwhile: Callable[[], object] | None = meanwhile

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        method = getattr(self.client, operation)

        def request(**parameters: Any) -> Any:
            if operation in ("put_item", "update_item") and self.meanwhile is not None:
                method(**parameters)
                meanwhile, self.meanwhile = self.meanwhile, None
                meanwhile()
            return method(**parameters)

        return request


@pytest.mark.parametrize("earlier", [False, True], ids=["first write", "later write"])
def test_a_change_whose_reply_was_lost_is_not_made_a_second_time_over_a_later_one(jobs: Jobs, earlier: bool, aws: Aws):
    """The pause was made, and then ended by another person; its repeated request must not pause the job again."""
    if earlier:
        jobs.pause("report")
    lossy = LosesReply(aws.dynamodb, lambda: jobs.resume("email"))

    aws.jobs(dynamodb=lossy).pause("email")

    assert "email" not in {pause.job_name for pause in jobs.pauses()}


def test_a_resumption_whose_reply_was_lost_is_told_as_made(jobs: Jobs, aws: Aws):
    jobs.pause("email")
    lossy = LosesReply(aws.dynamodb, lambda: jobs.pause("report"))

    assert aws.jobs(dynamodb=lossy).resume("email") is True


def test_what_can_not_be_paused_is_refused_and_nothing_is_written(jobs: Jobs, aws: Aws):
    with pytest.raises(InvalidArgumentError, match="is over"):
        jobs.pause("email", until=NOW)
    jobs.handler("email")(lambda ctx: None)
    with pytest.raises(UnknownJobError, match="emial"):
        jobs.pause("emial")
    assert aws.items() == []

    aws.jobs(allow_unknown_jobs=True, handlers={"email": print}).pause("emial")
    assert jobs.resume("emial") is True


def test_pauses_that_every_consumer_would_have_to_read_are_bounded(jobs: Jobs, aws: Aws):
    def pause_many() -> None:
        for number in range(100):
            jobs.pause(f"job-{number}", reason="x" * 1000)

    with pytest.raises(InvalidArgumentError, match="65536 bytes together; give shorter reasons"):
        pause_many()

    paused = jobs.pauses()
    assert 60 <= len(paused) < 66
    assert all(jobs.resume(pause.job_name) for pause in paused), "what is full can be emptied"


# What happens to its runs meanwhile, and afterwards.


def test_runs_go_on_in_the_order_of_their_times_when_the_job_is_resumed(world: World):
    jobs = world.jobs
    jobs.pause("work")
    run_ids = [jobs.create("work", run_at=NOW - timedelta(seconds=second)) for second in (5, 30, 1, 20, 10)]
    by_time = [run_ids[index] for index in (1, 3, 4, 0, 2)]
    world.deliver()
    assert world.statuses() == {"scheduled": 5}
    world.clock.advance(seconds=20)
    world.queue.taken.clear()

    assert jobs.resume("work") is True
    result = world.tick()

    assert (result.resumed, result.dispatched, result.complete) == (5, 0, True)
    assert [run_id for run_id, _ in world.queue.taken] == by_time
    assert {item["status"] for item in world.runs()} == {"queued"}
    assert [aside(item) for item in world.runs()] == [set()] * 5
    world.deliver()
    assert [run_id for run_id, _, _ in world.executed] == by_time
    assert world.statuses() == {"succeeded": 5}


def test_the_runs_of_a_job_still_paused_stay_when_another_is_resumed(world: World):
    world.jobs.pause("work")
    world.jobs.pause("flaky")
    world.jobs.create("work")
    world.jobs.create("flaky")
    world.deliver()

    world.jobs.resume("work")

    assert world.tick().resumed == 1
    assert [item["job_name"] for item in world.runs() if "parked" in item] == ["flaky"]


def test_a_job_paused_by_its_name_waits_on_when_all_are_resumed_and_the_other_way_round(world: World):
    jobs = world.jobs
    jobs.pause()
    jobs.pause("work")
    jobs.create("work")
    jobs.create("flaky")
    world.deliver()

    jobs.resume("work")
    assert world.tick().resumed == 0, "all are paused"
    jobs.pause("work")
    jobs.resume()
    assert world.tick().resumed == 1
    assert [item["job_name"] for item in world.runs() if "parked" in item] == ["work"]


def test_a_pause_whose_time_is_over_ends_by_itself(world: World):
    world.jobs.pause("work", until=NOW + timedelta(minutes=10))
    world.jobs.create("work")
    world.deliver()
    world.clock.advance(minutes=9)
    assert world.tick().resumed == 0

    world.clock.advance(minutes=1)
    assert world.tick().resumed == 1
    world.deliver()
    assert world.statuses() == {"succeeded": 1}

    world.clock.advance(minutes=5)
    world.tick()
    assert pause_item(world.aws) == {"paused": [], "resuming": [], "writes": pause_item(world.aws)["writes"]}


def test_a_run_put_aside_late_by_a_consumer_that_knew_of_the_pause_alone_goes_on(world: World):
    world.jobs.pause("work")
    late = world.another()
    late.consume(message("nobody"))
    world.jobs.resume("work")
    world.tick()
    world.clock.advance(seconds=14)

    run_id = world.jobs.create("work")
    assert late.consume(message(run_id)).reason == "paused"

    assert world.tick().resumed == 1


def test_a_resumed_job_is_looked_after_until_nothing_was_found_five_minutes_later(world: World):
    world.jobs.pause("work")
    world.jobs.resume("work")
    for _ in range(5):
        world.tick()
        assert pause_item(world.aws)["resuming"] == [["work", NOW_MS]]
        world.clock.advance(minutes=1)

    world.tick()
    assert pause_item(world.aws)["resuming"] == []

    world.aws.dynamodb.requests.clear()
    world.tick()
    assert "listing" not in {request.get("IndexName") for request in world.aws.dynamodb.parameters("query")}


def test_a_job_of_which_something_was_found_just_now_is_looked_after_further(world: World):
    world.jobs.pause("work")
    world.jobs.create("work")
    world.deliver()
    world.jobs.resume("work")
    world.clock.advance(minutes=6)

    assert world.tick().resumed == 1
    assert pause_item(world.aws)["resuming"] == [["work", NOW_MS]]
    world.tick()
    assert pause_item(world.aws)["resuming"] == []


def test_a_job_paused_again_while_it_is_resumed_is_paused(world: World):
    world.jobs.pause("work")
    world.jobs.create("work")
    world.deliver()
    world.jobs.resume("work")
    world.jobs.pause("work")

    assert world.tick().resumed == 0
    assert pause_item(world.aws)["resuming"] == []
    assert [pause.job_name for pause in world.jobs.pauses()] == ["work"]


def test_a_job_paused_again_during_a_long_pass_is_not_resumed_further_nor_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(resuming, "ROUND", 2)
    jobs = world.jobs
    jobs.pause("work")
    for _ in range(6):
        jobs.create("work")
    world.deliver()
    jobs.resume("work")
    world.clock.advance(minutes=6)

    class Pausing:
        """Pauses the job again after the first messages, and lets time go by."""

        def __getattr__(self, operation: str) -> Any:
            return getattr(world.queue, operation)

        def send_message_batch(self, **request: Any) -> Any:
            world.clock.advance(seconds=20)
            jobs.pause("work", reason="again")
            return world.queue.send_message_batch(**request)

    result = world.another(sqs=Pausing()).dispatch()

    assert result.resumed == 2
    assert [pause.reason for pause in jobs.pauses()] == ["again"]
    assert sum("parked" in item for item in world.runs()) == 4


def test_a_pause_made_during_a_pass_that_finds_nothing_of_its_job_is_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(resuming, "ROUND", 2)
    jobs = world.jobs
    jobs.pause("work")
    jobs.pause("flaky")
    for _ in range(4):
        jobs.create("flaky")
    world.deliver()
    jobs.resume("work")
    jobs.resume("flaky")
    world.clock.advance(minutes=6)

    class Pausing:
        """Pauses the other job after the first messages, and lets time go by."""

        def __getattr__(self, operation: str) -> Any:
            return getattr(world.queue, operation)

        def send_message_batch(self, **request: Any) -> Any:
            if not jobs.pauses():
                world.clock.advance(seconds=20)
                jobs.pause("work")
            return world.queue.send_message_batch(**request)

    assert world.another(sqs=Pausing()).dispatch().resumed == 4
    assert [pause.job_name for pause in jobs.pauses()] == ["work"]


def test_resuming_is_bounded_by_the_limit_and_goes_on_with_the_next_pass(world: World):
    jobs = world.jobs
    jobs.pause("work")
    run_ids = [jobs.create("work", run_at=NOW - timedelta(seconds=10 - number)) for number in range(10)]
    world.deliver()
    jobs.resume("work")
    world.queue.taken.clear()

    first = world.tick(limit=4)
    second = world.tick(limit=4)
    third = world.tick(limit=4)

    assert [(result.resumed, result.complete) for result in (first, second, third)] == [
        (4, False),
        (4, False),
        (2, True),
    ]
    assert [run_id for run_id, _ in world.queue.taken] == run_ids


def test_resuming_stops_at_the_deadline(world: World):
    world.jobs.pause("work")
    world.jobs.create("work")
    world.deliver()
    world.jobs.resume("work")

    result = world.tick(deadline=world.clock.now + timedelta(seconds=0.1))

    assert (result.resumed, result.complete) == (0, False)
    assert world.tick().resumed == 1


def test_a_pass_over_single_partitions_resumes_nothing(world: World):
    world.jobs.pause("work")
    world.jobs.create("work")
    world.deliver()
    world.jobs.resume("work")

    assert world.tick(partitions=[0, 1]).resumed == 0


@pytest.mark.parametrize("at", [12, 20], ids=["before it lists", "before it writes"])
def test_of_two_passes_at_once_one_sends_each_run(world: World, at: int):
    world.jobs.pause("work")
    run_ids = {world.jobs.create("work") for _ in range(5)}
    world.deliver()
    world.jobs.resume("work")
    world.queue.taken.clear()
    # Its requests: the settings, nine queries, the pauses, eight queries, and then a write for each run.
    others: list[int] = []
    second = Interrupted(world.aws.dynamodb, lambda: others.append(world.tick().resumed), at=at)

    result = world.another(dynamodb=second).dispatch()

    assert sum(others) + result.resumed == 5
    assert others
    assert others[0] > 0
    assert Counter(run_id for run_id, _ in world.queue.taken) == Counter(run_ids)


def test_a_pass_that_resumes_and_fails_at_one_run_goes_on_with_the_others(
    world: World, caplog: pytest.LogCaptureFixture
):
    world.jobs.pause("work")
    run_ids = [world.jobs.create("work") for _ in range(3)]
    world.deliver()
    world.jobs.resume("work")
    world.clock.advance(minutes=6)

    class Throttled:
        def __getattr__(self, operation: str) -> Any:
            return getattr(world.aws.dynamodb, operation)

        def update_item(self, **parameters: Any) -> Any:
            if parameters["Key"]["pk"]["S"] == f"run#{run_ids[0]}":
                return Refused("ProvisionedThroughputExceededException").update_item(**parameters)
            return world.aws.dynamodb.update_item(**parameters)

    result = world.another(dynamodb=Throttled()).dispatch()

    assert (result.resumed, result.errors) == (2, 1)
    assert f"run#{run_ids[0]} could not be resumed: ClientError ProvisionedThroughputExceededException" in caplog.text
    assert world.tick().resumed == 1


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.long
def test_a_dispatcher_that_dies_anywhere_while_it_resumes_loses_no_run(applied: bool):
    at, finished = 1, False
    while not finished:
        with a_world() as world:
            world.jobs.pause("work")
            run_ids = [world.jobs.create("work") for _ in range(3)]
            world.deliver()
            world.jobs.resume("work")
            outage = Outage(at, applied=applied, lasting=True)
            dying = world.another(dynamodb=outage.wrap(world.aws.dynamodb), sqs=outage.wrap(world.queue))
            with contextlib.suppress(KumofireError):
                dying.dispatch()
            finished = outage.made < at
            world.clock.advance(seconds=20)

            world.settle()

            assert world.statuses() == {"succeeded": 3}, at
            assert world.times_executed() == dict.fromkeys(run_ids, 1)
        at += 1
    assert at > 20


# The dispatcher's ordinary look, a day later.


def test_a_run_whose_job_is_paused_for_days_is_looked_at_once_a_day_by_one_write(world: World):
    world.jobs.pause("work")
    run_id = world.jobs.create("work")
    world.deliver()
    world.clock.advance(hours=23)
    assert world.tick().postponed == 0
    world.aws.dynamodb.requests.clear()

    world.clock.advance(hours=1)
    assert world.tick().postponed == 1

    item = world.aws.item(run_id)
    assert item["wake_at"] == NOW_MS + 2 * PARKED_LOOK_MS
    assert world.jobs.get_status(run_id).paused
    assert world.times_sent() == {run_id: 1}
    assert world.aws.sqs.count() == {}
    world.tick()
    assert world.aws.item(run_id) == item


def test_a_run_that_resuming_did_not_find_is_sent_a_day_later_at_the_latest(world: World):
    """A consumer whose reads fail may put a run aside long after the job was resumed."""
    world.jobs.pause("work")
    run_id = world.jobs.create("work")
    world.deliver()
    world.jobs.resume("work")
    world.aws.change(run_id, without=["list_shard", "list_at"])
    world.clock.advance(minutes=6)
    assert world.tick().resumed == 0

    world.clock.advance(hours=24)
    result = world.tick()
    world.deliver()

    assert result.resumed == 1
    assert world.times_executed() == {run_id: 1}
    assert "parked" not in world.aws.item(run_id)


def test_a_run_that_an_earlier_release_sent_while_it_was_aside_is_sent_again_when_its_message_is_lost(world: World):
    """That release's dispatcher does not know what ``parked`` is, and leaves it."""
    run_id = world.aws.a_run(
        job_name="work", parked="pause", list_shard=list_shard("parked", "run"), list_at=NOW_MS, wake_at=NOW_MS - 1
    )

    assert world.tick().resent == 1
    world.deliver()

    assert world.times_executed() == {run_id: 1}
    assert aside(world.aws.item(run_id)) == set()


def test_a_run_that_an_earlier_release_executed_while_it_was_aside_is_not_looked_for_for_ever(world: World):
    world.jobs.pause("work")
    world.aws.a_run(
        job_name="work",
        status="succeeded",
        parked="pause",
        list_shard=list_shard("parked", "run"),
        list_at=NOW_MS,
        without=("wake_shard", "wake_at"),
    )
    world.jobs.resume("work")
    world.clock.advance(minutes=6)

    world.tick()

    assert pause_item(world.aws)["resuming"] == []


# What people do with a run that is aside.


def aside(item: dict[str, Any]) -> set[str]:
    return {"parked", "list_shard", "list_at"} & item.keys()


def test_a_run_put_aside_can_be_canceled_and_retried(jobs: Jobs, aws: Aws):
    run_id = parked(aws, jobs)

    assert jobs.cancel(run_id, "no more") is True
    run = jobs.get_status(run_id)
    assert (run.status, run.paused) == ("canceled", False)
    assert aws.item(run_id)["list_shard"].startswith("canceled#")

    assert jobs.retry(run_id) is True
    assert aside(aws.item(run_id)) == set()
    assert jobs.consume(message(run_id)).reason == "paused", "its job is paused as before"


def test_a_canceled_run_is_not_resumed(world: World):
    world.jobs.pause("work")
    run_id = world.jobs.create("work")
    world.deliver()
    world.jobs.cancel(run_id)
    world.jobs.resume("work")

    assert world.tick().resumed == 0
    assert world.statuses() == {"canceled": 1}


def test_run_now_lets_a_run_put_aside_look_again_and_does_not_pass_the_pause(jobs: Jobs, aws: Aws):
    run_id = parked(aws, jobs)

    assert jobs.run_now(run_id) is True
    assert (jobs.get_status(run_id).status, aside(aws.item(run_id))) == ("queued", set())
    assert aws.sent() == [(run_id, 0)]

    assert jobs.consume(message(run_id)).reason == "paused"
    assert jobs.get_status(run_id).paused


def test_a_run_put_aside_that_is_rescheduled_goes_on_at_its_new_time(world: World):
    world.jobs.pause("work")
    run_id = world.jobs.create("work")
    world.deliver()

    assert world.jobs.reschedule(run_id, NOW + timedelta(minutes=5)) is True
    assert not world.jobs.get_status(run_id).paused
    world.jobs.resume("work")
    assert world.tick().resumed == 0
    world.clock.advance(minutes=5)
    world.deliver()

    assert world.executed == [(run_id, 1, NOW + timedelta(minutes=5))]


def test_a_run_put_aside_takes_a_new_payload_and_stays_aside(world: World):
    seen: list[Any] = []
    world.jobs.handler("told")(lambda ctx: seen.append(ctx.payload))
    world.jobs.pause("told")
    run_id = world.jobs.create("told", 1)
    world.deliver()
    world.clock.advance(seconds=1)

    assert world.jobs.update(run_id, payload=2) is True
    assert world.jobs.get_status(run_id).paused
    world.clock.advance(seconds=20)
    world.jobs.resume("told")
    assert world.tick().resumed == 1
    world.deliver()

    assert seen == [2]


def test_a_run_put_aside_is_listed_as_scheduled(jobs: Jobs, aws: Aws):
    run_id = parked(aws, jobs, wake_shard=0)

    [run] = jobs.list_runs(status="scheduled").runs
    assert (run.id, run.paused) == (run_id, True)
    assert jobs.list_runs(status="failed").runs == ()


def test_a_run_is_no_longer_aside_once_it_has_ended(world: World):
    world.jobs.pause("work")
    run_id = world.jobs.create("work")
    world.deliver()
    world.jobs.resume("work")
    world.clock.advance(seconds=20)
    world.jobs.consume(message(run_id))  # an old copy of its message comes before the dispatcher does

    assert world.jobs.get_status(run_id).status == "succeeded"
    assert aside(world.aws.item(run_id)) == set()
    assert world.tick().resumed == 0


def test_a_schedule_goes_on_making_runs_which_wait(world: World):
    world.jobs.create_schedule("work", schedule_type="interval", schedule_expr=timedelta(minutes=1))
    world.jobs.pause("work")

    for _ in world.minutes(5):
        pass

    assert world.executed == []
    assert sum("parked" in item for item in world.runs()) >= 4
    world.jobs.resume("work")
    for _ in world.minutes(3):
        pass
    runs = [world.jobs.get_status(run_id) for run_id, _, _ in world.executed]
    waited = [run.scheduled_for for run in runs if run.scheduled_for <= NOW + timedelta(minutes=5)]
    assert len(runs) >= 6
    assert len(waited) >= 4
    assert waited == sorted(waited)


@pytest.mark.long
def test_many_runs_are_resumed_in_order_at_two_requests_for_ten_and_a_write_each(world: World):
    count = 250
    world.jobs.pause("work")
    run_ids = [
        world.aws.a_run(
            f"run-{number:03}",
            job_name="work",
            status="scheduled",
            parked="pause",
            scheduled_for=NOW_MS - (count - number) * SECONDS,
            list_shard=f"parked#{number % 8}",
            list_at=NOW_MS - (count - number) * SECONDS,
            wake_at=NOW_MS + PARKED_LOOK_MS,
        )
        for number in range(count)
    ]
    world.jobs.resume("work")
    world.aws.dynamodb.requests.clear()

    assert world.tick().resumed == count

    assert [run_id for run_id, _ in world.queue.taken] == run_ids
    assert len(world.queue.requests) == count // 10
    assert world.aws.dynamodb.count() == {"get_item": 2, "query": 9 + 8, "update_item": count}


def test_what_is_read_of_a_foreign_item_in_the_index_is_left_alone(world: World):
    world.jobs.pause("work")
    world.aws.dynamodb.client.put_item(
        TableName=world.aws.table,
        Item={
            "pk": {"S": "other#1"},
            "sk": {"S": "other"},
            "list_shard": {"S": "parked#0"},
            "list_at": {"N": "5"},
            "job_name": {"S": "work"},
        },
    )
    world.jobs.resume("work")

    result = world.tick()

    assert (result.resumed, result.errors) == (0, 0)


def test_what_is_known_is_read_again_in_the_time_that_is_promised():
    """15 s, or 45 s where a read hangs, and then the 15 s that a request may take: a minute in all."""
    assert pause_reader.REFRESH_MS <= 15_000
    assert pause_reader.OLDEST_MS + 1000 * pause_reader.WAIT_SECONDS <= 60_000
    assert resuming.SETTLED_MS >= 2 * pause_reader.OLDEST_MS

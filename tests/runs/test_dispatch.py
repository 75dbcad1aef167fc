"""The dispatcher: every delay, every shard and page, what is sent and sent again, what is recovered, what it costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError

from kumofire_core import (
    DispatchResult,
    InvalidArgumentError,
    Jobs,
    PartlyDispatchedError,
    RetryPolicy,
)
from kumofire_core.engine import dispatcher, schedule_firing
from kumofire_core.handlers.deadline import Deadline
from kumofire_core.model.message import decode_body
from kumofire_core.model.times import to_ms
from kumofire_core.rules.wake_ups import wake_shard
from tests.builders import NOW, NOW_MS, Aws, Clock, event, message
from tests.faults import Interrupted, Outage
from tests.worlds import Canned, LaggingIndex, World, a_world

MINUTE_MS = 60_000
NOTHING = DispatchResult()


@pytest.fixture
def world() -> Iterator[World]:
    with a_world() as world:
        yield world


def due_runs(world: World, count: int, **fields: Any) -> list[str]:
    """Store runs that have waited until now for the dispatcher."""
    waiting = {"job_name": "work", "status": "scheduled", "wake_at": NOW_MS, **fields}
    return [world.aws.a_run(**waiting) for _ in range(count)]


@pytest.mark.parametrize("delay", [timedelta(minutes=15, milliseconds=1), timedelta(hours=2), timedelta(days=40)])
def test_a_run_far_off_is_sent_shortly_ahead_and_starts_at_its_time(world: World, delay: timedelta):
    run_id = world.jobs.create("work", delay=delay)
    due = NOW + delay

    for before in (delay, timedelta(seconds=151), timedelta(seconds=90, milliseconds=1)):
        world.clock.now = due - before
        assert world.tick() == NOTHING
    world.clock.now = due - timedelta(seconds=90)
    assert world.tick() == DispatchResult(dispatched=1)
    assert world.queue.taken == [(run_id, 90)]
    world.clock.now = due - timedelta(seconds=30)
    assert world.tick() == NOTHING
    assert world.jobs.get_status(run_id).status == "scheduled"

    world.settle()
    assert world.executed == [(run_id, 1, due)]
    assert world.queue.taken == [(run_id, 90)]


@pytest.mark.parametrize("ahead_ms", [90_000, 89_999, 59_001, 59_000, 1_500, 1_000, 999, 1])
def test_what_is_sent_ahead_comes_in_the_second_after_its_time_and_never_before(world: World, ahead_ms: int):
    run_id = world.jobs.create("work", delay=timedelta(hours=5, milliseconds=7))
    due = world.jobs.get_status(run_id).scheduled_for
    world.clock.now = due - timedelta(milliseconds=ahead_ms)

    world.tick()
    world.settle()

    [(executed, _, at)] = world.executed
    assert executed == run_id
    assert timedelta(0) <= at - due < timedelta(seconds=1)


def test_with_a_tick_each_minute_no_run_starts_late(world: World):
    delays = [timedelta(minutes=20, seconds=13 * number, milliseconds=137 * number) for number in range(12)]
    due = {world.jobs.create("work", delay=delay): NOW + delay for delay in delays}
    world.clock.now = NOW + timedelta(minutes=18, seconds=31)

    for _ in world.minutes(6):
        world.check()

    assert {run_id for run_id, _, _ in world.executed} == due.keys()
    assert len(world.queue.taken) == len(due)
    for run_id, _, at in world.executed:
        assert timedelta(0) <= at - due[run_id] < timedelta(seconds=1)


def test_a_run_whose_time_was_missed_is_queued_and_sent_at_once(world: World):
    run_id = world.jobs.create("work", delay=timedelta(hours=2))
    world.clock.advance(hours=9)

    assert world.tick() == DispatchResult(dispatched=1)

    assert world.queue.taken == [(run_id, 0)]
    assert world.jobs.get_status(run_id).status == "queued"
    world.settle()
    assert world.statuses() == {"succeeded": 1}


def test_a_retry_further_off_than_sqs_can_delay_is_sent_by_the_dispatcher_at_its_time():
    with a_world(retry=RetryPolicy(base=timedelta(hours=3), cap=timedelta(hours=3))) as world:
        run_id = world.jobs.create("flaky")
        world.deliver()
        assert world.queue.waiting == []

        world.settle()

        assert world.executed == [(run_id, 1, NOW), (run_id, 2, NOW + timedelta(hours=3))]


def test_every_shard_is_read(world: World):
    jobs = world.another(wake_shards=8)
    # Ids by key, because among random ones a shard is missing now and then.
    ids = [jobs.create("work", delay=timedelta(hours=1), dedupe_key=f"key-{number}") for number in range(40)]
    assert {item["wake_shard"] for item in world.runs()} == set(range(8))
    world.clock.advance(hours=1)

    assert jobs.dispatch() == DispatchResult(dispatched=40)
    assert sorted(world.queue.taken) == sorted((run_id, 0) for run_id in ids)


def test_every_page_is_read(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dispatcher, "PAGE_SIZE", 4)
    ids = due_runs(world, 18)
    recurring = [
        world.jobs.create_schedule("work", schedule_type="once", schedule_expr=NOW + timedelta(seconds=number))
        for number in range(9)
    ]

    assert world.tick() == DispatchResult(dispatched=18, schedules=9)

    assert world.times_sent() == {**dict.fromkeys(ids, 1), **dict.fromkeys(world.runs_of(*recurring), 1)}


@pytest.mark.parametrize("raised_to", [3, 8, 100])
def test_a_shard_count_raised_later_loses_nothing(world: World, raised_to: int):
    before = [world.another(wake_shards=2).create("work", delay=timedelta(hours=1)) for _ in range(10)]
    jobs = world.another(wake_shards=raised_to)
    after = [jobs.create("work", delay=timedelta(hours=1)) for _ in range(10)]
    assert [world.aws.item(run_id)["wake_shard"] for run_id in before] == [wake_shard(run_id, 2) for run_id in before]
    world.clock.advance(hours=1)

    assert jobs.dispatch().dispatched == 20
    assert world.times_sent() == dict.fromkeys(before + after, 1)


def test_nothing_due_is_one_query_for_each_shard_one_for_the_schedules_and_a_look_at_two_settings(world: World):
    world.jobs.create("work", delay=timedelta(hours=1))
    world.aws.dynamodb.requests.clear()

    assert world.tick() == NOTHING
    # The number of shards, and which jobs are being resumed.
    assert world.aws.dynamodb.count() == {"get_item": 2, "query": 9}


def test_a_limit_takes_the_earliest_of_all_shards_and_leaves_the_rest_to_the_next_pass(world: World):
    late = [world.aws.a_run(job_name="work", status="scheduled", wake_shard=0, wake_at=NOW_MS - n) for n in range(5)]
    early = [
        world.aws.a_run(job_name="work", status="scheduled", wake_shard=1, wake_at=NOW_MS - 60_000 - n)
        for n in range(5)
    ]

    assert world.tick(limit=3) == DispatchResult(dispatched=3, complete=False)
    assert [run_id for run_id, _ in world.queue.taken] == early[:1:-1]
    assert world.tick(limit=4) == DispatchResult(dispatched=4, complete=False)
    assert world.tick(limit=3) == DispatchResult(dispatched=3, complete=True)
    assert [run_id for run_id, _ in world.queue.taken] == early[::-1] + late[::-1]
    assert world.tick(limit=3) == NOTHING


def test_a_limit_spans_pages(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dispatcher, "PAGE_SIZE", 2)
    due_runs(world, 9)

    assert world.tick(limit=7) == DispatchResult(dispatched=7, complete=False)
    assert world.tick(limit=2) == DispatchResult(dispatched=2)


def test_a_limit_counts_schedules_too(world: World):
    world.jobs.create_schedule("work", schedule_type="once", schedule_expr=NOW)
    due_runs(world, 3, scheduled_for=NOW_MS - 1, wake_at=NOW_MS - 1)

    assert world.tick(limit=3) == DispatchResult(dispatched=3, complete=False)
    assert world.tick(limit=3) == DispatchResult(schedules=1)


@pytest.mark.parametrize("limit", [0, -1, 1.5, "10", True])
def test_a_limit_that_is_no_number_of_wake_ups_is_refused(world: World, limit: Any):
    with pytest.raises(InvalidArgumentError, match="limit must be a whole number of at least 1"):
        world.tick(limit=limit)


def test_nothing_is_begun_when_the_time_is_nearly_up(world: World):
    ids = due_runs(world, 3)
    world.jobs.create_schedule("work", schedule_type="once", schedule_expr=NOW)

    assert world.tick(deadline=NOW + timedelta(seconds=0.5)) == DispatchResult(complete=False)
    assert world.queue.taken == []

    assert world.tick(deadline=NOW + timedelta(minutes=1)) == DispatchResult(dispatched=3, schedules=1)
    assert world.times_sent().keys() >= set(ids)


def test_what_the_time_cuts_off_is_done_by_the_next_pass(world: World, monkeypatch: pytest.MonkeyPatch):
    ids = due_runs(world, 45)
    looks = iter([False] * 22)  # two chunks, and each of their ten
    with monkeypatch.context() as patch:
        patch.setattr(Deadline, "too_close_to_start", lambda self: next(looks, True))
        cut = world.tick(deadline=NOW + timedelta(minutes=1))

    assert 0 < cut.dispatched < 45
    assert not cut.complete
    rest = world.tick(deadline=NOW + timedelta(minutes=1))
    assert rest == DispatchResult(dispatched=45 - cut.dispatched)
    assert world.times_sent() == dict.fromkeys(ids, 1)


def test_a_schedule_that_was_cut_off_goes_on_with_the_next_pass(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(schedule_firing, "OCCURRENCES_AT_ONCE", 10)
    schedule_id = world.jobs.create_schedule("work", schedule_type="interval", schedule_expr="rate(1 minute)")
    world.clock.advance(minutes=30)
    looks = iter([False, False])  # the chunk, and its one wake-up
    with monkeypatch.context() as patch:
        patch.setattr(Deadline, "too_close_to_start", lambda self: next(looks, True))
        cut = world.tick(deadline=world.clock.now + timedelta(minutes=1))

    assert cut.schedules == 10
    assert world.tick().schedules == 31 - 10
    assert len(world.runs_of(schedule_id)) == 31


def test_a_pass_that_leaves_occurrences_behind_is_not_complete(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(schedule_firing, "OCCURRENCES_AT_ONCE", 10)
    world.jobs.create_schedule("work", schedule_type="interval", schedule_expr="rate(1 minute)")
    world.clock.advance(minutes=30)
    looks = iter([False, False])
    monkeypatch.setattr(Deadline, "too_close_to_start", lambda self: next(looks, True))

    assert not world.tick(deadline=world.clock.now + timedelta(minutes=1)).complete


def test_corrupt_items_do_not_use_up_the_limit_of_every_pass(world: World):
    for _ in range(3):
        world.aws.a_run(wake_at=NOW_MS - 1_000, status="sleeping")
    ids = due_runs(world, 3)

    for _ in range(5):
        world.tick(limit=3)
        world.clock.advance(minutes=1)

    assert set(world.times_sent()) == set(ids)


def test_messages_go_in_batches_of_ten(world: World):
    ids = due_runs(world, 25)

    assert world.tick() == DispatchResult(dispatched=25)

    assert [operation for operation, _ in world.queue.requests] == ["send_message_batch"] * 3
    assert sorted(len(request["Entries"]) for _, request in world.queue.requests) == [5, 10, 10]
    assert world.times_sent() == dict.fromkeys(ids, 1)


class PartlyFailing:
    """A queue that takes no message of some runs, the first ``times`` times that it is asked to."""

    def __init__(self, queue: Any, run_ids: list[str], *, times: int) -> None:
        self.queue = queue
        self.left = dict.fromkeys(run_ids, times)
        self.sizes: list[int] = []

    def send_message_batch(self, **request: Any) -> dict[str, Any]:
        self.sizes.append(len(request["Entries"]))
        failed = []
        for entry in request["Entries"]:
            run_id = decode_body(entry["MessageBody"])
            if self.left.get(run_id, 0):
                self.left[run_id] -= 1
                failed.append(entry)
        taken = [entry for entry in request["Entries"] if entry not in failed]
        if taken:
            self.queue.send_message_batch(QueueUrl=request["QueueUrl"], Entries=taken)
        return {
            "Successful": [{"Id": entry["Id"]} for entry in taken],
            "Failed": [{"Id": entry["Id"], "Code": "InternalError", "SenderFault": False} for entry in failed],
        }


def due_schedules(world: World, count: int, **settings: Any) -> list[str]:
    """Make schedules whose one occurrence is due now."""
    once = {"schedule_type": "once", "schedule_expr": NOW, **settings}
    return [world.jobs.create_schedule("work", **once) for _ in range(count)]


@pytest.mark.parametrize(("count", "requests"), [(1, 1), (10, 1), (25, 3)])
@pytest.mark.parametrize("limit", [None, 25])
def test_schedules_that_are_due_together_share_their_requests_to_the_queue(
    world: World, count: int, requests: int, limit: int | None
):
    ids = due_schedules(world, count)
    world.aws.dynamodb.requests.clear()

    assert world.tick(limit=limit) == DispatchResult(schedules=count)

    assert [operation for operation, _ in world.queue.requests] == ["send_message_batch"] * requests
    assert world.times_sent() == dict.fromkeys(world.runs_of(*ids), 1)
    counted = world.aws.dynamodb.count()
    assert (counted["get_item"], counted["put_item"], counted["update_item"]) == (count + 2, count, count)


def test_occurrences_of_a_few_schedules_fill_their_batches_together(world: World):
    for _ in range(4):
        world.jobs.create_schedule("work", schedule_type="interval", schedule_expr="rate(1 minute)")
    world.clock.advance(minutes=5)

    assert world.tick().schedules == 24

    assert [len(request["Entries"]) for _, request in world.queue.requests] == [10, 10, 4]


def test_no_schedule_goes_on_before_the_messages_of_its_runs_are_sent(world: World):
    class Noting:
        """Writes down in which order the requests to the two services are made."""

        def __init__(self, client: Any) -> None:
            self.client = client

        def __getattr__(self, operation: str) -> Any:
            order.append(operation)
            return getattr(self.client, operation)

    due_schedules(world, 3)
    order: list[str] = []

    world.another(dynamodb=Noting(world.aws.dynamodb), sqs=Noting(world.queue)).dispatch()

    writes = [operation for operation in order if operation not in ("query", "get_item")]
    assert writes == ["put_item"] * 3 + ["send_message_batch"] + ["update_item"] * 3


def test_a_message_that_sqs_does_not_take_keeps_no_other_schedule_waiting(world: World):
    class NotThisOne:
        """Takes all entries of a batch but the second."""

        def __getattr__(self, operation: str) -> Any:
            return getattr(world.queue, operation)

        def send_message_batch(self, **request: Any) -> dict[str, Any]:
            run_ids = [decode_body(entry["MessageBody"]) for entry in request["Entries"]]
            refused.append(refused[0] if refused else run_ids[1])
            entries = [entry for entry, run_id in zip(request["Entries"], run_ids, strict=True) if run_id != refused[0]]
            if entries:
                world.queue.send_message_batch(QueueUrl="", Entries=entries)
            failed = [entry for entry in request["Entries"] if entry not in entries]
            return {"Failed": [{"Id": entry["Id"]} for entry in failed]}

    refused: list[str] = []
    ids = due_schedules(world, 5)

    assert world.another(sqs=NotThisOne()).dispatch() == DispatchResult(schedules=5, unsent=1)

    runs = world.runs_of(*ids)
    assert world.times_sent() == dict.fromkeys(set(runs) - {refused[0]}, 1)
    assert [world.jobs.get_schedule(schedule_id).last_scheduled_at for schedule_id in ids] == [NOW] * 5
    world.settle()
    assert world.times_executed() == dict.fromkeys(runs, 1)


def test_while_sqs_takes_nothing_every_schedule_goes_on_all_the_same(world: World):
    ids = due_schedules(world, 12)
    world.queue.losing = "refused"

    assert world.tick() == DispatchResult(schedules=12, unsent=12)

    world.queue.losing = None
    world.settle()
    assert world.times_executed() == dict.fromkeys(world.runs_of(*ids), 1)


def test_a_schedule_whose_put_fails_loses_no_message_of_the_runs_before_it_nor_another_schedule(world: World):
    class ThirdPutFails:
        def __getattr__(self, operation: str) -> Any:
            return getattr(world.aws.dynamodb, operation)

        def put_item(self, **parameters: Any) -> Any:
            if parameters["Item"]["scheduled_for"]["N"] == str(to_ms(NOW + timedelta(minutes=3))):
                raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "no"}}, "PutItem")
            return world.aws.dynamodb.put_item(**parameters)

    behind = world.jobs.create_schedule(
        "work", schedule_type="interval", schedule_expr="rate(1 minute)", end_at=NOW + timedelta(minutes=6)
    )
    world.clock.advance(minutes=5)
    other = world.jobs.create_schedule("work", schedule_type="once", schedule_expr=world.clock.now)

    assert world.another(dynamodb=ThirdPutFails()).dispatch() == DispatchResult(schedules=3, errors=1)
    assert world.times_sent() == dict.fromkeys(world.runs_of(behind, other), 1)

    assert world.tick() == DispatchResult(schedules=4)
    world.settle()
    assert world.times_executed() == dict.fromkeys(world.runs_of(behind, other), 1)


@pytest.mark.parametrize("limit", [None, 12])
def test_a_schedule_far_behind_takes_its_share_of_a_pass_and_keeps_no_other_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, limit: int | None
):
    monkeypatch.setattr(dispatcher, "TURNS_A_PASS", 3)
    behind = [
        world.jobs.create_schedule("work", schedule_type="interval", schedule_expr="rate(1 second)") for _ in range(2)
    ]
    world.clock.advance(days=3)
    others = due_schedules(world, 5, schedule_expr=world.clock.now - timedelta(seconds=1))
    due = due_runs(world, 5, wake_at=to_ms(world.clock.now) - 1)

    assert world.tick(limit=limit) == DispatchResult(dispatched=5, schedules=2 * 30 + 5, complete=False)

    assert [len(world.runs_of(schedule_id)) for schedule_id in behind] == [30, 30]
    assert all(f"schedule#{schedule_id} is far behind" in caplog.text for schedule_id in behind)
    sent = [run_id for run_id, _ in world.queue.taken]
    first_round = set(sent[: 2 * 10 + 5 + 5])
    assert first_round >= {*world.runs_of(*others), *due}
    assert world.tick(limit=limit).schedules == 2 * 30


def test_the_entries_of_a_batch_that_failed_are_sent_once_more_and_only_they(world: World):
    ids = due_runs(world, 10)
    queue = PartlyFailing(world.queue, [ids[2], ids[7]], times=1)

    assert world.another(sqs=queue).dispatch() == DispatchResult(dispatched=10)

    assert queue.sizes == [10, 2]
    assert world.times_sent() == dict.fromkeys(ids, 1)


def test_an_entry_that_sqs_never_takes_is_counted_and_sent_by_a_later_pass(
    world: World, caplog: pytest.LogCaptureFixture
):
    ids = due_runs(world, 10)
    queue = PartlyFailing(world.queue, [ids[2], ids[7]], times=2)

    assert world.another(sqs=queue).dispatch() == DispatchResult(dispatched=10, unsent=2)
    assert world.times_sent() == dict.fromkeys(set(ids) - {ids[2], ids[7]}, 1)
    assert "SQS took no message for 2 runs" in caplog.text

    world.settle()
    assert world.times_executed() == dict.fromkeys(ids, 1)


def test_a_whole_batch_that_failed_is_sent_once_more(world: World):
    ids = due_runs(world, 10)

    result = world.another(sqs=Outage(applied=False).wrap(world.queue)).dispatch()

    assert result == DispatchResult(dispatched=10)
    assert world.times_sent() == dict.fromkeys(ids, 1)


def test_while_sqs_takes_nothing_every_run_keeps_its_wake_up(world: World):
    ids = due_runs(world, 12)
    ahead = world.aws.a_run(job_name="work", status="scheduled", scheduled_for=NOW_MS + 80_000, wake_at=NOW_MS + 80_000)
    world.queue.losing = "refused"

    assert world.tick() == DispatchResult(dispatched=13, unsent=13)
    world.check()

    world.queue.losing = None
    world.settle()
    assert world.times_executed() == dict.fromkeys([*ids, ahead], 1)


@pytest.mark.long
def test_a_lost_message_is_sent_again_after_2_then_4_then_8_minutes_and_at_last_every_hour(world: World):
    world.jobs.create("work")
    sent_at = [0]
    for minute in world.minutes(183, consuming=False):
        sent_at += [minute] * (len(world.queue.taken) - len(sent_at))

    assert sent_at == [0, 2, 6, 14, 30, 62, 122, 182]


def receive(world: World, count: int, *, sent: Callable[[int], int] = lambda ms: ms) -> list[str]:
    """Let a consumer receive the oldest messages, in batches of ten with the times at which they were sent."""
    world.queue.waiting.sort()
    due = [entry for entry in world.queue.waiting if entry[0] <= world.clock.now][:count]
    for start in range(0, len(due), 10):
        batch = event(*(run_id for _, run_id in due[start : start + 10]))
        for record, (sent_at, _) in zip(batch["Records"], due[start:], strict=False):
            record["attributes"] = {"SentTimestamp": str(sent(to_ms(sent_at)))}
        assert world.jobs.consume_batch(batch) == {"batchItemFailures": []}
    for entry in due:
        world.queue.waiting.remove(entry)
    return [run_id for _, run_id in due]


@pytest.mark.parametrize(("a_minute", "handled"), [(4, 5), (4, 8), (4, 20)])
@pytest.mark.long
def test_consumers_that_are_faster_than_the_arrivals_drain_any_backlog_with_few_copies(
    world: World, a_minute: int, handled: int
):
    minutes = 0
    for minutes in range(1, 100):
        for _ in range(a_minute):
            world.jobs.create("work")
        world.tick()
        if minutes > 10:  # for so long nothing was consumed
            receive(world, handled)
            if not world.queue.waiting:
                break
        world.clock.advance(minutes=1)

    created = len(world.runs())
    assert not world.queue.waiting
    # What piled up is worked off by what consumers do more than what comes.
    assert minutes <= 11 + 10 * a_minute / (handled - a_minute) + 2
    assert len(world.queue.taken) - created <= created / 10
    assert world.times_executed() == dict.fromkeys(world.times_sent(), 1)


@pytest.mark.long
def test_a_message_lost_in_a_long_queue_that_moves_is_sent_again_within_five_minutes_of_its_turn(world: World):
    ids: list[str] = []
    for minute in range(40):
        for _ in range(6):
            ids.append(world.jobs.create("work"))
        if minute == 10:
            world.queue.losing = "silently"
            lost = world.jobs.create("work")
            world.queue.losing = None
        if minute >= 20:
            done = receive(world, 9)
            if ids.index(done[-1]) >= 10 * 6 and "turn" not in locals():
                turn = minute
        world.tick()
        if minute > 10 and world.times_sent()[lost] > 1:
            break
        world.clock.advance(minutes=1)

    assert minute - turn <= 5
    assert len(world.queue.waiting) > 10
    assert world.times_sent()[lost] == 2


@pytest.mark.parametrize("told", [True, False], ids=["consumers told before", "nobody has told"])
def test_ten_messages_that_wait_for_good_hide_no_lost_one(world: World, told: bool):
    world.queue.eternal = 10
    if told:
        world.jobs.create("work")
        receive(world, 1)
        world.clock.advance(hours=3)
    world.queue.losing = "silently"
    lost = [world.jobs.create("work") for _ in range(4)]
    world.queue.losing = None
    for _ in range(5):
        world.clock.advance(minutes=1)
        world.tick()
        receive(world, 10)

    assert {world.jobs.get_status(run_id).status for run_id in lost} == {"succeeded"}
    assert {world.times_sent()[run_id] for run_id in lost} == {2}


def test_consumers_that_take_nothing_are_probed_with_one_message_and_ever_more_rarely(world: World):
    ids = [world.jobs.create("work") for _ in range(15)]
    resent_at = []
    for minute in range(30):
        resent_at += [minute] * world.tick().resent
        world.clock.advance(minutes=1)

    assert resent_at[:2] == [2, 6]
    assert 14 <= resent_at[2] <= 24  # after twice as long, by the next look at any of them
    assert len(world.queue.taken) == len(ids) + 3


def test_a_pass_asks_once_how_long_the_queue_is_and_how_far_consumers_are(world: World):
    for _ in range(30):
        world.jobs.create("work")
    world.clock.advance(minutes=2)
    world.aws.dynamodb.requests.clear()

    assert world.tick() == DispatchResult(postponed=29, resent=1)

    asked = [operation for operation, _ in world.queue.requests].count("get_queue_attributes")
    # One for how far consumers are, one for the number of partitions, and one for the jobs that are being resumed.
    assert (asked, world.aws.dynamodb.count()["get_item"]) == (1, 3)


@pytest.mark.long
def test_where_no_consumer_tells_how_far_it_is_what_was_queued_for_half_an_hour_is_sent_again_hourly(world: World):
    ids = [world.jobs.create("work") for _ in range(8)]
    for _ in range(110):
        world.tick()
        world.clock.advance(minutes=1)

    assert len(ids) * 3 <= len(world.queue.taken) <= len(ids) * 3 + 6


def test_one_new_message_among_nine_old_ones_makes_nobody_take_the_waiting_for_lost(world: World):
    for _ in range(40):
        world.jobs.create("work")
    world.clock.advance(minutes=10)
    newest = iter([to_ms(world.clock.now)])

    receive(world, 10, sent=lambda ms: next(newest, ms))

    assert world.tick() == DispatchResult(postponed=30)


def test_a_delayed_message_that_waits_in_a_backlog_is_not_sent_again(world: World):
    for _ in range(20):
        world.jobs.create("work", delay=60)
    world.clock.advance(minutes=2)
    world.jobs.create("work")
    receive(world, 1)
    world.clock.advance(minutes=1, seconds=30)

    world.tick()

    assert set(world.times_sent().values()) == {1}


def test_a_process_tells_how_far_it_is_once_a_minute_beside_its_two_requests_a_run(world: World):
    world.jobs = world.another(counts=False)  # whose writes tests/runs/test_counts.py is about
    for _ in range(60):
        world.jobs.create("work")
    world.clock.advance(minutes=5)
    receive(world, 10)
    world.aws.dynamodb.requests.clear()

    receive(world, 20)
    world.clock.advance(seconds=59)
    receive(world, 20)
    assert world.aws.dynamodb.count() == {"update_item": 80, "get_item": 1}, "it read which jobs are paused"

    world.clock.advance(seconds=1)
    receive(world, 10)
    assert world.aws.dynamodb.count() == {"update_item": 80 + 20 + 1, "get_item": 1}


def test_progress_only_grows(world: World):
    for _ in range(20):
        world.jobs.create("work")
    world.clock.advance(minutes=1)
    late = to_ms(world.clock.now)
    receive(world, 10, sent=lambda ms: late)
    world.clock.advance(minutes=1)

    receive(world, 10)

    [item] = [item for item in world.aws.items() if item["pk"] == "progress#queue"]
    assert item["sent_ms"] == late


@pytest.mark.parametrize("sent", [None, 17, "", "-5", "1e3", "\u0661", "9" * 16, ["1"]], ids=ascii)
def test_a_time_of_sending_that_cannot_be_read_is_passed_over(world: World, sent: Any):
    batch = event(world.jobs.create("work"))
    batch["Records"][0]["attributes"] = {"SentTimestamp": sent}

    assert world.jobs.consume_batch(batch) == {"batchItemFailures": []}

    assert not [item for item in world.aws.items() if item["pk"] == "progress#queue"]


def test_a_table_that_does_not_take_the_progress_keeps_no_run_waiting(world: World, caplog: pytest.LogCaptureFixture):
    class Throttled:
        def __getattr__(self, operation: str) -> Any:
            return getattr(world.aws.dynamodb, operation)

        def update_item(self, **parameters: Any) -> Any:
            if parameters["Key"]["pk"] == {"S": "progress#queue"}:
                raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "no"}}, "UpdateItem")
            return world.aws.dynamodb.update_item(**parameters)

    world.jobs = world.another(dynamodb=Throttled())
    world.jobs.create("work")

    receive(world, 1)

    assert world.statuses() == {"succeeded": 1}
    assert "this consumer's place in the queue could not be written (ClientError ThrottlingException)" in caplog.text


def test_a_queue_that_does_not_tell_its_length_keeps_no_run_waiting(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(type(world.queue), "get_queue_attributes")
    world.queue.losing = "silently"
    world.jobs.create("work")
    world.clock.advance(minutes=2)

    assert world.tick() == DispatchResult(resent=1)


def test_a_run_whose_message_never_arrived_is_executed_after_all(world: World):
    world.queue.losing = "silently"
    run_id = world.jobs.create("work")
    world.clock.advance(minutes=1, seconds=59)
    assert world.tick() == NOTHING

    world.queue.losing = None
    world.clock.advance(seconds=1)
    assert world.tick() == DispatchResult(resent=1)
    assert [result.outcome for result in world.deliver()] == ["succeeded"]
    assert world.times_executed() == {run_id: 1}


def test_a_lost_worker_costs_its_attempt_with_an_error_that_says_so_and_the_run_is_retried(world: World):
    run_id = world.aws.a_running_run(job_name="work", lease_until=NOW_MS, wake_at=NOW_MS)

    assert world.tick() == DispatchResult(recovered=1)

    run = world.jobs.get_status(run_id)
    assert (run.status, run.attempt, run.scheduled_for) == ("scheduled", 1, NOW + timedelta(seconds=1))
    assert "attempt 1 was lost: its lease expired at 2026-03-14T12:00:00+00:00" in run.last_error
    assert world.queue.taken == [(run_id, 1)]
    world.settle()
    assert world.executed == [(run_id, 2, NOW + timedelta(seconds=1))]
    assert world.jobs.get_status(run_id).status == "succeeded"


def test_a_worker_lost_in_the_last_attempt_fails_the_run(world: World):
    run_id = world.aws.a_running_run(job_name="work", attempt=2, lease_until=NOW_MS, wake_at=NOW_MS)

    assert world.tick() == DispatchResult(failed=1)

    run = world.jobs.get_status(run_id)
    assert (run.status, run.attempt, run.finished_at) == ("failed", 3, NOW)
    assert "attempt 3 was lost: its lease expired" in run.last_error
    assert world.aws.item(run_id)["expires_at"] >= (NOW + timedelta(days=30)).timestamp()
    assert world.queue.taken == []
    world.check()


def test_a_lost_worker_whose_run_was_to_be_canceled_leaves_it_canceled(world: World):
    run_id = world.aws.a_running_run(job_name="work", lease_until=NOW_MS, wake_at=NOW_MS)
    assert world.jobs.cancel(run_id, "no longer needed")

    assert world.tick() == DispatchResult(canceled=1)

    run = world.jobs.get_status(run_id)
    assert (run.status, run.attempt, run.cancel_reason) == ("canceled", 1, "no longer needed")
    assert "attempt 1 was lost" in run.last_error
    world.check()


def test_a_worker_that_is_lost_every_time_does_not_loop(world: World):
    run_id = world.jobs.create("work")
    for attempt in (1, 2, 3):
        world.queue.waiting.clear()
        item = world.aws.item(run_id)
        now_ms = to_ms(world.clock.now)
        world.aws.change(run_id, status="running", lease_token="dead", lease_until=now_ms, wake_at=now_ms)
        world.tick()
        assert world.aws.item(run_id)["attempt"] == attempt == item["attempt"] + 1

    assert world.statuses() == {"failed": 1}


def test_a_living_worker_keeps_its_run_and_is_looked_at_when_its_lease_ends(world: World):
    run_id = world.aws.a_running_run(job_name="work", lease_until=NOW_MS + 300_000, wake_at=NOW_MS)
    before = world.aws.item(run_id)

    assert world.tick() == NOTHING

    after = world.aws.item(run_id)
    assert after["wake_at"] == after["lease_until"] == NOW_MS + 300_000
    assert {**after, "wake_at": None, "sent_by": None} == {**before, "wake_at": None, "sent_by": None}
    world.clock.advance(seconds=299, milliseconds=999)
    assert world.tick() == NOTHING
    world.clock.advance(milliseconds=1)
    assert world.tick() == DispatchResult(recovered=1)


def test_a_worker_that_comes_back_after_its_run_was_recovered_changes_nothing(world: World):
    back: list[DispatchResult] = []

    def slow(ctx: Any) -> str:
        world.clock.advance(hours=1)
        back.append(world.tick())
        return "too late"

    world.jobs.handler("slow")(slow)
    run_id = world.jobs.create("slow")

    [result] = world.deliver()

    assert back == [DispatchResult(recovered=1)]
    assert result.outcome == "ignored"
    run = world.jobs.get_status(run_id)
    assert (run.status, run.attempt, run.output) == ("scheduled", 1, None)


def test_the_retry_policy_of_the_job_decides_when_a_recovered_run_goes_on(world: World):
    world.jobs.handler("patient", retry=RetryPolicy(base=timedelta(hours=1), cap=timedelta(hours=1)))(print)
    run_id = world.aws.a_running_run(job_name="patient", lease_until=NOW_MS, wake_at=NOW_MS)

    assert world.tick() == DispatchResult(recovered=1)

    assert world.queue.taken == []
    assert world.aws.item(run_id)["wake_at"] == world.aws.item(run_id)["scheduled_for"] == NOW_MS + 3_600_000


def test_a_policy_without_another_time_fails_a_recovered_run(world: World):
    world.jobs.handler("once", retry=RetryPolicy(next_run_at=lambda **_: None))(print)
    world.aws.a_running_run(job_name="once", lease_until=NOW_MS, wake_at=NOW_MS)

    assert world.tick() == DispatchResult(failed=1)


def test_a_dispatcher_that_knows_no_handlers_recovers_all_the_same(world: World):
    run_id = world.aws.a_running_run(
        job_name="elsewhere", lease_until=NOW_MS, wake_at=NOW_MS, without=("max_attempts",)
    )
    jobs = world.aws.jobs(clock=world.clock, sqs=world.queue, wake_shards=2)

    assert jobs.dispatch() == DispatchResult(recovered=1)
    assert world.aws.item(run_id)["max_attempts"] == 3


@pytest.mark.parametrize("losing", ["refused", "silently"])
@pytest.mark.parametrize("place", ["create", "delayed create", "retry", "dispatch", "ahead", "recovery", "schedule",
                                   "trigger", "a person's retry"])  # fmt: skip
def test_a_run_completes_wherever_its_message_was_lost(world: World, place: str, losing: str):
    jobs, lose = world.jobs, lambda: setattr(world.queue, "losing", losing)
    schedule_id = jobs.create_schedule("work", schedule_type="once", schedule_expr=NOW + timedelta(days=9))
    match place:
        case "create":
            lose()
            jobs.create("work")
        case "delayed create":
            lose()
            jobs.create("work", delay=600)
        case "retry":
            jobs.create("flaky")
            lose()
            world.deliver()
        case "dispatch" | "ahead":
            jobs.create("work", delay=3600)
            lose()
            world.clock.advance(seconds=3600 if place == "dispatch" else 3550)
            assert world.tick().dispatched == 1
        case "recovery":
            world.aws.a_running_run(job_name="work", lease_until=NOW_MS, wake_at=NOW_MS)
            lose()
            assert world.tick().recovered == 1
        case "schedule":
            jobs.create_schedule("work", schedule_type="once", schedule_expr=NOW + timedelta(seconds=5))
            lose()
            assert world.tick().schedules == 1
        case "trigger":
            lose()
            jobs.trigger_schedule(schedule_id)
        case _:
            run_id = jobs.create("work")
            jobs.cancel(run_id)
            world.queue.waiting.clear()
            lose()
            assert jobs.retry(run_id)
    assert world.queue.waiting == []
    world.queue.losing = None

    world.settle()

    assert world.statuses() == {"succeeded": 1}
    assert len(world.executed) == (2 if place == "retry" else 1)


def entry(key: str, *, wake_at: int = NOW_MS, **other: Any) -> dict[str, Any]:
    """Return an entry of the index as DynamoDB gives it."""
    kind = key.partition("#")[0]
    return {"pk": {"S": key}, "sk": {"S": kind}, "wake_shard": {"N": "0"}, "wake_at": {"N": str(wake_at)}} | other


STALE: dict[str, Callable[[Aws], object]] = {
    "gone": lambda aws: None,
    "succeeded": lambda aws: aws.a_run("x", status="succeeded", without=("wake_shard", "wake_at")),
    "failed": lambda aws: aws.a_run("x", status="failed", without=("wake_shard", "wake_at")),
    "canceled": lambda aws: aws.a_run("x", status="canceled", without=("wake_shard", "wake_at")),
    "sent meanwhile": lambda aws: aws.a_run("x", status="queued", wake_at=NOW_MS + 120_000),
    "put back meanwhile": lambda aws: aws.a_run(
        "x", status="scheduled", scheduled_for=NOW_MS + 5_000, wake_at=NOW_MS + 125_000
    ),
    "put off meanwhile": lambda aws: aws.a_run(
        "x", status="scheduled", scheduled_for=NOW_MS + 5_000_000, wake_at=NOW_MS + 5_000_000
    ),
    "claimed meanwhile": lambda aws: aws.a_run(
        "x", status="running", lease_token="t", lease_until=NOW_MS + 60_000, wake_at=NOW_MS + 60_000
    ),
}


@pytest.mark.parametrize("seen_at", [NOW_MS - 500, NOW_MS, NOW_MS + 60_000])
@pytest.mark.parametrize("now_is", STALE)
def test_an_entry_of_the_index_that_is_behind_its_item_is_harmless(world: World, now_is: str, seen_at: int):
    STALE[now_is](world.aws)
    before = world.aws.items()
    lagging = LaggingIndex(world.aws.dynamodb, {0: [entry("run#x", wake_at=seen_at)]})

    assert world.another(dynamodb=lagging).dispatch() == NOTHING

    assert world.aws.items() == before
    assert world.queue.taken == []


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        # Its lease ran out, and another worker took it over.
        (
            {"status": "running", "lease_token": "dead", "lease_until": NOW_MS},
            {"lease_token": "another", "lease_until": NOW_MS + 60_000, "attempt": 1},
        ),
        # Its lease ran out, but its worker came back in time to put it back.
        (
            {"status": "running", "lease_token": "dead", "lease_until": NOW_MS},
            {"status": "scheduled", "scheduled_for": NOW_MS + 1_000, "wake_at": NOW_MS + 121_000},
        ),
        # Its cancellation was asked for.
        (
            {"status": "running", "lease_token": "dead", "lease_until": NOW_MS},
            {"cancel_requested_at": NOW_MS},
        ),
        # It executes, and has another worker by now.
        (
            {"status": "running", "lease_token": "a", "lease_until": NOW_MS + 1},
            {"lease_token": "b", "lease_until": NOW_MS + 60_000},
        ),
        # Its message seemed lost, and another dispatcher sent it again.
        ({"status": "queued"}, {"sends": 2, "wake_at": NOW_MS + 240_000}),
        # Its message seemed lost, and came after all.
        ({"status": "queued"}, {"status": "running", "lease_token": "t", "lease_until": NOW_MS + 60_000}),
    ],
)
def test_what_changes_between_the_dispatchers_look_and_its_write_stays(
    world: World, was: dict[str, Any], becomes: dict[str, Any]
):
    run_id = world.aws.a_run(**{"job_name": "work", "wake_shard": 7, "wake_at": NOW_MS, **was})
    # A look at the number of partitions, nine into the index of which the last shows the run, the write that does not
    # fit and so shows the item, the write that does.
    between = Interrupted(world.aws.dynamodb, lambda: world.aws.change(run_id, **becomes), at=12)

    assert world.another(dynamodb=between, wake_shards=1).dispatch() == NOTHING

    assert {**was, **becomes}.items() <= world.aws.item(run_id).items()
    assert world.queue.taken == []


def test_an_entry_seen_twice_sends_one_message(world: World):
    [run_id] = due_runs(world, 1)
    lagging = LaggingIndex(world.aws.dynamodb, {0: [entry(f"run#{run_id}")], 1: [entry(f"run#{run_id}")]})

    assert world.another(dynamodb=lagging).dispatch() == DispatchResult(dispatched=1)
    assert world.queue.taken == [(run_id, 0)]


def test_entries_that_are_none_of_ours_or_of_no_schedule_are_passed_over(world: World):
    schedule_id = world.jobs.create_schedule("work", schedule_type="cron", schedule_expr="@daily", enabled=False)
    strange = [
        entry("invoice#7"),
        entry("run"),
        entry("#"),
        entry("run#x", sk={"S": "line"}),
        entry("run#x") | {"wake_at": {"S": "soon"}},
        entry("schedule#gone"),
        entry(f"schedule#{schedule_id}"),
    ]
    ids = due_runs(world, 1)
    lagging = LaggingIndex(world.aws.dynamodb, {0: strange, -1: strange})

    assert world.another(dynamodb=lagging).dispatch() == DispatchResult(dispatched=1)
    assert world.times_sent() == dict.fromkeys(ids, 1)


@pytest.mark.parametrize(
    "corrupt",
    [
        {"status": "queued", "without": ("payload",)},
        {"status": "sleeping"},
        {"status": "queued", "attempt": "many"},
        {"status": "running", "lease_token": "t", "lease_until": "never"},
        {"status": "scheduled", "schema": 3},
    ],
)
def test_a_corrupt_item_fails_alone_and_is_named_in_the_log(
    world: World, corrupt: dict[str, Any], caplog: pytest.LogCaptureFixture
):
    before = due_runs(world, 4)
    bad = world.aws.a_run("bad", **{"payload": '"secret"', "wake_at": NOW_MS, **corrupt})
    stored = world.aws.item(bad)
    after = due_runs(world, 4)

    assert world.tick() == DispatchResult(dispatched=8, errors=1)

    assert world.times_sent() == dict.fromkeys(before + after, 1)
    assert world.aws.item(bad) == stored
    assert "run#bad" in caplog.text
    assert "secret" not in caplog.text


def test_a_run_whose_payload_is_not_json_is_sent_again_so_that_its_consumer_fails_it(world: World):
    bad = world.aws.a_run("bad", status="queued", payload="{", wake_at=NOW_MS)

    assert world.tick() == DispatchResult(resent=1)

    assert world.times_sent() == {bad: 1}


def test_a_schedule_that_cannot_be_read_fails_alone(world: World, caplog: pytest.LogCaptureFixture):
    good, bad = (
        world.jobs.create_schedule("work", schedule_type="once", schedule_expr=NOW + timedelta(seconds=number))
        for number in range(2)
    )
    world.aws.dynamodb.client.update_item(
        TableName=world.aws.table,
        Key={"pk": {"S": f"schedule#{bad}"}, "sk": {"S": "schedule"}},
        UpdateExpression="SET overlap = :o",
        ExpressionAttributeValues={":o": {"S": "sometimes"}},
    )

    assert world.tick() == DispatchResult(schedules=1, errors=1)
    assert len(world.runs_of(good)) == 1
    assert f"schedule#{bad}" in caplog.text


def test_a_request_that_fails_keeps_no_other_run_waiting(world: World):
    class Throttled:
        """Refuses every write to one run."""

        def __getattr__(self, operation: str) -> Any:
            return getattr(world.aws.dynamodb, operation)

        def update_item(self, **parameters: Any) -> Any:
            if parameters["Key"]["pk"]["S"] == f"run#{ids[3]}":
                raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "no"}}, "UpdateItem")
            return world.aws.dynamodb.update_item(**parameters)

    ids = due_runs(world, 8)

    assert world.another(dynamodb=Throttled()).dispatch() == DispatchResult(dispatched=7, errors=1)
    assert world.tick() == DispatchResult(dispatched=1)
    assert world.times_sent() == dict.fromkeys(ids, 1)


def test_a_shard_that_cannot_be_read_is_raised_after_the_others_were_handled(
    world: World, caplog: pytest.LogCaptureFixture
):
    class NoFirstShard:
        def __getattr__(self, operation: str) -> Any:
            return getattr(world.aws.dynamodb, operation)

        def query(self, **parameters: Any) -> Any:
            if parameters["ExpressionAttributeValues"][":shard"]["N"] == "0":
                raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "no"}}, "Query")
            return world.aws.dynamodb.query(**parameters)

    unread = due_runs(world, 2, wake_shard=0)
    read = due_runs(world, 2, wake_shard=1)

    with pytest.raises(PartlyDispatchedError, match="ThrottlingException") as raised:
        world.another(dynamodb=NoFirstShard()).dispatch()

    assert raised.value.result == DispatchResult(dispatched=2, unread=1, complete=False)
    assert isinstance(raised.value.__cause__, ClientError)
    assert world.times_sent() == dict.fromkeys(read, 1)
    assert "partition 0 of the wake-up index could not be read" in caplog.text
    assert world.tick() == DispatchResult(dispatched=2)
    assert world.times_sent() == dict.fromkeys(unread + read, 1)


def test_10_000_due_runs_cost_one_write_each_a_tenth_of_that_in_sends_and_a_few_queries(clock: Clock):
    table, queue = Canned(10_000, shards=8, wake_at=NOW_MS), CountedQueue()
    jobs = Jobs(table="t", queue_url="q", dynamodb=table, sqs=queue, clock=clock)  # type: ignore[arg-type]

    assert jobs.dispatch() == DispatchResult(dispatched=10_000)

    pages = 8 * -(-1250 // dispatcher.PAGE_SIZE)
    assert table.requests == {"update_item": 10_000, "query": pages + 1, "get_item": 2}
    assert set(table.updated.values()) == {1}
    assert len(queue.sizes) == 1_000
    assert set(queue.sizes) == {10}


@pytest.mark.parametrize("state", ["due", "soon", "lost", "dead"])
@pytest.mark.parametrize("count", [10, 40])
def test_the_requests_for_a_wake_up_stay_constant(world: World, state: str, count: int):
    requests_each = {"due": 1, "soon": 1, "lost": 2, "dead": 2}[state]
    fields: dict[str, Any] = {
        "due": {},
        "soon": {"scheduled_for": NOW_MS + 30_000, "wake_at": NOW_MS + 30_000},
        "lost": {"status": "queued"},
        "dead": {"status": "running", "lease_token": "t", "lease_until": NOW_MS},
    }[state]
    due_runs(world, count, **fields)

    world.tick()

    assert world.aws.dynamodb.count() == {"get_item": 2, "query": 9, "update_item": requests_each * count}
    sends = ["send_message_batch"] * (count // 10)
    asked = ["get_queue_attributes"] if state == "lost" else []  # whether the queue is long
    assert sorted(operation for operation, _ in world.queue.requests) == asked + sends


class CountedQueue:
    """An SQS queue that takes everything, and remembers how large the batches were."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def send_message_batch(self, **request: Any) -> dict[str, Any]:
        self.sizes.append(len(request["Entries"]))
        return {"Successful": [], "Failed": []}


def test_a_clock_that_jumps_forward_by_days_loses_nothing_and_doubles_nothing(world: World):
    soon = [world.jobs.create("work", delay=delay) for delay in (5, 600, 3600, 86_400)]
    running = world.aws.a_running_run(job_name="work")
    world.jobs.create_schedule("work", schedule_type="cron", schedule_expr="@daily", missed="latest")
    world.clock.advance(days=3)

    world.check()
    assert world.tick() == DispatchResult(dispatched=4, schedules=1, recovered=1)
    assert world.tick() == NOTHING
    world.settle()

    assert world.statuses() == {"succeeded": 6}
    assert {world.times_executed()[run_id] for run_id in [*soon, running]} == {1}
    assert len(world.executed) == 6


@pytest.mark.parametrize("back", [timedelta(milliseconds=1), timedelta(minutes=1), timedelta(minutes=10)])
def test_a_clock_that_is_put_back_starts_nothing_early_and_strands_nothing(world: World, back: timedelta):
    due = NOW + timedelta(hours=1)
    run_id = world.jobs.create("work", run_at=due)
    schedule_id = world.jobs.create_schedule("work", schedule_type="once", schedule_expr=due)
    world.clock.now = due - timedelta(seconds=60)
    assert world.tick() == DispatchResult(dispatched=1, schedules=1)

    world.clock.now -= back
    assert world.tick() == NOTHING
    world.settle()

    [occurrence] = world.runs_of(schedule_id)
    assert world.times_executed() == {run_id: 1, occurrence: 1}
    assert all(at >= due - timedelta(seconds=1) for _, _, at in world.executed)


@pytest.mark.parametrize("fast_by", [timedelta(minutes=2), timedelta(minutes=30)])
def test_a_dispatcher_whose_clock_is_fast_makes_no_run_start_early_and_none_is_lost(world: World, fast_by: timedelta):
    run_id = world.jobs.create("work", delay=timedelta(hours=1))
    due = NOW + timedelta(hours=1)
    world.clock.now = due - timedelta(seconds=90)
    fast = world.another(clock=Clock(world.clock.now + fast_by))
    assert fast.dispatch() == DispatchResult(dispatched=1)

    assert [result.outcome for result in world.deliver()] == ["ignored"]
    world.settle()

    assert world.times_executed() == {run_id: 1}
    assert world.executed[0][2] >= due


def test_a_message_delivered_while_the_dispatcher_works_is_no_second_execution(world: World):
    [run_id] = due_runs(world, 1)
    world.jobs.consume(message(run_id))
    lagging = LaggingIndex(world.aws.dynamodb, {0: [entry(f"run#{run_id}")]})

    assert world.another(dynamodb=lagging).dispatch() == NOTHING
    world.settle()
    assert world.times_executed() == {run_id: 1}


def test_dispatchers_over_partitions_of_their_own_send_every_run_exactly_once(world: World):
    world.settings["wake_shards"] = 8
    world.jobs = world.another()
    ids = [
        world.aws.a_run(job_name="work", status="scheduled", wake_at=NOW_MS, wake_shard=number % 8)
        for number in range(160)
    ]
    # Each in a process of its own, and the tick beside them, which looks at all.
    passes = [partial(world.another().dispatch, partitions=[partition]) for partition in range(8)]
    with ThreadPoolExecutor(9) as pool:
        tick = pool.submit(world.another().dispatch)
        results = [started.result() for started in [pool.submit(each) for each in passes]]

    assert sum(result.dispatched for result in (*results, tick.result())) == len(ids)
    assert {result.errors for result in (*results, tick.result())} == {0}
    assert world.times_sent() == dict.fromkeys(ids, 1)


def test_a_pass_over_partitions_leaves_the_others_and_the_schedules_alone(world: World):
    here, there = (due_runs(world, 3, wake_shard=shard) for shard in (0, 1))
    due_schedules(world, 1)

    assert world.tick(partitions=[1]) == DispatchResult(dispatched=3)
    assert world.times_sent() == dict.fromkeys(there, 1)

    assert world.tick(partitions=[0], limit=2) == DispatchResult(dispatched=2, complete=False)
    assert {*world.times_sent()} <= {*here, *there}
    assert world.tick(partitions=[-1]).schedules == 1


def test_a_partition_of_which_more_than_a_page_is_due_is_handed_over_where_there_is_somebody(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(dispatcher, "PAGE_SIZE", 4)
    due_runs(world, 3, wake_shard=0)
    many = due_runs(world, 9, wake_shard=1)
    taken: list[int] = []

    assert world.tick(hand_over=taken.append) == DispatchResult(dispatched=3, handed_over=1)
    assert taken == [1]
    assert not set(many) & world.times_sent().keys()

    assert world.tick(partitions=taken) == DispatchResult(dispatched=9)


@pytest.mark.parametrize("partitions", [[-2], [1.0], ["1"], [True], [None]])
def test_partitions_that_there_cannot_be_are_refused(world: World, partitions: Any):
    with pytest.raises(InvalidArgumentError, match="partitions must be whole numbers from -1 on"):
        world.tick(partitions=partitions)

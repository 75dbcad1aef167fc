"""A batch's callback is created exactly once, when all members have ended, whatever dies in between."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from kumofire_core import (
    BatchConflictError,
    BatchIncompleteError,
    Fail,
    InvalidArgumentError,
    InvalidJSONError,
    JobContext,
    Jobs,
    UnknownJobError,
)
from kumofire_core.engine import batch_marks, batches
from kumofire_core.model.batch import batch_id_of, batch_key, callback_run_id, member_run_id, widths
from kumofire_core.rules import batch_items
from tests.builders import NOW, Aws, Clock, message


@pytest.fixture
def made(jobs: Jobs) -> list[Any]:
    """The payloads that the handlers of ``jobs`` were called with."""
    called: list[Any] = []

    @jobs.handler("part", max_attempts=1)
    def part(ctx: JobContext) -> Any:
        called.append(ctx.payload)
        if ctx.payload == "fail":
            raise Fail("as asked")
        return f"did {ctx.payload}"

    @jobs.handler("gather")
    def gather(ctx: JobContext) -> Any:
        called.append(("gather", ctx.payload))
        batch = ctx.batch
        assert batch is not None
        return [batch.succeeded, batch.failed, batch.canceled, [run.output for run in batch.members()]]

    return called


def parts(*payloads: Any) -> list[Any]:
    return [{"name": "part", "payload": payload} for payload in payloads]


def ids(batch_id: str, total: int) -> list[str]:
    return [member_run_id(batch_id, index) for index in range(total)]


def test_the_callback_is_created_when_the_last_member_has_ended_and_not_before(
    aws: Aws, jobs: Jobs, made: list[Any]
) -> None:
    batch_id = jobs.create_batch(parts("a", "fail", "c"), then="gather", payload={"of": 7})
    first, second, third = ids(batch_id, 3)

    jobs.consume(message(third))
    jobs.consume(message(second))
    batch = jobs.get_batch(batch_id)
    assert (batch.state, batch.succeeded, batch.failed, batch.pending) == ("running", 1, 1, 1)
    assert jobs.get_status(batch.then_run_id) is None

    jobs.consume(message(first))
    batch = jobs.get_batch(batch_id)
    assert (batch.state, batch.succeeded, batch.failed, batch.pending) == ("done", 2, 1, 0)
    assert batch.done_at == NOW
    assert aws.sent()[-1] == (batch.then_run_id, 0)

    assert jobs.consume(message(batch.then_run_id)).outcome == "succeeded"
    callback = jobs.get_status(batch.then_run_id)
    assert callback.output == [2, 1, 0, ["did a", None, "did c"]]
    assert callback.callback_of == batch_id
    assert made == ["c", "fail", "a", ("gather", {"of": 7})]


def test_a_member_knows_its_batch_and_the_failed_ones_can_be_listed(jobs: Jobs, made: list[Any]) -> None:
    batch_id = jobs.create_batch(parts("fail", "b", "fail"), then="gather")
    jobs.consume(message(member_run_id(batch_id, 2)))

    member = jobs.get_status(member_run_id(batch_id, 2))
    assert (member.batch_id, member.batch_index, member.callback_of) == (batch_id, 2, None)
    assert [run.id for run in jobs.batch_members(batch_id, status="failed")] == [member.id]
    assert [run.payload for run in jobs.batch_members(batch_id, status="pending")] == ["fail", "b"]
    assert [run.payload for run in jobs.batch_members(batch_id)] == ["fail", "b", "fail"]


@pytest.mark.parametrize("total", [101, *(pytest.param(total, marks=pytest.mark.long) for total in (100, 250))])
def test_a_batch_of_several_buckets_is_done_with_its_last_member(jobs: Jobs, made: list[Any], total: int) -> None:
    batch_id = jobs.create_batch(parts(*range(total)), then="gather")
    order = ids(batch_id, total)
    for run_id in [*order[1:], order[0]]:
        assert jobs.get_batch(batch_id).state == "running" if run_id == order[0] else True
        jobs.consume(message(run_id))

    assert (jobs.get_batch(batch_id).state, jobs.get_batch(batch_id).succeeded) == ("done", total)


def test_a_million_members_need_three_levels_of_buckets() -> None:
    assert widths(1_000_000) == [10_000, 100, 1]
    assert widths(10_001) == [101, 2, 1]
    assert widths(100) == [1]
    assert widths(0) == [1]


def test_a_batch_without_members_is_done_at_once(aws: Aws, jobs: Jobs, made: list[Any]) -> None:
    batch_id = jobs.create_batch([], then="gather", then_if="succeeded")

    assert jobs.get_batch(batch_id).state == "done"
    assert aws.sent() == [(callback_run_id(batch_id), 0)]


def test_a_batch_without_a_callback_counts(jobs: Jobs, made: list[Any]) -> None:
    batch_id = jobs.create_batch(parts("a"))
    jobs.consume(message(member_run_id(batch_id, 0)))

    assert (jobs.get_batch(batch_id).state, jobs.get_batch(batch_id).then) == ("done", None)


def test_members_that_end_while_others_are_created_do_not_start_the_callback(
    jobs: Jobs, made: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seal = batches.Batches._seal
    seen = []

    def end_first(self: Any, batch: Any) -> None:
        for run_id in ids(batch.id, batch.total):
            jobs.consume(message(run_id))
        seen.append(jobs.get_batch(batch.id).state)
        seal(self, batch)

    monkeypatch.setattr(batches.Batches, "_seal", end_first)
    batch_id = jobs.create_batch(parts("a", "b"), then="gather")

    assert seen == ["creating"]
    assert jobs.get_batch(batch_id).state == "done"
    assert jobs.get_status(callback_run_id(batch_id)).status == "queued"


@pytest.mark.parametrize("lost", ["the mark of a member", "the callback", "the end of the batch"])
def test_the_dispatcher_completes_a_batch_whose_last_process_died(
    aws: Aws, jobs: Jobs, clock: Clock, made: list[Any], monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    batch_id = jobs.create_batch(parts("a", "b"), then="gather")
    first, second = ids(batch_id, 2)
    jobs.consume(message(first))
    with monkeypatch.context() as patch:
        name = {
            "the mark of a member": "mark_member",
            "the callback": "_put_followers",
            "the end of the batch": "finish",
        }[lost]
        patch.setattr(batch_marks, name, killed)
        jobs.consume(message(second))
    assert jobs.get_batch(batch_id).state == "running"

    clock.advance(minutes=3)
    jobs.dispatch()

    assert jobs.get_batch(batch_id).state == "done"
    assert jobs.get_status(callback_run_id(batch_id)).status == "queued"
    assert "wake_at" not in batch_item(aws, batch_id)


def killed(*given: Any, **named: Any) -> None:
    raise ConnectionError("as if the process had died")


def batch_item(aws: Aws, batch_id: str) -> dict[str, Any]:
    return next(item for item in aws.items() if item["pk"] == f"batch#{batch_id}")


def test_a_callback_does_not_run_before_its_batch_is_marked_as_done(
    aws: Aws, jobs: Jobs, clock: Clock, made: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = jobs.create_batch(parts("a"), then="gather")
    callback_id = callback_run_id(batch_id)
    with monkeypatch.context() as patch:
        patch.setattr(batch_marks, "finish", killed)
        jobs.consume(message(member_run_id(batch_id, 0)))

    jobs.consume(message(callback_id))
    assert jobs.get_batch(batch_id).state == "done"
    assert jobs.delete(callback_id)
    clock.advance(hours=2)
    jobs.dispatch()

    assert made.count(("gather", None)) == 1
    assert jobs.get_status(callback_id) is None


def test_a_callback_that_is_canceled_and_deleted_does_not_come_back(
    jobs: Jobs, clock: Clock, made: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = jobs.create_batch(parts("a"), then="gather")
    callback_id = callback_run_id(batch_id)
    with monkeypatch.context() as patch:
        patch.setattr(batch_marks, "finish", killed)
        jobs.consume(message(member_run_id(batch_id, 0)))
    assert jobs.cancel(callback_id)
    assert jobs.delete(callback_id)

    clock.advance(hours=2)
    jobs.dispatch()

    assert jobs.get_status(callback_id) is None


def test_a_lost_mark_among_many_is_found_when_nothing_else_ends(
    jobs: Jobs, clock: Clock, made: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kumofire_core.engine.batch_looks.FEW", 0)
    batch_id = jobs.create_batch(parts("a", "b"), then="gather")
    with monkeypatch.context() as patch:
        patch.setattr(batch_marks, "mark_member", killed)
        for run_id in ids(batch_id, 2):
            jobs.consume(message(run_id))
    states = []
    for _ in range(2):
        clock.advance(minutes=3)
        jobs.dispatch()
        states.append(jobs.get_batch(batch_id).state)

    assert states == ["running", "done"]


def test_looks_at_a_batch_become_rarer_while_nothing_ends(aws: Aws, jobs: Jobs, clock: Clock, made: list[Any]) -> None:
    batch_id = jobs.create_batch([{"name": "part", "delay": timedelta(days=30)}])
    waits = []
    for _ in range(8):
        clock.now = NOW + timedelta(milliseconds=batch_item(aws, batch_id)["wake_at"] - int(NOW.timestamp() * 1000))
        jobs.dispatch()
        waits.append((batch_item(aws, batch_id)["wake_at"] - int(clock().timestamp() * 1000)) // 60_000)

    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]


def test_a_worker_that_is_lost_in_its_last_attempt_ends_its_member(jobs: Jobs, clock: Clock, aws: Aws) -> None:
    @jobs.handler("part", max_attempts=1)
    def part(ctx: JobContext) -> None:
        raise AssertionError("never called")

    batch_id = jobs.create_batch(parts("a"))
    run_id = member_run_id(batch_id, 0)
    aws.change(run_id, status="running", lease_token="lost", lease_until=1, claims=1, started_at=1)
    clock.advance(minutes=3)
    jobs.dispatch()

    assert (jobs.get_batch(batch_id).state, jobs.get_batch(batch_id).failed) == ("done", 1)


def test_a_canceled_member_has_ended(jobs: Jobs, made: list[Any]) -> None:
    batch_id = jobs.create_batch(parts("a", "b", "c"), then="gather")
    first, second, third = ids(batch_id, 3)
    jobs.cancel(first)
    jobs.cancel_many(run_ids=[second])
    jobs.consume(message(third))

    batch = jobs.get_batch(batch_id)
    assert (batch.state, batch.canceled, batch.succeeded) == ("done", 2, 1)


def test_a_member_that_was_deleted_does_not_hold_the_batch_up(
    aws: Aws, jobs: Jobs, clock: Clock, made: list[Any]
) -> None:
    batch_id = jobs.create_batch(parts("a", "b"), then="gather")
    first, second = ids(batch_id, 2)
    jobs.consume(message(first))
    key = {"pk": {"S": f"run#{second}"}, "sk": {"S": "run"}}
    aws.dynamodb.client.delete_item(TableName=aws.table, Key=key)
    clock.advance(minutes=3)
    jobs.dispatch()

    batch = jobs.get_batch(batch_id)
    assert (batch.state, batch.succeeded, batch.missing) == ("done", 1, 1)


def test_a_member_is_counted_before_it_is_deleted(jobs: Jobs, made: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    batch_id = jobs.create_batch(parts("fail"))
    with monkeypatch.context() as patch:
        patch.setattr(batch_marks, "mark_member", killed)
        jobs.consume(message(member_run_id(batch_id, 0)))
    assert jobs.delete(member_run_id(batch_id, 0))

    batch = jobs.get_batch(batch_id)
    assert (batch.state, batch.failed, batch.missing) == ("done", 1, 0)


def test_a_retried_member_moves_and_the_callback_stays_one(
    aws: Aws, jobs: Jobs, made: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = jobs.create_batch(parts("fail", "b"), then="gather")
    first, second = ids(batch_id, 2)
    jobs.consume(message(first))
    jobs.consume(message(second))
    jobs.consume(message(callback_run_id(batch_id)))
    jobs.retry(first)
    jobs.update(first, payload="now well")
    jobs.consume(message(first))

    batch = jobs.get_batch(batch_id)
    assert (batch.succeeded, batch.failed, batch.state) == (2, 0, "done")
    assert jobs.get_status(callback_run_id(batch_id)).status == "succeeded"


def test_a_late_mark_of_an_earlier_end_does_not_replace_the_later_one(jobs: Jobs, made: list[Any]) -> None:
    batch_id = jobs.create_batch(parts("fail", "b"))
    first = member_run_id(batch_id, 0)
    jobs.consume(message(first))
    jobs.retry(first)
    jobs.update(first, payload="now well")
    jobs.consume(message(first))

    assert not batch_marks.mark_member(jobs._store, batch_id, 0, 2, "failed", retries=0)
    assert (jobs.get_batch(batch_id).succeeded, jobs.get_batch(batch_id).failed) == (1, 0)


@pytest.mark.parametrize(("payload", "status"), [("a", "queued"), ("fail", "canceled")])
def test_a_callback_may_require_that_all_members_succeeded(
    aws: Aws, jobs: Jobs, made: list[Any], payload: str, status: str
) -> None:
    batch_id = jobs.create_batch(parts(payload, "b"), then="gather", then_if="succeeded")
    for run_id in ids(batch_id, 2):
        jobs.consume(message(run_id))

    callback = jobs.get_status(callback_run_id(batch_id))
    assert callback.status == status
    assert (callback.id in dict(aws.sent())) == (status == "queued")
    if status == "canceled":
        assert callback.cancel_reason == f"not all members of batch {batch_id} succeeded: 1 succeeded, 1 failed"
        assert [run.id for run in jobs.list_runs(status="canceled").runs] == [callback.id]


def test_a_call_with_the_same_key_goes_on_where_the_first_one_died(
    aws: Aws, jobs: Jobs, made: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "WINDOW", 10)
    put = jobs._store.put
    with monkeypatch.context() as patch:
        patch.setattr(jobs._store, "put", lambda run: killed() if run.batch[1] >= 25 else put(run))
        with pytest.raises(BatchIncompleteError, match="call again with the same key") as caught:
            jobs.create_batch(parts(*range(40)), then="gather", key="k")
    assert jobs.get_batch(batch_id_of("k")).state == "creating"
    assert caught.value.batch_id == batch_id_of("k")
    before = len(aws.dynamodb.parameters("put_item"))

    batch_id = jobs.create_batch(parts(*range(40)), then="gather", key="k")

    assert batch_id == batch_id_of("k")
    assert jobs.get_batch(batch_id).state == "running"
    assert len(list(jobs.batch_members(batch_id))) == 40
    assert len(aws.dynamodb.parameters("put_item")) - before == 1 + 20  # the first twenty were known to be stored
    for run_id in ids(batch_id, 40):
        jobs.consume(message(run_id))
    assert jobs.get_batch(batch_id).state == "done"
    assert jobs.create_batch(parts(*range(40)), then="gather", key="k") == batch_id
    assert len([each for each in made if each != ("gather", None)]) == 40


def test_the_table_may_refuse_a_member_for_a_while(
    jobs: Jobs, made: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    put, left, waits = jobs._store.put, [3], []

    def throttled(run: Any) -> bool:
        if run.batch[1] == 1 and left[0]:
            left[0] -= 1
            raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "too fast"}}, "PutItem")
        return put(run)

    monkeypatch.setattr(jobs._store, "put", throttled)
    monkeypatch.setattr(batches.time, "sleep", waits.append)
    batch_id = jobs.create_batch(parts("a", "b", "c"))

    assert [run.payload for run in jobs.batch_members(batch_id)] == ["a", "b", "c"]
    assert waits == [0.2, 0.4, 0.8]


def test_a_batch_that_nobody_completes_is_given_up_and_can_be_taken_up_again(
    aws: Aws, jobs: Jobs, clock: Clock, made: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(batches.Batches, "_seal", killed)
        with pytest.raises(ConnectionError):
            jobs.create_batch(parts("a"), then="gather", key="k")
    batch_id = batch_id_of("k")
    clock.advance(hours=25)
    jobs.dispatch()
    assert jobs.get_batch(batch_id).state == "abandoned"
    assert "wake_at" not in batch_item(aws, batch_id)
    assert jobs.get_status(callback_run_id(batch_id)) is None

    jobs.consume(message(member_run_id(batch_id, 0)))
    jobs.create_batch(parts("a"), then="gather", key="k")

    assert jobs.get_batch(batch_id).state == "done"
    assert jobs.get_status(callback_run_id(batch_id)).status == "queued"


@pytest.mark.parametrize(
    ("other", "saying"),
    [
        ({"requests": parts("a", "b")}, "total 1, and now 2"),
        ({"then": "part"}, "then 'gather', and now 'part'"),
        ({"then_if": "succeeded"}, "then_if 'ended', and now 'succeeded'"),
    ],
)
def test_another_batch_under_the_same_key_is_refused(
    jobs: Jobs, made: list[Any], other: dict[str, Any], saying: str
) -> None:
    first: dict[str, Any] = {"requests": parts("a"), "then": "gather", "key": "k"}
    jobs.create_batch(**first)
    with pytest.raises(BatchConflictError, match=re.escape(saying)):
        jobs.create_batch(**(first | other))


def test_canceling_a_batch_cancels_what_has_not_ended(jobs: Jobs, made: list[Any]) -> None:
    batch_id = jobs.create_batch(parts("a", "b", "c"), then="gather")
    jobs.consume(message(member_run_id(batch_id, 0)))

    assert jobs.cancel_batch(batch_id, "wrong master")

    batch = jobs.get_batch(batch_id)
    assert (batch.state, batch.succeeded, batch.canceled) == ("done", 1, 2)
    assert (batch.cancel_requested, batch.cancel_reason) == (True, "wrong master")
    assert jobs.get_status(member_run_id(batch_id, 1)).cancel_reason == "wrong master"
    assert not jobs.cancel_batch(batch_id)
    assert not jobs.cancel_batch("unknown")


def test_the_dispatcher_goes_on_with_canceling_a_batch(
    jobs: Jobs, clock: Clock, made: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = jobs.create_batch([{"name": "part", "delay": 3600}] * 2)
    with monkeypatch.context() as patch:
        patch.setattr(batches.Batches, "_cancel_member", killed)
        with pytest.raises(ConnectionError):
            jobs.cancel_batch(batch_id, "why")
    clock.advance(minutes=3)
    jobs.dispatch()

    assert (jobs.get_batch(batch_id).state, jobs.get_batch(batch_id).canceled) == ("done", 2)


def test_an_incomplete_batch_can_be_canceled(
    jobs: Jobs, clock: Clock, made: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    put = jobs._store.put
    with monkeypatch.context() as patch:
        patch.setattr(jobs._store, "put", lambda run: killed() if run.batch[1] else put(run))
        with pytest.raises(BatchIncompleteError):
            jobs.create_batch(parts("a", "b"), key="k")
    assert jobs.cancel_batch(batch_id_of("k"))
    clock.advance(minutes=3)
    jobs.dispatch()

    batch = jobs.get_batch(batch_id_of("k"))
    assert (batch.state, batch.canceled, batch.missing) == ("done", 1, 1)


def test_a_chain_goes_on_when_the_run_before_has_succeeded(jobs: Jobs, made: list[Any]) -> None:
    @jobs.handler("next")
    def next_one(ctx: JobContext) -> str:
        return f"{ctx.batch.previous.output}, then {ctx.payload}"

    run_ids = jobs.create_chain(
        [{"name": "part", "payload": "a"}, {"name": "next", "payload": "b"}, {"name": "next", "payload": "c"}]
    )
    assert [jobs.get_status(run_id) is None for run_id in run_ids] == [False, True, True]
    for run_id in run_ids:
        assert jobs.consume(message(run_id)).outcome == "succeeded"

    assert jobs.get_status(run_ids[2]).output == "did a, then b, then c"
    assert all(batch.state == "done" for batch in jobs.list_batches().batches)


def test_a_chain_goes_on_where_the_next_run_came_before_its_batch(
    jobs: Jobs, made: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ids = jobs.create_chain(parts("a", "b", "c"))
    with monkeypatch.context() as patch:
        patch.setattr(batch_marks, "_put_next_batch", killed)
        jobs.consume(message(run_ids[0]))
    for run_id in run_ids[1:]:
        assert jobs.consume(message(run_id)).outcome == "succeeded"

    assert made == ["a", "b", "c"]


def test_a_chain_that_fails_ends_visibly(jobs: Jobs, made: list[Any]) -> None:
    run_ids = jobs.create_chain([*parts("fail"), *parts("b"), *parts("c"), {"name": "gather", "delay": 60}])
    jobs.consume(message(run_ids[0]))

    assert [jobs.get_status(run_id).status for run_id in run_ids] == ["failed", "canceled", "canceled", "canceled"]
    assert all(batch.state == "done" for batch in jobs.list_batches().batches)
    assert made == ["fail"]


def test_a_chain_of_one_is_a_run(jobs: Jobs, made: list[Any]) -> None:
    (run_id,) = jobs.create_chain(parts("a"), key="k")
    assert jobs.create_chain(parts("a"), key="k") == [run_id]
    assert jobs.consume(message(run_id)).outcome == "succeeded"


def test_a_later_run_of_a_chain_may_wait(aws: Aws, jobs: Jobs, made: list[Any]) -> None:
    first, second = jobs.create_chain([*parts("a"), {"name": "part", "delay": timedelta(minutes=5)}])
    jobs.consume(message(first))

    assert jobs.get_status(second).scheduled_for == NOW + timedelta(minutes=5)
    assert aws.sent()[-1] == (second, 300)


def test_batches_are_listed_the_newest_first(jobs: Jobs, clock: Clock, made: list[Any]) -> None:
    created = []
    for number in range(25):
        clock.advance(seconds=number % 2)  # some are of the same millisecond
        created.append(jobs.create_batch(parts("a"), key=str(number)))
    listed, page = [], None
    while True:
        found = jobs.list_batches(limit=10, page=page)
        listed += [batch.id for batch in found.batches]
        if (page := found.next_page) is None:
            break

    assert sorted(listed) == sorted(created)
    times = [jobs.get_batch(batch_id).created_at for batch_id in listed]
    assert times == sorted(times, reverse=True)


def test_what_a_batch_of_another_process_is_encrypted_with_is_its_own(aws: Aws, clock: Clock) -> None:
    class Turned:
        def encrypt(self, plaintext: bytes) -> bytes:
            return plaintext[::-1]

        def decrypt(self, ciphertext: bytes) -> bytes:
            return ciphertext[::-1]

    jobs = aws.jobs(clock=clock, cipher=Turned(), concurrency=1)
    outputs = []

    @jobs.handler("part")
    def part(ctx: JobContext) -> str:
        return "secret output"

    @jobs.handler("gather")
    def gather(ctx: JobContext) -> None:
        outputs.append((ctx.payload, [run.output for run in ctx.batch.members()]))

    batch_id = jobs.create_batch(parts("secret part"), then="gather", payload="secret callback")
    jobs.consume(message(member_run_id(batch_id, 0)))
    jobs.consume(message(callback_run_id(batch_id)))

    assert outputs == [("secret callback", ["secret output"])]
    assert "secret" not in str(aws.items())


def test_batches_and_buckets_are_kept_longer_than_runs(aws: Aws, clock: Clock, made: list[Any], jobs: Jobs) -> None:
    batch_id = jobs.create_batch(parts("a", "b"))
    jobs.consume(message(member_run_id(batch_id, 0)))
    assert "expires_at" not in batch_item(aws, batch_id)
    jobs.consume(message(member_run_id(batch_id, 1)))

    run = aws.item(member_run_id(batch_id, 1))
    bucket = next(item for item in aws.items() if item["pk"].startswith("bucket#"))
    for item in (batch_item(aws, batch_id), bucket):
        assert item["expires_at"] == run["expires_at"] + 35 * 86_400


def test_the_buckets_of_a_batch_that_takes_months_are_kept(aws: Aws, clock: Clock, made: list[Any], jobs: Jobs) -> None:
    batch_id = jobs.create_batch([*parts("a"), {"name": "part", "delay": timedelta(days=300)}])
    jobs.consume(message(member_run_id(batch_id, 0)))
    for _ in range(10):
        clock.advance(days=20)
        jobs.dispatch()
        bucket = next(item for item in aws.items() if item["pk"].startswith("bucket#"))
        assert bucket["expires_at"] > clock().timestamp() + 35 * 86_400


def requests_of(aws: Aws, action: Callable[[], object]) -> list[str]:
    before = len(aws.dynamodb.requests)
    action()
    return [name for name, _ in aws.dynamodb.requests[before:]]


def test_what_a_batch_costs(aws: Aws, jobs: Jobs, made: list[Any]) -> None:
    created: list[str] = []
    plain = jobs.create("part", "a")
    requests = requests_of(aws, lambda: created.append(jobs.create_batch(parts("a", "b"), then="gather")))
    assert requests == ["put_item", "put_item", "put_item", "update_item", "batch_get_item"]
    first, second = ids(created[0], 2)
    jobs.consume(message(jobs.create("part", "warm")))
    one = requests_of(aws, lambda: jobs.consume(message(plain)))
    member = requests_of(aws, lambda: jobs.consume(message(first)))
    last = requests_of(aws, lambda: jobs.consume(message(second)))

    assert one == ["update_item"] * 2
    assert member == ["update_item"] * 3
    assert last == [*["update_item"] * 3, "get_item", "batch_get_item", "put_item", "update_item"]


@pytest.mark.parametrize(
    ("call", "error", "saying"),
    [
        (lambda jobs: jobs.create_batch({"name": "part"}), InvalidArgumentError, "takes a list"),
        (lambda jobs: jobs.create_batch("part"), InvalidArgumentError, "takes a list"),
        (
            lambda jobs: jobs.create_batch([{"name": "part", "dedupe_key": "k"}]),
            InvalidArgumentError,
            "run 0 of create_batch: it has a dedupe_key",
        ),
        (lambda jobs: jobs.create_batch([*parts(1), {"nam": 1}]), InvalidArgumentError, "run 1 of create_batch"),
        (lambda jobs: jobs.create_batch([{"name": "other"}]), UnknownJobError, "run 0 of create_batch"),
        (lambda jobs: jobs.create_batch([], then="other"), UnknownJobError, "then: no handler"),
        (lambda jobs: jobs.create_batch([], then=7), InvalidArgumentError, "then must be a job's name"),
        (lambda jobs: jobs.create_batch([], then={"name": "part", "run_at": NOW}), InvalidArgumentError, "run_at"),
        (lambda jobs: jobs.create_batch([], then={"payload": 1}), InvalidArgumentError, "then has no 'name'"),
        (lambda jobs: jobs.create_batch([], then={"name": "part"}, payload=1), InvalidArgumentError, "leave payload"),
        (lambda jobs: jobs.create_batch([], payload=1), InvalidArgumentError, "give then as well"),
        (lambda jobs: jobs.create_batch([], then="part", payload=object()), InvalidJSONError, "then: the payload"),
        (lambda jobs: jobs.create_batch([], then="part", then_if="all"), InvalidArgumentError, "then_if must be"),
        (lambda jobs: jobs.create_batch([], key=""), InvalidArgumentError, "key must have 1 to"),
        (lambda jobs: jobs.create_chain([]), InvalidArgumentError, "takes 1 to 100 requests"),
        (lambda jobs: jobs.create_chain(parts(*range(101))), InvalidArgumentError, "takes 1 to 100 requests"),
        (
            lambda jobs: jobs.create_chain([*parts(1), {"name": "part", "run_at": NOW}]),
            InvalidArgumentError,
            "request 1 of create_chain takes no 'run_at'",
        ),
        (lambda jobs: jobs.create_chain(parts(1, *["x" * 200_000] * 2)), InvalidArgumentError, "there is room for"),
        (lambda jobs: jobs.get_batch(7), InvalidArgumentError, "a batch id must be a string"),
        (lambda jobs: jobs.batch_members("b", status="done"), InvalidArgumentError, "status must be one of"),
        (lambda jobs: jobs.cancel_batch("b", 7), InvalidArgumentError, "reason must be a string"),
        (lambda jobs: jobs.list_batches(limit=0), InvalidArgumentError, "limit must be"),
        (lambda jobs: jobs.list_batches(page="x"), InvalidArgumentError, "page must be the next_page"),
    ],
)
def test_what_can_t_be_meant_is_refused_before_anything_is_written(
    aws: Aws, jobs: Jobs, made: list[Any], call: Callable[[Jobs], object], error: type[Exception], saying: str
) -> None:
    with pytest.raises(error, match=re.escape(saying)):
        call(jobs)
    assert aws.items() == []


def test_the_constants_that_readers_of_the_page_rely_on() -> None:
    assert batch_items.ABANDONED_MS == 24 * 3_600_000
    assert (batch_items.FIRST_LOOK_MS, batch_items.LONGEST_LOOK_MS) == (120_000, 3_600_000)


def test_a_batch_that_is_done_is_not_completed_again_where_a_restored_table_does_not_know_that_it_was(
    aws: Aws, jobs: Jobs, made: list[Any]
):
    batch_id = jobs.create_batch(parts("a"), then="gather", key="b")
    jobs.consume(message(ids(batch_id, 1)[0]))
    key = {"pk": {"S": f"batch#{batch_id}"}, "sk": {"S": "batch"}}
    aws.dynamodb.update_item(TableName=aws.table, Key=key, UpdateExpression="REMOVE sealed_at, sealed_by")

    assert jobs.create_batch(parts("a"), then="gather", key="b") == batch_id

    [item] = [each for each in aws.items() if each["pk"] == f"batch#{batch_id}"]
    assert "done_at" in item
    assert "wake_at" not in item


@pytest.mark.parametrize("put", [0, 1])
def test_no_write_of_a_creator_or_a_person_brings_a_batch_that_is_done_back_into_the_index(
    aws: Aws, jobs: Jobs, made: list[Any], put: int
):
    batch_id = jobs.create_batch(parts("a"), then="gather")
    jobs.consume(message(ids(batch_id, 1)[0]))
    table, key = jobs._store.table, batch_key(batch_id)
    item = {"pk": {"S": f"batch#{batch_id}"}, "sk": {"S": "batch"}}
    if put:
        aws.dynamodb.update_item(
            TableName=aws.table,
            Key=item,
            UpdateExpression="SET #put = :one",
            ExpressionAttributeNames={"#put": "put"},
            ExpressionAttributeValues={":one": {"N": "1"}},
        )
    aws.dynamodb.update_item(TableName=aws.table, Key=item, UpdateExpression="REMOVE sealed_at, sealed_by")
    batch = batch_marks.find_batch(jobs._store, batch_id)
    assert batch is not None

    for write in (
        batch_items.put_so_far(batch, "t1", put=2, now_ms=1, shards=1),
        batch_items.seal(batch_id, "t2", now_ms=1, shards=1),
        batch_items.cancel(batch, "t3", now_ms=1, reason=None, shards=1),
    ):
        assert not table.apply(key, write).applied

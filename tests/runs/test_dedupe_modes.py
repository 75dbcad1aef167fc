"""One run for a key: while it is unfinished, for a period, or debounced; whatever crashes and whoever races."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from kumofire_core import DedupeKeyConflictError, JobContext, Jobs, Snooze, SupersededRunError
from kumofire_core.model.run import derived_run_id
from tests.builders import NOW, NOW_MS, Aws, Clock, message
from tests.faults import READS, Repeated, WriteUnits
from tests.runs.test_requests import written
from tests.worlds import Death, Died

UNFINISHED = {"scheduled", "queued", "running"}
HOUR = timedelta(hours=1)
MODES: list[Any] = ["unfinished", "debounce", HOUR]


def runs(aws: Aws) -> dict[str, dict[str, Any]]:
    """Return the stored runs by their ids."""
    return {item["pk"].removeprefix("run#"): item for item in aws.items() if item["pk"].startswith("run#")}


def unfinished(aws: Aws) -> list[str]:
    return [run_id for run_id, item in runs(aws).items() if item["status"] in UNFINISHED]


def end(aws: Aws, run_id: str, status: str = "succeeded") -> None:
    """Let a run have ended."""
    aws.change(run_id, without=("wake_shard", "wake_at"), status=status, finished_at=NOW_MS, attempts="[]")


def forget(aws: Aws, run_id: str) -> None:
    """Delete a run as DynamoDB's TTL does."""
    aws.dynamodb.client.delete_item(TableName=aws.table, Key={"pk": {"S": f"run#{run_id}"}, "sk": {"S": "run"}})


def clear(aws: Aws) -> None:
    for item in aws.items():
        aws.dynamodb.client.delete_item(TableName=aws.table, Key={name: {"S": item[name]} for name in ("pk", "sk")})


# What each promises


@pytest.mark.parametrize("fields", [{}, {"status": "scheduled"}, {"status": "running", "lease_token": "x"}], ids=str)
def test_a_key_s_unfinished_run_is_returned_and_stays_as_it_is(jobs: Jobs, aws: Aws, fields: dict[str, Any]):
    first = jobs.create("email", 1, dedupe_key="k", dedupe="unfinished")
    aws.change(first, **fields, lease_until=NOW_MS + 1)
    before = aws.item(first)

    assert jobs.create("email", 2, dedupe_key="k", dedupe="unfinished", delay=60) == first
    assert aws.item(first) == before
    assert list(runs(aws)) == [first]


@pytest.mark.parametrize("status", ["succeeded", "failed", "canceled"])
def test_a_key_whose_run_has_ended_makes_a_new_one_each_time(jobs: Jobs, aws: Aws, status: str):
    made = []
    for number in range(4):
        made.append(jobs.create("email", number, dedupe_key="k", dedupe="unfinished"))
        end(aws, made[-1], status)

    assert len(set(made)) == 4
    assert [jobs.get_status(run_id).payload for run_id in made] == [0, 1, 2, 3]
    assert {jobs.get_status(run_id).dedupe_key for run_id in made} == {"k"}
    assert jobs.find_run(dedupe_key="k").id == made[-1]
    assert [run_id for run_id, _ in aws.sent()] == made


def test_a_period_counts_from_the_run_s_creation_whatever_became_of_it(jobs: Jobs, aws: Aws, clock: Clock):
    first = jobs.create("email", 1, dedupe_key="k", dedupe=HOUR)
    end(aws, first)
    clock.advance(minutes=59, seconds=59)
    assert jobs.create("email", 2, dedupe_key="k", dedupe=HOUR) == first

    clock.advance(seconds=1)
    second = jobs.create("email", 3, dedupe_key="k", dedupe=HOUR)
    assert second != first
    assert jobs.get_status(second).payload == 3
    clock.advance(minutes=1)
    assert jobs.create("email", 4, dedupe_key="k", dedupe=HOUR) == second
    assert jobs.find_run(dedupe_key="k").id == second


def test_a_debounced_run_has_the_latest_call_s_payload_and_time(jobs: Jobs, aws: Aws, clock: Clock):
    made = set()
    for number in range(5):
        made.add(jobs.create("email", number, dedupe_key="k", dedupe="debounce", delay=30))
        clock.advance(seconds=10)

    [run_id] = made
    run = jobs.get_status(run_id)
    assert (run.payload, run.status) == (4, "scheduled")
    assert run.scheduled_for == NOW + timedelta(seconds=40 + 30)
    assert list(runs(aws)) == [run_id]

    assert jobs.create("email", "now", dedupe_key="k", dedupe="debounce") == run_id
    assert (jobs.get_status(run_id).status, jobs.get_status(run_id).payload) == ("queued", "now")


def test_a_debounced_run_that_executes_or_waits_for_another_attempt_is_left_and_a_new_one_is_made(
    jobs: Jobs, aws: Aws, clock: Clock
):
    seen: list[Any] = []

    @jobs.handler("email")
    def email(ctx: JobContext) -> None:
        seen.append((ctx.payload, jobs.create("email", "while it runs", dedupe_key="k", dedupe="debounce", delay=50)))
        if ctx.payload == "first":
            raise Snooze(60)

    first = jobs.create("email", "first", dedupe_key="k", dedupe="debounce")
    jobs.consume(message(first))

    second = jobs.create("email", "after", dedupe_key="k", dedupe="debounce", delay=50)
    assert second != first
    assert seen == [("first", second)]
    assert (jobs.get_status(first).payload, jobs.get_status(second).payload) == ("first", "after")
    assert jobs.get_status(first).status == "scheduled"


@pytest.mark.parametrize(
    "fields",
    [
        {"started_at": NOW_MS, "claims": 1, "settled_by": "x"},
        {"started_at": NOW_MS, "claims": 1, "status": "scheduled", "no_handler_since": NOW_MS},
        {"claims": 1, "status": "scheduled", "parked": "pause", "list_shard": "parked#1", "list_at": NOW_MS},
    ],
    ids=["released", "without a handler", "of a paused job"],
)
def test_a_run_that_was_claimed_but_whose_handler_was_not_called_is_debounced(
    jobs: Jobs, aws: Aws, fields: dict[str, Any]
):
    run_id = jobs.create("email", 1, dedupe_key="k", dedupe="debounce")
    aws.change(run_id, **fields)

    assert jobs.create("email", 2, dedupe_key="k", dedupe="debounce", delay=5) == run_id

    item = aws.item(run_id)
    assert (item["payload"], item["scheduled_for"]) == ("2", NOW_MS + 5_000)
    assert not {"parked", "list_shard", "list_at"} & item.keys()


def test_a_debounced_run_that_a_person_retried_is_not_replaced(jobs: Jobs, aws: Aws):
    run_id = jobs.create("email", 1, dedupe_key="k", dedupe="debounce")
    jobs.cancel(run_id)
    assert jobs.retry(run_id)

    assert jobs.create("email", 2, dedupe_key="k", dedupe="debounce") != run_id
    assert jobs.get_status(run_id).payload == 1


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_key_s_run_of_another_job_is_a_conflict_in_every_generation(jobs: Jobs, aws: Aws, clock: Clock, mode: Any):
    for _ in range(2):
        last = jobs.create("email", dedupe_key="k", dedupe=mode)
        with pytest.raises(DedupeKeyConflictError) as conflict:
            jobs.create("invoice", dedupe_key="k", dedupe=mode)
        assert conflict.value.run_id == last
        end(aws, last)
        clock.advance(hours=2)
    assert len(runs(aws)) == 2


def test_a_payload_is_encrypted_for_the_run_that_has_it(aws: Aws):
    class Reversed:
        def encrypt(self, plaintext: bytes) -> bytes:
            return plaintext[::-1]

        def decrypt(self, ciphertext: bytes) -> bytes:
            return ciphertext[::-1]

    jobs = aws.jobs(cipher=Reversed())
    first = jobs.create("email", "secret", dedupe_key="k", dedupe="debounce")
    end(aws, first)
    second = jobs.create("email", "secret", dedupe_key="k", dedupe="debounce")
    jobs.create("email", "another secret", dedupe_key="k", dedupe="debounce")

    assert all("secret" not in str(item) for item in aws.items())
    assert [jobs.get_status(run_id).payload for run_id in (first, second)] == ["secret", "another secret"]


# Modes together


def test_the_call_s_mode_decides_whatever_made_the_key_s_run(jobs: Jobs, aws: Aws, clock: Clock):
    first = jobs.create("email", 1, dedupe_key="k")
    assert jobs.create("email", 2, dedupe_key="k", dedupe="unfinished") == first
    assert jobs.create("email", 3, dedupe_key="k", dedupe=HOUR) == first
    assert jobs.get_status(first).payload == 1
    assert jobs.create("email", 4, dedupe_key="k", dedupe="debounce") == first
    assert jobs.get_status(first).payload == 4

    end(aws, first)
    assert jobs.create("email", 5, dedupe_key="k") == first
    assert jobs.create("email", 5, dedupe_key="k", dedupe=HOUR) == first
    second = jobs.create("email", 6, dedupe_key="k", dedupe="unfinished")
    assert second != first
    assert jobs.create("email", 7, dedupe_key="k", dedupe="debounce") == second
    assert jobs.find_run(dedupe_key="k").id == second


def test_kept_sees_the_key_s_first_run_only(jobs: Jobs, aws: Aws):
    first = jobs.create("email", dedupe_key="k", dedupe="unfinished")
    end(aws, first)
    second = jobs.create("email", dedupe_key="k", dedupe="unfinished")

    assert jobs.create("email", dedupe_key="k") == first
    forget(aws, first)
    assert jobs.create("email", dedupe_key="k") == first
    assert sorted(unfinished(aws)) == sorted([first, second])


# What was deleted


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_key_whose_runs_were_deleted_makes_one_run_again(jobs: Jobs, aws: Aws, clock: Clock, mode: Any):
    made = []
    for _ in range(3):
        made.append(jobs.create("email", dedupe_key="k", dedupe=mode))
        end(aws, made[-1])
        clock.advance(hours=2)
    for run_id in made:
        forget(aws, run_id)
    assert jobs.find_run(dedupe_key="k") is None

    again = jobs.create("email", 1, dedupe_key="k", dedupe=mode)

    assert jobs.create("email", 2, dedupe_key="k", dedupe=mode) == again
    assert list(runs(aws)) == [again]
    assert jobs.find_run(dedupe_key="k").id == again


def test_an_old_run_s_deletion_makes_no_second_one_beside_the_unfinished(jobs: Jobs, aws: Aws):
    made = []
    for _ in range(3):
        made.append(jobs.create("email", dedupe_key="k", dedupe="unfinished"))
        if len(made) < 3:
            end(aws, made[-1])
    for run_id in made[:2]:
        assert jobs.delete(run_id)

    assert jobs.create("email", dedupe_key="k", dedupe="unfinished") == made[-1]
    assert list(runs(aws)) == [made[-1]]


# Crashes and races


def once_ended(aws: Aws, mode: Any) -> tuple[str, Clock]:
    """Store a key whose first run has ended, and nothing else; return that run, and a clock past its period."""
    clear(aws)
    first = aws.jobs().create("email", "first", dedupe_key="k", dedupe=mode)
    end(aws, first)
    return first, Clock(NOW + 2 * HOUR)


@pytest.mark.parametrize("applied", [True, False], ids=["applied", "not applied"])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_creator_killed_at_any_write_leaves_a_key_that_makes_one_run(aws: Aws, mode: Any, applied: bool):
    for at in itertools.count(1):
        first, clock = once_ended(aws, mode)
        death = Death(at, applied=applied, beside=tuple(READS))
        mortal = aws.jobs(clock=clock, dynamodb=death.wrap(aws.dynamodb), sqs=death.wrap(aws.sqs))
        with contextlib.suppress(Died):
            mortal.create("email", "second", dedupe_key="k", dedupe=mode)
        if not death.came:
            break
        found = aws.jobs().find_run(dedupe_key="k")
        assert found is not None
        assert found.id in [*unfinished(aws), first]

        second = aws.jobs(clock=clock).create("email", "third", dedupe_key="k", dedupe=mode)

        assert unfinished(aws) == [second], at
        assert len(runs(aws)) == 2, at
        assert aws.jobs().find_run(dedupe_key="k").id == second
    assert at == 5  # the refused put, the number, the put, the message


class Meanwhile:
    """Does something just before one request, the ``at``-th to the table."""

    def __init__(self, client: Any, action: Callable[[], object], *, at: int) -> None:
        self._client = client
        self._action = action
        self.left = at

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def request(**parameters: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                self._action()
            return getattr(self._client, operation)(**parameters)

        return request


@pytest.mark.parametrize("new", [True, False], ids=["a new key", "a key whose run has ended"])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_two_creators_at_once_make_one_run_between_any_two_requests(aws: Aws, mode: Any, new: bool):
    for at in itertools.count(1):
        _, clock = once_ended(aws, mode)
        if new:
            clear(aws)
        others: list[str] = []

        def another(clock: Clock = clock, others: list[str] = others) -> None:
            others.append(aws.jobs(clock=clock).create("email", "theirs", dedupe_key="k", dedupe=mode))

        meanwhile = Meanwhile(aws.dynamodb, another, at=at)
        mine = aws.jobs(clock=clock, dynamodb=meanwhile).create("email", "mine", dedupe_key="k", dedupe=mode)
        if not others:
            break

        assert [mine] == others, at
        assert unfinished(aws) == [mine], at
        payload = "mine" if mode == "debounce" else "theirs"
        assert runs(aws)[mine]["payload"] == f'"{payload}"', at
    assert at > 2


def test_a_creator_that_others_overtake_by_several_runs_makes_none_beside_the_unfinished(aws: Aws):
    """Runs are made, end and are deleted while it is between two of its requests."""
    for at in itertools.count(1):
        once_ended(aws, "unfinished")
        other = aws.jobs()
        made: list[str] = []

        def overtake(made: list[str] = made, other: Jobs = other) -> None:
            for _ in range(3):
                made.append(other.create("email", dedupe_key="k", dedupe="unfinished"))
                if len(made) < 3:
                    end(aws, made[-1])
            for run_id in made[:-1]:
                forget(aws, run_id)

        meanwhile = Meanwhile(aws.dynamodb, overtake, at=at)
        mine = aws.jobs(dynamodb=meanwhile).create("email", dedupe_key="k", dedupe="unfinished")
        if not made:
            break
        if at == 4:  # it is about to put the run of its own number, which others put, ended and deleted: docs/dedupe.md
            continue
        assert mine == made[-1], at
        assert unfinished(aws) == [mine], at
    assert at > 3


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_lost_replies_make_one_run(aws: Aws, mode: Any):
    _, clock = once_ended(aws, mode)
    jobs = aws.jobs(clock=clock, dynamodb=Repeated(aws.dynamodb))

    second = jobs.create("email", "second", dedupe_key="k", dedupe=mode)
    clock.advance(seconds=1)

    assert jobs.create("email", "third", dedupe_key="k", dedupe=mode) == second
    assert unfinished(aws) == [second]
    assert runs(aws)[second]["payload"] == ('"third"' if mode == "debounce" else '"second"')
    assert len(runs(aws)) == 2


def test_a_late_copy_of_an_older_call_does_not_win(aws: Aws, clock: Clock):
    """All calls in one millisecond, so that the time alone can't tell them apart."""
    jobs = aws.jobs(clock=clock)
    run_id = jobs.create("email", 0, dedupe_key="k", dedupe="debounce", delay=60)
    jobs.create("email", 1, dedupe_key="k", dedupe="debounce", delay=60)
    [older] = aws.dynamodb.parameters("update_item")
    jobs.create("email", 2, dedupe_key="k", dedupe="debounce", delay=90)

    with pytest.raises(aws.dynamodb.client.exceptions.ConditionalCheckFailedException):
        aws.dynamodb.client.update_item(**older)

    assert (aws.item(run_id)["payload"], aws.item(run_id)["scheduled_for"]) == ("2", NOW_MS + 90_000)


def test_a_call_from_a_clock_that_is_behind_wins_as_well(aws: Aws):
    run_id = aws.jobs().create("email", 1, dedupe_key="k", dedupe="debounce", delay=60)
    behind = aws.jobs(clock=Clock(NOW - timedelta(seconds=5)))

    assert behind.create("email", 2, dedupe_key="k", dedupe="debounce", delay=60) == run_id
    assert aws.item(run_id)["payload"] == "2"


@pytest.mark.parametrize("error", [None, Snooze(5), OSError()], ids=repr)
def test_a_run_that_starts_in_the_moment_of_a_debounce_keeps_its_payload(aws: Aws, error: Exception | None):
    jobs = aws.jobs()
    executed: list[Any] = []

    @jobs.handler("email")
    def email(ctx: JobContext) -> None:
        executed.append(ctx.payload)
        if error is not None:
            raise error

    first = jobs.create("email", 1, dedupe_key="k", dedupe="debounce")
    between = Meanwhile(aws.dynamodb, lambda: jobs.consume(message(first)), at=3)

    second = aws.jobs(dynamodb=between).create("email", 2, dedupe_key="k", dedupe="debounce")

    assert second != first
    assert executed == [1]
    assert [jobs.get_status(run_id).payload for run_id in (first, second)] == [1, 2]


def test_the_period_of_a_run_counts_from_when_it_is_made_although_its_creator_was_slow(aws: Aws):
    clock = Clock(NOW)
    first = aws.jobs(clock=clock).create("email", 1, dedupe_key="k", dedupe=HOUR)

    def begin_the_next_run_and_die() -> None:
        clock.now = NOW + HOUR
        death = Death(3, applied=False, beside=tuple(READS))
        with contextlib.suppress(Died):
            aws.jobs(clock=clock, dynamodb=death.wrap(aws.dynamodb)).create("email", 2, dedupe_key="k", dedupe=HOUR)

    slow = Meanwhile(aws.dynamodb, begin_the_next_run_and_die, at=1)
    clock.now = NOW + HOUR / 2
    second = aws.jobs(clock=clock, dynamodb=slow).create("email", 3, dedupe_key="k", dedupe=HOUR)
    clock.now = NOW + 1.75 * HOUR

    assert second != first
    assert aws.jobs(clock=clock).get_status(second).created_at == NOW + HOUR
    assert aws.jobs(clock=clock).create("email", 4, dedupe_key="k", dedupe=HOUR) == second


# Messages of a debounced run


@pytest.mark.parametrize(
    ("first", "advance", "then", "sent"),
    [
        (30, 10, 30, False),  # the message that waits comes early, and its consumer hides it until the run is due
        (0, 0, 300, False),
        (200, 100, 300, False),
        (0, 0, 301, True),  # it would come too early, and be acknowledged
        (30, 0, 10, True),  # it would come too late
        (800, 10, 900, True),
        (1_000, 950, 100, True),  # it was never sent
        (30, 10, 901, False),  # the dispatcher sends it
    ],
)
def test_a_message_is_sent_only_where_the_one_under_way_does_not_do(
    jobs: Jobs, aws: Aws, clock: Clock, first: int, advance: int, then: int, sent: bool
):
    run_id = jobs.create("email", dedupe_key="k", dedupe="debounce", delay=first)
    aws.sqs.requests.clear()
    clock.advance(seconds=advance)

    jobs.create("email", dedupe_key="k", dedupe="debounce", delay=then)

    assert aws.sent() == ([(run_id, then)] if sent else [])
    due_ms = NOW_MS + (advance + then) * 1_000
    assert aws.item(run_id)["wake_at"] == due_ms + (120_000 if then <= 900 else 0)


def test_the_message_of_an_old_time_waits_and_starts_the_run_at_its_new_one(jobs: Jobs, aws: Aws, clock: Clock):
    executed: list[Any] = []
    jobs.handler("email")(lambda ctx: executed.append(ctx.payload))
    run_id = jobs.create("email", 1, dedupe_key="k", dedupe="debounce", delay=30)
    clock.advance(seconds=20)
    jobs.create("email", 2, dedupe_key="k", dedupe="debounce", delay=30)
    clock.advance(seconds=10)

    assert jobs.consume(message(run_id)).early_seconds == 20
    assert executed == []
    clock.advance(seconds=20)
    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert executed == [2]


def test_the_message_of_a_paused_job_s_run_is_sent_anew(jobs: Jobs, aws: Aws):
    """Its consumer has acknowledged the one before, when it put the run aside."""
    run_id = jobs.create("email", dedupe_key="k", dedupe="debounce")
    aws.change(run_id, status="scheduled", parked="pause", wake_at=NOW_MS + 10**7, list_shard="parked#1", list_at=1)
    aws.sqs.requests.clear()

    jobs.create("email", dedupe_key="k", dedupe="debounce", delay=5)

    assert aws.sent() == [(run_id, 5)]


# A person's retry


def test_an_older_run_of_a_key_is_not_retried_beside_a_newer_one(jobs: Jobs, aws: Aws):
    first = jobs.create("email", dedupe_key="k", dedupe="unfinished")
    jobs.cancel(first)
    second = jobs.create("email", dedupe_key="k", dedupe="unfinished")
    before = aws.items()

    with pytest.raises(SupersededRunError, match=f"run {first} can't be retried.*'k'.*run {second} is newer"):
        jobs.retry(first)
    assert aws.items() == before

    jobs.cancel(second)
    with pytest.raises(SupersededRunError):
        jobs.retry(first)
    assert jobs.retry(second) is True
    assert jobs.create("email", dedupe_key="k", dedupe="unfinished") == second
    assert unfinished(aws) == [second]


def test_retrying_many_tells_which_runs_their_keys_do_not_allow(jobs: Jobs, aws: Aws):
    made = []
    for _ in range(3):
        made.append(jobs.create("email", dedupe_key="k", dedupe="unfinished"))
        jobs.cancel(made[-1])

    done = jobs.retry_many(status="canceled")

    assert (done.matched, done.changed, done.failed) == (3, 1, 2)
    assert all("can't be retried" in error for error in done.errors)
    assert unfinished(aws) == [made[-1]]


@pytest.mark.parametrize("mode", ["kept", "debounce", HOUR], ids=str)
def test_runs_of_the_other_modes_are_retried_as_ever(jobs: Jobs, aws: Aws, clock: Clock, mode: Any):
    first = jobs.create("email", dedupe_key="k", dedupe=mode)
    jobs.cancel(first)
    clock.advance(hours=2)
    jobs.create("email", dedupe_key="k", dedupe=mode)

    assert jobs.retry(first) is True


# Many at once


def test_many_requests_may_name_one_key_and_get_the_run_that_counts(jobs: Jobs, aws: Aws):
    ended = jobs.create("email", dedupe_key="b", dedupe="unfinished")
    end(aws, ended)
    aws.sqs.requests.clear()

    first, again, plain, other, third = jobs.create_many(
        [
            {"name": "email", "payload": 1, "dedupe_key": "a", "dedupe": "debounce"},
            {"name": "email", "payload": 2, "dedupe_key": "a", "dedupe": "debounce"},
            {"name": "email"},
            {"name": "email", "dedupe_key": "b", "dedupe": "unfinished"},
            {"name": "email", "dedupe_key": "c", "dedupe": timedelta(days=1), "delay": 5},
        ]
    )

    assert first == again
    assert jobs.get_status(first).payload == 2
    assert other != ended
    assert {jobs.get_status(run_id).status for run_id in (first, plain, other)} == {"queued"}
    [batch] = aws.sqs.parameters("send_message_batch")
    assert [entry["MessageBody"].split('"')[-2] for entry in batch["Entries"]] == [first, plain, other, third]


# What it costs


def test_a_kept_key_costs_what_no_key_costs_and_stores_no_more(aws: Aws):
    units = WriteUnits(aws.dynamodb, table=aws.table)
    jobs = aws.jobs(dynamodb=units)
    plain = jobs.create("email")
    assert (written(aws), units.take()) == ({"put_item": 1, "send_message": 1}, 2)

    kept = jobs.create("email", dedupe_key="k", dedupe="kept")
    assert (written(aws), units.take()) == ({"put_item": 1, "send_message": 1}, 2)
    assert aws.item(kept).keys() - aws.item(plain).keys() == {"dedupe_key"}
    assert kept == derived_run_id("dedupe_key", "k")

    jobs.create("email", dedupe_key="k")
    assert (written(aws), units.take()) == ({"put_item": 1}, 1)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_the_other_modes_cost_a_read_more_and_for_a_later_run_two_writes(aws: Aws, mode: Any):
    units = WriteUnits(aws.dynamodb, table=aws.table)
    clock = Clock()
    jobs = aws.jobs(clock=clock, dynamodb=units)

    first = jobs.create("email", dedupe_key="k", dedupe=mode)
    assert (written(aws), units.take()) == ({"get_item": 1, "put_item": 1, "send_message": 1}, 2)
    assert [item["pk"] for item in aws.items()] == [f"run#{first}"]

    clock.advance(seconds=1)
    jobs.create("email", 2, dedupe_key="k", dedupe=mode)
    if mode == "debounce":
        assert (written(aws), units.take()) == ({"get_item": 1, "put_item": 1, "update_item": 1}, 4)
    else:
        assert (written(aws), units.take()) == ({"get_item": 1, "put_item": 1}, 1)

    end(aws, first)
    clock.advance(hours=2)
    jobs.create("email", dedupe_key="k", dedupe=mode)
    assert (written(aws), units.take()) == ({"get_item": 1, "put_item": 3, "send_message": 1}, 4)


def test_finding_a_key_s_run_is_one_request_and_two_where_it_has_made_several(jobs: Jobs, aws: Aws):
    first = jobs.create("email", dedupe_key="k", dedupe="unfinished")
    written(aws)
    assert jobs.find_run(dedupe_key="k").id == first
    assert written(aws) == {"batch_get_item": 1}

    end(aws, first)
    second = jobs.create("email", dedupe_key="k", dedupe="unfinished")
    written(aws)
    assert jobs.find_run(dedupe_key="k").id == second
    assert written(aws) == {"batch_get_item": 2}

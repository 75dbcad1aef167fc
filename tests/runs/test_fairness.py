"""Every message of a run is sent with the run's group, and a run without one is sent as before."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from examples.local_aws import LocalAws
from kumofire_core import JobContext, Jobs, Snooze
from tests.builders import NOW_MS, Aws, Clock, make_aws, message, raises

GROUP = "tenant-42"


@pytest.fixture
def jobs(aws: Aws, clock: Clock) -> Jobs:
    return aws.jobs(clock=clock)


def groups(aws: Aws) -> list[str | None]:
    """Return the group of each message that was sent since the last look."""
    sent = aws.sqs.parameters("send_message")
    sent += [entry for batch in aws.sqs.parameters("send_message_batch") for entry in batch["Entries"]]
    aws.sqs.requests.clear()
    return [each.get("MessageGroupId") for each in sent]


def test_a_new_run_has_its_group_and_is_sent_with_it(jobs: Jobs, aws: Aws):
    run_id = jobs.create("email", group=GROUP)

    assert groups(aws) == [GROUP]
    assert aws.item(run_id)["group"] == GROUP
    assert jobs.get_status(run_id).group == GROUP
    assert jobs.get_many([run_id])[run_id].group == GROUP


def test_each_run_of_many_is_sent_with_its_own_group(jobs: Jobs, aws: Aws):
    jobs.create_many([{"name": "email", "group": "a"}, {"name": "email"}, {"name": "email", "group": "b"}])

    assert groups(aws) == ["a", None, "b"]


def test_a_run_without_a_group_is_stored_and_sent_as_before(jobs: Jobs, aws: Aws):
    run_id = jobs.create("email")
    (sent,) = aws.sqs.parameters("send_message")

    assert set(sent) == {"QueueUrl", "MessageBody", "DelaySeconds"}
    assert "group" not in aws.item(run_id)
    assert jobs.get_status(run_id).group is None


@pytest.mark.parametrize(
    "state",
    [
        {"status": "scheduled", "wake_at": NOW_MS},
        {"status": "scheduled", "scheduled_for": NOW_MS + 30_000, "wake_at": NOW_MS + 30_000},
        {"status": "queued", "wake_at": NOW_MS},
        {"status": "running", "lease_token": "t", "lease_until": NOW_MS - 1, "wake_at": NOW_MS},
        {"status": "scheduled", "parked": "pause", "scheduled_for": NOW_MS - 9, "wake_at": NOW_MS},
    ],
    ids=["due", "soon", "lost message", "lost worker", "put aside"],
)
@pytest.mark.parametrize("group", [GROUP, None])
def test_the_dispatcher_sends_a_run_with_its_group(jobs: Jobs, aws: Aws, state: dict[str, Any], group: str | None):
    aws.a_run(**state, **({} if group is None else {"group": group}))

    jobs.dispatch()

    assert groups(aws) == [group]


def test_the_next_attempt_is_sent_with_the_group_at_two_requests_to_the_table(jobs: Jobs, aws: Aws):
    jobs.handler("email")(raises(ValueError()))
    jobs.consume(message("nobody"))
    run_id = aws.a_run(group=GROUP)
    aws.dynamodb.requests.clear()

    assert jobs.consume(message(run_id)).outcome == "retried"

    assert groups(aws) == [GROUP]
    assert aws.dynamodb.count() == {"update_item": 2}


def test_a_snoozed_run_is_sent_with_its_group(jobs: Jobs, aws: Aws):
    jobs.handler("email")(raises(Snooze(timedelta(seconds=5))))

    jobs.consume(message(aws.a_run(group=GROUP)))

    assert groups(aws) == [GROUP]


def test_what_a_person_starts_or_moves_is_sent_with_its_group(jobs: Jobs, aws: Aws, clock: Clock):
    run_id = jobs.create("email", group=GROUP, delay=timedelta(hours=1))
    assert groups(aws) == []

    assert jobs.reschedule(run_id, clock() + timedelta(minutes=5))
    assert groups(aws) == [GROUP]
    assert jobs.run_now(run_id)
    assert groups(aws) == [GROUP]
    assert jobs.cancel(run_id)
    assert jobs.retry(run_id)
    assert groups(aws) == [GROUP]
    assert jobs.cancel(run_id)
    clock.advance(seconds=1)
    assert jobs.retry_many(run_ids=[run_id]).changed == 1
    assert groups(aws) == [GROUP]


def test_the_latest_call_s_group_counts_where_a_run_is_debounced(jobs: Jobs, aws: Aws):
    def debounce(group: str | None) -> str:
        return jobs.create("email", dedupe_key="k", dedupe="debounce", delay=5, group=group)

    run_id = debounce("a")
    assert groups(aws) == ["a"]
    assert debounce("a") == run_id
    assert groups(aws) == [], "the message that waits will do"
    assert debounce("b") == run_id
    assert groups(aws) == ["b"]
    assert jobs.get_status(run_id).group == "b"
    assert debounce(None) == run_id
    assert groups(aws) == [None]
    assert "group" not in aws.item(run_id)


def test_the_runs_of_a_schedule_have_its_group_until_that_changes(jobs: Jobs, aws: Aws, clock: Clock):
    every: dict[str, Any] = {"schedule_type": "interval", "schedule_expr": timedelta(minutes=5)}
    schedule_id = jobs.create_schedule("email", schedule_key="k", group="a", **every)
    clock.advance(minutes=5)

    jobs.dispatch()
    assert groups(aws) == ["a"]
    jobs.trigger_schedule(schedule_id)
    assert groups(aws) == ["a"]
    assert jobs.upsert_schedule("email", schedule_key="k", group="b") == schedule_id
    jobs.trigger_schedule(schedule_id)
    assert groups(aws) == ["b"]
    assert jobs.update_schedule(schedule_id, group=None).group is None
    jobs.trigger_schedule(schedule_id)
    assert groups(aws) == [None]


def test_a_stored_group_that_sqs_would_refuse_does_not_hold_up_its_run(jobs: Jobs, aws: Aws):
    aws.a_run(status="scheduled", wake_at=NOW_MS, group="not a group")
    aws.a_run(status="scheduled", wake_at=NOW_MS, group=GROUP)

    assert jobs.dispatch().unsent == 0
    assert sorted(map(str, groups(aws))) == ["None", GROUP]


def test_an_emulator_s_standard_queue_takes_the_group_and_delivers_it(ministack: LocalAws):
    sqs = ministack.client("sqs")
    aws = make_aws(ministack.client("dynamodb"), sqs, name="fair")
    jobs = aws.jobs()
    done: list[str] = []

    @jobs.handler("email")
    def work(ctx: JobContext) -> None:
        done.append(str(ctx.run.group))

    run_ids = [jobs.create("email", group="one"), *jobs.create_many([{"name": "email", "group": "two"}])]
    received: list[Any] = []
    for _ in range(10):
        reply = sqs.receive_message(
            QueueUrl=aws.queue_url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["All"], WaitTimeSeconds=1
        )
        received += reply.get("Messages", [])
        if len(received) >= 2:
            break

    assert sorted(each["Attributes"]["MessageGroupId"] for each in received) == ["one", "two"]
    assert [jobs.consume(message(run_id)).outcome for run_id in run_ids] == ["succeeded"] * 2
    assert done == ["one", "two"]

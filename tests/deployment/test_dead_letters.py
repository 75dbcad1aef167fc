"""Dead letters: seen without being taken, sent back to the queue, deleted."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from examples.local_aws import LocalAws
from kumofire_core import InvalidArgumentError
from kumofire_core.deployment import dead_letters
from kumofire_core.deployment.dead_letters import DeadLetterError, DeadLetters
from tests.builders import body
from tests.deployment.arranged import Deployed, deployed, refusing

pytestmark = pytest.mark.long


@pytest.fixture
def stack(ministack: LocalAws) -> Deployed:
    return deployed(ministack)


def letters(stack: Deployed, **given: Any) -> DeadLetters:
    return DeadLetters(stack.deployment, wait=lambda seconds: None, **given)


def waiting(stack: Deployed, url: str | None = None) -> list[str]:
    """Take what can be received from a queue right now, and return the bodies."""
    found: list[str] = []
    sqs, url = stack.aws.client("sqs"), url or stack.deployment.queue_url
    while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        found += [message["Body"] for message in messages]
    return sorted(found)


def test_a_dead_letter_shows_its_run_when_it_was_sent_and_how_often_it_was_received(stack: Deployed) -> None:
    stack.bury(body("run-1"))

    [letter] = letters(stack).show()

    assert (letter.run_id, letter.receives, letter.body) == ("run-1", 1, body("run-1"))
    assert timedelta(0) <= datetime.now(UTC) - letter.sent_at < timedelta(minutes=1)


@pytest.mark.parametrize("foreign", ["hello", '{"version": 2, "kumofireJobRunId": "x"}', "x" * 5000])
def test_a_message_of_others_is_shown_without_a_run_and_cut(stack: Deployed, foreign: str) -> None:
    stack.bury(foreign)

    [letter] = letters(stack).show()

    assert letter.run_id is None
    assert letter.body == foreign[:1000]


def test_who_looks_at_dead_letters_leaves_them_there_for_the_next_one(stack: Deployed) -> None:
    bodies = [body(f"run-{number}") for number in range(25)]
    stack.bury(*bodies)

    first, second = letters(stack).show(limit=1000), letters(stack).show(limit=1000)

    assert sorted(letter.body for letter in first) == sorted(letter.body for letter in second) == sorted(bodies)
    assert waiting(stack, stack.dead_letter_queue_url) == sorted(bodies)


def test_dead_letters_come_back_at_once_where_reading_them_fails_halfway(stack: Deployed) -> None:
    stack.bury(*(body(f"run-{number}") for number in range(12)))
    seen = letters(stack)
    received = seen._sqs.receive_message

    def once(**given: Any) -> Any:
        seen._sqs.receive_message = refuse
        return received(**given)

    def refuse(**_: Any) -> Any:
        raise ConnectionError

    seen._sqs.receive_message = once
    try:
        with pytest.raises(ConnectionError):
            seen.show(limit=20)
    finally:
        seen._sqs.receive_message = received

    assert len(waiting(stack, stack.dead_letter_queue_url)) == 12


def test_a_dead_letter_that_is_received_again_meanwhile_is_shown_once(
    stack: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "LOOK_SECONDS", 0)
    stack.bury(body("run-1"))

    assert [letter.run_id for letter in letters(stack).show(limit=3)] == ["run-1"]


def test_no_more_dead_letters_are_received_than_are_to_be_shown(stack: Deployed) -> None:
    stack.bury(*(body(f"run-{number}") for number in range(5)))

    assert len(letters(stack).show(limit=3)) == 3


@pytest.mark.parametrize("limit", [0, -1, 1001, True, "10"])
def test_a_limit_that_can_not_be_is_refused(stack: Deployed, limit: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="limit must be a whole number from 1 to 1000"):
        letters(stack).show(limit=limit)


def test_the_count_includes_those_that_someone_looks_at(stack: Deployed) -> None:
    stack.bury("a", "b", "c")
    stack.aws.client("sqs").receive_message(QueueUrl=stack.dead_letter_queue_url)

    assert letters(stack).count() == 3


def test_without_a_stack_the_queue_itself_names_its_dead_letter_queue(stack: Deployed) -> None:
    stack.bury(body("run-1"))

    found = DeadLetters(stack.found_without_a_stack())

    assert found.url == stack.dead_letter_queue_url
    assert [letter.run_id for letter in found.show()] == ["run-1"]


def test_a_queue_without_a_dead_letter_queue_says_so(stack: Deployed) -> None:
    attributes = {"RedrivePolicy": ""}
    stack.aws.client("sqs").set_queue_attributes(QueueUrl=stack.deployment.queue_url, Attributes=attributes)

    with pytest.raises(DeadLetterError, match="has no dead-letter queue; give it a RedrivePolicy"):
        DeadLetters(stack.found_without_a_stack()).count()


def test_dead_letters_go_back_to_the_queue_and_whoever_waits_sees_how_many(stack: Deployed) -> None:
    bodies = sorted(body(f"run-{number}") for number in range(12))
    stack.bury(*bodies)
    told: list[tuple[int, int]] = []

    result = letters(stack).redrive(on_progress=lambda moved, found: told.append((moved, found)))

    assert (result.moved, result.found, result.finished) == (12, 12, True)
    assert told[-1] == (12, 12)
    assert waiting(stack) == bodies
    assert letters(stack).count() == 0


@pytest.mark.parametrize("code", ["InvalidAction", "UnknownOperationException", "NotImplemented"])
def test_where_the_service_can_not_move_messages_each_one_is_sent_and_deleted(stack: Deployed, code: str) -> None:
    bodies = sorted(body(f"run-{number}") for number in range(12))
    stack.bury(*bodies)
    told: list[tuple[int, int]] = []
    seen = letters(stack)

    with refusing(seen._sqs, code, "StartMessageMoveTask", "ListMessageMoveTasks"):
        result = seen.redrive(on_progress=lambda moved, found: told.append((moved, found)))

    assert (result.moved, result.found, result.finished) == (12, 12, True)
    assert told == [(moved, 12) for moved in range(13)]
    assert waiting(stack) == bodies
    assert letters(stack).count() == 0


def test_a_dead_letter_whose_sending_fails_stays_where_it_is(stack: Deployed) -> None:
    stack.bury(body("run-1"))
    seen = letters(stack)

    with (
        refusing(seen._sqs, "InvalidAction", "ListMessageMoveTasks"),
        refusing(seen._sqs, "AccessDenied", "SendMessage"),
        pytest.raises(ClientError, match="AccessDenied"),
    ):
        seen.redrive()

    assert seen.count() == 1
    assert waiting(stack) == []


def test_who_may_not_move_messages_is_told_so_and_nothing_else_is_tried(stack: Deployed) -> None:
    stack.bury(body("run-1"))
    seen = letters(stack)

    with refusing(seen._sqs, "AccessDenied", "StartMessageMoveTask"), pytest.raises(ClientError, match="AccessDenied"):
        seen.redrive()

    assert seen.count() == 1


def answering(seen: DeadLetters, *tasks: dict[str, Any]) -> list[dict[str, Any]]:
    """Answer one task after the other to who asks for moves; return the list of moves that will be started."""
    answers, started = [[task] if task else [] for task in tasks], []

    class Sqs:
        def __getattr__(self, name: str) -> Any:
            return getattr(sqs, name)

        def list_message_move_tasks(self, **_: Any) -> Any:
            return {"Results": answers.pop(0)}

        def start_message_move_task(self, **given: Any) -> None:
            started.append(given)

    sqs = seen._sqs
    seen._sqs = Sqs()
    return started


def running(moved: int) -> dict[str, Any]:
    counts = {"ApproximateNumberOfMessagesMoved": moved, "ApproximateNumberOfMessagesToMove": 9}
    return {"Status": "RUNNING", **counts}


def test_a_message_that_is_moved_by_itself_keeps_its_group(stack: Deployed) -> None:
    sqs, seen = stack.aws.client("sqs"), letters(stack)
    sqs.send_message(QueueUrl=stack.dead_letter_queue_url, MessageBody=body("run-1"), MessageGroupId="tenant-42")
    sqs.send_message(QueueUrl=stack.dead_letter_queue_url, MessageBody=body("run-2"))

    assert seen._redrive_one_by_one(lambda moved, found: None).moved == 2

    groups = {}
    while messages := sqs.receive_message(
        QueueUrl=stack.deployment.queue_url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["MessageGroupId"]
    ).get("Messages"):
        groups |= {each["Body"]: each.get("Attributes", {}).get("MessageGroupId") for each in messages}
    assert groups == {body("run-1"): "tenant-42", body("run-2"): None}


def test_a_move_that_runs_already_is_waited_for_and_no_second_one_is_started(stack: Deployed) -> None:
    seen = letters(stack)
    told: list[tuple[int, int]] = []
    started = answering(seen, running(1), running(4), running(9) | {"Status": "COMPLETED"})

    result = seen.redrive(on_progress=lambda moved, found: told.append((moved, found)))

    assert (result.moved, result.finished, told, started) == (9, True, [(4, 9), (9, 9)], [])


def test_a_move_that_failed_earlier_does_not_stand_for_the_new_one(stack: Deployed) -> None:
    seen = letters(stack)
    started = answering(seen, {"Status": "FAILED"}, running(9) | {"Status": "COMPLETED"})

    assert seen.redrive(messages_per_second=5).moved == 9
    [given] = started
    assert given["MaxNumberOfMessagesPerSecond"] == 5
    assert given["DestinationArn"].endswith(stack.deployment.table)


def test_a_move_that_sqs_gives_up_tells_why_and_how_far_it_came(stack: Deployed) -> None:
    seen = letters(stack)
    answering(seen, {}, running(4) | {"Status": "FAILED", "FailureReason": "AccessDenied"})

    with pytest.raises(DeadLetterError, match=r"after 4 of 9 \(FAILED: AccessDenied\)"):
        seen.redrive()


def test_who_loses_patience_is_told_that_the_move_goes_on(stack: Deployed) -> None:
    seen = letters(stack)
    answering(seen, {}, running(1), running(2), running(3))

    result = seen.redrive(patience_seconds=3)

    assert (result.moved, result.found, result.finished) == (3, 9, False)


def test_a_purge_leaves_nothing_and_touches_no_other_queue(stack: Deployed) -> None:
    stack.bury("a", "b")
    stack.aws.client("sqs").send_message(QueueUrl=stack.deployment.queue_url, MessageBody=body("run-1"))

    letters(stack).purge()

    assert letters(stack).count() == 0
    assert waiting(stack) == [body("run-1")]


def test_a_second_purge_within_a_minute_says_to_wait(stack: Deployed) -> None:
    seen = letters(stack)

    with (
        refusing(seen._sqs, "AWS.SimpleQueueService.PurgeQueueInProgress", "PurgeQueue"),
        pytest.raises(DeadLetterError, match="wait a minute"),
    ):
        seen.purge()


def test_a_message_that_died_in_the_queue_is_found_and_goes_back(ministack: LocalAws, stack: Deployed) -> None:
    # The way it gets there in truth: received more often than the queue allows.
    sqs = ministack.client("sqs")
    policy = json.loads(
        sqs.get_queue_attributes(QueueUrl=stack.deployment.queue_url, AttributeNames=["RedrivePolicy"])["Attributes"][
            "RedrivePolicy"
        ]
    )
    once = {"RedrivePolicy": json.dumps(policy | {"maxReceiveCount": 1})}
    sqs.set_queue_attributes(QueueUrl=stack.deployment.queue_url, Attributes=once)
    sqs.send_message(QueueUrl=stack.deployment.queue_url, MessageBody=body("run-1"))
    for _ in range(2):
        sqs.receive_message(QueueUrl=stack.deployment.queue_url, VisibilityTimeout=0)

    assert [letter.run_id for letter in letters(stack).show()] == ["run-1"]
    assert letters(stack).redrive().moved == 1
    assert waiting(stack) == [body("run-1")]

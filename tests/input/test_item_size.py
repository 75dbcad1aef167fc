"""No write to a run can be refused for its size: what is kept beside the payload is bounded in bytes as stored.

Sizes are computed by DynamoDB's rule, because an emulator's own count differs from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.dynamodb.models import dynamo_type

from kumofire_core import InvalidArgumentError, JobContext, Jobs, RunStatus
from kumofire_core.model import run_item
from kumofire_core.model.run import MAX_CREATOR_LENGTH
from kumofire_core.model.run_item import (
    CANCEL_REASON_BYTES,
    FIXED_BYTES,
    HISTORY_BYTES,
    INCARNATION_LENGTH,
    LAST_ERROR_BYTES,
    MAX_ITEM_BYTES,
    MAX_PAYLOAD_BYTES,
    RESERVED_ITEM_BYTES,
    history_text,
    item_bytes,
    read_history,
)
from kumofire_core.model.run_view import RetriedRun
from kumofire_core.model.steps import MAX_STEP_NAME_BYTES
from kumofire_core.rules.limits import MOST_LIMITS
from tests.builders import NOW, NOW_MS, Aws, Clock, message, raises


@pytest.fixture(autouse=True)
def _by_size_of_the_test_alone(monkeypatch: pytest.MonkeyPatch):
    """Let moto take any item: it counts the value that an update replaces as well. The tests compute the sizes."""
    monkeypatch.setattr(dynamo_type.LimitedSizeDict, "__setitem__", dict.__setitem__)


LONGEST_NUMBER = 10**38 - 1
LONG_TEXTS = {
    "letters": "x" * 5000,
    "emoji": "😀" * 5000,
    "control characters": "\x01" * 5000,
    "quotes": '"\\' * 2500,
    "lone surrogates": "\ud83d" * 5000,
    "emoji and lone surrogates": "😀\ud83d" * 2500,
    "a character of every size": "xé€😀\x01\ud83d" * 900,
}
LONGEST_NAME = "😀" * 255
LONGEST_KEY = "😀" * 1024
MOST_BYTES = MAX_ITEM_BYTES
MOST_BESIDE_BYTES = RESERVED_ITEM_BYTES


@pytest.mark.parametrize(
    ("item", "size"),
    [
        ({}, 0),
        ({"pk": "run#a", "sk": "run"}, 2 + 5 + 2 + 3),
        ({"a": "é", "b": "€", "c": "😀", "é": ""}, 1 + 2 + 1 + 3 + 1 + 4 + 2),
        ({"n": 0}, 1 + 1),
        ({"n": 7}, 1 + 2),
        ({"n": 77}, 1 + 2),
        ({"n": 777}, 1 + 3),
        ({"n": -777}, 1 + 4),
        ({"n": 1_000_000}, 1 + 2),
        ({"n": 1_773_489_600_000}, 1 + 5),
        ({"n": LONGEST_NUMBER}, 1 + 20),
    ],
)
def test_an_item_s_size_is_its_names_its_texts_in_utf_8_and_half_of_its_numbers_digits(item: dict[str, Any], size: int):
    assert item_bytes(item) == size


@pytest.mark.long
@pytest.mark.parametrize("text", LONG_TEXTS.values(), ids=LONG_TEXTS)
def test_a_run_of_the_largest_payload_keeps_within_its_item_however_often_it_fails_and_is_retried(
    aws: Aws, clock: Clock, text: str
):
    reason = longest_reason(text)
    jobs = aws.jobs(clock=clock)

    @jobs.handler(LONGEST_NAME, max_attempts=2)
    def fails_and_is_canceled(ctx: JobContext) -> None:
        assert ctx.attempt == 1 or jobs.cancel(ctx.run.id, reason)
        raise ValueError(text)

    run_id = jobs.create(LONGEST_NAME, "x" * (MAX_PAYLOAD_BYTES - 2), dedupe_key=LONGEST_KEY)
    for _ in range(7):
        for outcome in ("retried", "canceled"):
            clock.advance(hours=1)
            assert jobs.consume(message(run_id)).outcome == outcome
            assert item_bytes(aws.item(run_id)) <= MOST_BYTES
        assert jobs.retry(run_id)
        assert item_bytes(aws.item(run_id)) <= MOST_BYTES

    newest = jobs.get_status(run_id).history[-1]
    assert (newest.status, newest.attempt, newest.finished_at) == ("canceled", 2, clock())
    assert newest.cancel_reason == reason[:200]
    assert newest.last_error.startswith("ValueError: ")


@pytest.mark.long
@pytest.mark.parametrize("text", LONG_TEXTS.values(), ids=LONG_TEXTS)
def test_an_output_may_fill_the_room_that_the_payload_leaves_also_after_many_retries(aws: Aws, clock: Clock, text: str):
    jobs = aws.jobs(clock=clock)
    payload, output = "x" * 100_000, "y" * (MAX_PAYLOAD_BYTES - 100_000 - 4)

    @jobs.handler(LONGEST_NAME, max_attempts=1)
    def succeeds_at_last(ctx: JobContext) -> str:
        if len(failures) < 11:
            failures.append(ctx.run.id)
            raise ValueError(text)
        return output

    failures: list[str] = []
    run_id = jobs.create(LONGEST_NAME, payload, dedupe_key=LONGEST_KEY)
    for _ in range(11):
        assert jobs.consume(message(run_id)).outcome == "failed"
        assert jobs.retry(run_id)

    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert item_bytes(aws.item(run_id)) <= MOST_BYTES
    assert jobs.get_status(run_id).output == output


def test_every_short_attribute_at_its_longest_fits_in_what_is_reserved_for_them():
    numbers = dict.fromkeys(run_item._NUMBERS, -LONGEST_NUMBER)
    tokens = dict.fromkeys(("create", "settled", "sent", "canceled", "retried", "lease", "signaled"), "f" * 32)
    item: dict[str, Any] = {**numbers, **{f"{name}_token": token for name, token in tokens.items()}}
    item |= {"wake_shard": -LONGEST_NUMBER, "expires_at": -LONGEST_NUMBER, "cancel_requested_at": -LONGEST_NUMBER}
    item |= {
        "traceparent": "f" * 55,
        "parent_id": "f" * 128,
        "created_by": "😀" * MAX_CREATOR_LENGTH,
        "group": "g" * 128,
        "batch": "f" * 40 + " 999999 1000000",
        "after": "f" * 40,
        "waits_for": "f" * MAX_STEP_NAME_BYTES,
        "limited": " ".join(["f" * 24 + ".499"] * MOST_LIMITS),
        "awaits_slot": "f" * 24 + ".499",
        "reserved": f"{'f' * 24}.2499 {10**17}",
        "rate_since": LONGEST_NUMBER,
        "steps_id": "f" * INCARNATION_LENGTH,
    }
    item |= {"pk": "run#" + "f" * 128, "sk": "run", "schedule_id": "f" * 128, "status": "succeeded"}
    long_ones = dict.fromkeys(("payload", "output", "job_name", "dedupe_key", "last_error", "cancel_reason"), "")

    assert item_bytes(item | long_ones | {"history": ""}) <= FIXED_BYTES


def test_a_larger_item_of_an_earlier_release_is_read_and_retried_and_its_oldest_history_goes(jobs: Jobs, aws: Aws):
    run_id = aws.a_run(**of_an_earlier_release(), without=("wake_shard", "wake_at"))
    assert beside_payload(aws.item(run_id)) > RESERVED_ITEM_BYTES
    before = jobs.get_status(run_id)
    assert len(before.history) == 10

    assert jobs.retry(run_id)

    history = jobs.get_status(run_id).history
    assert history[-1].last_error == before.last_error[:200]
    assert history[:-1] == before.history[-len(history) + 1 :] != ()
    assert beside_payload(aws.item(run_id)) <= MOST_BESIDE_BYTES


FULL = {
    "waiting": {"status": "queued", "max_attempts": 2},
    "scheduled": {"status": "scheduled", "wake_at": NOW_MS},
    "lost": {"status": "running", "lease_token": "l", "lease_until": NOW_MS - 1, "claims": 1, "wake_at": NOW_MS - 1},
    "running": {"status": "running", "lease_token": "l", "lease_until": NOW_MS + 9, "claims": 1, "wake_at": NOW_MS - 1},
}


@pytest.mark.long
@pytest.mark.parametrize(
    ("state", "write", "status"),
    [
        ("waiting", lambda jobs, run_id: jobs.consume(message(run_id)), "scheduled"),
        ("waiting", lambda jobs, run_id: jobs.cancel(run_id, "😀" * 768), "canceled"),
        ("scheduled", lambda jobs, run_id: jobs.dispatch(), "queued"),
        ("lost", lambda jobs, run_id: jobs.dispatch(), "scheduled"),
        ("lost", lambda jobs, run_id: jobs.consume(message(run_id)), "scheduled"),
        ("running", lambda jobs, run_id: jobs.cancel(run_id, "😀" * 768), "running"),
        ("running", lambda jobs, run_id: jobs.dispatch(), "running"),
    ],
)
@pytest.mark.parametrize("spare", [0, 60, 1000])
def test_a_full_item_of_an_earlier_release_is_cut_where_a_write_would_not_fit(
    aws: Aws, clock: Clock, state: str, write: Callable[[Jobs, str], object], status: str, spare: int
):
    run_id = aws.a_run(**of_an_earlier_release() | FULL[state], without=("cancel_reason", "finished_at"))
    full = Full(aws, item_bytes(aws.item(run_id)) + spare)
    jobs = aws.jobs(clock=clock, dynamodb=full, handlers={"email": raises(ValueError("😀" * 1000))})

    write(jobs, run_id)

    assert jobs.get_status(run_id).status == status
    assert full.refused <= 2
    if full.refused:
        assert beside_payload(aws.item(run_id)) <= MOST_BESIDE_BYTES
        assert jobs.get_status(run_id).history != ()


def test_a_refusal_for_another_reason_than_what_is_kept_is_raised(aws: Aws):
    run_id = aws.a_run()
    jobs = aws.jobs(dynamodb=Full(aws, 10))

    with pytest.raises(ClientError, match="ValidationException"):
        jobs.cancel(run_id)

    assert aws.item(run_id)["status"] == "queued"


class Full:
    """A table that refuses updates of which an item would be larger than ``most`` bytes, by DynamoDB's own rule."""

    def __init__(self, aws: Aws, most: int) -> None:
        self._aws = aws
        self._most = most
        self.refused = 0

    def __getattr__(self, operation: str) -> Any:
        return getattr(self._aws.dynamodb, operation)

    def update_item(self, **parameters: Any) -> Any:
        before = self._aws.dynamodb.get_item(TableName=self._aws.table, Key=parameters["Key"])["Item"]
        reply = self._aws.dynamodb.update_item(**parameters)
        after = self._aws.item(parameters["Key"]["pk"]["S"].removeprefix("run#"))
        if item_bytes(after) <= self._most:
            return reply
        self.refused += 1
        self._aws.dynamodb.put_item(TableName=self._aws.table, Item=before)
        error = {"Code": "ValidationException", "Message": "Item size to update has exceeded the maximum allowed size"}
        raise ClientError({"Error": error}, "UpdateItem")


def test_a_reason_of_too_many_bytes_is_refused_and_nothing_is_written(jobs: Jobs, aws: Aws):
    run_id = aws.a_run()
    before = aws.item(run_id)

    with pytest.raises(InvalidArgumentError, match="reason must have at most 3072 bytes in UTF-8, not 3076"):
        jobs.cancel(run_id, "😀" * 769)

    assert aws.item(run_id) == before
    assert jobs.cancel(run_id, "😀" * 768)
    assert jobs.get_status(run_id).cancel_reason == "😀" * 768


def test_an_error_is_cut_in_bytes_between_two_characters(jobs: Jobs, aws: Aws):
    jobs.handler("email", max_attempts=1)(raises(ValueError("😀" * 900)))
    run_id = jobs.create("email")

    jobs.consume(message(run_id))

    error = aws.item(run_id)["last_error"]
    assert error == "ValueError: " + "😀" * 764 + "…"
    assert LAST_ERROR_BYTES - 4 < len(error.encode()) <= LAST_ERROR_BYTES


def test_the_newest_entries_of_a_history_are_kept_and_the_oldest_go_first():
    entries = [ended(f"{number} " + "x" * 190, "y" * 200) for number in range(20)]

    kept = read_history(history_text(entries))

    assert kept == tuple(entries[-len(kept) :])
    assert 8 <= len(kept) < 10
    assert len(history_text(entries)) <= HISTORY_BYTES
    assert len(read_history(history_text([ended("x" * 200, None)] * 12))) == 10


@pytest.mark.parametrize("text", LONG_TEXTS.values(), ids=LONG_TEXTS)
def test_the_newest_entry_of_a_history_always_fits(text: str):
    entry = RetriedRun(RunStatus.CANCELED, LONGEST_NUMBER, NOW, text, text)

    stored = history_text([entry] * 10)

    assert len(stored.encode()) <= HISTORY_BYTES
    [*_, newest] = read_history(stored)
    assert (newest.status, newest.attempt, newest.finished_at) == entry[:3]


def ended(error: str, reason: str | None) -> RetriedRun:
    return RetriedRun(RunStatus.FAILED, 3, NOW, error, reason)


def longest_reason(text: str) -> str:
    """Return the longest cancellation reason of these characters that is accepted."""
    kept = "".join(character for character in text if not "\ud800" <= character <= "\udfff")[:1000]
    return kept.encode()[:CANCEL_REASON_BYTES].decode(errors="ignore")


def of_an_earlier_release() -> dict[str, Any]:
    """Return attributes of a canceled run whose texts were bounded in characters, so that its item is very large."""
    entry = ["canceled", 2, NOW_MS, "\x01" * 200, "\x01" * 180]
    attributes = {
        "status": "canceled",
        "attempt": 0,
        "finished_at": NOW_MS,
        "started_at": NOW_MS,
        "last_error": "\\ud83d" * 1000,
        "cancel_reason": "😀" * 1000,
        "history": json.dumps([entry] * 10),
        "payload": "",
    }
    return attributes | {"payload": json.dumps("x" * (400_000 - item_bytes(attributes)))}


def beside_payload(item: dict[str, Any]) -> int:
    """Return what an item takes beside its payload and output."""
    return item_bytes(item | {"payload": "", "output": ""})

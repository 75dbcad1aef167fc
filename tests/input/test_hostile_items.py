"""Stored items that are corrupt, or from the future: each is told by its key, fails alone, and is never passed over.

MiniStack judges the conditions, because moto can't compare values of two types. Where an attribute is corrupt a
run may be executed all the same, or refused; what must not be is silence: a run that is due, of which every pass and
every message says that there is nothing to do.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from examples.local_aws import LocalAws
from kumofire_core import CorruptItemError, Jobs, NewerSchemaError
from kumofire_core.aws.dynamodb import marshal, unmarshal
from kumofire_core.engine import dispatcher
from kumofire_core.model.message import decode_body
from kumofire_core.model.run_item import read_run
from kumofire_core.model.schedule import read_schedule
from tests.builders import NOW, NOW_MS, Aws, Clock, body, make_aws, message, record

SECRET = "hunter2"
REMOVED = "removed"
OTHERS: dict[str, Any] = {
    "BOOL": {"BOOL": True},
    "NULL": {"NULL": True},
    "L": {"L": [{"S": SECRET}]},
    "M": {"M": {SECRET: {"N": "1"}}},
    "B": {"B": SECRET.encode()},
}
WRONG: dict[str, Any] = {
    REMOVED: None,
    "text": {"S": SECRET},
    "text of a number": {"S": "1"},
    "decimal": {"N": "1.5"},
    "huge": {"N": "9" * 38},
    "hugely negative": {"N": "-" + "9" * 38},
    **OTHERS,
}

QUEUED: dict[str, Any] = {
    "schema": 1,
    "status": "queued",
    "job_name": "email",
    "payload": json.dumps({"password": SECRET}),
    "attempt": 0,
    "claims": 0,
    "max_attempts": 3,
    "scheduled_for": NOW_MS - 1,
    "created_at": NOW_MS - 5,
    "updated_at": NOW_MS - 5,
    "wake_shard": 0,
    "wake_at": NOW_MS - 1,
    "timeout_ms": 60_000,
    "sends": 1,
}
LEASED = {"status": "running", "lease_token": "t", "lease_until": NOW_MS - 1, "claims": 1, "started_at": NOW_MS - 5}
STATES: dict[str, dict[str, Any]] = {
    "queued": QUEUED,
    "scheduled": QUEUED | {"status": "scheduled"},
    "running": QUEUED | LEASED,
    "failed": {name: value for name, value in QUEUED.items() if not name.startswith("wake")}
    | {"status": "failed", "finished_at": NOW_MS, "last_error": "E", "history": "[]"},
}
PART = {
    "scheduled": ("schema", "scheduled_for", "status", "wake_shard", "wake_at"),
    "running": ("schema", "status", "attempt", "claims", "max_attempts", "timeout_ms", "wake_at", *LEASED),
    "failed": ("schema", "status", "attempt", "updated_at", "finished_at", "last_error", "history"),
}
"""What plays a part in these states that it does not play for a run that is queued."""

IN_INDEX = ("wake_shard", "wake_at")
"""DynamoDB refuses these in any type but a number."""


@dataclass(frozen=True)
class Corrupt:
    """A run with one corrupt attribute."""

    state: str
    attribute: str
    wrong: str

    @property
    def id(self) -> str:
        return f"{self.state}.{self.attribute}.{self.wrong}".replace(" ", "-")

    def item(self) -> dict[str, Any]:
        """Return it as it is stored."""
        item = marshal({"pk": f"run#{self.id}", "sk": "run", **STATES[self.state]})
        if self.wrong == REMOVED:
            del item[self.attribute]
        else:
            item[self.attribute] = WRONG[self.wrong]
        return item


def corruptions() -> Iterator[Corrupt]:
    """Yield them all, but of the types that are none of ours one for each attribute, in turn."""
    for state, attributes in STATES.items():
        for number, attribute in enumerate(attributes):
            others = list(OTHERS)
            for wrong in WRONG:
                if wrong in OTHERS and (wrong != others[number % len(others)] or attribute in IN_INDEX):
                    continue
                if wrong.startswith("text") and attribute in IN_INDEX:
                    continue
                if state in PART and attribute not in PART[state]:
                    continue  # as when queued
                yield Corrupt(state, attribute, wrong)


ALL = list(corruptions())


@dataclass
class Seen:
    """What became of each corrupt run."""

    read: dict[str, BaseException | None] = field(default_factory=dict)
    retried: dict[str, BaseException | None] = field(default_factory=dict)
    consumed: dict[str, str] = field(default_factory=dict)
    """The outcome, or the failure."""
    ignored: dict[str, str] = field(default_factory=dict)
    dispatched: dict[str, bool] = field(default_factory=dict)
    """Whether the item was changed by the dispatcher's pass, and so by one of its transitions."""
    told: dict[str, str] = field(default_factory=dict)
    """The dispatcher's line about it."""
    neighbours: list[str] = field(default_factory=list)
    logged: str = ""
    deleted: dict[str, bool] = field(default_factory=dict)


@pytest.fixture(scope="module")
def seen(ministack: LocalAws) -> Seen:
    """All corruptions through all readers: on one table consumed as a batch, on another dispatched."""
    found, log = Seen(), _Kept()
    logger = logging.getLogger("kumofire_core")
    level = logger.level
    logger.addHandler(log)
    logger.setLevel(logging.DEBUG)
    try:
        _consume(ministack, found)
        consumed = log.text()
        log.records.clear()
        _dispatch(ministack, found)
    finally:
        logger.removeHandler(log)
        logger.setLevel(level)
    for entry in log.records:
        text = entry.getMessage()
        if "could not be dispatched" in text:
            found.told[text.split("#")[1].split(" ")[0]] = text
    found.logged = consumed + log.text()
    return found


def _consume(ministack: LocalAws, found: Seen) -> None:
    aws = _store(ministack)
    jobs = _jobs(aws)
    for corrupt in ALL:
        found.read[corrupt.id] = _raised(lambda id=corrupt.id: jobs.get_status(id))  # type: ignore[misc]
        if corrupt.state == "failed":
            found.retried[corrupt.id] = _raised(lambda id=corrupt.id: jobs.retry(id))  # type: ignore[misc]
    ids = [corrupt.id for corrupt in ALL if corrupt.state != "failed"]
    records = [record(body(id), id) for id in ["first", *ids, "last"]]
    for report in jobs.run_batch({"Records": records}).records:
        id = report.job_run_id or ""
        found.consumed[id] = report.failure or (str(report.result.outcome) if report.result else "malformed")
        if report.result is not None and report.result.outcome == "ignored":
            found.ignored[id] = report.result.reason or ""
    found.neighbours += [found.consumed.pop("first"), found.consumed.pop("last")]


def _dispatch(ministack: LocalAws, found: Seen) -> None:
    aws = _store(ministack)
    before = _items(aws)
    _jobs(aws).dispatch()
    after = _items(aws)
    for corrupt in ALL:
        found.dispatched[corrupt.id] = before[corrupt.id] != after[corrupt.id]
    found.neighbours += ["dispatched" if before[id] != after[id] else id for id in ("first", "last")]


def _store(ministack: LocalAws) -> Aws:
    client = ministack.client("dynamodb")
    aws = make_aws(client, ministack.client("sqs"), name=f"hostile-{uuid.uuid4().hex[:8]}")
    for id, wake_at in (("first", NOW_MS - 10**9), ("last", NOW_MS)):
        aws.a_run(id, wake_at=wake_at, scheduled_for=NOW_MS - 1)
    for start in range(0, len(ALL), 25):
        requests = [{"PutRequest": {"Item": corrupt.item()}} for corrupt in ALL[start : start + 25]]
        assert not client.batch_write_item(RequestItems={aws.table: requests})["UnprocessedItems"]
    return aws


def _items(aws: Aws) -> dict[str, Any]:
    pages = aws.dynamodb.client.get_paginator("scan").paginate(TableName=aws.table)
    return {item["pk"]["S"].removeprefix("run#"): item for page in pages for item in page["Items"]}


def _jobs(aws: Aws) -> Jobs:
    return aws.jobs(concurrency=1, wake_shards=1, handlers={"email": lambda ctx: None})


def _raised(call: Any) -> BaseException | None:
    try:
        call()
    except Exception as error:
        return error
    return None


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def text(self) -> str:
        """Return all that a formatter could show."""
        return "\n".join(f"{entry.getMessage()} {entry.__dict__}" for entry in self.records)


PAIRS = sorted({(corrupt.state, corrupt.attribute) for corrupt in ALL})


def of(state: str, attribute: str) -> list[str]:
    return [corrupt.id for corrupt in ALL if (corrupt.state, corrupt.attribute) == (state, attribute)]


@pytest.mark.parametrize(("state", "attribute"), PAIRS)
def test_reading_a_corrupt_run_gives_the_run_or_names_its_key(seen: Seen, state: str, attribute: str):
    for id in of(state, attribute):
        for error in (seen.read[id], seen.retried.get(id)):
            if error is not None:
                assert isinstance(error, CorruptItemError | NewerSchemaError), f"{id}: {error!r}"
                assert f"run#{id}" in str(error)
                assert SECRET not in str(error)


@pytest.mark.parametrize(
    ("state", "attribute"),
    PAIRS,
)
def test_a_message_for_a_corrupt_run_executes_it_or_fails_with_its_key(seen: Seen, state: str, attribute: str):
    for id in of(state, attribute):
        if state != "failed":
            known = seen.consumed[id] in ("succeeded", "retried", "failed", "canceled", "ignored")
            assert known or f"run#{id}" in seen.consumed[id], f"{id}: {seen.consumed[id]}"


@pytest.mark.parametrize(
    ("state", "attribute"),
    PAIRS,
)
def test_a_message_for_a_corrupt_run_that_is_due_is_not_ignored(seen: Seen, state: str, attribute: str):
    for id in of(state, attribute):
        assert id not in seen.ignored or id.endswith("lease_until.huge"), f"{id}: {seen.ignored[id]}"


@pytest.mark.parametrize(
    ("state", "attribute"),
    # DynamoDB refuses an index key of another type, so a wake-up is a number or not there.
    [pair for pair in PAIRS if pair[1] != "wake_at"],
)
def test_the_dispatcher_moves_a_corrupt_run_that_is_due_or_names_its_key(seen: Seen, state: str, attribute: str):
    for id in of(state, attribute):
        unseen = attribute in IN_INDEX and not id.endswith(
            "wake_at.decimal"
        )  # it is elsewhere in the index, or not there
        if state != "failed" and not unseen and not id.endswith("lease_until.huge"):
            assert seen.dispatched[id] or f"run#{id}" in seen.told.get(id, ""), id


def test_corrupt_runs_keep_no_neighbour_from_being_executed_or_dispatched(seen: Seen):
    assert seen.neighbours == ["succeeded", "succeeded", "dispatched", "dispatched"]


def test_no_part_of_a_corrupt_item_is_logged_but_its_key(seen: Seen):
    assert "can't be read" in seen.logged
    leaked = [line[:300] for line in seen.logged.splitlines() if SECRET in line.replace(f"'job_name': '{SECRET}'", "")]
    assert leaked == []


# Schedules

SCHEDULE: dict[str, Any] = {
    "schema": 1,
    "schedule_key": "k",
    "job_name": "email",
    "payload": json.dumps({"password": SECRET}),
    "schedule_type": "interval",
    "schedule_expr": "rate(1 minute)",
    "timezone": "Europe/Berlin",
    "anchor": NOW_MS - 60_000,
    "enabled": 1,
    "missed": "latest",
    "overlap": "skip",
    "created_at": NOW_MS - 60_000,
    "updated_at": NOW_MS - 60_000,
    "revision": 1,
    "next_run_at": NOW_MS,
    "wake_shard": -1,
    "wake_at": NOW_MS,
    "start_at": NOW_MS - 60_000,
    "end_at": NOW_MS + 10**9,
    "max_attempts": 2,
    "last_run_id": "r",
}


def a_corrupt_schedule(attribute: str, wrong: Any, **fields: Any) -> dict[str, Any]:
    item = marshal({"pk": f"schedule#{attribute}", "sk": "schedule", **SCHEDULE, **fields})
    if wrong is None:
        del item[attribute]
    else:
        item[attribute] = wrong
    return item


@pytest.mark.parametrize("attribute", [name for name in SCHEDULE if name not in IN_INDEX])
@pytest.mark.parametrize("wrong", WRONG)
def test_reading_a_corrupt_schedule_gives_the_schedule_or_names_its_key(attribute: str, wrong: str):
    item = a_corrupt_schedule(attribute, WRONG[wrong])

    error = _raised(lambda: read_schedule(attribute, unmarshal(item)))

    if error is not None:
        assert isinstance(error, CorruptItemError | NewerSchemaError), repr(error)
        assert f"schedule#{attribute}" in str(error)
        assert SECRET not in str(error)


@pytest.mark.parametrize(
    ("kind", "expression"), [("interval", "rate(1 minute)"), ("cron", "* * * * *"), ("once", NOW.isoformat())]
)
def test_a_corrupt_schedule_fires_or_is_told_by_its_key_and_disturbs_no_other(
    ministack: LocalAws, caplog: pytest.LogCaptureFixture, kind: str, expression: str
):
    aws = make_aws(ministack.client("dynamodb"), ministack.client("sqs"), name=f"hostile-{uuid.uuid4().hex[:8]}")
    fields = {"schedule_type": kind, "schedule_expr": expression}
    names = [
        "schedule_expr",
        "timezone",
        "anchor",
        "next_run_at",
        "missed",
        "overlap",
        "payload",
        "revision",
        "start_at",
    ]
    for number, name in enumerate(names):
        wrong = [{"S": "nonsense"}, {"N": "1.5"}, None, {"S": "rate(0 seconds)"}, {"S": "9" * 300}][number % 5]
        item = a_corrupt_schedule(name, wrong, **fields)
        aws.dynamodb.client.put_item(TableName=aws.table, Item=item)
    jobs = aws.jobs(handlers={"email": lambda ctx: None}, wake_shards=1)
    healthy = jobs.create_schedule(
        "email", schedule_type="interval", schedule_expr=timedelta(minutes=1), start_at=NOW - timedelta(seconds=1)
    )
    clock = Clock(NOW + timedelta(minutes=1))
    jobs = aws.jobs(handlers={"email": lambda ctx: None}, wake_shards=1, clock=clock)

    jobs.dispatch()

    items = [unmarshal(item) for item in aws.dynamodb.client.scan(TableName=aws.table)["Items"]]
    fired = {item["schedule_id"] for item in items if str(item["pk"]).startswith("run#")}
    moved = {item["pk"] for item in items if item.get("next_run_at") != NOW_MS}
    assert healthy in fired
    for name in names:
        told = f"schedule#{name} could not be dispatched" in caplog.text
        assert name in fired or f"schedule#{name}" in moved or told, name
    assert SECRET not in caplog.text


def a_stored_schedule(aws: Aws, schedule_id: str, **fields: Any) -> str:
    item = {
        "pk": f"schedule#{schedule_id}",
        "sk": "schedule",
        **SCHEDULE,
        "overlap": "allow",
        "missed": "all",
        **fields,
    }
    aws.dynamodb.client.put_item(TableName=aws.table, Item=marshal(item))
    return schedule_id


def runs_of(aws: Aws, schedule_id: str) -> int:
    return sum(item.get("schedule_id") == schedule_id for item in aws.items())


@pytest.mark.parametrize("overlap", ["allow", "skip"])
@pytest.mark.parametrize(
    "timing",
    [
        {"schedule_type": "cron", "schedule_expr": "* * * * *"},
        {"schedule_type": "interval", "schedule_expr": "rate(1 second)", "anchor": 0},
    ],
    ids=["cron", "interval"],
)
@pytest.mark.parametrize("next_run_at", [0, -62_135_596_800_000, NOW_MS - 10 * 366 * 86_400_000])
def test_a_next_run_from_before_the_schedule_was_made_makes_no_run_and_is_told_by_the_key(
    jobs: Jobs, aws: Aws, caplog: pytest.LogCaptureFixture, timing: dict[str, Any], next_run_at: int, overlap: str
):
    fields = {**timing, "overlap": overlap, "last_run_id": "gone", "next_run_at": next_run_at, "wake_at": next_run_at}
    bad = a_stored_schedule(aws, "bad", start_at=next_run_at, **fields)
    good = a_stored_schedule(aws, "good")

    for _ in range(2):
        jobs.dispatch()

    assert runs_of(aws, bad) == 0
    assert runs_of(aws, good) == 2  # now, and a minute ahead
    assert "schedule#bad could not be dispatched" in caplog.text
    assert "next_run_at is before its created_at" in caplog.text

    jobs.disable_schedule(bad)
    jobs.update_schedule(bad, enabled=True)
    assert jobs.get_schedule(bad).next_run_at > NOW
    assert jobs.dispatch().errors == 0


def test_a_schedule_that_says_it_was_made_in_1970_gets_no_more_than_its_share_of_a_pass(
    jobs: Jobs, aws: Aws, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(dispatcher, "TURNS_A_PASS", 5)
    bad = a_stored_schedule(aws, "bad", created_at=0, start_at=0, anchor=0, next_run_at=0, wake_at=0)
    good = a_stored_schedule(aws, "good")

    result = jobs.dispatch()

    assert (runs_of(aws, bad), runs_of(aws, good)) == (50, 2)
    assert not result.complete


@pytest.mark.parametrize("length", [257, 390_000])
@pytest.mark.parametrize("kind", ["cron", "interval", "once"])
def test_an_expression_of_any_length_is_told_by_the_key_and_not_quoted(
    jobs: Jobs, aws: Aws, caplog: pytest.LogCaptureFixture, kind: str, length: int
):
    a_stored_schedule(aws, "bad", schedule_type=kind, schedule_expr=("0," * length)[:length])

    assert jobs.dispatch().errors == 1

    assert "schedule#bad could not be dispatched" in caplog.text
    assert "0,0" not in caplog.text
    with pytest.raises(CorruptItemError, match="schedule#bad"):
        jobs.get_schedule("bad")


@pytest.mark.parametrize("kind", ["cron", "interval", "once"])
def test_an_expression_that_is_none_is_quoted_no_further_than_a_refusal_quotes(
    jobs: Jobs, aws: Aws, caplog: pytest.LogCaptureFixture, kind: str
):
    a_stored_schedule(aws, "bad", schedule_type=kind, schedule_expr="nonsense " * 28)

    assert jobs.dispatch().errors == 1

    assert "schedule#bad could not be dispatched" in caplog.text
    assert "nonsense " * 9 not in caplog.text


def test_a_corrupt_schedule_leaves_the_list_of_the_others_readable(jobs: Jobs, aws: Aws):
    healthy = jobs.create_schedule("email", schedule_type="interval", schedule_expr="rate(1 minute)")
    aws.dynamodb.client.put_item(TableName=aws.table, Item=a_corrupt_schedule("payload", {"S": "{"}))

    assert [schedule.id for schedule in jobs.list_schedules().schedules] == [healthy]


def test_a_corrupt_schedule_can_be_deleted(jobs: Jobs, aws: Aws):
    aws.dynamodb.client.put_item(TableName=aws.table, Item=a_corrupt_schedule("payload", {"S": "{"}))

    assert jobs.delete_schedule("payload") is True
    assert jobs.list_schedules().schedules == ()


def test_a_corrupt_run_that_waits_can_be_canceled(jobs: Jobs, aws: Aws):
    run_id = aws.a_run(payload="{")

    assert jobs.cancel(run_id) is True
    assert aws.item(run_id)["status"] == "canceled"


# The rest of what may be stored

HISTORIES = ["{}", "5", "[5]", '["abcd"]', "[[]]", '[["failed"]]', '[["nothing",1,null,null]]', '[["failed",[],1,1]]']


@pytest.mark.parametrize("history", [*HISTORIES, '[["failed",1,1e400,null]]', "[" * 90_000, '[["failed",1,"x",null]]'])
def test_a_corrupt_history_is_told_by_the_run_s_key(jobs: Jobs, aws: Aws, history: str):
    run_id = aws.a_run(status="failed", history=history, without=("wake_shard", "wake_at"))

    for call in (jobs.get_status, jobs.retry):
        error = _raised(lambda: call(run_id))  # noqa: B023
        assert error is None or (isinstance(error, CorruptItemError) and f"run#{run_id}" in str(error)), repr(error)


def test_a_history_whose_error_is_no_text_is_told_by_the_run_s_key(jobs: Jobs, aws: Aws):
    run_id = aws.a_run(status="failed", history='[["failed",1,null,5]]', without=("wake_shard", "wake_at"))

    with pytest.raises(CorruptItemError, match=run_id):
        jobs.retry(run_id)


@pytest.mark.parametrize("text", ["", "{", "nul", "[" * 90_000, "1" * 5_000, '"\\ud8"', "\ufeff1", "{'a': 1}"], ids=len)
def test_a_payload_that_is_not_json_is_told_by_the_run_s_key(jobs: Jobs, aws: Aws, text: str):
    run_id = aws.a_run(payload=text)

    with pytest.raises(CorruptItemError, match=f"run#{run_id}"):
        jobs.get_status(run_id)


@pytest.mark.parametrize("state", ["queued", "lost by its worker"])
@pytest.mark.parametrize("text", ["", "{", "[" * 90_000, "1" * 5_000], ids=len)
def test_a_run_whose_payload_is_not_json_fails_at_once_and_is_not_delivered_again(
    jobs: Jobs, aws: Aws, text: str, state: str
):
    called = []
    jobs.handler("email")(called.append)
    run_id = aws.a_run(payload=text) if state == "queued" else aws.a_running_run(payload=text, lease_until=NOW_MS - 1)

    result = jobs.consume(message(run_id))

    assert (result.outcome, result.reason) == ("failed", "unreadable payload")
    item = aws.item(run_id)
    assert (item["status"], item["attempt"]) == ("failed", 0 if state == "queued" else 1)
    assert item["last_error"] == "the stored payload is not JSON; restore it and retry the run"
    assert called == []
    aws.change(run_id, payload='"restored"')
    assert jobs.retry(run_id)
    assert jobs.consume(message(run_id)).outcome == "succeeded"


def test_a_run_whose_payload_is_not_json_is_canceled_where_that_was_asked_for(jobs: Jobs, aws: Aws):
    jobs.handler("email")(lambda ctx: None)
    run_id = aws.a_running_run(payload="{", lease_until=NOW_MS - 1, cancel_requested_at=NOW_MS - 2)

    assert jobs.consume(message(run_id)).outcome == "canceled"
    assert aws.item(run_id)["status"] == "canceled"


@pytest.mark.parametrize("name", ["attempt", "created_at", "scheduled_for", "updated_at", "claims", "sends", "schema"])
@pytest.mark.parametrize("number", ["1E+125", "9" * 126, "-" + "9" * 126, "0.1", "1E-130", "-0"])
def test_an_absurd_number_is_read_or_told_by_the_run_s_key(name: str, number: str):
    item = {**marshal(QUEUED), name: {"N": number}}

    error = _raised(lambda: read_run("r", unmarshal(item), default_max_attempts=3))

    assert error is None or (isinstance(error, CorruptItemError | NewerSchemaError) and "run#r" in str(error))


def test_an_item_of_thousands_of_attributes_that_are_none_of_ours_is_read():
    item = marshal(QUEUED) | {f"a{number}": {"S": "x"} for number in range(5_000)}

    assert read_run("r", unmarshal(item), default_max_attempts=3).run.status == "queued"


def test_a_run_whose_stored_name_is_no_job_s_name_is_told_by_its_key(jobs: Jobs, aws: Aws):
    run_id = aws.a_run(job_name="n" * 300_000)

    with pytest.raises(CorruptItemError, match=f"run#{run_id}"):
        jobs.consume(message(run_id))


@pytest.mark.parametrize("sends", [-3, 0, 10**30])
def test_a_lost_message_is_sent_again_whatever_number_of_sends_is_stored(jobs: Jobs, aws: Aws, sends: int):
    run_id = aws.a_run(sends=sends, wake_at=NOW_MS - 1, updated_at=NOW_MS - 1)

    result = jobs.dispatch()

    assert (result.resent, result.errors) == (1, 0)
    assert aws.item(run_id)["wake_at"] > NOW_MS


def test_corrupt_items_at_the_front_keep_no_limited_pass_from_the_others(jobs: Jobs, aws: Aws):
    for number in range(20):
        aws.a_run(attempt="many", wake_at=NOW_MS - 10_000 + number)
    healthy = aws.a_run(wake_at=NOW_MS - 1)

    for _ in range(5):
        jobs.dispatch(limit=2)

    assert aws.item(healthy)["sends"] == 2


def test_the_message_of_any_stored_id_names_that_id(jobs: Jobs, aws: Aws):
    run_id = aws.a_run('a"b', wake_at=NOW_MS - 1)

    jobs.dispatch()

    [request] = aws.sqs.parameters("send_message_batch")
    assert json.loads(request["Entries"][0]["MessageBody"])["kumofireJobRunId"] == run_id


@pytest.mark.parametrize("length", [128, 129, 1_000])
def test_an_id_that_no_message_may_carry_is_told_by_its_key_and_never_sent(
    jobs: Jobs, aws: Aws, caplog: pytest.LogCaptureFixture, length: int
):
    due = {"status": "scheduled", "scheduled_for": NOW_MS - 2, "wake_at": NOW_MS - 2}
    strange = aws.a_run("x" * length, **due)
    a_stored_schedule(aws, "y" * length, next_run_at=NOW_MS - 1, wake_at=NOW_MS - 1, missed="skip")
    healthy = aws.a_run(**due)

    result = jobs.dispatch()

    bodies = [entry["MessageBody"] for sent in aws.sqs.parameters("send_message_batch") for entry in sent["Entries"]]
    sent = {decode_body(body) for body in bodies}  # refuses what a consumer would
    assert healthy in sent
    if length > 128:
        assert (result.errors, sent) == (2, {healthy})
        assert f"run#{strange} could not be dispatched" in caplog.text
        assert f"schedule#{'y' * length} could not be dispatched" in caplog.text
    else:
        assert (result.errors, strange in sent) == (0, True)


@pytest.mark.parametrize("run_id", ["a\nb", "a\x1b[2Jb"])
def test_an_id_that_is_not_printable_is_never_sent(jobs: Jobs, aws: Aws, run_id: str):
    aws.a_run(run_id, wake_at=NOW_MS - 1)

    assert jobs.dispatch().errors == 1
    assert aws.sqs.parameters("send_message_batch") == []

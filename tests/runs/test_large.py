"""Large payloads and outputs are kept in S3: what is put and read, what nobody pays for, and what follows a failure."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, UnknownServiceError

from kumofire_core import (
    ENCRYPTED,
    NOT_READ,
    InvalidArgumentError,
    InvalidJSONError,
    JobContext,
    Jobs,
    LargeValue,
    LargeValueError,
    RunEvent,
    UnknownJobError,
)
from kumofire_core.handlers.deadline import Deadline
from kumofire_core.model.encrypted_text import IN_S3
from kumofire_core.model.large_value import read_large
from tests.builders import NOW, Aws, Clock, LambdaContext, event, failures, message, raises
from tests.faults import Interrupted, Outage, Recorded, Refused, Repeated

pytestmark = pytest.mark.moto
"""Its bucket is moto's."""

BUCKET = "large-values"
LARGE = {"text": "ä" * 3_000}
LARGER_THAN_AN_ITEM = "x" * 500_000


@dataclass
class Objects:
    """The bucket as it is, past the code under test."""

    s3: Recorded

    def listed(self) -> list[str]:
        found = self.s3.client.list_objects_v2(Bucket=BUCKET).get("Contents", ())
        return [each["Key"] for each in found]

    def body(self, key: str) -> bytes:
        return self.s3.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def kinds(self) -> list[str]:
        """What the objects are: payloads or outputs."""
        return sorted(key.rpartition("/")[2].partition("-")[0] for key in self.listed())


@pytest.fixture
def objects(aws: Aws) -> Objects:
    client = _client()
    client.create_bucket(Bucket=BUCKET)
    return Objects(Recorded(client))


@cache
def _client() -> Any:
    import boto3

    return boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1").client("s3")


@pytest.fixture
def make(aws: Aws, clock: Clock, objects: Objects) -> Callable[..., Jobs]:
    """Makes a ``Jobs`` with the bucket."""
    return lambda **settings: aws.jobs(
        **({"clock": clock, "bucket": BUCKET, "s3": objects.s3, "concurrency": 1} | settings)
    )


@pytest.fixture
def jobs(make: Callable[..., Jobs]) -> Jobs:
    return make()


def stored(aws: Aws, run_id: str, name: str = "payload") -> LargeValue:
    """The value in S3 that a run's item names."""
    text = aws.item(run_id)[name]
    assert text.startswith(IN_S3)
    return read_large(text)


class Turned:
    """A cipher."""

    def encrypt(self, plaintext: bytes) -> bytes:
        return plaintext[::-1]

    def decrypt(self, ciphertext: bytes) -> bytes:
        return ciphertext[::-1]


# What is where


def test_a_handler_gets_a_large_payload_and_its_large_output_is_read_back(jobs: Jobs, aws: Aws, objects: Objects):
    jobs.handler("email")(lambda ctx: [ctx.payload, LARGER_THAN_AN_ITEM])
    payload = {"pixels": LARGER_THAN_AN_ITEM}

    run_id = jobs.create("email", payload)
    assert jobs.get_status(run_id).payload == payload
    assert jobs.consume(message(run_id)).outcome == "succeeded"

    run = jobs.get_status(run_id)
    assert (run.payload, run.output) == (payload, [payload, LARGER_THAN_AN_ITEM])
    assert objects.kinds() == ["output", "payload"]
    assert sum(map(len, map(str, aws.item(run_id).values()))) < 2_000


def test_a_run_of_a_transaction_has_its_large_payload_in_s3_before_the_commit(jobs: Jobs, aws: Aws, objects: Objects):
    pending = jobs.create_in_transaction("email", LARGER_THAN_AN_ITEM)
    assert aws.items() == []
    assert objects.kinds() == ["payload"]

    with pending:
        aws.dynamodb.client.transact_write_items(TransactItems=[pending.entry])

    assert jobs.get_status(pending.run_id).payload == LARGER_THAN_AN_ITEM
    assert jobs.consume(message(pending.run_id)).reason == "missing handler"


def test_members_and_callback_of_a_batch_have_large_payloads_in_s3(jobs: Jobs, aws: Aws, objects: Objects):
    jobs.handler("part")(lambda ctx: ctx.payload)
    jobs.handler("all")(lambda ctx: [ctx.payload, next(ctx.batch.members()).output])
    batch_id = jobs.create_batch([{"name": "part", "payload": LARGER_THAN_AN_ITEM}], then="all", payload=LARGE)
    [member] = jobs.batch_members(batch_id)

    jobs.consume(message(member.id))
    callback_id = jobs.get_batch(batch_id).then_run_id
    assert jobs.consume(message(callback_id)).outcome == "succeeded"

    assert jobs.get_status(callback_id).output == [LARGE, LARGER_THAN_AN_ITEM]
    assert objects.kinds() == ["output", "output", "payload", "payload"]


def test_a_callback_that_does_not_fit_with_its_batch_is_refused_before_anything_is_written(
    jobs: Jobs, aws: Aws, objects: Objects
):
    with pytest.raises(InvalidArgumentError, match="the callback has 500"):
        jobs.create_batch([{"name": "part"}], then="all", payload=LARGER_THAN_AN_ITEM)

    assert (aws.items(), objects.listed()) == ([], [])


def test_only_what_is_as_large_as_the_threshold_is_put_into_s3(make: Callable[..., Jobs], aws: Aws, objects: Objects):
    jobs = make(large_from=100)

    below, at = jobs.create("email", "x" * 97), jobs.create("email", "x" * 98)  # two quotes each

    assert aws.item(below)["payload"] == json.dumps("x" * 97)
    assert stored(aws, at).size == 100
    assert len(objects.listed()) == 1


def test_the_threshold_counts_bytes_and_not_characters(make: Callable[..., Jobs], aws: Aws):
    jobs = make(large_from=100)

    assert stored(aws, jobs.create("email", "ä" * 49)).size == 100


def test_an_output_is_put_into_s3_from_twice_the_size_on_because_one_write_pays_for_it(
    make: Callable[..., Jobs], aws: Aws, objects: Objects
):
    jobs = make(large_from=100, handlers={"email": lambda ctx: "x" * ctx.payload})
    below, at = aws.a_run(payload="197"), aws.a_run(payload="198")

    for run_id in (below, at):
        jobs.consume(message(run_id))

    assert aws.item(below)["output"] == json.dumps("x" * 197)
    assert stored(aws, at, "output").size == 200
    assert len(objects.listed()) == 1


def test_a_run_below_the_threshold_pays_nothing(jobs: Jobs, aws: Aws, objects: Objects):
    jobs.handler("email")(lambda ctx: {"n": ctx.payload["n"]})
    run_id = jobs.create("email", {"n": 1})
    jobs.consume(message(run_id))
    jobs.get_status(run_id)
    jobs.update(jobs.create("email", delay=60), payload=2)

    assert objects.s3.requests == []
    assert aws.item(run_id)["schema"] == 1


def test_a_run_below_the_threshold_imports_nothing_and_makes_no_client(aws: Aws, monkeypatch: pytest.MonkeyPatch):
    for name in ("kumofire_core.engine.large", "kumofire_core.aws.s3", "kumofire_core.model.large_value"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    jobs = aws.jobs(bucket=BUCKET, handlers={"email": lambda ctx: "done"})
    monkeypatch.setattr(jobs._clients, "_make", raises(AssertionError("a client was made")))

    assert jobs.consume(message(aws.a_run(payload='{"n":1}'))).outcome == "succeeded"

    loaded = {name for name in sys.modules if name.endswith((".large", ".s3", ".large_value"))} & set(sys.modules)
    assert not {
        name for name in loaded if name.startswith(("kumofire_core.aws", "kumofire_core.engine", "kumofire_core.model"))
    }


def test_what_a_large_run_costs_in_requests(jobs: Jobs, aws: Aws, objects: Objects):
    jobs.handler("email")(lambda ctx: LARGE)
    jobs.consume(message("nobody"))
    aws.dynamodb.requests.clear()

    run_id = jobs.create("email", LARGE)
    jobs.consume(message(run_id))

    assert aws.dynamodb.count() == {"put_item": 1, "update_item": 2}
    assert objects.s3.count() == {"put_object": 2, "get_object": 1}


def test_without_a_bucket_a_large_payload_is_refused_and_the_error_names_the_setting(aws: Aws):
    with pytest.raises(InvalidJSONError, match="give Jobs a bucket"):
        aws.jobs().create("email", LARGER_THAN_AN_ITEM)

    assert aws.items() == []


def test_a_value_that_is_too_large_for_s3_is_refused(
    jobs: Jobs, aws: Aws, objects: Objects, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("kumofire_core.model.large_value.MOST_BYTES", 400_000)
    monkeypatch.setattr("kumofire_core.engine.large.MOST_BYTES", 400_000)
    jobs.handler("email")(lambda ctx: LARGER_THAN_AN_ITEM)

    with pytest.raises(InvalidJSONError, match="a value in S3 may have 400000"):
        jobs.create("email", LARGER_THAN_AN_ITEM)
    assert (aws.items(), objects.listed()) == ([], [])

    run_id = aws.a_run()
    result = jobs.consume(message(run_id))
    assert (result.outcome, result.reason) == ("failed", "InvalidJSONError")
    assert "a value in S3 may have 400000" in jobs.get_status(run_id).last_error


def test_with_a_cipher_the_object_is_encrypted_for_its_run(make: Callable[..., Jobs], aws: Aws, objects: Objects):
    jobs = make(cipher=Turned(), handlers={"email": lambda ctx: ctx.payload})
    run_id = jobs.create("email", LARGE)
    jobs.consume(message(run_id))

    assert all(objects.body(key).startswith(b"sealed:") for key in objects.listed())
    run = jobs.get_status(run_id)
    assert (run.payload, run.output) == (LARGE, LARGE)
    assert make().get_status(run_id).payload is ENCRYPTED


def test_an_object_of_another_run_is_not_taken_for_one_s_own(jobs: Jobs, aws: Aws):
    jobs.handler("email")(lambda ctx: None)
    one, other = jobs.create("email", LARGE), jobs.create("email", [LARGE])
    aws.change(one, payload=aws.item(other)["payload"])

    assert jobs.consume(message(one)).reason == "unreadable payload"


# What else handles payloads


def test_many_runs_are_created_with_their_payloads_in_s3(jobs: Jobs, aws: Aws, objects: Objects):
    ids = jobs.create_many([{"name": "email", "payload": [number, LARGE]} for number in range(12)])

    assert [jobs.get_status(run_id).payload[0] for run_id in ids] == list(range(12))
    assert len(objects.listed()) == 12


def test_an_updated_payload_gets_an_object_of_its_own_and_the_old_one_goes(
    jobs: Jobs, aws: Aws, objects: Objects, clock: Clock
):
    run_id = jobs.create("email", LARGE, delay=timedelta(days=1))
    clock.advance(hours=2)

    assert jobs.update(run_id, payload=[LARGE, 2])
    assert jobs.get_status(run_id).payload == [LARGE, 2]
    assert objects.listed() == [stored(aws, run_id).key]

    clock.advance(hours=2)
    assert jobs.update(run_id, payload="small")
    assert jobs.get_status(run_id).payload == "small"
    assert objects.listed() == []


def test_a_payload_that_was_put_a_moment_ago_stays_because_a_copy_of_its_create_may_come(
    jobs: Jobs, aws: Aws, objects: Objects, clock: Clock
):
    run_id = jobs.create("email", LARGE, delay=timedelta(days=1))
    first = stored(aws, run_id).key
    clock.advance(minutes=10)

    assert jobs.update(run_id, payload=[LARGE, 2])

    assert set(objects.listed()) == {first, stored(aws, run_id).key}


def test_a_run_that_does_not_wait_gets_no_payload_and_no_object_is_put(jobs: Jobs, aws: Aws, objects: Objects):
    assert not jobs.update(aws.a_running_run(), payload=LARGE)
    assert objects.listed() == []


def test_a_debounced_run_gets_the_latest_payload(jobs: Jobs, aws: Aws, objects: Objects, clock: Clock):
    first = jobs.create("email", LARGE, dedupe_key="k", dedupe="debounce", delay=timedelta(hours=5))
    clock.advance(hours=2)
    again = jobs.create("email", [LARGE, 2], dedupe_key="k", dedupe="debounce", delay=timedelta(hours=5))

    assert first == again
    assert jobs.get_status(first).payload == [LARGE, 2]
    assert objects.listed() == [stored(aws, first).key]
    assert objects.s3.count() == {"put_object": 2, "delete_objects": 1, "get_object": 1}


@pytest.mark.parametrize("dedupe", ["kept", "unfinished", timedelta(hours=1)])
def test_a_run_that_a_key_has_already_keeps_its_payload_and_the_second_object_goes(
    jobs: Jobs, aws: Aws, objects: Objects, dedupe: Any
):
    first = jobs.create("email", LARGE, dedupe_key="k", dedupe=dedupe)
    again = jobs.create("email", [LARGE, 2], dedupe_key="k", dedupe=dedupe)

    assert first == again
    assert jobs.get_status(first).payload == LARGE
    assert objects.listed() == [stored(aws, first).key]


def test_a_later_run_of_a_key_has_an_object_of_its_own(jobs: Jobs, aws: Aws):
    jobs.handler("email")(lambda ctx: None)
    first = jobs.create("email", LARGE, dedupe_key="k", dedupe="unfinished")
    jobs.consume(message(first))

    second = jobs.create("email", [LARGE, 2], dedupe_key="k", dedupe="unfinished")

    assert second != first
    assert [jobs.get_status(run_id).payload for run_id in (first, second)] == [LARGE, [LARGE, 2]]


def test_a_schedule_keeps_its_payload_and_its_runs_have_it_in_s3(jobs: Jobs, aws: Aws, objects: Objects):
    schedule_id = jobs.create_schedule("email", LARGE, schedule_type="interval", schedule_expr="rate(1 hour)")
    assert objects.listed() == []

    run_id = jobs.trigger_schedule(schedule_id)

    assert jobs.get_schedule(schedule_id).payload == LARGE
    assert stored(aws, run_id).key in objects.listed()
    assert jobs.get_status(run_id).payload == LARGE


def test_a_retried_run_has_its_payload(jobs: Jobs):
    answers: Iterator[Any] = iter([raises(ValueError("boom")), lambda ctx: len(ctx.payload["text"])])
    jobs.handler("email", max_attempts=1)(lambda ctx: next(answers)(ctx))
    run_id = jobs.create("email", LARGE)
    jobs.consume(message(run_id))

    assert jobs.retry(run_id)
    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert jobs.get_status(run_id).output == 3_000


def test_a_list_reads_from_s3_only_where_payloads_are_asked_for(jobs: Jobs, objects: Objects):
    for number in range(3):
        jobs.create("email", [LARGE, number])
    objects.s3.requests.clear()

    assert {run.payload for run in jobs.list_runs(status="queued").runs} == {NOT_READ}
    assert jobs.list_runs(status="queued", text="no such text").runs == ()
    assert objects.s3.requests == []

    runs = jobs.list_runs(status="queued", payloads=True).runs
    assert sorted(run.payload[1] for run in runs) == [0, 1, 2]


def test_a_list_goes_on_where_a_payload_is_lost(jobs: Jobs, objects: Objects, aws: Aws):
    lost, kept = jobs.create("email", LARGE), jobs.create("email", [LARGE])
    objects.s3.client.delete_object(Bucket=BUCKET, Key=stored(aws, lost).key)

    payloads = {run.id: run.payload for run in jobs.list_runs(status="queued", payloads=True).runs}

    assert isinstance(payloads[lost], LargeValue)
    assert payloads[kept] == [LARGE]


def test_what_is_larger_than_was_asked_for_is_not_loaded(jobs: Jobs, objects: Objects):
    run_id = jobs.create("email", LARGE)
    objects.s3.requests.clear()

    payload = jobs.get_status(run_id, most_bytes=1_000).payload

    assert (repr(payload), payload.size, objects.s3.requests) == ("LargeValue(size=6011)", 6_011, [])
    assert jobs.get_status(run_id, most_bytes=10_000).payload == LARGE


def test_hooks_are_told_of_a_run_with_its_large_values(jobs: Jobs):
    told: list[RunEvent] = []
    jobs.on("created", "succeeded")(told.append)
    jobs.handler("email")(lambda ctx: [LARGE])

    jobs.consume(message(jobs.create("email", LARGE)))
    assert jobs.wait_for_hooks(timedelta(seconds=10))

    assert {each.event: (each.run.payload, each.run.output) for each in told} == {
        "created": (LARGE, None),
        "succeeded": (LARGE, [LARGE]),
    }


def test_batched_writes_take_large_values(make: Callable[..., Jobs], aws: Aws):
    jobs = make(batch_writes=True, handlers={"email": lambda ctx: [ctx.payload]}, concurrency=2)
    ids = [jobs.create("email", [LARGE, number]) for number in range(2)]

    assert failures(jobs.consume_batch(event(*ids))) == []
    assert [jobs.get_status(run_id).output for run_id in ids] == [[[LARGE, 0]], [[LARGE, 1]]]


# What goes wrong


def test_nothing_is_put_for_a_request_that_is_wrong(make: Callable[..., Jobs], objects: Objects):
    jobs = make(handlers={"email": lambda ctx: None})

    with pytest.raises(UnknownJobError):
        jobs.create("invoice", LARGE)
    with pytest.raises(InvalidArgumentError):
        jobs.create("email", LARGE, group="a space")

    assert objects.s3.requests == []


def test_the_object_is_put_before_the_item_that_names_it(make: Callable[..., Jobs], aws: Aws, objects: Objects):
    jobs = make(dynamodb=Outage(applied=False, lasting=True).wrap(aws.dynamodb))

    with pytest.raises(ConnectionClosedError):
        jobs.create("email", LARGE)

    assert (len(objects.listed()), aws.items()) == (1, [])


def test_the_object_of_an_item_whose_write_is_not_known_to_be_refused_stays(
    make: Callable[..., Jobs], aws: Aws, objects: Objects
):
    jobs = make(dynamodb=Outage(applied=True).wrap(aws.dynamodb))

    with pytest.raises(ConnectionClosedError):
        jobs.create("email", LARGE, dedupe_key="k")

    [item] = aws.items()
    assert make().get_status(item["pk"].removeprefix("run#")).payload == LARGE


def test_a_create_whose_reply_was_lost_keeps_its_object(make: Callable[..., Jobs], aws: Aws, objects: Objects):
    jobs = make(dynamodb=Repeated(aws.dynamodb), s3=Repeated(objects.s3))

    run_id = jobs.create("email", LARGE, dedupe_key="k")

    assert objects.listed() == [stored(aws, run_id).key]


def test_the_object_of_a_refused_create_stays_where_the_sdk_had_repeated_the_request(
    make: Callable[..., Jobs], aws: Aws, objects: Objects
):
    class AfterARepeat:
        """A first copy may still be under way when the second one is refused."""

        def __getattr__(self, operation: str) -> Any:
            def request(**parameters: Any) -> Any:
                try:
                    return getattr(aws.dynamodb, operation)(**parameters)
                except ClientError as error:
                    error.response["ResponseMetadata"]["RetryAttempts"] = 1
                    raise

            return request

    first = make().create("email", LARGE, dedupe_key="k")
    again = make(dynamodb=AfterARepeat()).create("email", [LARGE], dedupe_key="k")

    assert first == again
    assert len(objects.listed()) == 2


@pytest.mark.parametrize("code", ["SlowDown", "InternalError", "RequestTimeout"])
def test_a_payload_is_stored_in_the_item_where_s3_can_t_be_reached(
    make: Callable[..., Jobs], aws: Aws, code: str, caplog: pytest.LogCaptureFixture
):
    run_id = make(s3=Refused(code)).create("email", LARGE)

    assert json.loads(aws.item(run_id)["payload"]) == LARGE
    assert f"payload of run {run_id} could not be put into S3" in caplog.text
    assert "ää" not in caplog.text


def test_a_payload_that_the_item_has_no_room_for_is_refused_where_s3_can_t_be_reached(
    make: Callable[..., Jobs], aws: Aws
):
    with pytest.raises(ClientError) as raised:
        make(s3=Refused("SlowDown")).create("email", LARGER_THAN_AN_ITEM)

    assert aws.items() == []
    assert "bucket 'large-values'" in raised.value.__notes__[0]


@pytest.mark.parametrize(("code", "advice"), [("NoSuchBucket", "there is no such bucket"), ("AccessDenied", "may not")])
def test_a_bucket_that_can_t_be_used_is_told_at_once(make: Callable[..., Jobs], aws: Aws, code: str, advice: str):
    with pytest.raises(ClientError) as raised:
        make(s3=Refused(code)).create("email", LARGE)

    assert aws.items() == []
    assert advice in raised.value.__notes__[0]


def test_a_function_that_was_built_without_s3_is_told_how_to_build_it(aws: Aws):
    def create_client(service: str, **settings: Any) -> Any:
        raise UnknownServiceError(service_name=service, known_service_names="dynamodb, sqs")

    jobs = aws.jobs(bucket=BUCKET)
    jobs._clients.__dict__["_session"] = SimpleNamespace(create_client=create_client)

    with pytest.raises(UnknownServiceError) as raised:
        jobs.create("email", LARGE)

    assert any("build with it among BOTO3_SERVICES" in note for note in raised.value.__notes__)
    assert aws.items() == []


def test_a_run_whose_payload_can_t_be_reached_is_given_back(make: Callable[..., Jobs], aws: Aws, clock: Clock):
    run_id = make().create("email", LARGE)
    jobs = make(s3=Refused("SlowDown"), handlers={"email": raises(AssertionError("it was called"))})

    assert failures(jobs.consume_batch(event(run_id), LambdaContext())) == [f"m-{run_id}"]
    item = aws.item(run_id)
    assert (item["status"], item["attempt"], "lease_token" in item) == ("queued", 0, False)

    later = make(handlers={"email": lambda ctx: len(ctx.payload["text"])})
    assert later.consume(message(run_id)).outcome == "succeeded"


def test_a_consumer_without_the_bucket_gives_a_run_back(make: Callable[..., Jobs], aws: Aws):
    run_id = make().create("email", LARGE)

    with pytest.raises(LargeValueError, match="this process has no bucket"):
        aws.jobs(handlers={"email": lambda ctx: None}).consume(message(run_id))

    assert (aws.item(run_id)["status"], aws.item(run_id)["attempt"]) == ("queued", 0)
    assert isinstance(aws.jobs().get_status(run_id).payload, LargeValue)


def test_a_payload_that_does_not_come_before_the_deadline_gives_the_run_back(
    make: Callable[..., Jobs], aws: Aws, monkeypatch: pytest.MonkeyPatch
):
    jobs = make(handlers={"email": raises(AssertionError("it was called"))})
    run_id = jobs.create("email", LARGE)
    monkeypatch.setattr(jobs._consumer, "_in_time", lambda call, seconds: (False, None))

    assert failures(jobs.consume_batch(event(run_id), LambdaContext())) == [f"m-{run_id}"]
    assert (aws.item(run_id)["status"], aws.item(run_id)["attempt"]) == ("queued", 0)


def test_a_call_that_hangs_is_not_waited_for(make: Callable[..., Jobs]):
    import threading

    ends = threading.Event()
    consumer = make()._consumer

    assert consumer._in_time(lambda: ends.wait(30), 0.01) == (False, None)
    ends.set()
    assert consumer._in_time(lambda: "done", 30) == (True, "done")


def test_a_run_that_expires_while_its_payload_is_loaded_is_not_started(
    make: Callable[..., Jobs], aws: Aws, clock: Clock, objects: Objects
):
    s3 = Interrupted(objects.s3, lambda: clock.advance(seconds=20), at=1)
    run_id = make().create("email", LARGE)
    jobs = make(s3=s3)
    jobs.handler("email", expires_after=timedelta(seconds=10))(raises(AssertionError("it was called")))

    assert jobs.consume(message(run_id)).reason == "expired"
    assert aws.item(run_id)["status"] == "canceled"


@pytest.mark.parametrize("how", ["gone", "changed", "cut", "no JSON"])
def test_a_run_whose_payload_is_lost_fails_and_says_why(jobs: Jobs, aws: Aws, objects: Objects, how: str):
    jobs.handler("email")(raises(AssertionError("it was called")))
    run_id = jobs.create("email", LARGE)
    key = stored(aws, run_id).key
    whole = objects.body(key)
    if how == "gone":
        objects.s3.client.delete_object(Bucket=BUCKET, Key=key)
    else:
        other = {"changed": whole.replace("ä".encode(), "ö".encode(), 1), "cut": whole[:-2], "no JSON": b"{" * 6_011}
        objects.s3.client.put_object(Bucket=BUCKET, Key=key, Body=other[how])

    result = jobs.consume(message(run_id))

    assert (result.outcome, result.reason, result.attempt) == ("failed", "unreadable payload", None)
    run = jobs.get_status(run_id, payloads=False)
    assert (run.status, run.attempt) == ("failed", 0)
    assert key in run.last_error
    assert "restore the object and retry the run" in run.last_error
    with pytest.raises(LargeValueError, match=key):
        jobs.get_status(run_id)


def test_a_reader_sees_the_payload_that_replaced_the_one_it_was_about_to_load(
    jobs: Jobs, aws: Aws, objects: Objects, clock: Clock
):
    run_id = jobs.create("email", LARGE, delay=timedelta(days=1))
    found = jobs._store.find(run_id)
    clock.advance(hours=2)
    jobs.update(run_id, payload=[LARGE, 2])

    assert jobs._readable(found).payload == [LARGE, 2]


def test_an_output_is_stored_in_the_item_where_s3_can_t_be_reached(make: Callable[..., Jobs], aws: Aws):
    jobs = make(s3=Refused("AccessDenied"), handlers={"email": lambda ctx: LARGE})
    run_id = aws.a_run()

    assert jobs.consume(message(run_id)).outcome == "succeeded"
    assert json.loads(aws.item(run_id)["output"]) == LARGE


def test_an_output_that_only_s3_has_room_for_leaves_the_run_leased_where_s3_can_t_be_reached(
    make: Callable[..., Jobs], aws: Aws, clock: Clock
):
    jobs = make(s3=Refused("SlowDown"), handlers={"email": lambda ctx: LARGER_THAN_AN_ITEM})
    run_id = aws.a_run()

    with pytest.raises(ClientError):
        jobs.consume(message(run_id))

    assert (aws.item(run_id)["status"], aws.item(run_id)["attempt"]) == ("running", 0)
    clock.advance(minutes=2)
    later = make(handlers={"email": lambda ctx: LARGER_THAN_AN_ITEM})
    assert later.consume(message(run_id)).outcome == "succeeded"
    assert aws.item(run_id)["attempt"] == 1


def test_the_output_of_a_consumer_that_lost_its_lease_goes(jobs: Jobs, aws: Aws, objects: Objects):
    run_id = aws.a_run()

    def loses_it(ctx: JobContext) -> Any:
        aws.change(run_id, lease_token="of another")
        return LARGE

    jobs.handler("email")(loses_it)

    assert jobs.consume(message(run_id)).reason == "lost its lease"
    assert objects.kinds() == []


def test_a_release_that_does_not_know_of_s3_leaves_the_run_to_others(jobs: Jobs, aws: Aws):
    small = jobs.create("email", 1, delay=3600)
    large = jobs.create("email", LARGE, delay=3600)
    jobs.update(small, payload=LARGE)
    done = aws.a_run()
    jobs.handler("email")(lambda ctx: LARGE)
    jobs.consume(message(done))

    assert [aws.item(run_id)["schema"] for run_id in (small, large, done)] == [2, 2, 2]


# What is removed


def removed(
    aws: Aws, run_id: str, *, after: timedelta = timedelta(hours=2), name: str = "REMOVE", **changes: Any
) -> dict[str, Any]:
    """The record of the stream that tells of a run's deletion, made from the item before it is deleted."""
    at = (NOW + after).timestamp()
    key = {"pk": {"S": f"run#{run_id}"}, "sk": {"S": "run"}}
    image = aws.dynamodb.client.get_item(TableName=aws.table, Key=key)["Item"]
    told = {"Keys": key, "OldImage": image | changes, "ApproximateCreationDateTime": at}
    return {"eventName": name, "dynamodb": told}


def ended(jobs: Jobs, payload: Any = LARGE, **arguments: Any) -> str:
    run_id = jobs.create("email", payload, **arguments)
    assert jobs.consume(message(run_id)).outcome == "succeeded"
    return run_id


@pytest.fixture
def with_output(make: Callable[..., Jobs]) -> Jobs:
    return make(handlers={"email": lambda ctx: [LARGE]})


def test_the_objects_of_a_deleted_run_go_and_those_of_others_stay(
    with_output: Jobs, aws: Aws, objects: Objects, clock: Clock
):
    jobs = with_output
    gone, kept = ended(jobs), ended(jobs)
    record = removed(aws, gone)
    clock.advance(hours=2)
    assert jobs.delete(gone)

    result = jobs.clean_bucket([record])

    assert (result.deleted, result.left) == (2, 0)
    assert all(f"/{kept}/" in key for key in objects.listed())
    assert len(objects.listed()) == 2
    assert jobs.clean_bucket([record]).deleted == 2  # a repeated record does no harm


def test_a_run_that_is_created_again_under_its_key_keeps_its_own_objects(
    with_output: Jobs, aws: Aws, objects: Objects, clock: Clock
):
    jobs = with_output
    first = ended(jobs, dedupe_key="k")
    record = removed(aws, first)
    clock.advance(hours=2)
    jobs.delete(first)
    again = jobs.create("email", [LARGE, 2], dedupe_key="k")

    jobs.clean_bucket([record])

    assert again == first
    assert objects.listed() == [stored(aws, again).key]
    assert jobs.get_status(again).payload == [LARGE, 2]


def test_an_object_that_a_late_copy_of_its_create_may_still_name_is_left_to_the_sweep(
    with_output: Jobs, aws: Aws, objects: Objects, clock: Clock
):
    run_id = ended(with_output)
    record = removed(aws, run_id, after=timedelta(minutes=50))
    clock.advance(hours=20)  # the stream may tell of it much later, and the copy has come long before

    result = with_output.clean_bucket([record])

    assert (result.deleted, result.left, len(objects.listed())) == (0, 2, 2)


def test_a_record_that_does_not_say_when_the_run_was_deleted_is_left_to_the_sweep(
    with_output: Jobs, aws: Aws, objects: Objects
):
    record = removed(aws, ended(with_output))
    del record["dynamodb"]["ApproximateCreationDateTime"]

    assert (with_output.clean_bucket([record]).deleted, len(objects.listed())) == (0, 2)


@pytest.mark.parametrize("name", ["INSERT", "MODIFY"])
def test_a_record_of_anything_else_than_a_deletion_removes_nothing(
    with_output: Jobs, aws: Aws, objects: Objects, clock: Clock, name: str
):
    run_id = ended(with_output)
    clock.advance(hours=2)

    with_output.clean_bucket([removed(aws, run_id, name=name)])

    assert len(objects.listed()) == 2


def test_a_deleted_item_that_names_another_run_s_object_does_not_delete_it(
    with_output: Jobs, aws: Aws, objects: Objects, clock: Clock
):
    one, other = ended(with_output), ended(with_output)
    aws.change(one, payload=aws.item(other)["payload"], output="1")
    clock.advance(hours=2)

    with_output.clean_bucket([removed(aws, one)])

    assert stored(aws, other).key in objects.listed()


@pytest.mark.parametrize(
    "record",
    [
        None,
        "text",
        {},
        {"eventName": "REMOVE"},
        {"eventName": "REMOVE", "dynamodb": {"OldImage": {"sk": {"S": "schedule"}}}},
        {"eventName": "REMOVE", "dynamodb": {"OldImage": {"sk": {"S": "run"}, "payload": {"S": "object:["}}}},
        {"eventName": "REMOVE", "dynamodb": {"OldImage": {"sk": {"S": "run"}, "payload": {"S": 'object:["../x"]'}}}},
    ],
)
def test_a_record_that_is_none_of_ours_is_ignored(jobs: Jobs, record: Any):
    assert jobs.clean_bucket([record]).deleted == 0


def test_objects_that_s3_could_not_delete_are_not_taken_for_deleted(
    make: Callable[..., Jobs], with_output: Jobs, aws: Aws, clock: Clock
):
    record = removed(aws, ended(with_output))
    clock.advance(hours=2)

    class Failing:
        def delete_objects(self, **parameters: Any) -> Any:
            return {"Errors": [{"Key": parameters["Delete"]["Objects"][0]["Key"], "Code": "InternalError"}]}

    with pytest.raises(RuntimeError, match="could not delete 1 objects"):
        make(s3=Failing()).clean_bucket([record])


def test_the_sweep_deletes_what_no_item_names_and_nothing_else(
    make: Callable[..., Jobs], with_output: Jobs, aws: Aws, objects: Objects, clock: Clock
):
    jobs = with_output
    kept, waiting = ended(jobs), jobs.create("email", LARGE, delay=timedelta(days=300))
    inline = jobs.create("email", "small", delay=timedelta(days=300))
    table = f"runs/{aws.table}"
    orphans = [f"{table}/{kept}/payload-old", f"{table}/gone/payload-1", f"{table}/{inline}/output-lost"]
    others = ["runs/another-table/gone/payload-1", "notes/of-somebody"]
    for key in (*orphans, *others):
        objects.s3.client.put_object(Bucket=BUCKET, Key=key, Body=b"{}")
    before = set(objects.listed())
    now = make(clock=Clock(_put_at(objects) + timedelta(days=2, hours=1)))

    result = now.sweep_bucket()

    assert before - set(objects.listed()) == set(orphans)
    assert (result.deleted, result.looked_at, result.complete) == (3, 6, True)
    assert jobs.get_status(kept).output == [LARGE]
    assert jobs.get_status(waiting).payload == LARGE


def test_the_sweep_leaves_alone_what_may_be_named_in_a_moment(make: Callable[..., Jobs], aws: Aws, objects: Objects):
    objects.s3.client.put_object(Bucket=BUCKET, Key=f"runs/{aws.table}/new/payload-1", Body=b"{}")

    assert make(clock=Clock(_put_at(objects) + timedelta(days=1, hours=23))).sweep_bucket().deleted == 0


@pytest.mark.parametrize("begin", ["0", "5", "f", "zz"])
def test_the_sweep_goes_round_once_wherever_it_begins(
    make: Callable[..., Jobs], aws: Aws, objects: Objects, begin: str, monkeypatch: pytest.MonkeyPatch
):
    from kumofire_core.engine import cleaning

    folder = f"runs/{aws.table}/"
    for number in range(12):
        objects.s3.client.put_object(Bucket=BUCKET, Key=f"{folder}{number:x}/payload-1", Body=b"{}")
    jobs = make(clock=Clock(_put_at(objects) + timedelta(days=3)))
    bucket, looked_at = jobs._bucket, []
    page = bucket.page
    monkeypatch.setattr(bucket, "page", lambda prefix, after: page(prefix, after=after, limit=5))
    monkeypatch.setattr(cleaning, "_orphans", lambda store, found: looked_at.extend(each.key for each in found) or [])

    result = cleaning.sweep(jobs._store, bucket, begin=f"{folder}{begin}")

    assert sorted(looked_at) == objects.listed()
    assert (len(set(looked_at)), result.complete) == (12, True)


def test_the_sweep_ends_before_its_process_does(jobs: Jobs, objects: Objects):
    from kumofire_core.engine.cleaning import sweep

    result = sweep(jobs._store, jobs._bucket, deadline=Deadline(10.0))

    assert (result.complete, objects.s3.requests) == (False, [])


def test_without_a_bucket_there_is_nothing_to_clean(aws: Aws):
    with pytest.raises(InvalidArgumentError, match="KUMOFIRE_BUCKET"):
        aws.jobs().clean_bucket([])
    with pytest.raises(InvalidArgumentError, match="KUMOFIRE_BUCKET"):
        aws.jobs().sweep_bucket()


def _put_at(objects: Objects) -> Any:
    found = objects.s3.client.list_objects_v2(Bucket=BUCKET)["Contents"]
    return max(each["LastModified"] for each in found)

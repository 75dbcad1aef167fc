"""Whatever comes in from outside: events, bodies, arguments, expressions, settings. None of it stops the others.

Every property takes values of any shape and size, and says which errors may leave: ours. Where it is about cost, it
counts the calls that Python makes and never the seconds they take.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kumofire_core import ConfigurationError, Jobs
from kumofire_core.errors import InvalidArgumentError, InvalidJSONError, InvalidScheduleError, KumofireError
from kumofire_core.model.json_codec import decode, encode
from kumofire_core.model.message import decode_body, encode_message, parse_message
from kumofire_core.model.schedule import Missed
from kumofire_core.rules.occurrences import due_occurrences
from kumofire_core.rules.recurrence import next_occurrence, parse_timing
from tests.builders import NOW, Aws, Clock, body, event, failures, message, record
from tests.edge.test_edge import invoke, run_of

SECRET = "hunter2"
JSON_TEXT = st.text(max_size=40) | st.sampled_from(["\ud800", "\x00", "\u202e", SECRET, "é" * 99, "\\", '"'])
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -(10**4000), 1e308, float("nan"), -0.0])
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | JSON_TEXT | st.binary(max_size=9) | st.just(object()) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(JSON_TEXT | st.integers(), inner, max_size=4) | st.tuples(inner)
    ),
    max_leaves=6,
)
DEEP = st.sampled_from([10, 900, 1_100, 10_000]).flatmap(
    lambda depth: st.sampled_from(["[" * depth, "[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth])
)
BODIES = (
    ANYTHING
    | DEEP
    | st.builds(body, JSON_TEXT, version=st.sampled_from([0, 1, 2, 10**20, "1", None, True]))
    | st.sampled_from([body("x" * 128), body("x" * 129), body("x" * 50_000)])
    | st.sampled_from(["9" * 10_000, "-" * 10_000, '"' + "x" * 50_000 + '"', "[" + "1e999," * 5_000 + "1]"])
    | st.text().map(lambda text: json.dumps({"version": 1, "kumofireJobRunId": text, "payload": SECRET}))
)
RECORDS = ANYTHING | st.fixed_dictionaries(
    {}, optional={"messageId": ANYTHING | st.just("m"), "body": BODIES, "attributes": ANYTHING, "eventSource": ANYTHING}
)

TIMES = st.datetimes(
    timezones=st.sampled_from([None, UTC, timezone(timedelta(hours=14)), timezone(-timedelta(hours=12))])
)
LENGTHS = st.timedeltas()
NAMES = st.sampled_from(["email", "nobody", ""]) | st.text(max_size=20) | st.just("x" * 300)


class Swallowing:
    """A table and a queue that take everything and hold nothing, so that thousands of calls cost nothing."""

    def __init__(self) -> None:
        self.writes: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def request(**parameters: Any) -> dict[str, Any]:
            json.dumps(parameters, default=repr).encode()
            for value in _texts(parameters):
                value.encode()  # botocore would fail at half a surrogate pair
            self.writes.append((operation, parameters))
            if operation == "update_item":
                raise refusal("UpdateItem")
            return {"Items": [], "Responses": {}, "Attributes": {}}

        return request


def refusal(operation: str) -> ClientError:
    return ClientError({"Error": {"Code": "ConditionalCheckFailedException", "Message": "no"}}, operation)


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in [*value, *value.values()] for text in _texts(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []


def a_jobs(**settings_: Any) -> Jobs:
    """Return a ``Jobs`` on a table that holds nothing."""
    client: Any = Swallowing()
    return Jobs(
        table="t", queue_url="q", dynamodb=client, sqs=client, clock=Clock(), handlers={"email": print}, **settings_
    )


JOBS = a_jobs()
"""Shared: it holds nothing."""

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def writes_of(jobs: Jobs) -> list[tuple[str, dict[str, Any]]]:
    client: Any = jobs._store.table._client()
    return client.writes  # type: ignore[no-any-return]


def refused(call: Callable[[], Any], error: type[Exception] = KumofireError) -> bool:
    """Say whether a call refused its arguments: by an error of ours, a short one, and with nothing written."""
    written = writes_of(JOBS)
    written.clear()
    refusal = raised(call, error)
    assert refusal is None or (len(str(refusal)) < 5_000 and not written)
    written.clear()
    return refusal is not None


def raised(call: Callable[[], Any], error: type[Exception]) -> Exception | None:
    """Return the error that a call raised, where it raised one of this kind."""
    try:
        call()
    except error as refusal:
        return refusal
    return None


# Events


@PROPERTY
@given(ANYTHING | st.fixed_dictionaries({"Records": st.lists(RECORDS, max_size=6)}))
def test_any_event_is_answered(value: Any):
    response = JOBS.consume_batch(value)

    assert failures(response) == []


@settings(PROPERTY, max_examples=25)
@given(records=st.lists(RECORDS, max_size=5), place=st.integers(0, 5))
def test_any_records_leave_their_neighbour_alone(aws: Aws, records: list[Any], place: int):
    jobs = aws.jobs(concurrency=1, handlers={"email": lambda ctx: None})
    run_id = aws.a_run()
    batch = {"Records": [*records[:place], *event(run_id)["Records"], *records[place:]]}

    assert f"m-{run_id}" not in failures(jobs.consume_batch(batch))
    assert aws.item(run_id)["status"] == "succeeded"  # type: ignore[index]


@PROPERTY
@given(BODIES)
def test_any_body_is_a_run_id_or_malformed_and_what_is_told_of_it_is_short(value: Any):
    report = JOBS.run_batch({"Records": [record(value)]}).records[0]

    if report.malformed is not None:
        assert len(report.malformed) < 200
        assert SECRET not in report.malformed
    else:
        assert 1 <= len(report.job_run_id or "") <= 128


def test_the_line_about_a_malformed_body_is_short_whatever_the_body(caplog: pytest.LogCaptureFixture):
    bodies = ["9" * 200_000, "\x1b[2J" * 50_000, "\ud800" * 10, {"a": SECRET}, [SECRET], "{" * 200_000]

    with caplog.at_level(logging.DEBUG, "kumofire_core"):
        JOBS.consume_batch({"Records": [record(value) for value in bodies]})

    assert len(caplog.records) == len(bodies)
    for line in caplog.records:
        assert len(line.getMessage() + line.excerpt) < 300
        assert (line.getMessage() + line.excerpt).isprintable()
        assert SECRET not in line.getMessage() + line.excerpt


def test_thousands_of_malformed_records_are_all_acknowledged():
    report = JOBS.run_batch({"Records": [record("x") for _ in range(2_000)]})

    assert sum(entry.malformed is not None for entry in report.records) == 2_000
    assert report.response() == {"batchItemFailures": []}


def test_nobody_s_run_costs_one_request():
    jobs = a_jobs(counts=False)
    jobs.consume(message("nobody"))  # the first one also reads what is paused
    for forged in ("nobody", "x" * 128, "' OR 1=1", "../../run#1", "run#1", "schedule#1", "🐎" * 128):
        writes_of(jobs).clear()
        jobs.consume(message(forged))
        [(operation, parameters)] = writes_of(jobs)
        assert (operation, parameters["Key"]["pk"]) == ("update_item", {"S": f"run#{forged}"})
        assert parameters["Key"]["sk"] == {"S": "run"}


@PROPERTY
@given(ANYTHING)
def test_any_message_is_consumed_or_refused(value: Any):
    refused(lambda: JOBS.consume(value))


# Arguments


@PROPERTY
@given(ANYTHING)
def test_any_id_is_looked_up_or_refused(value: Any):
    for call in (
        JOBS.get_status,
        JOBS.cancel,
        JOBS.retry,
        JOBS.get_schedule,
        JOBS.delete_schedule,
        JOBS.trigger_schedule,
    ):
        refused(lambda call=call: call(value), InvalidArgumentError)  # type: ignore[misc]


@PROPERTY
@given(ANYTHING)
def test_any_payload_is_stored_as_it_is_or_refused_unquoted(value: Any):
    value = {"password": [SECRET, value, SECRET]}

    refusal = raised(lambda: encode("the payload", value), InvalidJSONError)

    if refusal is None:
        text = encode("the payload", value)
        assert decode(text) == json.loads(json.dumps(value))  # in which tuples are lists
        text.encode()
    else:
        assert SECRET not in str(refusal).replace(f"'{SECRET}'", "")  # a key may be named, a value never
        assert len(str(refusal)) < 500


@PROPERTY
@given(
    name=NAMES | ANYTHING,
    payload=ANYTHING,
    options=st.fixed_dictionaries(
        {},
        optional={
            "run_at": TIMES | ANYTHING,
            "delay": LENGTHS | NUMBERS | ANYTHING,
            "dedupe_key": st.text() | ANYTHING,
            "max_attempts": st.integers(-3, 10**7) | st.floats() | st.text(),
        },
    ),
)
def test_any_run_is_created_or_refused_with_nothing_written(name: Any, payload: Any, options: dict[str, Any]):
    refused(lambda: JOBS.create(name, payload, **options))


@PROPERTY
@given(
    ANYTHING,
    st.lists(st.dictionaries(st.sampled_from(["name", "payload", "delay", "nonsense"]), st.text()), max_size=3),
)
def test_any_list_of_runs_is_created_or_refused_with_nothing_written(value: Any, requests: list[Any]):
    assert refused(lambda: JOBS.create_many([*requests, value]))


EXPRESSIONS = (
    st.text(max_size=60)
    | st.lists(st.text("0123456789*/,-LW#MONJAN", min_size=1, max_size=8), min_size=4, max_size=6).map(" ".join)
    | st.builds("rate({} {})".format, st.integers(-5, 10**30), st.sampled_from(["minute", "seconds", "days", "eons"]))
    | st.datetimes().map(lambda moment: f"at({moment.isoformat()})")
    | TIMES.map(lambda moment: moment.isoformat())
    | st.sampled_from(["@daily", "@reboot", "cron(0 0 * * ? *)", "1" * 257, "*," * 128, "0 0 30 2 *", "0 0 29 2 MON#5"])
    | TIMES
    | LENGTHS
    | ANYTHING
)
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "timezone": st.sampled_from(["Europe/Berlin", "UTC", "../../etc/passwd", "localtime", "/etc/localtime", "Mars"])
    | st.text(max_size=20)
    | ANYTHING,
    "start_at": TIMES | ANYTHING,
    "end_at": TIMES | ANYTHING,
    "missed": st.sampled_from(["all", "latest", "skip"]) | st.text(max_size=9),
    "overlap": st.sampled_from(["allow", "skip"]) | st.text(max_size=9),
    "enabled": st.booleans() | ANYTHING,
    "max_attempts": st.integers(-3, 10**7) | st.text(max_size=9),
    "schedule_key": st.text() | ANYTHING,
}
TYPES = st.sampled_from(["cron", "interval", "once"]) | st.text(max_size=9) | ANYTHING


@settings(PROPERTY, max_examples=150)
@given(TYPES, EXPRESSIONS, st.fixed_dictionaries({}, optional=OPTIONS))
def test_any_schedule_is_created_or_refused_with_nothing_written(kind: Any, expression: Any, options: dict[str, Any]):
    refused(lambda: JOBS.create_schedule("email", schedule_type=kind, schedule_expr=expression, **options))


@settings(PROPERTY, max_examples=150)
@given(
    st.sampled_from(["cron", "interval", "once"]),
    EXPRESSIONS,
    st.sampled_from([None, "Europe/Berlin", "Asia/Kolkata"]),
    TIMES,
)
def test_any_schedule_that_is_taken_has_occurrences_that_ascend(kind: Any, expression: Any, zone: Any, after: datetime):
    try:
        timing = parse_timing(schedule_type=kind, schedule_expr=expression, timezone=zone, anchor=NOW)
    except InvalidScheduleError:
        return
    if after.tzinfo is None:
        after = after.replace(tzinfo=UTC)
    try:
        after.astimezone(UTC)
    except OverflowError:
        return
    first = next_occurrence(timing, after)
    assert first is None or first > after
    if first is not None:
        assert due_occurrences(timing, next_run_at=first, now=first, missed=Missed.ALL, limit=1)[0] == [first]
    assert timing == parse_timing(
        schedule_type=kind, schedule_expr=timing.expr, timezone=zone, anchor=timing.anchor or NOW
    )


@PROPERTY
@given(ANYTHING)
def test_any_page_is_read_or_refused(value: Any):
    refused(lambda: JOBS.list_schedules(page=value), InvalidArgumentError)


PAGE = {"pk": "schedule#1", "sk": "schedule", "wake_shard": -1, "wake_at": 5}


TAMPERED = [
    (name, wrong)
    for name, value in PAGE.items()
    for wrong in (True, None, [], {}, 1.5, "\ud800", 5, "text")
    if type(wrong) is not type(value) or wrong == "\ud800"
]


@pytest.mark.parametrize(("name", "wrong"), TAMPERED, ids=ascii)
def test_a_page_that_was_tampered_with_is_refused(name: str, wrong: Any):
    assert refused(lambda: JOBS.list_schedules(page=json.dumps({**PAGE, name: wrong})), InvalidArgumentError)


@pytest.mark.parametrize(
    "call",
    [
        lambda: JOBS.create("email", max_attempts=10**5000),
        lambda: JOBS.create("email", delay=10**5000),
        lambda: JOBS.dispatch(limit=-(10**5000)),
        lambda: JOBS.list_schedules(limit=10**5000),
        lambda: JOBS.get_status(10**5000),  # type: ignore[arg-type]
        lambda: JOBS.create_schedule("email", schedule_type="once", schedule_expr=10**5000),  # type: ignore[arg-type]
        lambda: Jobs(table="t", queue_url="q", concurrency=10**5000),
    ],
    ids=["max_attempts", "delay", "limit", "page limit", "id", "expression", "concurrency"],
)
def test_a_number_too_long_to_be_written_out_is_refused_by_an_error_of_ours(call: Callable[[], Any]):
    assert refused(call)


# The Lambda edge


def test_what_the_edge_says_of_hostile_input_is_json_in_lines_without_a_word_of_what_is_stored(tmp_path: Path):
    secret = "hunter2-" * 20
    runs = [
        run_of("cut", "speak", payload=f'{{"password": "{secret}"'),
        run_of("history", "speak", history=f'["{secret}"]'),
        run_of("status", "speak", status=secret),
        run_of("attempt", "speak", attempt=secret),
        run_of("time", "speak", created_at=secret),
        run_of("nobody", "nobody", payload=json.dumps(secret), last_error=secret),
    ]
    records = [record(text) for text in ("\x1b[2J\r\n", "[" * 100_000, None, 5, {"a": secret}, [secret])]

    found = invoke(tmp_path, runs, [*records, None, [], secret, {"messageId": 5, "body": secret[:7]}])

    assert "hunter2-" not in found.stdout + found.stderr
    assert found.metrics["MalformedRecords"] == [10]
    assert found.metrics["RecordsToRedeliver"] == [4]
    told = " ".join(line["message"] for line in found.lines if line["level"] == "ERROR")
    for run_id in ("history", "status", "attempt", "time"):
        assert f"run#{run_id} can't be read" in told
    assert found.items["cut"]["status"] == "failed"
    assert found.items["nobody"]["status"] == "failed"


def test_the_refusal_of_a_number_of_a_thousand_digits_is_short():
    refusal = raised(lambda: JOBS.create("email", delay=10**1_000), InvalidArgumentError)

    assert len(str(refusal)) < 300


# Settings

NAMES_OF_SETTINGS = st.sampled_from(
    ["KUMOFIRE_CONCURRENCY", "KUMOFIRE_WAKE_SHARDS", "KUMOFIRE_RETENTION_DAYS", "KUMOFIRE_LEASE_SECONDS",
     "KUMOFIRE_MAX_ATTEMPTS", "KUMOFIRE_BATCH_WRITES", "KUMOFIRE_TABLE", "KUMOFIRE_QUEUE_URL"]
)  # fmt: skip
VALUES = (
    st.text(max_size=30)
    | st.integers().map(str)
    | st.sampled_from(["1" * 100_000, "١٢", "²", "1e3", " 7 ", "\udcff", "nan"])
)


@PROPERTY
@given(st.dictionaries(NAMES_OF_SETTINGS, VALUES))
def test_any_environment_is_taken_or_every_wrong_variable_is_named_in_short(environment: dict[str, str]):
    refusal = raised(lambda: Jobs.from_env(environment, clock=Clock()), ConfigurationError)

    if isinstance(refusal, ConfigurationError):
        assert len(str(refusal)) < 2_000
        assert all("KUMOFIRE_" in problem for problem in refusal.problems)


@pytest.mark.parametrize(
    "place", [":", "a", "a:", ":b", "no.such.module:jobs", "json:", "json:dumps:loads", ".jobs:jobs"]
)
def test_a_place_of_jobs_that_is_no_place_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch, place: str):
    monkeypatch.setenv("KUMOFIRE_JOBS", place)

    from kumofire_core.edge import load_jobs

    with pytest.raises(ConfigurationError):
        load_jobs(None, sends=False)


# Cost


def calls_of(function: Callable[[], Any]) -> int:
    """Return how many functions Python called, its own and C's: what time would say, without the machine's noise."""
    count = 0

    def count_one(frame: Any, what: str, argument: Any) -> None:
        nonlocal count
        count += what in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count_one)
    try:
        raised(function, KumofireError)
    finally:
        sys.setprofile(before)
    return count


SIZED: dict[str, tuple[Callable[[int], Any], Callable[[Any], Any]]] = {
    "a body of one string": (lambda size: json.dumps("x" * size), decode_body),
    "a body of many keys": (lambda size: json.dumps({str(key): key for key in range(size)}), decode_body),
    "a deep body": (lambda size: "[" * size, decode_body),
    "a body of digits": (lambda size: "9" * size, decode_body),
    "a payload of many values": (lambda size: [1] * size, lambda value: encode("it", value)),
    "a payload with a wrong value at its end": (lambda size: [*[1] * size, {1}], lambda value: encode("it", value)),
    "a payload that holds one list often": (lambda size: [*[[1] * 99] * size, {1}], lambda value: encode("it", value)),
    "records": (lambda size: {"Records": [record("x")] * size}, JOBS.run_batch),
    "a long name": (lambda size: "x" * size, JOBS.create),
    "a long key": (lambda size: "x" * size, lambda key: JOBS.create("email", dedupe_key=key)),
    "a long expression": (
        lambda size: "1," * size + "1 * * * *",
        lambda text: parse_timing(schedule_type="cron", schedule_expr=text, anchor=NOW),
    ),
    "a long variable": (lambda size: "1" * size, lambda text: Jobs.from_env({"KUMOFIRE_CONCURRENCY": text})),
}


@pytest.mark.parametrize("what", SIZED)
def test_work_grows_no_faster_than_what_comes_in(what: str):
    make, take = SIZED[what]
    one, few, many = make(1), make(200), make(2_000)
    calls_of(lambda: take(one))  # what is imported and cached once
    small, large = calls_of(lambda: take(few)), calls_of(lambda: take(many))

    assert large <= 10 * small + 2_000, f"{small} calls for 200, {large} for 2,000"


@pytest.mark.parametrize(
    "expression",
    ["0 0 31 2 *", "0 0 30 2 *", "* * 31 4,6,9,11 *", "0 0 29 2 MON", "59 23 31 12 SUN#5", "0 0 L 2 MON#5", "* * * * *",
     ",".join(map(str, range(60))) + " " + ",".join(map(str, range(24))) + " * * *"],
)  # fmt: skip
@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_no_cron_expression_takes_time_out_of_proportion(expression: str, zone: str | None):
    """Also one that never fires, and is searched for through fifty years."""

    def parse() -> None:
        parse_timing(schedule_type="cron", schedule_expr=expression, timezone=zone, anchor=NOW)

    assert calls_of(parse) < 1_000_000


def test_a_schedule_nobody_looked_at_for_ten_years_is_caught_up_with_in_bounded_steps():
    timing = parse_timing(schedule_type="interval", schedule_expr="rate(1 second)", anchor=NOW)
    late = NOW + timedelta(days=3650)

    for missed in Missed:
        calls = calls_of(
            lambda missed=missed: due_occurrences(timing, next_run_at=NOW, now=late, missed=missed, limit=100)  # type: ignore[misc]
        )
        assert calls < 10_000


# What is stored must be readable wherever it is read


def nested(depth: int) -> Any:
    value: Any = None
    for _ in range(depth):
        value = [value]
    return value


def deeper(frames: int, function: Callable[[], Any]) -> Any:
    return function() if frames == 0 else deeper(frames - 1, function)


def test_a_payload_that_was_taken_is_readable_from_a_deeper_stack():
    taken = []
    for depth in range(100, 1_000, 10):
        try:
            taken.append((depth, encode("it", nested(depth))))
        except InvalidJSONError:
            break

    unreadable = []
    for depth, text in taken:
        try:
            deeper(100, lambda: decode(text))  # noqa: B023
        except ValueError:
            unreadable.append(depth)
    assert unreadable == []


@PROPERTY
@given(st.text(min_size=1, max_size=128).filter(str.isprintable))
def test_any_id_that_a_message_may_carry_is_encoded_as_itself(run_id: str):
    if '"' in run_id or "\\" in run_id:
        return  # of these, test_hostile_items tells
    assert decode_body(encode_message(run_id)) == run_id == parse_message(message(run_id))

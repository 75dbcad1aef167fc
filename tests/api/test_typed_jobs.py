"""Jobs whose payloads have a type: checked where they are created, given to the handler as what they are."""

from __future__ import annotations

import asyncio
import enum
import functools
import inspect
import json
import logging
import pickle
import subprocess
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest

from kumofire_core import (
    ConfigurationError,
    DuplicateStepError,
    InvalidArgumentError,
    InvalidJSONError,
    InvalidPayloadError,
    JobContext,
    JobFunction,
    JobGroup,
    Jobs,
    Outcome,
    WaitTimeoutError,
)
from tests.builders import NOW, Aws, Clock, message


@dataclass
class Email:
    to: str
    subject: str = "Hello"


@dataclass
class Receipt:
    message_id: str
    at: datetime | None = None


@dataclass
class Item:
    sku: str
    price: float


@dataclass
class Order:
    items: list[Item]
    notes: dict[str, str] = field(default_factory=dict)


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Everything:
    at: datetime
    id: UUID
    amount: Decimal
    colour: Colour
    tags: set[str]
    data: bytes
    by_number: dict[int, str]


class TypedEmail(TypedDict):
    to: str


class Point(NamedTuple):
    x: int
    y: int


class StructEmail(msgspec.Struct, rename={"to": "To"}):
    to: str


class ClosedStruct(msgspec.Struct, forbid_unknown_fields=True):
    to: str


class TaggedV1(msgspec.Struct, tag_field="version", tag=1):
    to: str


class TaggedV2(msgspec.Struct, tag_field="version", tag=2):
    to: str


class Model(pydantic.BaseModel):
    to: str = pydantic.Field(alias="To")
    at: datetime | None = None
    model_config = pydantic.ConfigDict(strict=True)


@dataclass
class WithModel:
    model: Model


@pydantic.dataclasses.dataclass
class ModelDataclass:
    to: str


@dataclass
class Node:
    children: list[Node]


@dataclass
class Positive:
    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError(f"{self.number} is negative")
        if self.number == 0:
            sys.exit(3)


@dataclass
class EmailV1:
    to: str


@dataclass
class EmailV2:
    recipients: list[str]


@dataclass
class EmailV3:
    to: str
    subject: str = ""


class Unknown:
    """Has no JSON form."""


@dataclass
class HasUnknown:
    unknown: Unknown


@dataclass
class OtherUnion:
    emails: list[EmailV1 | EmailV2]


def seen_by(jobs: Jobs, of: Any, name: str = "job") -> tuple[JobFunction[Any, Any], list[Any]]:
    """Register a job whose payload has this type; return it, and the list of payloads that its handler gets."""
    payloads: list[Any] = []

    def handler(ctx: Any) -> None:
        payloads.append(ctx.payload)

    handler.__annotations__ = {"ctx": JobContext[of]}
    return jobs.handler(name)(handler), payloads


FITTING = [
    (Email, Email("x"), {"to": "x", "subject": "Hello"}),
    (TypedEmail, {"to": "x"}, {"to": "x"}),
    (StructEmail, StructEmail("x"), {"To": "x"}),
    (ClosedStruct, ClosedStruct("x"), {"to": "x"}),
    (Point, Point(1, 2), [1, 2]),
    (list[Email], [Email("x")], [{"to": "x", "subject": "Hello"}]),
    (Email | None, None, None),
    (None, None, None),
    (dict, {"any": 1}, {"any": 1}),
    (dict[str, Any], {"any": 1}, {"any": 1}),
    (int, 10**400, 10**400),
    (Colour, Colour.RED, "red"),
    (EmailV2 | EmailV1, EmailV1("x"), {"to": "x"}),
    (EmailV2 | EmailV1, EmailV2(["x"]), {"recipients": ["x"]}),
    (TaggedV2 | TaggedV1, TaggedV1("x"), {"version": 1, "to": "x"}),
    (Model, Model(To="x", at=NOW), {"To": "x", "at": "2026-03-14T12:00:00Z"}),
    (list[Model], [Model(To="x")], [{"To": "x", "at": None}]),
    (WithModel, WithModel(Model(To="x")), {"model": {"To": "x", "at": None}}),
    (ModelDataclass, ModelDataclass("x"), {"to": "x"}),
    (
        Everything,
        Everything(NOW, UUID(int=5), Decimal("1.10"), Colour.RED, {"a"}, b"abc", {1: "one"}),
        {
            "at": "2026-03-14T12:00:00Z",
            "id": "00000000-0000-0000-0000-000000000005",
            "amount": "1.10",
            "colour": "red",
            "tags": ["a"],
            "data": "YWJj",
            "by_number": {"1": "one"},
        },
    ),
]


@pytest.mark.parametrize(("of", "payload", "stored"), FITTING, ids=lambda each: getattr(each, "__name__", ""))
def test_a_handler_gets_the_payload_that_was_given_and_json_is_stored(aws: Aws, of: Any, payload: Any, stored: Any):
    jobs = aws.jobs()
    job, payloads = seen_by(jobs, of)

    run_ids = [job.create(payload), jobs.create("job", payload), *job.create_many([payload])]

    for run_id in run_ids:
        run = jobs.get_status(run_id)
        assert run is not None
        assert run.payload == stored
        assert jobs.consume(message(run_id)).outcome is Outcome.SUCCEEDED
    assert payloads == [payload] * 3
    assert {type(each) for each in payloads} == {type(payload)}


def refused(jobs: Jobs, of: Any, payload: Any) -> InvalidPayloadError:
    job, _ = seen_by(jobs, of, name=f"job {len(jobs._registry.names())}")
    with pytest.raises(InvalidPayloadError) as caught:
        job.create(payload)
    return caught.value


REFUSED = [
    (Order, {"items": [{"sku": "a", "price": "5"}]}, "payload.items[0].price: expected float, got str"),
    (Order, Order([Item("a", 1), Item("b", "x")]), "payload.items[1].price: expected float, got str"),  # type: ignore[arg-type]
    (Order, Order([Item("a", 10**400)]), "payload.items[0].price: number out of range"),
    (Order, {"items": [{"sku": "a"}]}, "payload.items[0]: object missing required field price"),
    (Order, {}, "payload: object missing required field items"),
    (Order, None, "payload: expected object, got null"),
    (Email, Receipt("x"), "payload: object missing required field to"),
    (Email, {"to": "x", "subjcet": "y"}, "payload.subjcet: Email has no such field; did you mean 'subject'?"),
    (list[Email], [{"to": "x"}, {"to": "x", "bcc": 1}], "payload[1].bcc: Email has no such field"),
    (TypedEmail, {"to": "x", "bcc": 1}, "payload.bcc: its type has no such field"),
    (StructEmail, {"To": "x", "to": 1}, "payload.to: StructEmail has no such field"),
    (ClosedStruct, {"to": "x", "bcc": 1}, "payload: object contains unknown field bcc"),
    (dict, [1], "payload: expected an object, got list"),
    (None, 5, "payload: expected null, got int"),
    (int, True, "payload: expected int, got bool"),
    (int, 1.5, "payload: expected int, got float"),
    (Positive, {"number": -5}, "payload: -5 is negative"),
    (Positive, {"number": 0}, "payload: SystemExit: 3"),
    (EmailV1 | EmailV2, {"bcc": 5}, "as EmailV1: payload: object missing required field to; as EmailV2"),
    (EmailV3 | EmailV1, EmailV1("x"), "would read this EmailV1 as a EmailV3"),
    (Model, {"To": 5}, "payload.To: input should be a valid string"),
    (Model, {}, "payload.To: field required"),
    (list[Model], [{"To": "x"}, {"To": "x", "at": 5}], "payload[1].at: input should be a valid datetime"),
]


@pytest.mark.parametrize(("of", "payload", "problem"), REFUSED)
def test_a_creator_is_told_which_part_of_its_payload_is_wrong(aws: Aws, of: Any, payload: Any, problem: str):
    error = refused(aws.jobs(), of, payload)

    assert problem in str(error)
    assert isinstance(error, InvalidArgumentError)
    assert not aws.items()
    assert not aws.sqs.requests


@pytest.mark.parametrize("of", [Order, Model, dict[str, float], Node, list[float], float])
def test_hostile_payloads_are_refused_before_anything_is_written(aws: Aws, of: Any):
    deep: Any = {"children": []}
    for _ in range(100_000):
        deep = {"children": [deep]}
    circular: dict[str, Any] = {}
    circular["children"] = [circular]
    jobs = aws.jobs()
    job, _ = seen_by(jobs, of)

    for payload in (deep, circular, float("nan"), {"x": float("inf")}, [float("-inf")], object(), {"x": Unknown()}):
        with pytest.raises((InvalidJSONError, InvalidPayloadError)):
            job.create(payload)

    assert not aws.items()


def test_a_payload_nested_as_deep_as_json_may_be_is_read(aws: Aws):
    payload = Node([])
    for _ in range(95):
        payload = Node([payload])
    jobs = aws.jobs()
    job, payloads = seen_by(jobs, Node)

    assert jobs.consume(message(job.create(payload))).outcome is Outcome.SUCCEEDED
    assert payloads == [payload]


def test_a_payload_that_no_longer_fits_fails_its_run_at_once(aws: Aws):
    jobs = aws.jobs()
    _, payloads = seen_by(jobs, Order)
    old = aws.a_run(job_name="job", payload='{"items":[{"sku":"a","price":"five"}]}')

    result = jobs.consume(message(old))

    run = jobs.get_status(old)
    assert run is not None
    assert (result.outcome, result.reason, result.attempt) == (Outcome.FAILED, "payload does not fit", None)
    assert (run.status, run.failed_attempts, run.attempts[:1]) == ("failed", 0, ())
    assert run.last_error == (
        "the payload of job 'job' does not fit Order: payload.items[0].price: expected float, got str"
    )
    assert run.error_type == "payload does not fit"
    assert payloads == []
    assert not aws.sqs.requests  # nothing is sent again


def test_a_run_that_did_not_fit_is_retried_by_a_release_that_reads_it(aws: Aws):
    old, new = aws.jobs(), aws.jobs()
    seen_by(old, EmailV2)
    _, payloads = seen_by(new, EmailV2 | EmailV1)
    run_id = aws.a_run(job_name="job", payload='{"to":"x"}')
    old.consume(message(run_id))

    with pytest.raises(InvalidPayloadError, match="missing required field recipients"):
        old.retry(run_id)
    assert new.retry_many(job_name="job", error_type="payload does not fit").changed == 1
    assert new.consume(message(run_id)).outcome is Outcome.SUCCEEDED
    assert payloads == [EmailV1("x")]


def test_a_consumer_ignores_fields_that_a_newer_creator_added(aws: Aws):
    jobs = aws.jobs()
    _, payloads = seen_by(jobs, Email)

    jobs.consume(message(aws.a_run(job_name="job", payload='{"to":"x","bcc":["y"]}')))

    assert payloads == [Email("x")]


def test_a_schedule_is_created_and_changed_with_payloads_that_fit_alone(aws: Aws):
    jobs = aws.jobs()
    _, payloads = seen_by(jobs, Email, "email")
    seen_by(jobs, Order, "order")
    timing: Any = {"schedule_type": "interval", "schedule_expr": "rate(5 minutes)"}

    with pytest.raises(InvalidPayloadError, match=r"payload\.to"):
        jobs.create_schedule("email", {"to": 5}, **timing)
    with pytest.raises(InvalidPayloadError, match=r"payload\.to"):
        jobs.upsert_schedule("email", {"to": 5}, schedule_key="k", **timing)
    with pytest.raises(InvalidPayloadError, match="expected object, got null"):
        jobs.upsert_schedule("email", schedule_key="k", **timing)  # its payload would be null
    assert not aws.items()

    schedule_id = jobs.upsert_schedule("email", Email("x"), schedule_key="k", **timing)
    for wrong in ({"payload": {"to": 5}}, {"name": "order"}, {"name": "order", "payload": Email("x")}):
        with pytest.raises(InvalidPayloadError):
            jobs.update_schedule(schedule_id, **wrong)  # type: ignore[arg-type]
    assert jobs.update_schedule(schedule_id, payload=Email("y"))
    schedule = jobs.get_schedule(schedule_id)
    assert schedule is not None
    assert (schedule.job_name, schedule.payload) == ("email", {"to": "y", "subject": "Hello"})

    run_id = jobs.trigger_schedule(schedule_id)
    assert run_id is not None
    jobs.consume(message(run_id))
    assert payloads == [Email("y")]


def test_an_update_takes_payloads_that_fit_the_job_of_the_run_alone(aws: Aws):
    jobs = aws.jobs()
    job, payloads = seen_by(jobs, Email)
    run_id = job.create(Email("x"))
    other = aws.a_run(job_name="another", payload="1")

    with pytest.raises(InvalidPayloadError, match=r"payload\.to: expected str, got int"):
        jobs.update(run_id, payload={"to": 5})
    assert jobs.update(other, payload={"to": 5})
    assert jobs.update(run_id, payload=Email("z"))
    jobs.consume(message(run_id))

    assert payloads == [Email("z")]


def test_a_wrong_payload_among_many_is_named_with_its_place(aws: Aws):
    job, _ = seen_by(aws.jobs(), Email)

    with pytest.raises(InvalidPayloadError, match=r"run 1 of create_many: .* payload\.to: expected str, got int"):
        job.create_many([Email("x"), Email(5)])  # type: ignore[arg-type]
    assert not aws.items()


def test_many_runs_get_the_options_and_each_its_key(aws: Aws):
    jobs = aws.jobs()
    job, _ = seen_by(jobs, Email)

    first = job.create_many([Email("a"), Email("b")], delay=60, group="t", dedupe_key=lambda email: email.to)
    again = job.create_many((Email(to) for to in "ba"), dedupe_key=lambda email: email.to)

    assert again == first[::-1]
    runs = jobs.get_many(first).values()
    assert [(run.status, run.group, run.dedupe_key) for run in runs] == [
        ("scheduled", "t", "a"),
        ("scheduled", "t", "b"),
    ]


def test_what_create_many_of_a_job_can_not_be_given_is_refused(aws: Aws):
    job, _ = seen_by(aws.jobs(), Email)
    wrong: Any

    for wrong in ({"to": "x"}, "x", b"x", 5, None):
        with pytest.raises(InvalidArgumentError, match="create_many takes a list"):
            job.create_many(wrong)
    wrong = "one"
    with pytest.raises(InvalidArgumentError, match="dedupe_key of create_many must be a function"):
        job.create_many([Email("x")], dedupe_key=wrong)


def test_a_job_takes_the_options_that_create_takes():
    create = inspect.signature(Jobs.create).parameters
    of_job, of_many = (inspect.signature(each).parameters for each in (JobFunction.create, JobFunction.create_many))

    assert list(of_job) == [name for name in create if name != "name"]
    assert list(of_many) == ["self", "payloads", *list(of_job)[2:]]
    assert {name: each.default for name, each in of_job.items()} == {name: create[name].default for name in of_job}
    of_request = inspect.signature(JobFunction.request).parameters
    assert {name: each.default for name, each in of_request.items()} == {
        name: each.default for name, each in of_job.items()
    }


def test_a_request_of_a_job_is_what_the_calls_that_make_many_runs_take(jobs: Jobs):
    seen: list[Any] = []

    @jobs.handler("email")
    def send_email(ctx: JobContext[Email]) -> None:
        seen.append(ctx.payload)

    @jobs.handler("all sent")
    def all_sent(ctx: JobContext[None]) -> None: ...

    request = send_email.request(Email("a"), delay=60, group="tenant-42", max_attempts=7)
    [run_id] = jobs.create_many([request])
    batch_id = jobs.create_batch([send_email.request(Email("b"))], then=all_sent.request(max_attempts=9))
    first, second = jobs.create_chain([send_email.request(Email("c")), all_sent.request(delay=5)])

    assert request == {"name": "email", "payload": Email("a"), "delay": 60, "group": "tenant-42", "max_attempts": 7}
    run = jobs.get_status(run_id)
    assert run is not None
    assert (run.payload["to"], run.group, run.max_attempts) == ("a", "tenant-42", 7)
    [member] = jobs.batch_members(batch_id)
    assert member.payload["to"] == "b"
    assert jobs.consume(message(member.id)).outcome == "succeeded"
    callback = jobs.get_status(str(getattr(jobs.get_batch(batch_id), "then_run_id", None)))
    assert callback is not None
    assert (callback.job_name, callback.max_attempts) == ("all sent", 9)
    assert jobs.consume(message(first)).outcome == "succeeded"
    assert getattr(jobs.get_status(second), "job_name", None) == "all sent"
    assert seen == [Email("b"), Email("c")]


def test_a_request_of_a_group_needs_no_jobs_yet_and_is_checked_where_it_is_used(jobs: Jobs):
    mail = JobGroup()

    @mail.handler("email")
    def send_email(ctx: JobContext[Email]) -> None: ...

    wrong: Any = {"too": "x"}
    request = send_email.request(wrong)
    jobs.include(mail)

    with pytest.raises(InvalidPayloadError, match="email"):
        jobs.create_batch([request])


RETURNED = [
    (Receipt, Receipt("x", NOW), {"message_id": "x", "at": "2026-03-14T12:00:00Z"}),
    (Model, Model(To="x"), {"To": "x", "at": None}),
    (StructEmail, StructEmail("x"), {"To": "x"}),
    (list[Receipt], [Receipt("x")], [{"message_id": "x", "at": None}]),
    (list[Model], [Model(To="x")], [{"To": "x", "at": None}]),
    (dict[str, Model], {"a": Model(To="x")}, {"a": {"To": "x", "at": None}}),
    (datetime, NOW, "2026-03-14T12:00:00Z"),
]


@pytest.mark.parametrize(("of", "value", "output"), RETURNED)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_typed_return_value_is_stored_as_json(aws: Aws, of: Any, value: Any, output: Any, is_async: bool):
    def plain(ctx: JobContext) -> Any:
        return value

    async def coroutine(ctx: JobContext) -> Any:
        return value

    handler: Any = coroutine if is_async else plain
    handler.__annotations__["return"] = of
    jobs = aws.jobs(handlers={"job": handler})

    jobs.consume(message(run_id := jobs.create("job")))

    run = jobs.get_status(run_id)
    assert run is not None
    assert (run.status, run.output) == ("succeeded", output)


@pytest.mark.parametrize("value", [Unknown(), HasUnknown(Unknown()), float("nan"), Receipt])
def test_a_typed_return_value_without_a_json_form_fails_its_run(aws: Aws, value: Any):
    def handler(ctx: JobContext) -> HasUnknown:
        found: HasUnknown = value
        return found

    jobs = aws.jobs(handlers={"job": handler})

    run_id = jobs.create("job")
    assert jobs.consume(message(run_id)).outcome is Outcome.FAILED
    run = jobs.get_status(run_id)
    assert run is not None
    assert run.last_error is not None
    assert run.last_error.startswith("InvalidJSONError: the handler's return value is not JSON")


def test_a_return_value_without_a_declared_type_stays_what_it_was(aws: Aws):
    jobs = aws.jobs(handlers={"job": lambda ctx: Receipt("x")})

    assert jobs.consume(message(jobs.create("job"))).outcome is Outcome.FAILED


@pytest.mark.parametrize("declared", [object, Any, "object", "Any"], ids=repr)
def test_to_declare_any_object_is_to_declare_no_type(aws: Aws, declared: Any):
    def handler(ctx: JobContext) -> object:
        return {1, 2, 3}

    handler.__annotations__["return"] = declared
    jobs = aws.jobs(handlers={"job": handler})

    assert jobs.consume(message(jobs.create("job"))).outcome is Outcome.FAILED


def test_middleware_is_given_the_typed_payload_and_the_value_that_was_returned(aws: Aws):
    jobs = aws.jobs()
    seen: list[Any] = []

    @jobs.middleware
    def watch(ctx: JobContext, call_next: Callable[[JobContext], Any]) -> Any:
        seen.append(ctx.payload)
        seen.append(call_next(ctx))
        return seen[-1]

    @jobs.handler("email")
    async def send(ctx: JobContext[Email]) -> Receipt:
        return Receipt(ctx.payload.to)

    assert jobs.consume(message(send.create(Email("x")))).outcome is Outcome.SUCCEEDED
    assert seen == [Email("x"), Receipt("x")]


def test_reading_a_payload_counts_in_the_time_of_the_attempt(aws: Aws):
    jobs = aws.jobs(clock=Clock(datetime.now(UTC)))
    started = []

    @dataclass
    class Slow:
        to: str

        def __post_init__(self) -> None:
            if started:
                import time

                time.sleep(30)

    job, _ = seen_by(jobs, Slow)
    jobs._registry._jobs["job"] = jobs._registry._jobs["job"]._replace(timeout_ms=50)
    run_id = job.create({"to": "x"})
    started.append(1)

    result = jobs.consume(message(run_id))

    assert (result.outcome, result.reason) == (Outcome.RETRIED, "AttemptTimeoutError")


def test_an_error_of_the_handlers_own_about_a_payload_is_retried(aws: Aws):
    jobs = aws.jobs()
    other, _ = seen_by(jobs, Email, "other")

    @jobs.handler("email")
    def send(ctx: JobContext[Email]) -> None:
        other.create({"to": 5})  # type: ignore[call-overload]

    result = jobs.consume(message(send.create(Email("x"))))

    assert (result.outcome, result.reason) == (Outcome.RETRIED, "InvalidPayloadError")


group = JobGroup()


@group.handler("module")
def module_level(ctx: JobContext[Email]) -> str:
    """Send it."""
    return ctx.payload.to


def outer(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*given: Any) -> Any:
        return ["outer", function(*given)]

    return wrapper


def test_a_job_is_called_and_looked_at_as_its_function_is():
    assert module_level(JobContext.for_test(Email("x"))) == "x"
    assert (module_level.__name__, module_level.__doc__, module_level.__module__) == (
        "module_level",
        "Send it.",
        __name__,
    )
    assert module_level.__qualname__ == "module_level"
    assert module_level.job_name == "module"
    assert str(inspect.signature(module_level)) == "(ctx: 'JobContext[Email]') -> 'str'"
    assert typing.get_type_hints(module_level)["return"] is str
    assert pickle.loads(pickle.dumps(module_level)) is module_level
    assert not inspect.iscoroutinefunction(module_level)
    assert callable(module_level)
    assert "module" in repr(module_level)
    with pytest.raises(AttributeError):
        module_level.nothing  # noqa: B018


def test_an_async_job_is_a_coroutine_function():
    @JobGroup().handler("job")
    async def job(ctx: JobContext[Email]) -> str:
        return ctx.payload.to

    assert inspect.iscoroutinefunction(job)
    with pytest.raises(StopIteration, match="x"):
        job(JobContext.for_test(Email("x"))).send(None)


def test_decorators_inside_and_outside_of_the_handlers_own(aws: Aws):
    jobs = aws.jobs()

    @outer
    @jobs.handler("email")
    @outer
    def send(ctx: JobContext[Email]) -> str:
        return ctx.payload.to

    created: Any = send
    run_id = created.create(Email("x"))
    jobs.consume(message(run_id))

    run = jobs.get_status(run_id)
    assert run is not None
    assert run.output == ["outer", "x"]  # the engine calls what the decorator was given
    assert send(JobContext.for_test(Email("x"))) == ["outer", ["outer", "x"]]


def test_the_decorator_takes_what_it_has_returned(aws: Aws):
    first, second = aws.jobs(), aws.jobs()

    @second.handler("b")
    @first.handler("a")
    def job(ctx: JobContext[Email]) -> None: ...

    assert job.job_name == "b"
    assert second.consume(message(job.create(Email("x")))).outcome is Outcome.SUCCEEDED
    assert not first._registry.get("b")
    third = aws.jobs(handlers={"c": job})
    assert third._registry.get("c").handler is job.__wrapped__  # type: ignore[union-attr]


class Mailer:
    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def send(self, ctx: JobContext[Email]) -> str:
        return self.prefix + ctx.payload.to

    @JobGroup().handler("in a class")
    def decorated(self, ctx: JobContext[Email]) -> str:  # type: ignore[misc]
        return self.prefix + ctx.payload.to

    def __call__(self, ctx: JobContext[Email]) -> str:
        return self.prefix + ctx.payload.to


def with_prefix(prefix: str, ctx: JobContext[Email]) -> str:
    return prefix + ctx.payload.to


@pytest.mark.parametrize("handler", [Mailer("to ").send, Mailer("to "), partial(with_prefix, "to ")])
def test_methods_objects_and_partials_have_typed_payloads_too(aws: Aws, handler: Any):
    jobs = aws.jobs()
    job = jobs.handler("email")(handler)

    jobs.consume(message(run_id := job.create(Email("x"))))

    run = jobs.get_status(run_id)
    assert run is not None
    assert run.output == "to x"
    with pytest.raises(InvalidPayloadError):
        job.create({"to": 5})


def test_a_decorated_method_is_called_as_a_method():
    called: Any = Mailer("to ").decorated

    assert called(JobContext.for_test(Email("x"))) == "to x"


def test_a_job_of_a_group_creates_runs_once_the_group_is_included(aws: Aws):
    mail = JobGroup()

    @mail.handler("email")
    def send(ctx: JobContext[Email]) -> None: ...

    with pytest.raises(ConfigurationError, match=r"job 'email' is in a JobGroup that no Jobs has included yet"):
        send.create(Email("x"))
    with pytest.raises(ConfigurationError, match="no Jobs has included yet"):
        send.create_many([])
    jobs = aws.jobs()
    jobs.include(mail)
    assert jobs.consume(message(send.create(Email("x")))).outcome is Outcome.SUCCEEDED
    aws.jobs().include(mail)
    with pytest.raises(ConfigurationError, match=r"2 Jobs have included; call create\('email', …\)"):
        send.create(Email("x"))


def test_a_type_that_can_not_be_read_is_named_when_the_handler_is_registered(aws: Aws):
    for of, problem in (
        (HasUnknown, "in which Unknown has no JSON form"),
        (Unknown, "in which Unknown has no JSON form"),
        (OtherUnion, "may not contain more than one dataclass"),
        (pydantic.BaseModel | HasUnknown, "Unknown"),
    ):
        jobs = aws.jobs()
        with pytest.raises(ConfigurationError, match="job 'job'") as caught:
            seen_by(jobs, of)
        assert problem in str(caught.value)
        assert jobs._registry.names() == []
    mail = JobGroup()
    seen_by(mail, HasUnknown)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="Unknown has no JSON form"):
        aws.jobs().include(mail)


def test_a_type_that_is_defined_after_the_handler_is_found_at_the_first_use(aws: Aws):
    names: dict[str, Any] = {"JobContext": JobContext, "jobs": aws.jobs(), "__name__": "late"}
    exec(
        "from __future__ import annotations\n@jobs.handler('late')\ndef late(ctx: JobContext[Late]) -> None: ...\n",
        names,
    )
    with pytest.raises(ConfigurationError, match=r"job 'late'.* name 'Late' is not defined; define or import it"):
        names["late"].create(5)
    result = names["jobs"].consume(message(aws.a_run(job_name="late", payload='{"to":"x"}')))
    assert (result.outcome, result.reason) == (Outcome.RETRIED, "ConfigurationError")  # no payload is to blame

    names["Late"] = EmailV1

    assert names["late"].create(EmailV1("x"))
    with pytest.raises(InvalidPayloadError):
        names["late"].create(5)


def test_an_annotation_that_only_type_checkers_know_makes_no_typed_job(aws: Aws):
    for annotation in ("JobContext", "Context", "core.JobContext", "SomeProtocol[int]", "not python"):
        payloads: list[Any] = []

        def handler(ctx: Any, payloads: list[Any] = payloads) -> None:
            payloads.append(ctx.payload)

        handler.__annotations__ = {"ctx": annotation}
        jobs = aws.jobs(handlers={"job": handler})
        assert jobs.consume(message(jobs.create("job", {"any": 1}))).outcome is Outcome.SUCCEEDED
        assert payloads == [{"any": 1}]


def test_a_process_without_the_handler_checks_nothing(aws: Aws):
    assert aws.jobs().create("email", {"to": 5})


UNTYPED = """
from typing import Any
from kumofire_core import JobContext, JobGroup, Jobs
jobs = Jobs(table="t", queue_url="https://sqs.eu-west-1.amazonaws.com/1/q")
group = JobGroup()
@jobs.handler("a")
def a(ctx: JobContext) -> dict[str, str]: ...
@jobs.handler("b")
async def b(ctx): ...
@jobs.handler("c")
def c(ctx: Any) -> None: ...
@group.handler("d")
def d(ctx: "JobContext") -> None: ...
jobs.handler("e")(print)
jobs.include(group)
"""


def imported_by(code: str) -> set[str]:
    report = "\nimport sys, json; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
def test_jobs_without_types_import_nothing(future: str):
    bare = imported_by("from kumofire_core import Jobs")

    more = imported_by(future + UNTYPED) - bare

    assert {name for name in more if not name.startswith("_")} <= {"kumofire_core.handlers.job_group"}


def test_a_typed_job_imports_the_library_that_its_type_needs_alone():
    typed = UNTYPED + "from dataclasses import dataclass\n@dataclass\nclass E:\n    to: str\n"
    plain = imported_by(UNTYPED + "@jobs.handler('t')\ndef t(ctx: JobContext[dict[str, Any]]): ...")
    dataclassed = imported_by(typed + "@jobs.handler('t')\ndef t(ctx: JobContext[E]): ...")

    assert not {"msgspec", "pydantic"} & plain
    assert {"msgspec", "pydantic"} & dataclassed == {"msgspec"}


@pytest.mark.parametrize(
    ("library", "of", "advice"),
    [("msgspec", "E", "pip install 'kumofire-jobs[typed]'"), ("pydantic", "list[M]", "pip install 'pydantic>=2'")],
)
def test_a_library_that_is_missing_is_named_when_the_handler_is_registered(library: str, of: str, advice: str):
    code = (
        UNTYPED
        + "from dataclasses import dataclass\nimport sys\n@dataclass\nclass E:\n    to: str\n"
        + "class M:\n    __pydantic_core_schema__ = None\n"
        + f"sys.modules['{library}'] = None\n@jobs.handler('t')\ndef t(ctx: JobContext[{of}]): ..."
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    last = done.stderr.splitlines()[-1]
    assert "ConfigurationError" in last
    assert advice in last
    assert "job 't'" in last


def test_a_context_for_tests_tells_what_a_handler_asks_and_keeps_what_it_tells(caplog: pytest.LogCaptureFixture):
    ctx = JobContext.for_test(
        Email("x"),
        attempt=2,
        max_attempts=5,
        run_id="r",
        job_name="email",
        fencing_token=7,
        now=NOW,
        time_left=timedelta(seconds=9),
        occurrence=NOW - timedelta(hours=2),
    )

    assert isinstance(ctx, JobContext)
    assert ctx.run.occurrence == NOW - timedelta(hours=2)
    assert (ctx.payload, ctx.run.payload, ctx.attempt, ctx.fencing_token, ctx.now) == (
        Email("x"),
        Email("x"),
        2,
        7,
        NOW,
    )
    assert (ctx.run.id, ctx.run.job_name, ctx.run.max_attempts, ctx.run.failed_attempts) == ("r", "email", 5, 1)
    assert ctx.run.status == "running"
    assert timedelta(seconds=8) < ctx.time_left() <= timedelta(seconds=9)
    ctx.progress(0.5, "half")
    ctx.progress(1.0)
    assert ctx.told == [(0.5, "half"), (1.0, None)]
    assert not ctx.cancel_requested()
    ctx.request_cancel()
    assert ctx.cancel_requested()
    with caplog.at_level(logging.INFO):
        ctx.logger.info("sent")
    assert caplog.records[0].__dict__["job_run_id"] == "r"
    assert ctx.traceparent is None
    assert "attempt=2" in repr(ctx)


def test_a_context_for_tests_executes_steps_and_answers_waits():
    ctx = JobContext.for_test(signals={"approval": {"by": "ann"}})

    assert ctx.step("charge", lambda amount: amount * 2, 21) == 42
    ctx.sleep(60)
    ctx.sleep(timedelta(hours=1), name="overnight")
    assert ctx.wait_for("approval") == {"by": "ann"}
    assert ctx.wait_for("refusal", timeout=60, default="none") == "none"
    with pytest.raises(WaitTimeoutError):
        ctx.wait_for("another", timeout=60)
    with pytest.raises(DuplicateStepError):
        ctx.step("charge", print)
    with pytest.raises(ZeroDivisionError):
        ctx.step("fails", lambda: 1 / 0)
    assert ctx.step("fails", lambda: "the second time") == "the second time"
    assert ctx.create_child("email", {"to": "x"})
    assert ctx.wait_for_children() == []

    assert ctx.steps == {
        "charge": 42,
        "sleep-1": timedelta(seconds=60),
        "overnight": timedelta(hours=1),
        "approval": {"by": "ann"},
        "fails": "the second time",
        "child-1": [{"name": "email", "payload": {"to": "x"}}],
    }


def test_a_context_for_tests_executes_the_steps_of_async_handlers():
    ctx = JobContext.for_test(signals={"approval": True})

    async def fetch(url: str) -> str:
        return f"got {url}"

    async def handler(ctx: JobContext) -> list[Any]:
        await ctx.aio.sleep(60)
        return [await ctx.aio.step("fetch", fetch, "x"), await ctx.aio.wait_for("approval")]

    assert asyncio.run(handler(ctx)) == ["got x", True]


def test_a_context_for_tests_needs_nothing():
    ctx = JobContext.for_test()

    assert (ctx.payload, ctx.attempt, ctx.cancel_requested()) == (None, 1, False)
    assert JobContext.for_test(time_left=timedelta(0)).time_left() == timedelta(0)
    assert JobContext.for_test(cancel_requested=True).cancel_requested()


@pytest.mark.parametrize(
    ("argument", "wrong"),
    [
        ("attempt", 0),
        ("max_attempts", "3"),
        ("run_id", ""),
        ("job_name", 5),
        ("fencing_token", True),
        ("now", datetime(2026, 3, 14)),
        ("time_left", 60),
        ("cancel_requested", "yes"),
        ("signals", ["approval"]),
        ("occurrence", datetime(2026, 3, 14)),
    ],
)
def test_a_context_for_tests_refuses_what_no_run_can_have(argument: str, wrong: Any):
    with pytest.raises(InvalidArgumentError, match=argument.replace("job_name", "job's name")):
        JobContext.for_test(**{argument: wrong})

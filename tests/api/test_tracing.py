"""Traces by OpenTelemetry, with its own SDK: from the span that creates a run to those of its attempts."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from kumofire_core import CallNext, Cancel, ConfigurationError, JobContext, Jobs, PartlyCreatedError, Snooze
from kumofire_core.tracing import instrument
from tests.builders import NOW_MS, Aws, LambdaContext, event, message, raises
from tests.faults import Refused

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
"""The example of the W3C's recommendation, https://www.w3.org/TR/trace-context/"""


class Traced:
    """A tracer provider of this test's own, and the spans that have ended."""

    def __init__(self) -> None:
        self._ended = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._ended))

    def jobs(self, aws: Aws, **settings: Any) -> Jobs:
        jobs = aws.jobs(**settings)
        instrument(jobs, self.provider)
        return jobs

    def spans(self, name: str = "") -> list[ReadableSpan]:
        """Return the spans with this name, or all, in the order of their ends."""
        return [span for span in self._ended.get_finished_spans() if name in ("", span.name)]

    def span(self, name: str) -> ReadableSpan:
        (found,) = self.spans(name)
        return found


@pytest.fixture
def traced() -> Iterator[Traced]:
    found = Traced()
    yield found
    found.provider.shutdown()


def ids(span: ReadableSpan) -> tuple[int, int]:
    return span.context.trace_id, span.context.span_id


def parent_ids(span: ReadableSpan) -> tuple[int, int] | None:
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)


def plain(ctx: JobContext) -> str:
    return format(trace.get_current_span().get_span_context().span_id, "x")


async def asynchronous(ctx: JobContext) -> str:
    await asyncio.sleep(0)
    return format(trace.get_current_span().get_span_context().span_id, "x")


@pytest.mark.parametrize("timeout", [None, timedelta(seconds=20)], ids=["in this thread", "in a thread of its own"])
@pytest.mark.parametrize("handler", [plain, asynchronous])
def test_a_run_s_trace_goes_from_its_creator_to_its_handler(
    aws: Aws, traced: Traced, handler: Callable[..., Any], timeout: timedelta | None
):
    jobs = traced.jobs(aws)
    jobs.handler("email", timeout=timeout)(handler)
    with traced.provider.get_tracer("application").start_as_current_span("GET /welcome"):
        run_id = jobs.create("email", {"to": "x"})

    jobs.consume(message(run_id))

    request, create, process = (traced.span(name) for name in ("GET /welcome", "create email", "process email"))
    assert parent_ids(create) == ids(request)
    assert parent_ids(process) == ids(create)
    assert jobs.get_status(run_id).output == format(process.context.span_id, "x")
    assert (create.kind, process.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert (create.status.status_code, process.status.status_code) == (StatusCode.UNSET, StatusCode.UNSET)


def test_spans_are_named_and_described_as_the_conventions_for_messaging_want_it(aws: Aws, traced: Traced):
    jobs = traced.jobs(aws, handlers={"email": lambda ctx: None})
    run_id = jobs.create("email")
    jobs.consume(message(run_id))

    common = {
        "messaging.system": "aws_sqs",
        "messaging.destination.name": "kumofire-jobs",
        "messaging.message.conversation_id": run_id,
        "kumofire.run.id": run_id,
        "kumofire.job.name": "email",
    }
    for name, more in (("create", {}), ("process", {"kumofire.attempt": 1})):
        operation = {"messaging.operation.name": name, "messaging.operation.type": name}
        assert dict(traced.span(f"{name} email").attributes or {}) == common | operation | more


def test_the_stored_context_has_55_bytes_and_is_the_creator_s(aws: Aws, traced: Traced):
    run_id = traced.jobs(aws).create("email")

    trace_id, span_id = ids(traced.span("create email"))
    stored = aws.item(run_id)["traceparent"]
    assert re.fullmatch(f"00-{trace_id:032x}-{span_id:016x}-[0-9a-f]{{2}}", stored)
    assert int(stored[-2:], 16) & 1  # it is sampled
    assert len(stored) == 55


def test_a_run_that_a_transaction_stores_belongs_to_the_span_that_prepared_it(aws: Aws, traced: Traced):
    pending = traced.jobs(aws).create_in_transaction("email")
    aws.dynamodb.transact_write_items(TransactItems=[pending.entry])

    trace_id, span_id = ids(traced.span("create email"))
    assert aws.item(pending.run_id)["traceparent"].startswith(f"00-{trace_id:032x}-{span_id:016x}-")


def test_runs_that_are_created_together_share_a_span(aws: Aws, traced: Traced):
    jobs = traced.jobs(aws, handlers={"email": lambda ctx: None, "bill": lambda ctx: None})
    run_ids = jobs.create_many([{"name": "email"}] * 12)
    mixed = jobs.create_many([{"name": "email"}, {"name": "bill"}])

    span, of_two = traced.span("create email"), traced.span("create kumofire-jobs")
    assert (span.attributes or {})["messaging.batch.message_count"] == 12
    assert "kumofire.run.id" not in (span.attributes or {})
    assert {aws.item(run_id)["traceparent"].split("-")[2] for run_id in run_ids} == {f"{span.context.span_id:016x}"}
    assert {aws.item(run_id)["traceparent"].split("-")[2] for run_id in mixed} == {f"{of_two.context.span_id:016x}"}

    jobs.consume_batch(event(*run_ids), LambdaContext())
    assert {parent_ids(each) for each in traced.spans("process email")} == {ids(span)}


def test_every_attempt_is_a_span_of_its_own_in_the_same_trace(aws: Aws, traced: Traced):
    jobs = traced.jobs(aws, handlers={"email": raises(ValueError("x"))})
    run_id = jobs.create("email")
    jobs.consume(message(run_id))
    aws.change(run_id, scheduled_for=NOW_MS)
    jobs.consume(message(run_id))

    spans = traced.spans("process email")
    assert [(span.attributes or {})["kumofire.attempt"] for span in spans] == [1, 2]
    assert {parent_ids(span) for span in spans} == {ids(traced.span("create email"))}


def test_an_error_is_told_by_its_type_and_no_span_quotes_data(aws: Aws, traced: Traced):
    jobs = traced.jobs(aws, handlers={"email": raises(ValueError("secret"))})
    jobs.consume(message(jobs.create("email", "secret", max_attempts=1)))

    span = traced.span("process email")
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "ValueError"
    assert "secret" not in "".join(each.to_json() for each in traced.spans())


@pytest.mark.parametrize("error", [Snooze(60), Cancel("no longer needed")], ids=["snooze", "cancel"])
def test_what_a_handler_decides_about_its_run_is_no_error(aws: Aws, traced: Traced, error: Exception):
    traced.jobs(aws, handlers={"email": raises(error)}).consume(message(aws.a_run()))

    span = traced.span("process email")
    assert span.status.status_code is StatusCode.UNSET
    assert "error.type" not in (span.attributes or {})


def test_a_suspension_is_no_error(aws: Aws, traced: Traced):
    traced.jobs(aws, handlers={"email": lambda ctx: ctx.sleep(60)}).consume(message(aws.a_run()))

    span = traced.span("process email")
    assert span.status.status_code is StatusCode.UNSET


def test_a_suspension_in_a_group_of_tasks_is_no_error(aws: Aws, traced: Traced):
    async def handler(ctx: JobContext) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.aio.wait_for("go"))

    traced.jobs(aws, handlers={"email": handler}).consume(message(aws.a_run()))

    span = traced.span("process email")
    assert span.status.status_code is StatusCode.UNSET


def test_creating_that_fails_is_an_error_of_its_span(aws: Aws, traced: Traced):
    jobs = traced.jobs(aws, dynamodb=Refused("AccessDeniedException"))

    with pytest.raises(Exception, match="AccessDenied"):
        jobs.create("email", "secret")
    with pytest.raises(PartlyCreatedError):
        jobs.create_many([{"name": "email"}] * 2)

    one, many = traced.spans("create email")
    assert [(span.status.status_code, (span.attributes or {})["error.type"]) for span in (one, many)] == [
        (StatusCode.ERROR, "ClientError"),
        (StatusCode.ERROR, "PartlyCreatedError"),
    ]


def test_what_is_not_created_makes_no_span(aws: Aws, traced: Traced):
    jobs = traced.jobs(aws, handlers={"email": print})

    for wrong in ({"name": "other"}, {"name": "email", "payload": object()}):
        with pytest.raises(LookupError if wrong["name"] == "other" else TypeError):
            jobs.create(**wrong)  # type: ignore[arg-type]

    assert traced.spans() == []


def test_the_span_of_an_attempt_is_linked_to_the_one_of_its_process(aws: Aws, traced: Traced):
    jobs = traced.jobs(aws, handlers={"email": plain})
    run_id = jobs.create("email")
    with traced.provider.get_tracer("lambda").start_as_current_span("consumer"):
        jobs.consume_batch(event(run_id), LambdaContext())

    (link,) = traced.span("process email").links
    assert (link.context.trace_id, link.context.span_id) == ids(traced.span("consumer"))


def test_a_run_whose_creator_was_not_traced_is_in_the_trace_of_its_process(aws: Aws, traced: Traced):
    jobs = traced.jobs(aws, handlers={"email": plain})
    with traced.provider.get_tracer("lambda").start_as_current_span("consumer"):
        jobs.consume(message(aws.a_run()))
    jobs.consume(message(aws.a_run()))

    inside, alone = traced.spans("process email")
    assert (parent_ids(inside), list(inside.links)) == (ids(traced.span("consumer")), [])
    assert (parent_ids(alone), list(alone.links)) == (None, [])


@pytest.mark.parametrize("stored", ["", "x", "x" * 1_000, TRACEPARENT + "-more", TRACEPARENT.replace("00-", "ff-")])
def test_a_stored_context_that_is_none_harms_no_run(
    aws: Aws, traced: Traced, stored: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.CRITICAL, "opentelemetry")
    jobs = traced.jobs(aws, handlers={"email": plain})
    run_id = aws.a_run(traceparent=stored)

    jobs.consume(message(run_id))

    assert jobs.get_status(run_id).status == "succeeded"
    assert parent_ids(traced.span("process email")) is None


def test_another_tracer_s_context_is_read(aws: Aws, traced: Traced):
    seen: list[str | None] = []
    jobs = traced.jobs(aws)
    jobs.handler("email")(lambda ctx: seen.append(ctx.traceparent))

    jobs.consume(message(aws.a_run(traceparent=TRACEPARENT)))

    assert seen == [TRACEPARENT]
    assert parent_ids(traced.span("process email")) == (0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331)


def test_a_run_that_is_not_sampled_stays_so(aws: Aws, traced: Traced):
    creator = aws.jobs()
    instrument(creator, TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False))
    jobs = traced.jobs(aws, handlers={"email": plain})

    run_id = creator.create("email")
    jobs.consume(message(run_id))

    assert not int(aws.item(run_id)["traceparent"][-2:], 16) & 1
    assert traced.spans() == []


def test_schedules_make_runs_in_the_span_of_their_dispatcher(aws: Aws, traced: Traced):
    jobs = traced.jobs(aws, handlers={"email": plain})
    jobs.create_schedule("email", schedule_type="interval", schedule_expr="rate(1 minute)")
    with traced.provider.get_tracer("lambda").start_as_current_span("dispatcher"):
        jobs.dispatch()

    runs = [item for item in aws.items() if item["pk"].startswith("run#")]
    assert runs
    assert {item["traceparent"].split("-")[2] for item in runs} == {f"{ids(traced.span('dispatcher'))[1]:016x}"}


def test_without_tracing_nothing_of_it_is_stored_or_imported(aws: Aws):
    jobs = aws.jobs(handlers={"email": lambda ctx: ctx.traceparent})
    run_id = jobs.create("email")
    jobs.consume(message(run_id))

    assert "traceparent" not in aws.item(run_id)
    assert jobs.get_status(run_id).output is None
    code = """
import sys, kumofire_core
jobs = kumofire_core.Jobs(table="t", queue_url="https://sqs.eu-west-1.amazonaws.com/1/q")
jobs._creator, jobs._dispatcher
print([name for name in sys.modules if "opentelemetry" in name or name == "kumofire_core.tracing"])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_without_opentelemetry_the_error_says_what_to_install():
    code = "import sys; sys.modules['opentelemetry'] = None; import kumofire_core.tracing"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "pip install 'kumofire-jobs[otel]'" in found.stderr.splitlines()[-1]


def test_the_span_is_around_later_middleware_and_leaves_no_place_in_an_error(
    aws: Aws, traced: Traced, caplog: pytest.LogCaptureFixture
):
    jobs = traced.jobs(aws, handlers={"email": raises(ValueError())})
    current: list[int] = []

    @jobs.middleware
    def later(ctx: JobContext, call_next: CallNext) -> Any:
        current.append(trace.get_current_span().get_span_context().span_id)
        return call_next(ctx)

    jobs.consume(message(aws.a_run()))

    assert current == [traced.span("process email").context.span_id]
    places = next(record.error_at for record in caplog.records if hasattr(record, "error_at"))
    assert [place.rpartition(" in ")[2] for place in places] == ["later", "handler"]


def test_a_global_provider_that_is_set_later_is_used(aws: Aws, traced: Traced, monkeypatch: pytest.MonkeyPatch):
    jobs = aws.jobs()
    instrument(jobs)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", traced.provider)

    jobs.create("email")

    assert len(traced.spans("create email")) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((None,), "instrument takes a Jobs, not NoneType"),
        (("jobs",), "instrument takes a Jobs, not str"),
        ((Jobs,), "instrument takes a Jobs, not type"),
        (("the jobs", "provider"), "tracer_provider must be a TracerProvider of OpenTelemetry or None, not str"),
        (
            ("the jobs", TracerProvider),
            "tracer_provider must be a TracerProvider of OpenTelemetry or None, not ABCMeta",
        ),
    ],
)
def test_what_can_not_be_traced_is_refused(jobs: Jobs, arguments: tuple[Any, ...], text: str):
    given = [jobs if each == "the jobs" else each for each in arguments]

    with pytest.raises(ConfigurationError, match=text):
        instrument(*given)


def test_a_jobs_is_traced_once(jobs: Jobs, traced: Traced):
    instrument(jobs, traced.provider)

    with pytest.raises(ConfigurationError, match="this Jobs is traced already"):
        instrument(jobs, traced.provider)

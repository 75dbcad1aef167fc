"""Traces by OpenTelemetry: from the span that creates a run to the spans of its attempts. Needs the extra ``otel``.

Nothing else of this package imports this module or OpenTelemetry, so a process that does not trace pays nothing.
The spans follow OpenTelemetry's conventions for messaging, and never hold a payload, an output or an error's text:
https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

try:
    from opentelemetry import trace
    from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("traces need opentelemetry-api: pip install 'kumofire-jobs[otel]'") from missing

import kumofire_core
from kumofire_core.errors import ConfigurationError
from kumofire_core.handlers.context import JobContext, StepsBroken, Suspension
from kumofire_core.handlers.middleware import CallNext
from kumofire_core.jobs import Jobs
from kumofire_core.model.error_text import error_leaves, type_name
from kumofire_core.model.run import NewRun
from kumofire_core.model.steering import Cancel, Snooze

HIDDEN_IN_TRACEBACKS = True

_propagator = TraceContextTextMapPropagator()


def instrument(jobs: Jobs, tracer_provider: TracerProvider | None = None) -> None:
    """Trace what this ``Jobs`` creates and executes from now on, with the global tracer provider or the given one.

    ``create`` and ``create_many`` become a producer span, whose W3C trace context is stored with each run (55 bytes).
    Each attempt becomes a consumer span in the same trace, around the handler and all middleware that is registered
    after this call. It has a link to the span that was current in its process, for example Lambda's. A run that a
    schedule makes belongs to the span that is current in its dispatcher, if there is one.

    Raises ``ConfigurationError`` for anything but a ``Jobs`` that is not traced yet.
    """
    if not isinstance(jobs, Jobs):
        raise ConfigurationError([f"instrument takes a Jobs, not {type(jobs).__name__}"])
    if tracer_provider is not None and not isinstance(tracer_provider, TracerProvider):
        kind = type(tracer_provider).__name__
        raise ConfigurationError([f"tracer_provider must be a TracerProvider of OpenTelemetry or None, not {kind}"])
    if jobs._store.traceparent is not None:
        raise ConfigurationError(["this Jobs is traced already; call instrument once"])
    spans = _Spans(jobs, tracer_provider)
    jobs._store.creating = spans.creating
    jobs._store.traceparent = _current_traceparent
    jobs.middleware(spans.around_attempt)


class _Spans:
    """The spans of one ``Jobs``."""

    def __init__(self, jobs: Jobs, tracer_provider: TracerProvider | None) -> None:
        self._tracer = trace.get_tracer("kumofire_core", kumofire_core.__version__, tracer_provider)
        self._queue = jobs._store.queue.url.rpartition("/")[2]

    @contextmanager
    def creating(self, new_runs: Sequence[NewRun]) -> Iterator[None]:
        """Put what creates these runs into a producer span, which their attempts' spans will have as their parent."""
        names = {new_run.job_name for new_run in new_runs}
        attributes = self._attributes("create", names.pop() if len(names) == 1 else None)
        if len(new_runs) == 1:
            # Which of its key's runs it will be is not known yet.
            attributes |= {} if new_runs[0].dedupe_mode is not None else _of_run(new_runs[0].id)
        else:
            attributes["messaging.batch.message_count"] = len(new_runs)
        with self._span(attributes, SpanKind.PRODUCER):
            yield

    def around_attempt(self, ctx: JobContext, call_next: CallNext) -> Any:
        """Put an attempt into a consumer span: the middleware that does it."""
        attributes = self._attributes("process", ctx.run.job_name) | _of_run(ctx.run.id)
        attributes |= {"kumofire.attempt": ctx.attempt}
        creator = None
        links = []
        if ctx.traceparent is not None:
            creator = _propagator.extract({"traceparent": ctx.traceparent})
            here = trace.get_current_span().get_span_context()
            links = [Link(here)] if here.is_valid else []
        with self._span(attributes, SpanKind.CONSUMER, context=creator, links=links):
            return call_next(ctx)

    def _attributes(self, operation: str, job_name: str | None) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "messaging.system": "aws_sqs",
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
            "messaging.destination.name": self._queue,
        }
        return attributes if job_name is None else attributes | {"kumofire.job.name": job_name}

    @contextmanager
    def _span(self, attributes: dict[str, Any], kind: SpanKind, **settings: Any) -> Iterator[Span]:
        name = f"{attributes['messaging.operation.name']} {attributes.get('kumofire.job.name', self._queue)}"
        # Without OpenTelemetry's own record of an exception: an error's text may quote the payload.
        with self._tracer.start_as_current_span(
            name,
            kind=kind,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
            **settings,
        ) as span:
            try:
                yield span
            except BaseException as error:
                if not _is_decided(error):
                    error = error.error if isinstance(error, StepsBroken) else error
                    span.set_status(Status(StatusCode.ERROR))
                    span.set_attribute("error.type", type_name(error))
                raise


def _is_decided(error: BaseException) -> bool:
    """Say whether this is what a handler decided about its run, and no error; also in a group of tasks."""
    leaves = [leaf for leaf in error_leaves(error) if not isinstance(leaf, asyncio.CancelledError)]
    return bool(leaves) and all(isinstance(leaf, Cancel | Snooze | Suspension) for leaf in leaves)


def _of_run(run_id: str) -> dict[str, str]:
    # The message's own id is SQS's, and a run may have several messages.
    return {"messaging.message.conversation_id": run_id, "kumofire.run.id": run_id}


def _current_traceparent() -> str | None:
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent")

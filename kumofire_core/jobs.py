"""The public API: register jobs, create runs, consume messages, read what became of a run.

Arguments are checked here, before anything is written. What happens with them is in ``consumer`` and ``transitions``.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from kumofire_core import jsontext, transitions
from kumofire_core.batch import BatchReport, run_batch
from kumofire_core.clients import Clients
from kumofire_core.config import settings_from
from kumofire_core.consumer import Consumer, ConsumeResult, Deadline
from kumofire_core.errors import ConfigurationError, InvalidArgumentError, InvalidJSONError
from kumofire_core.message import MAX_RUN_ID_LENGTH, parse_message
from kumofire_core.queue import Queue
from kumofire_core.registry import Handler, Registry, name_problem
from kumofire_core.retry import RetryPolicy, is_attempt_count
from kumofire_core.run import (
    MAX_KEY_LENGTH,
    MAX_PAYLOAD_BYTES,
    Run,
    derived_run_id,
    new_run_id,
    read_run,
)
from kumofire_core.table import Table
from kumofire_core.times import duration_ms, require_aware, to_ms, whole_seconds_until

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient
    from mypy_boto3_sqs.client import SQSClient

DEFAULT_LEASE = timedelta(seconds=30)
DEFAULT_RETENTION = timedelta(days=30)
DEFAULT_CONCURRENCY = 10
DEFAULT_WAKE_SHARDS = 8

AnyHandler = TypeVar("AnyHandler", bound=Handler)


class LambdaContext(Protocol):
    """What is used of Lambda's context object."""

    def get_remaining_time_in_millis(self) -> int: ...


def utc_now() -> datetime:
    """Return the time by this machine's clock."""
    return datetime.now(UTC)


class Jobs:
    """A job system on one DynamoDB table and one SQS queue.

    ``dynamodb`` and ``sqs`` are low-level boto3 clients; left out, they are made on first use, on one shared session
    and from the usual AWS environment. ``lease`` is how long a claim lasts where no deadline is known. ``retention`` is
    how long a finished run is kept, at least, before DynamoDB's TTL deletes it; ``None`` keeps it for ever.
    ``concurrency`` is how many records of a batch are consumed at once. ``wake_shards`` is the number of partitions of
    the wake-up index: every process must use the same, and it may be raised later. ``allow_unknown_jobs`` lets
    ``create`` take names that have no handler here. Raises ``ConfigurationError`` that names every wrong argument.
    """

    def __init__(
        self,
        *,
        table: str,
        queue_url: str,
        dynamodb: DynamoDBClient | None = None,
        sqs: SQSClient | None = None,
        handlers: Mapping[str, Handler] | None = None,
        retry: RetryPolicy | None = None,
        lease: timedelta = DEFAULT_LEASE,
        retention: timedelta | None = DEFAULT_RETENTION,
        clock: Callable[[], datetime] = utc_now,
        concurrency: int = DEFAULT_CONCURRENCY,
        wake_shards: int = DEFAULT_WAKE_SHARDS,
        allow_unknown_jobs: bool = False,
    ) -> None:
        problems = [
            f"{name} must be a non-empty string, not {value!r}"
            for name, value in (("table", table), ("queue_url", queue_url))
            if not isinstance(value, str) or not value
        ]
        problems += [
            f"{name} must be a whole number from 1 to {most}, not {value!r}"
            for name, value, most in (("concurrency", concurrency, 100), ("wake_shards", wake_shards, 1000))
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most
        ]
        if not isinstance(lease, timedelta) or duration_ms(lease) < 1:
            problems.append(f"lease must be a timedelta of at least 1 ms, not {lease!r}")
        if retention is not None and (not isinstance(retention, timedelta) or retention < timedelta(0)):
            problems.append(f"retention must be None or a timedelta that is not negative, not {retention!r}")
        if retry is not None and not isinstance(retry, RetryPolicy):
            problems.append(f"retry must be a RetryPolicy, not {type(retry).__name__}")
        if not callable(clock):
            problems.append(f"clock must be callable, not {type(clock).__name__}")
        registry = Registry(retry if isinstance(retry, RetryPolicy) else RetryPolicy())
        try:
            registry.register_all(handlers or {})
        except ConfigurationError as error:
            problems += error.problems
        if problems:
            raise ConfigurationError(problems)
        # Requests are made by the records' threads, and a few at the same time by the thread that answers Lambda.
        clients = Clients(dynamodb=dynamodb, sqs=sqs, connections=max(10, concurrency + 2))
        self._table = Table(table, clients.dynamodb)
        self._queue = Queue(queue_url, clients.sqs)
        self._registry = registry
        self._clock = clock
        self._concurrency = concurrency
        self._wake_shards = wake_shards
        self._allow_unknown_jobs = allow_unknown_jobs
        self._consumer = Consumer(
            table=self._table,
            queue=self._queue,
            registry=registry,
            lease=lease,
            retention=retention,
            clock=clock,
        )

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None, **settings: Any) -> Jobs:
        """Return a ``Jobs`` with its settings from environment variables; ``settings`` go before these.

        ``KUMOFIRE_TABLE`` and ``KUMOFIRE_QUEUE_URL`` are required. ``KUMOFIRE_CONCURRENCY``, ``KUMOFIRE_WAKE_SHARDS``,
        ``KUMOFIRE_RETENTION_DAYS`` (0: for ever), ``KUMOFIRE_LEASE_SECONDS`` and ``KUMOFIRE_MAX_ATTEMPTS`` are not.
        Raises ``ConfigurationError`` that names every variable that is missing or wrong.
        """
        found = settings_from(os.environ if environment is None else environment)
        max_attempts = found.pop("max_attempts", None)
        if max_attempts is not None:
            found["retry"] = RetryPolicy(max_attempts)
        return cls(**{**found, **settings})

    def handler(
        self,
        name: str,
        *,
        max_attempts: int | None = None,
        retry: RetryPolicy | None = None,
        timeout: timedelta | None = None,
    ) -> Callable[[AnyHandler], AnyHandler]:
        """Register the decorated function, plain or ``async``, as the handler of the job ``name``.

        ``max_attempts`` and ``retry`` override the policy of this ``Jobs``. ``timeout`` limits one attempt: when it is
        over the attempt has failed, whatever the handler still does. Raises ``ConfigurationError``.
        """

        def register(function: AnyHandler) -> AnyHandler:
            self._registry.register(name, function, max_attempts=max_attempts, retry=retry, timeout=timeout)
            return function

        return register

    def create(
        self,
        name: str,
        payload: Any = None,
        *,
        run_at: datetime | None = None,
        delay: timedelta | float | None = None,
        max_attempts: int | None = None,
        dedupe_key: str | None = None,
    ) -> str:
        """Store a run of the job ``name`` and return its id; one request to the table and one to the queue.

        It runs at once, at ``run_at`` (an aware datetime) or after ``delay`` (a timedelta, or seconds). A second call
        with the same ``dedupe_key`` makes no run and returns the first one's id, for as long as that run is kept.

        Once this returns, the run is stored and will be executed: a message that could not be sent is logged, and the
        dispatcher sends it. Before anything is written, ``UnknownJobError``, ``InvalidJSONError`` and
        ``InvalidArgumentError`` say what can't be used. Errors of the table leave as botocore raised them; the run may
        then have been stored all the same, and only a ``dedupe_key`` makes it safe to call again.
        """
        if problem := name_problem(name):
            raise InvalidArgumentError(problem)
        if not self._allow_unknown_jobs:
            self._registry.require_known(name)
        if max_attempts is not None and not is_attempt_count(max_attempts):
            raise InvalidArgumentError(f"max_attempts must be a whole number of at least 1, not {max_attempts!r}")
        if dedupe_key is not None:
            _require_key("dedupe_key", dedupe_key)
        now_ms = to_ms(self._clock())
        due_ms = _due_ms(run_at, delay, now_ms)
        text = _payload_text(payload)
        job = self._registry.get(name)
        run_id = new_run_id() if dedupe_key is None else derived_run_id("dedupe_key", dedupe_key)
        attributes = transitions.create(
            run_id,
            create_token=uuid.uuid4().hex,
            job_name=name,
            payload=text,
            max_attempts=max_attempts if max_attempts is not None or job is None else job.max_attempts,
            timeout_ms=None if job is None else job.timeout_ms,
            due_ms=due_ms,
            now_ms=now_ms,
            shards=self._wake_shards,
            dedupe_key=dedupe_key,
        )
        if self._table.put_run(run_id, attributes).applied and transitions.sent_at_once(due_ms, now_ms):
            self._queue.try_send(run_id, delay_seconds=whole_seconds_until(due_ms, now_ms))
        return run_id

    def consume(self, message: object, *, deadline: datetime | None = None) -> ConsumeResult:
        """Execute the run that a message names, if it is due and nobody else does.

        ``deadline`` is when this process ends: the attempt is cut before it, and its lease lasts longer. Without one
        the lease lasts as long as this ``Jobs``'s ``lease``, and only a job's own timeout cuts the attempt.

        A handler's failure is an outcome. Raised are ``UnsupportedMessageVersionError`` and ``MalformedMessageError``,
        ``DeadlineTooCloseError``, ``CorruptItemError``, ``NewerSchemaError``, and errors of the table as botocore
        raised them: what the runtime could not do, so the message should be delivered again.
        """
        run_id = parse_message(message)
        if deadline is None:
            return self._consumer.consume(run_id, None)
        ends = require_aware("deadline", deadline)
        return self._consumer.consume(run_id, Deadline.within((ends - self._clock()).total_seconds()))

    def consume_batch(self, event: object, context: LambdaContext | None = None) -> dict[str, list[dict[str, str]]]:
        """Consume an SQS event and return Lambda's partial batch response; never raises for what a record holds.

        Malformed records are logged and acknowledged. Only what the runtime itself could not do is reported for another
        delivery. ``context`` is Lambda's: what still runs near its deadline is cut, and put back or failed.
        """
        return self.run_batch(event, context).response()

    def run_batch(self, event: object, context: LambdaContext | None = None) -> BatchReport:
        """Do what ``consume_batch`` does, and return what became of each record."""
        deadline = None if context is None else Deadline.within(context.get_remaining_time_in_millis() / 1000)
        return run_batch(
            event,
            self._consumer.consume,
            self._consumer.threads,
            deadline=deadline,
            concurrency=self._concurrency,
        )

    def get_status(self, run_id: str) -> Run | None:
        """Return a run as it is now, or ``None`` where there is none of this id.

        Raises ``CorruptItemError`` or ``NewerSchemaError`` for an item that can't be read, and errors of the table as
        botocore raised them.
        """
        if not isinstance(run_id, str) or not 1 <= len(run_id) <= MAX_RUN_ID_LENGTH:
            raise InvalidArgumentError(f"a run id must be a string of 1 to {MAX_RUN_ID_LENGTH} characters")
        attributes = self._table.get_run(run_id)
        if attributes is None:
            return None
        limit = self._registry.max_attempts(str(attributes.get("job_name")))
        return read_run(run_id, attributes, default_max_attempts=limit).run


def _due_ms(run_at: datetime | None, delay: timedelta | float | None, now_ms: int) -> int:
    if run_at is not None and delay is not None:
        raise InvalidArgumentError("give either run_at or delay, not both")
    if run_at is not None:
        return to_ms(require_aware("run_at", run_at))
    if delay is None:
        return now_ms
    if isinstance(delay, int | float) and not isinstance(delay, bool):
        try:
            delay = timedelta(seconds=delay)
        except (OverflowError, ValueError):
            raise InvalidArgumentError(f"delay of {delay!r} seconds is out of range") from None
    if not isinstance(delay, timedelta):
        raise InvalidArgumentError(f"delay must be a timedelta or a number of seconds, not {type(delay).__name__}")
    if delay < timedelta(0):
        raise InvalidArgumentError(f"delay must not be negative, not {delay!r}")
    return now_ms + duration_ms(delay)


def _payload_text(payload: object) -> str:
    text = jsontext.encode("the payload", payload)
    size = len(text) if text.isascii() else len(text.encode())
    if size > MAX_PAYLOAD_BYTES:
        raise InvalidJSONError(
            f"the payload has {size} bytes of JSON; a run has room for {MAX_PAYLOAD_BYTES} (DynamoDB's item limit is "
            "400 KB); store it elsewhere, in S3 for example, and pass a reference"
        )
    return text


def _require_key(name: str, key: object) -> None:
    if not isinstance(key, str):
        raise InvalidArgumentError(f"{name} must be a string, not {type(key).__name__}")
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise InvalidArgumentError(f"{name} must have 1 to {MAX_KEY_LENGTH} characters, not {len(key)}")
    if any("\ud800" <= character <= "\udfff" for character in key):
        raise InvalidArgumentError(f"{name} holds half a surrogate pair, which UTF-8 has no form for")

"""The public API: register jobs, create runs, consume messages, read what became of a run.

Arguments are checked here, before anything is written. What happens with them is in ``consumer`` and ``run_writes``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from functools import cached_property
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from kumofire_core.aws.clients import Clients
from kumofire_core.aws.dynamodb import Table
from kumofire_core.aws.sqs import Queue
from kumofire_core.config import (
    DEFAULT_CONCURRENCY,
    DEFAULT_LEASE,
    DEFAULT_RETENTION,
    DEFAULT_WAKE_SHARDS,
    argument_problems,
    settings_from,
)
from kumofire_core.engine.consumer import Consumer, ConsumeResult
from kumofire_core.engine.progress import ProgressTeller
from kumofire_core.engine.run_store import RunStore
from kumofire_core.engine.sqs_batch import SqsBatchReport, run_batch
from kumofire_core.errors import ConfigurationError, InvalidArgumentError, short_repr
from kumofire_core.handlers.deadline import Deadline
from kumofire_core.handlers.registry import Handler, Registry
from kumofire_core.model.encrypted_text import Cipher
from kumofire_core.model.message import parse_message
from kumofire_core.model.run import Run
from kumofire_core.model.times import require_aware, utc_now
from kumofire_core.rules.retry import RetryPolicy
from kumofire_core.rules.validation import name_problem, require_id, require_reason

if TYPE_CHECKING:
    from typing import Protocol

    from mypy_boto3_dynamodb.client import DynamoDBClient
    from mypy_boto3_sqs.client import SQSClient

    from kumofire_core.engine.create import RunCreator, RunRequest
    from kumofire_core.engine.dispatcher import Dispatcher, DispatchResult
    from kumofire_core.engine.schedule_firing import ScheduleFiring
    from kumofire_core.engine.schedule_store import ScheduleStore
    from kumofire_core.engine.schedules import ScheduleChanges, SchedulePage, Schedules, ScheduleSettings
    from kumofire_core.model.schedule import Missed, Overlap, Schedule, ScheduleType

    class LambdaContext(Protocol):
        """What is used of Lambda's context object."""

        def get_remaining_time_in_millis(self) -> int: ...


AnyHandler = TypeVar("AnyHandler", bound=Handler)


class Jobs:
    """A job system on one DynamoDB table and one SQS queue.

    ``dynamodb`` and ``sqs`` are low-level boto3 clients; left out, they are made on first use, on one shared session
    and from the usual AWS environment. ``lease`` is how long a claim lasts where no deadline is known. ``retention`` is
    how long a finished run is kept, at least, before DynamoDB's TTL deletes it; ``None`` keeps it for ever.
    ``concurrency`` is how many records of a batch are consumed at once. ``wake_shards`` is the number of partitions of
    the wake-up index: the dispatcher's must be the largest of all processes', and it may be raised at any time.
    ``allow_unknown_jobs`` lets ``create`` take names that have no handler here. ``batch_writes`` lets a batch make its
    claims, and ends that come at about the same time, in one PartiQL request each (docs/protocol.md, "Writes made
    together"). ``cipher`` encrypts payloads and outputs and reads them again (``kumofire_core.encryption``); without
    it, an encrypted one reads as ``ENCRYPTED``.
    Raises ``ConfigurationError`` that names every wrong argument.
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
        batch_writes: bool = False,
        cipher: Cipher | None = None,
    ) -> None:
        problems = argument_problems(
            table=table,
            queue_url=queue_url,
            retry=retry,
            lease=lease,
            retention=retention,
            clock=clock,
            concurrency=concurrency,
            wake_shards=wake_shards,
            allow_unknown_jobs=allow_unknown_jobs,
            batch_writes=batch_writes,
            cipher=cipher,
        )
        registry = Registry(retry if isinstance(retry, RetryPolicy) else RetryPolicy())
        problems += registry.register_all(handlers)
        if problems:
            raise ConfigurationError(problems)
        # As many requests are made at once as a batch has threads, or the dispatcher chunks, and one or two beside.
        clients = Clients(dynamodb=dynamodb, sqs=sqs, connections=max(20, concurrency + 2))
        self._clients = clients
        self._registry = registry
        self._clock = clock
        self._concurrency = concurrency
        self._allow_unknown_jobs = allow_unknown_jobs
        self._store = RunStore(
            table=Table(table, clients.dynamodb),
            queue=Queue(queue_url, clients.sqs),
            registry=registry,
            retention=retention,
            wake_shards=wake_shards,
            cipher=cipher,
            clock=clock,
        )
        self._consumer = Consumer(self._store, lease=lease, batch_writes=batch_writes)
        self._progress_teller = ProgressTeller(self._store)

    # These are imported when first used: a consumer needs none of them, and would pay for them at every cold start.

    @cached_property
    def _creator(self) -> RunCreator:
        from kumofire_core.engine.create import RunCreator

        return RunCreator(store=self._store, pool=self._consumer.pool, allow_unknown_jobs=self._allow_unknown_jobs)

    @cached_property
    def _schedule_store(self) -> ScheduleStore:
        from kumofire_core.engine.schedule_store import ScheduleStore

        return ScheduleStore(self._store.table, self._store.cipher)

    @cached_property
    def _schedules(self) -> Schedules:
        from kumofire_core.engine.schedules import Schedules

        return Schedules(self._schedule_store, self._creator, self._store.now_ms)

    @cached_property
    def _firing(self) -> ScheduleFiring:
        from kumofire_core.engine.schedule_firing import ScheduleFiring

        return ScheduleFiring(self._store, self._schedule_store)

    @cached_property
    def _dispatcher(self) -> Dispatcher:
        from kumofire_core.engine.dispatcher import Dispatcher

        return Dispatcher(self._store, self._firing, self._consumer.pool)

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None, **settings: Any) -> Jobs:
        """Return a ``Jobs`` with its settings from environment variables; ``settings`` go before these.

        ``KUMOFIRE_TABLE`` and ``KUMOFIRE_QUEUE_URL`` are required. ``KUMOFIRE_CONCURRENCY``, ``KUMOFIRE_WAKE_SHARDS``,
        ``KUMOFIRE_RETENTION_DAYS`` (0: for ever), ``KUMOFIRE_LEASE_SECONDS``, ``KUMOFIRE_MAX_ATTEMPTS``,
        ``KUMOFIRE_BATCH_WRITES`` (``true`` or ``false``) and ``KUMOFIRE_PAYLOAD_KEY_ARN`` (a KMS key that payloads and
        outputs are encrypted with; it needs the extra ``encryption``) are not.
        Raises ``ConfigurationError`` that names every variable that is missing or wrong, and every argument that there
        is not.
        """
        _refuse_unknown(cls, settings)
        found = settings_from(os.environ if environment is None else environment, given=settings)
        max_attempts = found.pop("max_attempts", None)
        if max_attempts is not None:
            found["retry"] = RetryPolicy(max_attempts)
        if "cipher" in found:
            found["cipher"] = _cipher_of(found["cipher"])
        return cls(**{**found, **settings})

    def make_clients(self, *, sqs: bool = True) -> None:
        """Make the AWS clients now, where none were given: a fifth of a second that the first request need not wait.

        Not for a web server's parent process: clients are not to be shared with a process that is forked later. Errors
        of botocore leave as they are, ``NoRegionError`` where the environment names no region for example.
        """
        self._clients.dynamodb()
        if sqs:
            self._clients.sqs()

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

        if not isinstance(name, str):  # most likely the function itself: the decorator without its parentheses
            raise ConfigurationError([f"{name_problem(name)}; write @jobs.handler('a name')"])

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
        new_run = self._creator.prepare(
            name, payload, run_at=run_at, delay=delay, max_attempts=max_attempts, dedupe_key=dedupe_key
        )
        self._store.add(new_run)
        return new_run.id

    def create_many(self, requests: Iterable[RunRequest]) -> list[str]:
        """Store many runs and return their ids in order; a request to the table for each, and one to the queue for ten.

        Each request is a mapping of what ``create`` takes, ``name`` among it. All are checked before the first is
        written; the error says which one is wrong. Raises ``PartlyCreatedError`` where the table refused some: it has
        the ids of those that were stored, which will be executed.
        """
        return self._creator.create_many(requests)

    def consume(self, message: object, *, deadline: datetime | None = None) -> ConsumeResult:
        """Execute the run that a message names, if it is due and nobody else does.

        ``deadline`` is when this process ends: the attempt is cut before it, and its lease lasts longer. Without one
        the lease lasts as long as this ``Jobs``'s ``lease``, and only a job's own timeout cuts the attempt.

        A handler's failure is an outcome. Raised are ``UnsupportedMessageVersionError`` and ``MalformedMessageError``,
        ``DeadlineTooCloseError``, ``CorruptItemError``, ``NewerSchemaError``, and errors of the table as botocore
        raised them: what the runtime could not do, so the message should be delivered again.
        """
        run_id = parse_message(message)
        return self._consumer.consume(run_id, self._deadline(deadline))

    def consume_batch(self, event: object, context: LambdaContext | None = None) -> dict[str, list[dict[str, str]]]:
        """Consume an SQS event and return Lambda's partial batch response; never raises for what a record holds.

        Malformed records are logged and acknowledged. Only what the runtime itself could not do is reported for another
        delivery. ``context`` is Lambda's: what still runs near its deadline is cut, and put back or failed.
        """
        return self.run_batch(event, context).response()

    def run_batch(self, event: object, context: LambdaContext | None = None) -> SqsBatchReport:
        """Do what ``consume_batch`` does, and return what became of each record."""
        deadline = None if context is None else Deadline(context.get_remaining_time_in_millis() / 1000)
        return run_batch(
            event, self._consumer, deadline=deadline, concurrency=self._concurrency, teller=self._progress_teller
        )

    def get_status(self, run_id: str) -> Run | None:
        """Return a run as it is now, or ``None`` where there is none of this id.

        Raises ``CorruptItemError`` or ``NewerSchemaError`` for an item that can't be read, ``DecryptionError`` for one
        that the cipher can't decrypt, and errors of the table as botocore raised them.
        """
        require_id("a run id", run_id)
        found = self._store.find(run_id)
        return None if found is None else self._store.decrypted(found, required=False).run

    def cancel(self, run_id: str, reason: str | None = None) -> bool:
        """Cancel a run; return whether this call did something.

        A run that waits is ``canceled`` at once. One that is executing is asked: its handler can see it by
        ``ctx.cancel_requested()``, and when the attempt ends without success there is no other, and it is ``canceled``.
        ``False`` for a run that has ended, was asked already, or does not exist. ``reason`` is kept with the run.
        """
        require_id("a run id", run_id)
        require_reason(reason)
        from kumofire_core.engine import run_control

        return run_control.cancel(self._store, run_id, reason)

    def retry(self, run_id: str) -> bool:
        """Queue a failed or canceled run again with all its attempts; return whether this call did something.

        How it had ended stays readable in the run's ``history``. ``False`` for a run in any other status, and for none.
        """
        require_id("a run id", run_id)
        from kumofire_core.engine import run_control

        return run_control.retry(self._store, run_id)

    def dispatch(
        self,
        limit: int | None = None,
        *,
        deadline: datetime | None = None,
        partitions: Collection[int] | None = None,
        hand_over: Callable[[int], object] | None = None,
    ) -> DispatchResult:
        """Look at everything that is due: send, send again, recover, and fire schedules.

        To be called about once a minute, from anywhere; calls may overlap. It stops when nothing more is due, when
        ``limit`` wake-ups were looked at (the earliest first), or when ``deadline`` is near; what is left is found by
        the next call. A wake-up that can't be handled is logged and counted, and the others go on. Raises
        ``PartlyDispatchedError`` where a partition of the index could not be read, after handling the others; its
        ``result`` says what was done.

        One pass sends about 22,000 runs a minute on a Lambda function of 512 MB. ``partitions`` names the partitions of
        the wake-up index to look at (from 0; schedules are in -1), so that several dispatchers can share the work:
        nothing is sent twice, even where they overlap. ``hand_over`` is called with each partition of runs of which
        more than 500 are due, and starts a ``dispatch(partitions=[…])`` of its own for it elsewhere; the pass then
        leaves that partition out, unless the call raised. It has no effect together with ``limit``.
        """
        if partitions is not None and not all(type(each) is int and each >= -1 for each in partitions):
            raise InvalidArgumentError(f"partitions must be whole numbers from -1 on, not {short_repr(partitions)}")
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise InvalidArgumentError(f"limit must be a whole number of at least 1, not {short_repr(limit)}")
        return self._dispatcher.dispatch(
            limit=limit, deadline=self._deadline(deadline), partitions=partitions, hand_over=hand_over
        )

    def create_schedule(
        self,
        name: str,
        payload: Any = None,
        *,
        schedule_type: ScheduleType | str,
        schedule_expr: str | timedelta | datetime,
        schedule_key: str | None = None,
        timezone: str | None = None,
        max_attempts: int | None = None,
        enabled: bool = True,
        missed: Missed | str = "all",
        overlap: Overlap | str = "allow",
        start_at: datetime | None = None,
        end_at: datetime | None = None,
    ) -> str:
        """Store a schedule that makes runs of the job ``name``, and return its id; one request to the table.

        ``schedule_type`` is ``cron``, ``interval`` or ``once``; docs/schedules.md says what each takes as
        ``schedule_expr``, and how ``timezone`` (an IANA name; UTC without one) treats daylight saving. ``missed`` says
        what becomes of occurrences that nobody was there to dispatch: ``all`` of them run, only the ``latest``, or
        those are skipped (``skip``) that are more than a minute late. ``overlap="skip"`` starts no occurrence while the
        last one is unfinished. Occurrences lie between ``start_at`` and ``end_at``.

        Raises ``ScheduleExistsError`` where ``schedule_key`` is taken, and before anything is written
        ``InvalidScheduleError``, ``InvalidArgumentError``, ``InvalidJSONError`` and ``UnknownJobError``.
        """
        return self._schedules.create(
            name,
            payload,
            schedule_type=schedule_type,
            schedule_expr=schedule_expr,
            schedule_key=schedule_key,
            timezone=timezone,
            max_attempts=max_attempts,
            enabled=enabled,
            missed=missed,
            overlap=overlap,
            start_at=start_at,
            end_at=end_at,
        )

    def get_schedule(self, schedule_id: str) -> Schedule | None:
        """Return a schedule as it is now, or ``None``."""
        return self._schedules.get(schedule_id)

    def get_schedule_by_key(self, schedule_key: str) -> Schedule | None:
        """Return the schedule of a key as it is now, or ``None``."""
        return self._schedules.get_by_key(schedule_key)

    def update_schedule(self, schedule_id: str, **changes: Unpack[ScheduleChanges]) -> Schedule | None:
        """Change what is given, keep the rest, and return the schedule; ``None`` where there is none.

        Changed timing, or a change of ``enabled``, computes the next run time anew; disabling clears it. Occurrences of
        the next 90 seconds may have become runs already. Others' changes at the same time are not lost. Raises as
        ``create_schedule`` does, and ``ScheduleConflictError`` where others never let it through.
        """
        return self._schedules.update(schedule_id, **changes)

    def update_schedule_by_key(self, schedule_key: str, **changes: Unpack[ScheduleChanges]) -> Schedule | None:
        """Do what ``update_schedule`` does to the schedule of a key."""
        return self._schedules.update_by_key(schedule_key, **changes)

    def upsert_schedule(
        self, name: str, payload: Any = None, *, schedule_key: str, **settings: Unpack[ScheduleSettings]
    ) -> str:
        """Create the schedule of a key, or change the one there is to what is given; return its id.

        Takes what ``create_schedule`` takes. What is left out keeps its value where the schedule exists. Called with
        what the schedule is already, it changes nothing, so it can be part of every deployment.
        """
        return self._schedules.upsert(name, payload, schedule_key=schedule_key, **settings)

    def disable_schedule(self, schedule_id: str) -> Schedule | None:
        """Stop a schedule from making runs; ``update_schedule(…, enabled=True)`` starts it again."""
        return self._schedules.update(schedule_id, enabled=False)

    def disable_schedule_by_key(self, schedule_key: str) -> Schedule | None:
        """Do what ``disable_schedule`` does to the schedule of a key."""
        return self._schedules.update_by_key(schedule_key, enabled=False)

    def delete_schedule(self, schedule_id: str) -> bool:
        """Delete a schedule; return whether there was one. The runs it has made stay.

        Where the reply of the deletion was lost and it was repeated, the answer is ``False`` although this call did it.
        """
        return self._schedules.delete(schedule_id)

    def list_schedules(self, *, limit: int = 100, page: str | None = None) -> SchedulePage:
        """Return up to ``limit`` (at most 100) schedules, those that run next first, and the ``next_page``.

        Read from an index that is behind by a moment: a schedule made just now may be missing, and one whose next run
        time changes while pages are read may come twice or not at all.
        """
        return self._schedules.page(limit=limit, after=page)

    def trigger_schedule(self, schedule_id: str) -> str | None:
        """Make a run of a schedule now, enabled or not, without moving its next run time.

        Return the run's id, or ``None`` where there is no such schedule.
        """
        return self._firing.trigger(schedule_id)

    def _deadline(self, ends: datetime | None) -> Deadline | None:
        if ends is None:
            return None
        return Deadline((require_aware("deadline", ends) - self._clock()).total_seconds())


def _refuse_unknown(kind: type[Jobs], settings: Mapping[str, object]) -> None:
    known = signature(kind).parameters if settings else {}
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in known.values()):
        return  # a subclass that takes more than is known here
    problems = [f"{kind.__name__} has no argument {name!r}" for name in sorted(settings.keys() - known.keys())]
    if "max_attempts" in settings and problems:
        problems.append("for max_attempts pass retry=RetryPolicy(max_attempts=…)")
    if problems:
        raise ConfigurationError([*problems, f"it has {', '.join(known)}"])


def _cipher_of(key_arn: str) -> Cipher:
    """Return the cipher of a KMS key; its library is imported here, where there is a key."""
    try:
        from kumofire_core.encryption import EnvelopeCipher
    except ImportError as missing:
        raise ConfigurationError(
            [f"KUMOFIRE_PAYLOAD_KEY_ARN is set, and {missing} (in Lambda: ENCRYPTION=true sam build)"]
        ) from missing
    return EnvelopeCipher.for_kms_key(key_arn)

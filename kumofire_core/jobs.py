"""The public API: register jobs, create runs, consume messages, read the status of a run.

Every public call checks its arguments before it writes. Types that a consumer does not need at its start are annotated
as ``public.…``: the package imports them when somebody resolves the annotation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack

import kumofire_core as public
from kumofire_core.aws.clients import Clients
from kumofire_core.aws.dynamodb import Table
from kumofire_core.aws.sqs import Queue
from kumofire_core.config import (
    DEFAULT_CONCURRENCY,
    DEFAULT_LARGE_FROM,
    DEFAULT_LEASE,
    DEFAULT_RETENTION,
    DEFAULT_WAKE_SHARDS,
    argument_problems,
    default_creator,
    settings_from,
)
from kumofire_core.engine.consumer import Consumer, ConsumeResult
from kumofire_core.engine.counts import CountTeller
from kumofire_core.engine.progress import ProgressTeller
from kumofire_core.engine.run_store import RunStore
from kumofire_core.engine.sqs_batch import SqsBatchReport, run_batch
from kumofire_core.errors import ConfigurationError, InvalidArgumentError, LargeValueError, short_repr
from kumofire_core.handlers.deadline import Deadline, LambdaContext
from kumofire_core.handlers.job_function import HandlerDecorator, JobFunction, plain_function
from kumofire_core.handlers.registry import ErrorTypes, Handler, Registry
from kumofire_core.model.encrypted_text import Cipher
from kumofire_core.model.message import parse_message
from kumofire_core.model.run_item import StoredRun
from kumofire_core.model.times import require_aware, to_ms, utc_now
from kumofire_core.rules.retry import RetryPolicy
from kumofire_core.rules.validation import (
    UNCHANGED,
    may_be_key,
    may_exist,
    name_problem,
    require_flag,
    require_most_bytes,
    require_reason,
    require_spread,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient
    from mypy_boto3_sqs.client import SQSClient

    from kumofire_core.engine.batches import Batches
    from kumofire_core.engine.bulk import BulkOperations
    from kumofire_core.engine.create import RunCreator
    from kumofire_core.engine.dispatcher import Dispatcher
    from kumofire_core.engine.queries import RunQueries
    from kumofire_core.engine.schedule_firing import ScheduleFiring
    from kumofire_core.engine.schedule_store import ScheduleStore
    from kumofire_core.engine.schedules import Schedules
else:  # so that annotations can be resolved at run time, where the stubs need not be installed
    DynamoDBClient = SQSClient = Any

AnyMiddleware = TypeVar("AnyMiddleware", bound=Callable[..., Any])
AnyHook = TypeVar("AnyHook", bound=Callable[..., Any])
EventName = Literal["created", "succeeded", "retried", "failed", "canceled", "lease_lost"]


class Jobs:
    """A job system on one DynamoDB table and one SQS queue.

    ``dynamodb`` and ``sqs`` are low-level boto3 clients. If they are left out, the first use makes them, on one shared
    session and from the usual AWS settings. ``lease`` is how long a lease lasts without a known deadline, plus 5
    seconds. ``retention`` is the shortest time for which a finished run is kept before DynamoDB's TTL deletes it;
    ``None`` keeps runs for ever. ``concurrency`` is how many records of a batch are consumed at once, from 1 to 100.
    ``wake_shards`` is the number of partitions of the wake-up index that this process spreads runs over, from 1 to
    1000. Processes may differ: the table keeps the largest number, and the dispatcher reads that many.
    ``allow_unknown_jobs`` lets ``create`` take names that have no handler in this process. ``missing_handler`` decides
    about a run whose job has no handler here: the run fails (``fail``), or it waits for up to a day for a consumer that
    has one (``retry``). ``batch_writes`` claims the runs of a batch in one PartiQL request, and records attempts that
    end together in another (docs/protocol.md, "Batched writes"). ``list_succeeded`` lists succeeded runs as well, for
    one more write unit each. ``counts`` adds up what becomes of a batch's messages, for ``stats``: a write every ten
    seconds under load, and for each batch where there are few (docs/stats.md). ``cipher`` encrypts and decrypts
    payloads, outputs and the texts of errors (``kumofire_core.encryption``); without a cipher, encrypted values read as
    ``ENCRYPTED``. ``creator`` is stored as ``created_by`` with the runs that this process makes: a name of at most 128
    characters, by default that of its Lambda function, if it is one. ``bucket`` is an S3 bucket: payloads
    of ``large_from`` bytes or more as they are stored, and outputs of twice that, are kept there, up to 100 MB each
    (docs/large-payloads.md);
    ``s3`` is its client, and made when it is first needed. Raises ``ConfigurationError``, which names every
    wrong argument. Errors of AWS leave the methods as botocore raised them, with a note: which table or queue was
    asked, where, by which setting, and what to do.
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
        missing_handler: Literal["fail", "retry"] = "fail",
        list_succeeded: bool = False,
        counts: bool = True,
        cipher: Cipher | None = None,
        creator: str | None = None,
        bucket: str | None = None,
        large_from: int = DEFAULT_LARGE_FROM,
        s3: Any = None,
    ) -> None:
        settings: dict[str, Any] = {
            "table": table,
            "queue_url": queue_url,
            "dynamodb": dynamodb,
            "sqs": sqs,
            "retry": retry,
            "lease": lease,
            "retention": retention,
            "clock": clock,
            "concurrency": concurrency,
            "wake_shards": wake_shards,
            "allow_unknown_jobs": allow_unknown_jobs,
            "batch_writes": batch_writes,
            "missing_handler": missing_handler,
            "list_succeeded": list_succeeded,
            "counts": counts,
            "cipher": cipher,
            "creator": creator,
            "bucket": bucket,
            "large_from": large_from,
            "s3": s3,
        }
        problems = argument_problems(**settings)
        registry = Registry(retry if isinstance(retry, RetryPolicy) else RetryPolicy())
        problems += registry.register_all(handlers)
        if problems:
            raise ConfigurationError(problems)
        # One connection for each thread of a batch, or each chunk of the dispatcher, and one or two more.
        clients = Clients(dynamodb=dynamodb, sqs=sqs, s3=s3, connections=max(20, concurrency + 2))
        self._settings = settings
        self._clients = clients
        self._registry = registry
        self._clock = clock
        self._concurrency = concurrency
        self._allow_unknown_jobs = allow_unknown_jobs
        self._store = RunStore(
            table=Table(table, clients.dynamodb),
            queue=Queue(queue_url, clients.sqs, clients.receiver),
            registry=registry,
            retention=retention,
            wake_shards=wake_shards,
            cipher=cipher,
            clock=clock,
            list_succeeded=list_succeeded,
            creator=default_creator() if creator is None else creator,
            bucket=bucket,
            large_from=large_from,
            clients=clients,
        )
        self._store.allow_unknown_jobs = allow_unknown_jobs
        self._consumer = Consumer(self._store, lease=lease, batch_writes=batch_writes, missing_handler=missing_handler)
        self._progress_teller = ProgressTeller(self._store)
        self._count_teller = CountTeller(self._store) if counts else None

    def _state_with(self, **settings: Any) -> dict[str, Any]:
        """Return the state of a ``Jobs`` with the same handlers, middleware and hooks, and with these settings.

        Nothing that this process has found out is in it. ``kumofire_core.testing`` puts it in this one's place.
        """
        other = object.__new__(Jobs)
        Jobs.__init__(other, **{**self._settings, **settings})
        other._registry = other._store.registry = self._registry
        other._store.creating, other._store.traceparent = self._store.creating, self._store.traceparent
        other._store.hooks = None if self._store.hooks is None else self._store.hooks.anew()
        return other.__dict__

    @property
    def table_name(self) -> str:
        """The name of the table, as it was given."""
        return self._store.table.name

    @property
    def queue_url(self) -> str:
        """The URL of the queue, as it was given."""
        return self._store.queue.url

    @property
    def bucket(self) -> str | None:
        """The name of the bucket of large payloads, as it was given."""
        return self._store.bucket

    @property
    def sqs_client(self) -> SQSClient:
        """The SQS client that was given, or that this process has made."""
        return self._clients.sqs()

    # These are imported on first use: a consumer does not need them, and every cold start would pay for the imports.

    @property
    def aio(self) -> public.AsyncJobs:
        """The calls that make requests, to be awaited: ``await jobs.aio.create("email", payload)`` (docs/async.md)."""
        from kumofire_core.async_jobs import AsyncJobs

        # Whoever asks at once must get the same one, which counts the calls under way.
        found: AsyncJobs = self.__dict__.get("_aio") or self.__dict__.setdefault("_aio", AsyncJobs(self))
        return found

    @cached_property
    def _creator(self) -> RunCreator:
        from kumofire_core.engine.create import RunCreator

        return RunCreator(store=self._store, pool=self._consumer.pool, allow_unknown_jobs=self._allow_unknown_jobs)

    @cached_property
    def _queries(self) -> RunQueries:
        from kumofire_core.engine.queries import RunQueries

        return RunQueries(self._store, self._consumer.pool)

    @cached_property
    def _bulk(self) -> BulkOperations:
        from kumofire_core.engine.bulk import BulkOperations

        return BulkOperations(self._store, self._queries, self._consumer.pool)

    @cached_property
    def _batches(self) -> Batches:
        from kumofire_core.engine.batches import Batches

        return Batches(self._store, self._creator)

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
        """Return a ``Jobs`` with its settings from environment variables; arguments in ``settings`` override them.

        Required: ``KUMOFIRE_TABLE`` and ``KUMOFIRE_QUEUE_URL``. Optional: ``KUMOFIRE_CONCURRENCY``,
        ``KUMOFIRE_WAKE_SHARDS``, ``KUMOFIRE_RETENTION_DAYS`` (0: for ever), ``KUMOFIRE_LEASE_SECONDS``,
        ``KUMOFIRE_MAX_ATTEMPTS``, ``KUMOFIRE_BATCH_WRITES``, ``KUMOFIRE_LIST_SUCCEEDED`` and ``KUMOFIRE_COUNTS``
        (``true`` or ``false``), ``KUMOFIRE_MISSING_HANDLER``, ``KUMOFIRE_CREATOR``, ``KUMOFIRE_BUCKET`` and
        ``KUMOFIRE_LARGE_FROM_BYTES`` (large payloads in S3), and ``KUMOFIRE_PAYLOAD_KEY_ARN`` (the KMS key that
        encrypts payloads and outputs; needs the extra ``encryption``).
        Raises ``ConfigurationError``, which names every missing or wrong variable and every unknown argument.
        """
        _refuse_unknown(cls, settings)
        if environment is not None and not isinstance(environment, Mapping):
            raise ConfigurationError([f"environment must be a mapping of strings, not {type(environment).__name__}"])
        found = settings_from(os.environ if environment is None else environment, given=settings)
        max_attempts = found.pop("max_attempts", None)
        if max_attempts is not None:
            found["retry"] = RetryPolicy(max_attempts)
        if "cipher" in found:
            found["cipher"] = _cipher_of(found["cipher"])
        return cls(**{**found, **settings})

    def make_clients(self, *, sqs: bool = True) -> None:
        """Make the AWS clients now unless ``Jobs`` was given them: this saves the first request a fifth of a second.

        Do not call this in a web server's parent process: processes that are forked later must not share its clients.
        Raises botocore's errors unchanged, for example ``NoRegionError`` if the environment does not name a region.
        """
        if not isinstance(sqs, bool):
            raise InvalidArgumentError(f"sqs must be True or False, not {short_repr(sqs)}")
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
        retry_on: ErrorTypes | None = None,
        fail_on: ErrorTypes | None = None,
        expires_after: timedelta | None = None,
        concurrency: public.Limit | Sequence[public.Limit] | None = None,
        rate: public.Rate | None = None,
    ) -> HandlerDecorator:
        """Register the decorated function, plain or ``async``, as the handler of the job ``name``.

        ``max_attempts`` and ``retry`` override the policy of this ``Jobs``. ``timeout`` limits each attempt: when it
        ends, the attempt has failed, even if the handler goes on. ``retry_on`` and ``fail_on`` are exception types, one
        or a tuple: only after an error in ``retry_on`` there is another attempt, and never after one in ``fail_on``. A
        timeout and a lost worker are retried unless ``fail_on`` has ``AttemptTimeoutError`` or ``LeaseExpiredError``. A
        run that has not started ``expires_after`` its time is ``canceled`` instead, with that reason. ``concurrency``
        limits how many of its runs execute at the same time, and ``rate`` how many start within a time, over all
        consumers (docs/limits.md).

        What the decorator returns can be called as the function can, and creates runs: ``send_email.create(payload)``.
        A handler whose argument is a ``JobContext[Email]`` gets payloads of that type, and others are refused
        (docs/typed-jobs.md).

        Raises ``ConfigurationError`` for a wrong argument, or a name that has a handler already.
        """

        if not isinstance(name, str):  # most likely the function itself: the decorator without its parentheses
            raise ConfigurationError([f"{name_problem(name)}; write @jobs.handler('a name')"])

        def register(function: Any) -> JobFunction[Any, Any]:
            function = plain_function(function)
            self._registry.register(
                name,
                function,
                max_attempts=max_attempts,
                retry=retry,
                timeout=timeout,
                retry_on=retry_on,
                fail_on=fail_on,
                expires_after=expires_after,
                concurrency=concurrency,
                rate=rate,
            )
            return JobFunction(name, function, [self])

        return register

    def middleware(self, function: AnyMiddleware) -> AnyMiddleware:
        """Put the decorated function around the handlers of all jobs, those that are registered later too.

        ::

            @jobs.middleware
            def timed(ctx: JobContext, call_next: CallNext) -> Any:
                started = time.monotonic()
                try:
                    return call_next(ctx)
                finally:
                    ctx.logger.info("took %.3f s", time.monotonic() - started)

        The first that is registered is the outermost. A middleware sees what the handler returns and raises; it may
        return or raise something else, or not call the handler. An ``async`` one writes ``await call_next(ctx)``.
        Plain middleware runs in the attempt's thread and ``async`` middleware in the event loop of the handlers, around
        plain and ``async`` handlers alike (docs/observe.md). What it takes counts in the attempt's time. Raises
        ``ConfigurationError`` for what can't be called with a context and ``call_next``.
        """
        from kumofire_core.handlers.middleware import require_middleware

        require_middleware(function)
        self._registry.add_middleware(function)
        return function

    def on(self, *events: EventName) -> Callable[[AnyHook], AnyHook]:
        """Tell the decorated function, plain or ``async``, of these events: a ``RunEvent`` for each.

        ::

            @jobs.on("failed", "canceled")
            def report(event: RunEvent) -> None:
                post_to_slack(f"{event.job_name} {event.event}: {event.error_type} (run {event.run_id})")

        ``created``: a run was stored. ``succeeded``. ``retried``: an attempt failed or was lost, and the run waits for
        the next one. ``failed`` and ``canceled``: the run has ended so. ``lease_lost``: an attempt ended after its
        lease, and nothing of it was recorded. Whichever process made the write tells its own hooks: the consumer, the
        dispatcher, or the caller of ``create`` or ``cancel``.

        A hook is told after the write, at most once, and as well as can be: an event is lost with its process. Hooks
        run in up to four daemon threads of their own. What a hook raises is logged, one call may take 5 seconds, and
        up to 1,000 events wait; none of this reaches the run (docs/observe.md). Raises ``ConfigurationError`` for an
        unknown event, or for a function that can't be called with one argument.
        """
        from kumofire_core.engine.hooks import Hooks, require_events, require_hook

        require_events(events)

        def register(function: AnyHook) -> AnyHook:
            require_hook(function)
            if self._store.hooks is None:
                self._store.hooks = Hooks()
            self._store.hooks.add(events, function)
            return function

        return register

    def wait_for_hooks(self, timeout: timedelta = timedelta(seconds=1)) -> bool:
        """Wait until all hooks have been told all that happened, for at most ``timeout``; return whether they were.

        ``consume_batch``, ``dispatch`` and the end of the process do this by themselves, for up to a second. Call it
        in a test, or where a Lambda function of your own has created runs: Lambda freezes it when it returns.
        """
        if not isinstance(timeout, timedelta) or timeout < timedelta(0):
            raise InvalidArgumentError(f"timeout must be a timedelta and not negative, not {short_repr(timeout)}")
        return self._store.hooks is None or self._store.hooks.wait(timeout.total_seconds())

    def include(self, group: public.JobGroup) -> None:
        """Register all handlers of a ``JobGroup`` with their middleware, or none.

        Raises ``ConfigurationError``, which names every problem.
        """
        from kumofire_core.handlers.job_group import JobGroup

        if not isinstance(group, JobGroup):
            raise ConfigurationError([f"include takes a group of handlers (JobGroup), not {type(group).__name__}"])
        group.register_in(self._registry, self)

    def create(
        self,
        name: str,
        payload: Any = None,
        *,
        run_at: datetime | None = None,
        delay: timedelta | float | None = None,
        max_attempts: int | None = None,
        dedupe_key: str | None = None,
        dedupe: public.Dedupe | None = None,
        group: str | None = None,
    ) -> str:
        """Store a run of the job ``name`` and return its id; one request to the table and one to the queue.

        The first run that a process with more than 8 ``wake_shards`` stores costs one more request.

        The run is due at once, at ``run_at`` (an aware datetime) or after ``delay`` (a timedelta, or seconds). A second
        call with the same ``dedupe_key`` does not make a run: it returns the first run's id, while that run is kept,
        and does not change that run. If the first run is of another job, it raises ``DedupeKeyConflictError``.

        ``dedupe`` changes for how long that holds; ``None`` means ``"kept"``, as above. ``"unfinished"``: until the
        key's run has ended; then a call makes a new run. A timedelta: for that time since the key's run was created.
        ``"debounce"``: until the key's run has started, and each call gives it the call's payload and time. These take
        a request more, or two or three (docs/dedupe.md). The id of a key's later runs differs from the first one's;
        ``find_run`` finds the latest.

        ``group`` is the ``MessageGroupId`` of the run's messages: 1 to 128 letters, digits and punctuation. Where the
        runs of one group pile up, SQS delivers those of other groups first (docs/fairness.md). It neither limits nor
        orders them, and it has nothing to do with ``JobGroup``.

        A run that a handler creates has its run as ``parent_id``.

        Once this returns, the run is stored and will be executed. If its message could not be sent, that is logged, and
        the dispatcher sends the message. Raises ``UnknownJobError``, ``InvalidJSONError`` or ``InvalidArgumentError``
        (``InvalidPayloadError`` for a payload that does not fit its job's type) before anything is written. Raises
        botocore's errors of the table unchanged: the run may then be stored or not, so calling again is safe only with
        a ``dedupe_key``. A payload that is kept in S3 costs one request more, before that to the table; botocore's
        errors of S3 mean that nothing is stored.
        """
        return self._creator.create(
            self._creator.prepare(
                name,
                payload,
                run_at=run_at,
                delay=delay,
                max_attempts=max_attempts,
                dedupe_key=dedupe_key,
                dedupe=dedupe,
                group=group,
            )
        )

    def create_in_transaction(
        self,
        name: str,
        payload: Any = None,
        *,
        run_at: datetime | None = None,
        delay: timedelta | float | None = None,
        max_attempts: int | None = None,
        dedupe_key: str | None = None,
        dedupe: public.Dedupe | None = None,
        group: str | None = None,
    ) -> public.PendingRun:
        """Return a run that your own ``TransactWriteItems`` stores, together with your own items or not at all.

        ::

            pending = jobs.create_in_transaction("confirm", {"order": "42"})
            with pending:
                dynamodb.transact_write_items(TransactItems=[order, pending.entry])

        Nothing of the run is written before that. The end of the block sends the message; if the process dies first,
        the dispatcher sends it. After an error that leaves open whether the transaction was committed, commit again
        with the same ``pending``: it is committed once (docs/transactions.md). The arguments are those of ``create``,
        and times count from this call. A ``dedupe_key`` that has a run cancels the transaction, and the block raises
        ``DedupeKeyTakenError``, or ``DedupeKeyConflictError`` for another job's run. ``dedupe`` can only be ``"kept"``.

        Raises ``UnknownJobError``, ``InvalidJSONError`` or ``InvalidArgumentError``. The first run of a process with
        more than 8 ``wake_shards`` costs a request, whose errors leave this method as botocore raised them.
        """
        from kumofire_core.engine.transactions import pending_run

        return pending_run(
            self._store,
            self._creator.prepare(
                name,
                payload,
                run_at=run_at,
                delay=delay,
                max_attempts=max_attempts,
                dedupe_key=dedupe_key,
                dedupe=dedupe,
                group=group,
            ),
        )

    def create_many(self, requests: Iterable[public.RunRequest]) -> list[str]:
        """Store many runs and return their ids in order; one request to the table for each, one to the queue for ten.

        Each request is a mapping of ``create``'s arguments, including ``name``. All requests are checked before the
        first is written: ``create``'s errors for wrong arguments say which request is wrong. Raises
        ``PartlyCreatedError`` if some runs could not be stored: the table refused them, or their ``dedupe_key`` belongs
        to another job's run (``DedupeKeyConflictError``). It has the ids of the others, which will be executed.
        """
        return self._creator.create_many(requests)

    def create_batch(
        self,
        requests: Iterable[public.RunRequest],
        *,
        then: str | public.RunRequest | None = None,
        payload: Any = None,
        then_if: public.ThenIf = "ended",
        key: str | None = None,
    ) -> str:
        """Store runs that belong together, and a run that follows when all have ended; return the batch's id.

        ``requests`` are those of ``create_many``, from 0 to 1,000,000, without a ``dedupe_key``. ``then`` is the
        callback: its job's name, with ``payload``, or a mapping of ``name``, ``payload``, ``max_attempts``, ``group``
        and ``delay``. Its run is created exactly once, when all members have succeeded, failed or been canceled; with
        ``then_if="succeeded"`` it is put as ``canceled`` unless all have succeeded. Its handler reads the members by
        ``ctx.batch``. A batch without members is done at once.

        With a ``key`` the call can be repeated: it goes on where an earlier one stopped, and returns the same id.
        Raises ``BatchConflictError`` if the key's batch has another number of members or another callback. All
        requests are checked before anything is written, with ``create``'s errors. Raises ``BatchIncompleteError`` if
        members could not be stored, and ``BatchCanceledError`` if the batch was canceled meanwhile. docs/batches.md
        says what a batch costs: a request more for each member, and three for the batch.
        """
        return self._batches.create(requests, then=then, payload=payload, then_if=then_if, key=key)

    def create_chain(self, requests: Iterable[public.RunRequest], *, key: str | None = None) -> list[str]:
        """Store runs of which each starts when the one before has succeeded; return their ids in order.

        There may be 100. A later one is created when it is its turn, so ``get_status`` does not know it before. It may
        have a ``delay``, which counts from the end of the one before, and no ``run_at``. If one fails or is canceled,
        those after it are put as ``canceled``. The handler finds the run before as ``ctx.batch.previous``, with its
        output. ``key`` and errors are as for ``create_batch``.
        """
        return self._batches.create_chain(requests, key=key)

    def get_batch(self, batch_id: str) -> public.Batch | None:
        """Return a batch as it is now, its members counted, or ``None``; two reads for up to 100 members."""
        return self._batches.get(batch_id)

    def batch_members(self, batch_id: str, *, status: public.MemberStatus | None = None) -> Iterator[public.Run]:
        """Yield the members of a batch in their order, with payloads and outputs; nothing for an unknown id.

        ``status`` chooses those that are counted as ``succeeded``, ``failed`` or ``canceled``, or as ``pending``, which
        have not ended. They are read 25 at a time, as they are then. Members that are not kept any more are left out.
        """
        return self._batches.members(batch_id, status)

    def list_batches(self, *, limit: int = 100, page: str | None = None) -> public.BatchPage:
        """Return up to ``limit`` (at most 100) batches, the newest first, and the ``next_page``; eight index queries.

        A batch that is not done shows the counts of the dispatcher's latest look (``as_of``); ``get_batch`` counts.
        """
        return self._batches.page(limit=limit, page=page)

    def cancel_batch(self, batch_id: str, reason: str | None = None) -> bool:
        """Cancel all members of a batch that have not ended; return ``False`` if it is done, or unknown.

        Each is canceled as by ``cancel``. What an interrupted call has left, the dispatcher cancels, or another call.
        When all have ended, the callback follows as its ``then_if`` says.
        """
        return self._batches.cancel(batch_id, reason)

    def consume(self, message: object, *, deadline: datetime | None = None) -> ConsumeResult:
        """Execute the run that a message names, if it is due and no other consumer holds its lease.

        A run of a paused job is ignored with the reason ``paused``: it was put aside until the job is resumed.
        A message that comes before its run is due is ignored; the result's ``early_seconds`` says how early it is.

        ``deadline`` (an aware datetime) is when this process ends. The attempt times out before it, and the lease ends
        after it. Without a deadline the lease lasts for ``lease`` plus 5 seconds, and only a job's own timeout limits
        the attempt.

        A handler's failure is an outcome, not an error. ``UnsupportedMessageVersionError`` and
        ``MalformedMessageError`` mean that this release can never consume the message. The other errors mean that the
        message should be delivered again: ``DeadlineTooCloseError``, ``CorruptItemError``, ``NewerSchemaError``,
        ``DecryptionError``, and botocore's errors of the table, unchanged.
        """
        run_id = parse_message(message)
        return self._consumer.consume(run_id, self._deadline(deadline))

    def consume_batch(self, event: object, context: LambdaContext | None = None) -> dict[str, list[dict[str, str]]]:
        """Consume an SQS event and return Lambda's partial batch response; a record's content never makes it raise.

        Malformed records are logged and acknowledged. Returned for another delivery are records at which the runtime
        itself failed, and messages that came up to five minutes before their run is due. SQS is asked to deliver each
        again when that makes sense (docs/protocol.md, "When a record comes again"). With ``context``, Lambda's context
        object, attempts that run until shortly before the function's deadline time out, and their runs are rescheduled
        or failed. The response:
        https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html
        """
        return self.run_batch(event, context).response()

    def run_batch(self, event: object, context: LambdaContext | None = None) -> SqsBatchReport:
        """Do what ``consume_batch`` does, and return the result of each record."""
        if context is not None and not callable(getattr(context, "get_remaining_time_in_millis", None)):
            raise InvalidArgumentError(f"context must be Lambda's context object or None, not {short_repr(context)}")
        deadline = None if context is None else Deadline.of_invocation(context)
        return run_batch(
            event,
            self._consumer,
            deadline=deadline,
            concurrency=self._concurrency,
            teller=self._progress_teller,
            counts=self._count_teller,
        )

    def get_status(self, run_id: str, *, payloads: bool = True, most_bytes: int | None = None) -> public.Run | None:
        """Return a run as it is now, or ``None`` for an unknown id.

        With ``payloads=False`` payload and output are neither fetched nor decrypted: they are ``NOT_READ``. The read
        takes as many read units, because DynamoDB counts the whole item, but less time where they are large. A payload
        or an output that is kept in S3 is loaded, unless it has more than ``most_bytes``: then it is a ``LargeValue``,
        as it is in a process without the bucket.

        Raises ``CorruptItemError`` or ``NewerSchemaError`` for an item that can't be read, ``DecryptionError`` for a
        payload or an output that the cipher can't decrypt, ``LargeValueError`` for one that is lost in S3, and
        botocore's errors of the table and of S3 unchanged.
        """
        require_flag("payloads", payloads)
        require_most_bytes(most_bytes)
        if not may_exist("a run id", run_id):
            return None
        found = self._store.find(run_id) if payloads else self._queries.find_without_payload(run_id)
        return None if found is None else self._readable(found, most_bytes)

    def find_run(self, *, dedupe_key: str) -> public.Run | None:
        """Return the latest run that has this ``dedupe_key`` as it is now, or ``None``; raises as ``get_status`` does.

        One request to the table; two where the key has made several runs.
        """
        found = self._queries.find_by_key(dedupe_key) if may_be_key("dedupe_key", dedupe_key) else None
        return None if found is None else self._readable(found)

    def _readable(self, found: StoredRun, most_bytes: int | None = None) -> public.Run | None:
        try:
            readable = self._store.decrypted(found, required=False, most_bytes=most_bytes)
        except LargeValueError:
            # Another may have replaced the payload, or deleted the run, and with it the object, since this was read.
            now = self._store.find(found.id)
            if now is not None and (now.payload_text, now.output_text) == (found.payload_text, found.output_text):
                raise
            return None if now is None else self._readable(now, most_bytes)
        return self._store.with_texts(readable).run

    def get_many(self, run_ids: Iterable[str]) -> dict[str, public.Run]:
        """Return up to 100 runs as they are now, by id, without payloads and outputs (``NOT_READ``).

        What does not exist is left out; so is an item that can't be read, which is logged. One request, and a
        consistent read of each run. Raises ``InvalidArgumentError`` for more ids, and botocore's errors of the table
        unchanged.
        """
        return self._queries.get_many(run_ids)

    def list_runs(
        self,
        *,
        status: public.RunStatus | str | None = None,
        job_name: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        error_type: str | None = None,
        text: str | None = None,
        limit: int = 100,
        page: str | None = None,
        payloads: bool = False,
    ) -> public.RunPage:
        """Return up to ``limit`` (at most 100) runs, newest first, and the ``next_page``.

        Listed are failed and canceled runs, by when they ended, and unfinished ones, by when the dispatcher looks at
        them next, which is about when they are due. Succeeded runs are listed only where their consumers have
        ``list_succeeded``, from then on; ``status=None`` lists all of these. ``since`` and ``until`` (aware datetimes,
        inclusive) bound the time at which a run ended, or at which an unfinished one is due. ``error_type`` is the
        name of the latest error's type, such as ``"ValueError"``. ``text`` is a part of the run's id or of its
        ``dedupe_key``, of at most 1024 characters; case matters. Without ``payloads``, payload and output are
        ``NOT_READ``. With them, those that are kept in S3 are loaded, one request each.

        A page costs 8 index queries for each status asked for (an unfinished one: one for each partition) and a
        consistent read of each run that it returns; what it costs does not depend on the table's size. ``job_name`` and
        ``error_type`` also cost a read unit for about 50 failed or canceled runs that do not fit. For unfinished runs,
        and for any with ``text``, each one that does not fit is read as well. One call looks at 5,000 entries and reads
        500 runs at most, so a page may have few runs, or none, and a ``next_page``. The indexes are eventually
        consistent: a run that changed a moment ago may be missing. Each run that is returned is read as it is now, and
        fits the filter. A run that changes while pages are read may appear twice or not at all. Runs that failed or
        were canceled by a release without the index are not listed. Raises ``InvalidArgumentError`` for a wrong
        argument.
        """
        from kumofire_core.engine.queries import run_filter

        wanted = run_filter(
            status=status, job_name=job_name, since=since, until=until, error_type=error_type, text=text
        )
        return self._queries.list_runs(wanted, limit=limit, page=page, payloads=payloads)

    def stats(self, *, minutes: int = 5, fresh: bool = False) -> public.Stats:
        """Return what the system holds and does: runs by status and job, what waits, the last ``minutes`` (1 to 60).

        An answer is shared: by all threads of this process, and through the table by other processes, for 5 seconds
        (``Stats.as_of`` says of when it is). ``fresh=True`` reads everything anew. So it may be asked every few seconds
        by several people. The price of one answer has a limit, whatever the table holds: it counts 10,000 runs of each
        status that has ended, 20,000 unfinished ones, and reads the items of 1,000 of these for their status and job.
        Where there is more, the counts say so (``complete``). docs/stats.md has the price in read units.

        The minutes are what consumers counted at the end of batches; messages given to ``consume`` one by one are not
        counted. Runs that ended in a release without the listing index are not counted either. Raises
        ``InvalidArgumentError``, and botocore's errors of the table unchanged; what the queues hold is ``None`` where
        this process may not ask them.
        """
        from kumofire_core.engine.stats import StatsReader

        # Whoever asks at once must ask the same reader, which a cached property does not promise.
        reader: StatsReader = self.__dict__.setdefault("_stats_reader", StatsReader(self._store, self._consumer.pool))
        return reader.stats(minutes=minutes, fresh=fresh)

    def cancel(self, run_id: str, reason: str | None = None) -> bool:
        """Cancel a run; return whether this call changed it.

        A waiting run is ``canceled`` at once. For a running run, the request is stored: its handler sees it by
        ``ctx.cancel_requested()``, and if the attempt ends without success, the run is ``canceled`` and not retried.
        Returns ``False`` if the run has ended, does not exist, or has such a request already. ``reason``, of at most
        1000 characters and 3 KB in UTF-8, is stored with the run.
        """
        require_reason(reason)
        exists = may_exist("a run id", run_id)
        from kumofire_core.engine import run_control

        return exists and run_control.cancel(self._store, run_id, reason)

    def cancel_tree(self, run_id: str, reason: str | None = None) -> int:
        """Do what ``cancel`` does to a run and to all runs that descend from it; return how many this call changed.

        Descendants are those that handlers created by ``ctx.create_child`` and ``ctx.create_children``
        (docs/children.md), also where the run between has ended. A handler that is executing may create further
        children until it ends; another call cancels these.
        """
        require_reason(reason)
        exists = may_exist("a run id", run_id)
        from kumofire_core.engine import children

        return children.cancel_tree(self._store, self._consumer.pool, run_id, reason) if exists else 0

    def run_now(self, run_id: str) -> bool:
        """Let a run that is ``scheduled`` start now; return whether this call changed it.

        That is a run that waits for its time or for its next attempt. Returns ``False`` for any other status.
        """
        exists = may_exist("a run id", run_id)
        from kumofire_core.engine import run_control

        return exists and run_control.move(self._store, run_id, due_ms=None)

    def reschedule(self, run_id: str, run_at: datetime) -> bool:
        """Let a run that waits start at ``run_at`` (an aware datetime); return whether this call changed it.

        A time in the past means now. Returns ``False`` for a run that executes or has ended, and for an unknown id.
        """
        due_ms = to_ms(require_aware("run_at", run_at))
        exists = may_exist("a run id", run_id)
        from kumofire_core.engine import run_control

        return exists and run_control.move(self._store, run_id, due_ms=due_ms)

    def update(self, run_id: str, *, payload: Any) -> bool:
        """Replace the payload of a run that waits; return whether this call changed it.

        A run that waits for another attempt makes it with the new payload. Returns ``False`` for a run that executes or
        has ended, and for an unknown id. Raises ``InvalidJSONError`` or ``InvalidPayloadError`` before anything is
        written.
        """
        text = self._registry.untyped_text(payload, self._store.most_payload_bytes)
        exists = may_exist("a run id", run_id)
        from kumofire_core.engine import run_control

        return exists and run_control.change_payload(self._store, run_id, payload=text)

    def delete(self, run_id: str) -> bool:
        """Delete a run that has ended; return whether it is gone by this call. Its ``dedupe_key`` is free again.

        Returns ``False`` for an unfinished run and for an unknown id.
        """
        exists = may_exist("a run id", run_id)
        from kumofire_core.engine import run_control

        return exists and run_control.delete(self._store, run_id)

    def signal(self, run_id: str, name: str, payload: Any = None) -> bool:
        """Give a run the signal that its handler waits for, or will (``ctx.wait_for``): any JSON value.

        Return ``True`` if it is this payload that the run gets. ``False``: it has a signal of this name already, or the
        wait for it had timed out, or the run has ended or does not exist. The signal may come before the run waits, and
        before it has started. After an error of the table, call again. Raises ``InvalidArgumentError`` for a wrong
        name, and ``InvalidJSONError`` for a payload that is not JSON or too large, before anything is written.
        """
        from kumofire_core.engine import signals

        text = signals.require_signal(name, payload)
        return may_exist("a run id", run_id) and signals.signal(self._store, run_id, name, text)

    def steps(self, run_id: str, *, results: bool = True) -> tuple[public.Step, ...]:
        """Return the kept steps, sleeps and waits of a run in the order of its handler's calls, and its other signals.

        Two requests, and one more for each MB of results. With ``results=False`` these are neither fetched nor
        decrypted: they are ``NOT_READ``. Empty for an unknown id. A result that this process can't
        decrypt for want of a cipher is ``ENCRYPTED``; another failure of decrypting raises ``DecryptionError``.
        """
        from kumofire_core.engine import signals

        require_flag("results", results)
        return signals.steps(self._store, run_id, results=results) if may_exist("a run id", run_id) else ()

    def retry(self, run_id: str, *, run_at: datetime | None = None, from_start: bool = False) -> bool:
        """Queue a failed or canceled run again with all its attempts; return whether this call changed it.

        With ``run_at`` (an aware datetime) it waits as ``scheduled`` until then; a time in the past means now.
        Its kept steps stay, and it goes on behind them; ``from_start`` forgets them and its signals (docs/steps.md).
        The run's ``history`` keeps how it had ended (the last ten times, in at most 4 KB). Returns ``False`` for any
        other status and for an unknown id. Raises ``SupersededRunError`` for a run that was created with
        ``dedupe="unfinished"`` and is not the latest of its key, and ``InvalidPayloadError`` for a payload that its
        handler here would refuse.
        """
        require_flag("from_start", from_start)
        at_ms = None if run_at is None else to_ms(require_aware("run_at", run_at))
        exists = may_exist("a run id", run_id)
        from kumofire_core.engine import run_control

        return exists and run_control.retry(self._store, run_id, at_ms=at_ms, from_start=from_start)

    def cancel_many(
        self,
        *,
        reason: str | None = None,
        status: public.RunStatus | str | None = None,
        job_name: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        error_type: str | None = None,
        text: str | None = None,
        run_ids: Iterable[str] | None = None,
        dry_run: bool = False,
        on_progress: Callable[[public.BulkOperation], object] | None = None,
    ) -> public.BulkOperation:
        """Do what ``cancel`` does to all unfinished runs that fit the filter; see ``retry_many``.

        ``since`` and ``until`` bound the time for which a run is. Runs that are created after this call began are not
        canceled. The unfinished runs are gone through until a pass finds nothing more to cancel, five times at most.
        """
        require_reason(reason)
        return self._bulk.start(
            "cancel",
            reason=reason,
            status=status,
            job_name=job_name,
            since=since,
            until=until,
            error_type=error_type,
            text=text,
            run_ids=run_ids,
            dry_run=dry_run,
            on_progress=on_progress,
        )

    def retry_many(
        self,
        *,
        spread: timedelta | None = None,
        status: public.RunStatus | str | None = None,
        job_name: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        error_type: str | None = None,
        text: str | None = None,
        run_ids: Iterable[str] | None = None,
        dry_run: bool = False,
        on_progress: Callable[[public.BulkOperation], object] | None = None,
    ) -> public.BulkOperation:
        """Do what ``retry`` does to all failed and canceled runs that fit the filter, each once; return when done.

        The filter is that of ``list_runs``, or up to 1,000 ``run_ids``. An empty filter raises
        ``InvalidArgumentError``. Runs that end after this call began are not retried. ``spread`` spreads the retries
        evenly over a time, counted for each from when it is retried. ``dry_run`` changes nothing and counts the runs,
        up to 10,000.

        ``on_progress`` is called with the ``BulkOperation`` at the start and after each page of up to 100 runs. The
        operation is stored, and has an id: ``resume_bulk`` goes on with it where this process was interrupted,
        ``abort_bulk`` stops it. An error of one run does not stop the others. Raises botocore's errors of the table
        where no run of a page can be changed, after repeating throttled requests for 20 seconds; a note says the id.

        A page costs what a page of ``list_runs`` costs, and two or three write units for the operation itself; each run
        costs what ``retry`` costs, a tenth of a request to the queue instead of one. docs/bulk.md has the prices.
        """
        return self._bulk.start(
            "retry",
            spread_ms=0 if spread is None else require_spread(spread),
            status=status,
            job_name=job_name,
            since=since,
            until=until,
            error_type=error_type,
            text=text,
            run_ids=run_ids,
            dry_run=dry_run,
            on_progress=on_progress,
        )

    def delete_many(
        self,
        *,
        free_dedupe_keys: bool = False,
        status: public.RunStatus | str | None = None,
        job_name: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        error_type: str | None = None,
        text: str | None = None,
        run_ids: Iterable[str] | None = None,
        dry_run: bool = False,
        on_progress: Callable[[public.BulkOperation], object] | None = None,
    ) -> public.BulkOperation:
        """Do what ``delete`` does to all runs that have ended and fit the filter; see ``retry_many``.

        Of the succeeded runs, those that ``list_runs`` lists. A run with a ``dedupe_key`` is skipped, because its key
        could then make a second run, unless you pass ``free_dedupe_keys=True``.
        """
        return self._bulk.start(
            "delete",
            free_dedupe_keys=free_dedupe_keys,
            status=status,
            job_name=job_name,
            since=since,
            until=until,
            error_type=error_type,
            text=text,
            run_ids=run_ids,
            dry_run=dry_run,
            on_progress=on_progress,
        )

    def get_bulk(self, bulk_id: str) -> public.BulkOperation | None:
        """Return an operation over many runs as far as it has come, or ``None``; it is kept for a week."""
        return self._bulk.get(bulk_id)

    def resume_bulk(
        self, bulk_id: str, *, on_progress: Callable[[public.BulkOperation], object] | None = None
    ) -> public.BulkOperation | None:
        """Go on with an operation over many runs that was interrupted, to its end; ``None`` for an unknown id.

        It is done again from the page that was interrupted, and each run is changed once in all. The counts lack what
        the interrupted process had changed of that page. Where another process still works on the operation, one of the
        two stops and returns how far it has come. One that is done or aborted is returned as it is.
        """
        return self._bulk.resume(bulk_id, on_progress)

    def abort_bulk(self, bulk_id: str) -> bool:
        """Let an operation over many runs stop after the page that is under way; return whether this call did so.

        What it has changed stays so. Returns ``False`` for one that is done or aborted, and for an unknown id.
        """
        return self._bulk.abort(bulk_id)

    def pause(self, job_name: str | None = None, *, reason: str | None = None, until: datetime | None = None) -> None:
        """Let nothing of a job start on any consumer, or of all jobs without ``job_name``, until it is resumed.

        It holds within a minute, everywhere. Attempts that are executing go on. The job's runs wait as ``scheduled``,
        keep their times and attempts, and have ``paused`` as soon as a consumer has put them aside. Runs can be
        created, and schedules make theirs. ``until`` (an aware datetime) resumes it by itself. ``reason``, of at most
        1000 characters and 3 KB, is for people. A second call replaces the reason and ``until`` of the first.

        Raises ``UnknownJobError`` as ``create`` does, and ``InvalidArgumentError`` for another wrong argument, for an
        ``until`` that is over, and where all pauses would take more than 64 KB together. Raises botocore's errors of
        the table unchanged; calling again is safe.
        """
        from kumofire_core.engine import pauses

        must_be_known = not self._allow_unknown_jobs
        pauses.pause(self._store, job_name, reason=reason, until=until, must_be_known=must_be_known)

    def resume(self, job_name: str | None = None) -> bool:
        """End the pause of a job, or without ``job_name`` the pause of all jobs; return whether there was one.

        The dispatcher sends the runs that were put aside, in the order of their times. The next pass begins, and
        further ones go on where they are many. Each pause is ended by itself: where all jobs are paused, a job that was
        resumed waits on, and a job that was paused by its name waits on when all are resumed.
        """
        from kumofire_core.engine import pauses

        return pauses.resume(self._store, job_name)

    def pauses(self) -> tuple[public.Pause, ...]:
        """Return the pauses that hold now, in one request: the pause of all jobs first, then by name."""
        from kumofire_core.engine import pauses

        return pauses.pauses(self._store)

    def get_limit(self, job_name: str, *, key: str | int | None = None, name: str | None = None) -> public.LimitUse:
        """Return who has the slots of a job's limit and who waits for one, and until when its rate is reserved.

        ``key`` is what the limit's key returns, where it has one, and ``name`` the limit's name. Which jobs have limits
        is not stored: for a limit that no run has needed there are no slots.
        """
        from kumofire_core.engine.limit_views import limit_use
        from kumofire_core.rules.validation import require_job_name

        require_job_name(job_name)
        if name is not None and (not isinstance(name, str) or not name):
            raise InvalidArgumentError(f"name must be the name of a limit, or None, not {short_repr(name)}")
        return limit_use(self._store, job_name, key=key, name=name)

    def dispatch(
        self,
        limit: int | None = None,
        *,
        deadline: datetime | None = None,
        partitions: Collection[int] | None = None,
        hand_over: Callable[[int], object] | None = None,
    ) -> public.DispatchResult:
        """Handle every wake-up that is due: send messages, send lost ones again, recover runs, and fire schedules.

        Call this about once a minute, from any process; calls may overlap. It returns when nothing more is due, when it
        has handled ``limit`` wake-ups (the earliest first), or when ``deadline`` (an aware datetime) is near. The next
        call handles the rest. If a wake-up can't be handled, that is logged and counted, and the others are handled.
        Raises ``PartlyDispatchedError`` if a partition of the index could not be read, after handling the others; its
        ``result`` says what was done.

        One pass sends about 22,000 runs a minute on a Lambda function of 512 MB. ``partitions`` names the partitions of
        the wake-up index to look at (from 0; schedules are in -1), so that several dispatchers can share the work:
        nothing is sent twice, even where they overlap. ``hand_over`` is called with each partition of runs of which
        more than 500 are due, and starts a ``dispatch(partitions=[…])`` of its own for it elsewhere; the pass then
        leaves that partition out, unless the call raised. It has no effect together with ``limit``.
        """
        if partitions is not None and not (
            isinstance(partitions, Collection) and all(type(each) is int and each >= -1 for each in partitions)
        ):
            raise InvalidArgumentError(f"partitions must be whole numbers from -1 on, not {short_repr(partitions)}")
        if hand_over is not None and not callable(hand_over):
            raise InvalidArgumentError(f"hand_over must be callable, not {type(hand_over).__name__}")
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise InvalidArgumentError(f"limit must be a whole number of at least 1, not {short_repr(limit)}")
        return self._dispatcher.dispatch(
            limit=limit, deadline=self._deadline(deadline), partitions=partitions, hand_over=hand_over
        )

    def clean_bucket(self, records: Iterable[object]) -> public.CleaningResult:
        """Delete the objects of runs that are gone, as these records of the table's stream tell.

        The stack's cleaner function does this. A record has the form that Lambda gets, with the old image. Records of
        anything else than the deletion of a run are ignored. Objects that were put in the hour before it are left to
        ``sweep_bucket`` (docs/large-payloads.md). Raises ``InvalidArgumentError`` without a ``bucket``, and
        botocore's errors of S3 unchanged; calling again is safe.
        """
        from kumofire_core.engine import cleaning

        if isinstance(records, str | bytes | Mapping) or not isinstance(records, Iterable):
            raise InvalidArgumentError(f"records must be a list of stream records, not {type(records).__name__}")
        return cleaning.clean_removed(self._bucket, records)

    def sweep_bucket(self, *, deadline: datetime | None = None) -> public.CleaningResult:
        """Delete the objects older than two days that no run of this table names; the cleaner does so once a week.

        It lists the table's objects, and reads the run of each. It ends when ``deadline`` (an aware datetime) is near;
        the next call begins elsewhere. Raises as ``clean_bucket`` does, and botocore's errors of the table.
        """
        from kumofire_core.engine import cleaning

        ends = self._deadline(deadline)
        return cleaning.sweep(self._store, self._bucket, deadline=ends)

    @property
    def _bucket(self) -> Any:
        if self._store.bucket is None:
            raise InvalidArgumentError("this Jobs has no bucket; pass bucket=…, or set KUMOFIRE_BUCKET")
        return self._store.large_values.bucket

    def create_schedule(
        self,
        name: str,
        payload: Any = None,
        *,
        schedule_type: public.ScheduleType | str,
        schedule_expr: str | timedelta | datetime,
        schedule_key: str | None = None,
        timezone: str | None = None,
        max_attempts: int | None = None,
        enabled: bool = True,
        missed: public.Missed | str = "all",
        overlap: public.Overlap | str = "allow",
        start_at: datetime | None = None,
        end_at: datetime | None = None,
        group: str | None = None,
    ) -> str:
        """Store a schedule that makes runs of the job ``name``, and return its id; one request to the table.

        ``schedule_type`` is ``cron``, ``interval`` or ``once``; docs/schedules.md says what each takes as
        ``schedule_expr``, and how ``timezone`` (an IANA name; UTC if left out) treats daylight saving. ``missed``
        decides about occurrences that the dispatcher finds late: ``all`` of them run, only the ``latest`` runs, or
        those more than a minute late are dropped (``skip``). ``overlap="skip"`` drops an occurrence while the run of
        the one before is unfinished. Occurrences lie between ``start_at`` and ``end_at`` (aware datetimes, inclusive).
        ``group`` is that of its runs, as in ``create``.

        Raises ``ScheduleExistsError`` if another schedule has the ``schedule_key``. Raises ``InvalidScheduleError``,
        ``InvalidArgumentError``, ``InvalidJSONError`` or ``UnknownJobError`` before anything is written.
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
            group=group,
        )

    def get_schedule(self, schedule_id: str) -> public.Schedule | None:
        """Return a schedule as it is now, or ``None`` for an unknown id; raises as ``get_status`` does."""
        return self._schedules.get(schedule_id)

    def get_schedule_by_key(self, schedule_key: str) -> public.Schedule | None:
        """Return the schedule that has this key as it is now, or ``None``."""
        return self._schedules.get_by_key(schedule_key)

    def update_schedule(
        self, schedule_id: str, *, unchanged_since: datetime | None = None, **changes: Unpack[public.ScheduleChanges]
    ) -> public.Schedule | None:
        """Change the given settings of a schedule and return it; ``None`` for an unknown id. Other settings stay.

        A change of timing or of ``enabled`` computes the next run time again; disabling clears it. Occurrences of the
        next 90 seconds may have become runs already. Concurrent changes by others are kept. With ``unchanged_since``,
        the ``updated_at`` that the caller saw, nothing is changed if somebody changed the schedule after that:
        ``ScheduleChangedError``. Raises as ``create_schedule`` does, and ``ScheduleConflictError`` if concurrent
        changes won every time.
        """
        return self._schedules.update(schedule_id, unchanged_since=unchanged_since, **changes)

    def update_schedule_by_key(
        self, schedule_key: str, **changes: Unpack[public.ScheduleChanges]
    ) -> public.Schedule | None:
        """Do what ``update_schedule`` does, to the schedule that has this key."""
        return self._schedules.update_by_key(schedule_key, **changes)

    def upsert_schedule(
        self,
        name: str,
        payload: Any = UNCHANGED,
        *,
        schedule_key: str,
        **settings: Unpack[public.ScheduleSettings],
    ) -> str:
        """Create the schedule that has this key, or change the existing one to the given settings; return its id.

        Takes the arguments of ``create_schedule``. In an existing schedule, arguments that are left out keep their
        value, the payload too; ``payload=None`` sets it to ``null``, the default of a new schedule. A call with the
        settings that the schedule has already does not change it, so every deployment can make this call.
        """
        return self._schedules.upsert(name, payload, schedule_key=schedule_key, **settings)

    def disable_schedule(self, schedule_id: str) -> public.Schedule | None:
        """Stop a schedule from making runs; ``update_schedule(…, enabled=True)`` starts it again."""
        return self._schedules.update(schedule_id, enabled=False)

    def disable_schedule_by_key(self, schedule_key: str) -> public.Schedule | None:
        """Do what ``disable_schedule`` does, to the schedule that has this key."""
        return self._schedules.update_by_key(schedule_key, enabled=False)

    def delete_schedule(self, schedule_id: str) -> bool:
        """Delete a schedule; return whether it existed. The runs that it has made stay.

        If the SDK repeated the request because its reply was lost, this returns ``False`` although it deleted the item.
        """
        return self._schedules.delete(schedule_id)

    def list_schedules(self, *, limit: int = 100, page: str | None = None) -> public.SchedulePage:
        """Return up to ``limit`` (at most 100) schedules, ordered by next run time, and the ``next_page``.

        The index that this reads is eventually consistent: a new schedule may be missing for a moment. A schedule whose
        next run time changes while pages are read may appear twice or not at all.
        """
        return self._schedules.page(limit=limit, after=page)

    @staticmethod
    def next_occurrences(schedule: public.Schedule, count: int = 10) -> tuple[datetime, ...]:
        """Return the next occurrences of a schedule, up to ``count`` (at most 1,000), in UTC; asks nothing of AWS.

        The tuple is empty if it is disabled, or has none left. The first is the schedule's ``next_run_at``. What
        ``missed`` and ``overlap`` drop is not known beforehand, so it is among them.
        """
        from kumofire_core.engine.schedules import next_occurrences

        return next_occurrences(schedule, count)

    def trigger_schedule(self, schedule_id: str) -> str | None:
        """Make a run of a schedule now, whether it is enabled or not; its next run time stays.

        Return the run's id, or ``None`` for an unknown schedule.
        """
        return self._firing.trigger(schedule_id)

    def _deadline(self, ends: datetime | None) -> Deadline | None:
        if ends is None:
            return None
        return Deadline((require_aware("deadline", ends) - self._clock()).total_seconds())


def _refuse_unknown(kind: type[Jobs], settings: Mapping[str, object]) -> None:
    known = signature(kind).parameters if settings else {}
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in known.values()):
        return  # a subclass that takes further arguments, which only it can check
    problems = [f"{kind.__name__} has no argument {name!r}" for name in sorted(settings.keys() - known.keys())]
    if "max_attempts" in settings and problems:
        problems.append("for max_attempts pass retry=RetryPolicy(max_attempts=…)")
    if problems:
        raise ConfigurationError([*problems, f"it has {', '.join(known)}"])


def _cipher_of(key_arn: str) -> Cipher:
    """Return the cipher for a KMS key; only a process with a key imports the encryption library."""
    try:
        from kumofire_core.encryption import EnvelopeCipher
    except ImportError as missing:
        raise ConfigurationError(
            [f"KUMOFIRE_PAYLOAD_KEY_ARN is set, and {missing} (in Lambda: ENCRYPTION=true sam build)"]
        ) from missing
    return EnvelopeCipher.for_kms_key(key_arn)

"""An application's ``Jobs`` on an AWS in this process's memory, with a clock that the test moves.

The engine is the real one: the consumer executes messages and the dispatcher makes its passes, one after the other in
the test's own thread, at the moments at which AWS would have them do so.
"""

from __future__ import annotations

import contextlib
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from kumofire_core.deployment.table import make_table
from kumofire_core.engine.run_store import RUN, run_key
from kumofire_core.errors import InvalidArgumentError, MalformedMessageError, short_repr
from kumofire_core.handlers.job_function import JobFunction
from kumofire_core.handlers.registry import Job
from kumofire_core.jobs import Jobs
from kumofire_core.model.message import decode_body
from kumofire_core.model.pauses import PAUSES, Pauses, read_pauses
from kumofire_core.model.run import FINAL, Outcome, RunStatus
from kumofire_core.model.run_item import StoredRun
from kumofire_core.model.run_view import Run
from kumofire_core.model.times import duration_ms, from_ms, require_aware, to_ms, utc_now
from kumofire_core.rules import decisions
from kumofire_core.testing.chaos import Chaos, ChaoticClient, WorkerDiedError
from kumofire_core.testing.created import CreatedRuns
from kumofire_core.testing.drained import Drained
from kumofire_core.testing.dynamodb import MemoryDynamoDB
from kumofire_core.testing.errors import InProcessError
from kumofire_core.testing.s3 import MemoryS3
from kumofire_core.testing.sqs import MemoryQueue, MemorySQS, Message, system_attributes
from kumofire_core.testing.swapping import Swapped
from kumofire_core.testing.tracebacks import KeptTracebacks

VISIBILITY_SECONDS = 360
MOST_RECEIVES = 200
"""Those of the stack's queue, with its default timeout."""

PASS_MS = 60_000
"""How often the dispatcher looks again at what it could not handle."""

MOST_DELIVERIES = 2_000
"""How many messages one call may deliver, unless it says otherwise."""

MENDED_WITHIN = timedelta(days=2)
"""How far ``drain`` moves the clock at most to mend what chaos has broken."""


@contextlib.contextmanager
def in_process(
    *jobs: Jobs, now: datetime | None = None, chaos: bool = False, seed: int | str | None = None
) -> Iterator[InProcessAWS]:
    """Put an application's ``Jobs`` on an AWS in memory for the length of a ``with`` block.

    ::

        with in_process(jobs) as aws:
            run_id = send_email.create({"to": "user@example.com"})
            aws.drain()
            assert jobs.get_status(run_id).status == "succeeded"

    Inside, no request of these ``Jobs`` leaves the process, whichever module makes it. The first one executes; further
    ones are those of other processes of the application, which share its table, such as a web server's. The clock
    begins at ``now`` (an aware datetime; by default the time at which the block begins, in whole milliseconds), and
    stands still until the test moves it. ``chaos`` lets workers die, messages come twice and late, and replies get
    lost, as ``seed`` decides. docs/testing.md explains all of it.

    Raises ``InvalidArgumentError`` for a wrong argument, and ``InProcessError`` where a ``Jobs`` is in such a block
    already.
    """
    if not jobs:
        raise InvalidArgumentError("in_process takes the Jobs of the application; write in_process(jobs)")
    if not isinstance(chaos, bool):
        raise InvalidArgumentError(f"chaos must be True or False, not {short_repr(chaos)}")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int | str)):
        raise InvalidArgumentError(f"seed must be a whole number or a text, not {short_repr(seed)}")
    aws = InProcessAWS(jobs, now=now, chaos=chaos, seed=seed)
    try:
        yield aws
    finally:
        aws._close()


class InProcessAWS:
    """A table, a queue, a bucket and a clock for one test. ``in_process`` and the fixture ``kumofire`` make it."""

    def __init__(self, all_jobs: Sequence[Jobs], *, now: datetime | None, chaos: bool, seed: int | str | None) -> None:
        begins = utc_now() if now is None else require_aware("now", now)
        self._now_ms = to_ms(begins)
        self._started_ms = self._now_ms
        self.dynamodb: Any = MemoryDynamoDB(lambda: self._now_ms)
        """A DynamoDB client, for your own items; the application's table is in it."""
        self.sqs: Any = MemorySQS(lambda: self._now_ms)
        """An SQS client; the application's queue is in it."""
        self.s3: Any = MemoryS3(lambda: self._now_ms)
        """An S3 client, with the bucket of large payloads."""
        self.jobs: Jobs = all_jobs[0]
        """The application's ``Jobs``."""
        self.chaos_log: list[str] = []
        """With chaos: what was done to which run, in order."""
        self.seed = str(seed) if seed is not None else "0"
        """What chaos is decided by."""
        self._chaos = Chaos(self.seed, self.sqs) if chaos else None
        self._created = CreatedRuns(self)
        self._raised: KeptTracebacks | None = None
        self._called: str | None = None
        self._passed: tuple[int, frozenset[Any]] = (0, frozenset())
        """When the dispatcher made its last pass, and what was due after it."""
        clients = {"dynamodb": self.dynamodb, "sqs": self.sqs, "s3": self.s3}
        if self._chaos is not None:
            self.chaos_log = self._chaos.log
            self._chaos.describe, self._chaos.may_die = self._described, self._survives
            self._chaos.identify = self._created.identity
            self.sqs.on_send = self._chaos.on_send
            clients = {name: ChaoticClient(client, self._chaos) for name, client in clients.items()}
        self._swapped = Swapped(all_jobs, self, clock=lambda: from_ms(self._now_ms), **clients)
        self._queues: dict[str, MemoryQueue] = {}
        for jobs in all_jobs:
            self._arrange(jobs)
        consumer: Any = self.jobs._consumer
        consumer._call = self._calling(consumer._call)

    def _arrange(self, jobs: Jobs) -> None:
        if jobs.table_name not in self.dynamodb.tables:
            make_table(self.dynamodb, jobs.table_name)
            self.dynamodb.tables[jobs.table_name].on_change = self._created.changed
        if jobs.queue_url not in self._queues:
            dead = self.sqs.add_queue(f"{jobs.queue_url}-dead-letters")
            self._queues[jobs.queue_url] = self.sqs.add_queue(
                jobs.queue_url,
                visibility_seconds=VISIBILITY_SECONDS,
                dead_letters=dead,
                most_receives=MOST_RECEIVES,
            )

    def _close(self) -> None:
        self.jobs.wait_for_hooks(timedelta(seconds=1))
        self._swapped.put_back()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.now.isoformat()}, {len(self._created)} runs>"

    # The clock

    @property
    def now(self) -> datetime:
        """The time of the clock, in UTC."""
        return from_ms(self._now_ms)

    def move(self, length: timedelta | None = None, /, **lengths: float) -> datetime:
        """Move the clock by a timedelta, or by its arguments (``hours=2``), and return the time. Executes nothing."""
        length = timedelta(**lengths) if length is None else length
        if not isinstance(length, timedelta):
            raise InvalidArgumentError(f"move takes a timedelta, or its arguments, not {short_repr(length)}")
        if length < timedelta(0):
            raise InvalidArgumentError(f"the clock can't go back: {length}")
        self._now_ms += duration_ms(length)
        return self.now

    def move_to(self, moment: datetime) -> datetime:
        """Move the clock to a later time, an aware datetime, and return it. Executes nothing."""
        moment_ms = to_ms(require_aware("moment", moment))
        if moment_ms < self._now_ms:
            raise InvalidArgumentError(f"the clock can't go back: it is {self.now}, and {moment} is before that")
        self._now_ms = moment_ms
        return self.now

    # Execution

    def drain(
        self,
        until: datetime | timedelta | None = None,
        *,
        raise_errors: bool = False,
        most: int = MOST_DELIVERIES,
    ) -> Drained:
        """Execute what is due, and what becomes due by that, until nothing is; return what was executed.

        Without ``until`` the clock does not move: retries and sleeps stay for later. With ``until``, an aware datetime
        or a length from now, the clock goes from event to event up to that time. These are: messages and retries that
        become due, the dispatcher's passes, schedules, sleeps and timeouts of waits.

        With ``raise_errors``, an error of a handler is raised from here, with its traceback, after its attempt was
        recorded. Under chaos, the clock is moved as far as it takes to mend what was broken, in any case.
        Raises ``InProcessError`` after ``most`` messages: most likely, a run creates another one of its kind for ever.
        """
        until_ms = self._now_ms if until is None else self._until_ms(until)
        work = _Work(self, raise_errors=raise_errors, most=most)
        self._walk(until_ms, work)
        if self._chaos is not None:
            least_ms = self._now_ms
            while self._chaos.pending() and self._now_ms < least_ms + duration_ms(MENDED_WITHIN):
                moment = self._next_moment()
                if moment is None:
                    break
                self._now_ms = moment
                self._walk(moment, work)
        self.jobs.wait_for_hooks()
        return work.drained

    def drain_run(
        self,
        run_id: str,
        *,
        raise_errors: bool = False,
        within: timedelta = timedelta(days=30),
        most: int = MOST_DELIVERIES,
    ) -> Run:
        """Let time pass, as ``drain(until=…)`` does, until a run has ended; return it.

        ``within`` is how much later than the run's own next time the clock may get. Raises ``InProcessError`` where
        the run can't end, with what it waits for, and for an unknown id.
        """
        work = _Work(self, raise_errors=raise_errors, most=most)
        while True:
            self._walk(self._now_ms, work)
            run = self.jobs.get_status(run_id)
            if run is None:
                raise InProcessError(f"there is no run {run_id!r} in this test")
            if run.status in FINAL and not (self._chaos is not None and self._chaos.pending()):
                self.jobs.wait_for_hooks()
                return run
            moment = self._next_moment()
            last_ms = max(self._started_ms, to_ms(run.scheduled_for)) + duration_ms(within)
            if run.status in FINAL and (moment is None or moment > last_ms):
                return run
            if moment is None or moment > last_ms or self._waits_for_the_test(run):
                raise InProcessError(f"run {run_id} of {run.job_name!r} does not end: {self._obstacle(run)}")
            self._now_ms = moment

    def _until_ms(self, until: datetime | timedelta) -> int:
        if isinstance(until, timedelta):
            if until < timedelta(0):
                raise InvalidArgumentError(f"until is {until}: the clock can't go back")
            return self._now_ms + duration_ms(until)
        if not isinstance(until, datetime):
            raise InvalidArgumentError(
                f"until must be an aware datetime, a timedelta or None, not {short_repr(until)}; drain_run takes a "
                "run's id"
            )
        until_ms = to_ms(require_aware("until", until))
        if until_ms < self._now_ms:
            raise InvalidArgumentError(f"until is {until}, and the clock is at {self.now} already")
        return until_ms

    def _walk(self, until_ms: int, work: _Work) -> None:
        while True:
            self._drain_moment(work)
            moment = self._next_moment()
            if moment is None or moment > until_ms:
                break
            self._now_ms = moment
        self._now_ms = max(self._now_ms, until_ms)

    def _drain_moment(self, work: _Work) -> None:
        while True:
            found = self._visible()
            if found:
                queue, message = found[0]
                if self._chaos is not None:
                    message = self._chaos.pick([each for _, each in found])
                    queue = next(each for each, one in found if one is message)
                work.count(message)
                self._deliver(queue, message, work)
            elif self._is_pass_due():
                self._pass()
            else:
                return

    def _visible(self) -> list[tuple[MemoryQueue, Message]]:
        """Return the messages that are to be delivered now, those first that were sent first."""
        found = [
            (moment, number, queue, message)
            for queue in self._queues.values()
            for number, message in enumerate(list(queue.messages.values()))
            if message.visible_ms < self._now_ms + 1000 and (moment := self._moment_of(message)) <= self._now_ms
        ]
        return [(queue, message) for _, _, queue, message in sorted(found, key=lambda each: each[:2])]

    def _moment_of(self, message: Message) -> int:
        """Return when a message comes. SQS counts whole seconds; here it comes just when its run is due."""
        due_ms = self._created.due_ms(message.body)
        is_rounded = due_ms is not None and message.visible_ms - 1000 < due_ms < message.visible_ms
        return due_ms if is_rounded and due_ms is not None else message.visible_ms

    def _deliver(self, queue: MemoryQueue, message: Message, work: _Work) -> None:
        """Deliver one message to the consumer, as Lambda does."""
        receipt = self.sqs.new_receipt()
        if not queue.receive(message, self._now_ms, receipt):
            return
        try:
            run_id = decode_body(message.body)
        except MalformedMessageError:
            run_id = ""
        if self._chaos is not None:
            self._chaos.delivered(message)
            self._chaos.begin(run_id)
        record = {
            "messageId": message.id,
            "receiptHandle": receipt,
            "body": message.body,
            "attributes": system_attributes(message),
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": queue.arn,
        }
        self._raised = KeptTracebacks()
        try:
            report = self.jobs.run_batch({"Records": [record]})
        except WorkerDiedError:
            return  # the message comes again when its visibility timeout is over
        finally:
            raised, self._raised = self._raised, None
            if self._chaos is not None:
                self._chaos.end()
        if not report.response()["batchItemFailures"] and queue.messages.get(message.id) is message:
            del queue.messages[message.id]
        for each in report.records:
            if each.result is not None:
                work.drained.add(each.result)
            elif each.failure is not None:
                work.failed(run_id, each.failure)
        if work.raise_errors:
            raised.reraise()

    def _calling(self, call: Any) -> Any:
        """Return what the consumer calls a handler by: it notes that it is called, and what it raises."""

        def calling(job: Job, claimed: StoredRun, deadline: Any) -> Any:
            if self._chaos is not None:
                self._chaos.called(claimed.id)
            try:
                output = call(job, claimed, deadline)
            except BaseException as error:
                if self._raised is not None:
                    self._raised.keep(error)
                raise
            if self._chaos is not None:
                self._chaos.returned(claimed.id)
            return output

        return calling

    # The dispatcher

    def _wake_ups(self) -> Iterator[tuple[int, Any]]:
        for name in {jobs.table_name for jobs in (self.jobs,)}:
            for entry in self.dynamodb.tables[name].entries("wake"):
                yield entry[1], entry

    def _pauses(self) -> Pauses:
        return read_pauses(self.jobs._store.table.get(PAUSES))

    def _due(self) -> frozenset[Any]:
        due = {entry for wake_at, entry in self._wake_ups() if wake_at <= self._now_ms}
        return frozenset(due | {("resumed", name) for name in self._pauses().resumed(self._now_ms)})

    def _is_pass_due(self) -> bool:
        passed_ms, left = self._passed
        due = self._due()
        return bool(due - left) or (bool(due) and self._now_ms >= passed_ms + PASS_MS)

    def _pass(self) -> None:
        self.jobs.dispatch()
        self._passed = self._now_ms, self._due()

    def _next_moment(self) -> int | None:
        """Return when something happens next, after now; ``None`` where nothing does."""
        moments = [self._moment_of(each) for queue in self._queues.values() for each in queue.messages.values()]
        moments += [wake_at for wake_at, _ in self._wake_ups()]
        moments += [until for _, until, _ in self._pauses().active(self._now_ms).values() if until is not None]
        if self._passed[1] & self._due():
            moments.append(self._passed[0] + PASS_MS)
        return min((each for each in moments if each > self._now_ms), default=None)

    # What can't end

    def _waits_for_the_test(self, run: Run) -> bool:
        """Say whether a run waits for what only the test can do, and nothing else is under way."""
        others = [each for each in self.runs() if each.status not in FINAL and each.id != run.id]
        stuck = self._waits_without_end(run) or run.paused
        return stuck and all(self._waits_without_end(each) or each.paused for each in others)

    def _waits_without_end(self, run: Run) -> bool:
        if run.waiting_for is None:
            return False
        steps = self.jobs.steps(run.id, results=False)
        return all(step.until is None for step in steps if step.name == run.waiting_for)

    def _obstacle(self, run: Run) -> str:
        if run.paused:
            return f"its job is paused; call jobs.resume({run.job_name!r})"
        if run.waiting_for is not None:
            return (
                f"it waits for the signal {run.waiting_for!r}; call jobs.signal({run.id!r}, {run.waiting_for!r}), or "
                "give the wait a timeout"
            )
        if run.waiting_for_limit:
            return "it waits for a slot of its job's limit, and the runs that have the slots don't end"
        if run.status == RunStatus.RUNNING:
            return "an attempt of it is under way"
        return f"it is {run.status} for {run.scheduled_for.isoformat()}, which is more than within=… ahead"

    # What was created

    def runs(self, job_name: str | JobFunction[Any, Any] | None = None, *, status: str | None = None) -> list[Run]:
        """Return the runs as they are now, in the order in which they were created; deleted ones are left out."""
        name = None if job_name is None else _name_of(job_name)
        if status is not None and status not in [each.value for each in RunStatus]:
            known = ", ".join(RunStatus)
            raise InvalidArgumentError(f"status must be one of {known}, not {short_repr(status)}")
        found = (self.jobs.get_status(run_id) for run_id in self._created.ids(name))
        return [run for run in found if run is not None and status in (None, run.status)]

    def assert_created(
        self,
        job_name: str | JobFunction[Any, Any],
        fields: Mapping[str, Any] | None = None,
        /,
        *,
        count: int | None = None,
        delay: timedelta | float | None = None,
        run_at: datetime | None = None,
        **further_fields: Any,
    ) -> Run:
        """Require that a run of a job was created whose payload has these fields, and return the first such run.

        ::

            kumofire.assert_created("email", to="user@example.com")
            kumofire.assert_created("email", {"count": 3}, delay=timedelta(hours=2), count=1)

        Fields are compared as they were given to ``create`` or as JSON; of a field that is a mapping, only the keys
        that are given. A typed payload may be asked for by its attributes. ``payload=…`` among the fields stands for
        the whole payload. ``count`` is how many such runs there must be; at least one without it. ``delay`` (a
        timedelta, or seconds) and ``run_at`` are when the run was to start. Raises ``AssertionError``, which lists what
        was created instead.
        """
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise InvalidArgumentError(
                f"count must be a whole number of at least 1, not {short_repr(count)}; assert_not_created is for none"
            )
        wanted = self._created.wanted(_name_of(job_name), fields, further_fields, delay=delay, run_at=run_at)
        found = self._created.matching(wanted)
        if count is None and not found:
            raise AssertionError(f"no run of {wanted} was created. {self._created.told()}")
        if count is not None and len(found) != count:
            raise AssertionError(f"{len(found)} runs of {wanted} were created, and not {count}. {self._created.told()}")
        return found[0]

    def assert_not_created(
        self,
        job_name: str | JobFunction[Any, Any],
        fields: Mapping[str, Any] | None = None,
        /,
        *,
        delay: timedelta | float | None = None,
        run_at: datetime | None = None,
        **further_fields: Any,
    ) -> None:
        """Require that no run was created that ``assert_created`` would find."""
        wanted = self._created.wanted(_name_of(job_name), fields, further_fields, delay=delay, run_at=run_at)
        if found := self._created.matching(wanted):
            raise AssertionError(f"{len(found)} runs of {wanted} were created. {self._created.told()}")

    def create_table(self, name: str, *, key: str | tuple[str, str]) -> None:
        """Make a table of your own in ``dynamodb``; its key, one attribute or two, has texts."""
        names = (key,) if isinstance(key, str) else tuple(key)
        kinds = ("HASH", "RANGE")
        self.dynamodb.create_table(
            TableName=name,
            KeySchema=[
                {"AttributeName": each, "KeyType": kind} for each, kind in zip(names, kinds[: len(names)], strict=True)
            ],
            AttributeDefinitions=[{"AttributeName": each, "AttributeType": "S"} for each in names],
        )

    # For chaos

    def _described(self, run_id: str) -> str:
        job_name = self._created.job_name(run_id)
        after = timedelta(milliseconds=self._now_ms - self._started_ms)
        return f"{after} {job_name or 'a run'} {run_id}"

    def _survives(self, run_id: str) -> bool:
        """Say whether a run gets another attempt if its worker dies now."""
        found = self._item(run_id)
        if found is None or found.status is not RunStatus.RUNNING or found.attempt + 1 >= found.max_attempts:
            return False
        rules = self.jobs._registry.rules(found.job_name)
        end = decisions.after_lost_worker(found, "", rules, now_ms=self._now_ms, expires_at=None)
        return end.outcome is Outcome.RETRIED

    def _item(self, run_id: str) -> StoredRun | None:
        key = run_key(run_id)
        item = self.dynamodb.tables[self.jobs.table_name].items.get((f"{RUN}#{run_id}", key.part or RUN))
        return None if item is None else self.jobs._store.read(run_id, item, payload_required=False)


class _Work:
    """What one call has executed."""

    def __init__(self, aws: InProcessAWS, *, raise_errors: bool, most: int) -> None:
        if not isinstance(raise_errors, bool):
            raise InvalidArgumentError(f"raise_errors must be True or False, not {short_repr(raise_errors)}")
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise InvalidArgumentError(f"most must be a whole number of at least 1, not {short_repr(most)}")
        self._most = most
        self.drained = Drained()
        self.raise_errors = raise_errors
        self._aws = aws
        self._delivered: Counter[str] = Counter()

    def count(self, message: Message) -> None:
        """Note a message that is about to be delivered; raise where they don't end."""
        with contextlib.suppress(MalformedMessageError):
            self._delivered[self._aws._created.job_name(decode_body(message.body)) or "?"] += 1
        if self._delivered.total() > self._most:
            listed = ", ".join(f"{count} of {name!r}" for name, count in self._delivered.most_common(5))
            raise InProcessError(
                f"more than {self._most:,} messages were delivered ({listed}), and there are more; does a run create, "
                "or wait for, another one of its kind for ever? If not, allow for more with most=…"
            )

    def failed(self, run_id: str, why: str) -> None:
        """Note a message that the consumer could not consume, and that comes again."""
        self.drained.undone.append(f"{run_id}: {why}")


def seed_of(text: str) -> str:
    """Return a short seed that is made of a text."""
    return str(zlib.crc32(text.encode()))


def _name_of(job: str | JobFunction[Any, Any]) -> str:
    if isinstance(job, JobFunction):
        return job.job_name
    if not isinstance(job, str):
        raise InvalidArgumentError(f"the job must be its name, or its handler, not {short_repr(job)}")
    return job

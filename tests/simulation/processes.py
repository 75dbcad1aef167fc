"""What the processes of the world do with the engine: create, consume, dispatch, cancel, retry, and all of it at once.

The engine's code runs unchanged. Replaced are only the things it takes from its process: clients and clock by argument,
and for the time of a simulation the modules ``time``, ``uuid`` and ``random`` as it sees them, and its threads, which
become tasks of the world.
"""

from __future__ import annotations

import base64
import gc
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import greenlet
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError

from kumofire_core import Jobs, RetryPolicy
from kumofire_core.aws import clients
from kumofire_core.config import DEFAULT_RETENTION
from kumofire_core.engine import (
    batch_looks,
    batch_marks,
    batch_writes,
    batches,
    consumer,
    counts,
    dispatcher,
    pause_reader,
    progress,
    renewal,
    run_store,
    schedules,
    step_expiry,
)
from kumofire_core.engine import steps as engine_steps
from kumofire_core.engine.counts import CountTeller
from kumofire_core.engine.create import RunRequest
from kumofire_core.engine.schedule_firing import occurrence_run_id
from kumofire_core.errors import (
    DeadlineTooCloseError,
    DecryptionError,
    KumofireError,
    MalformedMessageError,
    PartlyCreatedError,
)
from kumofire_core.handlers import context as handler_context
from kumofire_core.handlers import deadline as handler_deadline
from kumofire_core.handlers import handler_pool, step_calls
from kumofire_core.handlers.context import StepsBroken, Suspension
from kumofire_core.model import batch, encrypted_text, run
from kumofire_core.model.times import duration_ms, from_ms
from kumofire_core.rules import batch_items, limits
from tests.simulation.appointments import Appointments
from tests.simulation.batching import FAN_OUT, FEW, RENEWED_MS, WINDOW, Batching
from tests.simulation.bucket import LARGE_FROM, S3, LargeValues, SimulatedBucket, simulated_cleaning, whole
from tests.simulation.bulk import BulkChanges, simulated_bulk
from tests.simulation.coroutines import AsyncHandler, GiveUpError, simulated_event_loops, unfinished
from tests.simulation.disasters import TABLE_REFUSES, Disasters
from tests.simulation.history import Choices, Violation
from tests.simulation.invariants import PARKED_MS, SKEW_MS, Attempt, Invariants, group_asked_for
from tests.simulation.keys import Keys
from tests.simulation.limits import SLOTS_TOGETHER, WAITING_ROOM, Limiting
from tests.simulation.pausing import Pausing
from tests.simulation.steering import JOBS as STEERED_JOBS
from tests.simulation.steering import MANY_ATTEMPTS, Steering
from tests.simulation.steps import Stepping
from tests.simulation.table import Attributes
from tests.simulation.telling import Telling, simulated_progress
from tests.simulation.threads import SimulatedEvent, SimulatedLock, SimulatedThreads
from tests.simulation.transactions import Transactions
from tests.simulation.typed import typed
from tests.simulation.workers import Working
from tests.simulation.world import (
    ENDPOINT,
    FAULTS,
    INDEX_LAGS_MS,
    LATENCIES_MS,
    SQS,
    START_MS,
    Count,
    DiedError,
    DynamoDB,
    Faults,
    Process,
    World,
    message_of,
    run_id_in,
    running,
)

MINUTE_MS = 60_000
SETTLE_ROUNDS = 120
CONSUMERS = 4
AHEAD_MS = (1_501, 20_000, 250_000)
VISIBILITY_MS = (60_000, 7_000, 31_000, 360_000)
POLL_MS = 500
MOST_BUSY_POLLS = 1_200
"""Ten minutes: no handler that ends takes so long."""
NO_JSON = ("", "{", "\0")
MALFORMED = ("", "{", "[]", "null", '{"version":2,"kumofireJobRunId":"a"}', '{"version":1,"kumofireJobRunId":7}', "\0")


@dataclass(frozen=True, eq=False)
class Variant:
    """Settings that a history's processes share."""

    lease: timedelta
    remaining_ms: int | None
    """How long a consumer's invocation may last; ``None`` for one without a deadline."""
    max_attempts: int
    wake_shards: int
    batch_writes: bool = False
    person_shards: int | None = None
    """A person's ``wake_shards``, where it is another number."""
    rolling: bool = False
    """Some consumers do not have the newest job yet, and put its runs back."""
    sealed: bool = False
    """Payloads and outputs are encrypted."""
    retention: timedelta = DEFAULT_RETENTION
    """How long a finished run is kept."""
    list_succeeded: bool = False
    """Succeeded runs are listed, too."""
    counts: bool = False
    """What becomes of messages is counted in the table."""
    large: bool = False
    """Payloads, and some outputs, are kept in a bucket."""
    typed: bool = False
    """The payloads of one job have a type, which some do not fit."""


ONE_BY_ONE = (
    Variant(timedelta(seconds=30), None, 3, 1, person_shards=3),
    Variant(timedelta(seconds=1), None, 2, 2, person_shards=1),
    Variant(timedelta(seconds=30), 20_000, 3, 2, person_shards=4),
    Variant(timedelta(seconds=10), 6_000, 1, 1),
    Variant(timedelta(seconds=5), 120_000, 2, 1),
)
VARIANTS = (
    *ONE_BY_ONE,
    *(replace(ONE_BY_ONE[number], batch_writes=True) for number in (0, 1, 2, 4)),
    replace(ONE_BY_ONE[0], rolling=True),
    replace(ONE_BY_ONE[4], rolling=True, batch_writes=True),
    replace(ONE_BY_ONE[0], sealed=True),
    replace(ONE_BY_ONE[2], sealed=True, batch_writes=True),
    replace(ONE_BY_ONE[0], retention=timedelta(minutes=10)),
    replace(ONE_BY_ONE[3], retention=timedelta(minutes=10), batch_writes=True),
    replace(ONE_BY_ONE[2], list_succeeded=True, typed=True),
    replace(ONE_BY_ONE[4], list_succeeded=True, batch_writes=True, counts=True, typed=True),
)
LARGE_VARIANTS = {variant: replace(variant, large=True) for variant in VARIANTS}
WORKER_VARIANTS = tuple(each for each in VARIANTS if each.remaining_ms is None and not each.batch_writes)
ONE_IN = 6
"""One in so many histories has a bucket."""
SPREAD_ONE_IN = 10
"""In one of so many dispatchers share the partitions of the index."""
PAGE_SIZE = dispatcher.PAGE_SIZE
TIMEOUT = timedelta(seconds=4)
JOBS = ("work", "work", "timed", "timed", "eager", "patient", "absent", *STEERED_JOBS)
ASYNC_JOBS = ((), (), (), JOBS, ("timed", "eager"))


UNDONE = (
    "not done before the deadline",
    str(DeadlineTooCloseError(0.0)).partition("0")[0],
    "ClientError ThrottlingException",
    "ClientError ProvisionedThroughputExceededException",  # of all requests, in a disaster
    "ProvisionedThroughputExceededException",
    "EndpointConnectionError",
    "ReadTimeoutError",
    "ConnectionClosedError",
    "KeyOutOfReachError",
)
"""How the reports of records begin that have to come again."""


class KeyOutOfReachError(Exception):
    """The service that has the key does not answer."""


class SimulatedCipher:
    """Turns bytes round; now and then its key is out of reach."""

    MARKS = (b"key", b"new")
    """How a ciphertext begins, by the key that it was made with."""

    def encrypt(self, plaintext: bytes) -> bytes:
        """Return a ciphertext; ``KeyOutOfReachError``."""
        STAGE.play.reach_key()
        return self.MARKS[STAGE.play.key_changed] + plaintext[::-1]

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Return the plaintext; ``KeyOutOfReachError``."""
        STAGE.play.reach_key()
        if STAGE.play.key_changed and ciphertext.startswith(self.MARKS[0]):
            STAGE.world.counts["key is another"] += 1
            raise ValueError("it was made with another key")
        return decrypted(ciphertext)


def decrypted(ciphertext: bytes) -> bytes:
    """Return a plaintext, without the need to reach for a key."""
    if not ciphertext.startswith(SimulatedCipher.MARKS):
        raise ValueError("no ciphertext of the simulation's")
    return ciphertext[3:][::-1]


def opened_text(stored: str) -> str:
    """Return the JSON text of a stored payload or output."""
    stored = whole(STAGE.world, stored)
    if not stored.startswith(encrypted_text.PREFIX):
        return stored
    text: str = json.loads(decrypted(base64.b64decode(stored.removeprefix(encrypted_text.PREFIX))))[1]
    return text


moment = lru_cache(maxsize=256)(from_ms)


class Stage:
    """Where the one history that is being played lives; the processes' ``Jobs`` outlast it, to be made once only."""

    world: World
    play: Play

    def __init__(self) -> None:
        self.numbers = 0
        self._jobs: dict[tuple[str, Variant], Jobs] = {}
        self.dynamodb = DynamoDB()
        self.sqs = SQS()
        self.s3 = S3()

    def begin(self, history: Play) -> None:
        """Let a history begin, as if every process were new."""
        self.world, self.play, self.numbers = history.world, history, 0
        dispatcher.PAGE_SIZE = PAGE_SIZE
        self.dynamodb.world = self.sqs.world = self.s3.world = history.world

    def jobs(self, process: Process, variant: Variant) -> Jobs:
        """Return the engine of a process, made on first use and as new in each history."""
        found: Jobs | None = process.engine
        if found is None:
            key = (process.name, variant)
            if key not in self._jobs:
                self._jobs[key] = self._make(process, variant)
            found = process.engine = self._jobs[key]
            found._store._spread_over = None
            found._progress_teller._told_ms = 0
            found._consumer._pauses = pause_reader.PauseReader(found._store)
            if found._count_teller is not None:
                found._count_teller = CountTeller(found._store)
            found._consumer.pool._stray.clear()
            found._consumer._busy_rates.clear()
            if (writes := found._consumer._batch_writer) is not None:
                writes._failures.clear()
        self.play.working.set_up(found, process)
        return found

    def _make(self, process: Process, variant: Variant) -> Jobs:
        def clock() -> datetime:
            return moment(self.world.now + greenlet.getcurrent().task.process.skew_ms)

        def next_run_at(*, attempt: int, error: BaseException, run: Any, now: datetime) -> datetime | None:
            if isinstance(error, GiveUpError):
                return None
            return now + timedelta(seconds=attempt)

        is_person = process.name.startswith("person")
        shards = variant.person_shards if is_person and variant.person_shards else variant.wake_shards
        jobs = Jobs(
            table="table",
            queue_url="queue",
            dynamodb=self.dynamodb,  # type: ignore[arg-type]
            sqs=self.sqs,  # type: ignore[arg-type]
            retry=RetryPolicy(variant.max_attempts),
            lease=variant.lease,
            retention=variant.retention,
            clock=clock,
            wake_shards=shards,
            concurrency=3 if variant.batch_writes else 2,
            batch_writes=variant.batch_writes,
            cipher=CIPHER if variant.sealed else None,
            list_succeeded=variant.list_succeeded,
            counts=variant.counts,
            allow_unknown_jobs=True,
            missing_handler="retry" if variant.rolling else "fail",
            **({"bucket": "bucket", "large_from": LARGE_FROM, "s3": self.s3} if variant.large else {}),
        )
        if not is_person:
            most = variant.max_attempts
            jobs.handler("work", retry=RetryPolicy(most, next_run_at))(self._handle)
            timed = typed(self._handle, lambda *told: self.world.violate(*told)) if variant.typed else self._handle
            jobs.handler("timed", timeout=TIMEOUT)(timed)
            jobs.handler("eager", retry=RetryPolicy(most, base=timedelta(0)))(self._handle)
            jobs.handler("patient", retry=RetryPolicy(most, base=timedelta(minutes=16), cap=timedelta(minutes=30)))(
                self._handle
            )
            Steering.register(jobs, self._handle, most)
            Limiting.register(jobs, self._handle, most)
        if variant.rolling and process.name.startswith("consumer"):
            self._deploy_slowly(jobs, process)
        return jobs

    def _deploy_slowly(self, jobs: Jobs, process: Process) -> None:
        """Give a consumer the newest job: one of two from the beginning, the others when all settles."""
        jobs.handler("absent")(self._handle)
        get = jobs._registry.get

        def get_deployed(name: str) -> Any:
            is_old = process.name[-1] in "13579" and not self.play.settling
            return None if name == "absent" and is_old else get(name)

        jobs._registry.get = get_deployed  # type: ignore[method-assign]

    def _handle(self, context: Any) -> Any:
        return self.play.handle(context)


STAGE = Stage()
CIPHER = SimulatedCipher()


@contextmanager
def _small_buckets() -> Iterator[None]:
    """Let a few members need several levels of buckets, and waits pass in the simulation."""
    with ExitStack() as stack:
        for module in (batch, batch_marks, batch_looks, batch_items):
            stack.enter_context(patch.object(module, "FAN_OUT", FAN_OUT))
        stack.enter_context(patch.object(batch_looks, "FEW", FEW))
        stack.enter_context(patch.object(batches, "WINDOW", WINDOW))
        stack.enter_context(patch.object(batch_items, "RENEWED_MS", RENEWED_MS))
        waits = SimpleNamespace(sleep=lambda seconds: STAGE.world.pause(int(seconds * 1000)))
        stack.enter_context(patch.object(batches, "time", waits))
        yield


@contextmanager
def _simulated_locks(
    time: object, uuid4: Callable[[], Any], uniform: Callable[[float, float], float]
) -> Iterator[None]:
    """Let the engine's locks that are held during requests be waited for in the simulation, and steps take its time."""
    with ExitStack() as stack:
        for module in (dispatcher, progress, pause_reader, counts, engine_steps):
            stack.enter_context(patch.object(module, "threading", SimpleNamespace(Lock=SimulatedLock)))
        stack.enter_context(_small_buckets())
        stack.enter_context(simulated_progress(time))
        stack.enter_context(simulated_bulk(uuid4, uniform))
        stack.enter_context(patch.object(dispatcher, "PAGE_SIZE", PAGE_SIZE))  # histories change it
        for module in (step_calls, engine_steps, renewal):
            stack.enter_context(patch.object(module, "time", time))
        # Nothing forks, and each request would ask.
        stack.enter_context(patch.object(clients, "os", SimpleNamespace(getpid=lambda: 1)))
        yield


@contextmanager
def simulated_engine() -> Iterator[None]:
    """Let the engine take time, ids and threads from the simulation."""

    def urandom(size: int) -> bytes:
        STAGE.numbers += 1
        return STAGE.numbers.to_bytes(size)

    def uuid4() -> Any:
        STAGE.numbers += 1
        return SimpleNamespace(hex=f"{STAGE.numbers:032x}")

    time = SimpleNamespace(
        monotonic=lambda: STAGE.world.now / 1000, sleep=lambda seconds: STAGE.world.pause(int(seconds * 1000))
    )

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * STAGE.world.choices.below(100) / 100

    random = SimpleNamespace(uniform=uniform)
    log = logging.getLogger("kumofire_core")
    jobs, STAGE._jobs = STAGE._jobs, {}
    with (
        patch.object(consumer, "time", time),
        patch.object(handler_context, "time", time),
        patch.object(handler_deadline, "time", time),
        patch.object(handler_pool, "time", time),
        patch.multiple(schedules, time=time, random=random, uuid=SimpleNamespace(uuid4=uuid4)),
        patch.object(run_store, "os", SimpleNamespace(urandom=urandom)),
        # So that a few partitions are more than a dispatcher reads anyway.
        patch.object(run_store, "LEAST_SHARDS_READ", 1),
        patch.object(dispatcher, "LEAST_SHARDS_READ", 1),
        _simulated_locks(time, uuid4, uniform),
        patch.object(batch_writes, "threading", SimpleNamespace(Lock=SimulatedLock, Event=SimulatedEvent)),
        patch.object(run, "os", SimpleNamespace(urandom=urandom)),
        patch.multiple(limits, WAITING_ROOM=WAITING_ROOM, SLOTS_TOGETHER=SLOTS_TOGETHER),
        simulated_cleaning(urandom),
        patch.object(consumer, "HandlerPool", SimulatedThreads),
        patch.object(step_expiry, "_threads", SimulatedThreads()),
        patch.object(log, "disabled", True),
        simulated_event_loops(),
        # Where a handler failed is for the log only, and costs as much as a request.
        patch.object(consumer, "error_places", lambda error: []),
        patch.object(run_store, "attempt_traceback", lambda error: STAGE.play.steering.traceback(error)),
    ):
        threshold = gc.get_threshold()
        gc.set_threshold(200_000, 20, 20)
        gc.freeze()  # what the collector need not look at: modules, and the data of botocore
        try:
            yield
        finally:
            gc.unfreeze()
            gc.set_threshold(*threshold)
            STAGE._jobs = jobs


class Play:
    """One history: a plan drawn at its beginning, and what follows from it."""

    def __init__(self, choices: Choices, counts: Counter[Count] | None = None, *, record: bool = False) -> None:
        self.choices = choices
        self.world = World(choices, Counter() if counts is None else counts, record=record)
        STAGE.begin(self)
        self.working = Working(self)
        self.variant = choices.of(WORKER_VARIANTS if self.working.exists else VARIANTS)
        self.invariants = Invariants(
            self.world,
            is_cut=lambda job: self.variant.remaining_ms is not None or self.working.exists or job == "timed",
        )
        self.invariants.working = self.working
        self.world.bucket = SimulatedBucket(self.world)
        self.large = self.invariants.large = LargeValues(self, lambda process: STAGE.jobs(process, self.variant))
        self.invariants.after_write = self._after_write
        self.invariants.has_typed_job = self.variant.typed
        self.invariants.retention_ms = duration_ms(self.variant.retention)
        self.invariants.decrypted = opened_text
        self.world.tries = self.invariants.tries
        self.keyless = 0.0
        """How probable it is that a key can't be reached."""
        self.invariants.occurrence_id = lambda schedule_id, ms: occurrence_run_id(schedule_id, from_ms(ms))
        self.world.queue.deliver = self._deliver
        self.world.queue.taken = self._sent
        self.consumers = [Process(f"consumer-{number}") for number in range(1, CONSUMERS + 1)]
        self.dispatchers = [Process("dispatcher-1"), Process("dispatcher-2")]
        self.persons = [Process(f"person-{number}") for number in range(1, 4)]
        self.people = 0
        self.interventions = 0
        self.settling = False
        self._busy_polls = 0
        """How often no consumer was free since faults stopped."""
        self.inbox: list[tuple[str, int]] = []
        self.key_changed = False
        """Processes have another key than before; once it is back, they have both."""
        self.asynchronous: tuple[str, ...] = ()
        """The jobs whose handlers are ``async``."""
        self.lasts_ms = 0
        """How long the history lasts at least before its faults stop."""
        self.disasters: Disasters
        self.steering = Steering(self, lambda process: STAGE.jobs(process, self.variant), GiveUpError)
        self.pausing = self.invariants.pausing = Pausing(self, lambda process: STAGE.jobs(process, self.variant))
        self.limiting = self.invariants.limiting = Limiting(self, lambda process: STAGE.jobs(process, self.variant))
        self.transactions = Transactions(self, lambda process: STAGE.jobs(process, self.variant))
        self.stepping = self.invariants.stepping = Stepping(
            self, lambda process: STAGE.jobs(process, self.variant), GiveUpError
        )
        self.telling = self.invariants.telling = Telling(self, lambda process: STAGE.jobs(process, self.variant))
        self.dynamodb = STAGE.dynamodb
        self.invariants.records.list_succeeded = self.variant.list_succeeded
        self.invariants.records.decrypted = opened_text
        self.batching = Batching(self, lambda process: STAGE.jobs(process, self.variant))
        self.bulk = BulkChanges(self, lambda process: STAGE.jobs(process, self.variant))
        self.spreads = False
        """Dispatchers hand over each partition of which more than a page is due, and a page has one."""
        self.calm = False
        """Nothing goes wrong in this history."""
        self.probes: set[int] = set()
        """The probes for which a dispatcher sent a message while an earlier one of its run still waited."""

    # A history

    def run(self) -> None:
        """Play it to its end; ``Violation`` where an invariant does not hold."""
        world = self.world
        try:
            self._plan()
            world.run(START_MS + max(self.lasts_ms, self.choices.of((3, 1, 6)) * MINUTE_MS))
            self._settle()
            self.invariants.at_the_end()
            self.batching.at_the_end()
            self.transactions.at_the_end()
            if (left := unfinished(self.consumers)) is not None:
                world.violate(*left)
            if world.violation is not None:
                raise world.violation
        finally:
            world.close()
            for process in self.consumers:
                process.unwind()
            self._forget()

    def _forget(self) -> None:
        """Let go of what nobody looks at after a history, so that no cycles are left for the collector to look for."""
        for part in [*vars(self).values(), *vars(self.world).values()]:
            if "_world" in getattr(part, "__dict__", ()):  # one of those that watch this history, and know each other
                vars(part).clear()
        for part, kept in ((self.world, ("steps", "lines", "violation")), (self, ("world", "choices", "variant"))):
            left = {name: vars(part)[name] for name in kept}
            vars(part).clear()
            vars(part).update(left)

    def _plan(self) -> None:
        world, choices = self.world, self.choices
        probability = 0.0 if self.limiting.orderly else choices.of((0.0, 0.03, 0.06, 0.1, 0.2, 0.2))
        self.calm = not probability
        if probability:
            kinds = tuple(fault for fault in FAULTS if choices.below(2)) or FAULTS
            world.faults = Faults(probability, kinds)
            for process in (*self.consumers, *self.dispatchers, *self.persons):
                process.skew_ms = choices.of((0, SKEW_MS, -SKEW_MS))
            if choices.below(4) == 3:
                # A creator's clock is further ahead than a claim forgives, so that its messages come too early.
                self.persons[1].skew_ms = choices.of(AHEAD_MS)
        self.asynchronous = () if self.working.exists else choices.of(ASYNC_JOBS)
        if self.variant.batch_writes:
            world.statements.oddity = choices.of((0.0, 0.1, 0.5))
        if self.variant.sealed and probability:
            self.keyless = choices.of((0.0, 0.1, 0.4))
        what = choices.below(8)
        if what in (1, 2, 3) and self.variant.batch_writes:
            what = 5  # messages that come together
        self.keys = Keys(self, lambda process: STAGE.jobs(process, self.variant))
        if what == 4 and not self.limiting.exists:
            self.keys.plan()
        if self.keys.mode is not None:
            pass
        elif self.limiting.exists:
            self.limiting.plan()
        elif what > 5:
            Appointments(self, lambda process: STAGE.jobs(process, self.variant)).plan()
        elif what == 5:
            self._create_many()
        elif what == 3:
            self.transactions.plan()
        else:
            for number in range(choices.of((1, 1, 1, 2, 3)) + (self.variant.batch_writes and 1 + choices.below(2))):
                self._create(f"key-{number % 2}" if what == 4 else None)
        if choices.below(4) == 3:
            body = choices.of(MALFORMED)
            world.at(START_MS + choices.below(2) * 1000, lambda: self._deliver(body, 1))
        # Nobody is there to dispatch in the first minutes, so that occurrences are missed.
        asleep_ms = choices.of((0, 0, 125_000)) if what > 5 else 0
        for number in range(2 + choices.below(4)):
            when = START_MS + asleep_ms + (1 + number) * choices.of((60_000, 31_000, 7_000)) + choices.below(3)
            self._tick_at(when, self.dispatchers[number % 2 if choices.below(4) else 0])
            if choices.below(4) > (1 if what > 5 else 2):
                self._tick_at(when + choices.of((3, 20, 0)), self.dispatchers[(number + 1) % 2])
        if choices.below(8) == 7:
            # A backlog, of as long as it takes until a message is taken for lost.
            world.queue.opens_ms = START_MS + choices.of((120_060, 120_600, 125_000))
            self._tick_at(world.queue.opens_ms + choices.of((-8, -20, 3)), self.dispatchers[0])
        if choices.below(4) == 3:
            world.queue.eternal = 10
        if choices.below(4) == 3:
            self._jump_at(START_MS + choices.of((500, 8_000, 60_000)))
        if not self.limiting.orderly:
            self.pausing.plan()
            self.batching.plan()
        self.disasters = Disasters(self)
        if not self.limiting.orderly:
            self.disasters.plan()
        # Not a choice of its own: so all other histories stay as they are.
        if not self.limiting.exists and sum(choices.taken) % ONE_IN == ONE_IN - 1:
            self.variant = LARGE_VARIANTS[self.variant]
            self.large.plan()
        self.stepping.plan()
        self.bulk.plan()
        if not self.limiting.exists and sum(choices.taken) % SPREAD_ONE_IN == 1:
            self.spreads = True
            dispatcher.PAGE_SIZE = 1
        self.working.plan()
        self.telling.plan()

    def _create(self, dedupe_key: str | None) -> None:
        choices = self.choices
        job, payload = self.ask(JOBS[choices.below(len(JOBS))])
        delay_ms = choices.of((0, 0, 3_000, 62_000, 130_000, 20 * MINUTE_MS))
        most = choices.of((None, 1, 2))
        if self.steering.stubborn:
            job, payload, most = *self.ask("eager"), MANY_ATTEMPTS
        # One who knows the jobs, or one who does not.
        process = self.person() if choices.below(2) else self.consumers[0]

        def create() -> None:
            task, delay = running(), timedelta(milliseconds=delay_ms)
            run_id = STAGE.jobs(process, self.variant).create(
                job,
                payload,
                delay=delay,
                max_attempts=most,
                dedupe_key=dedupe_key,
                group=group_asked_for(payload),
            )
            self._created(run_id, payload, delay, dedupe_key)
            # One that was deleted meanwhile may have been made again by another, who sends it.
            is_own = task.written is not None and run_id not in self.invariants.gone
            if is_own and delay_ms <= 15 * MINUTE_MS and not task.sends:
                self.world.violate("a message follows its run", f"{run_id} was created, and not sent")

        self.do_at(START_MS + choices.of((0, 1, 3, 2_000)), process, f"creates {job}", create)

    def _create_many(self) -> None:
        choices, process = self.choices, self.person()

        def request() -> RunRequest:
            job, payload = self.ask(JOBS[choices.below(len(JOBS))])
            key = f"key-{choices.below(2)}" if choices.below(4) == 3 else None
            delay = timedelta(milliseconds=choices.of((0, 0, 0, 3_000, 20 * MINUTE_MS)))
            group = group_asked_for(payload)
            return {"name": job, "payload": payload, "delay": delay, "dedupe_key": key, "group": group}

        requests = [request() for _ in range(2 + choices.below(3))]
        if choices.below(4) == 3:
            self._create("key-1")

        def create_many() -> None:
            run_ids: list[str | None]
            try:
                run_ids = [*STAGE.jobs(process, self.variant).create_many(requests)]
            except PartlyCreatedError as partly:
                run_ids = [*partly.run_ids]
            if len(run_ids) != len(requests):
                self.world.violate("each run that was asked for is created", f"{run_ids} for {requests}")
            for run_id, asked in zip(run_ids, requests, strict=False):
                if run_id is not None:
                    self._created(run_id, asked["payload"], cast(timedelta, asked["delay"]), asked["dedupe_key"])

        self.do_at(START_MS + choices.of((0, 1, 2_000)), process, "creates many", create_many)

    def _created(self, run_id: str, payload: Any, delay: timedelta, dedupe_key: str | None) -> None:
        """Check what is stored of a run of which somebody was just told that it is."""
        stored = self.world.table.items.get((f"run#{run_id}", "run"))
        if run_id in self.invariants.gone or self.invariants.restored_at >= running().begun:
            return
        if stored is None:
            self.world.violate("a run is stored once create has returned", run_id)
        elif stored["job_name"] != payload["of"]:
            self.world.violate("a key gives a run of the job that was asked for", f"{run_id} is of another job")
        elif dedupe_key is None:
            if run_id not in self.invariants.records.updated and json.loads(opened_text(stored["payload"])) != payload:
                self.world.violate("a payload is what was created", f"{run_id}: another is stored")
            if delay <= timedelta(minutes=15) and run_id not in self.invariants.tried:
                self.world.violate("a message follows its run", f"{run_id} was created, and not sent")

    def ask(self, job: str) -> tuple[str, Any]:
        """Return a job with a payload that no other run or schedule has."""
        number = len(self.invariants.payloads)
        payload = self.invariants.payloads[number] = self.steering.filled({"of": job, "number": number})
        return job, payload

    def reach_key(self) -> None:
        """Let a process that encrypts or decrypts reach for its key."""
        if self.choices.chance(self.keyless):
            self.world.counts["key out of reach"] += 1
            self.world.tell(running().process, "can't reach its key")
            raise KeyOutOfReachError

    def _settle(self) -> None:
        """Stop the faults, and tick until all has ended."""
        world = self.world
        self.settling = True
        self.keyless = 0.0
        self.disasters.end()
        world.faults = Faults()
        world.tell(None, "faults stop")
        self.pausing.end()
        self.bulk.end()
        for _ in range(SETTLE_ROUNDS):
            waiting = [item for item in world.table.items.values() if item.get("wake_at", PARKED_MS) < PARKED_MS]
            if not waiting:
                if (next_ms := world.next_event_ms()) is None:
                    if self.limiting.again():
                        continue
                    self._read_one()
                    self.steering.list_all()
                    self.large.end()
                    return
                world.run(max(next_ms, world.now + 400 * MINUTE_MS))
                continue
            self.stepping.signal_all()
            if self.pausing.some_wait():
                due = world.now + MINUTE_MS
            else:
                # By any clock it is due then, and whoever held it before has given up.
                due = max(world.now, min(item["wake_at"] for item in waiting)) + 2 * SKEW_MS
            world.run(due)
            world.now = due
            self._tick_at(due, self.dispatchers[0])
            world.run(due + 300)
        world.violate("every run ends", f"{SETTLE_ROUNDS} ticks without a fault did not bring it to an end")

    def _read_one(self) -> None:
        """Let a person read one of the runs, and compare it with what is known of it."""
        if self.choices.below(4) < 3 or not self.invariants.ledgers:
            return
        kept = [each for each in self.invariants.ledgers.items() if (f"run#{each[0]}", "run") in self.world.table.items]
        if not kept:
            return
        run_id, ledger = self.choices.of(kept)
        process, world = self.person(), self.world

        def read() -> None:
            found, stored = (
                STAGE.jobs(process, self.variant).get_status(run_id),
                world.table.items[f"run#{run_id}", "run"],
            )
            payload = json.loads(opened_text(stored["payload"]))
            if found is None or (found.status, found.payload, found.output) != (
                stored["status"],
                payload,
                ledger.output,
            ):
                world.violate("a reader sees what was recorded", f"{run_id}: {found}")
            if found is not None:
                self.invariants.records.read(found, ledger.record)
                self.telling.read(found, stored)

        self._do(process, f"reads {run_id}", read)
        world.run(world.now + MINUTE_MS)

    # What happens in it

    @property
    def table_answers(self) -> bool:
        """Whether nothing goes wrong with requests, and the table never refuses them all for a while."""
        return self.calm and self.disasters.kind != TABLE_REFUSES

    def do_at(self, when_ms: int, process: Process, what: str, action: Callable[[], object]) -> None:
        """Let a process do something at a time."""
        self.world.at(when_ms, lambda: self._do(process, what, action))

    def _do(self, process: Process, what: str, action: Callable[[], object]) -> None:
        def task() -> None:
            if self.world.lines is not None:
                self.world.tell(process, what)
            try:
                action()
            except (ClientError, BotoCoreError, KumofireError, KeyOutOfReachError) as error:
                self.world.tell(process, f"{what}: {type(error).__name__}")
            except Exception as error:
                self._unexpected(what, error)

        self.world.start(process, task)

    def _unexpected(self, what: str, error: BaseException) -> None:
        self.world.violate("nothing raises what it should not", f"{what}: {type(error).__name__}: {error}")

    def _tick_at(self, when_ms: int, process: Process) -> None:
        faultless = self.settling
        limit = None if faultless else self.choices.of((None, None, 1, 2))

        def dispatch() -> None:
            alone = self.invariants.begins_pass(process)
            hand_over = self._hand_over if self.spreads and limit is None else None
            result = None
            try:
                result = STAGE.jobs(process, self.variant).dispatch(limit, hand_over=hand_over)
            finally:
                if alone:
                    self.invariants.ends_pass(process, well=result is not None and not result.errors)
            if self.world.lines is not None:
                self.world.tell(process, f"dispatched: {result}")
            if result.errors and faultless:
                self.world.violate("a tick without a fault has no errors", str(result))

        def tick() -> None:
            # A pass that finds nothing changes nothing, and most would.
            until_ms = self.world.now + duration_ms(dispatcher.LOOK_AHEAD) + SKEW_MS
            if self.pausing.must_look() or self.world.table.shows_wake_up(until_ms=until_ms, lag_ms=INDEX_LAGS_MS[-1]):
                self._do(process, "ticks", dispatch)

        self.world.at(when_ms, tick)

    def _hand_over(self, partition: int) -> None:
        """Let another dispatcher do a partition's work, soon or later, twice or never; or say that this can't be."""
        world, choices, other = self.world, self.choices, self.dispatchers[self.choices.below(2)]
        world.pause(choices.of(LATENCIES_MS))
        world.counts["a partition is handed over"] += 1
        times = 1
        if world.faults.probability and choices.chance(world.faults.probability):
            times = choices.of((2, 0, -1))
        if times < 0:
            raise EndpointConnectionError(endpoint_url=ENDPOINT)

        def dispatch() -> None:
            alone = self.invariants.begins_pass(other)
            result = None
            try:
                result = STAGE.jobs(other, self.variant).dispatch(partitions=[partition])
            finally:
                if alone:
                    self.invariants.ends_pass(other, well=result is not None and not result.errors)

        for _ in range(times):
            when = world.now + (1 if self.settling else choices.of((5, 400, 20_000)))
            self.do_at(when, other, f"takes partition {partition}", dispatch)

    def _jump_at(self, when_ms: int) -> None:
        process = self.choices.of((*self.consumers[:2], *self.dispatchers))

        def jump() -> None:
            process.skew_ms = self.choices.of((SKEW_MS, -SKEW_MS, 0))
            process.clock_jumped = True
            self.world.tell(process, f"its clock jumps to {process.skew_ms:+} ms")

        self.world.at(when_ms, jump)

    def person(self) -> Process:
        """Return the person whose turn it is."""
        self.people += 1
        return self.persons[self.people % len(self.persons)]

    def _after_write(self, run_id: str, old: Attributes | None, new: Attributes) -> None:
        """Let things happen just when they hurt: around the end of a lease, while a handler runs, after an end."""
        if self.settling or self.limiting.orderly:
            return
        self.steering.after_write(run_id, old, new)
        self.stepping.after_write(run_id, old, new)
        if self.interventions >= 6:
            return
        choices, world, status = self.choices, self.world, new["status"]
        if status == (None if old is None else old["status"]) and (
            old is None or old.get("lease_token") == new.get("lease_token")
        ):
            return
        what = choices.below(12)
        if what < 6:
            return
        self.interventions += 1
        if status == "running":
            if what < 9:
                when = new["lease_until"] + choices.of((-600, 501, 501, 600))
                if what == 8:
                    self._tick_at(when, self.dispatchers[choices.below(2)])
                else:
                    self._deliver_at(when, run_id)
                if choices.below(2):
                    self._cancel_at(when + choices.of((0, 3, 8)), run_id)
            elif what == 9:
                self._deliver_at(world.now + 1 + choices.of((1, 10, 1_000)), run_id)
            else:
                self._cancel_at(world.now + choices.of((1, 20, 900)), run_id)
        elif status in ("failed", "canceled"):
            when = world.now + choices.of((1, 20, 70_000))
            self._retry_at(when, run_id)
            if what < 8:
                self._retry_at(when + choices.of((3, 1, 0)), run_id)
            if what > 9:
                self._cancel_at(world.now + choices.of((3, 30, 70_001)), run_id)
        elif status in ("queued", "scheduled"):
            if what < 8:
                self._cancel_at(world.now + choices.of((1, 4, 1_003)), run_id)
            elif what == 8:
                self._deliver_at(world.now + choices.of((1, 5, 1_000)), run_id)
            else:
                when = new["wake_at"] + choices.of((1, -SKEW_MS, SKEW_MS + 1))
                self._tick_at(when, self.dispatchers[what % 2])
                if choices.below(4) == 3:
                    self._deliver_at(when + choices.of((8, 16, 3)), run_id)
        elif what < 8:
            self._retry_at(world.now + 1, run_id)
        else:
            self._deliver_at(world.now + 1, run_id)

    def _cancel_at(self, when_ms: int, run_id: str) -> None:
        process = self.person()
        self.do_at(
            when_ms,
            process,
            f"cancels {run_id}",
            lambda: self._know_again(
                "cancel", STAGE.jobs(process, self.variant).cancel(run_id, self.steering.reason())
            ),
        )

    def _retry_at(self, when_ms: int, run_id: str) -> None:
        process = self.person()

        def retry() -> None:
            self.invariants.retrying.add(process)
            from_start = self.stepping.on and self.choices.below(4) == 3
            if from_start:
                self.stepping.restarting.add(process)
            done = STAGE.jobs(process, self.variant).retry(run_id, from_start=from_start)
            self._know_again("retry", done)
            if done and not running().sends:
                self.world.violate("a message follows its run", f"{run_id} was retried, and not sent")

        self.do_at(when_ms, process, f"retries {run_id}", retry)

    def _know_again(self, what: str, done: bool) -> None:
        """Check that a person is told of what the person's own request changed, also when its reply was lost."""
        written = running().written
        if not done and written is not None and self.world.table.items.get(written[0]) is written[1]:
            self.world.violate("a write is known again", f"{what} changed {written[0][0]}, and says it did not")

    # The event source mapping: messages to consumers

    def _deliver_at(self, when_ms: int, run_id: str) -> None:
        body = message_of(run_id)
        self.world.at(max(when_ms, self.world.now), lambda: self._deliver(body, 1))

    def _sent(self, body: str, group: str | None) -> None:
        run_id = run_id_in(body)
        # A run that a restored table did not have may be made again, while its first message still waits. Who gives a
        # run another time sends its message again, and so does who puts it back after an attempt.
        # Where nobody consumes for days, each message is sent again for its age.
        known = self.calm and not self.invariants.restored_at and self.disasters.kind != "messages expire"
        item = self.world.table.items.get((f"run#{run_id}", "run"), {})
        moved = "changed_by" in item or item.get("claims", 0)
        # One that was deleted is there again where a slower pass has put its occurrence.
        moved = moved or ("occurrence" in item and run_id in self.invariants.gone)
        if known and not moved and self.world.queue.undelivered[body] and running().process in self.dispatchers:
            self.world.counts["copy of a message that waits"] += 1
            probed_ms = self.world.table.items.get(("progress#queue", "progress"), {}).get("probed_ms", 0)
            if probed_ms in self.probes:  # each probe sends one message again
                self.world.violate("a message that waits is not taken for lost", f"{run_id} is one of many")
            self.probes.add(probed_ms)
        if body != message_of(run_id) and json.loads(body) != {"version": 1, "kumofireJobRunId": run_id}:
            self.world.violate("a message is of the protocol", body)
        self.invariants.sent(run_id, group)

    def _deliver(self, body: str, receives: int) -> None:
        self.inbox.append((body, receives))
        if len(self.inbox) == 1:
            waits_ms = (30, 30, 4) if self.variant.batch_writes else (0, 0, 4)
            self.world.at(self.world.now + (0 if self.settling else self.choices.of(waits_ms)), self._poll)

    def _poll(self) -> None:
        if not self.inbox:
            return
        free = [each for each in self.consumers if not each.tasks and self.working.takes_messages(each)]
        if not free:
            self._busy_polls += self.settling
            if self._busy_polls > MOST_BUSY_POLLS:  # all of them hang, and somebody restarts one
                self._busy_polls = 0
                self.world.kill(self.consumers[0])
            self.world.at(self.world.now + POLL_MS, self._poll)
            return
        # When all others hang, the last one stays for the settling.
        process = free[0] if self.settling else self.choices.of(free)
        # Some consumers are no functions of an event source mapping, and take each message by itself.
        direct = self.choices.below(4) == 3
        size = 1 if direct or self.working.exists else 3
        batch, self.inbox = self.inbox[:size], self.inbox[size:]
        if self.inbox:
            self.world.at(self.world.now, self._poll)
        receipts = [
            self.world.queue.receive(
                body, receives, VISIBILITY_MS[0] if self.settling else self.choices.of(VISIBILITY_MS)
            )
            for body, receives in batch
        ]
        self.world.start(process, lambda: self._invoke(process, batch, receipts, direct=direct))

    def _invoke(self, process: Process, batch: list[tuple[str, int]], receipts: list[str], *, direct: bool) -> None:
        world, remaining_ms = self.world, self.variant.remaining_ms
        if world.lines is not None:
            world.tell(process, f"receives {[body for body, _ in batch]}{' by itself' if direct else ''}")
        process.invocations += 1
        process.log = None
        incarnation, lives = process.incarnation, [True]
        ends = None if remaining_ms is None else world.now + remaining_ms
        if ends is not None:

            def time_is_up() -> None:
                if lives[0] and process.incarnation == incarnation:
                    world.tell(process, "has reached its deadline")
                    self.invariants.process_ends(process)
                    world.kill(process)

            world.at(ends, time_is_up)
        if self.working.exists:
            renewal.held_by_lease.set(lambda: world.queue.delete(receipts[0]))
        if direct and batch[0][0] not in NO_JSON:
            done = self._consume_alone(process, batch[0][0], ends)
        else:
            done = self._consume_batch(process, batch, receipts, ends)
        lives[0] = False
        for task in list(process.tasks):
            # A worker's process goes on, and with it a renewal that is under way.
            if task is not running() and not self.working.exists:
                world.end(task)
        for index in done:
            if not (world.faults.probability and self.choices.chance(0.1)):
                world.queue.delete(receipts[index])

    def _consume_alone(self, process: Process, body: str, ends: int | None) -> list[int]:
        """Consume one message without a batch; return the records to delete."""
        world = self.world
        deadline = None if ends is None else from_ms(ends + process.skew_ms)
        try:
            result = STAGE.jobs(process, self.variant).consume(json.loads(body), deadline=deadline)
        except MalformedMessageError:
            if body not in MALFORMED:
                world.violate("a malformed message is acknowledged, and no other", body)
            return [0]
        except (ClientError, BotoCoreError, DeadlineTooCloseError, DecryptionError, KeyOutOfReachError) as error:
            if world.lines is not None:
                world.tell(process, f"has not consumed {run_id_in(body)}: {type(error).__name__}")
            if isinstance(error, DecryptionError) or hasattr(error, "of_s3"):
                self.invariants.not_opened(process, run_id_in(body))
            return []
        except Exception as error:
            self._unexpected("a message", error)
            return []
        if body in MALFORMED:
            world.violate("a malformed message is acknowledged, and no other", body)
        world.counts["outcome by itself", result.outcome] += 1
        if world.lines is not None:
            world.tell(process, f"has consumed {result.job_run_id}: {result}")
        self.invariants.consumed(process, result.job_run_id, result.outcome, result.reason, alone=True)
        return [0]

    def _consume_batch(
        self, process: Process, batch: list[tuple[str, int]], receipts: list[str], ends: int | None
    ) -> list[int]:
        """Consume a batch as a function does; return the records that the event source mapping deletes."""
        world, lambda_context = self.world, None
        if ends is not None:
            lambda_context = SimpleNamespace(get_remaining_time_in_millis=lambda: ends - world.now)
            if process.invocations % 4:  # one of four does not say where it logs
                lambda_context.aws_request_id = f"request-{process.invocations}"
                lambda_context.log_stream_name = f"{process}/{process.incarnation}"
                process.log = f"{lambda_context.aws_request_id} {lambda_context.log_stream_name}"
        event = {
            "Records": [
                self._record(index, body, receives, receipts[index]) for index, (body, receives) in enumerate(batch)
            ]
        }
        try:
            report = STAGE.jobs(process, self.variant).run_batch(event, lambda_context)
        except Exception as error:
            self._unexpected("a batch", error)
            return []
        failed = {failure["itemIdentifier"] for failure in report.response()["batchItemFailures"]}
        for index, record in enumerate(report.records):
            result, run_id = record.result, record.job_run_id
            outcome = "none" if result is None else result.outcome
            world.counts["outcome", outcome] += 1
            if result is not None and record.again_in is not None:
                world.counts["kept until it is due"] += 1
            if world.lines is not None:
                world.tell(process, f"has consumed {run_id}: {result or record.malformed or record.failure}")
            if run_id is not None:
                of_run = [each for each in report.records if each.job_run_id == run_id]
                if not any(each.failure for each in of_run):
                    reason = None if result is None else result.reason
                    self.invariants.consumed(process, run_id, outcome, reason, alone=len(of_run) == 1)
            if record.failure is not None and run_id is not None:
                self._not_done(process, run_id, record.failure, alone=len(of_run) == 1)
            if (batch[index][0] in MALFORMED) != (record.malformed is not None):
                world.violate("a malformed message is acknowledged, and no other", batch[index][0])
        if report.stray_handlers and ends is not None:  # a function ends its execution environment then
            world.counts["ended for stray handlers"] += 1
            world.kill(process)
            raise DiedError
        return [index for index in range(len(batch)) if f"m{index}" not in failed]

    def _record(self, index: int, body: str, receives: int, receipt: str) -> dict[str, Any]:
        attributes = {"ApproximateReceiveCount": str(receives)}
        if (sent_ms := self.world.queue.sent_ms.get(body)) is not None:
            attributes["SentTimestamp"] = str(sent_ms)
        return {"messageId": f"m{index}", "body": body, "receiptHandle": receipt, "attributes": attributes}

    def _not_done(self, process: Process, run_id: str, failure: str, *, alone: bool) -> None:
        if failure.startswith(f"run#{run_id} payload is encrypted") and self.variant.sealed:
            if alone:
                self.invariants.not_opened(process, run_id)
        elif self.variant.sealed and failure.startswith(f"run#{run_id} ") and " is encrypted and can't" in failure:
            pass  # what it has kept; see ``_given_back``
        elif not failure.removeprefix(f"run#{run_id}: ").startswith(UNDONE):
            self.world.violate("a record fails for what could not be done", failure)

    # Handlers

    def handle(self, context: Any) -> Any:
        """Do what a handler may do."""
        process = running().process
        attempt = self.invariants.started(context, process)
        self.batching.started(context)
        if context.run.job_name in self.asynchronous:
            return AsyncHandler(self, context, attempt)
        state, value = "raised", None
        try:
            self.stepping.go_through(context, attempt)
            value = self._behave(context, process, attempt)
            try:
                json.dumps(value)
                state = "returned"
            except TypeError:
                state = "returned no JSON"
            return value
        except Suspension:
            state = "suspended"
            raise
        except StepsBroken as broken:
            state = "out of reach" if isinstance(broken.error, DecryptionError) else "raised"
            raise
        except DiedError:
            state = "cut" if running().abandoned else "died"
            raise
        finally:
            self.invariants.ended(attempt, state, value)

    def _behave(self, context: Any, process: Process, attempt: Attempt) -> Any:
        world, choices, lease_until = self.world, self.choices, attempt.lease_until
        if self.limiting.orderly:
            return self.limiting.handle()
        if self.settling:
            if choices.below(6) == 5:
                raise RuntimeError("boom")
            return f"done by {attempt.claims}"
        self.telling.tell(context, attempt, pauses=True)
        if (error := self.steering.raised(context)) is not None:
            raise error
        what = choices.below(20)
        if context.fencing_token > 1 and choices.below(4):
            what = 7  # the one it was taken from may come back meanwhile
        elif self.variant.batch_writes and choices.below(2):
            what = choices.of((0, 0, 3, 4))  # at once, as the others of its batch
        if what < 4:
            return None if what == 3 else f"done by {attempt.claims}"
        if what < 7:
            raise RuntimeError("boom")
        if what < 9:
            world.pause(choices.of((1_000, 100, 4_000)))
        elif what < 16:
            beyond = choices.of((700, 100, -100, -700, 3_000, 62_000))
            if choices.below(4):
                self._deliver_at(lease_until + SKEW_MS + 1, context.run.id)
            world.pause(max(0, lease_until - world.now - process.skew_ms + beyond))
        elif what == 16:
            world.pause(choices.of((10, 1_500)))
            if context.cancel_requested():
                raise RuntimeError("canceled")
        elif what == 17:
            return object()
        elif what == 18:
            raise GiveUpError
        else:
            if choices.below(2):
                world.kill(process)
                raise DiedError
            if self.working.exists and context.run.job_name != "timed":
                world.pause(choices.of((30_000, 3 * self.working.lease_ms)))
            else:
                world.suspend()
        if choices.below(2):
            raise choices.of((RuntimeError, GiveUpError))("late boom")
        return {"late by": [attempt.claims]}


def play(
    choices: Choices, counts: Counter[Count] | None = None, *, record: bool = False
) -> tuple[Play, Violation | None]:
    """Play one history and return it with what it violated, if anything. What happens in it is added to ``counts``."""
    history = Play(choices, counts, record=record)
    try:
        history.run()
    except Violation as violation:
        return history, violation
    return history, None


__all__ = ["Play", "play", "simulated_engine"]

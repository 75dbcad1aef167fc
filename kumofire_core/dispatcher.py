"""The dispatcher: reads who must be looked at, and makes the one transition that fits each.

Everything unfinished has a wake-up in the index, so one pass finds whatever was lost: a message, a send, a worker. A
conditional write comes first and a look at the item only when it fails; so two dispatchers at once, a stale index entry
or a crash between any two requests do no harm. Free of clients and of the form of requests.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from botocore.exceptions import BotoCoreError, ClientError

from kumofire_core import transitions
from kumofire_core.attempt import InFlight, Threads
from kumofire_core.deadline import Deadline
from kumofire_core.errors import CorruptItemError, KumofireError
from kumofire_core.failure import error_name, error_text, lost_attempt
from kumofire_core.message import MAX_RUN_ID_LENGTH
from kumofire_core.queue import Queue
from kumofire_core.retry import next_attempt_at
from kumofire_core.run import RunStatus, StoredRun
from kumofire_core.runs import RUN, Runs, new_token
from kumofire_core.schedule_item import SCHEDULE_SHARD
from kumofire_core.schedules import SCHEDULE, Schedules, Step
from kumofire_core.table import Key, WakeUp
from kumofire_core.times import duration_ms, whole_seconds_until

log = logging.getLogger("kumofire_core")

LOOK_AHEAD = timedelta(seconds=90)
"""How far ahead of its time a run is sent, with a delay. More than a tick, so that a late tick makes no run late."""

BACKLOG = 100
"""With more messages waiting than this, a queued run's message is taken to be among them, and not for lost."""

BACKLOG_DOUBTED_AFTER = timedelta(minutes=30)
"""A run that has been queued for longer is sent again, however long the queue; and from then on once an hour."""

CHUNK = 10
"""Wake-ups handled one after the other, then sent in one request: the size of an SQS batch."""

STEPS_A_PASS = 100
"""How often a schedule that is behind gets its turn in one pass, with ten occurrences each time."""

PAGE_SIZE = 500
CHUNKS_IN_FLIGHT = 16
"""Chunks under way at once. botocore's requests are bound by the network up to about here on one core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchResult:
    """What one pass of the dispatcher did."""

    dispatched: int = 0
    """Runs whose time has come, or will before the next pass, and whose message was sent."""
    schedules: int = 0
    """Occurrences of schedules that became runs."""
    resent: int = 0
    """Queued runs whose message seemed lost, sent again."""
    postponed: int = 0
    """Queued runs left alone although no consumer has come, because the queue is long."""
    recovered: int = 0
    """Runs whose worker was lost, put back for their next attempt."""
    failed: int = 0
    """Runs whose worker was lost in their last attempt."""
    canceled: int = 0
    """Runs whose worker was lost after their cancellation had been asked for."""
    unsent: int = 0
    """Messages that SQS did not take. Their runs have a wake-up, and a later pass sends them."""
    errors: int = 0
    """Wake-ups that could not be handled, each with a line in the log. A later pass finds them again."""
    unread: int = 0
    """Partitions of the index that could not be read, each with a line in the log."""
    complete: bool = True
    """Whether all that was due was looked at. What the limit or the time cut off is left to the next pass."""


class PartlyDispatchedError(KumofireError):
    """Partitions of the wake-up index could not be read. The others were handled; the cause is what botocore raised."""

    def __init__(self, result: DispatchResult, cause: Exception) -> None:
        self.result = result
        """What the pass did."""
        super().__init__(
            f"{result.unread} partitions of the wake-up index could not be read ({error_name(cause)}); "
            "the others were handled, and the next pass reads all of them again"
        )


class _Tally:
    """What a pass has done so far; its chunks count at the same time."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self.complete = True
        self.first_error: Exception | None = None
        self._queue_is_long: bool | None = None
        self._behind: list[WakeUp] = []

    def add(self, name: str, count: int = 1) -> None:
        with self._lock:
            self._counts[name] += count

    def queue_is_long(self, queue: Queue) -> bool:
        """Say whether messages pile up, asked once a pass; copies would only make the pile larger."""
        with self._asking:
            if self._queue_is_long is None:
                self._queue_is_long = (queue.backlog() or 0) > BACKLOG
            return self._queue_is_long

    def is_behind(self, schedule: WakeUp) -> None:
        """Note a schedule of which more is due."""
        with self._lock:
            self._behind.append(schedule)

    def take_behind(self) -> list[WakeUp]:
        """Return the schedules that were noted, and forget them."""
        with self._lock:
            behind, self._behind = self._behind, []
        return behind

    def errors(self) -> int:
        return self._counts["errors"]

    def result(self) -> DispatchResult:
        return DispatchResult(**self._counts, complete=self.complete)


class Dispatcher:
    """One pass over the wake-ups at a time; passes may overlap, in one process or in many."""

    def __init__(self, runs: Runs, schedules: Schedules, threads: Threads) -> None:
        self._runs = runs
        self._schedules = schedules
        self._threads = threads

    def dispatch(self, *, limit: int | None, deadline: Deadline | None) -> DispatchResult:
        """Look at all that is due until nothing is, ``limit`` wake-ups were looked at, or the time is nearly up.

        Raises ``PartlyDispatchedError`` where a partition of the index could not be read, after handling the others.
        """
        tally = _Tally()
        until_ms = self._runs.now_ms() + duration_ms(LOOK_AHEAD)
        if limit is None:
            self._handle_all(until_ms, tally, deadline)
        else:
            self._handle_some(until_ms, limit, tally, deadline)
        if tally.first_error is not None:
            raise PartlyDispatchedError(tally.result(), tally.first_error) from tally.first_error
        return tally.result()

    def _handle_all(self, until_ms: int, tally: _Tally, deadline: Deadline | None) -> None:
        """Handle everything, schedules first, many chunks at once."""
        in_flight = InFlight(self._threads, CHUNKS_IN_FLIGHT)
        for shard in self._shards():
            for page in self._pages(shard, until_ms, tally):
                if not self._start(page, in_flight, tally, deadline):
                    in_flight.finish()
                    return
        in_flight.finish()
        self._make_up(tally, deadline)

    def _start(self, wake_ups: list[WakeUp], in_flight: InFlight, tally: _Tally, deadline: Deadline | None) -> bool:
        """Start handling wake-ups, chunk by chunk; ``False`` where the time was up before all were started."""
        for start in range(0, len(wake_ups), CHUNK):
            if deadline is not None and deadline.too_close_to_start():
                tally.complete = False
                return False
            in_flight.start(partial(self._handle, wake_ups[start : start + CHUNK], tally, deadline))
        return True

    def _make_up(self, tally: _Tally, deadline: Deadline | None) -> None:
        """Go on with the schedules that are behind, a step of each in turn, so that none keeps another waiting.

        One that is far behind, or whose stored time says so, gets no more than ``STEPS_A_PASS`` out of a pass.
        """
        behind = tally.take_behind()
        for _ in range(STEPS_A_PASS - 1):
            if not behind:
                return
            in_flight = InFlight(self._threads, CHUNKS_IN_FLIGHT)
            in_time = self._start(behind, in_flight, tally, deadline)
            in_flight.finish()
            if not in_time:
                return
            behind = tally.take_behind()
        for wake_up in behind:
            tally.complete = False
            log.warning("schedule#%s is far behind; the next pass goes on with it", wake_up.key.id)

    def _handle_some(self, until_ms: int, limit: int, tally: _Tally, deadline: Deadline | None) -> None:
        """Handle the earliest ``limit``. What can't be handled does not count, or it would be in the way for good."""
        earliest: list[WakeUp] = []
        for shard in self._shards():
            taken: list[WakeUp] = []
            for page in self._pages(shard, until_ms, tally):
                taken += page
                if len(taken) > limit + PAGE_SIZE:
                    break
            earliest += taken
        earliest.sort(key=lambda wake_up: wake_up.wake_at)
        handled = 0
        while earliest and handled < limit and not (deadline is not None and deadline.too_close_to_start()):
            size = min(CHUNK, limit - handled)
            chunk, earliest, errors = earliest[:size], earliest[size:], tally.errors()
            self._handle(chunk, tally, deadline)
            handled += len(chunk) - (tally.errors() - errors)
        tally.complete = tally.complete and not earliest
        self._make_up(tally, deadline)

    def _shards(self) -> tuple[int, ...]:
        return (SCHEDULE_SHARD, *range(self._runs.wake_shards))

    def _pages(self, shard: int, until_ms: int, tally: _Tally) -> Iterator[list[WakeUp]]:
        """Yield the pages of one partition. One that can't be read is told once the others are handled."""
        try:
            yield from self._runs.table.wake_ups(shard, until_ms=until_ms, page_size=PAGE_SIZE)
        except (BotoCoreError, ClientError) as error:
            log.error("partition %d of the wake-up index could not be read: %s", shard, error_name(error))
            tally.first_error = tally.first_error or error
            tally.add("unread")
            tally.complete = False

    def _handle(self, wake_ups: list[WakeUp], tally: _Tally, deadline: Deadline | None) -> None:
        """Make the transition that fits each wake-up, send the messages that follow, and let the schedules go on."""
        delays: dict[str, int] = {}
        steps: list[tuple[WakeUp, Step]] = []
        for wake_up in wake_ups:
            if deadline is not None and deadline.too_close_to_start():
                tally.complete = False
                break  # what is marked as sent must still be sent
            with _failing_alone(wake_up.key, tally):
                _require_id_of_ours(wake_up.key)
                if wake_up.key.kind == RUN:
                    self._look_at_run(wake_up, delays, tally)
                elif wake_up.key.kind == SCHEDULE:
                    step = self._begin(wake_up.key.id, delays, tally)
                    if step is not None:
                        steps.append((wake_up, step))
        if delays:
            tally.add("unsent", len(self._runs.queue.try_send_many(delays)))
        for wake_up, step in steps:
            with _failing_alone(wake_up.key, tally):
                if self._schedules.finish(step):
                    tally.is_behind(wake_up)

    def _begin(self, schedule_id: str, delays: dict[str, int], tally: _Tally) -> Step | None:
        already = len(delays)
        try:
            return self._schedules.begin(schedule_id, delays, look_ahead=LOOK_AHEAD)
        finally:
            tally.add("schedules", len(delays) - already)

    def _look_at_run(self, wake_up: WakeUp, delays: dict[str, int], tally: _Tally) -> None:
        run_id, token, now_ms = wake_up.key.id, new_token(), self._runs.now_ms()
        if wake_up.wake_at > now_ms:
            ahead = transitions.send_ahead(token, due_ms=wake_up.wake_at, now_ms=now_ms)
            if self._runs.apply(run_id, ahead).applied:
                delays[run_id] = whole_seconds_until(wake_up.wake_at, now_ms)
                tally.add("dispatched")
            return
        answer = self._runs.apply(run_id, transitions.enqueue(token, now_ms=now_ms))
        if answer.applied:
            delays[run_id] = 0
            tally.add("dispatched")
            return
        if answer.item is None:
            return  # the index still shows what is deleted
        found = self._runs.read(run_id, answer.item)
        if found.status is RunStatus.RUNNING:
            self._look_at_running(found, token, now_ms, delays, tally)
            return
        # Finished, or sent or put back meanwhile: the index was behind.
        if found.status is not RunStatus.QUEUED or found.wake_at is None or found.wake_at > now_ms:
            return
        queued_for_ms = now_ms - found.updated_at
        long = tally.queue_is_long(self._runs.queue)
        if long and queued_for_ms < duration_ms(BACKLOG_DOUBTED_AFTER):
            if self._runs.apply(run_id, transitions.wait_longer(found, token, now_ms=now_ms)).applied:
                tally.add("postponed")
        elif self._runs.apply(run_id, transitions.resend(found, token, now_ms=now_ms, rarely=long)).applied:
            delays[run_id] = 0
            tally.add("resent")

    def _look_at_running(
        self, found: StoredRun, token: str, now_ms: int, delays: dict[str, int], tally: _Tally
    ) -> None:
        run = found.run
        if found.lease_until is not None and found.lease_until > now_ms:
            if found.wake_at is not None and found.wake_at < found.lease_until:
                self._runs.apply(run.id, transitions.look_again(found, token))
            return
        lost = lost_attempt(run.attempt + 1, found.lease_until)
        error, expires_at = error_text(lost), self._runs.expires_at(now_ms)
        due_ms = next_attempt_at(self._runs.registry.policy(run.job_name), run, lost, now_ms=now_ms)
        if run.cancel_requested:
            end = transitions.cancel_expired(found, token, now_ms=now_ms, error=error, expires_at=expires_at)
            came_to = "canceled"
        elif due_ms is None:
            end = transitions.fail_expired(found, token, now_ms=now_ms, error=error, expires_at=expires_at)
            came_to = "failed"
        else:
            end = transitions.reschedule_expired(found, token, now_ms=now_ms, due_ms=due_ms, error=error)
            came_to = "recovered"
        if not self._runs.apply(run.id, end).applied:
            return  # its consumer came back in this instant, or another took it over
        log.warning("the worker of a run was lost; the run is %s", end.target, extra={"job_run_id": run.id})
        tally.add(came_to)
        if due_ms is not None and end.target is RunStatus.SCHEDULED:
            delay_seconds = transitions.message_delay_seconds(due_ms, now_ms)
            if delay_seconds is not None:
                delays[run.id] = delay_seconds


@contextmanager
def _failing_alone(key: Key, tally: _Tally) -> Iterator[None]:
    """Log and count what goes wrong with one item: a corrupt one, or a throttled request, must not stop the others."""
    try:
        yield
    except Exception as error:
        what = str(error) if isinstance(error, KumofireError) else error_name(error)
        log.error("%s#%s could not be dispatched: %s", key.kind, key.id, what)
        tally.add("errors")


def _require_id_of_ours(key: Key) -> None:
    """Raise ``CorruptItemError`` for an id that no message may carry: it would be refused as malformed for ever."""
    if len(key.id) > MAX_RUN_ID_LENGTH or not key.id.isprintable():
        problem = f"its id of {len(key.id)} characters is none of ours, which have at most {MAX_RUN_ID_LENGTH}"
        raise CorruptItemError(f"{key.kind}#{key.id[:80]!r}", f"{problem} and are printable")

"""The dispatcher: it reads the wake-up index, and makes the one transition that fits each entry.

Every unfinished run has a wake-up in the index, so one pass finds whatever was lost: a message, a send, or a worker.
Each transition is a conditional write; the item is read only after a refusal. So two dispatchers at once, a stale index
entry, or a crash between any two requests do no harm.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import chain

from kumofire_core.aws.dynamodb import WakeUp
from kumofire_core.aws.errors import AWS_ERRORS
from kumofire_core.engine.progress import read_progress, start_probe
from kumofire_core.engine.resuming import Resuming
from kumofire_core.engine.run_store import RUN, RunStore, new_token
from kumofire_core.engine.schedule_firing import Firing, ScheduleFiring
from kumofire_core.engine.schedule_store import SCHEDULE
from kumofire_core.errors import CorruptItemError, KumofireError
from kumofire_core.handlers.deadline import Deadline
from kumofire_core.handlers.handler_pool import BoundedPool, HandlerPool
from kumofire_core.model.error_text import error_name
from kumofire_core.model.message import MAX_RUN_ID_LENGTH, Sending
from kumofire_core.model.pauses import PAUSES, Pauses, read_pauses
from kumofire_core.model.run import Outcome, RunStatus
from kumofire_core.model.run_item import StoredRun, group_of
from kumofire_core.model.times import duration_ms, whole_seconds_until
from kumofire_core.model.write import Key
from kumofire_core.rules import decisions, run_writes, wake_ups
from kumofire_core.rules.schedule_writes import SCHEDULE_SHARD
from kumofire_core.rules.wake_ups import LEAST_SHARDS_READ, Progress, message_delay_seconds

log = logging.getLogger("kumofire_core")

LOOK_AHEAD = timedelta(seconds=90)
"""How far ahead of its time a run is sent, with a delay. More than a tick, so that a late tick makes no run late."""

BATCH = "batch"
"""The kind of a batch's item. What knows more of it is imported where there is one."""

CHUNK = 10
"""Wake-ups handled one after the other, then sent in one request: the size of an SQS batch."""

TURNS_A_PASS = 100
"""How often a schedule that is behind gets its turn in one pass, with ten occurrences each time."""

_WAITING = (RunStatus.SCHEDULED, RunStatus.QUEUED)

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
    """Runs left alone although no consumer has come: their messages may still wait in the queue, or their jobs are
    paused."""
    recovered: int = 0
    """Runs whose worker was lost, put back for their next attempt."""
    failed: int = 0
    """Runs whose worker was lost in their last attempt."""
    canceled: int = 0
    """Runs whose worker was lost after their cancellation had been asked for."""
    unsent: int = 0
    """Messages that SQS did not take. Their runs have a wake-up, and a later pass sends them."""
    refused: int = 0
    """Messages that SQS refuses for a reason that will not pass by itself: the log says which, and what to do."""
    errors: int = 0
    """Wake-ups that could not be handled, each with a line in the log. A later pass finds them again."""
    handed_over: int = 0
    """Partitions of the index with more than a page of due wake-ups, given to dispatchers of their own."""
    resumed: int = 0
    """Runs of jobs that were resumed, which consumers had put aside, and whose message was sent."""
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
        self._queue: tuple[int | None, Progress] | None = None
        self._probed = False
        self._pauses: Pauses | None = None
        self._behind: list[WakeUp] = []

    def add(self, name: str, count: int = 1) -> None:
        with self._lock:
            self._counts[name] += count

    def queue(self, store: RunStore) -> tuple[int | None, Progress]:
        """Return how many messages wait and how far consumers have come, asked once a pass."""
        with self._asking:
            if self._queue is None:
                waiting = store.queue.waiting()
                self._queue = waiting, Progress() if waiting == 0 else read_progress(store)
            return self._queue

    def pauses(self, store: RunStore) -> Pauses:
        """Return which jobs are paused, and which are being resumed, read once a pass."""
        with self._asking:
            if self._pauses is None:
                self._pauses = read_pauses(store.table.get(PAUSES))
            return self._pauses

    def may_probe(self, store: RunStore, now_ms: int) -> bool:
        """Say whether this one message is to show whether consumers come on: one of a pass, and not in every pass."""
        _, progress = self.queue(store)
        with self._asking:
            if self._probed or not wake_ups.may_probe(progress, now_ms):
                return False
            self._probed = True
            return start_probe(store, progress, now_ms)

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

    def __init__(self, store: RunStore, schedules: ScheduleFiring, pool: HandlerPool) -> None:
        self._store = store
        self._schedules = schedules
        self._pool = pool

    def dispatch(
        self,
        *,
        limit: int | None,
        deadline: Deadline | None,
        partitions: Collection[int] | None = None,
        hand_over: Callable[[int], object] | None = None,
    ) -> DispatchResult:
        """Look at all that is due until nothing is, ``limit`` wake-ups were looked at, or the time is nearly up.

        Runs of jobs that were resumed come after that, ``limit`` of them. Only ``partitions`` are looked at, where they
        are given, and no resumed job. ``hand_over`` is called with each partition of which
        more than a page is due, and gives it to another dispatcher; where it raises, this one does the work.
        Raises ``PartlyDispatchedError`` where a partition of the index could not be read, after handling the others.
        """
        tally = _Tally()
        until_ms = self._store.now_ms() + duration_ms(LOOK_AHEAD)
        if limit is None:
            self._handle_all(until_ms, tally, deadline, self._chosen(partitions, tally), hand_over)
        else:
            self._handle_some(until_ms, limit, tally, deadline, self._chosen(partitions, tally))
        if partitions is None:
            with _failing_alone(PAUSES, tally):
                self._resume(limit, tally, deadline)
        if refused := self._store.queue.take_refused():
            tally.add("refused", refused)
        if self._store.hooks is not None:
            self._store.hooks.finish(deadline)
        if tally.first_error is not None:
            raise PartlyDispatchedError(tally.result(), tally.first_error) from tally.first_error
        return tally.result()

    def _handle_all(
        self,
        until_ms: int,
        tally: _Tally,
        deadline: Deadline | None,
        shards: Collection[int],
        hand_over: Callable[[int], object] | None,
    ) -> None:
        """Handle everything, schedules first, many chunks at once."""
        own: list[Iterator[list[WakeUp]]] = []
        for shard in shards:
            pages = self._pages(shard, until_ms, tally)
            if hand_over is None or shard == SCHEDULE_SHARD:
                own.append(pages)
                continue
            first = next(pages, [])
            if len(first) < PAGE_SIZE or not _handed_over(shard, hand_over, tally):
                own.append(chain([first], pages))
        in_flight = BoundedPool(self._pool, CHUNKS_IN_FLIGHT)
        for pages in own:
            for page in pages:
                if not self._start(page, in_flight, tally, deadline):
                    in_flight.finish()
                    return
        in_flight.finish()
        self._make_up(tally, deadline)

    def _start(self, wake_ups: list[WakeUp], in_flight: BoundedPool, tally: _Tally, deadline: Deadline | None) -> bool:
        """Start handling wake-ups, chunk by chunk; ``False`` where the time was up before all were started."""
        for start in range(0, len(wake_ups), CHUNK):
            if deadline is not None and deadline.too_close_to_start():
                tally.complete = False
                return False
            in_flight.start(partial(self._handle, wake_ups[start : start + CHUNK], tally, deadline))
        return True

    def _make_up(self, tally: _Tally, deadline: Deadline | None) -> None:
        """Go on with the schedules that are behind, one firing of each in turn, so that none keeps another waiting.

        One that is far behind, or whose stored time says so, gets no more than ``TURNS_A_PASS`` out of a pass.
        """
        behind = tally.take_behind()
        for _ in range(TURNS_A_PASS - 1):
            if not behind:
                return
            in_flight = BoundedPool(self._pool, CHUNKS_IN_FLIGHT)
            in_time = self._start(behind, in_flight, tally, deadline)
            in_flight.finish()
            if not in_time:
                return
            behind = tally.take_behind()
        for wake_up in behind:
            tally.complete = False
            log.warning("schedule#%s is far behind; the next pass goes on with it", wake_up.key.id)

    def _handle_some(
        self, until_ms: int, limit: int, tally: _Tally, deadline: Deadline | None, shards: Collection[int]
    ) -> None:
        """Handle the earliest ``limit``. What can't be handled does not count, or it would be in the way for good."""
        earliest: list[WakeUp] = []
        for shard in shards:
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

    def _resume(self, limit: int | None, tally: _Tally, deadline: Deadline | None) -> None:
        """Send the runs of jobs that were resumed, after all else that is due."""
        if deadline is not None and deadline.too_close_to_start():
            tally.complete = False
            return
        released = Resuming(self._store, self._pool, tally.pauses(self._store)).release(deadline=deadline, most=limit)
        for name in ("resumed", "unsent", "errors"):
            if count := getattr(released, name):
                tally.add(name, count)
        tally.complete = tally.complete and released.complete

    def _shards(self, tally: _Tally) -> tuple[int, ...]:
        """Return the partitions to read: all that any process writes to, or its own where that can't be found out."""
        try:
            shards = self._store.shards_to_read()
        except AWS_ERRORS as error:
            log.error("the number of the wake-up index's partitions could not be read: %s", error_name(error))
            tally.first_error = error
            tally.add("unread")
            tally.complete = False
            shards = max(self._store.wake_shards, LEAST_SHARDS_READ)
        return (SCHEDULE_SHARD, *range(shards))

    def _chosen(self, partitions: Collection[int] | None, tally: _Tally) -> Collection[int]:
        return self._shards(tally) if partitions is None else sorted(set(partitions))

    def _pages(self, shard: int, until_ms: int, tally: _Tally) -> Iterator[list[WakeUp]]:
        """Yield the pages of one partition. One that can't be read is told once the others are handled."""
        try:
            yield from self._store.table.wake_ups(shard, until_ms=until_ms, page_size=PAGE_SIZE)
        except AWS_ERRORS as error:
            log.error("partition %d of the wake-up index could not be read: %s", shard, error_name(error))
            tally.first_error = tally.first_error or error
            tally.add("unread")
            tally.complete = False

    def _handle(self, wake_ups: list[WakeUp], tally: _Tally, deadline: Deadline | None) -> None:
        """Make the transition that fits each wake-up, send the messages that follow, and let the schedules go on."""
        sendings: dict[str, Sending] = {}
        firings: list[tuple[WakeUp, Firing]] = []
        for wake_up in wake_ups:
            if deadline is not None and deadline.too_close_to_start():
                tally.complete = False
                break  # what is marked as sent must still be sent
            with _failing_alone(wake_up.key, tally):
                _require_id_of_ours(wake_up.key)
                if wake_up.key.kind == RUN:
                    self._look_at_run(wake_up, sendings, tally)
                elif wake_up.key.kind == BATCH:
                    self._look_at_batch(wake_up, deadline)
                elif wake_up.key.kind == SCHEDULE:
                    firing = self._fire(wake_up.key.id, sendings, tally)
                    if firing is not None:
                        firings.append((wake_up, firing))
        if sendings:
            tally.add("unsent", len(self._store.queue.try_send_many(sendings)))
        for wake_up, firing in firings:
            with _failing_alone(wake_up.key, tally):
                if self._schedules.advance(firing):
                    tally.is_behind(wake_up)

    def _fire(self, schedule_id: str, sendings: dict[str, Sending], tally: _Tally) -> Firing | None:
        already = len(sendings)
        try:
            return self._schedules.fire(schedule_id, sendings, look_ahead=LOOK_AHEAD)
        finally:
            tally.add("schedules", len(sendings) - already)

    def _look_at_batch(self, wake_up: WakeUp, deadline: Deadline | None) -> None:
        """Count what was lost of a batch. Its time may be ahead, as that of a run that is sent ahead of its time."""
        if wake_up.wake_at <= self._store.now_ms():
            from kumofire_core.engine.batch_looks import look_at_batch  # most tables hold no batch

            look_at_batch(self._store, wake_up.key.id, deadline)

    def _look_at_run(self, wake_up: WakeUp, sendings: dict[str, Sending], tally: _Tally) -> None:
        run_id, token, now_ms = wake_up.key.id, new_token(), self._store.now_ms()
        if wake_up.wake_at > now_ms:
            ahead = run_writes.send_ahead(token, due_ms=wake_up.wake_at, now_ms=now_ms)
            answer = self._store.apply(run_id, ahead, read_back=True)
            if answer.applied:
                sendings[run_id] = Sending(whole_seconds_until(wake_up.wake_at, now_ms), group_of(answer.item))
                tally.add("dispatched")
            return
        unsent = run_writes.enqueue(token, now_ms=now_ms, wake_at=wake_up.wake_at, due_ms=wake_up.wake_at)
        answer = self._store.apply(run_id, unsent, read_back=True)
        if answer.applied:
            sendings[run_id] = Sending(0, group_of(answer.item))
            tally.add("dispatched")
            return
        if answer.item is None:
            return  # the index still shows what is deleted
        found = self._store.read(run_id, answer.item, payload_required=False)  # the consumer decides about a payload
        if found.status is RunStatus.RUNNING:
            self._look_at_running(found, token, now_ms, sendings, tally)
            return
        # Finished, or sent or put back meanwhile: the index was behind.
        if found.wake_at is not None and found.wake_at <= now_ms and found.status in _WAITING:
            self._look_at_waiting(found, token, now_ms, sendings, tally)

    def _look_at_waiting(
        self, found: StoredRun, token: str, now_ms: int, sendings: dict[str, Sending], tally: _Tally
    ) -> None:
        """Send a run's message again that consumers should have come to, unless it may still wait in the queue."""
        if found.is_parked and found.status is RunStatus.SCHEDULED:  # an earlier release may have sent it
            self._look_at_parked(found, token, now_ms, sendings, tally)
            return
        if found.awaits_slot is not None and found.status is RunStatus.SCHEDULED:
            self._look_at_limited(found, found.awaits_slot, token, now_ms, tally)
            return
        scheduled, wake_at = found.status is RunStatus.SCHEDULED, found.wake_at or 0
        sent_ms = found.due_ms if scheduled else found.updated_at
        rarely = False
        if not (scheduled and wake_at <= found.due_ms):  # nobody has sent that one yet
            waiting, progress = tally.queue(self._store)
            if not wake_ups.is_lost(sent_ms, waiting=waiting, progress=progress):
                rarely = wake_ups.is_overdue_untold(sent_ms, now_ms=now_ms, progress=progress)
                if not rarely and not tally.may_probe(self._store, now_ms):
                    look_at = wake_ups.look_again_at(sent_ms, now_ms=now_ms, progress=progress)
                    if self._store.apply(found.id, run_writes.wait_longer(found, token, look_at=look_at)).applied:
                        tally.add("postponed")
                    return
        if scheduled:
            again = run_writes.enqueue(token, now_ms=now_ms, wake_at=wake_at, due_ms=found.due_ms)
        else:
            again = run_writes.resend(found, token, now_ms=now_ms, rarely=rarely)
        answer = self._store.apply(found.id, again, read_back=True)
        if answer.applied:
            sendings[found.id] = Sending(0, group_of(answer.item))
            tally.add("dispatched" if scheduled else "resent")

    def _look_at_parked(
        self, found: StoredRun, token: str, now_ms: int, sendings: dict[str, Sending], tally: _Tally
    ) -> None:
        """Leave a run aside whose job is still paused, or send it where resuming did not find it."""
        if tally.pauses(self._store).is_paused(found.job_name, now_ms):
            look_at = now_ms + run_writes.PARKED_LOOK_MS
            if self._store.apply(found.id, run_writes.wait_longer(found, token, look_at=look_at)).applied:
                tally.add("postponed")
            return
        unpark = run_writes.unpark(token, due_ms=found.due_ms, now_ms=now_ms)
        answer = self._store.apply(found.id, unpark, read_back=True)
        if answer.applied:
            sendings[found.id] = Sending(0, group_of(answer.item))
            tally.add("resumed")

    def _look_at_limited(self, found: StoredRun, item_id: str, token: str, now_ms: int, tally: _Tally) -> None:
        """See that the line goes on before a limit's slots, in which a run has waited for long, and leave it there."""
        from kumofire_core.engine.limits import Line

        if Line(self._store).look(found, item_id):
            tally.add("dispatched")
            return
        look_at = run_writes.look_at_limited(found, now_ms=now_ms)
        if self._store.apply(found.id, run_writes.wait_longer(found, token, look_at=look_at)).applied:
            tally.add("postponed")

    def _look_at_running(
        self, found: StoredRun, token: str, now_ms: int, sendings: dict[str, Sending], tally: _Tally
    ) -> None:
        run = found.run
        if found.lease_until is not None and found.lease_until > now_ms:
            if found.wake_at is not None and found.wake_at < found.lease_until:
                self._store.apply(run.id, run_writes.look_again(found, token))
            return
        rules, expires_at = self._store.registry.rules(run.job_name), self._store.expires_at(now_ms)
        end = decisions.after_lost_worker(found, token, rules, now_ms=now_ms, expires_at=expires_at)
        if not self._store.apply(run.id, end.write).applied:
            return  # its consumer came back in this instant, or another took it over
        log.warning("the worker of a run was lost; the run is %s", end.write.target, extra={"job_run_id": run.id})
        if end.outcome is not Outcome.RETRIED:
            self._store.ended(found, end.write.target)
        self._store.tell(end.outcome, found, end.write, attempt=found.attempt + 1, error_type=end.error_type)
        tally.add("recovered" if end.outcome is Outcome.RETRIED else end.outcome)
        if end.due_ms is not None:
            delay_seconds = message_delay_seconds(end.due_ms, now_ms)
            if delay_seconds is not None:
                sendings[run.id] = Sending(delay_seconds, found.group)


def _handed_over(shard: int, hand_over: Callable[[int], object], tally: _Tally) -> bool:
    """Give a partition to another dispatcher; ``False`` where that failed, and the work is this one's."""
    try:
        hand_over(shard)
    except Exception as error:
        log.warning("partition %d could not be handed over (%s); this pass handles it", shard, error_name(error))
        return False
    tally.add("handed_over")
    return True


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
        raise CorruptItemError(
            f"{key.kind}#{key.id[:80]!r}",
            f"its id of {len(key.id)} characters is not one of this library's, which have at most {MAX_RUN_ID_LENGTH} "
            "and are printable",
        )

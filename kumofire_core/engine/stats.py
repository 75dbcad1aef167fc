"""What the system holds and does now, in one answer that costs a bounded number of reads and is shared by its askers.

Every number is of some seconds ago, and says so where it is not all that there is.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, TypeVar

from kumofire_core.aws.dynamodb import LISTING_INDEX, WAKE_INDEX
from kumofire_core.aws.errors import AWS_ERRORS, is_access_denied, note_of
from kumofire_core.engine.counts import (
    COUNTS,
    KEPT_MINUTES,
    MILLISECONDS,
    MOST_NAMES,
    OTHER,
    counts_keys,
    minute_of,
)
from kumofire_core.engine.pauses import Pause, pauses
from kumofire_core.engine.progress import read_progress
from kumofire_core.engine.run_store import RUN, RunStore, run_key
from kumofire_core.errors import InvalidArgumentError, short_repr
from kumofire_core.handlers.handler_pool import BoundedPool, HandlerPool
from kumofire_core.model import json_codec
from kumofire_core.model.error_text import error_name
from kumofire_core.model.run import Outcome, RunStatus
from kumofire_core.model.times import LAST_MS, from_ms, to_ms
from kumofire_core.model.write import SCHEMA, Attributes, Key, text_bytes
from kumofire_core.rules.listing import PARKED, list_shards

log = logging.getLogger("kumofire_core")

SHARED_MS = 5_000
"""How old an answer may be that is given to another asker."""
CLOCKS_APART_MS = 1_000
"""By how much a shared answer may seem to come from the future."""

MOST_LISTED = 10_000
"""Runs of each status that are counted in the listing index."""
MOST_UNFINISHED = 20_000
"""Unfinished runs that are counted in the wake-up index."""
MOST_EXAMINED = 1_000
"""Unfinished runs whose items are read, for their status and job: those with the earliest wake-ups."""
MOST_FAILURES = 100
"""Pairs of a job and an error type that are told."""
MOST_READ_UNITS = 1_000
"""No further items are read after this many read units. Large payloads make them dear."""
READ_AT_ONCE = 100
"""https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html (items per request)"""

DEFAULT_MINUTES = 5
MOST_MINUTES = KEPT_MINUTES
STEPS_AT_ONCE = 8

SNAPSHOT = Key(COUNTS, "snapshot")
"""The item by which the processes of several askers share an answer."""
SNAPSHOT_FORM = 2
"""Raised where an answer has something new: an answer of another form is not read."""
SNAPSHOT_BYTES = 64 * 1024
"""A larger answer is not shared: writing it would cost more than it saves."""
SNAPSHOT_KEPT_SECONDS = 24 * 60 * 60

UNFINISHED = (RunStatus.SCHEDULED, RunStatus.QUEUED, RunStatus.RUNNING)

Result = TypeVar("Result")


class StatusCount(NamedTuple):
    """How many runs have a status."""

    total: int
    by_job: Mapping[str, int]
    """The hundred jobs that have most of them, and ``(other)`` for the rest."""
    complete: bool
    """Whether these are all. Otherwise there are more, and ``by_job`` is of those that were counted."""


class FailureCount(NamedTuple):
    """How many runs of a job have failed with the same type of error."""

    job_name: str
    error_type: str | None
    """``None`` where it is not known, because the run failed under an early release."""
    count: int  # type: ignore[assignment]  # it hides a method of tuples, which says nothing here


class UnfinishedCount(NamedTuple):
    """How many runs have not ended: those that are scheduled, queued or running."""

    total: int
    complete: bool
    """Whether these are all. Otherwise there are more."""
    examined: int
    """Of how many status, job and time are known. The counts of each status are of these alone."""


class DueRun(NamedTuple):
    """A run that is due and has not started."""

    run_id: str
    job_name: str
    since: datetime


class QueueLengths(NamedTuple):
    """About how many messages the queue has, as SQS estimates it."""

    waiting: int
    """To be received now."""
    in_flight: int
    """Received, and not deleted yet."""
    delayed: int
    """Sent with a delay that is not over."""


class ConsumerProgress(NamedTuple):
    """How far consumers have come in the queue, as they write it down about once a minute."""

    sent_at: datetime
    """When the messages were sent that they were receiving."""
    moved_at: datetime
    """When they had come that far. They get no further while there are no messages, or while they stand still."""


class OutcomeCounts(NamedTuple):
    """What became of messages: of each ``Outcome``, how many, and how long the handlers took."""

    succeeded: int = 0
    retried: int = 0
    failed: int = 0
    canceled: int = 0
    ignored: int = 0
    milliseconds: int = 0
    """The sum of the times that handlers took."""


class MinuteCounts(NamedTuple):
    """What became of the messages that consumers received in one minute."""

    start: datetime
    by_job: Mapping[str, OutcomeCounts]
    """``(other)`` has the jobs beyond the hundredth, those without a handler, and messages whose run is not known."""

    @property
    def total(self) -> OutcomeCounts:
        """The sum over all jobs."""
        return OutcomeCounts(*(sum(each) for each in zip(*self.by_job.values(), strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What the system holds and does, as ``Jobs.stats`` found it."""

    as_of: datetime
    by_status: Mapping[RunStatus, StatusCount]
    """Of each status. ``succeeded`` is there only where succeeded runs are listed (``list_succeeded``)."""
    failures: tuple[FailureCount, ...]
    """The failed runs that were counted for ``by_status``, by job and type of error: the hundred with most runs, most
    first."""
    unfinished: UnfinishedCount
    paused: StatusCount
    """Runs that were put aside because their job is paused. They count as ``scheduled``, too."""
    pauses: tuple[Pause, ...]
    """The pauses that hold: the one of all jobs first, then by name."""
    oldest_due: DueRun | None
    """The run that has been due for longest and has not started, of those that were examined. Not a paused job's."""
    queue: QueueLengths | None
    """``None`` where this process may not ask the queue, or the queue did not answer."""
    dead_letters: int | None
    """Messages on the dead-letter queue; ``None`` where there is none, or this process may not ask it."""
    consumers: ConsumerProgress | None
    """``None`` where no consumer has ever written it down."""
    minutes: tuple[MinuteCounts, ...]
    """The last minutes, the current one as the last. Consumers write their counts some ten seconds late."""


class StatsReader:
    """Answers ``Jobs.stats`` for one process. Safe to call from many threads."""

    def __init__(self, store: RunStore, pool: HandlerPool) -> None:
        self._store = store
        self._pool = pool
        self._computing = threading.Lock()
        self._known: Stats | None = None
        self._begun = 0
        """How many computations have begun; ``_known`` may be of the last one."""
        self._known_from = 0
        self._reads_snapshot = True
        self._writes_snapshot = True

    def stats(self, *, minutes: object, fresh: object) -> Stats:
        """Return an answer; see ``Jobs.stats``."""
        if isinstance(minutes, bool) or not isinstance(minutes, int) or not 1 <= minutes <= MOST_MINUTES:
            raise InvalidArgumentError(
                f"minutes must be a whole number from 1 to {MOST_MINUTES}, not {short_repr(minutes)}"
            )
        if not isinstance(fresh, bool):
            raise InvalidArgumentError(f"fresh must be True or False, not {short_repr(fresh)}")
        begun = self._begun
        with self._computing:
            known = self._known if self._known_from > begun or (not fresh and self._is_recent(self._known)) else None
            if known is None and not fresh:
                known = self._shared()
            if known is None:
                known = self._compute(minutes)
                self._share(known)
            elif len(known.minutes) < minutes:
                known = replace(known, minutes=self._minutes(minute_of(to_ms(known.as_of)), minutes))
            self._known = known
        return known if len(known.minutes) == minutes else replace(known, minutes=known.minutes[-minutes:])

    def _is_recent(self, stats: Stats | None) -> bool:
        return stats is not None and -CLOCKS_APART_MS <= self._store.now_ms() - to_ms(stats.as_of) < SHARED_MS

    def _compute(self, minutes: int) -> Stats:
        self._begun += 1
        now_ms = self._store.now_ms()
        steps: dict[str, Callable[[], Any]] = {
            status: partial(self._listed, status) for status in (RunStatus.SUCCEEDED, RunStatus.CANCELED, PARKED)
        }
        steps[RunStatus.FAILED] = self._failed
        steps["unfinished"] = partial(self._unfinished, now_ms)
        steps["minutes"] = partial(self._minutes, minute_of(now_ms), minutes)
        steps["consumers"] = self._consumers
        steps["queue"] = self._queue
        steps["pauses"] = partial(pauses, self._store)
        found = _at_once(self._pool, steps)
        unfinished, by_status, oldest_due = found["unfinished"]
        failed, failures = found[RunStatus.FAILED]
        by_status |= {RunStatus.FAILED: failed, RunStatus.CANCELED: found[RunStatus.CANCELED]}
        if found[RunStatus.SUCCEEDED].total:
            by_status[RunStatus.SUCCEEDED] = found[RunStatus.SUCCEEDED]
        queue, dead_letters = found["queue"]
        self._known_from = self._begun
        return Stats(
            as_of=from_ms(now_ms),
            by_status=by_status,
            failures=failures,
            unfinished=unfinished,
            paused=found[PARKED],
            pauses=found["pauses"],
            oldest_due=oldest_due,
            queue=queue,
            dead_letters=dead_letters,
            consumers=found["consumers"],
            minutes=found["minutes"],
        )

    def _listed(self, status: str) -> StatusCount:
        """Count the runs of a status in the listing index, the latest first."""
        entries, complete = self._list_entries(status, "job_name")
        return _status_count(Counter(str(job_name) for (job_name,) in entries), complete=complete)

    def _failed(self) -> tuple[StatusCount, tuple[FailureCount, ...]]:
        """Count the failed runs as ``_listed`` does, by the same reads also by their errors."""
        entries, complete = self._list_entries(RunStatus.FAILED, "job_name", "error_type")
        jobs = Counter(str(job_name) for job_name, _ in entries)
        return _status_count(jobs, complete=complete), _failure_counts(entries)

    def _list_entries(self, status: str, *names: str) -> tuple[list[tuple[object, ...]], bool]:
        """Return these attributes of a status's entries in the listing index, and whether these are all entries."""
        return self._counted(
            LISTING_INDEX,
            [("list_shard", shard) for shard in list_shards(status)],
            "list_at",
            most=MOST_LISTED,
            newest_first=True,
            read=lambda entry: tuple(entry.get(name) for name in names),
            returns=names,
        )

    def _unfinished(self, now_ms: int) -> tuple[UnfinishedCount, dict[RunStatus, StatusCount], DueRun | None]:
        """Count the entries of the wake-up index, and look at the runs with the earliest."""
        shards = range(self._store.shards_to_read())
        wake_ups, complete = self._counted(
            WAKE_INDEX,
            [("wake_shard", shard) for shard in shards],
            "wake_at",
            most=MOST_UNFINISHED,
            newest_first=False,
            read=_wake_up,
            returns=("pk", "wake_at"),
        )
        # A run whose wake-up moved while the pages were read may be on two of them.
        run_ids = list(dict.fromkeys(run_id for _, run_id in heapq.nsmallest(MOST_EXAMINED, wake_ups)))
        jobs: dict[RunStatus, Counter[str]] = {status: Counter() for status in UNFINISHED}
        oldest: DueRun | None = None
        examined, units = 0, 0.0
        for start in range(0, len(run_ids), READ_AT_ONCE):
            keys = [run_key(run_id) for run_id in run_ids[start : start + READ_AT_ONCE]]
            items, taken = self._store.table.glance(keys, names=("pk", "status", "job_name", "scheduled_for", "parked"))
            units += taken
            for key in keys:
                item = items.get(key, {})
                status, job_name, due_ms = item.get("status"), item.get("job_name"), item.get("scheduled_for")
                if not isinstance(job_name, str) or not isinstance(due_ms, int):
                    continue  # it was deleted just now, the service left it out, or it can't be read
                examined += 1
                if status in UNFINISHED:
                    jobs[RunStatus(status)][job_name] += 1
                is_waiting = status in (RunStatus.SCHEDULED, RunStatus.QUEUED) and "parked" not in item
                if is_waiting and 0 <= due_ms <= now_ms and (oldest is None or from_ms(due_ms) < oldest.since):
                    oldest = DueRun(key.id, job_name, from_ms(due_ms))
            if units >= MOST_READ_UNITS:
                break
        unfinished = UnfinishedCount(len(wake_ups), complete, examined)
        known = complete and examined == len(wake_ups)
        return unfinished, {status: _status_count(found, complete=known) for status, found in jobs.items()}, oldest

    def _counted(
        self,
        index: str,
        partitions: list[tuple[str, str | int]],
        sort: str,
        *,
        most: int,
        newest_first: bool,
        read: Callable[[Attributes], Result | None],
        returns: tuple[str, ...],
    ) -> tuple[list[Result], bool]:
        """Return what ``read`` finds in the entries of some partitions, about ``most``, and whether these are all."""
        found: list[Result] = []
        unread: dict[tuple[str, str | int], Attributes | None] = dict.fromkeys(partitions)
        while unread and len(found) < most:
            limit = -(-(most - len(found)) // len(unread))
            further: dict[tuple[str, str | int], Attributes | None] = {}
            for partition, after in unread.items():
                entries, last = self._store.table.index_page(
                    index,
                    partition,
                    sort,
                    between=(0, LAST_MS),
                    limit=limit,
                    newest_first=newest_first,
                    after=after,
                    returns=returns,
                )
                found += [value for entry in entries if (value := read(entry)) is not None]
                if last is not None:
                    further[partition] = last
            unread = further
        return found, not unread

    def _minutes(self, last: int, count: int) -> tuple[MinuteCounts, ...]:
        """Return the counts of the minutes up to ``last``."""
        numbers = range(last - count + 1, last + 1)
        keys = [key for number in numbers for key in counts_keys(number)]
        items: dict[Key, Attributes] = {}
        for start in range(0, len(keys), READ_AT_ONCE):
            items |= self._store.table.get_many(keys[start : start + READ_AT_ONCE], consistent=False)
        return tuple(
            MinuteCounts(from_ms(number * 60_000), _outcomes([items.get(key, {}) for key in counts_keys(number)]))
            for number in numbers
        )

    def _consumers(self) -> ConsumerProgress | None:
        progress = read_progress(self._store)
        return ConsumerProgress(from_ms(progress.sent_ms), from_ms(progress.moved_ms)) if progress.sent_ms else None

    def _queue(self) -> tuple[QueueLengths | None, int | None]:
        """Return what waits in the queue and in its dead-letter queue, each where SQS says so to this process."""
        lengths, dead_letters = None, None
        try:
            found, dead_letter_url = self._store.queue.lengths()
            lengths = QueueLengths(*found)
            if dead_letter_url is not None:
                dead_letters = self._store.queue.length_of(dead_letter_url)
        except AWS_ERRORS as error:
            which = "the queue" if lengths is None else "the dead-letter queue"
            log.info("the length of %s could not be read (%s). %s", which, error_name(error), note_of(error))
        return lengths, dead_letters

    def _shared(self) -> Stats | None:
        """Return the answer that another process has stored, where it is recent and this process may read it."""
        if not self._reads_snapshot:
            return None
        try:
            item = self._store.table.get(SNAPSHOT) or {}
        except AWS_ERRORS as error:
            self._reads_snapshot = not is_access_denied(error)
            return None
        found = _decoded(item.get("stats"))
        return found if self._is_recent(found) else None

    def _share(self, stats: Stats) -> None:
        """Store an answer for other processes, where this process may."""
        text = _encoded(stats)
        if not self._writes_snapshot or text_bytes(text) > SNAPSHOT_BYTES:
            return
        expires_at = to_ms(stats.as_of) // 1000 + SNAPSHOT_KEPT_SECONDS
        try:
            self._store.table.put(SNAPSHOT, {"schema": SCHEMA, "expires_at": expires_at, "stats": text})
        except AWS_ERRORS as error:  # this process's askers have their answer
            self._writes_snapshot = not is_access_denied(error)
            log.debug("the stats could not be shared with other processes (%s)", error_name(error))


def _at_once(pool: HandlerPool, steps: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """Return what each step returns, by its name; raise what one of them raised, when all have ended."""
    found: dict[str, Any] = {}
    errors: list[Exception] = []

    def take(name: str, step: Callable[[], Any]) -> None:
        try:
            found[name] = step()
        except Exception as error:  # raised below, in the caller's thread
            errors.append(error)

    in_flight = BoundedPool(pool, STEPS_AT_ONCE)
    for name, step in steps.items():
        in_flight.start(partial(take, name, step))
    in_flight.finish()
    if errors:
        raise errors[0]
    return found


def _wake_up(entry: Attributes) -> tuple[int, str] | None:
    """Return time and run of an entry of the wake-up index, or ``None`` for what is not one of our runs."""
    kind, _, run_id = str(entry.get("pk")).partition("#")
    wake_at = entry.get("wake_at")
    return (wake_at, run_id) if kind == RUN and run_id and isinstance(wake_at, int) else None


def _status_count(jobs: Counter[str], *, complete: bool) -> StatusCount:
    by_job = dict(jobs.most_common(MOST_NAMES))
    if rest := jobs.total() - sum(by_job.values()):
        by_job[OTHER] = by_job.get(OTHER, 0) + rest
    return StatusCount(jobs.total(), by_job, complete)


def _failure_counts(entries: list[tuple[object, ...]]) -> tuple[FailureCount, ...]:
    """Return how many of these failed runs there are of each job and type of error, the most first."""
    counts = Counter(
        (str(job_name), error_type if isinstance(error_type, str) else None) for job_name, error_type in entries
    )
    found = [FailureCount(job_name, error_type, count) for (job_name, error_type), count in counts.items()]
    return tuple(sorted(found, key=lambda each: (-each.count, each.job_name, each.error_type or ""))[:MOST_FAILURES])


_FIELDS = {**{outcome.value: outcome.value for outcome in Outcome}, MILLISECONDS: "milliseconds"}
"""Of ``OutcomeCounts``, by what the names of the counters begin with."""


def _outcomes(items: list[Attributes]) -> dict[str, OutcomeCounts]:
    """Return the sum of a minute's items, by job. What is none of our numbers is passed over."""
    sums: dict[str, dict[str, int]] = {}
    for item in items:
        for name, value in item.items():
            outcome, separator, job = name.partition("|")
            field = _FIELDS.get(outcome)
            if separator and field is not None and isinstance(value, int):
                counts = sums.setdefault(job, {})
                counts[field] = counts.get(field, 0) + value
    return {job: OutcomeCounts(**counts) for job, counts in sorted(sums.items())}


def _encoded(stats: Stats) -> str:
    """Return the stored form of an answer."""
    due, consumers = stats.oldest_due, stats.consumers
    return json_codec.encode(
        "the stats",
        {
            "form": SNAPSHOT_FORM,
            "as_of": to_ms(stats.as_of),
            "by_status": {status.value: list(count) for status, count in stats.by_status.items()},
            "failures": [list(each) for each in stats.failures],
            "unfinished": list(stats.unfinished),
            "paused": list(stats.paused),
            "pauses": [
                [each.job_name, to_ms(each.since), None if each.until is None else to_ms(each.until), each.reason]
                for each in stats.pauses
            ],
            "oldest_due": None if due is None else [due.run_id, due.job_name, to_ms(due.since)],
            "queue": None if stats.queue is None else list(stats.queue),
            "dead_letters": stats.dead_letters,
            "consumers": None if consumers is None else [to_ms(moment) for moment in consumers],
            "minutes": [
                [to_ms(minute.start), {job: list(counts) for job, counts in minute.by_job.items()}]
                for minute in stats.minutes
            ],
        },
    )


def _decoded(text: object) -> Stats | None:
    """Return the answer that a text holds, or ``None`` where it is none that this release can read."""
    if not isinstance(text, str):
        return None
    try:
        found: Any = json_codec.decode(text)
        if found["form"] != SNAPSHOT_FORM:
            return None
        due, queue, consumers, dead_letters = (
            found[name] for name in ("oldest_due", "queue", "consumers", "dead_letters")
        )
        return Stats(
            as_of=from_ms(found["as_of"]),
            by_status={RunStatus(status): StatusCount(*count) for status, count in found["by_status"].items()},
            failures=tuple(FailureCount(*each) for each in found["failures"]),
            unfinished=UnfinishedCount(*found["unfinished"]),
            paused=StatusCount(*found["paused"]),
            pauses=tuple(
                Pause(
                    job_name=name, since=from_ms(since), until=None if until is None else from_ms(until), reason=reason
                )
                for name, since, until, reason in found["pauses"]
            ),
            oldest_due=None if due is None else DueRun(due[0], due[1], from_ms(due[2])),
            queue=None if queue is None else QueueLengths(*queue),
            dead_letters=dead_letters,
            consumers=None if consumers is None else ConsumerProgress(*map(from_ms, consumers)),
            minutes=tuple(
                MinuteCounts(from_ms(start), {job: OutcomeCounts(*counts) for job, counts in by_job.items()})
                for start, by_job in found["minutes"]
            ),
        )
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError):
        return None

"""Releasing the runs of jobs that were resumed: those that consumers had put aside, in the order of their times.

They are in the listing index, in partitions of their own. Each run is queued by a conditional write, and whoever made
it sends the message. So two passes at once, a stale index entry, or a crash between two requests do no harm.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import NamedTuple

from kumofire_core.aws.dynamodb import LISTING_INDEX
from kumofire_core.engine.pause_reader import REFRESH_MS
from kumofire_core.engine.pauses import write
from kumofire_core.engine.run_store import RUN, RunStore, new_token
from kumofire_core.handlers.deadline import Deadline
from kumofire_core.handlers.handler_pool import BoundedPool, HandlerPool
from kumofire_core.model.error_text import error_name
from kumofire_core.model.message import MAX_RUN_ID_LENGTH, Sending
from kumofire_core.model.pauses import ALL, PAUSES, JobName, Pauses, read_pauses
from kumofire_core.model.run_item import group_of
from kumofire_core.model.times import LAST_MS
from kumofire_core.model.write import Attributes, Value
from kumofire_core.rules import run_writes
from kumofire_core.rules.listing import PARKED, list_shards

SETTLED_MS = 5 * 60_000
"""How long a job is at least looked after when it was resumed: consumers that know of the pause alone may put further
runs aside for a while, and the index shows them a moment later."""

ROUND = 100
"""Runs that are queued before their messages are sent, in order."""

WRITES_IN_FLIGHT = 16
PAGE_SIZE = 200

log = logging.getLogger("kumofire_core")


class Aside(NamedTuple):
    """An entry of the index: a run that was put aside."""

    due_ms: int
    run_id: str
    job_name: str


class Released(NamedTuple):
    """What came of one pass."""

    resumed: int = 0
    unsent: int = 0
    errors: int = 0
    complete: bool = True


class Resuming:
    """The runs of resumed jobs, in one pass."""

    def __init__(self, store: RunStore, pool: HandlerPool, known: Pauses) -> None:
        self._store = store
        self._pool = pool
        self._known = known
        self._read_ms = store.now_ms()
        self._errors = 0

    def release(self, *, deadline: Deadline | None, most: int | None) -> Released:
        """Queue and send the runs that go on, ``most`` of them, or until the time is nearly up.

        A job of which a whole look found nothing is no longer being resumed, five minutes after it was at the earliest.
        A run that can't be queued is logged, and a later pass finds it. A query's errors leave as botocore raised them.
        """
        resumed = self._known.resumed(self._store.now_ms())
        if not resumed:
            return Released()
        found: set[JobName] = set()
        entries = self._entries(resumed)
        count = unsent = 0
        while most is None or count < most:
            if deadline is not None and deadline.too_close_to_start():
                return Released(count, unsent, self._errors, complete=False)
            entries_now = list(islice(entries, ROUND if most is None else min(ROUND, most - count)))
            if not entries_now:
                self._settle(resumed, found)
                return Released(count, unsent, self._errors)
            self._refresh()
            now_ms = self._store.now_ms()
            going_on = [entry for entry in entries_now if self._known.releases(entry.job_name, now_ms)]
            sendings = self._queue(going_on)
            # The others are aside in the index alone, which is behind, or which an earlier release left so.
            found.update(entry.job_name for entry in going_on if entry.run_id in sendings)
            if sendings:
                found.add(ALL)
            count += len(sendings)
            if sendings:
                unsent += len(self._store.queue.try_send_many(sendings))
        return Released(count, unsent, self._errors, complete=False)

    def _queue(self, entries: list[Aside]) -> dict[str, Sending]:
        """Queue these runs; return those that this pass is to send, in order."""
        queued: dict[str, Sending] = {}

        def unpark(entry: Aside) -> None:
            write = run_writes.unpark(new_token(), due_ms=entry.due_ms, now_ms=self._store.now_ms())
            try:
                answer = self._store.apply(entry.run_id, write, read_back=True)
                if answer.applied:
                    queued[entry.run_id] = Sending(0, group_of(answer.item))
            except Exception as error:  # what goes wrong with one run must not stop the others
                log.error("run#%s could not be resumed: %s", entry.run_id, error_name(error))
                self._errors += 1

        in_flight = BoundedPool(self._pool, WRITES_IN_FLIGHT)
        for entry in entries:
            in_flight.start(partial(unpark, entry))
        in_flight.finish()
        return {entry.run_id: queued[entry.run_id] for entry in entries if entry.run_id in queued}

    def _entries(self, resumed: dict[JobName, int]) -> Iterator[Aside]:
        """Yield the runs that were put aside, the earliest first; those of other jobs as well."""
        equals: dict[str, Value] = {}
        if len(resumed) == 1 and ALL not in resumed:
            equals["job_name"] = next(name for name in resumed if name is not None)
        return heapq.merge(*(self._partition(shard, equals) for shard in list_shards(PARKED)))

    def _partition(self, shard: str, equals: dict[str, Value]) -> Iterator[Aside]:
        after: Attributes | None = None
        while True:
            items, after = self._store.table.index_page(
                LISTING_INDEX,
                ("list_shard", shard),
                "list_at",
                between=(-LAST_MS, LAST_MS),
                limit=PAGE_SIZE,
                after=after,
                equals=equals,
            )
            yield from (entry for item in items if (entry := _aside(item)) is not None)
            if after is None:
                return

    def _refresh(self) -> None:
        """Read again what is paused where the pass takes long: a person may have paused the job again."""
        now_ms = self._store.now_ms()
        if not 0 <= now_ms - self._read_ms < REFRESH_MS:
            self._known = read_pauses(self._store.table.get(PAUSES))
            self._read_ms = now_ms

    def _settle(self, resumed: dict[JobName, int], found: set[JobName]) -> None:
        """Forget the jobs that have gone on. Where somebody writes at the same time, a later pass does it."""
        now_ms = self._store.now_ms()
        done = {
            name
            for name, since_ms in self._known.resumed(now_ms).items()  # not those that were paused again meanwhile
            if name in resumed and name not in found and now_ms - since_ms >= SETTLED_MS
        }
        if done:
            write(self._store, self._known, self._known.without(done), new_token())


def _aside(item: Attributes) -> Aside | None:
    """Return what an index entry says, or ``None`` for an item that is not one of our runs."""
    kind, _, run_id = str(item.get("pk")).partition("#")
    due_ms, job_name = item.get("list_at"), item.get("job_name")
    if kind != RUN or item.get("sk") != RUN or not 1 <= len(run_id) <= MAX_RUN_ID_LENGTH or not run_id.isprintable():
        return None
    return Aside(due_ms, run_id, job_name) if isinstance(due_ms, int) and isinstance(job_name, str) else None

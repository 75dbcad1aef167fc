"""Lists of runs, newest first: index entries of several partitions, merged by their times, and the items behind them.

Runs that have ended are read from the listing index, by when they ended. Unfinished ones are read from the wake-up
index, by their wake-ups, which are about when they are due. Both indexes are eventually consistent, so each run's item
is read as it is now, and left out where it is no longer what was asked for.
"""

from __future__ import annotations

import base64
import binascii
import heapq
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from kumofire_core.aws.dynamodb import LISTING_INDEX, WAKE_INDEX
from kumofire_core.engine.dedupe import find_latest
from kumofire_core.engine.run_store import RUN, RunStore, run_key
from kumofire_core.errors import InvalidArgumentError, KumofireError, LargeValueError, short_repr
from kumofire_core.handlers.handler_pool import BoundedPool, HandlerPool
from kumofire_core.model import json_codec
from kumofire_core.model.message import MAX_RUN_ID_LENGTH
from kumofire_core.model.run import FINAL, RunStatus
from kumofire_core.model.run_item import StoredRun, is_apart
from kumofire_core.model.run_view import Run
from kumofire_core.model.times import LAST_MS, from_ms, require_aware, to_ms
from kumofire_core.model.write import Attributes, Value
from kumofire_core.rules.listing import list_shards
from kumofire_core.rules.validation import (
    PAGE_LIMIT,
    distinct_ids,
    require_flag,
    require_job_name,
    require_key,
    require_page_limit,
)

log = logging.getLogger("kumofire_core")

MOST_EXAMINED = 5_000
MOST_READ = 500
"""Index entries that one page looks at, and items that it reads, about. A filter that fits few runs ends it early."""

TIED_PAGE_SIZE = 1_000
"""Index entries of one and the same time that are read at once."""

LEAST_FURTHER = 25
"""How many items are read at once where the first ones did not fill a page."""

BARRIER = "\U0010ffff"
"""Stands for a run's id in a place behind which a partition was not looked at. It is behind every id."""

QUERIES_IN_FLIGHT = 8

UNREAD_NAMES = (
    "pk",
    "schema",
    "status",
    "job_name",
    "attempt",
    "max_attempts",
    "claims",
    "scheduled_for",
    "created_at",
    "updated_at",
    "started_at",
    "finished_at",
    "last_error",
    "error_type",
    "schedule_id",
    "occurrence",
    "dedupe_key",
    "cancel_requested_at",
    "cancel_reason",
    "history",
    "attempts",
    "retries",
    "parked",
    "progress",
    "log",
    "lease_token",
    "lease_until",
    "list_shard",
    "wake_at",
    "timeout_ms",
    "bulk",
    "dedupe_mode",
    "generation",
    "parent_id",
    "created_by",
    "limited",
    "awaits_slot",
    "reserved",
    "rate_since",
    "group",
    "batch",
    "after",
    "create_token",
    "waits_for",
    "steps_id",
    "steps",
    "signals",
    "suspensions",
)
"""What is asked for of a run that is read without its payload and output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage:
    """One page of a list of runs."""

    runs: tuple[Run, ...]
    next_page: str | None
    """What to pass as ``page`` for the next page; ``None`` after the last one. A page may have fewer runs than
    ``limit``, or none, and still not be the last: one call looks at 5,000 index entries at most."""
    back_to: datetime | None = None
    """The time that this page has come to, where there is a next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs are meant. What is ``None`` does not restrict them."""

    status: RunStatus | None = None
    job_name: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    error_type: str | None = None
    text: str | None = None
    """Part of the run's id or of its ``dedupe_key``."""

    @property
    def is_empty(self) -> bool:
        """Whether it fits every run."""
        return self == RunFilter()

    def fits(self, run: Run) -> bool:
        """Return whether a run is one of those that are meant."""
        at = run.finished_at if run.status in FINAL and run.finished_at is not None else run.scheduled_for
        return (
            self.status in (None, run.status)
            and self.job_name in (None, run.job_name)
            and self.error_type in (None, run.error_type)
            and (self.text is None or self.text in run.id or self.text in (run.dedupe_key or ""))
            and (self.since is None or at >= self.since)
            and (self.until is None or at <= self.until)
        )


def run_filter(
    *,
    status: RunStatus | str | None = None,
    job_name: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    error_type: str | None = None,
    text: str | None = None,
) -> RunFilter:
    """Return the filter that these arguments mean; ``InvalidArgumentError`` for one that can't be meant."""
    wanted = None
    if status is not None:
        try:
            wanted = RunStatus(status)
        except ValueError:
            known = ", ".join(RunStatus)
            raise InvalidArgumentError(f"status must be one of {known}, not {short_repr(status)}") from None
    if job_name is not None:
        require_job_name(job_name)
    if error_type is not None and (not isinstance(error_type, str) or not error_type):
        raise InvalidArgumentError(
            f"error_type must be the name of an error's type, such as 'ValueError', not {short_repr(error_type)}"
        )
    if text is not None:
        require_key("text", text)
    begin = None if since is None else require_aware("since", since)
    end = None if until is None else require_aware("until", until)
    if begin is not None and end is not None and begin > end:
        raise InvalidArgumentError(f"since ({begin.isoformat()}) is after until ({end.isoformat()})")
    return RunFilter(
        status=wanted,
        job_name=job_name,
        since=begin,
        until=end,
        error_type=error_type,
        text=text,
    )


class Place(NamedTuple):
    """A place in a list, between two runs: the sort key of the index, and the run's id."""

    at_ms: int
    run_id: str


class _Stream(NamedTuple):
    """One partition of an index."""

    name: str
    """The index."""
    partition: tuple[str, Value]
    sort: str
    filters: dict[str, Value]


class RunQueries:
    """The lists of one ``Jobs``."""

    def __init__(self, store: RunStore, pool: HandlerPool) -> None:
        self._store = store
        self._pool = pool

    def list_runs(self, wanted: RunFilter, *, limit: object, page: object, payloads: object) -> RunPage:
        """Return one page; see ``Jobs.list_runs``."""
        size = require_page_limit(limit)
        require_flag("payloads", payloads)
        found, place = self.page(wanted, limit=size, after=_decode_page(page), payloads=bool(payloads))
        runs = self._readable(found) if payloads else [stored.run for stored in found]
        return RunPage(
            runs=tuple(runs),
            next_page=None if place is None else _encode_page(place),
            back_to=None if place is None else from_ms(place.at_ms),
        )

    def _readable(self, found: list[StoredRun]) -> list[Run]:
        """Return runs with their payloads and outputs; what is lost in S3 is logged and left as a ``LargeValue``."""
        runs: list[Run | None] = [None] * len(found)

        def read(number: int) -> None:
            stored = found[number]
            try:
                runs[number] = self._store.decrypted(stored, required=False).run
            except LargeValueError as error:
                log.error("a run is listed without its large values: %s", error)
                runs[number] = stored.run

        in_flight = BoundedPool(self._pool, QUERIES_IN_FLIGHT)
        for number, stored in enumerate(found):
            if is_apart(stored.payload_text) or is_apart(stored.output_text):
                in_flight.start(partial(read, number))
            else:
                read(number)
        in_flight.finish()
        return [run for run in runs if run is not None]

    def page(
        self,
        wanted: RunFilter,
        *,
        limit: int,
        after: Place | None,
        payloads: bool = False,
        statuses: frozenset[RunStatus] = frozenset(RunStatus),
    ) -> tuple[list[StoredRun], Place | None]:
        """Return up to ``limit`` runs behind ``after``, and where to go on; ``None`` after the last one.

        ``statuses`` are those that are looked for where ``wanted`` names none.
        """
        found: dict[str, StoredRun] = {}  # by id: an index may be behind, so a run can have an entry in both
        read = 0
        for group in _groups(self._entries(wanted, limit, after, statuses), limit):
            ids = list(dict.fromkeys(place.run_id for place in group if place.run_id != BARRIER))
            runs = self._read(ids, payloads=payloads)
            for place in group:
                stored = runs.get(place.run_id)
                if place.run_id == BARRIER:
                    return list(found.values()), place
                if stored is None or stored.id in found or stored.status not in statuses:
                    continue
                if not wanted.fits(stored.run):
                    continue
                found[stored.id] = stored
                if len(found) == limit:
                    return list(found.values()), place
            read += len(ids)
            if read >= MOST_READ:
                return list(found.values()), group[-1]
        return list(found.values()), None

    def _entries(
        self, wanted: RunFilter, limit: int, after: Place | None, statuses: frozenset[RunStatus]
    ) -> Iterator[Place]:
        streams = self._streams(wanted, statuses if wanted.status is None else frozenset({wanted.status}))
        since_ms = 0 if wanted.since is None else to_ms(wanted.since)
        until_ms = LAST_MS if wanted.until is None else to_ms(wanted.until)
        size = self._page_size(wanted, limit, len(streams))
        merged = _Merged(
            self._store, self._pool, streams, since_ms=since_ms, until_ms=until_ms, page_size=size, after=after
        )
        return merged.entries()

    def _page_size(self, wanted: RunFilter, limit: int, streams: int) -> int:
        """Return how many entries to ask a partition for at once: a little more than its share of a page."""
        if wanted.job_name is not None or wanted.error_type is not None:
            return 200
        if wanted.text is not None:  # which is in no index: most of what is read does not fit
            limit = MOST_READ
        return max(5, limit * 3 // (2 * max(1, streams)))

    def _streams(self, wanted: RunFilter, statuses: frozenset[RunStatus]) -> list[_Stream]:
        """Return the partitions that can hold what is wanted, in these statuses."""
        filters: dict[str, Value] = {}
        if wanted.job_name is not None:
            filters["job_name"] = wanted.job_name
        if wanted.error_type is not None:
            filters["error_type"] = wanted.error_type
        streams = [
            _Stream(LISTING_INDEX, ("list_shard", shard), "list_at", filters)
            for status in sorted(FINAL & statuses)
            for shard in list_shards(status)
        ]
        if statuses - FINAL:
            shards = range(self._store.shards_to_read())
            streams += [_Stream(WAKE_INDEX, ("wake_shard", shard), "wake_at", {}) for shard in shards]
        return streams

    def get_many(self, run_ids: object) -> dict[str, Run]:
        """Return up to 100 runs as they are now, by id; see ``Jobs.get_many``."""
        ids = distinct_ids(run_ids)
        if len(ids) > PAGE_LIMIT:
            raise InvalidArgumentError(f"run_ids may have {PAGE_LIMIT} ids, and has {len(ids)}; make several calls")
        return {run_id: stored.run for run_id, stored in self.read_many(list(ids)).items()} if ids else {}

    def read_many(self, run_ids: list[str]) -> dict[str, StoredRun]:
        """Return up to 100 runs as they are now, without payload and output; those that exist and can be read."""
        return self._read(run_ids, payloads=False)

    def _read(self, run_ids: list[str], *, payloads: bool) -> dict[str, StoredRun]:
        """Return these runs as they are now; one that can't be read is logged and left out."""
        names = () if payloads else UNREAD_NAMES
        reader = self._store.text_reader()
        items = self._store.table.get_many([run_key(run_id) for run_id in run_ids], names=names)
        runs: dict[str, StoredRun] = {}
        for key, item in items.items():
            try:
                stored = self._store.read(key.id, item, payload_required=False, payload_left_out=not payloads)
                runs[key.id] = self._store.with_texts(stored, reader)
            except KumofireError as error:
                log.error("a run is left out of the list: %s", error)
        return runs

    def find_without_payload(self, run_id: str) -> StoredRun | None:
        """Return a run as it is now, without payload and output, or ``None``. Raises as ``RunStore.read`` does."""
        item = self._store.table.get(run_key(run_id), names=UNREAD_NAMES)
        return None if item is None else self._store.read(run_id, item, payload_required=False, payload_left_out=True)

    def find_by_key(self, dedupe_key: str) -> StoredRun | None:
        """Return the latest run that has this key, or ``None``."""
        return find_latest(self._store, dedupe_key)


class _Merged:
    """The entries of several partitions, the latest first, those behind ``after`` only."""

    def __init__(
        self,
        store: RunStore,
        pool: HandlerPool,
        streams: list[_Stream],
        *,
        since_ms: int,
        until_ms: int,
        page_size: int,
        after: Place | None,
    ) -> None:
        self._examined = 0
        self._store = store
        self._pool = pool
        self._streams = streams
        self._since_ms = since_ms
        self._until_ms = until_ms
        self._page_size = page_size
        self._after = after

    def entries(self) -> Iterator[Place]:
        """Yield the places in their order. A ``BARRIER`` ends what is known: there is more behind it."""
        first: dict[int, tuple[list[Place], Attributes | None]] = {}
        errors: list[Exception] = []

        def ask(number: int) -> None:
            try:
                first[number] = self._ask(self._streams[number], None, self._page_size)
            except Exception as error:  # raised below, in the caller's thread
                errors.append(error)

        in_flight = BoundedPool(self._pool, QUERIES_IN_FLIGHT)
        for number in range(len(self._streams)):
            in_flight.start(partial(ask, number))
        in_flight.finish()
        if errors:
            raise errors[0]
        streams = (self._in_order(self._streams[number], *page) for number, page in first.items())
        return heapq.merge(*streams, reverse=True)

    def _in_order(self, stream: _Stream, places: list[Place], last: Attributes | None) -> Iterator[Place]:
        """Yield the entries of one partition. The index keeps no order between entries of the same millisecond."""
        held: list[Place] = []
        while True:
            held = sorted(held + places, reverse=True)
            if last is None:
                yield from held
                return
            edge_ms = int(last[stream.sort])
            yield from (place for place in held if place.at_ms > edge_ms)
            held = [place for place in held if place.at_ms <= edge_ms]
            # A barrier must be further than this page began, or the next page would be the same. So entries of one
            # millisecond, such as runs that were all scheduled for midnight, are read to their end, in large steps.
            barrier = Place(edge_ms, BARRIER)
            goes_on = self._after is None or barrier < self._after
            if self._examined >= MOST_EXAMINED and goes_on:
                yield barrier
                return
            places, last = self._ask(stream, last, self._page_size if goes_on else max(self._page_size, TIED_PAGE_SIZE))

    def _ask(self, stream: _Stream, after: Attributes | None, size: int) -> tuple[list[Place], Attributes | None]:
        """Return the next entries of one partition, up to ``size``."""
        latest = LAST_MS if stream.name == WAKE_INDEX else self._until_ms
        if self._after is not None:
            latest = min(latest, self._after.at_ms)
        if latest < self._since_ms:
            return [], None
        items, last = self._store.table.index_page(
            stream.name,
            stream.partition,
            stream.sort,
            between=(self._since_ms, latest),
            limit=size,
            newest_first=True,
            after=after,
            equals=stream.filters,
        )
        self._examined += size
        places = [place for item in items if (place := _place(item, stream.sort)) is not None]
        return [place for place in places if self._after is None or place < self._after], last


def _place(item: Attributes, sort: str) -> Place | None:
    """Return the place of an index entry, or ``None`` for an item that is not one of our runs."""
    kind, _, run_id = str(item.get("pk")).partition("#")
    at_ms = item.get(sort)
    if kind != RUN or item.get("sk") != RUN or not 1 <= len(run_id) <= MAX_RUN_ID_LENGTH or not isinstance(at_ms, int):
        return None
    return Place(at_ms, run_id)


def _groups(places: Iterator[Place], size: int) -> Iterator[list[Place]]:
    """Yield the places in lists: the first of this size, and the others of 25 at least. A barrier ends its list."""
    group: list[Place] = []
    for place in places:
        group.append(place)
        if len(group) == size or place.run_id == BARRIER:
            yield group
            group, size = [], max(size, LEAST_FURTHER)
    if group:
        yield group


def _encode_page(place: Place) -> str:
    return base64.urlsafe_b64encode(json_codec.encode("the page", [place.at_ms, place.run_id]).encode()).decode()


def _decode_page(page: object) -> Place | None:
    """Return the place that a page begins behind; ``InvalidArgumentError`` unless it is a ``next_page`` of ours."""
    if page is None:
        return None
    if isinstance(page, str):
        try:
            found: Any = json_codec.decode(base64.b64decode(page.encode(), altchars=b"-_", validate=True).decode())
            at_ms, run_id = found
            if type(at_ms) is int and 0 <= at_ms <= LAST_MS and isinstance(run_id, str):
                return Place(at_ms, run_id)
        except (binascii.Error, ValueError, TypeError):
            pass
    raise InvalidArgumentError(f"page must be the next_page of an earlier page, not {short_repr(page)}")

"""Creating, reading, listing and canceling batches, and creating chains.

The batch is put first, then its members, and last it is sealed. All ids follow from the batch's, so each step can be
repeated, and a creation that died is gone on with by the same call.
"""

from __future__ import annotations

import base64
import binascii
import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import Any

from kumofire_core.aws.dynamodb import LISTING_INDEX
from kumofire_core.aws.error_notes import is_permanent
from kumofire_core.aws.errors import AWS_ERRORS
from kumofire_core.engine import batch_marks, run_control
from kumofire_core.engine.create import CHUNK, PUTS_IN_FLIGHT, RunCreator
from kumofire_core.engine.run_store import RunStore, new_token
from kumofire_core.errors import (
    BatchCanceledError,
    BatchConflictError,
    BatchIncompleteError,
    InvalidArgumentError,
    KumofireError,
    short_repr,
    unknown_names,
)
from kumofire_core.handlers.context import run_under_way
from kumofire_core.handlers.handler_pool import BoundedPool
from kumofire_core.handlers.job_function import RunRequest
from kumofire_core.model import json_codec
from kumofire_core.model.batch import (
    MOST_MEMBERS,
    Batch,
    Follower,
    MemberStatus,
    StoredBatch,
    ThenIf,
    batch_id_of,
    batch_key,
    bucket_key,
    callback_run_id,
    chained_batch_id,
    followers_text,
    is_full,
    member_run_id,
    read_batch,
    widths,
)
from kumofire_core.model.message import Sending
from kumofire_core.model.run import NewRun, new_run_id
from kumofire_core.model.run_item import MAX_PAYLOAD_BYTES
from kumofire_core.model.run_view import Run
from kumofire_core.model.times import LAST_MS, delay_ms
from kumofire_core.model.write import Attributes, text_bytes
from kumofire_core.rules import batch_items
from kumofire_core.rules.listing import list_shards
from kumofire_core.rules.validation import (
    may_exist,
    require_group,
    require_key,
    require_max_attempts,
    require_page_limit,
    require_reason,
)
from kumofire_core.rules.wake_ups import message_delay_seconds

Signal = tuple[str, str]
"""A run, and the name of a signal for it."""

WINDOW = 10_000
"""How many members are put before it is recorded how far a creation has come."""

TRIES = 6
"""How often the members of a window are put that the table refused: over ten seconds, after the SDK's own repeats."""

MOST_CHAINED = 100

_STATUSES = ("succeeded", "failed", "canceled", "pending")
_FOLLOWER_KEYS = ("name", "payload", "max_attempts", "group", "delay")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPage:
    """One page of ``list_batches``."""

    batches: tuple[Batch, ...]
    next_page: str | None
    """What to pass as ``page`` for the next page; ``None`` after the last one."""


class Batches:
    """The batches of one ``Jobs``."""

    def __init__(self, store: RunStore, creator: RunCreator) -> None:
        self._store = store
        self._creator = creator

    # Creating

    def create(
        self,
        requests: Iterable[RunRequest],
        *,
        then: object,
        payload: object,
        then_if: object,
        key: object,
    ) -> str:
        """Create a batch, or go on with its creation; return its id. See ``Jobs.create_batch``."""
        wanted = _requests("create_batch", requests)
        if len(wanted) > MOST_MEMBERS:
            raise InvalidArgumentError(f"create_batch takes at most {MOST_MEMBERS} requests, not {len(wanted)}")
        if key is not None:
            require_key("key", key)
        batch_id = new_run_id() if key is None else batch_id_of(str(key))
        if then is None and payload is not None:
            raise InvalidArgumentError("payload is the callback's; give then as well, or leave payload out")
        followers: tuple[Follower, ...] = ()
        if then is not None:
            followers = (self._follower("then", then, payload, run_id=callback_run_id(batch_id)),)
            _require_room("the callback has", followers)
        prepared = None
        if len(wanted) <= WINDOW:
            prepared = [self._member(batch_id, len(wanted), index, wanted[index]) for index in range(len(wanted))]
        else:
            for index, request in enumerate(wanted):
                self._member(batch_id, len(wanted), index, request)
        batch = self._begin(batch_id, len(wanted), followers, _then_if(then_if), key)
        if not batch.sealed:
            self._put_members(batch, wanted, prepared)
            self._seal(batch)
        return batch_id

    def create_chain(self, requests: Iterable[RunRequest], *, key: object) -> list[str]:
        """Create runs that start one after the other; return their ids in order. See ``Jobs.create_chain``."""
        wanted = _requests("create_chain", requests)
        if not 1 <= len(wanted) <= MOST_CHAINED:
            raise InvalidArgumentError(f"create_chain takes 1 to {MOST_CHAINED} requests, not {len(wanted)}")
        if key is not None:
            require_key("key", key)
        chain_id = new_run_id() if key is None else batch_id_of(str(key))
        batch_ids = [chained_batch_id(chain_id, position) for position in range(len(wanted))]
        run_ids = [member_run_id(batch_id, 0) for batch_id in batch_ids]
        followers = tuple(
            self._follower(
                f"request {position} of create_chain",
                wanted[position],
                None,
                run_id=run_ids[position],
                batch_id=batch_ids[position] if position + 1 < len(wanted) else None,
            )
            for position in range(1, len(wanted))
        )
        _require_room("the requests of the chain after the first have", followers)
        first = self._member(chain_id, 1, 0, wanted[0], call="create_chain")
        batch = self._begin(chain_id, 1, followers, "succeeded", key)
        if not batch.sealed:
            self._put_members(batch, wanted, [first])
            self._seal(batch)
        return run_ids

    def create_children(
        self,
        requests: Iterable[RunRequest],
        *,
        batch_id: str,
        signal: Signal,
        parent_id: str,
        call: str,
    ) -> None:
        """Create the children of a run, or go on with that; the parent gets the signal when all have ended."""
        wanted = _requests(call, requests)
        total = len(wanted)
        if total > MOST_MEMBERS:
            raise InvalidArgumentError(f"{call} takes at most {MOST_MEMBERS} requests, not {total}")
        prepared = None
        if total <= WINDOW:
            prepared = [self._member(batch_id, total, index, wanted[index], call) for index in range(total)]
            prepared = [each._replace(parent_id=parent_id) for each in prepared]
        else:
            for index, request in enumerate(wanted):
                self._member(batch_id, total, index, request, call)
        batch = self._begin(batch_id, total, (), "ended", None, signal=signal, parent_id=parent_id)
        if not batch.sealed:
            self._put_members(batch, wanted, prepared)
            self._seal(batch)

    def _member(self, batch_id: str, total: int, index: int, request: RunRequest, call: str = "create_batch") -> NewRun:
        if isinstance(request, Mapping) and (request.get("dedupe_key"), request.get("dedupe")) != (None, None):
            raise InvalidArgumentError(
                f"run {index} of {call}: it has a dedupe_key, and all runs of {call} are made once in any case"
                + ("" if call.startswith("create_child") else f"; give {call} a key")
            )
        run_id = member_run_id(batch_id, index)
        return self._creator.prepare_one(index, request, call=call, run_id=run_id)._replace(
            batch=(batch_id, index, total)
        )

    def _follower(
        self, what: str, request: object, payload: object, *, run_id: str, batch_id: str | None = None
    ) -> Follower:
        """Return a run that is to follow, checked; ``what`` names it in errors."""
        if isinstance(request, str):
            request = {"name": request, "payload": payload}
        elif not isinstance(request, Mapping):
            raise InvalidArgumentError(
                f"{what} must be a job's name or a mapping of what create takes, not {type(request).__name__}"
            )
        elif payload is not None:
            raise InvalidArgumentError(f"{what} is a mapping, so it has the payload; leave payload out")
        if problem := unknown_names(what, list(request), _FOLLOWER_KEYS):
            raise InvalidArgumentError(problem)
        if "name" not in request:
            raise InvalidArgumentError(f"{what} has no 'name', which says which job to run")
        given: Mapping[str, Any] = request
        try:
            self._creator.require_job(given["name"])
            require_max_attempts(given.get("max_attempts"))
            require_group(given.get("group"))
            wait: timedelta | float | None = given.get("delay")
            wait_ms = 0 if wait is None else delay_ms("delay", wait)
            if self._store.now_ms() + wait_ms > LAST_MS:
                raise InvalidArgumentError(f"a delay of {short_repr(wait)} ends after the year 9999")
            text = self._store.registry.payload_text(
                given["name"], given.get("payload"), self._store.most_payload_bytes
            )
            text = self._store.encrypted_payload(run_id, text)
        except KumofireError as error:
            error.args = (f"{what}: {error}",)
            raise
        return Follower(run_id, given["name"], text, given.get("max_attempts"), given.get("group"), wait_ms, batch_id)

    def _begin(
        self,
        batch_id: str,
        total: int,
        followers: tuple[Follower, ...],
        then_if: ThenIf,
        key: object,
        *,
        signal: Signal | None = None,
        parent_id: str | None = None,
    ) -> StoredBatch:
        """Put a new batch, or return the one that its key has; ``BatchConflictError`` where that is another."""
        now_ms = self._store.now_ms()
        attributes = batch_items.create(
            batch_id,
            create_token=new_token(),
            total=total,
            then=followers,
            then_if=then_if,
            key=None if key is None else str(key),
            parent_id=parent_id or run_under_way(),
            now_ms=now_ms,
            shards=self._store.shards_to_write(),
            listed_too=signal is None,
            signal=signal,
        )
        answer = self._store.table.put_new(batch_key(batch_id), attributes)
        if answer.applied or answer.item is None:
            return read_batch(batch_id, attributes)
        found = read_batch(batch_id, answer.item)
        then_name = followers[0].name if followers else None
        differences = [
            f"{name} {is_now!r}, and now {asked!r}"
            for name, is_now, asked in (
                ("total", found.total, total),
                ("then", found.then_name, then_name),
                ("then_if", found.then_if, then_if),
            )
            if is_now != asked
        ]
        if differences:
            raise BatchConflictError("of the call" if key is None else str(key), batch_id, differences)
        return found

    def _put_members(self, batch: StoredBatch, wanted: Sequence[RunRequest], prepared: list[NewRun] | None) -> None:
        """Put the members that are not known to be stored, and send their messages, a window at a time."""
        put = batch.put
        for start in range(put, batch.total, WINDOW):
            indexes = range(start, min(start + WINDOW, batch.total))

            def prepare(index: int) -> NewRun:
                if prepared is not None:
                    return prepared[index]
                member = self._member(batch.id, batch.total, index, wanted[index])
                return member if batch.signal is None else member._replace(parent_id=batch.parent_id)

            self._put_window(batch, indexes, prepare)
            if indexes.stop < batch.total:
                now_ms, shards = self._store.now_ms(), self._store.shards_to_write()
                write = batch_items.put_so_far(
                    batch._replace(put=put), new_token(), put=indexes.stop, now_ms=now_ms, shards=shards
                )
                self._store.table.apply(batch_key(batch.id), write)
                put = indexes.stop

    def _put_window(self, batch: StoredBatch, indexes: Sequence[int], member: Callable[[int], NewRun]) -> None:
        """Put some members; those that the table refuses are tried again. ``BatchIncompleteError`` at last."""
        failures: dict[int, Exception] = {}
        left: Sequence[int] = indexes
        for attempt in range(TRIES):
            failures.clear()
            in_flight = BoundedPool(self._creator.pool, PUTS_IN_FLIGHT)
            found = iter(left)
            while chunk := list(islice(found, CHUNK)):
                in_flight.start(partial(self._put_and_send, chunk, member, failures))
            in_flight.finish()
            if not failures:
                return
            left = sorted(failures)
            if any(not isinstance(each, AWS_ERRORS) or is_permanent(each) for each in failures.values()):
                break
            if attempt + 1 < TRIES:
                time.sleep(0.2 * 2**attempt)
        raise BatchIncompleteError(batch.id, failures)

    def _put_and_send(
        self, indexes: list[int], member: Callable[[int], NewRun], failures: dict[int, Exception]
    ) -> None:
        sendings: dict[str, Sending] = {}
        for index in indexes:
            try:
                new_run = member(index)
                if self._store.put(new_run):
                    delay_seconds = message_delay_seconds(new_run.due_ms, new_run.now_ms)
                    if delay_seconds is not None:
                        sendings[new_run.id] = Sending(delay_seconds, new_run.group)
            except Exception as error:
                failures[index] = error
        if sendings:
            self._store.queue.try_send_many(sendings)

    def _seal(self, batch: StoredBatch) -> None:
        """Record that all members are stored, and complete the batch where all have ended meanwhile."""
        write = batch_items.seal(
            batch.id, new_token(), now_ms=self._store.now_ms(), shards=self._store.shards_to_write()
        )
        answer = self._store.table.apply(batch_key(batch.id), write)
        if not answer.applied:
            found = None if answer.item is None else read_batch(batch.id, answer.item)
            if found is not None and found.cancel_requested:
                with suppress(*AWS_ERRORS):  # what this process can't or may not do, the dispatcher does
                    for index in range(batch.total):
                        run_control.cancel(self._store, member_run_id(batch.id, index), found.cancel_reason)
                raise BatchCanceledError(batch.id)
            return
        level = len(widths(batch.total)) - 1
        root = bucket_key(batch.id, level, 0)
        marks = self._store.table.get_sets([root]).get(root, {}) if batch.total else {}
        if is_full(marks, total=batch.total, level=level, place=0):
            batch_marks.complete(self._store, batch.id, batch._replace(sealed=True))

    # Reading

    def get(self, batch_id: str) -> Batch | None:
        """Return a batch as it is now, or ``None``."""
        return batch_marks.public_batch(self._store, batch_id) if may_exist("a batch id", batch_id) else None

    def members(self, batch_id: str, status: object) -> Iterator[Run]:
        """Yield the members of a batch; see ``Jobs.batch_members``."""
        if status is not None and status not in _STATUSES:
            raise InvalidArgumentError(f"status must be one of {', '.join(_STATUSES)}, not {short_repr(status)}")
        chosen: Any = status
        found = batch_marks.find_batch(self._store, batch_id) if may_exist("a batch id", batch_id) else None
        return iter(()) if found is None else self._of(found, chosen)

    def _of(self, batch: StoredBatch, status: MemberStatus | None) -> Iterator[Run]:
        return batch_marks.members(self._store, batch.id, batch.total, status)

    def page(self, *, limit: object, page: object) -> BatchPage:
        """Return one page of batches, the newest first; see ``Jobs.list_batches``."""
        size = require_page_limit(limit)
        after = _decode_page(page)
        places = heapq.merge(
            *(self._partition(shard, size, after) for shard in list_shards(batch_items.LISTED_BATCHES)), reverse=True
        )
        chosen = list(islice(places, size + 1))
        keys = [batch_key(batch_id) for _, batch_id in chosen[:size]]
        items = self._store.table.get_many(keys)
        batches = []
        for key in keys:
            if key in items:
                found = read_batch(key.id, items[key])
                as_of_ms = self._as_of(found, items[key])
                batches.append(
                    found.public(found.stored_counts, as_of_ms=as_of_ms, read_members=partial(self._of, found))
                )
        next_page = _encode_page(chosen[size - 1]) if len(chosen) > size else None
        return BatchPage(batches=tuple(batches), next_page=next_page)

    @staticmethod
    def _as_of(found: StoredBatch, item: Attributes) -> int:
        return int(item.get("done_at") or item.get("looked_at") or found.created_ms)

    def _partition(self, shard: str, size: int, after: tuple[int, str] | None) -> list[tuple[int, str]]:
        """Return the newest batches of one partition that are behind a place."""
        found: list[tuple[int, str]] = []
        place: Attributes | None = None
        while True:
            items, place = self._store.table.index_page(
                LISTING_INDEX,
                ("list_shard", shard),
                "list_at",
                between=(0, LAST_MS if after is None else after[0]),
                limit=size + 1,
                newest_first=True,
                after=place,
            )
            for item in items:
                entry = (int(item["list_at"]), str(item["pk"]).partition("#")[2])
                if after is None or entry < after:
                    found.append(entry)
            # Entries of one millisecond have no order in the index: they are read to their end.
            edge = None if len(found) <= size else sorted(found, reverse=True)[size][0]
            if place is None or (edge is not None and int(place["list_at"]) < edge):
                return sorted(found, reverse=True)[: size + 1]

    # Canceling

    def cancel(self, batch_id: str, reason: str | None) -> bool:
        """Cancel all members that have not ended; see ``Jobs.cancel_batch``."""
        require_reason(reason)
        found = batch_marks.find_batch(self._store, batch_id) if may_exist("a batch id", batch_id) else None
        found = None if found is None else self.request_cancel(found, reason)
        if found is None or found.done:
            return False
        in_flight = BoundedPool(self._creator.pool, PUTS_IN_FLIGHT)
        errors: list[Exception] = []
        for index in batch_marks.unmarked(self._store, found):
            in_flight.start(partial(self._cancel_member, found, index, reason, errors))
        in_flight.finish()
        if errors:
            raise errors[0]
        return True

    def request_cancel(self, batch: StoredBatch, reason: str | None) -> StoredBatch | None:
        """Record that all members are to be canceled, so that the dispatcher does it; return the batch as it is."""
        batch_id = batch.id
        found: StoredBatch | None = batch
        while found is not None and not found.done and not found.cancel_requested:
            write = batch_items.cancel(
                found,
                new_token(),
                now_ms=self._store.now_ms(),
                reason=reason,
                shards=self._store.shards_to_write(),
            )
            answer = self._store.table.apply(batch_key(batch_id), write)
            if answer.applied:
                break
            found = None if answer.item is None else read_batch(batch_id, answer.item)  # it was sealed, or canceled
        return found

    def _cancel_member(self, batch: StoredBatch, index: int, reason: str | None, errors: list[Exception]) -> None:
        run_id = member_run_id(batch.id, index)
        try:
            run_control.cancel(self._store, run_id, reason)
        except (*AWS_ERRORS, KumofireError) as error:
            errors.append(error)


def _require_room(what: str, followers: tuple[Follower, ...]) -> None:
    """Raise ``InvalidArgumentError`` where what follows a batch does not fit in the batch's item."""
    if (size := text_bytes(followers_text(followers))) > MAX_PAYLOAD_BYTES:
        raise InvalidArgumentError(
            f"{what} {size} bytes as it would be stored with the batch; there is room for {MAX_PAYLOAD_BYTES} "
            "(DynamoDB's item limit), with a bucket too; pass a reference to a large payload"
        )


def _requests(call: str, requests: object) -> Sequence[RunRequest]:
    if isinstance(requests, Mapping | str | bytes) or not isinstance(requests, Iterable):
        raise InvalidArgumentError(
            f"{call} takes a list (or another iterable) of requests, each a mapping of what create takes, "
            f"not {type(requests).__name__}"
        )
    return requests if isinstance(requests, Sequence) else list(requests)


def _then_if(then_if: object) -> ThenIf:
    if then_if == "ended":
        return "ended"
    if then_if == "succeeded":
        return "succeeded"
    raise InvalidArgumentError(f"then_if must be 'ended' or 'succeeded', not {short_repr(then_if)}")


def _encode_page(place: tuple[int, str]) -> str:
    return base64.urlsafe_b64encode(json_codec.encode("the page", list(place)).encode()).decode()


def _decode_page(page: object) -> tuple[int, str] | None:
    if page is None:
        return None
    if isinstance(page, str):
        try:
            found: Any = json_codec.decode(base64.b64decode(page.encode(), altchars=b"-_", validate=True).decode())
            at_ms, batch_id = found
            if type(at_ms) is int and 0 <= at_ms <= LAST_MS and isinstance(batch_id, str):
                return at_ms, batch_id
        except (binascii.Error, ValueError, TypeError):
            pass
    raise InvalidArgumentError(f"page must be the next_page of an earlier page, not {short_repr(page)}")

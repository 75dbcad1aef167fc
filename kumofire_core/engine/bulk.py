"""Operations over many runs: cancel, retry or delete all that fit a filter.

An operation is an item of its own. It is saved after each page of runs, with the place to go on from, so that another
process can go on where one was interrupted. The page that was interrupted is done again: each run that was changed
names the operation, or does not fit it any more.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, TypeVar

from kumofire_core.aws.error_notes import is_permanent
from kumofire_core.aws.errors import AWS_ERRORS, is_invalid
from kumofire_core.engine import run_control
from kumofire_core.engine.queries import Place, RunFilter, RunQueries, run_filter
from kumofire_core.engine.run_store import RunStore, new_token
from kumofire_core.errors import CorruptItemError, InvalidArgumentError, KumofireError, NewerSchemaError, short_repr
from kumofire_core.handlers.handler_pool import BoundedPool, HandlerPool
from kumofire_core.model import json_codec
from kumofire_core.model.error_text import error_name
from kumofire_core.model.message import Sending
from kumofire_core.model.run import RunStatus
from kumofire_core.model.run_item import StoredRun
from kumofire_core.model.times import LAST_MS, from_ms, to_ms
from kumofire_core.model.write import SCHEMA, Attributes, Key, number, read_number, read_text
from kumofire_core.rules import bulk_writes
from kumofire_core.rules.bulk_writes import STATUSES, BulkAction
from kumofire_core.rules.validation import PAGE_LIMIT, distinct_ids, may_exist
from kumofire_core.rules.wake_ups import message_delay_seconds

log = logging.getLogger("kumofire_core")

BULK = "bulk"

CHANGES_IN_FLIGHT = 16
"""Runs of a page that are changed at once."""

MOST_IDS = 1_000
"""Ids that one operation may be given. They are in its item, which is written once a page."""

MOST_COUNTED = 10_000
MOST_COUNTED_PAGES = 200
"""Where a dry run stops counting: it has then read about 10,000 items, or a million index entries."""

MOST_ROUNDS = 5
"""Passes over the unfinished runs. A run whose message is sent again moves in the index, past the place that a pass has
come to; so there is another pass until one finds nothing more to cancel."""

TRIES = 8
"""How often a request is made that AWS throttles, or that gets no answer: over 20 seconds, after the SDK's own."""

MOST_ERRORS = 5
MOST_ERROR_LENGTH = 300

_chance = random.Random()
"""Not the module's own generator, whose state belongs to the application."""

Progress = Callable[["BulkOperation"], object]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkOperation:
    """One operation over many runs, as far as it has come."""

    id: str | None
    """What ``get_bulk``, ``resume_bulk`` and ``abort_bulk`` take; ``None`` for a dry run, which changes nothing."""
    action: BulkAction
    filter: RunFilter
    run_ids: tuple[str, ...] | None
    """The runs that were named; ``None`` where the filter says which."""
    created_at: datetime
    matched: int = 0
    """Runs that fit so far: those changed, skipped and failed. With ``run_ids``, those in a status that it takes."""
    changed: int = 0
    skipped: int = 0
    """Runs that were left as they are: another process changed them meanwhile, their cancellation was requested
    already, or they have a ``dedupe_key``, which ``delete_many`` frees only where it is told to."""
    failed: int = 0
    """Runs that could not be changed. They are as they were, unless a reply was lost; another operation takes them."""
    errors: tuple[str, ...] = field(default=(), repr=False)
    """What happened to the first five of these, each with its run's id."""
    done: bool = False
    """Whether it has come to the end."""
    aborted: bool = False
    at_least: bool = False
    """Whether a dry run stopped counting: there are more than ``matched``."""


class _Cursor(NamedTuple):
    """How far an operation has come: behind a place of the list, or at a position among the ids."""

    round: int = 0
    changed: int = 0
    """In this round."""
    place: Place | None = None
    position: int = 0

    def text(self) -> str:
        place = None if self.place is None else list(self.place)
        return json_codec.encode("the cursor", [self.round, self.changed, place, self.position])


class _State(NamedTuple):
    """An operation as its item has it."""

    operation: BulkOperation
    reason: str | None
    spread_ms: int
    free_dedupe_keys: bool
    version: int
    cursor: _Cursor


class _Tally:
    """What became of the runs of a page. Many threads add to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts = dict.fromkeys(("matched", "changed", "skipped", "failed"), 0)
        self.errors: list[str] = []
        self.sendings: dict[str, Sending] = {}
        """The messages to send, by run id."""
        self.stopped_by: Exception | None = None
        """An error of AWS that would come for every other run too."""
        self.unanswered: Exception | None = None

    def add(self, outcome: str, *, message: tuple[str, Sending] | None = None) -> None:
        """Count one run; ``message`` is what has to be sent for it, and how."""
        with self._lock:
            self.counts["matched"] += 1
            self.counts[outcome] += 1
            if message is not None:
                self.sendings[message[0]] = message[1]

    def fail(self, run_id: str, error: Exception) -> None:
        """Count a run that could not be changed."""
        text = str(error) if isinstance(error, KumofireError) else error_name(error)
        with self._lock:
            self.counts["matched"] += 1
            self.counts["failed"] += 1
            self.errors.append(f"{run_id}: {text}"[:MOST_ERROR_LENGTH])
            if isinstance(error, AWS_ERRORS) and not is_invalid(error):
                self.unanswered = error
                if is_permanent(error):
                    self.stopped_by = error

    def require_worth_saving(self) -> None:
        """Raise where no run of the page could be changed for a reason that is not the run's."""
        if self.stopped_by is not None:
            raise self.stopped_by
        if self.unanswered is not None and self.counts["failed"] == self.counts["matched"]:
            raise self.unanswered


class BulkOperations:
    """The operations over many runs of one ``Jobs``."""

    def __init__(self, store: RunStore, queries: RunQueries, pool: HandlerPool) -> None:
        self._store = store
        self._queries = queries
        self._pool = pool

    def start(
        self,
        action: BulkAction,
        *,
        run_ids: object,
        dry_run: object,
        on_progress: object,
        reason: str | None = None,
        spread_ms: int = 0,
        free_dedupe_keys: object = False,
        **given: Any,
    ) -> BulkOperation:
        """Begin an operation and work on it to its end, or count what it would be for; see ``Jobs.retry_many``."""
        wanted, ids = _wanted(action, given, run_ids)
        tell = _teller(on_progress)
        for name, flag in (("dry_run", dry_run), ("free_dedupe_keys", free_dedupe_keys)):
            if not isinstance(flag, bool):
                raise InvalidArgumentError(f"{name} must be True or False, not {short_repr(flag)}")
        now_ms = self._store.now_ms()
        if now_ms + spread_ms > LAST_MS:
            raise InvalidArgumentError("spread ends after the year 9999")
        state = _State(
            BulkOperation(
                id=None if dry_run else uuid.uuid4().hex,
                action=action,
                filter=wanted,
                run_ids=ids,
                created_at=from_ms(now_ms),
            ),
            reason=reason,
            spread_ms=spread_ms,
            free_dedupe_keys=bool(free_dedupe_keys),
            version=0,
            cursor=_Cursor(),
        )
        if dry_run:
            return self._count(state, tell)
        attributes = bulk_writes.create(
            create_token=new_token(),
            action=action,
            wanted=_wanted_text(wanted, ids),
            reason=reason,
            spread_ms=spread_ms,
            free_dedupe_keys=state.free_dedupe_keys,
            now_ms=now_ms,
        )
        self._store.table.put_new(_key(state), attributes)
        tell(state.operation)
        return self._work(state, tell)

    def get(self, bulk_id: str) -> BulkOperation | None:
        """Return an operation as far as it has come, or ``None``."""
        state = self._find(bulk_id)
        return None if state is None else state.operation

    def resume(self, bulk_id: str, on_progress: object) -> BulkOperation | None:
        """Go on with an operation that was interrupted, or ``None``; see ``Jobs.resume_bulk``."""
        tell = _teller(on_progress)
        state = self._find(bulk_id)
        return None if state is None else self._work(state, tell)

    def abort(self, bulk_id: str) -> bool:
        """Let an operation stop after the page that is under way; say whether this call did so."""
        write = bulk_writes.abort(new_token(), now_ms=self._store.now_ms())
        return may_exist("a bulk id", bulk_id) and self._store.table.apply(Key(BULK, bulk_id), write).applied

    def _find(self, bulk_id: str) -> _State | None:
        item = self._store.table.get(Key(BULK, bulk_id)) if may_exist("a bulk id", bulk_id) else None
        return None if item is None else _read(bulk_id, item)

    def _count(self, state: _State, tell: Progress) -> BulkOperation:
        """Return what an operation would be for; nothing is written."""
        operation, cursor = state.operation, state.cursor
        for _ in range(MOST_COUNTED_PAGES):
            found, cursor_or_none = self._page(state._replace(cursor=cursor))
            operation = replace(
                operation,
                matched=operation.matched + len(found),
                skipped=operation.skipped + sum(self._keeps_key(state, run) for run in found),
            )
            if cursor_or_none is None:
                return replace(operation, done=True)
            tell(operation)
            cursor = cursor_or_none
            if operation.matched >= MOST_COUNTED:
                break
        return replace(operation, done=True, at_least=True)

    def _work(self, state: _State, tell: Progress) -> BulkOperation:
        """Do page after page, until the end, or until it is aborted or another process is found to work on it."""
        while not (state.operation.done or state.operation.aborted):
            try:
                found, following = _patiently(partial(self._page, state))
                tally = self._change(state, found)
                saved = self._save(state, tally, following)
            except AWS_ERRORS as error:
                error.add_note(f"the operation stopped; jobs.resume_bulk({state.operation.id!r}) goes on with it")
                raise
            if saved is None:
                current = self._find(str(state.operation.id))
                return state.operation if current is None else current.operation
            state = saved
            tell(state.operation)
        return state.operation

    def _page(self, state: _State) -> tuple[list[StoredRun], _Cursor | None]:
        """Return the next runs that an operation is for, and where to go on; ``None`` at the end."""
        operation, cursor = state.operation, state.cursor
        statuses = STATUSES[operation.action]
        began_ms = to_ms(operation.created_at)
        following: _Cursor | None
        if operation.run_ids is not None:
            end = cursor.position + PAGE_LIMIT
            ids = operation.run_ids[cursor.position : end]
            runs = self._queries.read_many(list(ids)) if ids else {}
            found = [runs[run_id] for run_id in ids if run_id in runs]
            following = cursor._replace(position=end) if end < len(operation.run_ids) else None
        else:
            wanted = operation.filter
            if operation.action != "cancel":  # in time for the index; the item is looked at below
                until = operation.created_at if wanted.until is None else min(wanted.until, operation.created_at)
                wanted = replace(wanted, until=until)
            found, place = self._queries.page(wanted, limit=PAGE_LIMIT, after=cursor.place, statuses=statuses)
            following = None if place is None else cursor._replace(place=place)
        return [run for run in found if bulk_writes.is_meant(run, statuses, began_ms=began_ms)], following

    def _change(self, state: _State, found: list[StoredRun]) -> _Tally:
        """Change the runs of a page, several at once, and send the messages of those that are to run again."""
        tally = _Tally()
        if found and state.operation.action == "retry":
            self._store.shards_to_write()  # once, before many threads ask
        in_flight = BoundedPool(self._pool, CHANGES_IN_FLIGHT)
        for run in found:
            in_flight.start(partial(self._change_one, state, run, tally))
        in_flight.finish()
        if tally.sendings:
            self._store.queue.try_send_many(tally.sendings)
        tally.require_worth_saving()
        return tally

    def _change_one(self, state: _State, run: StoredRun, tally: _Tally) -> None:
        operation = state.operation
        bulk = str(operation.id)
        try:
            if self._keeps_key(state, run):
                tally.add("skipped")
                return
            if run.bulk == bulk:  # changed and not counted, by an interrupted process or another one; or counted before
                tally.add("skipped" if state.cursor.round else "changed")
                return
            if operation.action == "retry":
                changed, message = _patiently(partial(self._retry, bulk, run, state.spread_ms))
            else:
                change = partial(run_control.delete_found, self._store, run)
                if operation.action == "cancel":
                    change = partial(run_control.cancel_found, self._store, run, state.reason, bulk=bulk)
                changed, message = _patiently(change), None
            if not changed and operation.action != "delete":
                now = _patiently(partial(self._store.find, run.id, payload_required=False))
                changed = now is not None and now.bulk == bulk
                if now is not None and changed and operation.action == "retry":
                    # Our own earlier try was applied and its reply lost, or another process that works on this
                    # operation retried it. A second message does no harm.
                    message = self._message_of(now)
            tally.add("changed" if changed else "skipped", message=message)
        except (*AWS_ERRORS, KumofireError) as error:
            tally.fail(run.id, error)

    def _retry(self, bulk: str, run: StoredRun, spread_ms: int) -> tuple[bool, tuple[str, Sending] | None]:
        """Retry a run; say whether this call did so, and what message to send."""
        delay_ms = bulk_writes.spread_delay_ms(bulk, run.id, spread_ms=spread_ms)
        # Its history must not quote in plain text what its attempts have encrypted.
        due_ms = run_control.retry_unsent(self._store, run.with_texts(_left_out), delay_ms=delay_ms, bulk=bulk)
        if due_ms is None:
            return False, None
        delay_seconds = message_delay_seconds(due_ms, due_ms - delay_ms)
        return True, None if delay_seconds is None else (run.id, Sending(delay_seconds, run.group))

    def _message_of(self, retried: StoredRun) -> tuple[str, Sending] | None:
        """Return the message to send of a run that this operation has retried, if it waits for one."""
        waits = retried.status in (RunStatus.QUEUED, RunStatus.SCHEDULED)
        if not waits or retried.is_parked or retried.awaits_slot is not None:
            return None
        delay_seconds = message_delay_seconds(retried.due_ms, self._store.now_ms())
        return None if delay_seconds is None else (retried.id, Sending(delay_seconds, retried.group))

    def _save(self, state: _State, tally: _Tally, following: _Cursor | None) -> _State | None:
        """Record a page; ``None`` where another process has recorded it."""
        operation, cursor = state.operation, state.cursor
        counts = tally.counts
        changed = cursor.changed + counts["changed"]
        if cursor.round:  # what is met again was counted before
            counts = counts | {"skipped": 0, "matched": counts["changed"] + counts["failed"]}
        moving = operation.action == "cancel" and operation.run_ids is None
        again = moving and changed > 0 and cursor.round + 1 < MOST_ROUNDS
        if following is not None:
            following = following._replace(changed=changed)
        elif again:
            following = _Cursor(round=cursor.round + 1)
        errors = [*operation.errors, *tally.errors][:MOST_ERRORS]
        write = bulk_writes.save(
            new_token(),
            version=state.version,
            counts={name: getattr(operation, name) + count for name, count in counts.items()},
            errors=json_codec.encode("the errors", errors),
            cursor=None if following is None else following.text(),
            now_ms=self._store.now_ms(),
            done=following is None,
        )
        answer = _patiently(partial(self._store.table.apply, _key(state), write, read_back=True))
        return _read(str(operation.id), answer.item) if answer.applied and answer.item is not None else None

    def _keeps_key(self, state: _State, run: StoredRun) -> bool:
        """Say whether a run is left because deleting it would let its ``dedupe_key`` make another one."""
        return state.operation.action == "delete" and not state.free_dedupe_keys and run.run.dedupe_key is not None


def _left_out(stored: str) -> None:
    return None


def _key(state: _State) -> Key:
    return Key(BULK, str(state.operation.id))


def _patiently(request: Callable[[], Result]) -> Result:
    """Make a request, and make it again after a growing wait where AWS throttles it or does not answer."""
    for attempt in range(TRIES):
        try:
            return request()
        except AWS_ERRORS as error:
            if attempt + 1 == TRIES or is_permanent(error):
                raise
            time.sleep(_chance.uniform(0.5, 1) * min(0.2 * 2**attempt, 5))
    raise AssertionError("unreachable")


def _teller(on_progress: object) -> Progress:
    if on_progress is None:
        return lambda operation: None
    if not callable(on_progress):
        raise InvalidArgumentError(f"on_progress must be callable, not {type(on_progress).__name__}")
    return on_progress


def _wanted(action: BulkAction, given: Mapping[str, Any], run_ids: object) -> tuple[RunFilter, tuple[str, ...] | None]:
    """Return which runs are meant; raises ``InvalidArgumentError`` where that is not said, or can't be meant."""
    wanted = run_filter(**given)
    possible = STATUSES[action]
    if wanted.status is not None and wanted.status not in possible:
        raise InvalidArgumentError(
            f"status must be one of {', '.join(sorted(possible))} for {action}_many, not {str(wanted.status)!r}"
        )
    if run_ids is None:
        if wanted.is_empty:
            raise InvalidArgumentError(
                f"{action}_many must be told which runs it is for: give status, job_name, since, until, error_type, "
                f"text or run_ids (all of them: until=datetime.now(timezone.utc))"
            )
        return wanted, None
    if not wanted.is_empty:
        raise InvalidArgumentError("give either run_ids or a filter (status, job_name, since, until, error_type, text)")
    ids = distinct_ids(run_ids)
    if len(ids) > MOST_IDS:
        raise InvalidArgumentError(f"run_ids may have {MOST_IDS} ids, and has {len(ids)}; make several calls")
    return wanted, ids


def _wanted_text(wanted: RunFilter, ids: tuple[str, ...] | None) -> str:
    if ids is not None:
        return json_codec.encode("the run ids", {"run_ids": ids})
    since, until = (None if each is None else to_ms(each) for each in (wanted.since, wanted.until))
    status = None if wanted.status is None else wanted.status.value
    # Without a text, a process of the release before texts can resume the operation. With one it must refuse to.
    text = [] if wanted.text is None else [wanted.text]
    return json_codec.encode("the filter", [status, wanted.job_name, since, until, wanted.error_type, *text])


def _read(bulk_id: str, item: Attributes) -> _State:
    """Return the operation that an item holds; raises ``CorruptItemError`` or ``NewerSchemaError``."""
    name = f"{BULK}#{bulk_id}"
    try:
        if number(item, "schema") > SCHEMA:
            raise NewerSchemaError(name, number(item, "schema"), SCHEMA)
        action: Any = item["action"]
        STATUSES[action]
        wanted: Any = json_codec.decode(str(item["wanted"]))
        ids = tuple(map(str, wanted["run_ids"])) if isinstance(wanted, dict) else None
        chosen = RunFilter()
        if ids is None:
            status, job_name, since_ms, until_ms, error_type, *further = wanted
            (text,) = further or (None,)
            since, until = (None if each is None else from_ms(each) for each in (since_ms, until_ms))
            chosen = run_filter(
                status=status, job_name=job_name, since=since, until=until, error_type=error_type, text=text
            )
        cursor = _Cursor()
        if "cursor" in item:
            told: Any = json_codec.decode(str(item["cursor"]))
            place = None if told[2] is None else Place(int(told[2][0]), str(told[2][1]))
            cursor = _Cursor(int(told[0]), int(told[1]), place, int(told[3]))
        errors: Any = json_codec.decode(str(item["errors"]))
        operation = BulkOperation(
            id=bulk_id,
            action=action,
            filter=chosen,
            run_ids=ids,
            created_at=from_ms(number(item, "created_at")),
            matched=number(item, "matched"),
            changed=number(item, "changed"),
            skipped=number(item, "skipped"),
            failed=number(item, "failed"),
            errors=tuple(map(str, errors)),
            done="done_at" in item,
            aborted="aborted_at" in item,
        )
        return _State(
            operation,
            reason=read_text(item, "reason"),
            spread_ms=read_number(item, "spread_ms") or 0,
            free_dedupe_keys=bool(read_number(item, "free_keys")),
            version=number(item, "version"),
            cursor=cursor,
        )
    except KeyError as error:
        raise CorruptItemError(name, f"it has no attribute {error}") from None
    except (ValueError, TypeError, OverflowError, IndexError, InvalidArgumentError) as error:
        raise CorruptItemError(name, f"an attribute holds a wrong value ({type(error).__name__})") from None

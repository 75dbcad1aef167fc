"""Slots of limits: a run takes its slots before its handler is called, and frees them after; the next one goes on.

All that decides who has a slot is in one item (``model.limits``), changed by conditional updates. The runs' own items
say the truth about who still needs a place: whoever meets a place whose lease has expired, or whose turn has come,
looks there. So a crash between any two requests delays a run, and lets none pass a limit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from kumofire_core.aws.dynamodb import LISTING_INDEX, Answer
from kumofire_core.aws.limit_items import LimitItems
from kumofire_core.engine.run_store import RUN, RunStore, new_token
from kumofire_core.errors import CorruptItemError, NewerSchemaError
from kumofire_core.model.error_text import error_name
from kumofire_core.model.limits import Entry, LimitState, hold_of, limit_key, waiting_hold
from kumofire_core.model.message import MAX_RUN_ID_LENGTH
from kumofire_core.model.run import FINAL, RunStatus
from kumofire_core.model.run_item import StoredRun, group_of
from kumofire_core.model.times import LAST_MS
from kumofire_core.model.write import Attributes
from kumofire_core.rules import limits, run_writes
from kumofire_core.rules.listing import limit_shard

if TYPE_CHECKING:
    from kumofire_core.handlers.registry import Job
    from kumofire_core.rules.limits import Beat, Place

log = logging.getLogger("kumofire_core")

OVERFLOW_SETTLED_MS = 120_000
"""How long after the last run came that waits outside an empty index is believed: it may be behind."""

OVERFLOW_FRESH_MS = 30_000
"""For how long the note that runs wait outside is not made again."""

OUTSIDE_READ = 60
"""Entries of the index that are read at once: more than an item holds, because those in it are still listed."""


class Turn(NamedTuple):
    """Where a run has to wait."""

    item_id: str
    slots: int
    is_outside: bool
    """The item has no room for it."""
    marks_overflow: bool = False


class Slots:
    """The places that one attempt has in the items of limits."""

    def __init__(self, store: RunStore, claimed: StoredRun) -> None:
        self._store = store
        self._items = LimitItems.of(store.table)
        self._claimed = claimed
        self._places: dict[str, int] = dict.fromkeys(claimed.limited, 0)
        """The items, each with the number of its slots; 0 where that is not known here."""
        self._hold = hold_of(claimed.claims, claimed.lease_until or 0)
        self._waiting = False

    def know(self, decrypted: StoredRun) -> None:
        """Take note of the run with its payload as the application gave it, from which keys are made."""
        self._claimed = decrypted

    def wanted(self, job: Job) -> list[Place]:
        """Return the slots that the run needs. Raises what a key raises."""
        return limits.places_of(job.concurrency, job.name, self._claimed.payload)

    def beat(self, job: Job) -> Beat | None:
        """Return where the run reserves the moment of its start. Raises what a key raises."""
        return None if job.rate is None else limits.beat_of(job.rate, job.name, self._claimed.payload, self._claimed.id)

    def take(self, wanted: list[Place]) -> Turn | None:
        """Take each of these slots, or a place in the line for one; say where the run has to wait.

        Errors of the table leave as botocore raised them.
        """
        for item_id in list(self._places):
            if all(place.part_of(item_id) is None for place in wanted):
                self._leave(item_id)  # its payload was changed, or its job
        for place in wanted:
            turn = self._take(place)
            if turn is not None:
                return turn
        return None

    def _take(self, place: Place) -> Turn | None:
        """Take a slot of one limit."""
        run_id = self._claimed.id
        for item_id in list(self._places):
            part = place.part_of(item_id)
            if part is None:
                continue
            slots = place.slots(part)
            answer = self._items.renew(item_id, run_id, hold=self._hold, slots=slots, now_ms=self._store.now_ms())
            state = LimitState(answer.item)
            if state.find(run_id) is not None:
                self._places[item_id] = slots
                return self._turn(item_id, slots, state)
            return self._enter(place, part, past_overflow=True, waits=True)
        first, *second = place.choices(run_id)
        if not second:
            return self._enter(place, first, past_overflow=False, waits=True)
        if self._enter(place, first, past_overflow=False, waits=False) is None:
            return None
        return self._enter(place, second[0], past_overflow=False, waits=True)

    def _enter(self, place: Place, part: int, *, past_overflow: bool, waits: bool) -> Turn | None:
        """Get a place in an item; without ``waits`` only one that is a slot."""
        store, run_id = self._store, self._claimed.id
        item_id, slots, now_ms = place.item_id(part), place.slots(part), store.now_ms()
        most = slots + limits.WAITING_ROOM if waits else slots
        self._places[item_id] = slots  # before the request: it may be made although its reply is lost
        answer = self._items.enter(
            item_id, run_id, hold=self._hold, slots=slots, most=most, past_overflow=past_overflow, now_ms=now_ms
        )
        if not answer.applied and LimitState(answer.item).find(run_id) is not None:
            # Its own first copy, or the place that an earlier attempt has left behind.
            answer = self._items.renew(item_id, run_id, hold=self._hold, slots=slots, now_ms=now_ms)
        state = LimitState(answer.item)
        if state.find(run_id) is not None:
            return self._turn(item_id, slots, state)
        if not waits:
            del self._places[item_id]
        elif not past_overflow and state.count < most:
            # There is room, but others wait outside, or did a while ago: they come first.
            with _told("the runs that wait outside", item_id):
                state, left = self._line.refill(item_id, slots, state)
                past_overflow = not left and state.count < most
            if past_overflow:
                return self._enter(place, part, past_overflow=True, waits=True)
        known = 0 <= now_ms - state.overflow_ms < OVERFLOW_FRESH_MS
        return Turn(item_id, slots, is_outside=True, marks_overflow=not known)

    def _turn(self, item_id: str, slots: int, state: LimitState) -> Turn | None:
        """Say where a run has to wait that has a place in an item; before it waits, look whether all slots are used."""
        run_id = self._claimed.id
        if state.has_slot(run_id, slots):
            return None
        now_ms = self._store.now_ms()
        if any(_is_expired(entry, now_ms) for entry in state.entries[:slots]):
            edge = _edge(state, slots)
            state = self._line.go_through(
                item_id, slots, state, lambda entry: _is_expired(entry, now_ms) or (entry.waits and entry.ticket > edge)
            )
            if state.has_slot(run_id, slots):
                return None
        return Turn(item_id, slots, is_outside=False)

    def write_of(self, turn: Turn) -> run_writes.Transition:
        """Return the write that lets the run wait."""
        claimed, now_ms = self._claimed, self._store.now_ms()
        since_ms = None
        if turn.is_outside:
            was_outside = claimed.list_shard == limit_shard(turn.item_id) and claimed.list_at is not None
            since_ms = claimed.list_at if was_outside else now_ms
        limited = " ".join(dict.fromkeys((*self._places, turn.item_id)))
        return run_writes.await_slot(
            claimed, now_ms=now_ms, item_id=turn.item_id, limited=limited, outside_since_ms=since_ms
        )

    def waits(self, turn: Turn) -> None:
        """Note in the items that the run waits now, and look once more whether it is its turn.

        Until then whoever freed a slot could not queue the run, because it was executing.
        """
        self._waiting = True
        claimed, mark = self._claimed, waiting_hold(self._claimed.claims)
        with _told("a run that waits for a slot", turn.item_id):
            for item_id, slots in self._places.items():
                if item_id != turn.item_id:  # it holds this slot while it waits for the other
                    self._items.renew(item_id, claimed.id, hold=mark, slots=slots, now_ms=self._store.now_ms())
            now_ms = self._store.now_ms()
            if turn.is_outside:
                if turn.marks_overflow:
                    item = self._items.set_overflow(turn.item_id, slots=turn.slots, now_ms=now_ms).item
                else:
                    item = self._store.table.get(limit_key(turn.item_id))
                self._line.let_in(turn.item_id, turn.slots, LimitState(item), claimed.id)
                return
            answer = self._items.renew(turn.item_id, claimed.id, hold=mark, slots=turn.slots, now_ms=now_ms)
            state = LimitState(answer.item)
            if state.find(claimed.id) is None or state.has_slot(claimed.id, turn.slots):
                self._line.admit(turn.item_id, claimed.id)

    def leave(self) -> None:
        """Free the slots, and let the next runs go on.

        What goes wrong is logged, because the end of the lease frees them as well.
        """
        if self._waiting:
            return
        for item_id in list(self._places):
            with _told("a slot", item_id):
                self._leave(item_id)

    def _leave(self, item_id: str) -> None:
        slots, claimed, now_ms = self._places.pop(item_id), self._claimed, self._store.now_ms()
        answer = self._items.leave(item_id, claimed.id, latest=waiting_hold(claimed.claims), now_ms=now_ms)
        state = LimitState(answer.item)
        if state.find(claimed.id) is None:
            # Also where this was a repetition: its first copy did not tell the next one.
            self._line.after_leaving(item_id, slots or state.slots, state)

    @property
    def _line(self) -> Line:
        return Line(self._store)


class Line:
    """The line of runs before the slots of a limit, for whoever has to see that it goes on."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._items = LimitItems.of(store.table)

    def after_leaving(self, item_id: str, slots: int, state: LimitState) -> None:
        """Let the run go on that has a slot now because another has left, and fill the room behind it."""
        before = state.entries[: max(slots - 1, 0)]
        edge = before[-1].ticket if before else -1
        state = self.go_through(item_id, slots, state, lambda entry: entry.waits and entry.ticket > edge)
        if slots + limits.WAITING_ROOM - state.count >= limits.WAITING_ROOM // 2:  # several at once cost less
            self.refill(item_id, slots, state)

    def let_in(self, item_id: str, slots: int, state: LimitState, run_id: str) -> None:
        """Let runs that wait outside come in, where the item has room: the room may be free since one was refused.

        ``run_id`` has just begun to wait. It comes last, and the index may not show it yet.
        """
        if state.count < slots + limits.WAITING_ROOM:
            state, _ = self.refill(item_id, slots, state)
        if state.find(run_id) is None and state.count < slots + limits.WAITING_ROOM:
            self.admit(item_id, run_id)

    def look(self, waiting: StoredRun, item_id: str) -> bool:
        """See that the line goes on that a run has waited in for long, whatever was lost; say whether the run goes on.

        A limit's item is read and gone through; then the run itself, if it has no place in there though there is room.
        """
        state = LimitState(self._store.table.get(limit_key(item_id)))
        slots, now_ms = state.slots, self._store.now_ms()
        state = self.go_through(item_id, slots, state, lambda entry: entry.waits or _is_expired(entry, now_ms))
        state, _ = self.refill(item_id, slots, state)
        entry = state.find(waiting.id)
        if entry is not None:
            return state.has_slot(waiting.id, slots)
        if waiting.list_shard is not None and state.count >= slots + limits.WAITING_ROOM:
            return False
        return self.admit(item_id, waiting.id).applied

    def collect(self, ended: StoredRun) -> None:
        """Give up the places of a run that a person has canceled, or given a later time, while it waited.

        What goes wrong is logged: whoever comes to a place that its run does not need gives it up as well.
        """
        for item_id in ended.limited:
            with _told("a canceled run's place", item_id):
                now_ms = self._store.now_ms()
                answer = self._items.leave(item_id, ended.id, latest=waiting_hold(ended.claims), now_ms=now_ms)
                state = LimitState(answer.item)
                if answer.applied:
                    self.after_leaving(item_id, state.slots, state)

    def go_through(self, item_id: str, slots: int, state: LimitState, concerns: Callable[[Entry], bool]) -> LimitState:
        """Queue the runs that have a slot and were waiting for it, and evict those that need theirs no more.

        Only entries that ``concerns`` picks are looked at, also of those that move up meanwhile.
        """
        seen: set[str] = set()
        while True:
            entry = next((each for each in state.entries[:slots] if each.run_id not in seen and concerns(each)), None)
            if entry is None:
                return state
            seen.add(entry.run_id)
            if not self._is_needed(item_id, entry):
                now_ms = self._store.now_ms()
                state = LimitState(self._items.evict(item_id, entry.run_id, seen=entry.hold, now_ms=now_ms).item)

    def _is_needed(self, item_id: str, entry: Entry) -> bool:
        """Queue a run whose turn it is, or say whether it still needs its place, which its own item tells."""
        answer = self.admit(item_id, entry.run_id)
        if answer.applied:
            return True
        if answer.item is None:
            return False
        try:
            found = self._store.read(entry.run_id, answer.item, payload_required=False)
        except CorruptItemError:
            return False  # no consumer can execute it
        except NewerSchemaError:
            return True
        if found.status in FINAL:
            return False
        if found.status is RunStatus.RUNNING:
            return (found.lease_until or 0) > self._store.now_ms()
        return item_id in found.limited

    def admit(self, item_id: str, run_id: str) -> Answer:
        """Queue a run that waited for this limit, and send its message; refused where it does not wait for it."""
        write = run_writes.admit(new_token(), item_id=item_id, now_ms=self._store.now_ms())
        answer = self._store.apply(run_id, write, read_back=True)
        if answer.applied:
            self._store.queue.try_send(run_id, delay_seconds=0, group=group_of(answer.item))
        return answer

    def refill(self, item_id: str, slots: int, state: LimitState) -> tuple[LimitState, bool]:
        """Let runs that wait outside come into an item, as many as it has room for.

        Return what it is then, and whether others wait outside still, as far as the index shows them.
        """
        room = slots + limits.WAITING_ROOM - state.count
        if not state.overflow_ms or room <= 0:
            return state, state.overflow_ms > 0
        outside = self._outside(item_id)
        new = [run_id for run_id in outside if state.find(run_id) is None]
        found = new[:room]
        now_ms = self._store.now_ms()
        if not found:
            if not outside and now_ms - state.overflow_ms > OVERFLOW_SETTLED_MS:
                self._items.clear_overflow(item_id, seen=state.overflow_ms, now_ms=now_ms)
            return state, False
        most = slots + limits.WAITING_ROOM - len(found)
        answer = self._items.fill(item_id, found, most=most, now_ms=now_ms)
        state = LimitState(answer.item)
        if not answer.applied:  # somebody else was faster
            return state, True
        return self.go_through(item_id, slots, state, lambda entry: entry.run_id in found), len(new) > len(found)

    def _outside(self, item_id: str) -> list[str]:
        """Return runs that wait outside of an item, or did a moment ago, those that came first."""
        items, _ = self._store.table.index_page(
            LISTING_INDEX,
            ("list_shard", limit_shard(item_id)),
            "list_at",
            between=(-LAST_MS, LAST_MS),
            limit=OUTSIDE_READ,
        )
        return [run_id for item in items if (run_id := _run_id(item)) is not None]


def _run_id(item: Attributes) -> str | None:
    """Return the run of an index entry, or ``None`` for an item that is none of ours."""
    kind, _, run_id = str(item.get("pk")).partition("#")
    is_ours = kind == RUN and item.get("sk") == RUN and 1 <= len(run_id) <= MAX_RUN_ID_LENGTH
    return run_id if is_ours else None


def _is_expired(entry: Entry, now_ms: int) -> bool:
    """Say whether the lease has ended of the attempt that holds a place."""
    return not entry.waits and entry.until_ms <= now_ms


def _edge(state: LimitState, slots: int) -> int:
    """Return the ticket of the last run that has a slot."""
    with_slots = state.entries[:slots]
    return with_slots[-1].ticket if with_slots else -1


class _told:  # it reads as what it does
    """Log what goes wrong with a place, and go on: the run's end is recorded, and the place is freed later."""

    def __init__(self, what: str, item_id: str) -> None:
        self._what = what
        self._item_id = item_id

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: object) -> bool:
        if not isinstance(error, Exception):
            return False
        log.warning(
            "%s of limit#%s could not be written (%s); it is done later", self._what, self._item_id, error_name(error)
        )
        return True

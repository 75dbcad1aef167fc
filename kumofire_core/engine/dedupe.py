"""One run for a key at a time, or for a period, or a debounced one: the runs of a key are its generations.

The first generation has the id that a key's run has in any case. The item ``dedupe#…`` holds the number of the latest
generation that was begun; a key that has no second one needs none. It is raised before that generation's run is put, so
that no run exists beyond it, and it never falls. So whoever reads it begins at the one run of the key that may be
unfinished, and a creator that dies in between leaves a number whose run the next one puts.
"""

from __future__ import annotations

from typing import NamedTuple

from kumofire_core.engine.run_store import RunStore, new_token, run_key
from kumofire_core.errors import DedupeContentionError, SupersededRunError
from kumofire_core.model.run import FINAL, NewRun, RunStatus, derived_run_id
from kumofire_core.model.run_item import StoredRun
from kumofire_core.model.write import Key
from kumofire_core.rules import run_writes
from kumofire_core.rules.redelivery import MOST_EARLY_SECONDS
from kumofire_core.rules.wake_ups import message_delay_seconds

DEDUPE = "dedupe"

TRIES = 50
"""How many generations one call tries. Each round takes a run of the key that ended since the round before."""

DEBOUNCE_TRIES = 10
"""How often one call tries to replace a payload; each round needs that another call has replaced it meanwhile."""


class Created(NamedTuple):
    """What a call of ``create`` came to."""

    run_id: str
    delay_seconds: int | None
    """The delay of the message that has to be sent, if any."""


def dedupe_item(dedupe_key: str) -> Key:
    """Return the key of the item that counts the runs of a ``dedupe_key``."""
    return Key(DEDUPE, derived_run_id("dedupe_key", dedupe_key))


def generation_run_id(dedupe_key: str, generation: int) -> str:
    """Return the id of the ``generation``-th run of a key. The first is the one of ``dedupe="kept"``."""
    parts = () if generation == 1 else (str(generation),)
    return derived_run_id("dedupe_key", dedupe_key, *parts)


def create(store: RunStore, asked: NewRun) -> Created:
    """Return the run that counts for this key, or put a new one.

    Raises ``DedupeKeyConflictError`` where the key's latest run is another job's.
    """
    key = str(asked.dedupe_key)
    generation = _begun(store, key)
    for _ in range(TRIES):
        # The time after the number was read. Requests may have taken long since the call came, and whoever began this
        # number did so when the period of the run before was over: its own period counts from then, not from the call.
        asked = asked._replace(now_ms=max(asked.now_ms, store.now_ms()))
        new_run = _of_generation(store, asked, generation)
        if asked.dedupe_mode == "debounce":  # the run that is found gets it, where there is one
            new_run = new_run._replace(payload=store.apart(new_run.id, new_run.payload))
        answer = store.try_put(new_run)
        if answer.applied:
            return Created(new_run.id, message_delay_seconds(new_run.due_ms, new_run.now_ms))
        if answer.item is None:
            continue  # it was deleted in this moment
        found = store.read(new_run.id, answer.item, payload_required=False)
        counts = _debounce(store, new_run, found) if asked.dedupe_mode == "debounce" else _still(asked, found)
        if counts is not None:
            return counts
        if store.table.put_larger(dedupe_item(key), "generation", generation + 1):
            generation += 1
        else:  # another creator has begun it, or one beyond it
            generation = max(generation + 1, _begun(store, key))
    raise DedupeContentionError(key, TRIES)


def find_latest(store: RunStore, dedupe_key: str) -> StoredRun | None:
    """Return the latest run of a key, whatever made it, or ``None``."""
    first, counter = run_key(generation_run_id(dedupe_key, 1)), dedupe_item(dedupe_key)
    items = store.table.get_many([first, counter])
    generation = _number(items.pop(counter, {}).get("generation"))
    if generation > 1:
        # The run of a number may not be put yet, or never have been.
        keys = [run_key(generation_run_id(dedupe_key, number)) for number in (generation, generation - 1) if number > 1]
        items |= store.table.get_many(keys)
    runs = [store.read(key.id, item) for key, item in items.items()]
    return max(runs, key=lambda run: (run.created_at, run.generation or 1), default=None)


def require_latest(store: RunStore, found: StoredRun) -> None:
    """Raise ``SupersededRunError`` where a run may not be retried because its key has begun a newer one."""
    key = found.run.dedupe_key
    if found.dedupe_mode != "unfinished" or key is None:
        return
    generation = _begun(store, key)
    if generation > (found.generation or 1):
        raise SupersededRunError(found.id, key, generation_run_id(key, generation))


def _begun(store: RunStore, dedupe_key: str) -> int:
    """Return the latest generation of a key that was begun."""
    return _number(store.table.get_attribute(dedupe_item(dedupe_key), "generation"))


def _number(stored: object) -> int:
    return stored if isinstance(stored, int) and stored >= 1 else 1


def _of_generation(store: RunStore, asked: NewRun, generation: int) -> NewRun:
    run_id = generation_run_id(str(asked.dedupe_key), generation)
    payload = asked.payload if run_id == asked.id else store.encrypted_payload(run_id, asked.payload_text)
    return asked._replace(id=run_id, payload=payload, generation=generation)


def _still(asked: NewRun, found: StoredRun) -> Created | None:
    """Return the run that was found, if it still keeps the key from making another one."""
    unfinished = asked.period_ms is None and found.status not in FINAL
    within = asked.period_ms is not None and found.created_at + asked.period_ms > asked.now_ms
    return Created(found.id, None) if unfinished or within else None


def _debounce(store: RunStore, new_run: NewRun, found: StoredRun | None) -> Created | None:
    """Give a run that has not started this payload and time; ``None`` where it has started."""
    for _ in range(DEBOUNCE_TRIES):
        if found is None or not found.is_untouched:
            return None
        now_ms = store.now_ms()
        changed_ms = max(now_ms, found.updated_at + 1)
        write = run_writes.debounce(
            found,
            new_token(),
            payload=new_run.payload,
            due_ms=new_run.due_ms,
            now_ms=now_ms,
            changed_ms=changed_ms,
            group=new_run.group,
        )
        answer = store.apply(found.id, write)
        if answer.applied:
            store.discard(found.payload_text)
            waits = found.group == new_run.group and _message_waits(found, due_ms=new_run.due_ms, now_ms=now_ms)
            return Created(found.id, None if waits else message_delay_seconds(new_run.due_ms, now_ms))
        found = None if answer.item is None else store.read(found.id, answer.item, payload_required=False)
    # Calls at the same time replaced it again and again. Any of them may count as the latest.
    return Created(found.id, None) if found is not None and found.is_untouched else None


def _message_waits(found: StoredRun, *, due_ms: int, now_ms: int) -> bool:
    """Say whether a message that is under way will do for a run's later time: its consumer hides it until then."""
    if found.is_parked:
        return False
    under_way = found.status is RunStatus.QUEUED or found.wake_at != found.due_ms
    return under_way and found.due_ms <= due_ms <= now_ms + MOST_EARLY_SECONDS * 1000

"""Pausing and resuming jobs, as a person asks for it.

All pauses are in one item, which every writer replaces on the condition that nobody has written since it was read. The
consumers read it (``pause_reader``), and the dispatcher releases the runs of a job that was resumed (``resuming``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from kumofire_core.engine.run_store import RunStore, new_token
from kumofire_core.errors import InvalidArgumentError, KumofireError
from kumofire_core.model.pauses import PAUSES, JobName, Pauses, read_pauses
from kumofire_core.model.times import from_ms, require_aware, to_ms
from kumofire_core.model.write import SCHEMA, Attributes, Write, text_bytes
from kumofire_core.rules.validation import require_job_name, require_reason

TRIES = 200
"""How often a change is tried while others change the item. Each round needs another writer to have succeeded."""

MOST_BYTES = 64 * 1024
"""What all pauses may take together: every consumer process reads them four times a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A job of which nothing starts, or all of them. Times are aware UTC datetimes."""

    job_name: str | None
    """``None``: all jobs."""
    since: datetime
    until: datetime | None
    """When it ends by itself; ``None`` where it lasts until somebody resumes it."""
    reason: str | None


def pauses(store: RunStore) -> tuple[Pause, ...]:
    """Return the pauses that hold now, the one of all jobs first."""
    active = _read(store).active(store.now_ms())
    return tuple(
        Pause(job_name=name, since=from_ms(since), until=None if until is None else from_ms(until), reason=reason)
        for name, (since, until, reason) in sorted(active.items(), key=lambda entry: (entry[0] is not None, entry[0]))
    )


def pause(store: RunStore, job_name: object, *, reason: object, until: object, must_be_known: bool) -> None:
    """Pause a job, or all; see ``Jobs.pause``."""
    name = _require_name(job_name)
    if name is not None and must_be_known:
        store.registry.require_known(name)
    require_reason(reason)
    now_ms = store.now_ms()
    until_ms = None if until is None else to_ms(require_aware("until", until))
    if until_ms is not None and until_ms <= now_ms:
        raise InvalidArgumentError(f"until is {from_ms(until_ms).isoformat()}, which is over")

    def paused(found: Pauses) -> Pauses:
        earlier = found.record(name, now_ms)
        since_ms = now_ms if earlier is None else earlier[0]
        return found.with_pause(name, (since_ms, until_ms, reason))  # type: ignore[arg-type]

    _change(store, paused)


def resume(store: RunStore, job_name: object) -> bool:
    """Resume a job, or what was paused as "all"; say whether it was paused."""
    name = _require_name(job_name)

    def resumed(found: Pauses) -> Pauses | None:
        now_ms = store.now_ms()
        return None if found.record(name, now_ms) is None else found.with_resumed(name, now_ms)

    return _change(store, resumed)


def write(store: RunStore, found: Pauses, changed: Pauses, token: str) -> tuple[bool, Attributes | None]:
    """Replace the pauses that were read; say whether that was done, or else return the item as it is."""
    attributes = changed.attributes(token)
    if text_bytes(str(attributes["pauses"])) > MOST_BYTES:
        raise InvalidArgumentError(
            f"all pauses may take {MOST_BYTES} bytes together; give shorter reasons, or pause all jobs at once"
        )
    if found.version == 0:
        answer = store.table.put_new(PAUSES, {"schema": SCHEMA, "create_token": token, **attributes})
    else:
        change = Write(
            write_token=("written_by", token),
            equals={"version": found.version},
            sets={"written_by": token, **attributes},
        )
        answer = store.table.apply(PAUSES, change)
    return answer.applied, answer.item


def _change(store: RunStore, change: Callable[[Pauses], Pauses | None]) -> bool:
    """Make a change, in as many rounds as others make theirs; ``False`` where there is nothing to change."""
    token = new_token()
    found = _read(store)
    for _ in range(TRIES):
        changed = change(found)
        if changed is None:
            return False
        written, item = write(store, found, changed, token)
        if written:
            return True
        found = read_pauses(item)
        if token in found.writes:  # it was made, and its reply lost, and others have written since
            return True
    raise KumofireError(f"others changed settings#pause {TRIES} times meanwhile; nothing was changed; try again")


def _read(store: RunStore) -> Pauses:
    return read_pauses(store.table.get(PAUSES))


def _require_name(job_name: object) -> JobName:
    if job_name is not None:
        require_job_name(job_name)
    return job_name  # type: ignore[return-value]

"""How far consumers have come in the queue: one item, which they write and the dispatcher reads.

A message that waits is not lost. So consumers tell when the messages were sent that they receive, and the dispatcher
sends a run's message again only where they are past it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from kumofire_core.aws.errors import AWS_ERRORS
from kumofire_core.engine.run_store import RunStore, new_token
from kumofire_core.model.error_text import error_name
from kumofire_core.model.write import SCHEMA, Key, Write, read_number
from kumofire_core.rules.wake_ups import Progress

PROGRESS = Key("progress", "queue")

TELL_AFTER_MS = 60_000
"""How often one process tells, at most."""

log = logging.getLogger("kumofire_core")


class ProgressTeller:
    """Tells, for one process and at most once a minute, how far it has come. Safe to call from many threads."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._told_ms = 0
        self._lock = threading.Lock()

    def is_due(self) -> bool:
        """Say whether a minute has gone by; whoever is told so must tell."""
        now_ms = self._store.now_ms()
        with self._lock:
            if 0 <= now_ms - self._told_ms < TELL_AFTER_MS:
                return False
            self._told_ms = now_ms
            return True

    def tell(self, sent_ms: int) -> None:
        """Write down that messages sent at ``sent_ms`` are received, unless a later time is there already.

        Where that fails, a line is logged: the next minute's is as good.
        """
        now_ms, token = self._store.now_ms(), new_token()
        moved = {"sent_ms": sent_ms, "moved_ms": now_ms, "probes": 0, "probed_ms": 0}
        further = {"sent_ms": sent_ms - 1}
        write = Write(write_token=("told_by", token), at_most=further, sets={"told_by": token, **moved})
        try:
            answer = self._store.table.apply(PROGRESS, write)
            if not answer.applied and answer.item is None:
                self._store.table.put_new(PROGRESS, {"schema": SCHEMA, "create_token": token, **moved})
        except AWS_ERRORS as error:
            log.warning("this consumer's place in the queue could not be written (%s)", error_name(error))


def typical_sent_ms(records: Iterable[object]) -> int | None:
    """Return when the messages of a batch were sent, by the middle one of them, or ``None`` where none says.

    Not the latest: a standard queue gives out a new message among old ones at times. Not the earliest: a message that
    was sent with a delay, or comes again, is older than its neighbours.
    """
    times = []
    for record in records:
        attributes = record.get("attributes") if isinstance(record, dict) else None
        sent = attributes.get("SentTimestamp") if isinstance(attributes, dict) else None
        if isinstance(sent, str) and sent.isascii() and sent.isdigit() and len(sent) <= 15:
            times.append(int(sent))
    return sorted(times)[(len(times) - 1) // 2] if times else None


def read_progress(store: RunStore) -> Progress:
    """Read how far consumers have come; errors of the table leave as botocore raised them."""
    item = store.table.get(PROGRESS) or {}
    return Progress(*(read_number(item, name) or 0 for name in Progress._fields))


def start_probe(store: RunStore, seen: Progress, now_ms: int) -> bool:
    """Take it upon oneself to send the message that shows whether consumers come on; ``False`` where another did."""
    token = new_token()
    probed = {"probes": seen.probes + 1, "probed_ms": now_ms}
    equals = {"sent_ms": seen.sent_ms, "probes": seen.probes, "probed_ms": seen.probed_ms}
    write = Write(write_token=("told_by", token), equals=equals, sets={"told_by": token, **probed})
    answer = store.table.apply(PROGRESS, write)
    if not answer.applied and answer.item is None:
        new = {**seen._asdict(), **probed, "moved_ms": seen.moved_ms or now_ms}
        answer = store.table.put_new(PROGRESS, {"schema": SCHEMA, "create_token": token, **new})
    return answer.applied

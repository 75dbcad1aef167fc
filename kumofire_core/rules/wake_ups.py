"""When the dispatcher must look at a run again, and when a run's message is sent.

``wake_at`` is the latest time by which the dispatcher looks at an unfinished run again. A claim does not change it, so
that a claim costs no index write. A dispatcher that looks too early moves the wake-up on.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import NamedTuple

from kumofire_core.model.times import duration_ms, whole_seconds_until

SQS_MAX_DELAY = timedelta(minutes=15)
"""https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html (message delay)"""

SEND_GRACE_MS = 2 * 60_000
"""How long after a delayed message's time its run may wait before the dispatcher takes the message for lost. More than
the dispatcher looks ahead, so that a retry which starts on time never costs it a look."""

FIRST_RESEND_MS = 2 * 60_000
LAST_RESEND_MS = 60 * 60_000

DISORDER_MS = 60_000
"""How far consumers must be past a message's time before it is taken for lost: a standard queue keeps no strict order,
and clocks differ. https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/standard-queues.html"""

SOONEST_LOOK_MS = 60_000
MOVING_LOOK_MS = 3 * 60_000
STANDING_LOOK_MS = 10 * 60_000
"""How soon a message that waits is looked at again: while consumers come nearer, and where they take nothing."""

UNTOLD_LOST_MS = 30 * 60_000
"""Where no consumer tells how far it has come, a message is sent again after this time, and then once an hour."""


class Progress(NamedTuple):
    """How far consumers have come in the queue, and what was done to find out."""

    sent_ms: int = 0
    """When the message was sent that consumers have come to; 0 where none has told."""
    moved_ms: int = 0
    """When they came there."""
    probes: int = 0
    """Messages that were sent since then to see whether they come on."""
    probed_ms: int = 0
    """When the last of these was sent."""


LEAST_SHARDS_READ = 8
"""How many index partitions every dispatcher reads at least. Who spreads runs over no more need not say so anywhere."""

MOST_SHARDS = 1000


def wake_shard(run_id: str, shards: int) -> int:
    """Return the index partition of an id. Stored with the item, so the number of shards may change."""
    return int.from_bytes(hashlib.sha256(run_id.encode("utf-8", "surrogatepass")).digest()[:4]) % shards


def waiting_wake_at(due_ms: int, now_ms: int) -> int:
    """Return the wake-up of a run that waits for ``due_ms``.

    Within SQS's longest delay its message is sent at once, and the wake-up stands behind that message. Further off, it
    is the time itself: the dispatcher sends.
    """
    return due_ms + SEND_GRACE_MS if sent_at_once(due_ms, now_ms) else due_ms


def sent_at_once(due_ms: int, now_ms: int) -> bool:
    """Say whether whoever puts a run to wait also sends its message, with a delay."""
    return due_ms - now_ms <= duration_ms(SQS_MAX_DELAY)


def message_delay_seconds(due_ms: int, now_ms: int) -> int | None:
    """Return the delay of the message that is sent at once, or ``None``: SQS can't delay that long."""
    return whole_seconds_until(due_ms, now_ms) if sent_at_once(due_ms, now_ms) else None


def resend_at(now_ms: int, *, sends: int) -> int:
    """Return when a message sent for the ``sends``-th time is taken for lost.

    The interval doubles, so that a backlog of hours is not multiplied by copies of its own messages.
    """
    return now_ms + min(FIRST_RESEND_MS << max(0, min(sends - 1, 10)), LAST_RESEND_MS)


def is_lost(sent_ms: int, *, waiting: int | None, progress: Progress) -> bool:
    """Say whether a message that should be in the queue since ``sent_ms`` can't be waiting there.

    ``waiting`` is how many messages the queue holds for consumers, or ``None`` where SQS does not say. The message is
    lost where there is none, or where consumers have come past its time.
    """
    if waiting == 0:
        return True
    if not progress.sent_ms:
        return waiting is None
    return progress.sent_ms >= sent_ms + DISORDER_MS


def is_overdue_untold(sent_ms: int, *, now_ms: int, progress: Progress) -> bool:
    """Say whether a message is to be sent again for its age alone, because no consumer tells how far it has come."""
    return not progress.sent_ms and now_ms - sent_ms >= UNTOLD_LOST_MS


def may_probe(progress: Progress, now_ms: int) -> bool:
    """Say whether one message may be sent to see whether consumers come on: they have not moved for two minutes.

    Its successors come after twice as long each, so that consumers that stand still for days find a few of them.
    """
    since_ms = max(progress.moved_ms, progress.probed_ms)
    return now_ms - since_ms >= min(FIRST_RESEND_MS << min(progress.probes, 10), LAST_RESEND_MS)


def look_again_at(sent_ms: int, *, now_ms: int, progress: Progress) -> int:
    """Return when a message that waits is looked at again: soon where consumers are near, or a probe is under way."""
    if now_ms - progress.moved_ms >= FIRST_RESEND_MS:
        return now_ms + (SOONEST_LOOK_MS if progress.probes < 2 else STANDING_LOOK_MS)
    gap_ms = sent_ms + DISORDER_MS - progress.sent_ms
    return now_ms + max(SOONEST_LOOK_MS, min(gap_ms, MOVING_LOOK_MS))

"""When the dispatcher must look at a run again, and when a run's message is sent.

``wake_at`` is the latest time by which the dispatcher looks at an unfinished run again. A claim does not change it, so
that a claim costs no index write. A dispatcher that looks too early moves the wake-up on.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta

from kumofire_core.model.times import duration_ms, whole_seconds_until

SQS_MAX_DELAY = timedelta(minutes=15)
"""https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html (message delay)"""

SEND_GRACE_MS = 2 * 60_000
"""How long after a delayed message's time its run may wait before the dispatcher takes the message for lost. More than
the dispatcher looks ahead, so that a retry which starts on time never costs it a look."""

FIRST_RESEND_MS = 2 * 60_000
LAST_RESEND_MS = 60 * 60_000

BACKLOG_LOOK_MS = 10 * 60_000
"""How long a run's message is left alone while the queue is long."""


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

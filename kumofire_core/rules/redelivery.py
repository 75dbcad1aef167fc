"""When SQS delivers a record again that was given back. Pure: jitter is a function of message and receive count."""

from __future__ import annotations

import hashlib

LONGEST_SECONDS = 300

AT_ONCE = 10
"""A record for which only the time was short comes again at once, this often. After that it waits like any other:
a function whose timeout is too short for anything must not do nothing else than receive it."""

MOST_EARLY_SECONDS = 300
"""A message that comes earlier than this is not kept until its run is due: the dispatcher sends another by then."""


def seconds_until_redelivery(message_id: str, *, receives: int, time_was_short: bool = False) -> int:
    """Return for how many seconds a record stays hidden that was received ``receives`` times, this time included.

    One second, doubled with each receive up to five minutes, of which half is spread by jitter: what failed together
    does not come again together.
    """
    if time_was_short:
        if receives <= AT_ONCE:
            return 0
        receives -= AT_ONCE
    longest = min(LONGEST_SECONDS, 1 << min(max(receives - 1, 0), 30))
    digest = hashlib.sha256(f"{message_id}:{receives}".encode("utf-8", "surrogatepass")).digest()
    return longest - int.from_bytes(digest[:4]) % (longest // 2 + 1)


def seconds_to_keep(early_seconds: int | None) -> int | None:
    """Return for how long a message stays hidden that came before its run is due, or ``None``: it is acknowledged."""
    return early_seconds if early_seconds is not None and 0 < early_seconds <= MOST_EARLY_SECONDS else None

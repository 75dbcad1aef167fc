"""Limits as an application declares them, and which limit's slots a run needs. Free of AWS and of clocks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from kumofire_core.errors import ConfigurationError, InvalidArgumentError, short_repr
from kumofire_core.model.run import MAX_NAME_LENGTH

MOST_SLOTS = 10_000
MOST_LIMITS = 4
"""Limits of one job."""
MOST_KEY_LENGTH = 1_024

SLOTS_TOGETHER = 20
"""The most slots that one item holds. A larger limit is spread over several items."""

WAITING_ROOM = 8
"""How many waiting runs an item holds beside its slots. Further ones wait in the listing index."""

MOST_STARTS = 1_000_000
SHORTEST_PER = timedelta(milliseconds=10)
LONGEST_PER = timedelta(days=30)

STARTS_TOGETHER = 400
"""The most starts a second that one item gives moments to: each is a write, and an item takes 1,000 of them.
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html"""

SLACK_SHARE = 20
"""A run may start later than its moment by one part in so many of ``per``."""
MOST_SLACK_US = 1_000_000

Key = Callable[[Any], str | int | None]


class Limit:
    """How many runs may execute at the same time, over all consumers.

    ``count`` is that number. ``key`` is called with a run's payload and returns a text or a whole number: each has
    slots of its own. ``None`` means that this run is not limited. Without a ``key``, all runs of the job share the
    slots. Jobs share a limit by its ``name``. Raises ``ConfigurationError``, which names every wrong argument.
    """

    __slots__ = ("count", "key", "name")

    def __init__(self, count: int, *, key: Key | None = None, name: str | None = None) -> None:
        problems = []
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_SLOTS:
            problems.append(f"count of a Limit must be a whole number from 1 to {MOST_SLOTS}, not {short_repr(count)}")
        problems += _common_problems("Limit", key, name)
        if problems:
            raise ConfigurationError(problems)
        self.count = count
        self.key = key
        self.name = name

    def __repr__(self) -> str:
        return f"Limit({self.count}, name={self.name!r}, key={'…' if self.key else None})"


class Rate:
    """How many runs may start within a time, over all consumers: at most ``count`` in any time of length ``per``.

    The starts are spread evenly over it. ``key`` and ``name`` as for ``Limit``. Raises ``ConfigurationError``, which
    names every wrong argument.
    """

    __slots__ = ("count", "key", "name", "per_us")

    def __init__(self, count: int, *, per: timedelta, key: Key | None = None, name: str | None = None) -> None:
        problems = []
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_STARTS:
            problems.append(f"count of a Rate must be a whole number from 1 to {MOST_STARTS}, not {short_repr(count)}")
        if not isinstance(per, timedelta) or not SHORTEST_PER <= per <= LONGEST_PER:
            problems.append(f"per of a Rate must be a timedelta from 10 ms to 30 days, not {short_repr(per)}")
        problems += _common_problems("Rate", key, name)
        if problems:
            raise ConfigurationError(problems)
        self.count = count
        self.per_us = per // timedelta(microseconds=1)
        self.key = key
        self.name = name

    def __repr__(self) -> str:
        return f"Rate({self.count}, per={self.per_us / 1e6:g} s, name={self.name!r}, key={'…' if self.key else None})"


class Beat(NamedTuple):
    """A rate as one run meets it: the item in which it reserves the moment of its start."""

    item_id: str
    interval_us: int
    """From one start to the next, in this item."""
    slack_us: int
    """How much later than its moment a run may start. The interval is longer by as much of it as is needed, so that no
    time of length ``per`` sees one start more."""


def beat_of(rate: Rate, job_name: str, payload: Any, run_id: str) -> Beat | None:
    """Return where a run reserves the moment of its start; ``None`` for one that is not limited.

    A rate of more than ``STARTS_TOGETHER`` a second is spread over several items, each with its share of the starts.
    Raises as ``places_of`` does.
    """
    key = None if rate.key is None else key_text(rate.key(payload), f"the rate of job {job_name!r}")
    if rate.key is not None and key is None:
        return None
    parts = min(rate.count, -(-rate.count * 1_000_000 // (rate.per_us * STARTS_TOGETHER)))
    part = int.from_bytes(hashlib.sha256(run_id.encode("utf-8", "surrogatepass")).digest()[:8]) % parts
    share = rate.count // parts + (part < rate.count % parts)
    base = digest("rate", rate.name, job_name, key)
    slack_us = min(rate.per_us // SLACK_SHARE, MOST_SLACK_US)
    return Beat(f"{base}.{part}" if part else base, -(-(rate.per_us + slack_us) // share), slack_us)


class Place(NamedTuple):
    """A limit as one run meets it: the slots of its key."""

    base: str
    """The digest of limit and key, by which the items are named that hold the slots."""
    total: int
    """The slots of all its items together."""
    is_keyed: bool

    @property
    def parts(self) -> int:
        """How many items the slots are spread over."""
        return -(-self.total // SLOTS_TOGETHER)

    def slots(self, part: int) -> int:
        """Return how many slots one of the items holds."""
        return self.total // self.parts + (part < self.total % self.parts)

    def item_id(self, part: int) -> str:
        """Return the id of one of the items."""
        return f"{self.base}.{part}" if part else self.base

    def part_of(self, item_id: str) -> int | None:
        """Return which of the items this is; ``None`` where it is none of them."""
        base, _, part = item_id.partition(".")
        number = int(part) if part.isdecimal() else 0
        return number if base == self.base and number < self.parts else None

    def choices(self, run_id: str) -> tuple[int, ...]:
        """Return the items in which a run tries to get a slot: two, where there are several."""
        if self.parts == 1:
            return (0,)
        drawn = int.from_bytes(hashlib.sha256(run_id.encode("utf-8", "surrogatepass")).digest()[:8])
        first, step = drawn % self.parts, 1 + drawn // self.parts % (self.parts - 1)
        return first, (first + step) % self.parts


def places_of(limits: Sequence[Limit], job_name: str, payload: Any) -> list[Place]:
    """Return the slots that a run needs, in the order in which all runs take them, so that none waits in a circle.

    Those of a key come first: who waits for one of them holds none that runs of other keys need. Raises what a ``key``
    raises, and ``InvalidArgumentError`` where it returns something else than a text, a whole number or ``None``.
    """
    places = []
    for limit in limits:
        key = None if limit.key is None else key_text(limit.key(payload), f"the limit of job {job_name!r}")
        if limit.key is None or key is not None:
            places.append(place_of(limit, job_name, key))
    return sorted(places, key=lambda place: (not place.is_keyed, place.base))


def place_of(limit: Limit, job_name: str, key: str | None) -> Place:
    """Return a limit as the runs of one key meet it; ``None`` for a limit without keys."""
    return Place(digest("limit", limit.name, job_name, key), limit.count, key is not None)


def key_text(key: object, whose: str) -> str | None:
    """Return a key as text, ``None`` for a run that is not limited; ``InvalidArgumentError`` for anything else."""
    if key is None or (isinstance(key, str) and len(key) <= MOST_KEY_LENGTH):
        return key
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)
    what = f"a text of {len(key)} characters" if isinstance(key, str) else type(key).__name__
    raise InvalidArgumentError(
        f"the key of {whose} must return a text of at most {MOST_KEY_LENGTH} characters, a whole number or None, "
        f"and returned {what}"
    )


def digest(kind: str, name: str | None, job_name: str, key: str | None) -> str:
    """Return the name of a limit and a key in the table. Its form must never change while runs hold slots."""
    parts = [kind, "job" if name is None else "name", job_name if name is None else name]
    parts += [] if key is None else [key]
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def rate_problems(job_name: str, given: object) -> list[str]:
    """Return one sentence for each reason why this can't be a job's rate."""
    return [] if isinstance(given, Rate) else [f"rate of job {job_name!r} must be a Rate, not {short_repr(given)}"]


def option_problems(option: str, job_name: str, given: object, kind: type[Limit]) -> list[str]:
    """Return one sentence for each reason why this can't be a job's limits."""
    listed = (given,) if isinstance(given, kind) else given
    name = kind.__name__
    if not isinstance(listed, list | tuple) or not listed or not all(isinstance(each, kind) for each in listed):
        return [f"{option} of job {job_name!r} must be a {name} or a list of them, not {short_repr(given)}"]
    if len(listed) > MOST_LIMITS:
        return [f"{option} of job {job_name!r} has {len(listed)} limits; {MOST_LIMITS} are the most"]
    identities = [(each.name, each.key is None) for each in listed]
    if len(set(identities)) < len(identities):
        return [f"{option} of job {job_name!r} has two limits that are one by their names; give each a name of its own"]
    return []


def differing(job_name: str, given: Any, others: Mapping[str, Sequence[Limit]]) -> list[str]:
    """Return one sentence for each limit that another job shares by its name, and gives another number."""
    mine = given if isinstance(given, list | tuple) else (given,)
    return [
        f"the limit {limit.name!r} is {limit.count} in job {job_name!r} and {theirs.count} in job {other!r}; "
        "it is one limit, so give it one number"
        for limit in mine
        for other, listed in others.items()
        for theirs in listed
        if limit.name is not None and theirs.name == limit.name and theirs.count != limit.count
    ]


def _common_problems(kind: str, key: object, name: object) -> list[str]:
    problems = []
    if key is not None and not callable(key):
        problems.append(f"key of a {kind} must be callable with a payload, not {short_repr(key)}")
    if name is not None and (not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_LENGTH):
        problems.append(f"name of a {kind} must be a text of 1 to {MAX_NAME_LENGTH} characters, not {short_repr(name)}")
    return problems

"""Which jobs are paused, and which are being resumed: the content of one item."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from kumofire_core.errors import CorruptItemError, NewerSchemaError
from kumofire_core.model import json_codec
from kumofire_core.model.times import LAST_MS
from kumofire_core.model.write import SCHEMA, Attributes, Key, Value, number

PAUSES = Key("settings", "pause")
"""The item. It has an attribute ``version``, which each write raises, and ``pauses``, JSON text."""

WRITES_KEPT = 16
"""Tokens of the latest writes in the item: a writer whose reply was lost finds its own, also below later writes."""

ALL = None
"""Stands for all jobs where a job's name does else."""

JobName = str | None
PauseRecord = tuple[int, int | None, str | None]
"""Since when, until when if that was said (epoch milliseconds), and the reason if there is one."""

_NOTHING: Mapping[Any, Any] = MappingProxyType({})


class Pauses:
    """The pauses as they were read. Treat it as immutable; each ``with_…`` returns another one."""

    __slots__ = ("_paused", "_resuming", "version", "writes")

    def __init__(
        self,
        version: int = 0,
        paused: Mapping[JobName, PauseRecord] = _NOTHING,
        resuming: Mapping[JobName, int] = _NOTHING,
        writes: tuple[str, ...] = (),
    ) -> None:
        self.version = version
        """0 where there is no item."""
        self._paused = paused
        self._resuming = resuming
        self.writes = writes

    def is_paused(self, job_name: str, now_ms: int) -> bool:
        """Say whether no run of this job may start: it is paused, or all jobs are."""
        return bool(self._paused) and (self._is_on(ALL, now_ms) or self._is_on(job_name, now_ms))

    def record(self, job_name: JobName, now_ms: int) -> PauseRecord | None:
        """Return the pause of this job, or the one of all jobs, unless its time is over."""
        return self._paused[job_name] if self._is_on(job_name, now_ms) else None

    def active(self, now_ms: int) -> dict[JobName, PauseRecord]:
        """Return the pauses whose time is not over."""
        return {name: record for name, record in self._paused.items() if self._is_on(name, now_ms)}

    def resumed(self, now_ms: int) -> dict[JobName, int]:
        """Return since when jobs are being resumed: a person asked for it, or their pause's time is over."""
        over = {name: until for name, (_, until, _) in self._paused.items() if until is not None and until <= now_ms}
        return {**self._resuming, **over}

    def releases(self, job_name: str, now_ms: int) -> bool:
        """Say whether the runs of this job that were put aside go on now."""
        resumed = self.resumed(now_ms)
        return (ALL in resumed or job_name in resumed) and not self.is_paused(job_name, now_ms)

    def with_pause(self, job_name: JobName, record: PauseRecord) -> Pauses:
        """Return them with this pause in place of an earlier one."""
        resuming = {name: since for name, since in self._resuming.items() if name != job_name}
        return Pauses(self.version, {**self._paused, job_name: record}, resuming, self.writes)

    def with_resumed(self, job_name: JobName, now_ms: int) -> Pauses:
        """Return them without this pause; its runs are being resumed."""
        paused = {name: record for name, record in self._paused.items() if name != job_name}
        return Pauses(self.version, paused, {**self._resuming, job_name: now_ms}, self.writes)

    def without(self, resumed: set[JobName]) -> Pauses:
        """Return them without these jobs, of which no run is aside any more."""
        paused = {name: record for name, record in self._paused.items() if name not in resumed}
        resuming = {name: since for name, since in self._resuming.items() if name not in resumed}
        return Pauses(self.version, paused, resuming, self.writes)

    def attributes(self, token: str) -> dict[str, Value]:
        """Return what the write with this token stores: them, as the next version."""
        content = {
            "paused": [[name, *record] for name, record in self._paused.items()],
            "resuming": [[name, since] for name, since in self._resuming.items()],
            "writes": [*self.writes, token][-WRITES_KEPT:],
        }
        return {"version": self.version + 1, "pauses": json_codec.encode("the pauses", content)}

    def _is_on(self, job_name: JobName, now_ms: int) -> bool:
        record = self._paused.get(job_name)
        return record is not None and (record[1] is None or now_ms < record[1])


NONE = Pauses()
"""What there is before the first pause."""


def read_pauses(item: Attributes | None) -> Pauses:
    """Return the pauses that the item holds; ``NONE`` where there is no item.

    Raises ``NewerSchemaError`` for an item of a later release, ``CorruptItemError`` for one that can't be read.
    """
    if item is None:
        return NONE
    name = f"{PAUSES.kind}#{PAUSES.id}"
    schema = item.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise NewerSchemaError(name, schema, SCHEMA)
    try:
        content: Any = json_codec.decode(str(item["pauses"]))
        return Pauses(
            version=number(item, "version"),
            paused={
                _name(job_name): (_time(since), None if until is None else _time(until), _text_or_none(reason))
                for job_name, since, until, reason in content["paused"]
            },
            resuming={_name(job_name): _time(since) for job_name, since in content["resuming"]},
            writes=tuple(map(str, content["writes"])),
        )
    except KeyError as error:
        raise CorruptItemError(name, f"it has no attribute {error}") from None
    except (ValueError, TypeError) as error:
        raise CorruptItemError(name, f"an attribute holds a wrong value ({type(error).__name__})") from None


def _name(value: object) -> JobName:
    return _text_or_none(value)


def _text_or_none(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError("text")
    return value


def _time(value: object) -> int:
    if type(value) is not int or not 0 <= value <= LAST_MS:
        raise ValueError("time")
    return value

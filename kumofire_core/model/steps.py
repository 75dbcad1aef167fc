"""What a run has kept: its steps, sleeps and waits, and the signals that it was given.

Each is an item beside the run's. A *record* is a step, a sleep or a wait: its name, and its position among the calls of
the handler. A *signal* is what was given for a name, or that its time was over; whichever was put first stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from kumofire_core.errors import CorruptItemError, NewerSchemaError
from kumofire_core.model.run_item import MAX_ITEM_BYTES
from kumofire_core.model.times import from_ms
from kumofire_core.model.write import SCHEMA, Attributes, Key, Value, number, present, read_number, read_text

MAX_STEP_NAME_LENGTH = 100
MAX_STEP_NAME_BYTES = 200
MAX_STEP_BYTES = MAX_ITEM_BYTES - 8 * 1024
"""What a step's value may take as it is stored."""

LONGEST_WAIT = timedelta(days=365)
"""The longest sleep, and the longest timeout of a wait."""

ALL_STEPS = "steps#"
"""What the sort keys of all of these items begin with."""


class StepKind(StrEnum):
    """What a record is of."""

    STEP = "step"
    """A function was called, and its result is kept."""
    SLEEP = "sleep"
    """The handler sleeps, or has slept, until a time."""
    WAIT = "wait"
    """The handler waits, or has waited, for a signal."""
    CHILD = "child"
    """Children were created; the result is the id of their batch, and that of the run where it is one."""
    SIGNAL = "signal"
    """A signal that the handler has not waited for so far."""


class StepRecord(NamedTuple):
    """One step, sleep or wait as it is stored."""

    kind: str
    name: str
    position: int
    """1 for the first call of the handler."""
    beside: bool
    """Whether it began while another was under way, so that its position means nothing."""
    at_ms: int
    value: str | None = None
    """A step's result: JSON text, encrypted where there is a cipher."""
    took_ms: int | None = None
    until_ms: int | None = None
    """When a sleep ends, or a wait gives up."""
    expires_at: int | None = None

    def attributes(self, token: str) -> dict[str, Value]:
        """Return the item's attributes without its key; ``token`` is the put's evidence."""
        return present(
            {
                "schema": SCHEMA,
                "create_token": token,
                "kind": self.kind,
                "position": self.position,
                "beside": 1 if self.beside else None,
                "at": self.at_ms,
                "value": self.value,
                "took_ms": self.took_ms,
                "until": self.until_ms,
                "expires_at": self.expires_at,
            }
        )


class SignalRecord(NamedTuple):
    """What was given for a name: a payload, or that its time was over."""

    name: str
    at_ms: int
    value: str | None
    """``None`` where its time was over, and where it was read without values."""
    expires_at: int | None = None
    is_over: bool = False

    def attributes(self, token: str) -> dict[str, Value]:
        """Return the item's attributes without its key; ``token`` is the put's evidence."""
        return present(
            {
                "schema": SCHEMA,
                "create_token": token,
                "at": self.at_ms,
                "value": self.value,
                "over": 1 if self.is_over else None,
                "expires_at": self.expires_at,
            }
        )


class Step(NamedTuple):
    """A kept step, a sleep, a wait or a signal of a run. Times are aware UTC datetimes."""

    name: str
    kind: StepKind
    position: int | None
    """1 for the first call of the handler; ``None`` for a signal that it has not waited for."""
    at: datetime
    """When the result was kept, or the sleep or wait began, or the signal came."""
    result: Any = None
    """A step's result, or a signal's payload; ``ENCRYPTED`` where this process has no cipher, or ``NOT_READ``."""
    duration: timedelta | None = None
    """How long a step's function took."""
    until: datetime | None = None
    """When a sleep ends, or a wait gives up."""
    signaled_at: datetime | None = None
    """When the signal came that a wait was for."""
    timed_out: bool = False
    """Whether a wait was over before its signal came."""

    def __repr__(self) -> str:
        # A result may hold what no log should show.
        return f"Step(name={self.name!r}, kind={self.kind!r}, position={self.position}, at={self.at!r})"


class KeptSteps(NamedTuple):
    """All that a run has kept, by name."""

    records: dict[str, StepRecord]
    signals: dict[str, SignalRecord]

    @property
    def results(self) -> int:
        """How many results there are: the records, and what the waits among them came to."""
        return len(self.records) + sum(name in self.records for name in self.signals)


def steps_prefix(incarnation: str) -> str:
    """Return what the sort keys of the items of one incarnation of a run begin with."""
    return f"{ALL_STEPS}{incarnation}#"


def step_key(kind: str, run_id: str, incarnation: str, name: str) -> Key:
    """Return the key of a record."""
    return Key(kind, run_id, f"{steps_prefix(incarnation)}step#{name}")


def signal_key(kind: str, run_id: str, incarnation: str, name: str) -> Key:
    """Return the key of a signal."""
    return Key(kind, run_id, f"{steps_prefix(incarnation)}signal#{name}")


UNREAD_NAMES = ("sk", "schema", "kind", "position", "beside", "at", "took_ms", "until", "over", "expires_at")
"""What is asked for of steps and signals that are read without their values."""


def read_steps(items: Iterable[Attributes], incarnation: str, *, values: bool = True) -> KeptSteps:
    """Return what the items of one incarnation hold; raises ``CorruptItemError``, ``NewerSchemaError``.

    Without ``values`` the items were asked for without them.
    """
    kept = KeptSteps({}, {})
    prefix = steps_prefix(incarnation)
    for item in items:
        kind, _, name = str(item["sk"]).removeprefix(prefix).partition("#")
        if kind == "step":
            kept.records[name] = read_record(name, item, values=values)
        elif kind == "signal":
            kept.signals[name] = read_signal(name, item, values=values)
    return kept


def read_record(name: str, item: Attributes, *, values: bool = True) -> StepRecord:
    """Return the record that an item holds; raises ``CorruptItemError``, ``NewerSchemaError``."""
    try:
        _require_schema(name, item)
        until_ms = read_number(item, "until")
        for ms in (number(item, "at"), until_ms):
            if ms is not None:
                from_ms(ms)
        kind = str(item["kind"])
        if kind == StepKind.SLEEP and until_ms is None:
            raise KeyError("until")
        value = read_text(item, "value")
        if kind == StepKind.STEP and value is None and values:
            raise KeyError("value")
        return StepRecord(
            kind=kind,
            name=name,
            position=number(item, "position"),
            beside="beside" in item,
            at_ms=number(item, "at"),
            value=value,
            took_ms=read_number(item, "took_ms"),
            until_ms=until_ms,
            expires_at=read_number(item, "expires_at"),
        )
    except KeyError as error:
        raise CorruptItemError(_named(name, item), f"it has no attribute {error}") from None
    except (TypeError, OverflowError) as error:
        problem = f"an attribute holds a wrong value ({type(error).__name__})"
        raise CorruptItemError(_named(name, item), problem) from None


def read_signal(name: str, item: Attributes, *, values: bool = True) -> SignalRecord:
    """Return the signal that an item holds; raises ``CorruptItemError``, ``NewerSchemaError``."""
    try:
        _require_schema(name, item)
        from_ms(number(item, "at"))
        value, is_over = read_text(item, "value"), "over" in item
        if value is None and values and not is_over:
            raise KeyError("value")
        return SignalRecord(name, number(item, "at"), value, read_number(item, "expires_at"), is_over)
    except KeyError as error:
        raise CorruptItemError(_named(name, item), f"it has no attribute {error}") from None
    except (TypeError, OverflowError) as error:
        problem = f"an attribute holds a wrong value ({type(error).__name__})"
        raise CorruptItemError(_named(name, item), problem) from None


def _require_schema(name: str, item: Attributes) -> None:
    if number(item, "schema") > SCHEMA:
        raise NewerSchemaError(_named(name, item), number(item, "schema"), SCHEMA)


def _named(name: str, item: Mapping[str, Any]) -> str:
    return f"{item.get('pk', '')} step {name!r}"

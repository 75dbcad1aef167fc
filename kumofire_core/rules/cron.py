"""The grammar of cron's five fields. It is strict: it refuses every expression that could be misread. Pure.

Only new expressions are checked. Earlier releases accepted more, and the schedules that they stored still fire.
docs/schedules.md is the reference for users.
"""

from __future__ import annotations

from typing import NamedTuple

from kumofire_core.errors import InvalidScheduleError, short_repr

BLANKS = " \t"


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    takes: str
    names: tuple[str, ...] = ()
    cycle: int = 0
    """The number of different values, which is the longest step of ``*``."""

    def values(self) -> str:
        """Return the range of values, by number and by name, for an error's text."""
        return f"{self.low}-{self.high}" + (f" or {self.names[0]}-{self.names[-1]}" if self.names else "")


_WEEKDAY = _Field(
    "day of week",
    0,
    7,
    ", 5L (the last Friday) or MON#1 (the first Monday)",
    ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"),
    cycle=7,
)
_FIELDS = (
    _Field("minute", 0, 59, "", cycle=60),
    _Field("hour", 0, 23, "", cycle=24),
    _Field("day of month", 1, 31, ", L (the last day) or LW (the last weekday)", cycle=31),
    _Field(
        "month",
        1,
        12,
        "",
        ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"),
        cycle=12,
    ),
    _WEEKDAY,
)


class _Problem(Exception):
    """One item of a field is not valid; the text says why."""


def canonical_cron(text: str) -> str:
    """Return the five fields in upper case, with one space between them.

    Raises ``InvalidScheduleError``, which names the field, the item and the problem.
    """
    import unicodedata

    for index, written in enumerate(_split(text)):
        for character in written:
            if not "!" <= character <= "~":
                name = unicodedata.name(character, "a control character")
                place = f"{_FIELDS[index].name} (field {index + 1} of 5)" if index < len(_FIELDS) else "after field 5"
                raise InvalidScheduleError(
                    f"cron expression {_quoted(text)}: {place} has U+{ord(character):04X} ({name}); write ASCII, "
                    "with spaces or tabs between the fields"
                )
    fields = _split(text.upper())
    canonical = " ".join(fields)
    if len(fields) != len(_FIELDS):
        names = ", ".join(field.name for field in _FIELDS)
        raise InvalidScheduleError(
            f"cron expression {short_repr(canonical)} has {len(fields)} fields; it needs five: {names}"
        )
    for index, (written, field) in enumerate(zip(fields, _FIELDS, strict=True)):
        items = written.split(",")
        for item in items:
            try:
                if item == "*" and len(items) > 1:
                    raise _Problem("* is every value, so it stands alone")
                _check_item(field, item)
            except _Problem as problem:
                raise InvalidScheduleError(
                    f"cron expression {short_repr(canonical)}: {field.name} (field {index + 1} of 5) has "
                    f"{short_repr(item)}, which is not valid: {problem}; it takes {field.values()}{field.takes}, *, "
                    "ascending ranges (a-b), steps (*/n, a-b/n) and lists (a,b)"
                ) from None
    return canonical


def folded(text: str) -> str:
    """Return the form in which earlier releases stored an accepted expression."""
    return " ".join(text.upper().split())


def _split(text: str) -> list[str]:
    return [field for field in text.replace("\t", " ").split(" ") if field]


def _quoted(text: str) -> str:
    written = ascii(text)
    return written if len(written) <= 80 else f"{written[:77]}..."


def _check_item(field: _Field, item: str) -> None:
    if not item:
        raise _Problem("nothing stands there")
    if field.name == "day of month" and item in ("L", "LW"):
        return
    if field is _WEEKDAY:
        weekday, nth, number = item.partition("#")
        if nth:
            _value(field, weekday)
            if number not in ("1", "2", "3", "4", "5"):
                raise _Problem(f"after # stands which one of the month, 1 to 5, and not {short_repr(number)}")
            return
        if item.endswith("L") and item[:-1].isdigit():
            _value(field, item[:-1])
            return
    span, slash, step = item.partition("/")
    first, dash, last = span.partition("-")
    if span == "*":
        longest, of = field.cycle, f"the {field.cycle} values of *"
    elif dash:
        low, high = _value(field, first), _value(field, last)
        if high < low:
            raise _Problem(f"the range descends, from {low} to {high}{_instead(field, low, high)}")
        if high == low:
            raise _Problem(f"a range of one value is written {low}")
        longest, of = high - low, f"the way from {low} to {high}"
    else:
        low = _value(field, first)
        longest, of = field.high - low, f"the way from {low} to {field.high}"
    if slash:
        _check_step(step, longest, of)
        if field is _WEEKDAY and span != "*" and not dash and low and (field.high - low) % int(step) == 0:
            # cronsim counts up to 7; croniter and others count up to 6.
            raise _Problem(f"it may or may not mean Sunday; write {low}-6/{int(step)}, or {low}-7/{int(step)} with it")


def _check_step(step: str, longest: int, of: str) -> None:
    if not _is_number(step):
        raise _Problem(f"the step {short_repr(step)} is not a number of one or two digits")
    if int(step) < 1:
        raise _Problem("the step is 0, and the least is 1")
    if int(step) > longest:
        raise _Problem(f"the step {int(step)} is longer than {of}, so it would never be taken")


def _value(field: _Field, text: str) -> int:
    """Return the value of a number or a name; raises ``_Problem`` if the field does not have it."""
    if text in field.names:
        return field.names.index(text) + field.low
    if not _is_number(text):
        what = "nor a name of this field" if field.names else "and this field has no names"
        raise _Problem(f"{short_repr(text)} is not a number of one or two digits, {what}")
    if not field.low <= int(text) <= field.high:
        raise _Problem(f"{int(text)} is not within {field.low}-{field.high}")
    return int(text)


def _is_number(text: str) -> bool:
    return 1 <= len(text) <= 2 and text.isascii() and text.isdigit()


def _instead(field: _Field, low: int, high: int) -> str:
    """Return a hint: how to write a range that wraps around the end of a field."""
    if field is _WEEKDAY and high == 0:
        return f" (Sunday is 7 there: {low}-7)"
    return f" (write {low}-{field.high - (field is _WEEKDAY)},{field.low}-{high})"

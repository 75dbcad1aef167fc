"""What happened to a run, in its order: its creation, its waits, each attempt, its ends, a person's retries."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise

from kumofire_core.console.words import took as duration
from kumofire_core.model.run import FINAL, AttemptEnding, RunStatus
from kumofire_core.model.run_view import Attempt, RetriedRun, Run
from kumofire_core.text import length, plain

ENDINGS = {
    AttemptEnding.SUCCEEDED: "succeeded",
    AttemptEnding.RAISED: "raised",
    AttemptEnding.TIMED_OUT: "timed out",
    AttemptEnding.WORKER_LOST: "lost its consumer",
    AttemptEnding.SNOOZED: "snoozed",
    AttemptEnding.CANCELED: "was canceled",
}

DOTS = {
    AttemptEnding.SUCCEEDED: "succeeded",
    AttemptEnding.SNOOZED: "scheduled",
    AttemptEnding.CANCELED: "canceled",
}
"""The status whose colour an attempt has; any other ending has that of ``failed``."""

LEAST_WAIT_SECONDS = 0.1
"""A shorter wait is not told."""

_FRAME = re.compile(r'  File "(.*)", line ([0-9]+), in (.*)')
_GAP = "  …"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One line of code that an error passed through."""

    file: str = ""
    line: str = ""
    function: str = ""
    code: str = ""
    other: str = ""
    """A line that does not have the form of a frame, as it is."""
    is_gap: bool = False
    """Whether frames were left out here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened. ``text`` is of this program, ``error_type`` and ``note`` are of others."""

    key: str
    """Tells it from the others, and stays while events are added."""
    dot: str
    """The status whose colour it has; ``wait`` has no dot."""
    text: str
    error_type: str | None = None
    after: str = ""
    """How long it took."""
    at: datetime | None = None
    note: str | None = None
    """A text that may quote the payload."""
    attempt: Attempt | None = None
    frames: tuple[Frame, ...] = ()
    log_command: str | None = None
    is_repeated: bool = False
    """Whether the next attempt says the same, so that its note need not be read here."""
    is_open: bool = False
    """Whether its details are shown without a click."""

    @property
    def summary(self) -> str:
        """What is behind its first lines; empty where nothing is."""
        parts = [
            "text" if self.note and self.is_repeated else "",
            "traceback" if self.frames else "",
            "log" if self.has_logs else "",
        ]
        return ", ".join(filter(None, parts)).capitalize()

    @property
    def has_logs(self) -> bool:
        """Whether it is known where it logged."""
        return self.attempt is not None and bool(self.attempt.request_id or self.attempt.log_stream)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A time that a run waited or executed."""

    kind: str
    """``waiting``, or how the attempt stands."""
    start: datetime
    end: datetime
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A span as a part of a chart that is ``WIDTH`` wide."""

    kind: str
    x: float
    width: float
    text: str


WIDTH = 1000
LEAST_WIDTH = 3


def timeline(run: Run, *, texts: bool) -> list[Event]:
    """Return what happened to a run, the earliest first, and what it waits for.

    Without ``texts`` nothing that may quote the payload is told: neither an error's text nor a traceback or a reason.
    """
    events = _all_events(run)
    return events if texts else [replace(event, note=None, frames=()) for event in events]


def _all_events(run: Run) -> list[Event]:
    events = [Event(key="created", dot="scheduled", text="Created", at=run.created_at)]
    first_kept = run.retries - len(run.history)
    lives = sorted({attempt.retries for attempt in run.attempts} | set(range(max(0, first_kept), run.retries + 1)))
    lives = lives or [run.retries]
    if lives[0] > 0:
        events.append(Event(key="dropped", dot="dropped", text=f"What was before its retry {lives[0]} is not kept"))
    before: datetime | None = run.created_at if lives[0] == 0 else None
    for life in lives:
        attempts = [attempt for attempt in run.attempts if attempt.retries == life]
        ending = run.history[life - first_kept] if 0 <= life - first_kept < len(run.history) else None
        failed = ending.attempt if ending is not None else run.attempt if life == run.retries else 0
        missing = attempts[0].number - 1 if attempts else failed
        if missing > 0:
            before = None
            events.append(Event(key=f"missing-{life}", dot="dropped", text=f"{_attempts(missing)} not kept"))
        for attempt in attempts:
            key = f"{life}-{attempt.number}{'-snoozed' if attempt.ended is AttemptEnding.SNOOZED else ''}"
            if before is not None and attempt.started_at is not None:
                waited = (attempt.started_at - before).total_seconds()
                if waited >= LEAST_WAIT_SECONDS:
                    events.append(Event(key=f"wait-{key}", dot="wait", text=f"waited {length(waited)}"))
            events.append(_attempt_event(run, attempt, key))
            before = attempt.ended_at
        if life < run.retries:
            if ending is not None:
                events.append(_ending_event(ending, life, has_texts=any(each.message for each in attempts)))
            events.append(Event(key=f"retried-{life}", dot="scheduled", text="Retried by a person"))
            before = None
    events += _standing(run)
    return events


def _attempts(number: int) -> str:
    return "1 earlier attempt is" if number == 1 else f"{number:,} earlier attempts are"


def _attempt_event(run: Run, attempt: Attempt, key: str) -> Event:
    if attempt.ended is None:
        return Event(
            key=key,
            dot="running",
            text=f"Attempt {attempt.number} is executing",
            at=attempt.started_at,
            attempt=attempt,
            log_command=_log_command(run, attempt),
        )
    took = None
    if attempt.started_at is not None and attempt.ended_at is not None:
        took = max(0.0, (attempt.ended_at - attempt.started_at).total_seconds())
    failures = [each for each in run.attempts if each.error_type is not None]
    return Event(
        key=key,
        dot=DOTS.get(attempt.ended, "failed"),
        text=f"Attempt {attempt.number} {ENDINGS[attempt.ended]}",
        error_type=attempt.error_type if attempt.ended is AttemptEnding.RAISED else None,
        after="" if took is None else f"after {duration(took)}",
        at=attempt.ended_at,
        note=attempt.message,
        attempt=attempt,
        frames=tuple(frames_of(attempt.traceback or "")),
        log_command=_log_command(run, attempt),
        is_repeated=attempt.message is not None and _next_message(run, attempt) == attempt.message,
        is_open=bool(failures) and attempt is failures[-1] and run.status is not RunStatus.SUCCEEDED,
    )


def _next_message(run: Run, attempt: Attempt) -> str | None:
    """Return what the attempt after this one says."""
    later = next((after for each, after in pairwise(run.attempts) if each is attempt), None)
    return None if later is None else later.message


def _log_command(run: Run, attempt: Attempt) -> str | None:
    """Return the command that shows what was logged: it knows the latest attempt of a number."""
    if not attempt.request_id or attempt is not [each for each in run.attempts if each.number == attempt.number][-1]:
        return None
    return f"kumofire runs logs {shlex.quote(plain(run.id))} --attempt {attempt.number}"


def _ending_event(ending: RetriedRun, life: int, *, has_texts: bool) -> Event:
    attempts = f"{ending.attempt:,} failed attempt{'' if ending.attempt == 1 else 's'}"
    word = "Failed" if ending.status is RunStatus.FAILED else "Canceled"
    return Event(
        key=f"end-{life}",
        dot=ending.status.value,
        text=f"{word} after {attempts}" if ending.attempt else f"{word} before an attempt had failed",
        at=ending.finished_at,
        note=ending.cancel_reason or (None if has_texts else ending.last_error),
    )


def _standing(run: Run) -> Iterator[Event]:
    """Give how a run stands, or has ended, where its latest attempt does not say so."""
    latest = run.attempts[-1] if run.attempts else None
    is_of_this_life = latest is not None and latest.retries == run.retries
    if run.status is RunStatus.SUCCEEDED:
        if latest is None or latest.ended is not AttemptEnding.SUCCEEDED:
            yield Event(key="now", dot="succeeded", text="Succeeded", at=run.finished_at)
    elif run.status is RunStatus.FAILED:
        left = run.max_attempts - run.attempt
        why = (
            ": it has no attempt left"
            if left <= 0
            else f" with {left:,} attempt{'' if left == 1 else 's'} left: such an error is not attempted again"
        )
        note = None if is_of_this_life and latest is not None and latest.message else run.last_error
        error_type = None if is_of_this_life else run.error_type
        yield Event(
            key="now",
            dot="failed",
            text="Failed without an attempt:" if error_type else f"Failed{why}",
            error_type=error_type,
            at=run.finished_at,
            note=note,
        )
    elif run.status is RunStatus.CANCELED:
        yield Event(key="now", dot="canceled", text="Canceled", at=run.finished_at, note=run.cancel_reason)
    elif run.status is RunStatus.RUNNING:
        if latest is None or latest.ended is not None:
            yield Event(key="now", dot="running", text="Is executing", at=run.started_at)
    elif run.paused:
        yield Event(key="now", dot="paused", text="Waits until its job is resumed; due", at=run.scheduled_for)
    elif run.status is RunStatus.QUEUED:
        yield Event(key="now", dot="queued", text="Waits on the queue for a consumer; due", at=run.scheduled_for)
    else:
        yield Event(key="now", dot="scheduled", text=f"Waits for attempt {run.attempt + 1}, due", at=run.scheduled_for)


def frames_of(traceback: str) -> Iterator[Frame]:
    """Give the frames of a traceback as it is stored. A line of another form is given as it is."""
    lines = traceback.split("\n") if traceback else []
    index = 0
    while index < len(lines):
        line = lines[index]
        index += 1
        found = _FRAME.fullmatch(line)
        if found is None:
            yield Frame(is_gap=True) if line == _GAP else Frame(other=line)
            continue
        code = ""
        if index < len(lines) and lines[index].startswith("    "):
            code = lines[index].strip()
            index += 1
        yield Frame(file=found[1], line=found[2], function=found[3], code=code)


def spans(run: Run, now: datetime) -> list[Span]:
    """Return when a run waited and when it executed, as far as it is known. Between two lives it did neither."""
    found: list[Span] = []
    before: tuple[int, datetime] | None = (0, run.created_at)
    for attempt in run.attempts:
        start, end = attempt.started_at, now if attempt.ended is None else attempt.ended_at
        if start is None or end is None:
            before = None if end is None else (attempt.retries, end)
            continue
        is_next = before is not None and before[0] == attempt.retries and (found or attempt.number == 1)
        if is_next and before is not None and start > before[1]:
            found.append(_waiting(before[1], start))
        kind = "running" if attempt.ended is None else DOTS.get(attempt.ended, "failed")
        took = duration((end - start).total_seconds())
        found.append(Span(kind=kind, start=start, end=max(start, end), text=f"attempt {attempt.number}, {took}"))
        before = (attempt.retries, end)
    if run.status in (RunStatus.SCHEDULED, RunStatus.QUEUED):
        if before is not None and before[0] == run.retries and now > before[1]:
            found.append(_waiting(before[1], now))
    elif run.status in FINAL and not run.attempts and run.finished_at is not None and not run.retries:
        found.append(_waiting(run.created_at, max(run.created_at, run.finished_at)))
    return found


def _waiting(start: datetime, end: datetime) -> Span:
    return Span(kind="waiting", start=start, end=end, text=f"waited {length((end - start).total_seconds())}")


def bars(found: list[Span]) -> list[Bar]:
    """Return spans to scale; an attempt stays visible however short it is. Empty where there is nothing to compare."""
    if not any(span.kind != "waiting" for span in found):
        return []
    first, last = min(span.start for span in found), max(span.end for span in found)
    whole = (last - first).total_seconds()
    if whole <= 0:
        return []

    def place(moment: datetime) -> float:
        return (moment - first).total_seconds() / whole * WIDTH

    drawn = []
    for span in sorted(found, key=lambda span: span.kind != "waiting"):  # attempts are drawn over waits
        least = 0 if span.kind == "waiting" else LEAST_WIDTH
        width = max(least, place(span.end) - place(span.start))
        drawn.append(
            Bar(
                kind=span.kind, x=round(min(place(span.start), WIDTH - width), 2), width=round(width, 2), text=span.text
            )
        )
    return drawn

"""Decisions about a run's steps: names, how long they are kept, and when a run goes on in another invocation."""

from __future__ import annotations

from kumofire_core.model.steps import MAX_STEP_NAME_BYTES, MAX_STEP_NAME_LENGTH
from kumofire_core.model.write import text_bytes

DAY_MS = 24 * 60 * 60_000

LOOK_MS = DAY_MS
"""How long a run that waits for a signal is left alone. A signal wakes it; this is for a sender that died halfway."""

KEPT_MS = 35 * DAY_MS
"""How long a record is kept beyond the retention of runs, from when it was put or renewed."""

LEAST_KEPT_MS = 20 * DAY_MS
"""A run that goes on renews the records that have less than that left."""

SIGNAL_KEPT_MS = 400 * DAY_MS
"""How long a signal is kept beyond the retention of runs. A run may sleep for a year before it asks for it."""

SHARE_OF_TIME = 0.1
STEPS_AHEAD = 1.5


def step_name_problem(name: object) -> str | None:
    """Return a sentence that says what is wrong with the name of a step or a signal, or ``None``."""
    if not isinstance(name, str):
        return f"the name of a step must be a string, not {type(name).__name__}"
    if not 1 <= len(name) <= MAX_STEP_NAME_LENGTH:
        return f"the name of a step must have 1 to {MAX_STEP_NAME_LENGTH} characters, not {len(name)}"
    if not name.isprintable():
        return f"the name {name!r} of a step has characters that can't be printed"
    if text_bytes(name) > MAX_STEP_NAME_BYTES:
        return f"the name of a step must have at most {MAX_STEP_NAME_BYTES} bytes in UTF-8, not {text_bytes(name)}"
    return None


def goes_on_elsewhere(*, seconds_left: float, whole: float, longest_step: float) -> bool:
    """Say whether the next step is left to another invocation, which has the whole time again."""
    return seconds_left < max(SHARE_OF_TIME * whole, STEPS_AHEAD * longest_step)


def expiry_ms(now_ms: int, *, least: bool = False) -> int:
    """Return until when a record is kept at the least, before the retention of runs is added."""
    return now_ms + (LEAST_KEPT_MS if least else KEPT_MS)

"""Deliberate mistakes of the engine for the races: a judge that tells none of them would prove nothing.

They are those of the simulation (``tests.simulation.mutations``). ``python -m tests.chaos --mistakes`` makes them one
at a time, each in its race.
"""

from __future__ import annotations

import contextlib

MISTAKES: dict[str, tuple[str, ...]] = {
    "runs": ("claim a run that another holds", "take over from a living worker", "make two runs of an occurrence"),
    "flow": (
        "read no step that an earlier attempt has kept",
        "keep the latest result of a step",
        "call a batch back before all its members have ended",
        "let the latest signal win",
        "sleep for half as long",
    ),
    "limits": ("give a slot to whoever asks",),
    "rates": ("reserve moments that are too close",),
    "pauses": ("start what is paused",),
    "keys": (
        "make another run of a key at any time",
        "keep the payload of a debounced run",
        "store a run before its transaction",
    ),
    "workers": ("renew the wake-up, and not the lease",),
}
"""For each race, mistakes that it has to find."""


def made(what: str | None) -> contextlib.AbstractContextManager[object]:
    """Return a context in which this process makes the mistake; ``None`` makes none."""
    if what is None:
        return contextlib.nullcontext()
    from tests.simulation.mutations import MUTATIONS

    return MUTATIONS[what].made()

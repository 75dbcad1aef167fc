"""``kumofire dispatch``: one pass of the dispatcher in this process."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from kumofire_core.cli.exits import Exit
from kumofire_core.cli.invocation import Here

_DID = {
    "dispatched": "runs were sent to the queue",
    "schedules": "occurrences of schedules became runs",
    "resent": "lost messages were sent again",
    "postponed": "runs were left alone, because their messages may still wait in the queue",
    "recovered": "runs whose consumer was lost were put back",
    "failed": "runs whose consumer was lost had no attempt left, and failed",
    "canceled": "runs whose consumer was lost were canceled, as somebody had asked",
    "unsent": "messages were not taken by SQS; a later pass sends them",
    "refused": "messages were refused by SQS, for a reason that does not pass by itself; the log says which",
    "errors": "wake-ups could not be handled; the log says why, and a later pass finds them again",
}


def dispatch(
    *,
    limit: Annotated[int | None, Parameter(help="Handle so many wake-ups at most, the earliest first.")] = None,
    here: Here,
) -> int:
    """Make one pass of the dispatcher here and now.

    The deployed dispatcher does the same once a minute; both may run at once.
    """
    result = here.jobs.dispatch(limit)
    form = asdict(result)
    if here.as_json:
        here.emit(form)
    else:
        did = [f"{form[name]} {what}" for name, what in _DID.items() if form[name]]
        here.lines(did or ["nothing was due"])
        if not result.complete:
            here.lines(["not all that is due was looked at; call it again"])
    return Exit.TROUBLE if result.errors or result.unsent or result.refused else Exit.DONE

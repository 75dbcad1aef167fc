"""The application whose runs are measured: one job that does nothing worth measuring."""

from __future__ import annotations

from typing import Any

from kumofire_core import JobContext, Jobs


def email(ctx: JobContext) -> dict[str, Any]:
    """Use the payload, and do nothing."""
    return {"sent_to": ctx.payload["to"]}


jobs = Jobs.from_env()
jobs.handler("email")(email)

together = Jobs.from_env(batch_writes=True)
together.handler("email")(email)

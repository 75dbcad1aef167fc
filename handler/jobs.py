"""Your jobs. Register each one here, or import the modules that do; the consumer imports this file at every cold start.

Imports made here are paid by every cold start, so import what only one job needs inside its handler.
"""

from __future__ import annotations

from typing import Any

from kumofire_core import JobContext, Jobs

jobs = Jobs.from_env()


@jobs.handler("hello", max_attempts=5)
def hello(ctx: JobContext) -> dict[str, Any]:
    """Greet the payload's ``name``: a job to try a deployment with. A test and ``make deploy-local`` use it, too."""
    ctx.logger.info("saying hello")
    return {"greeting": f"Hello, {ctx.payload['name']}!", "attempt": ctx.attempt}

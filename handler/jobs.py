"""Your jobs: register each one here, or in a ``JobGroup`` in a module of its own.

A module of its own collects its handlers with ``mail = JobGroup()`` and ``@mail.handler("email")``. This file imports
the group and includes it: ``jobs.include(mail)``.

Every cold start of the consumer imports this file and pays for its imports, so import what only one job needs inside
its handler.
"""

from __future__ import annotations

from typing import Any

from kumofire_core import JobContext, Jobs

jobs = Jobs.from_env()


@jobs.handler("hello", max_attempts=5)
def hello(ctx: JobContext) -> dict[str, Any]:
    """Greet the payload's ``name``: a job to try a deployment with. ``make deploy-local`` runs it."""
    ctx.logger.info("saying hello")
    return {"greeting": f"Hello, {ctx.payload['name']}!", "attempt": ctx.attempt}

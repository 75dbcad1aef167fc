"""Your jobs: register each one here, or in a ``JobGroup`` in a module of its own, which ``jobs.include`` adds.

Every cold start of the consumer imports this file and pays for its imports, so import what only one job needs inside
its handler.
"""

from __future__ import annotations

from typing import Any

from kumofire_core import JobContext, Jobs

jobs = Jobs.from_env()


@jobs.handler("hello", max_attempts=5)
def hello(ctx: JobContext) -> dict[str, Any]:
    """Greet the payload's ``name``. A job may be attempted twice, so its effect has to bear that."""
    ctx.logger.info("saying hello")
    return {"greeting": f"Hello, {ctx.payload['name']}!"}

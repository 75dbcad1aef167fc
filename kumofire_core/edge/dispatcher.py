"""The function on the one-minute schedule."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from kumofire_core.edge import load_jobs
from kumofire_core.edge.telemetry import begin_invocation, record_dispatch, set_up_logging
from kumofire_core.engine.dispatcher import PartlyDispatchedError

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from kumofire_core.edge import LambdaHandler
    from kumofire_core.jobs import Jobs


def make_handler(given: Jobs | None) -> LambdaHandler:
    """Set up logging and load the application; return the function."""
    logger = set_up_logging()
    jobs = load_jobs(given, sends=True)

    def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
        """Make one pass over all that is due, and return what it did.

        Where a part of the index could not be read, the rest is recorded all the same, and the invocation fails.
        """
        begin_invocation(logger, context)
        ends = datetime.now(UTC) + timedelta(milliseconds=context.get_remaining_time_in_millis())
        try:
            result = jobs.dispatch(deadline=ends)
        except PartlyDispatchedError as error:
            record_dispatch(logger, error.result)
            raise
        return record_dispatch(logger, result)

    return handler

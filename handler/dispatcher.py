"""The function on the one-minute schedule: ``handler.dispatcher.handler``. Its event is not read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from handler.telemetry import record_dispatch, set_up_logging
from handler.wiring import load_jobs

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

logger = set_up_logging()
jobs = load_jobs()


@logger.inject_lambda_context
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Make one pass over all that is due, and return what it did."""
    ends = datetime.now(UTC) + timedelta(milliseconds=context.get_remaining_time_in_millis())
    result = jobs.dispatch(deadline=ends)
    return record_dispatch(logger, result)

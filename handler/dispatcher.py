"""The function on the one-minute schedule: ``handler.dispatcher.handler``. Its event is not read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from handler.cold_start import load_jobs
from handler.telemetry import begin_invocation, record_dispatch, set_up_logging

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

logger = set_up_logging()
jobs = load_jobs(sends=True)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Make one pass over all that is due, and return what it did."""
    begin_invocation(logger, context)
    ends = datetime.now(UTC) + timedelta(milliseconds=context.get_remaining_time_in_millis())
    result = jobs.dispatch(deadline=ends)
    return record_dispatch(logger, result)

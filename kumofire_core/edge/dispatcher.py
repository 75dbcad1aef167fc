"""The function on the one-minute schedule. It invokes itself for single partitions of which much is due."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from kumofire_core.aws.functions import invoke_async
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

        A partition with much to do goes to an invocation of its own, whose event is ``{"partitions": [3]}``. That one
        hands nothing over, so a tick starts one invocation for each partition at most. Any other event is a tick.
        Where a part of the index could not be read, the rest is recorded all the same, and the invocation fails.
        """
        begin_invocation(logger, context)
        ends = datetime.now(UTC) + timedelta(milliseconds=context.get_remaining_time_in_millis())
        try:
            partitions = _partitions_of(event)
            if partitions is None:
                result = jobs.dispatch(deadline=ends, hand_over=_handing_over(context.invoked_function_arn))
            else:
                result = jobs.dispatch(deadline=ends, partitions=partitions)
        except PartlyDispatchedError as error:
            record_dispatch(logger, error.result)
            raise
        return record_dispatch(logger, result)

    return handler


def _partitions_of(event: object) -> list[int] | None:
    """Return the partitions that an event of ours names, or ``None`` for a tick."""
    named = event.get("partitions") if isinstance(event, dict) else None
    if not isinstance(named, list) or not named or not all(type(each) is int and each >= 0 for each in named):
        return None
    return named


def _handing_over(function: str) -> Callable[[int], None]:
    """Return what invokes this function for one partition, and does not wait for it."""

    def hand_over(partition: int) -> None:
        invoke_async(function, json.dumps({"partitions": [partition]}).encode())

    return hand_over

"""The Lambda function behind the table's stream: it removes the objects of runs that are gone."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from kumofire_core.edge.telemetry import begin_invocation, set_up_logging

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from kumofire_core.edge import LambdaHandler
    from kumofire_core.jobs import Jobs


def make_handler(given: Jobs | None) -> LambdaHandler:
    """Set up logging and make the clients; return the function. The application's jobs are not loaded."""
    logger = set_up_logging()
    if given is None:
        from kumofire_core.jobs import Jobs

        given = Jobs.from_env()
    jobs = given

    def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
        """Remove the objects of the runs whose deletion these records tell, or sweep; return what was removed.

        The schedule's event is ``{"sweep": true}``. An error fails the invocation, so that the stream gives its records
        again.
        """
        begin_invocation(logger, context)
        if event.get("sweep") is True:
            ends = datetime.now(UTC) + timedelta(milliseconds=context.get_remaining_time_in_millis())
            result = jobs.sweep_bucket(deadline=ends)
        else:
            result = jobs.clean_bucket(event.get("Records") or ())
        counts = dataclasses.asdict(result)
        logger.info("cleaned", **counts)
        return counts

    return handler

"""The Lambda function that consumes the queue.

It does not use Powertools' batch processor, which runs records one after the other (or needs async handlers), ignores
the deadline, and would double this module's import time.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from kumofire_core.edge import load_jobs
from kumofire_core.edge.telemetry import begin_invocation, record_batch, set_up_logging

if TYPE_CHECKING:
    from aws_lambda_powertools.logging import Logger
    from aws_lambda_powertools.utilities.typing import LambdaContext

    from kumofire_core.edge import LambdaHandler
    from kumofire_core.jobs import Jobs


def make_handler(given: Jobs | None) -> LambdaHandler:
    """Set up logging, load the application unless ``given`` is a ``Jobs``, and return the Lambda handler."""
    logger = set_up_logging()
    jobs = load_jobs(given, sends=False)

    def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
        """Consume a batch and return the records that SQS must deliver again."""
        begin_invocation(logger, context)
        report = jobs.run_batch(event, context)
        record_batch(report)
        if report.stray_handlers:
            end_process(logger, report.stray_handlers)
        return report.response()

    return handler


def end_process(logger: Logger, stray_handlers: int) -> None:
    """End this execution environment, because handlers whose attempts timed out still run in it.

    Their runs are recorded, and they can't write to these runs any more. But they would go on during the next
    invocation. Lambda starts a new environment. SQS delivers this batch again, and the consumer ignores its recorded
    runs. Outside Lambda, the process goes on and this only logs an error.
    """
    in_lambda = "AWS_LAMBDA_RUNTIME_API" in os.environ
    logger.error(
        "handlers that were cut do not stop; %s",
        "ending this execution environment" if in_lambda else "they go on in this process",
        stray_handlers=stray_handlers,
    )
    if in_lambda:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

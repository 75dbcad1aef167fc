"""The function behind the queue: ``handler.consumer.handler``, called with batches of SQS records.

Powertools' batch processor is not used: it runs records one after the other (or needs async handlers), knows no
deadline, and would double the import time of this edge.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from handler.cold_start import load_jobs
from handler.telemetry import begin_invocation, record_batch, set_up_logging

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

logger = set_up_logging()
jobs = load_jobs(sends=False)


def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, list[dict[str, str]]]:
    """Consume a batch and return which records SQS shall deliver again."""
    begin_invocation(logger, context)
    report = jobs.run_batch(event, context)
    record_batch(report)
    if report.stray_handlers:
        end_process(report.stray_handlers)
    return report.response()


def end_process(stray_handlers: int) -> None:
    """End this execution environment, because handlers that were cut still run in it.

    Their runs are put back already and nothing of theirs can be written, but they would go on, unseen, in the next
    invocation. Lambda starts a new environment. This batch is delivered again and its runs, all recorded, are ignored.
    Outside Lambda the process is not ours to end, and only the line is logged.
    """
    ours = "AWS_LAMBDA_RUNTIME_API" in os.environ
    logger.error(
        "handlers that were cut do not stop; %s",
        "ending this execution environment" if ours else "they go on in this process",
        stray_handlers=stray_handlers,
    )
    if ours:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

"""Logs and metrics of the Lambda functions, by Powertools.

Every line that anybody logs is JSON on stdout; while an attempt is under way it carries run id, job and attempt. A
batch makes one metrics line (CloudWatch's embedded metric format), which costs no request.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from functools import cache
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.metrics import Metrics

from kumofire_core.engine.sqs_batch import SqsBatchReport
from kumofire_core.handlers.context import AttemptLogFilter
from kumofire_core.model.run import Outcome

if TYPE_CHECKING:
    from kumofire_core.engine.dispatcher import DispatchResult

NAMESPACE = "Kumofire"
SERVICE = "kumofire-jobs"

OUTCOME_METRICS = {
    Outcome.SUCCEEDED: "RunsSucceeded",
    Outcome.RETRIED: "AttemptsRetried",
    Outcome.FAILED: "RunsFailed",
    Outcome.CANCELED: "RunsCanceled",
    Outcome.IGNORED: "MessagesIgnored",
}

DISPATCH_METRICS = {
    "dispatched": "RunsDispatched",
    "schedules": "OccurrencesFired",
    "resent": "RunsResent",
    "postponed": "RunsPostponed",
    "recovered": "RunsRecovered",
    "failed": "RunsFailed",
    "canceled": "RunsCanceled",
    "unsent": "MessagesUnsent",
    "errors": "DispatchErrors",
    "handed_over": "PartitionsHandedOver",
    "unread": "PartitionsUnread",
}

_cold = True

QUIET = ("boto3", "botocore", "urllib3", "s3transfer")
"""Their debug lines quote requests whole, and with them payloads."""


def set_up_logging() -> Logger:
    """Send every logger's lines through Powertools' formatter; once per cold start.

    Settings are Powertools' own: ``POWERTOOLS_SERVICE_NAME``, ``POWERTOOLS_LOG_LEVEL`` and its others.
    """
    logger = Logger(service=_service())
    output = logger.registered_handler
    output.addFilter(AttemptLogFilter())
    logging.getLogger(logger.name).propagate = False  # its lines would come a second time through the root
    root = logging.getLogger()
    # Lambda's runtime put a handler of its own there; with both, every line would come twice.
    root.handlers = [output]
    root.setLevel(logger.log_level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logger.log_level))
    return logger


def begin_invocation(logger: Logger, context: object) -> None:
    """Put the request's id, and whether this is a cold start, on every line of the invocation.

    Powertools' own decorator adds the function's name, size and ARN as well: the same on every line of a log group,
    and paid for by the byte.
    """
    global _cold
    logger.append_keys(function_request_id=getattr(context, "aws_request_id", None), cold_start=_cold)
    _cold = False


def record_batch(report: SqsBatchReport) -> None:
    """Write the metrics of one batch: outcomes, malformed records, records to come again, and handlers' durations."""
    metrics = _the_metrics()
    counts: dict[str, int] = {}
    for record in report.records:
        if record.malformed is not None:
            name = "MalformedRecords"
        elif record.failure is not None:
            name = "RecordsToRedeliver"
        elif record.result is not None:
            name = OUTCOME_METRICS[record.result.outcome]
            if record.result.duration is not None:
                milliseconds = record.result.duration.total_seconds() * 1000
                metrics.add_metric(name="HandlerDuration", unit="Milliseconds", value=round(milliseconds, 3))
        else:
            continue
        counts[name] = counts.get(name, 0) + 1
    for name, count in counts.items():
        metrics.add_metric(name=name, unit="Count", value=count)
    if report.stray_handlers:
        metrics.add_metric(name="StrayHandlers", unit="Count", value=report.stray_handlers)
    if counts:
        metrics.flush_metrics()


def record_dispatch(logger: Logger, result: DispatchResult) -> dict[str, Any]:
    """Write the metrics of one pass of the dispatcher, and a line where it did something; return its counts.

    A pass that could not read the whole index does what it can, but is not counted as a pass.
    """
    metrics = _the_metrics()
    counts = dataclasses.asdict(result)
    if not result.unread:
        metrics.add_metric(name="DispatcherPasses", unit="Count", value=1)
    for field, name in DISPATCH_METRICS.items():
        if counts[field]:
            metrics.add_metric(name=name, unit="Count", value=counts[field])
    if not result.complete:
        metrics.add_metric(name="DispatcherPassesCutShort", unit="Count", value=1)
    metrics.flush_metrics()
    if any(counts[field] for field in DISPATCH_METRICS) or not result.complete:
        logger.info("dispatched", **counts)
    return counts


@cache
def _the_metrics() -> Metrics:
    return Metrics(service=_service(), namespace=os.environ.get("POWERTOOLS_METRICS_NAMESPACE") or NAMESPACE)


def _service() -> str:
    return os.environ.get("POWERTOOLS_SERVICE_NAME") or SERVICE

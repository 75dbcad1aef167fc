"""Logs and metrics of the Lambda functions, by Powertools.

Every log line of the process is JSON on stdout; lines that are logged during an attempt have its run id, job and
attempt. Metrics are log lines in CloudWatch's embedded metric format, so they do not need a request.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any

try:
    from aws_lambda_powertools.logging import Logger
    from aws_lambda_powertools.metrics import Metrics, MetricUnit, single_metric
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "the Lambda functions need aws-lambda-powertools: pip install 'kumofire-jobs[lambda]'", name=missing.name
    ) from missing

from kumofire_core.engine.consumer import PAUSED
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

METRICS_BY_JOB = {Outcome.RETRIED: "AttemptsRetried", Outcome.FAILED: "RunsFailed"}
"""These metrics are written a second time, with the dimension ``job``. CloudWatch charges for a metric only in hours
with data, so jobs whose attempts all succeed cost nothing. https://aws.amazon.com/cloudwatch/pricing/"""

MOST_JOBS = 50
"""The most jobs with their own metrics in one process; the others share the name ``(other)``."""

DISPATCH_METRICS = {
    "dispatched": "RunsDispatched",
    "schedules": "OccurrencesFired",
    "resent": "RunsResent",
    "postponed": "RunsPostponed",
    "recovered": "RunsRecovered",
    "failed": "RunsFailed",
    "canceled": "RunsCanceled",
    "unsent": "MessagesUnsent",
    "refused": "MessagesRefused",
    "errors": "DispatchErrors",
    "resumed": "RunsResumed",
    "handed_over": "PartitionsHandedOver",
    "unread": "PartitionsUnread",
}

_cold = True
_jobs_seen: set[str] = set()

QUIET = ("boto3", "botocore", "urllib3", "s3transfer")
"""Loggers whose debug and info lines are dropped: they quote whole requests, including payloads."""


def set_up_logging() -> Logger:
    """Send every logger's lines through Powertools' formatter; call this once per cold start.

    Powertools' variables apply: ``POWERTOOLS_SERVICE_NAME``, ``POWERTOOLS_LOG_LEVEL`` and others.
    """
    logger = Logger(service=_service())
    output = logger.registered_handler
    output.addFilter(AttemptLogFilter())
    logging.getLogger(logger.name).propagate = False  # the root logger would write its lines a second time
    root = logging.getLogger()
    # This replaces the handler of Lambda's runtime; with both, every line would be written twice.
    root.handlers = [output]
    root.setLevel(logger.log_level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, logger.log_level))
    return logger


def begin_invocation(logger: Logger, context: object) -> None:
    """Add the request's id, and whether this is a cold start, to every log line of the invocation.

    Powertools' own decorator also adds the function's name, memory size and ARN. These are the same on every line of a
    log group, and CloudWatch charges for them by the byte.
    """
    global _cold
    logger.append_keys(function_request_id=getattr(context, "aws_request_id", None), cold_start=_cold)
    _cold = False


def record_batch(report: SqsBatchReport) -> None:
    """Write the metrics of one batch: outcomes, malformed records, records to redeliver, and handlers' durations in ms.

    Retried attempts and failed runs are also counted per job.
    """
    metrics = _the_metrics()
    counts: dict[str, int] = {}
    for record in report.records:
        if record.malformed is not None:
            name = "MalformedRecords"
        elif record.failure is not None:
            name = "RecordsToRedeliver"
        elif record.result is not None:
            name = "RunsPaused" if record.result.reason == PAUSED else OUTCOME_METRICS[record.result.outcome]
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
    if report.hook_failures:
        metrics.add_metric(name="HookFailures", unit="Count", value=report.hook_failures)
    if report.refused_messages:
        metrics.add_metric(name="MessagesRefused", unit="Count", value=report.refused_messages)
    if counts or report.refused_messages or report.hook_failures:
        metrics.flush_metrics()
    _record_by_job(report)


def _record_by_job(report: SqsBatchReport) -> None:
    results = [record.result for record in report.records if record.result is not None]
    counts = Counter(
        (METRICS_BY_JOB[result.outcome], _job_dimension(result.job_name))
        for result in results
        if result.outcome in METRICS_BY_JOB and result.job_name is not None
    )
    for (name, job), count in counts.items():
        with single_metric(
            name=name,
            unit=MetricUnit.Count,
            value=count,
            namespace=_namespace(),
            default_dimensions={"service": _service()},
        ) as metric:
            metric.add_dimension(name="job", value=job)


def _job_dimension(job_name: str) -> str:
    """Return the job's name, or ``(other)`` after the first ``MOST_JOBS`` names of this process."""
    if job_name not in _jobs_seen and len(_jobs_seen) < MOST_JOBS and job_name.isascii():
        _jobs_seen.add(job_name)
    return job_name if job_name in _jobs_seen else "(other)"


def record_dispatch(logger: Logger, result: DispatchResult) -> dict[str, Any]:
    """Write the metrics of one dispatcher pass, and a log line if the pass did something; return its counts.

    A pass that could not read the whole index is not counted in ``DispatcherPasses``.
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
    return Metrics(service=_service(), namespace=_namespace())


def _namespace() -> str:
    return os.environ.get("POWERTOOLS_METRICS_NAMESPACE") or NAMESPACE


def _service() -> str:
    return os.environ.get("POWERTOOLS_SERVICE_NAME") or SERVICE

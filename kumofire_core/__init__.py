"""Kumofire Jobs: a job system on AWS Lambda, SQS and DynamoDB. Register a job, get an id, trust its status."""

from kumofire_core.batch import BatchReport, RecordReport
from kumofire_core.consumer import ConsumeResult, Outcome
from kumofire_core.context import AttemptLogFilter, JobContext
from kumofire_core.errors import (
    AttemptTimeoutError,
    ConfigurationError,
    CorruptItemError,
    DeadlineTooCloseError,
    InvalidArgumentError,
    InvalidJSONError,
    InvalidScheduleError,
    KumofireError,
    LeaseExpiredError,
    MalformedMessageError,
    NewerSchemaError,
    UnknownJobError,
    UnsupportedMessageVersionError,
)
from kumofire_core.jobs import Jobs
from kumofire_core.retry import RetryPolicy
from kumofire_core.run import Run, RunStatus

__all__ = [
    "AttemptLogFilter",
    "AttemptTimeoutError",
    "BatchReport",
    "ConfigurationError",
    "ConsumeResult",
    "CorruptItemError",
    "DeadlineTooCloseError",
    "InvalidArgumentError",
    "InvalidJSONError",
    "InvalidScheduleError",
    "JobContext",
    "Jobs",
    "KumofireError",
    "LeaseExpiredError",
    "MalformedMessageError",
    "NewerSchemaError",
    "Outcome",
    "RecordReport",
    "RetryPolicy",
    "Run",
    "RunStatus",
    "UnknownJobError",
    "UnsupportedMessageVersionError",
]

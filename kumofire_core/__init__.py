"""Kumofire Jobs: a job system on AWS Lambda, SQS and DynamoDB. Register a job, get an id, trust its status."""

from kumofire_core.batch import BatchReport, RecordReport
from kumofire_core.consumer import ConsumeResult, Outcome
from kumofire_core.context import AttemptLogFilter, JobContext
from kumofire_core.dispatcher import DispatchResult
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
    ScheduleConflictError,
    ScheduleExistsError,
    UnknownJobError,
    UnsupportedMessageVersionError,
)
from kumofire_core.jobs import Jobs
from kumofire_core.retry import RetryPolicy
from kumofire_core.run import PastRun, Run, RunStatus
from kumofire_core.schedule import Missed, Overlap, ScheduleType
from kumofire_core.schedule_item import Schedule
from kumofire_core.schedules import SchedulePage

__all__ = [
    "AttemptLogFilter",
    "AttemptTimeoutError",
    "BatchReport",
    "ConfigurationError",
    "ConsumeResult",
    "CorruptItemError",
    "DeadlineTooCloseError",
    "DispatchResult",
    "InvalidArgumentError",
    "InvalidJSONError",
    "InvalidScheduleError",
    "JobContext",
    "Jobs",
    "KumofireError",
    "LeaseExpiredError",
    "MalformedMessageError",
    "Missed",
    "NewerSchemaError",
    "Outcome",
    "Overlap",
    "PastRun",
    "RecordReport",
    "RetryPolicy",
    "Run",
    "RunStatus",
    "Schedule",
    "ScheduleConflictError",
    "ScheduleExistsError",
    "SchedulePage",
    "ScheduleType",
    "UnknownJobError",
    "UnsupportedMessageVersionError",
]

"""Kumofire Jobs: a job system on AWS Lambda, SQS and DynamoDB. Register a job, get an id, trust its status."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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
    PartlyCreatedError,
    ScheduleConflictError,
    ScheduleExistsError,
    SealedError,
    UnknownJobError,
    UnsupportedMessageVersionError,
)
from kumofire_core.jobs import Jobs
from kumofire_core.retry import RetryPolicy
from kumofire_core.run import Run, RunStatus
from kumofire_core.sealing import SEALED, Cipher

if TYPE_CHECKING:
    from kumofire_core.creation import RunRequest
    from kumofire_core.dispatcher import DispatchResult, PartlyDispatchedError
    from kumofire_core.history import PastRun
    from kumofire_core.schedule import Missed, Overlap, ScheduleType
    from kumofire_core.schedule_item import Schedule
    from kumofire_core.schedules import SchedulePage

__version__ = "0.1.0"

__all__ = [
    "SEALED",
    "AttemptLogFilter",
    "AttemptTimeoutError",
    "BatchReport",
    "Cipher",
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
    "PartlyCreatedError",
    "PartlyDispatchedError",
    "PastRun",
    "RecordReport",
    "RetryPolicy",
    "Run",
    "RunRequest",
    "RunStatus",
    "Schedule",
    "ScheduleConflictError",
    "ScheduleExistsError",
    "SchedulePage",
    "ScheduleType",
    "SealedError",
    "UnknownJobError",
    "UnsupportedMessageVersionError",
]

# Loaded when first asked for: a consumer that makes no schedule would pay for them at every cold start.
_LATER = {
    "DispatchResult": "dispatcher",
    "Missed": "schedule",
    "Overlap": "schedule",
    "PartlyDispatchedError": "dispatcher",
    "PastRun": "history",
    "RunRequest": "creation",
    "Schedule": "schedule_item",
    "SchedulePage": "schedules",
    "ScheduleType": "schedule",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    return value

"""Kumofire Jobs: a job system on AWS Lambda, SQS and DynamoDB. Register a job, get an id, trust its status."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kumofire_core.async_jobs import AsyncJobs
    from kumofire_core.engine.batches import BatchPage
    from kumofire_core.engine.bulk import BulkOperation
    from kumofire_core.engine.cleaning import CleaningResult
    from kumofire_core.engine.consumer import ConsumeResult
    from kumofire_core.engine.dispatcher import DispatchResult, PartlyDispatchedError
    from kumofire_core.engine.hooks import RunEvent
    from kumofire_core.engine.limit_views import LimitUse
    from kumofire_core.engine.pauses import Pause
    from kumofire_core.engine.queries import RunFilter, RunPage
    from kumofire_core.engine.schedules import ScheduleChanges, SchedulePage, ScheduleSettings
    from kumofire_core.engine.sqs_batch import RecordReport, SqsBatchReport
    from kumofire_core.engine.stats import (
        ConsumerProgress,
        DueRun,
        FailureCount,
        MinuteCounts,
        OutcomeCounts,
        QueueLengths,
        Stats,
        StatusCount,
        UnfinishedCount,
    )
    from kumofire_core.engine.transactions import PendingRun
    from kumofire_core.errors import (
        AttemptTimeoutError,
        BatchCanceledError,
        BatchConflictError,
        BatchIncompleteError,
        ConfigurationError,
        CorruptItemError,
        DeadlineTooCloseError,
        DecryptionError,
        DedupeContentionError,
        DedupeKeyConflictError,
        DedupeKeyTakenError,
        DuplicateStepError,
        InvalidArgumentError,
        InvalidJSONError,
        InvalidPayloadError,
        InvalidScheduleError,
        KumofireError,
        LargeValueError,
        LeaseExpiredError,
        MalformedMessageError,
        NewerSchemaError,
        PartlyCreatedError,
        ScheduleChangedError,
        ScheduleConflictError,
        ScheduleExistsError,
        StepError,
        StepFailedError,
        StepMismatchError,
        StepResultError,
        StepsLostError,
        SupersededRunError,
        UnknownJobError,
        UnsupportedMessageVersionError,
        WaitBesideError,
        WaitTimeoutError,
    )
    from kumofire_core.handlers.context import AttemptLogFilter, JobContext, JobContextForTest
    from kumofire_core.handlers.deadline import LambdaContext
    from kumofire_core.handlers.job_function import Dedupe, JobFunction, RunRequest
    from kumofire_core.handlers.job_group import JobGroup
    from kumofire_core.handlers.middleware import CallNext, Middleware
    from kumofire_core.jobs import Jobs
    from kumofire_core.model.batch import Batch, BatchState, MemberStatus, ThenIf
    from kumofire_core.model.encrypted_text import ENCRYPTED, Cipher
    from kumofire_core.model.large_value import LargeValue
    from kumofire_core.model.run import NOT_READ, AttemptEnding, Outcome, RunStatus
    from kumofire_core.model.run_view import Attempt, RetriedRun, Run, RunProgress
    from kumofire_core.model.schedule import Missed, Overlap, Schedule, ScheduleType
    from kumofire_core.model.steering import Cancel, Fail, RetryAfter, Snooze
    from kumofire_core.model.steps import Step, StepKind
    from kumofire_core.rules.limits import Limit, Rate
    from kumofire_core.rules.retry import RetryPolicy

    # Names of release 0.1, kept for applications that use them.
    SEALED = ENCRYPTED
    BatchReport = SqsBatchReport
    PastRun = RetriedRun
    SealedError = DecryptionError

__version__ = "0.1.0"

__all__ = [
    "ENCRYPTED",
    "NOT_READ",
    "SEALED",
    "AsyncJobs",
    "Attempt",
    "AttemptEnding",
    "AttemptLogFilter",
    "AttemptTimeoutError",
    "Batch",
    "BatchCanceledError",
    "BatchConflictError",
    "BatchIncompleteError",
    "BatchPage",
    "BatchReport",
    "BatchState",
    "BulkOperation",
    "CallNext",
    "Cancel",
    "Cipher",
    "CleaningResult",
    "ConfigurationError",
    "ConsumeResult",
    "ConsumerProgress",
    "CorruptItemError",
    "DeadlineTooCloseError",
    "DecryptionError",
    "Dedupe",
    "DedupeContentionError",
    "DedupeKeyConflictError",
    "DedupeKeyTakenError",
    "DispatchResult",
    "DueRun",
    "DuplicateStepError",
    "Fail",
    "FailureCount",
    "InvalidArgumentError",
    "InvalidJSONError",
    "InvalidPayloadError",
    "InvalidScheduleError",
    "JobContext",
    "JobContextForTest",
    "JobFunction",
    "JobGroup",
    "Jobs",
    "KumofireError",
    "LambdaContext",
    "LargeValue",
    "LargeValueError",
    "LeaseExpiredError",
    "Limit",
    "LimitUse",
    "MalformedMessageError",
    "MemberStatus",
    "Middleware",
    "MinuteCounts",
    "Missed",
    "NewerSchemaError",
    "Outcome",
    "OutcomeCounts",
    "Overlap",
    "PartlyCreatedError",
    "PartlyDispatchedError",
    "PastRun",
    "Pause",
    "PendingRun",
    "QueueLengths",
    "Rate",
    "RecordReport",
    "RetriedRun",
    "RetryAfter",
    "RetryPolicy",
    "Run",
    "RunEvent",
    "RunFilter",
    "RunPage",
    "RunProgress",
    "RunRequest",
    "RunStatus",
    "Schedule",
    "ScheduleChangedError",
    "ScheduleChanges",
    "ScheduleConflictError",
    "ScheduleExistsError",
    "SchedulePage",
    "ScheduleSettings",
    "ScheduleType",
    "SealedError",
    "Snooze",
    "SqsBatchReport",
    "Stats",
    "StatusCount",
    "Step",
    "StepError",
    "StepFailedError",
    "StepKind",
    "StepMismatchError",
    "StepResultError",
    "StepsLostError",
    "SupersededRunError",
    "ThenIf",
    "UnfinishedCount",
    "UnknownJobError",
    "UnsupportedMessageVersionError",
    "WaitBesideError",
    "WaitTimeoutError",
]

_ERRORS = "errors"
_PLACES = {
    "AsyncJobs": "async_jobs",
    "Attempt": "model.run_view",
    "AttemptEnding": "model.run",
    "Batch": "model.batch",
    "BatchPage": "engine.batches",
    "BatchState": "model.batch",
    "BulkOperation": "engine.bulk",
    "Cancel": "model.steering",
    "Fail": "model.steering",
    "NOT_READ": "model.run",
    "Pause": "engine.pauses",
    "PendingRun": "engine.transactions",
    "RetryAfter": "model.steering",
    "RunFilter": "engine.queries",
    "RunPage": "engine.queries",
    "RunProgress": "model.run_view",
    "Snooze": "model.steering",
    "ENCRYPTED": "model.encrypted_text",
    "AttemptLogFilter": "handlers.context",
    "CallNext": "handlers.middleware",
    "Cipher": "model.encrypted_text",
    "CleaningResult": "engine.cleaning",
    "ConsumeResult": "engine.consumer",
    "ConsumerProgress": "engine.stats",
    "Dedupe": "handlers.job_function",
    "DispatchResult": "engine.dispatcher",
    "DueRun": "engine.stats",
    "FailureCount": "engine.stats",
    "JobContext": "handlers.context",
    "JobContextForTest": "handlers.context",
    "JobFunction": "handlers.job_function",
    "JobGroup": "handlers.job_group",
    "Jobs": "jobs",
    "LambdaContext": "handlers.deadline",
    "Limit": "rules.limits",
    "LimitUse": "engine.limit_views",
    "MemberStatus": "model.batch",
    "LargeValue": "model.large_value",
    "Middleware": "handlers.middleware",
    "MinuteCounts": "engine.stats",
    "Missed": "model.schedule",
    "Outcome": "model.run",
    "OutcomeCounts": "engine.stats",
    "Overlap": "model.schedule",
    "PartlyDispatchedError": "engine.dispatcher",
    "QueueLengths": "engine.stats",
    "Rate": "rules.limits",
    "RecordReport": "engine.sqs_batch",
    "RetriedRun": "model.run_view",
    "RetryPolicy": "rules.retry",
    "Run": "model.run_view",
    "RunEvent": "engine.hooks",
    "RunRequest": "handlers.job_function",
    "RunStatus": "model.run",
    "Schedule": "model.schedule",
    "ScheduleChanges": "engine.schedules",
    "SchedulePage": "engine.schedules",
    "ScheduleSettings": "engine.schedules",
    "ScheduleType": "model.schedule",
    "SqsBatchReport": "engine.sqs_batch",
    "Stats": "engine.stats",
    "StatusCount": "engine.stats",
    "ThenIf": "model.batch",
    "Step": "model.steps",
    "StepKind": "model.steps",
    "UnfinishedCount": "engine.stats",
}
_RENAMED = {
    "BatchReport": "SqsBatchReport",
    "PastRun": "RetriedRun",
    "SEALED": "ENCRYPTED",
    "SealedError": "DecryptionError",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: a process pays at its start for what it uses only."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    current = _RENAMED.get(name, name)
    module = importlib.import_module(f"{__name__}.{_PLACES.get(current, _ERRORS)}")
    value = globals()[name] = getattr(module, current)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""What the API reference holds, by topic: a page for each, whose text the builder takes from the docstrings.

A test compares the entries with what ``kumofire_core`` exports, and with the members of ``Jobs`` and ``JobContext``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A heading of a page, and the objects below it by their paths, ``kumofire_core.`` left out."""

    title: str
    entries: tuple[str, ...]


@dataclass(frozen=True)
class Topic:
    """A page of the reference."""

    slug: str
    title: str
    about: str
    """A sentence or two at the page's beginning, in Markdown; links are those of a page in docs/."""
    parts: tuple[Part, ...]


MEMBERS_APART = ("Jobs", "JobContext")
"""Classes of whose members each is an entry of its own, so that a page can group them."""


def part(title: str, entries: str) -> Part:
    """Return a part from a text of entries, with spaces between them."""
    return Part(title, tuple(entries.split()))


def of_jobs(title: str, members: str, *others: str) -> Part:
    """Return a part of methods of ``Jobs``, and of other objects."""
    return Part(title, (*(f"Jobs.{member}" for member in members.split()), *others))


TOPICS = (
    Topic(
        "jobs",
        "Jobs: settings and registration",
        "`Jobs` is the whole system in one object. [Settings](../settings.md) come from arguments or the environment.",
        (
            part("The class", "Jobs Jobs.from_env Jobs.make_clients"),
            of_jobs("What it was given", "table_name queue_url bucket sqs_client aio"),
            of_jobs("Register handlers", "handler include", "JobGroup"),
            of_jobs("Middleware and hooks", "middleware on wait_for_hooks", "Middleware", "CallNext", "RunEvent"),
        ),
    ),
    Topic(
        "runs",
        "Runs: create, read, steer",
        "A run is one execution of a job with one payload. The guides are [runs](../runs.md), [dedupe](../dedupe.md), "
        "[bulk operations](../bulk.md), [transactions](../transactions.md) and [large payloads](../large-payloads.md).",
        (
            of_jobs("Create", "create create_many create_in_transaction", "RunRequest", "Dedupe", "PendingRun"),
            of_jobs("Read", "get_status find_run get_many list_runs", "RunPage"),
            part(
                "What a read returns", "Run RunStatus RunProgress Attempt AttemptEnding RetriedRun LargeValue NOT_READ"
            ),
            of_jobs("Steer one run", "cancel cancel_tree retry run_now reschedule update delete"),
            of_jobs(
                "Act on many runs",
                "cancel_many retry_many delete_many get_bulk resume_bulk abort_bulk",
                "RunFilter",
                "BulkOperation",
            ),
        ),
    ),
    Topic(
        "handlers",
        "Handlers: the context, policies, typed jobs",
        "What a handler is given, what decides about its next attempt, and what the decorator returns. The guides are "
        "[typed jobs](../typed-jobs.md), [steps](../steps.md) and [children](../children.md).",
        (
            part(
                "The context",
                "JobContext JobContext.payload JobContext.run JobContext.attempt JobContext.fencing_token "
                "JobContext.logger JobContext.now JobContext.time_left JobContext.progress JobContext.cancel_requested "
                "JobContext.stop_requested JobContext.traceparent JobContext.batch AttemptLogFilter",
            ),
            part(
                "Steps, waiting and children",
                "JobContext.step JobContext.sleep JobContext.wait_for JobContext.create_child "
                "JobContext.create_children JobContext.wait_for_children JobContext.aio",
            ),
            part("In a test", "JobContext.for_test JobContextForTest"),
            part("Policies and limits", "RetryPolicy Limit Rate"),
            part("Decide in the handler", "Snooze RetryAfter Fail Cancel"),
            part("What the decorator returns", "JobFunction"),
        ),
    ),
    Topic(
        "steps",
        "Steps and signals",
        "What a run keeps beside its item, and how another process answers a run that waits "
        "([the guide](../steps.md)).",
        (of_jobs("Signals and steps of a run", "signal steps", "Step", "StepKind"),),
    ),
    Topic(
        "batches",
        "Batches and chains",
        "Runs that belong together ([the guide](../batches.md)).",
        (
            of_jobs("Batches", "create_batch create_chain get_batch batch_members list_batches cancel_batch"),
            part("What they return", "Batch BatchState BatchPage MemberStatus ThenIf"),
        ),
    ),
    Topic(
        "schedules",
        "Schedules",
        "Runs by the clock ([the guide](../schedules.md)).",
        (
            of_jobs("Create and change", "create_schedule upsert_schedule update_schedule update_schedule_by_key"),
            of_jobs("Read", "get_schedule get_schedule_by_key list_schedules next_occurrences"),
            of_jobs(
                "Stop, delete, trigger", "disable_schedule disable_schedule_by_key delete_schedule trigger_schedule"
            ),
            part(
                "What they take and return",
                "Schedule ScheduleType Missed Overlap ScheduleSettings ScheduleChanges SchedulePage",
            ),
        ),
    ),
    Topic(
        "operate",
        "Pauses, limits and counts",
        "What a person does and sees while jobs run: [pausing](../pause.md), [limits](../limits.md), "
        "[counts](../stats.md).",
        (
            of_jobs("Pause a job", "pause resume pauses", "Pause"),
            of_jobs("See a limit", "get_limit", "LimitUse"),
            of_jobs("Count", "stats"),
            part(
                "What `stats` returns",
                "Stats StatusCount UnfinishedCount DueRun QueueLengths FailureCount OutcomeCounts MinuteCounts "
                "ConsumerProgress",
            ),
        ),
    ),
    Topic(
        "async",
        "Async",
        "The same calls for a program with an event loop ([the guide](../async.md)).",
        (part("Coroutines", "AsyncJobs"),),
    ),
    Topic(
        "functions",
        "The functions' side",
        "What consumes messages and keeps runs going. The stack's Lambda functions call these; any process may.",
        (
            part(
                "Lambda functions", "edge.consumer_handler edge.dispatcher_handler edge.cleaner_handler LambdaContext"
            ),
            of_jobs("Consume", "consume consume_batch run_batch"),
            part("What consuming returns", "ConsumeResult Outcome SqsBatchReport RecordReport"),
            of_jobs("Dispatch", "dispatch", "DispatchResult", "PartlyDispatchedError"),
            of_jobs("Clean the bucket", "clean_bucket sweep_bucket", "CleaningResult"),
        ),
    ),
    Topic(
        "testing",
        "Testing",
        "What the tests of an application use: an AWS in memory, and a clock that moves.",
        (
            part("In a test", "testing.in_process testing.InProcessAWS testing.Drained testing.prepare_environment"),
            part("Errors of tests", "testing.InProcessError testing.NotImitatedError"),
        ),
    ),
    Topic(
        "extras",
        "Encryption, tracing, the console",
        "What needs an extra of the package.",
        (
            part("Encryption", "Cipher ENCRYPTED encryption.EnvelopeCipher"),
            part("Traces", "tracing.instrument"),
            part("The console in an application", "console.console"),
        ),
    ),
    Topic(
        "errors",
        "Errors",
        "Every error that the library raises on purpose is a `KumofireError`. Errors of AWS are botocore's own.",
        (
            part(
                "Wrong arguments and settings",
                "KumofireError InvalidArgumentError InvalidJSONError InvalidPayloadError InvalidScheduleError "
                "UnknownJobError ConfigurationError",
            ),
            part(
                "Create",
                "DedupeKeyConflictError DedupeKeyTakenError DedupeContentionError PartlyCreatedError "
                "BatchConflictError BatchIncompleteError BatchCanceledError",
            ),
            part("Read", "CorruptItemError NewerSchemaError DecryptionError LargeValueError"),
            part("Schedules", "ScheduleExistsError ScheduleConflictError ScheduleChangedError"),
            part("An attempt", "AttemptTimeoutError LeaseExpiredError SupersededRunError"),
            part(
                "Steps",
                "StepError StepFailedError StepMismatchError StepResultError StepsLostError DuplicateStepError "
                "WaitTimeoutError WaitBesideError",
            ),
            part("Consume", "MalformedMessageError UnsupportedMessageVersionError DeadlineTooCloseError"),
        ),
    ),
)


def page_of(topic: Topic) -> str:
    """Return the Markdown of a topic's page, with a directive of mkdocstrings for each object."""
    lines = [f"# {topic.title}", "", topic.about, ""]
    for each in topic.parts:
        lines += [f"## {each.title}", ""]
        for entry in each.entries:
            lines += [f"::: kumofire_core.{entry}", ""]
            if entry in MEMBERS_APART:
                lines[-1:] = ["    options:", "      members: false", ""]
    return "\n".join(lines)

"""The errors this package raises. Each says what is wrong, which value is wrong, and what to do about it."""

from collections.abc import Collection
from datetime import datetime, timedelta


def short_repr(value: object) -> str:
    """Return a value as an error's text quotes it: short. Never raises, though ``repr`` of 4,301 digits would."""
    try:
        # Python writes minus one second as timedelta(days=-1, seconds=86399), which nobody has written.
        negative = isinstance(value, timedelta) and value < timedelta(0)
        text = f"-{-value!r}" if negative else repr(value)  # type: ignore[operator]
    except Exception:
        return f"a {type(value).__name__} that can't be written out"
    return text if len(text) <= 80 else f"{text[:77]}..."


def unknown_names(call: str, given: Collection[object], known: Collection[str]) -> str | None:
    """Return a sentence that lists the unknown names, similar known names, and all known names; or ``None``."""
    unknown = [name for name in given if name not in known]
    if not unknown:
        return None
    from difflib import get_close_matches  # takes 10 ms to import, so only an error imports it

    texts = []
    for name in unknown[:5]:
        close = get_close_matches(name[:64], known, n=1) if isinstance(name, str) else []
        texts.append(short_repr(name) + (f" (did you mean {close[0]!r}?)" if close else ""))
    more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
    return f"{call} takes no {', '.join(texts)}{more}; it takes {', '.join(known)}"


class KumofireError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigurationError(KumofireError, ValueError):
    """One or more settings are missing or wrong; the text names all of them at once."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("wrong configuration: " + "; ".join(problems))


class InvalidArgumentError(KumofireError, ValueError):
    """An argument of a public call can't be used; nothing was written."""


class DedupeKeyConflictError(InvalidArgumentError):
    """A run of another job has this ``dedupe_key`` already; nothing was written."""

    def __init__(self, dedupe_key: str, *, job_name: str, run_id: str, found_job_name: str) -> None:
        self.dedupe_key = dedupe_key
        self.job_name = job_name
        """The job named in the refused call."""
        self.run_id = run_id
        """The run that has the key."""
        self.found_job_name = found_job_name
        """The job of that run."""
        super().__init__(
            f"dedupe_key {dedupe_key!r:.80} belongs to run {run_id} of job {found_job_name!r:.80}, so it makes no run "
            f"of job {job_name!r:.80}; give each job keys of its own, {job_name + '/…'!r:.80} for example"
        )


class SupersededRunError(KumofireError):
    """A run can't be retried: its ``dedupe_key`` allows one unfinished run at a time, and a newer one was begun."""

    def __init__(self, run_id: str, dedupe_key: str, newer_run_id: str) -> None:
        self.run_id = run_id
        self.newer_run_id = newer_run_id
        super().__init__(
            f"run {run_id} can't be retried: dedupe_key {dedupe_key!r:.80} allows one unfinished run at a time, and "
            f"run {newer_run_id} is newer; retry that one, or create another run with this key"
        )


class DedupeKeyTakenError(KumofireError):
    """A run of this job has the ``dedupe_key`` already, so a transaction that was to make one was canceled."""

    def __init__(self, dedupe_key: str, *, run_id: str) -> None:
        self.dedupe_key = dedupe_key
        self.run_id = run_id
        """The run that has the key."""
        super().__init__(
            f"dedupe_key {dedupe_key!r:.80} belongs to run {run_id} already, so DynamoDB canceled the whole "
            "transaction and wrote nothing of it; write your items without a run, or take another key"
        )


class DedupeContentionError(KumofireError):
    """The runs of a ``dedupe_key`` ended faster than this call could find one or make one. Call again."""

    def __init__(self, dedupe_key: str, tries: int) -> None:
        super().__init__(
            f"dedupe_key {dedupe_key!r:.80}: others made {tries} runs, and each ended, while this call ran; call again"
        )


class InvalidJSONError(KumofireError, TypeError, ValueError):
    """A payload or an output is not JSON, or is too large to be stored."""


class InvalidPayloadError(InvalidArgumentError):
    """A payload does not fit the type that its job's handler declares (docs/typed-jobs.md); nothing was written."""

    def __init__(self, job_name: str, type_name: str, problems: list[str]) -> None:
        self.job_name = job_name
        self.problems = tuple(problems)
        """Sentences that begin with the path of what is wrong, ``payload.items[3].price`` for example."""
        self.summary = f"the payload of job {job_name!r} does not fit {type_name}"
        """The text without the problems, which can quote the payload."""
        super().__init__(f"{self.summary}: {'; '.join(problems)}")


class InvalidScheduleError(KumofireError, ValueError):
    """A schedule's type, expression, time zone or option can't be used; nothing was written."""


class ScheduleExistsError(InvalidArgumentError):
    """A schedule has this key already; nothing was written."""

    def __init__(self, schedule_key: str, schedule_id: str) -> None:
        self.schedule_id = schedule_id
        super().__init__(
            f"schedule_key {schedule_key!r:.80} belongs to schedule {schedule_id} already; "
            "use upsert_schedule to change it"
        )


class ScheduleConflictError(KumofireError):
    """Others changed a schedule each time this call tried to change it. This call wrote nothing; call again."""

    def __init__(self, schedule_id: str, tries: int) -> None:
        super().__init__(f"schedule {schedule_id} was changed by others {tries} times in a row; call again")


class ScheduleChangedError(KumofireError):
    """A schedule was changed since the caller looked at it (``unchanged_since``). This call wrote nothing."""

    def __init__(self, schedule_id: str, changed_at: datetime) -> None:
        self.changed_at = changed_at
        super().__init__(
            f"schedule {schedule_id} was changed at {changed_at.isoformat(timespec='milliseconds')}, since you looked "
            "at it; look again"
        )


class PartlyCreatedError(KumofireError):
    """``create_many`` could not store some of its runs. The others are stored and will be executed."""

    def __init__(self, run_ids: list[str | None], failures: dict[int, Exception]) -> None:
        self.run_ids = tuple(run_ids)
        """The ids in order; ``None`` for each run that was not stored, or for which the table's reply was lost."""
        self.failures = dict(failures)
        """The error for each run in ``run_ids`` that is ``None``, by its position from 0."""
        kinds = ", ".join(sorted({type(error).__name__ for error in failures.values()}))
        super().__init__(
            f"{len(failures)} of {len(run_ids)} runs could not be stored ({kinds}); run_ids has the ids of the others, "
            "failures what happened; create those again, with a dedupe_key where a run must not be made twice"
        )


class BatchConflictError(InvalidArgumentError):
    """Another batch has this key already; nothing was written."""

    def __init__(self, key: str, batch_id: str, differences: list[str]) -> None:
        self.batch_id = batch_id
        super().__init__(
            f"key {key!r:.80} belongs to batch {batch_id}, which is another one ({'; '.join(differences)}); "
            "give each batch a key of its own"
        )


class BatchIncompleteError(KumofireError):
    """``create_batch`` could not store some of its members. Call it again with the same ``key`` to go on.

    The members that are stored will be executed. The callback waits until the batch is complete.
    """

    def __init__(self, batch_id: str, failures: dict[int, Exception]) -> None:
        self.batch_id = batch_id
        self.failures = dict(failures)
        """The errors by the members' positions from 0; members behind these may not be stored either."""
        kinds = ", ".join(sorted({type(error).__name__ for error in failures.values()}))
        super().__init__(
            f"batch {batch_id} is not complete: {len(failures)} members could not be stored ({kinds}); failures has "
            "what happened; call again with the same key to go on, or cancel_batch"
        )


class BatchCanceledError(KumofireError):
    """A person canceled the batch while it was being created. Its members are canceled."""

    def __init__(self, batch_id: str) -> None:
        self.batch_id = batch_id
        super().__init__(f"batch {batch_id} was canceled while it was being created; get_batch says why")


class UnknownJobError(KumofireError, LookupError):
    """This process has handlers, but none of this name; nothing was written."""

    def __init__(self, name: str, known: list[str]) -> None:
        listed = ", ".join(sorted(known)) or "none"
        super().__init__(
            f"no handler for job {name!r} (registered: {listed}); register it with @jobs.handler({name!r}), "
            "or pass allow_unknown_jobs=True to Jobs in a process that only creates runs"
        )


class MalformedMessageError(KumofireError, ValueError):
    """A message does not have the form of a Kumofire message: another delivery would fail again."""


class UnsupportedMessageVersionError(MalformedMessageError):
    """A message does not have a version, or has a version that this release does not know."""

    def __init__(self, version: str) -> None:
        super().__init__(f"unsupported message version {version}; this release understands version 1")


class CorruptItemError(KumofireError):
    """A stored item can't be read as the run or schedule that its key names. Other items are not affected."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"the stored item {key} can't be read: {problem}; restore or delete it")


class DecryptionError(KumofireError):
    """This process can't decrypt a stored payload or output. SQS delivers the run's message again."""

    def __init__(self, owner: str, problem: str) -> None:
        super().__init__(f"{owner} is encrypted and can't be read: {problem}")


class LargeValueError(KumofireError):
    """A payload or an output that is kept in S3 can't be read."""

    def __init__(self, owner: str, problem: str, *, permanent: bool) -> None:
        self.permanent = permanent
        """Whether the value is lost: the object is gone or was changed. Otherwise another process can read it."""
        super().__init__(f"{owner} is kept in S3 and can't be read: {problem}")


class NewerSchemaError(KumofireError):
    """A later release wrote this item. SQS delivers the message again, until a consumer of that release takes it."""

    def __init__(self, key: str, found: int, known: int) -> None:
        super().__init__(
            f"the stored item {key} has schema {found}, this release knows up to {known}; deploy the later release"
        )


class LeaseExpiredError(KumofireError):
    """A lease expired before its consumer recorded the attempt's end: the consumer died or was too slow."""


class AttemptTimeoutError(KumofireError, TimeoutError):
    """An attempt timed out: it reached its job's timeout, or came too near to its process's deadline."""


class DeadlineTooCloseError(KumofireError, TimeoutError):
    """Too little time is left to start an attempt. The run was not claimed; the message must be delivered again."""

    def __init__(self, seconds_left: float) -> None:
        super().__init__(f"only {max(0.0, seconds_left):.1f} s are left before the deadline; nothing was started")


class StepError(KumofireError):
    """A run's steps can't be gone through. It fails the run at once, because another attempt would meet the same."""


class DuplicateStepError(StepError):
    """A handler used one name for two steps, sleeps or waits."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"this handler has called a step, sleep or wait named {name!r} before; a name is used once, so number it "
            f'in a loop: f"{name}-{{number}}"'
        )


class StepMismatchError(StepError):
    """The code calls other steps than those that the run has kept: it was changed while the run was under way."""

    def __init__(self, position: int, *, expected: str, found: str) -> None:
        self.position = position
        self.expected = expected
        """What the run has kept."""
        self.found = found
        """What the handler called."""
        super().__init__(
            f"call {position} of this handler is {found}, and the run has kept {expected}: a step was renamed, "
            "removed, inserted or moved; deploy the earlier code and retry the run, or retry it from_start=True; new "
            "steps belong behind all others (docs/steps.md)"
        )


class StepsLostError(StepError):
    """Kept steps of a run are missing in the table: they expired, or a person deleted them."""

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(
            f"the run had kept {expected} steps and signals, and {found} are there; nothing is done again unasked: "
            "retry it from_start=True to do so"
        )


class WaitBesideError(StepError):
    """A handler sleeps or waits while another of its tasks or threads does so; a run waits for one thing at a time."""

    def __init__(self, name: str, other: str) -> None:
        self.name = name
        super().__init__(
            f"{name!r} was called while this run already sleeps or waits in {other!r}, and a run waits for one thing "
            "at a time; wait for one signal whose payload says what happened, with the shortest time as its timeout, "
            "or let one call follow the other (docs/steps.md)"
        )


class StepFailedError(StepError):
    """A handler caught the error of a step and went on with another one; a later attempt could not follow it there."""

    def __init__(self, name: str, failed: str) -> None:
        self.name = name
        self.failed = failed
        """The step that failed before."""
        super().__init__(
            f"step {failed!r} failed in this attempt, and {name!r} was called after it: the next attempt calls "
            f"{failed!r} again, and may go another way; return the failure as the step's value, and decide by that, or "
            "let the error end the attempt (docs/steps.md)"
        )


class StepResultError(StepError, InvalidJSONError):
    """What a step's function returned is not JSON, or is too large to be kept. The function has had its effect."""


class WaitTimeoutError(StepError, TimeoutError):
    """The signal that a handler waited for did not come in time, and ``wait_for`` had no ``default``."""

    def __init__(self, name: str, until: datetime) -> None:
        self.name = name
        super().__init__(f"no signal {name!r} came until {until.isoformat(timespec='seconds')}")

"""The JSON forms of ``--json``. docs/cli.md documents them: a name may be added, and none changes or goes.

Times are texts of ISO 8601 in UTC with milliseconds, or ``null``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kumofire_core.text import iso

if TYPE_CHECKING:
    from kumofire_core.model.run_view import Attempt, RetriedRun, Run, RunProgress
    from kumofire_core.model.schedule import Schedule
    from kumofire_core.model.steps import Step


def run_form(run: Run) -> dict[str, Any]:
    """Return what every listing tells of a run."""
    return {
        "id": run.id,
        "job_name": run.job_name,
        "status": run.status.value,
        "failed_attempts": run.failed_attempts,
        "max_attempts": run.max_attempts,
        "scheduled_for": iso(run.scheduled_for),
        "created_at": iso(run.created_at),
        "updated_at": iso(run.updated_at),
        "started_at": iso(run.started_at),
        "finished_at": iso(run.finished_at),
        "last_error": run.last_error,
        "error_type": run.error_type,
        "retries": run.retries,
        "paused": run.paused,
        "waiting_for_limit": run.waiting_for_limit,
        "progress": None if run.progress is None else _progress_form(run.progress),
        "schedule_id": run.schedule_id,
        "occurrence": iso(run.occurrence),
        "dedupe_key": run.dedupe_key,
        "parent_id": run.parent_id,
        "created_by": run.created_by,
        "group": run.group,
        "batch_id": run.batch_id,
        "batch_index": run.batch_index,
        "callback_of": run.callback_of,
        "cancel_requested": run.cancel_requested,
        "cancel_reason": run.cancel_reason,
        "waiting_for": run.waiting_for,
        "kept_steps": run.kept_steps,
    }


def whole_run_form(run: Run, steps: Sequence[Step], *, payload: bool, output: bool) -> dict[str, Any]:
    """Return all that is known of a run. Its payload and its results are in it where they were asked for."""
    form = run_form(run) | {
        "attempts": [_attempt_form(attempt) for attempt in run.attempts],
        "history": [_ending_form(ending) for ending in run.history],
        "steps": [_step_form(step, result=output) for step in steps],
    }
    if payload:
        form["payload"] = _value(run.payload)
    if output:
        form["output"] = _value(run.output)
    return form


def schedule_form(schedule: Schedule, *, payload: bool = False) -> dict[str, Any]:
    """Return a schedule, with its payload where it was asked for."""
    form = {
        "id": schedule.id,
        "schedule_key": schedule.schedule_key,
        "job_name": schedule.job_name,
        "schedule_type": schedule.schedule_type.value,
        "schedule_expr": schedule.schedule_expr,
        "timezone": schedule.timezone,
        "enabled": schedule.enabled,
        "next_run_at": iso(schedule.next_run_at),
        "last_scheduled_at": iso(schedule.last_scheduled_at),
        "max_attempts": schedule.max_attempts,
        "missed": schedule.missed.value,
        "overlap": schedule.overlap.value,
        "start_at": iso(schedule.start_at),
        "end_at": iso(schedule.end_at),
        "created_at": iso(schedule.created_at),
        "updated_at": iso(schedule.updated_at),
        "group": schedule.group,
    }
    return form | {"payload": _value(schedule.payload)} if payload else form


def _attempt_form(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "retries": attempt.retries,
        "started_at": iso(attempt.started_at),
        "ended_at": iso(attempt.ended_at),
        "ended": None if attempt.ended is None else attempt.ended.value,
        "error_type": attempt.error_type,
        "message": attempt.message,
        "traceback": attempt.traceback,
        "request_id": attempt.request_id,
        "log_stream": attempt.log_stream,
    }


def _step_form(step: Step, *, result: bool) -> dict[str, Any]:
    form = {
        "name": step.name,
        "kind": step.kind.value,
        "position": step.position,
        "at": iso(step.at),
        "duration_seconds": None if step.duration is None else step.duration.total_seconds(),
        "until": iso(step.until),
        "signaled_at": iso(step.signaled_at),
        "timed_out": step.timed_out,
    }
    return form | {"result": _value(step.result)} if result else form


def _progress_form(progress: RunProgress) -> dict[str, Any]:
    return {"fraction": progress.fraction, "note": progress.note, "at": iso(progress.at)}


def _ending_form(ending: RetriedRun) -> dict[str, Any]:
    return {
        "status": ending.status.value,
        "failed_attempts": ending.attempt,
        "finished_at": iso(ending.finished_at),
        "last_error": ending.last_error,
        "cancel_reason": ending.cancel_reason,
    }


def _value(value: Any) -> Any:
    """Return a payload or an output; what is encrypted, or in a bucket that is not named, is an object that says so."""
    from kumofire_core.model.encrypted_text import ENCRYPTED
    from kumofire_core.model.large_value import LargeValue

    if isinstance(value, LargeValue):
        return {"in_s3": True, "bytes": value.size}
    return {"encrypted": True} if value is ENCRYPTED else value

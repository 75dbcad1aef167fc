"""The page of a run: how it stands, what happened to it, its payload and output, and what a person may do to it.

The page reads the run without its payload, in one request. An action first reads the run as it is: where it has changed
since the page showed it, nothing is done, and the person is told what happened.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.responses import Response

from kumofire_core.aws.errors import AWS_ERRORS
from kumofire_core.console.timeline import bars, spans, timeline
from kumofire_core.console.tree import exact as exact_json
from kumofire_core.console.tree import readable, tree
from kumofire_core.console.visit import Page, Visit
from kumofire_core.console.words import exact
from kumofire_core.errors import InvalidArgumentError, InvalidJSONError
from kumofire_core.model.encrypted_text import ENCRYPTED
from kumofire_core.model.error_text import error_name
from kumofire_core.model.large_value import LargeValue
from kumofire_core.model.run import FINAL, RunStatus
from kumofire_core.model.run_view import Run
from kumofire_core.model.steps import Step
from kumofire_core.text import LENGTH_FORM, iso, parse_length, plain, relative

log = logging.getLogger("kumofire_core")

MOST_COPIED = 20_000
"""Characters of JSON that a button copies. What is longer is downloaded."""

MOST_SHOWN_BYTES = 1_000_000
"""Of a value that is kept in S3. What is larger is downloaded."""

MOST_CHANGED_BYTES = 400_000
"""Of a payload that is changed in a form, which may have a megabyte as it is sent."""

WAITING = (RunStatus.SCHEDULED, RunStatus.QUEUED)


def show(visit: Visit) -> Response:
    """Show a run."""
    return _page(visit)


def live(visit: Visit) -> Response:
    """Answer with the part of the page that is kept up to date."""
    run = _read(visit)
    if run is None:
        return visit.page("run_gone.html", run_id=_id(visit))
    return visit.page("run_live_part.html", **_shown(visit, run))


def show_payload(visit: Visit) -> Response:
    """Show the payload."""
    return _value_page(visit, "payload")


def show_output(visit: Visit) -> Response:
    """Show the output."""
    return _value_page(visit, "output")


def payload_file(visit: Visit) -> Response:
    """Answer with the payload as a file."""
    return _file(visit, "payload")


def output_file(visit: Visit) -> Response:
    """Answer with the output as a file."""
    return _file(visit, "output")


def retry(visit: Visit) -> Response:
    """Retry the run, or undo its cancellation: then it has a time."""
    given = visit.field("run_at")
    run_at = _moment(given) if given else None
    run = _as_seen(visit)
    if isinstance(run, Response):
        return run
    if not visit.jobs.retry(run.id, run_at=run_at):
        return _refused(visit)
    visit.record(f"retried run {run.id}")
    now = _read(visit)
    return visit.done(f"Retried. The run is {'gone' if now is None else now.status} now.")


def ask_cancel(visit: Visit) -> Response:
    """Ask why the run is to be canceled."""
    return _form(visit, "cancel")


def cancel(visit: Visit) -> Response:
    """Cancel the run, or ask for it where it is executing."""
    run = _as_seen(visit)
    if isinstance(run, Response):
        return run
    reason = visit.field("reason").strip()
    try:
        done = visit.jobs.cancel(run.id, reason or None)
    except InvalidArgumentError as error:
        return _form(visit, "cancel", run=run, problem=str(error), given={"reason": reason})
    if not done:
        return _refused(visit)
    visit.record(f"canceled run {run.id}")
    if run.status is RunStatus.RUNNING:
        return visit.done(
            "Cancellation is asked for. The handler sees it, or the run is canceled when this attempt fails."
        )
    if run.attempt:
        return visit.done("Canceled.")
    undo = {"seen": f"{RunStatus.CANCELED}.{run.retries}.{run.attempt}", "run_at": iso(run.scheduled_for)}
    return visit.done("Canceled.", undo=undo, undo_at=visit.url("runs", run.id, "retry"))


def run_now(visit: Visit) -> Response:
    """Let the run start now."""
    run = _as_seen(visit)
    if isinstance(run, Response):
        return run
    if not visit.jobs.run_now(run.id):
        return _refused(visit)
    visit.record(f"let run {run.id} start now")
    return _moved(visit, run, "The run starts as soon as a consumer is free.")


def ask_reschedule(visit: Visit) -> Response:
    """Ask for the run's other time."""
    return _form(visit, "reschedule")


def reschedule(visit: Visit) -> Response:
    """Give the run another time."""
    run = _as_seen(visit)
    if isinstance(run, Response):
        return run
    given = {"at": visit.field("at").strip(), "after": visit.field("after").strip()}
    try:
        due = _due(visit, **given)
    except InvalidArgumentError as error:
        return _form(visit, "reschedule", run=run, problem=str(error), given=given)
    if not visit.jobs.reschedule(run.id, due):
        return _refused(visit)
    visit.record(f"rescheduled run {run.id} to {exact(due)}")
    return _moved(visit, run, f"The run is due {relative(due, visit.now)}, at {exact(due)}.")


def ask_payload(visit: Visit) -> Response:
    """Show the payload in a field, to be changed."""
    if not visit.access.payloads:
        return _hidden(visit)
    run = visit.jobs.get_status(_id(visit), most_bytes=MOST_CHANGED_BYTES)
    if run is None:
        return _missing(visit)
    if run.payload is ENCRYPTED:
        return _no_key(visit)
    if isinstance(run.payload, LargeValue):
        return _too_large(visit)
    visit.record(f"looked at the payload of run {run.id}")
    try:
        given = {"payload": readable(run.payload), "was": _digest(run.payload)}
    except RecursionError:
        raise InvalidJSONError("the payload is nested too deeply to be changed here") from None
    return _form(visit, "change-payload", run=run, given=given)


def change_payload(visit: Visit) -> Response:
    """Replace the payload of the run."""
    if not visit.access.payloads:
        return _hidden(visit)
    run = _as_seen(visit, payloads=True)
    if isinstance(run, Response):
        return run
    if run.payload is ENCRYPTED:
        return _no_key(visit)
    if isinstance(run.payload, LargeValue):
        return _too_large(visit)
    was = visit.field("was")
    if was != _digest(run.payload):
        return visit.done("Somebody has changed this run's payload meanwhile. Nothing was changed.", kind="stale")
    given = visit.field("payload")
    try:
        done = visit.jobs.update(run.id, payload=_parsed(given))
    except (InvalidArgumentError, InvalidJSONError) as error:
        return _form(visit, "change-payload", run=run, problem=str(error), given={"payload": given, "was": was})
    if not done:
        return _refused(visit)
    visit.record(f"changed the payload of run {run.id}")
    return visit.done("The payload is changed. The next attempt gets it.")


def ask_signal(visit: Visit) -> Response:
    """Ask for the payload of the signal that the run waits for."""
    run = _read(visit)
    name = "" if run is None else run.waiting_for or ""
    return _form(visit, "signal", run=run, given={"name": name, "payload": "null"})


def signal(visit: Visit) -> Response:
    """Give the run a signal."""
    run = _as_seen(visit)
    if isinstance(run, Response):
        return run
    given = {"name": visit.field("name"), "payload": visit.field("payload")}
    try:
        done = visit.jobs.signal(run.id, given["name"], _parsed(given["payload"]))
    except (InvalidArgumentError, InvalidJSONError) as error:
        return _form(visit, "signal", run=run, problem=str(error), given=given)
    if not done:
        now = _read(visit)
        if now is None or now.status in FINAL:
            return _refused(visit)
        return visit.done("The run has this signal already, or its wait for it is over.", kind="stale")
    visit.record(f"signaled run {run.id}")
    return visit.done("The run has got the signal.")


def delete(visit: Visit) -> Response:
    """Delete the run, which has ended."""
    run = _as_seen(visit)
    if isinstance(run, Response):
        return run
    if asked := visit.unless_sure(f"Delete run {run.id}? It can't be undone.", section="runs"):
        return asked
    if not visit.jobs.delete(run.id):
        return _refused(visit)
    visit.record(f"deleted run {run.id}")
    return visit.done(f"Deleted run {run.id}.", go_to=visit.url("runs"))


PAGES: list[tuple[str, list[str], Page]] = [
    # An id may have a slash in it, where another program made the item.
    ("/runs/{run_id:path}/live", ["GET"], live),
    ("/runs/{run_id:path}/payload", ["GET"], show_payload),
    ("/runs/{run_id:path}/payload.json", ["GET"], payload_file),
    ("/runs/{run_id:path}/output", ["GET"], show_output),
    ("/runs/{run_id:path}/output.json", ["GET"], output_file),
    ("/runs/{run_id:path}/retry", ["POST"], retry),
    ("/runs/{run_id:path}/cancel", ["GET"], ask_cancel),
    ("/runs/{run_id:path}/cancel", ["POST"], cancel),
    ("/runs/{run_id:path}/run-now", ["POST"], run_now),
    ("/runs/{run_id:path}/reschedule", ["GET"], ask_reschedule),
    ("/runs/{run_id:path}/reschedule", ["POST"], reschedule),
    ("/runs/{run_id:path}/change-payload", ["GET"], ask_payload),
    ("/runs/{run_id:path}/change-payload", ["POST"], change_payload),
    ("/runs/{run_id:path}/signal", ["GET"], ask_signal),
    ("/runs/{run_id:path}/signal", ["POST"], signal),
    ("/runs/{run_id:path}/delete", ["POST"], delete),
    ("/runs/{run_id:path}", ["GET"], show),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A payload or an output as the page shows it."""

    what: str
    state: str
    """``closed``, ``hidden`` (from this person), ``encrypted`` (from this process), ``none``, ``shown``, ``large``
    (in S3, and too large for a page) or ``no bucket`` (in S3, and this process does not know where)."""
    markup: Any = None
    copied: str = ""
    characters: int = 0
    """Of a value that is not loaded: its bytes."""


def _id(visit: Visit) -> str:
    return str(visit.request.path_params["run_id"])


def _read(visit: Visit) -> Run | None:
    return visit.jobs.get_status(_id(visit), payloads=False)


def _missing(visit: Visit) -> Response:
    return visit.missing(f"run {_id(visit)}")


def _page(visit: Visit, *, value: Value | None = None) -> Response:
    run = _read(visit)
    if run is None:
        return _missing(visit)
    values = {
        what: value if value is not None and value.what == what else _closed(visit, what)
        for what in ("payload", "output")
    }
    return visit.page("run.html", heading=plain(run.job_name), values=values, **_shown(visit, run))


def _shown(visit: Visit, run: Run) -> dict[str, Any]:
    """Return what the part that is kept up to date shows."""
    latest = next((each for each in reversed(run.attempts) if each.started_at and each.ended_at), None)
    took = None
    if latest is not None and latest.started_at is not None and latest.ended_at is not None:
        took = (latest.ended_at - latest.started_at).total_seconds()
    return {
        "run": run,
        "seen": _mark(run),
        "events": timeline(run, texts=visit.access.payloads),
        "bars": bars(spans(run, visit.now)),
        "took": took,
        "waits": run.status in WAITING,
        "has_ended": run.status in FINAL,
        "seconds": _seconds(run, visit.now),
        "steps": _steps(visit, run),
    }


def _steps(visit: Visit, run: Run) -> tuple[Step, ...] | None:
    """Return the kept steps of a run without their results, where it has some; ``None`` where they can't be read."""
    if not run.kept_steps and run.waiting_for is None:
        return ()
    try:
        return visit.jobs.steps(run.id, results=False)
    except AWS_ERRORS as error:  # this person's rights may be those of an earlier release
        log.warning("the steps of run %s could not be read: %s", run.id, error_name(error))
        return None


def _seconds(run: Run, now: datetime) -> int:
    """Return how often the page asks again: seldom where a change is not near."""
    if run.status in FINAL:
        return 15
    if run.paused or (run.status is RunStatus.SCHEDULED and run.scheduled_for > now + timedelta(minutes=1)):
        return 10
    return 2


# Payload and output


def _closed(visit: Visit, what: str) -> Value:
    return Value(what=what, state="closed" if visit.access.payloads else "hidden")


def _value_page(visit: Visit, what: str) -> Response:
    if not visit.access.payloads:
        return _hidden(visit)
    run = visit.jobs.get_status(_id(visit), most_bytes=MOST_SHOWN_BYTES)
    if run is None:
        return _missing(visit)
    visit.record(f"looked at the {what} of run {run.id}")
    value = _value(run, what, can_load=visit.jobs.bucket is not None)
    if not visit.is_partial:
        return _page(visit, value=value)
    return visit.page("run_value.html", run=run, value=value)


def _value(run: Run, what: str, *, can_load: bool) -> Value:
    held = run.payload if what == "payload" else run.output
    if held is ENCRYPTED:
        return Value(what=what, state="encrypted")
    if isinstance(held, LargeValue):
        return Value(what=what, state="large" if can_load else "no bucket", characters=held.size)
    if what == "output" and run.status is not RunStatus.SUCCEEDED:
        return Value(what=what, state="none")
    text = _file_text(what, held)
    return Value(
        what=what,
        state="shown",
        markup=tree(held),
        copied=readable(held) if len(text) <= MOST_COPIED else "",
        characters=len(text),
    )


def _file_text(what: str, held: Any) -> str:
    try:
        return exact_json(held)
    except RecursionError:
        raise InvalidJSONError(f"the {what} is nested too deeply to be written out") from None


def _file(visit: Visit, what: str) -> Response:
    if not visit.access.payloads:
        return _hidden(visit)
    run = visit.jobs.get_status(_id(visit))
    if run is None:
        return _missing(visit)
    held = run.payload if what == "payload" else run.output
    if held is ENCRYPTED:
        return _no_key(visit)
    if isinstance(held, LargeValue):
        return visit.done("It is kept in S3, and this process has no bucket (KUMOFIRE_BUCKET).", kind="wrong")
    if what == "output" and run.status is not RunStatus.SUCCEEDED:
        return visit.missing(f"output of run {run.id}")
    visit.record(f"downloaded the {what} of run {run.id}")
    name = re.sub(r"[^A-Za-z0-9._-]", "_", run.id)[:80]
    return Response(
        _file_text(what, held).encode(),
        media_type="application/json",
        headers={
            "Content-Disposition": f'attachment; filename="run-{name}-{what}.json"',
            "X-Content-Type-Options": "nosniff",
        },
    )


def _too_large(visit: Visit) -> Response:
    return visit.done(
        "The payload is too large to be changed here. Use kumofire runs update, or jobs.update.", kind="wrong"
    )


def _hidden(visit: Visit) -> Response:
    response = visit.done("Payloads and outputs are hidden from you.", kind="wrong")
    response.status_code = 403
    return response


def _no_key(visit: Visit) -> Response:
    return visit.done(
        "It is encrypted, and this process does not have the key (KUMOFIRE_PAYLOAD_KEY_ARN). Nothing was changed.",
        kind="wrong",
    )


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise InvalidJSONError("the payload is nested too deeply for JSON") from None
    except json.JSONDecodeError as error:
        raise InvalidJSONError(
            f"the payload is not JSON: {error.msg}, in line {error.lineno} at character {error.colno}"
        ) from None
    except ValueError:  # a number of more digits than Python reads
        raise InvalidJSONError("the payload holds a number that is too long") from None


def _digest(value: Any) -> str:
    """Return what tells a payload from another without showing it."""
    return hashlib.sha256(_file_text("payload", value).encode()).hexdigest()


# Actions


def _form(
    visit: Visit,
    action: str,
    *,
    run: Run | None = None,
    problem: str = "",
    given: dict[str, str] | None = None,
) -> Response:
    """Answer with the form of an action: in a dialog, or on a page of its own for a browser without scripts."""
    run = run or _read(visit)
    if run is None:
        return _missing(visit)
    if _seen(visit) and not _is_as_seen(run, _seen(visit)):
        return _stale(visit, run)
    template = "run_form.html" if visit.is_partial else "run_form_page.html"
    return visit.page(
        template,
        status=422 if problem else 200,
        run=run,
        form=action,
        seen=_seen(visit) or _mark(run),
        problem=problem,
        given=given or {},
        in_dialog=visit.is_partial,
        length_form=LENGTH_FORM,
    )


def _mark(run: Run) -> str:
    """Return what a form remembers of the run that its page showed."""
    return f"{run.status}.{run.retries}.{run.attempt}"


def _seen(visit: Visit) -> str:
    """Return what the page that a person acts on remembers of the run; empty where no page of ours was left for it."""
    return visit.field("seen") or visit.query("seen")


def _is_as_seen(run: Run, seen: str) -> bool:
    """Say whether a run is as a page showed it. For a person, one that waits is the same on the queue and before it."""
    status, _, rest = seen.partition(".")
    waits = run.status in WAITING and status in WAITING
    return rest == f"{run.retries}.{run.attempt}" and (waits or status == run.status)


def _as_seen(visit: Visit, *, payloads: bool = False) -> Run | Response:
    """Return the run where it still is as the page showed it, else the answer."""
    run = visit.jobs.get_status(_id(visit), payloads=payloads, most_bytes=MOST_CHANGED_BYTES)
    if run is None:
        return _missing(visit)
    return run if _is_as_seen(run, _seen(visit)) else _stale(visit, run)


def _refused(visit: Visit) -> Response:
    """Answer where the library changed nothing: somebody else was faster."""
    run = _read(visit)
    return _missing(visit) if run is None else _stale(visit, run)


def _stale(visit: Visit, run: Run) -> Response:
    _, _, rest = _seen(visit).partition(".")
    retries = rest.partition(".")[0]
    was_retried = retries.isdecimal() and retries.isascii() and len(retries) < 10 and run.retries > int(retries)
    text = _meanwhile(run, visit.now, was_retried=was_retried)
    return visit.done(f"This run {text}. Nothing was changed.", kind="stale")


def _meanwhile(run: Run, now: datetime, *, was_retried: bool) -> str:
    """Return what happened to a run since the page showed it."""
    retried = "was retried meanwhile, and " if was_retried else ""
    meanwhile = "" if was_retried else " meanwhile"
    ended = "" if run.finished_at is None else f", {relative(run.finished_at, now)}"
    if run.status is RunStatus.SUCCEEDED:
        return f"{retried}has succeeded{meanwhile}{ended}"
    if run.status is RunStatus.FAILED:
        return f"{retried}has failed{meanwhile}{ended}"
    if run.status is RunStatus.CANCELED:
        return f"{retried}was canceled{meanwhile}{ended}"
    if run.status is RunStatus.RUNNING:
        asked = ", and its cancellation is asked for" if run.cancel_requested else ""
        return f"{retried}is executing its attempt {run.attempt + 1}{meanwhile}{asked}"
    if run.status is RunStatus.QUEUED:
        return f"{retried}is on the queue{meanwhile}"
    return f"{retried}waits{meanwhile} for its attempt {run.attempt + 1}, due {relative(run.scheduled_for, now)}"


def _moved(visit: Visit, run: Run, text: str) -> Response:
    """Answer after a run got another time; undoing it gives it the former one."""
    undo = {"seen": _mark(run), "at": iso(run.scheduled_for)}
    return visit.done(text, undo=undo, undo_at=visit.url("runs", run.id, "reschedule"))


def _due(visit: Visit, *, at: str, after: str) -> datetime:
    """Return the time that a person gave: a time in UTC, or how long from now."""
    if bool(at) == bool(after):
        raise InvalidArgumentError("give either a time or a duration")
    if at:
        return _moment(at)
    try:
        return visit.now + parse_length("the duration", after)
    except OverflowError:
        raise InvalidArgumentError(f"the duration is {after!r:.80}, which ends after the year 9999") from None


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidArgumentError(
            f"the time is {text!r:.80}; it must be one such as 2026-12-01T09:30, in UTC"
        ) from None

"""``kumofire runs``: look at runs, create them, and steer them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from kumofire_core.cli.bulk import change_many
from kumofire_core.cli.exits import Exit, NotDoneError, UsageError
from kumofire_core.cli.filters import NO_FILTER, Filter, each_page
from kumofire_core.cli.forms import run_form, whole_run_form
from kumofire_core.cli.inputs import At, Delay, Payload, moment_of, payload_of
from kumofire_core.cli.invocation import Here, Invocation, Yes, number, outcome
from kumofire_core.cli.run_views import RUN_COLUMNS, run_row, show_run
from kumofire_core.errors import InvalidArgumentError
from kumofire_core.text import LENGTH_FORM, parse_length

if TYPE_CHECKING:
    from kumofire_core.handlers.job_function import Dedupe
    from kumofire_core.model.run_view import Run

app = App(name="runs")

LISTED = 50
WATCHED = 1000
"""The most runs that a filter lets ``watch`` follow: it asks for each of them every time."""

RunId = Annotated[str, Parameter(help="The run's id.")]
RunIds = Annotated[str, Parameter(help="Ids of runs.")]


@app.command(name="list")
def list_runs(
    *,
    which: Filter = NO_FILTER,
    limit: Annotated[int, Parameter(help="Show so many at most.")] = LISTED,
    page: Annotated[str | None, Parameter(help="Go on where next_page of an earlier list says.")] = None,
    here: Here,
) -> None:
    """List runs, newest first: those that failed, were canceled, or have not ended.

    Runs that succeeded are listed where the deployment lists them (ListSucceeded).
    """
    if limit < 1:
        raise UsageError(f"--limit is {limit}; it must be at least 1")
    runs: list[Run] = []
    for found, following in each_page(here, which.arguments(here), limit=limit, page=page):
        runs += found
        page = following
    if here.as_json:
        here.emit({"runs": [run_form(run) for run in runs], "next_page": page})
        return
    if runs:
        now = here.now()
        here.show_table(RUN_COLUMNS, [run_row(run, now) for run in runs])
    else:
        here.say("there are no such runs")
    if page is not None:
        here.say(f"there are more: --page {page}")


@app.command
def show(
    run_id: Annotated[str | None, Parameter(help="The run's id.")] = None,
    /,
    *,
    dedupe_key: Annotated[str | None, Parameter(help="The run's dedupe_key, in place of its id.")] = None,
    payload: Annotated[bool, Parameter(negative=(), help="Show its payload too.")] = False,
    output: Annotated[bool, Parameter(negative=(), help="Show its output too.")] = False,
    here: Here,
) -> None:
    """Show a run: its status, its times, its steps, each of its attempts, and how it ended before it was retried."""
    run = _found(here, run_id, dedupe_key, payloads=payload or output)
    # One that has not been let go of so far may have kept steps as well.
    has_steps = run.kept_steps or run.waiting_for is not None or run.status.value == "running"
    steps = here.jobs.steps(run.id, results=output) if has_steps else ()
    if here.as_json:
        here.emit(whole_run_form(run, steps, payload=payload, output=output))
    else:
        show_run(here, run, steps, payload=payload, output=output)


@app.command
def logs(
    run_id: Annotated[str | None, Parameter(help="The run's id.")] = None,
    /,
    *,
    dedupe_key: Annotated[str | None, Parameter(help="The run's dedupe_key, in place of its id.")] = None,
    attempt: Annotated[
        int | None, Parameter(help="All that its consumer logged during this attempt, other runs' lines too.")
    ] = None,
    limit: Annotated[int, Parameter(help="Show so many lines of each function at most.")] = 200,
    here: Here,
) -> None:
    """Show what the functions logged about a run. The deployment must be named by its stack."""
    from kumofire_core.cli.logs import show_logs

    show_logs(here, _found(here, run_id, dedupe_key), attempt=attempt, limit=limit)


@app.command
def create(
    job: Annotated[str, Parameter(help="The job's name.")],
    /,
    *,
    payload: Payload = None,
    at: At = None,
    delay: Delay = None,
    max_attempts: Annotated[int | None, Parameter(help="How often it is attempted at most.")] = None,
    dedupe_key: Annotated[
        str | None, Parameter(help="A second run of the job with this key is not created; the first one's id is shown.")
    ] = None,
    dedupe: Annotated[
        str | None,
        Parameter(
            help="For how long: while the run is 'kept', while it is 'unfinished', for a time such as 2h, or "
            "until it starts ('debounce': it gets the latest payload and time)."
        ),
    ] = None,
    group: Annotated[
        str | None, Parameter(help="The group of its messages, such as a tenant's id, by which SQS is fair.")
    ] = None,
    here: Here,
) -> None:
    """Create a run of a job, and print its id."""
    due = moment_of(here, at=at, delay=delay)
    value = payload_of(payload)
    run_id = here.writing_jobs.create(
        job,
        value,
        run_at=due,
        max_attempts=max_attempts,
        dedupe_key=dedupe_key,
        dedupe=None if dedupe is None else _dedupe(dedupe),
        group=group,
    )
    if here.as_json:
        here.emit({"id": run_id})
    else:
        here.show(run_id)


DryRun = Annotated[bool, Parameter(negative=(), help="Count what a filter means, and change nothing.")]


@app.command
def cancel(
    *run_ids: RunIds,
    which: Filter = NO_FILTER,
    reason: Annotated[str | None, Parameter(help="Stored with the runs.")] = None,
    tree: Annotated[
        bool, Parameter(negative=(), help="Cancel the children of the runs that you name too, and theirs.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    here: Here,
) -> int:
    """Cancel runs that have not ended. A running one is asked to stop, and is not tried again.

    Name them, or give a filter: then they are counted first.
    """
    by_filter = _by_filter(run_ids, which, dry_run, "canceled")
    if tree and by_filter:
        raise UsageError("--tree is for runs that you name; a filter means each run by itself")
    if tree:
        return _cancel_trees(here, run_ids, reason)
    if not by_filter:
        return _each(here, run_ids, lambda run_id: here.jobs.cancel(run_id, reason), "canceled")
    return change_many(here, "cancel", which, dry_run=dry_run, yes=yes, reason=reason)


@app.command
def retry(
    *run_ids: RunIds,
    which: Filter = NO_FILTER,
    over: Annotated[str | None, Parameter(help="Spread them evenly over this time: 1m, 2h.")] = None,
    at: At = None,
    delay: Delay = None,
    from_start: Annotated[bool, Parameter(negative=(), help="Let runs that you name forget their kept steps.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    here: Here,
) -> int:
    """Queue failed or canceled runs again, with all their attempts. They go on behind their kept steps.

    Name them, or give a filter: then they are counted first. Runs that you name can wait, until --at or for --delay.
    """
    spread = None if over is None else parse_length("--over", over)
    due = moment_of(here, at=at, delay=delay)
    by_filter = _by_filter(run_ids, which, dry_run, "retried")
    if due is not None and (by_filter or spread is not None):
        raise UsageError("--at and --delay are for runs that you name; --over spreads those that a filter means")
    if from_start and (by_filter or spread is not None):
        raise UsageError("--from-start is for runs that you name, without --over")
    if not by_filter and spread is None:
        return _each(here, run_ids, lambda each: here.jobs.retry(each, run_at=due, from_start=from_start), "retried")
    asked = yes or bool(run_ids)
    return change_many(here, "retry", which, dry_run=dry_run, yes=asked, run_ids=run_ids, spread=spread)


@app.command
def signal(
    run_id: RunId,
    name: Annotated[str, Parameter(help="The signal's name.")],
    payload: Annotated[
        str | None, Parameter(help="Its payload as JSON; @FILE reads it from a file, - from the input.")
    ] = None,
    /,
    *,
    here: Here,
) -> int:
    """Give a run the signal that it waits for, or will, with a payload as JSON."""
    done = here.writing_jobs.signal(run_id, name, payload_of(payload))
    if here.as_json:
        here.emit({"signaled": done})
    elif done:
        here.show(f"{run_id} got the signal {name!r}")
    if not done:
        run = here.jobs.get_status(run_id, payloads=False)
        if run is None:
            why = "there is no such run"
        elif run.finished_at is not None:
            why = f"it is {run.status}"
        else:
            why = "it has that signal already, or its wait for it is over"
        here.say(f"{run_id} did not get the signal {name!r}: {why}")
    return Exit.DONE if done else Exit.NOT_DONE


@app.command
def delete(
    *run_ids: RunIds,
    which: Filter = NO_FILTER,
    free_dedupe_keys: Annotated[
        bool, Parameter(negative=(), help="With a filter, delete runs with a dedupe_key too, whose key is then free.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    here: Here,
) -> int:
    """Delete runs that have ended, after a question.

    Name them, or give a filter: then they are counted first. The dedupe_key of a run that you name is free again.
    """
    if _by_filter(run_ids, which, dry_run, "deleted"):
        return change_many(here, "delete", which, dry_run=dry_run, yes=yes, free_dedupe_keys=free_dedupe_keys)
    here.confirm(f"Delete {number(len(set(run_ids)), 'run')}?", yes=yes)
    return _each(here, run_ids, lambda run_id: here.jobs.delete(run_id), "deleted")


@app.command
def run_now(*run_ids: RunIds, here: Here) -> int:
    """Let runs that wait for their time, or for their next attempt, start now."""
    return _each(here, run_ids, lambda run_id: here.jobs.run_now(run_id), "started")


@app.command
def reschedule(*run_ids: RunIds, at: At = None, delay: Delay = None, here: Here) -> int:
    """Let runs that wait start at another time."""
    due = moment_of(here, at=at, delay=delay)
    if due is None:
        raise UsageError("it is not said to when; give --at or --delay")
    return _each(here, run_ids, lambda run_id: here.jobs.reschedule(run_id, due), "rescheduled")


@app.command
def update(run_id: RunId, /, *, payload: Payload = None, here: Here) -> int:
    """Replace the payload of a run that waits."""
    if payload is None:
        raise UsageError("it is not said what is to be changed; give --payload")
    value = payload_of(payload)
    return _each(here, (run_id,), lambda each: here.writing_jobs.update(each, payload=value), "updated")


@app.command
def watch(
    *run_ids: RunIds,
    which: Filter = NO_FILTER,
    interval: Annotated[float, Parameter(help="Seconds between two looks.")] = 1.0,
    here: Here,
) -> int:
    """Follow runs until all have ended. The exit code is 0 only if all of them succeeded.

    A filter chooses among the runs that are there now; those that are created later are not followed.
    """
    from kumofire_core.cli.watching import counts, follow

    if not 0 < interval <= 3600:
        raise UsageError(f"--interval is {interval}; it must be above 0 and at most 3600 seconds")
    if bool(run_ids) != which.is_empty:
        raise UsageError("it is not said which runs are meant; give their ids, or a filter such as --job")
    ids = run_ids or _watched(here, which)
    runs = follow(here, ids, seconds=interval)
    missing = [run_id for run_id, run in runs.items() if run is None]
    found = [run for run in runs.values() if run is not None]
    for run_id in missing:
        here.say(f"there is no run {run_id!r}")
    if here.as_json:
        here.emit({"runs": [run_form(run) for run in found], "missing": missing})
    elif len(found) > 1:
        here.say(counts(found))
    succeeded = all(run.status.value == "succeeded" for run in found)
    return Exit.DONE if succeeded and not missing else Exit.NOT_DONE


def _cancel_trees(here: Invocation, run_ids: tuple[str, ...], reason: str | None) -> int:
    """Cancel runs with all that descend from them, and tell how many were changed."""
    counts = {run_id: here.jobs.cancel_tree(run_id, reason) for run_id in dict.fromkeys(run_ids)}
    if here.as_json:
        here.emit({"changed": counts})
    else:
        for run_id, count in counts.items():
            here.show(f"{run_id}: {number(count, 'run')} canceled")
    return Exit.DONE if any(counts.values()) else Exit.NOT_DONE


def _found(here: Invocation, run_id: str | None, dedupe_key: str | None, *, payloads: bool = False) -> Run:
    if (run_id is None) == (dedupe_key is None):
        raise UsageError("a run is named by its id or by --dedupe-key; give one of them")
    if run_id is not None:
        run = here.jobs.get_status(run_id, payloads=payloads)
    else:
        run = here.jobs.find_run(dedupe_key=str(dedupe_key))
    if run is None:
        raise NotDoneError(
            f"there is no run {run_id!r}" if run_id is not None else f"no run has the dedupe_key {dedupe_key!r}"
        )
    return run


def _dedupe(text: str) -> Dedupe:
    match text:
        case "kept" | "unfinished" | "debounce":
            return text
    try:
        return parse_length("--dedupe", text)
    except InvalidArgumentError:
        raise UsageError(
            f"--dedupe is {text!r}; it must be kept, unfinished, debounce or a duration {LENGTH_FORM}"
        ) from None


def _by_filter(run_ids: tuple[str, ...], which: Filter, dry_run: bool, done: str) -> bool:
    """Return whether a filter says which runs are meant, and not their ids."""
    if bool(run_ids) != which.is_empty:
        raise UsageError(
            f"it is not said which runs are to be {done}; give their ids, or a filter such as --job or --since"
        )
    if run_ids and dry_run:
        raise UsageError("--dry-run counts what a filter means, and ids are given")
    return not run_ids


def _watched(here: Invocation, which: Filter) -> list[str]:
    ids = [run.id for runs, _ in each_page(here, which.arguments(here), limit=WATCHED + 1) for run in runs]
    if len(ids) > WATCHED:
        raise UsageError(f"there are more than {WATCHED} such runs, which is too many to follow; narrow the filter")
    if not ids:
        raise NotDoneError("there are no such runs")
    return ids


def _each(here: Invocation, run_ids: tuple[str, ...], change: Callable[[str], bool], done: str) -> int:
    """Change each run and tell which were changed; one that was not changed is looked up, to say why."""
    if not run_ids:
        raise UsageError(f"it is not said which runs are to be {done}; name their ids")
    changed: list[str] = []
    unchanged: list[dict[str, Any]] = []
    for run_id in dict.fromkeys(run_ids):
        if change(run_id):
            changed.append(run_id)
            if not here.as_json:
                here.show(f"{run_id} {done}")
            continue
        run = here.jobs.get_status(run_id, payloads=False)
        unchanged.append({"id": run_id, "status": None if run is None else run.status.value})
        here.say(f"{run_id} was not {done}: {'there is no such run' if run is None else f'it is {run.status}'}")
    if here.as_json:
        here.emit({"changed": changed, "unchanged": unchanged})
    return outcome(changed, unchanged)

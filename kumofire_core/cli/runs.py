"""``kumofire runs``: look at runs, create them, and steer them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from kumofire_core.cli.exits import NotDoneError, UsageError
from kumofire_core.cli.forms import whole_run_form
from kumofire_core.cli.inputs import At, Delay, Payload, moment_of, payload_of
from kumofire_core.cli.invocation import Here, Invocation, outcome
from kumofire_core.cli.run_views import show_run

if TYPE_CHECKING:
    from kumofire_core.model.run import Run

app = App(name="runs")

RunId = Annotated[str, Parameter(help="The run's id.")]
RunIds = Annotated[str, Parameter(help="Ids of runs.")]


@app.command
def show(
    run_id: RunId,
    /,
    *,
    payload: Annotated[bool, Parameter(negative=(), help="Show its payload too.")] = False,
    output: Annotated[bool, Parameter(negative=(), help="Show its output too.")] = False,
    here: Here,
) -> None:
    """Show a run: its status, its times, its errors, and how it ended before it was retried."""
    run = _found(here, run_id)
    if here.as_json:
        here.emit(whole_run_form(run, payload=payload, output=output))
    else:
        show_run(here, run, payload=payload, output=output)


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
    here: Here,
) -> None:
    """Create a run of a job, and print its id."""
    due = moment_of(here, at=at, delay=delay)
    value = payload_of(payload)
    run_id = here.jobs.create(job, value, run_at=due, max_attempts=max_attempts, dedupe_key=dedupe_key)
    if here.as_json:
        here.emit({"id": run_id})
    else:
        here.show(run_id)


@app.command
def cancel(
    *run_ids: RunIds,
    reason: Annotated[str | None, Parameter(help="Stored with the runs.")] = None,
    here: Here,
) -> int:
    """Cancel runs that have not ended. A running one is asked to stop, and is not tried again."""
    return _each(here, run_ids, lambda run_id: here.jobs.cancel(run_id, reason), "canceled")


@app.command
def retry(*run_ids: RunIds, here: Here) -> int:
    """Queue failed or canceled runs again, with all their attempts."""
    return _each(here, run_ids, here.jobs.retry, "retried")


def _found(here: Invocation, run_id: str) -> Run:
    run = here.jobs.get_status(run_id)
    if run is None:
        raise NotDoneError(f"there is no run {run_id!r}")
    return run


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
        run = here.jobs.get_status(run_id)
        unchanged.append({"id": run_id, "status": None if run is None else run.status.value})
        here.say(f"{run_id} was not {done}: {'there is no such run' if run is None else f'it is {run.status}'}")
    if here.as_json:
        here.emit({"changed": changed, "unchanged": unchanged})
    return outcome(changed, unchanged)

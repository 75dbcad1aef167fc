"""Changes of many runs: counted first, asked for, shown as they go on, and resumed where they were interrupted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from kumofire_core.cli.bars import progress_bar
from kumofire_core.cli.exits import Exit, NotDoneError
from kumofire_core.cli.filters import PAGE, Filter, described
from kumofire_core.cli.invocation import Here, Invocation, number
from kumofire_core.text import both, iso

if TYPE_CHECKING:
    from kumofire_core.engine.bulk import BulkOperation

app = App(name="bulk")

Action = Literal["cancel", "retry", "delete"]
BulkId = Annotated[str, Parameter(help="The operation's id.")]
DONE = {"cancel": "canceled", "retry": "retried", "delete": "deleted"}
MEANT = {"cancel": "unfinished", "retry": "failed and canceled", "delete": "ended"}


def change_many(
    here: Invocation,
    action: Action,
    which: Filter,
    *,
    dry_run: bool,
    yes: bool,
    run_ids: tuple[str, ...] = (),
    **options: Any,
) -> int:
    """Count the runs that are meant, ask, and change them; return the exit code.

    Without a ``run_ids`` the filter says which are meant.
    """
    began = here.now()
    change: Callable[..., BulkOperation] = getattr(here.jobs, f"{action}_many")
    wanted: dict[str, Any] = {"run_ids": run_ids} if run_ids else which.arguments(here)
    counted = change(**wanted, **options, dry_run=True)
    count = f"{'at least ' if counted.at_least else ''}{number(counted.matched, 'run')}"
    meant = (
        "those named" if run_ids else described(wanted if "status" in wanted else {"status": MEANT[action], **wanted})
    )
    if dry_run:
        if here.as_json:
            here.emit(operation_form(counted))
        else:
            here.show(f"{count} would be {DONE[action]}: {meant}")
        return Exit.DONE if counted.matched else Exit.NOT_DONE
    if not counted.matched:
        raise NotDoneError(f"there are no such runs ({meant})")
    here.confirm(f"{action.capitalize()} {count}: {meant}?", yes=yes)
    if action != "cancel" and not run_ids and wanted.get("since", began) <= began:
        # What ends while the question waits for its answer was not counted, and is not meant.
        wanted["until"] = min(began, wanted.get("until", began))
    return _work(here, lambda tell: change(**wanted, **options, on_progress=tell), expected=counted.matched)


@app.command
def show(bulk_id: BulkId, /, *, here: Here) -> None:
    """Show how far a change of many runs has come. It is kept for a week."""
    operation = here.jobs.get_bulk(bulk_id)
    if operation is None:
        raise _unknown(bulk_id)
    if here.as_json:
        here.emit(operation_form(operation))
        return
    chosen = operation.filter
    names = {name: getattr(chosen, name) for name in ("status", "job_name", "error_type", "text")}
    meant = {name: value for name, value in {**names, "since": chosen.since, "until": chosen.until}.items() if value}
    ids = operation.run_ids
    here.show_fields(
        [
            ("id", operation.id),
            ("change", operation.action),
            ("of", described(meant) if ids is None else f"{number(len(ids), 'run')} that were named"),
            ("state", "done" if operation.done else "aborted" if operation.aborted else "begun, and not done"),
            ("began", both(operation.created_at, here.now())),
            ("changed", f"{operation.changed:,} of {operation.matched:,}"),
            ("skipped", f"{operation.skipped:,}" if operation.skipped else None),
            ("not changed", f"{operation.failed:,}" if operation.failed else None),
        ]
    )
    for error in operation.errors:
        here.show(f"  {error}")


@app.command
def resume(bulk_id: BulkId, /, *, here: Here) -> int:
    """Go on with a change of many runs that was interrupted. No run is changed twice."""
    before = here.jobs.get_bulk(bulk_id)
    if before is None:
        raise _unknown(bulk_id)
    if before.done or before.aborted:
        raise NotDoneError(f"this change of many runs is {'done' if before.done else 'aborted'} already")
    return _work(here, lambda tell: here.jobs.resume_bulk(bulk_id, on_progress=tell), expected=None)


@app.command
def abort(bulk_id: BulkId, /, *, here: Here) -> None:
    """Let a change of many runs stop. What it has changed stays so."""
    if not here.jobs.abort_bulk(bulk_id):
        if here.jobs.get_bulk(bulk_id) is None:
            raise _unknown(bulk_id)
        raise NotDoneError("this change of many runs is done or aborted already")
    if here.as_json:
        here.emit({"aborted": bulk_id})
    else:
        here.show(f"{bulk_id} aborted")


def operation_form(operation: BulkOperation) -> dict[str, Any]:
    """Return the JSON form of a change of many runs."""
    return {
        "id": operation.id,
        "action": operation.action,
        "created_at": iso(operation.created_at),
        "matched": operation.matched,
        "at_least": operation.at_least,
        "changed": operation.changed,
        "skipped": operation.skipped,
        "failed": operation.failed,
        "errors": list(operation.errors),
        "done": operation.done,
        "aborted": operation.aborted,
    }


def _work(here: Invocation, work: Callable[[Callable[[Any], None]], Any], *, expected: int | None) -> int:
    """Show how far a change has come until it is done, and say how to go on with it where it is interrupted."""
    latest: BulkOperation | None = None
    try:
        with progress_bar("runs") as tell:

            def told(operation: BulkOperation) -> None:
                nonlocal latest
                if latest is None and (expected is None or expected > PAGE):
                    here.say(f"if this is interrupted, `kumofire bulk resume {operation.id}` goes on with it")
                latest = operation
                done = operation.changed + operation.skipped + operation.failed
                tell(done, None if expected is None else max(expected, done))

            latest = work(told)
    except BaseException:  # Ctrl-C, or AWS out of reach
        if latest is not None and latest.id is not None:
            here.say(
                f"stopped after {number(latest.changed, 'run')}; "
                f"`kumofire bulk resume {latest.id}` goes on with it, and changes no run twice"
            )
        raise
    if latest is None:
        raise NotDoneError("this change of many runs was removed meanwhile; one is kept for a week")
    if here.as_json:
        here.emit(operation_form(latest))
    else:
        parts = [f"{number(latest.changed, 'run')} {DONE[latest.action]}"]
        parts += [f"{latest.skipped:,} skipped"] if latest.skipped else []
        parts += [f"{latest.failed:,} not changed because of errors"] if latest.failed else []
        here.show(", ".join(parts))
    for error in latest.errors:
        here.say(error)
    if latest.failed or not latest.done:
        return Exit.TROUBLE
    return Exit.DONE if latest.changed else Exit.NOT_DONE


def _unknown(bulk_id: str) -> NotDoneError:
    return NotDoneError(f"there is no change of many runs {bulk_id!r}; one is kept for a week")

"""``kumofire batches``: look at batches, and cancel them."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from kumofire_core.cli.display import STATUS_STYLES, Cell, Column
from kumofire_core.cli.exits import NotDoneError, UsageError
from kumofire_core.cli.forms import run_form
from kumofire_core.cli.invocation import Here, Invocation, Yes, number
from kumofire_core.cli.run_views import RUN_COLUMNS, run_row
from kumofire_core.text import both, iso, relative

if TYPE_CHECKING:
    from kumofire_core.model.batch import Batch

app = App(name="batches")

COLUMNS = (
    Column("ID"),
    Column("STATE"),
    Column("ENDED", right=True),
    Column("FAILED", right=True),
    Column("CREATED"),
    Column("THEN", least=8),
    Column("KEY", least=8),
)
SHOWN = 20
STATES = {"done": STATUS_STYLES["succeeded"], "abandoned": STATUS_STYLES["failed"]}

BatchId = Annotated[str, Parameter(help="The batch's id.")]


@app.command(name="list")
def list_batches(
    *,
    limit: Annotated[int, Parameter(help="Show so many at most, up to 100.")] = 50,
    page: Annotated[str | None, Parameter(help="Go on where next_page of an earlier list says.")] = None,
    here: Here,
) -> None:
    """List batches, the newest first, with the counts of the dispatcher's latest look."""
    found = here.jobs.list_batches(limit=limit, page=page)
    if here.as_json:
        here.emit({"batches": [batch_form(batch) for batch in found.batches], "next_page": found.next_page})
        return
    if found.batches:
        now = here.now()
        rows: list[list[Cell | str]] = [
            [
                batch.id,
                Cell(batch.state, STATES.get(batch.state, "")),
                f"{batch.ended:,}/{batch.total:,}",
                f"{batch.failed:,}" if batch.failed else "",
                relative(batch.created_at, now),
                batch.then or "",
                batch.key or "",
            ]
            for batch in found.batches
        ]
        here.show_table(COLUMNS, rows)
    else:
        here.say("there are no batches")
    if found.next_page is not None:
        here.say(f"there are more: --page {found.next_page}")


@app.command
def show(
    batch_id: BatchId,
    /,
    *,
    members: Annotated[
        str | None, Parameter(help="List members too: succeeded, failed, canceled, pending or all.")
    ] = None,
    limit: Annotated[int, Parameter(help="List so many members at most.")] = SHOWN,
    here: Here,
) -> None:
    """Show a batch: how many of its members have ended, and how, and what follows."""
    statuses = ("succeeded", "failed", "canceled", "pending", "all")
    if members is not None and members not in statuses:
        raise UsageError(f"--members is {members!r}; it must be one of {', '.join(statuses)}")
    if limit < 1:
        raise UsageError(f"--limit is {limit}; it must be at least 1")
    batch = _found(here, batch_id)
    runs = []
    if members is not None:
        status: Any = None if members == "all" else members
        runs = list(islice(here.jobs.batch_members(batch_id, status=status), limit + 1))
    if here.as_json:
        here.emit(batch_form(batch) | ({} if members is None else {"members": [run_form(run) for run in runs[:limit]]}))
        return
    now = here.now()
    here.show_fields(
        [
            ("id", batch.id),
            ("state", Cell(batch.state, STATES.get(batch.state, ""))),
            ("key", batch.key),
            ("ended", f"{batch.ended:,} of {batch.total:,}"),
            ("succeeded", f"{batch.succeeded:,}"),
            ("failed", f"{batch.failed:,}" if batch.failed else None),
            ("canceled", f"{batch.canceled:,}" if batch.canceled else None),
            ("missing", f"{batch.missing:,}" if batch.missing else None),
            ("created", both(batch.created_at, now)),
            ("done", None if batch.done_at is None else both(batch.done_at, now)),
            ("then", batch.then),
            ("then if", batch.then_if if batch.then else None),
            ("then run", batch.then_run_id),
            ("parent", batch.parent_id),
            ("cancellation", "asked for" if batch.cancel_requested else None),
            ("reason", batch.cancel_reason),
        ]
    )
    if runs:
        here.show("")
        here.show_table(RUN_COLUMNS, [run_row(run, now) for run in runs[:limit]])
    if len(runs) > limit:
        here.say(f"there are more: --limit {10 * limit}")


@app.command
def cancel(
    batch_id: BatchId,
    /,
    *,
    reason: Annotated[str | None, Parameter(help="Stored with the batch and its members.")] = None,
    yes: Yes = False,
    here: Here,
) -> None:
    """Cancel all members of a batch that have not ended, after a question. Its callback follows as ever."""
    batch = _found(here, batch_id)
    if batch.state == "done":
        raise NotDoneError(f"batch {batch_id!r} is done")
    here.confirm(f"Cancel {number(batch.pending, 'run')} of batch {batch_id}?", yes=yes)
    if not here.jobs.cancel_batch(batch_id, reason):
        raise NotDoneError(f"batch {batch_id!r} is done")
    if here.as_json:
        here.emit({"canceled": batch_id})
    else:
        here.show(f"{batch_id} canceled")


def batch_form(batch: Batch) -> dict[str, Any]:
    """Return the JSON form of a batch."""
    return {
        "id": batch.id,
        "state": batch.state,
        "key": batch.key,
        "total": batch.total,
        "succeeded": batch.succeeded,
        "failed": batch.failed,
        "canceled": batch.canceled,
        "missing": batch.missing,
        "pending": batch.pending,
        "as_of": iso(batch.as_of),
        "created_at": iso(batch.created_at),
        "done_at": iso(batch.done_at),
        "then": batch.then,
        "then_if": batch.then_if,
        "then_run_id": batch.then_run_id,
        "parent_id": batch.parent_id,
        "cancel_requested": batch.cancel_requested,
        "cancel_reason": batch.cancel_reason,
    }


def _found(here: Invocation, batch_id: str) -> Batch:
    batch: Batch | None = here.jobs.get_batch(batch_id)
    if batch is None:
        raise NotDoneError(f"there is no batch {batch_id!r}")
    return batch

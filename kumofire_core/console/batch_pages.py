"""The pages of batches: a list of them, and of one batch how far it has come, which members failed, and its end."""

from __future__ import annotations

from itertools import islice

from starlette.responses import Response

from kumofire_core.console.visit import Page, Visit
from kumofire_core.model.batch import Batch
from kumofire_core.model.run_view import Run

MOST_LISTED = 20
"""Failed members that a page names."""

OFTEN = 10_000
"""Batches of more members are counted less often: each look reads a counter for each hundred of them."""

LISTED = 50


def listed(visit: Visit) -> Response:
    """Show the batches, the newest first."""
    page = visit.jobs.list_batches(limit=LISTED, page=visit.query("page") or None)
    return visit.page("batches.html", batches=page.batches, next_page=page.next_page)


def show(visit: Visit) -> Response:
    """Show a batch."""
    return _page(visit, "batch.html")


def live(visit: Visit) -> Response:
    """Answer with the part of the page that is kept up to date."""
    return _page(visit, "batch_live.html")


def cancel(visit: Visit) -> Response:
    """Cancel the members of a batch that have not ended."""
    batch_id = _id(visit)
    if visit.jobs.get_batch(batch_id) is None:
        return visit.missing("batch with this id")
    question = "Cancel all runs of this batch that have not ended?"
    if (asked := visit.unless_sure(question, section="runs")) is not None:
        return asked
    go_to = None if visit.is_partial else visit.url("batches", batch_id)
    if not visit.jobs.cancel_batch(batch_id, visit.field("reason").strip() or None):
        return visit.done("The batch is done already.", kind="stale", go_to=go_to)
    visit.record(f"canceled batch {batch_id}")
    return visit.done("Canceled. Runs that are executing are asked to stop.", go_to=go_to)


def _page(visit: Visit, template: str) -> Response:
    batch = visit.jobs.get_batch(_id(visit))
    if batch is None:
        return visit.missing("batch with this id")
    failed = list(islice(visit.jobs.batch_members(batch.id, status="failed"), MOST_LISTED)) if batch.failed else []
    return visit.page(
        template,
        batch=batch,
        failed=[(run, _error(visit, run)) for run in failed],
        at=visit.url("batches", batch.id, "live"),
        seconds=5 if batch.total <= OFTEN else 60,
        is_over=_is_over(batch),
    )


def _is_over(batch: Batch) -> bool:
    return batch.state in ("done", "abandoned")


def _error(visit: Visit, run: Run) -> str:
    """Return what a failed run failed with, as far as this person may see it."""
    if not visit.access.payloads:
        return run.error_type or ""
    return (run.last_error or run.error_type or "").split("\n", 1)[0]


def _id(visit: Visit) -> str:
    batch_id: str = visit.request.path_params["batch_id"]
    return batch_id


PAGES: list[tuple[str, list[str], Page]] = [
    ("/batches", ["GET"], listed),
    ("/batches/{batch_id}", ["GET"], show),
    ("/batches/{batch_id}/live", ["GET"], live),
    ("/batches/{batch_id}/cancel", ["POST"], cancel),
]

"""The console's pages about an operation over many runs: the question before it, and how far it has come.

A thread of this process works on it. It is stored in the table page by page, so whoever opens its address sees it, also
from another process, and can go on with it where its process has ended.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from starlette.responses import Response

from kumofire_core import BulkOperation
from kumofire_core.aws.error_notes import advice
from kumofire_core.aws.errors import AWS_ERRORS
from kumofire_core.console.run_filters import ACTIONS, NAMES, Filters, filters_of
from kumofire_core.console.visit import Page, Visit
from kumofire_core.errors import InvalidArgumentError, KumofireError
from kumofire_core.model.times import LAST_MS, from_ms, to_ms

log = logging.getLogger("kumofire_core.console")

Operate = Callable[..., BulkOperation]
"""``retry_many`` or a call like it; it takes ``on_progress``."""

SILENT = timedelta(seconds=15)
"""Without a change for so long, an operation has probably lost the process that worked on it."""

SECONDS_TO_BEGIN = 20.0

MOST_AT_WORK = 8
"""Operations that this process works on at a time: each has its threads and its requests to the table."""

MOST_KEPT = 100
"""Operations that this process remembers."""

SPREADS = {"": "all at once", "5": "over 5 minutes", "30": "over 30 minutes", "120": "over 2 hours"}
"""How retries may be spread, by minutes."""


_beginning = threading.Lock()


@dataclass(slots=True, kw_only=True)
class Work:
    """What this process knows of one operation."""

    thread: threading.Thread | None = None
    error: str = ""
    """What stopped the thread."""
    counts: tuple[int, ...] = ()
    since: datetime | None = None
    """When these counts were first seen."""
    begun: threading.Event = field(default_factory=threading.Event)
    bulk_id: str | None = None
    raised: Exception | None = None

    @property
    def is_going_on(self) -> bool:
        """Whether a thread of this process works on it."""
        return self.thread is not None and self.thread.is_alive()


def confirm(visit: Visit) -> Response:
    """Ask whether all runs that fit a filter are meant, and say how many they are."""
    action, filters = visit.query("action"), filters_of(visit)
    problem = _problem(action, filters)
    if problem:
        return visit.done(problem, kind="wrong")
    counted = _call(visit, action, filters, visit.now)(dry_run=True)
    is_part = visit.request.headers.get("hx-target") == "dialog"
    return visit.page(
        "bulk_question_part.html" if is_part else "bulk_question.html",
        action=action,
        filters=filters,
        counted=counted,
        counted_at=to_ms(visit.now),
        spreads=SPREADS,
        back=visit.url("runs", **filters.query()),
    )


def begin(visit: Visit) -> Response:
    """Begin an operation over all runs that fit a filter, and go to its page."""
    action = visit.field("action")
    filters = filters_of(visit, {name: visit.field(name) for name in NAMES})
    given, spread = visit.field("counted_at"), visit.field("spread")
    problem = _problem(action, filters)
    if not problem and not (given.isascii() and given.isdecimal() and len(given) <= 15 and int(given) <= LAST_MS):
        problem = "The form lacks the time at which the runs were counted; load the page again."
    if not problem and spread not in SPREADS:
        problem = "The runs can't be spread over such a time."
    if problem:
        return visit.done(problem, kind="wrong", go_to=visit.url("runs"))
    call = _call(visit, action, filters, from_ms(int(given)))
    if action == "retry" and spread:
        call = partial(call, spread=timedelta(minutes=int(spread)))
    if action == "delete" and visit.field("free") == "yes":
        call = partial(call, free_dedupe_keys=True)
    bulk_id = start(visit, call)
    visit.record(f"began to {action} all runs that fit {filters.query()!r}: operation {bulk_id}")
    of = visit.field("of") if visit.field("of").isdecimal() else ""
    return visit.done("The operation has begun.", go_to=visit.url("bulk", bulk_id, of=of[:9]))


def show(visit: Visit) -> Response:
    """Answer with the page of an operation."""
    return _shown(visit, "bulk.html")


def progress(visit: Visit) -> Response:
    """Answer with how far an operation has come: the part of its page that is kept up to date."""
    return _shown(visit, "bulk_progress.html")


def abort(visit: Visit) -> Response:
    """Let an operation stop after the page that is under way."""
    bulk_id = visit.request.path_params["bulk_id"]
    if not visit.jobs.abort_bulk(bulk_id):
        return visit.done("It has ended already.", kind="stale", go_to=_no_script(visit, bulk_id))
    visit.record(f"aborted operation {bulk_id}")
    return visit.done("It stops after the runs that are under way.", go_to=_no_script(visit, bulk_id))


def resume(visit: Visit) -> Response:
    """Go on with an operation whose process has ended."""
    bulk_id = visit.request.path_params["bulk_id"]
    operation = visit.jobs.get_bulk(bulk_id)
    if operation is None:
        return visit.missing("operation with this id")
    work = _works(visit).get(bulk_id)
    if operation.done or operation.aborted or (work is not None and work.is_going_on):
        text = "It has ended already." if operation.done or operation.aborted else "It is being worked on."
        return visit.done(text, kind="stale", go_to=_no_script(visit, bulk_id))
    if not _begin(visit, partial(visit.jobs.resume_bulk, bulk_id), Work(bulk_id=bulk_id)):
        return visit.done("It is being worked on.", kind="stale", go_to=_no_script(visit, bulk_id))
    visit.record(f"resumed operation {bulk_id}")
    return visit.done("It goes on.", go_to=_no_script(visit, bulk_id))


def start(visit: Visit, operate: Operate) -> str:
    """Begin an operation in a thread of its own, and return its id. Raises what it raised before it had one."""
    work = Work()
    _begin(visit, operate, work)
    work.begun.wait(SECONDS_TO_BEGIN)
    if work.bulk_id is not None:
        return work.bulk_id
    if work.raised is not None:
        raise work.raised
    raise KumofireError("the table did not take the operation in time; look at the runs before you begin another one")


def _begin(visit: Visit, operate: Callable[..., object], work: Work) -> bool:
    """Begin to work on an operation; return whether no other thread of this process does so already.

    Raises ``KumofireError`` where this process works on as many as it may.
    """
    works = _works(visit)
    threads: list[threading.Thread] = visit.desk.memory.setdefault("bulk threads", [])

    def tell(operation: BulkOperation) -> None:
        if work.bulk_id is None and operation.id is not None:
            work.bulk_id = operation.id
            works[operation.id] = work
            work.begun.set()

    def run() -> None:
        try:
            operate(on_progress=tell)
        except (*AWS_ERRORS, KumofireError) as error:
            work.raised = error
            work.error = str(error) if isinstance(error, KumofireError) else advice(error)
            log.warning("operation %s stopped: %s", work.bulk_id, work.error)
        except Exception as error:
            work.raised, work.error = error, "an error of the console; its log has more"
            log.exception("operation %s stopped", work.bulk_id)
        finally:
            work.begun.set()

    with _beginning:
        threads[:] = [each for each in threads if each.is_alive()]
        if work.bulk_id in works and works[work.bulk_id].is_going_on:
            return False
        if len(threads) >= MOST_AT_WORK:
            raise KumofireError(
                f"{MOST_AT_WORK} operations are under way, which are the most at once; wait until one has ended"
            )
        if work.bulk_id is not None:
            works[work.bulk_id] = work
        work.thread = threading.Thread(target=run, name="kumofire-console-bulk", daemon=True)
        threads.append(work.thread)
        work.thread.start()
    return True


def _shown(visit: Visit, template: str) -> Response:
    bulk_id = visit.request.path_params["bulk_id"]
    operation = visit.jobs.get_bulk(bulk_id)
    if operation is None:
        return visit.missing("operation with this id")
    work = _works(visit).setdefault(bulk_id, Work(bulk_id=bulk_id))
    counts = (operation.matched, operation.changed, operation.skipped, operation.failed)
    if work.counts != counts or work.since is None:
        work.counts, work.since = counts, visit.now
    has_ended = operation.done or operation.aborted
    is_silent = not work.is_going_on and (bool(work.error) or visit.now - work.since >= SILENT)
    of = visit.query("of")
    return visit.page(
        template,
        operation=operation,
        has_ended=has_ended,
        is_silent=is_silent and not has_ended,
        error="" if has_ended or work.is_going_on else work.error,
        of=int(of) if of.isascii() and of.isdecimal() and 0 < len(of) < 10 else 0,
        at=visit.url("bulk", bulk_id, "progress", of=of),
        words=_words(operation),
    )


def _words(operation: BulkOperation) -> str:
    if operation.run_ids is not None:
        return "chosen runs"
    return Filters(typed={}, wanted=operation.filter, wrong={}).words()


def _problem(action: str, filters: Filters) -> str:
    """Return why a filter can't be acted upon, empty where it can."""
    if action not in ACTIONS[""]:
        return "Say what to do with the runs."
    if filters.wrong:
        return " ".join(filters.wrong.values())
    if filters.is_empty:
        return "Give a filter first: an empty one would mean every run."
    if action not in ACTIONS[filters.status]:
        return f"Runs that are {filters.status} can't be changed so."
    return ""


def _call(visit: Visit, action: str, filters: Filters, counted_at: datetime) -> Operate:
    """Return the call for all runs that fit, and that had ended when they were counted.

    What is canceled has not ended; the library leaves runs that are created after the operation began.
    """
    given: dict[str, Any] = dict(filters.arguments)
    if action == "cancel":
        return partial(visit.jobs.cancel_many, **given)
    given["until"] = min(filters.wanted.until or counted_at, counted_at)
    if filters.wanted.since is not None and filters.wanted.since > given["until"]:
        raise InvalidArgumentError("since is in the future: no run has ended then")
    return partial(visit.jobs.retry_many if action == "retry" else visit.jobs.delete_many, **given)


def _works(visit: Visit) -> dict[str, Work]:
    works: dict[str, Work] = visit.desk.memory.setdefault("bulk", {})
    for old in [bulk_id for bulk_id, each in list(works.items()) if not each.is_going_on][:-MOST_KEPT]:
        works.pop(old, None)
    return works


def _no_script(visit: Visit, bulk_id: str) -> str | None:
    """Return where a person without scripts goes on; a script stays where it is."""
    return None if visit.is_partial else visit.url("bulk", bulk_id)


PAGES: list[tuple[str, list[str], Page]] = [
    ("/bulk/confirm", ["GET"], confirm),
    ("/bulk", ["POST"], begin),
    ("/bulk/{bulk_id}", ["GET"], show),
    ("/bulk/{bulk_id}/progress", ["GET"], progress),
    ("/bulk/{bulk_id}/abort", ["POST"], abort),
    ("/bulk/{bulk_id}/resume", ["POST"], resume),
]

"""The console's page of runs: a list that a filter narrows, and what a person does to the runs that they choose.

A page of the list costs what ``Jobs.list_runs`` costs for 50 runs, and nothing is counted for it. While somebody looks
at it, the rows on their screen are read again every ten seconds, in one request, and stay where they are.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

from starlette.responses import Response

from kumofire_core import Run, RunStatus
from kumofire_core.aws.error_notes import advice
from kumofire_core.aws.errors import AWS_ERRORS
from kumofire_core.console import bulk_pages
from kumofire_core.console.run_filters import ACTIONS, ENDED, Filters, filters_of, moment
from kumofire_core.console.visit import Page, Visit
from kumofire_core.console.words import things
from kumofire_core.errors import InvalidArgumentError, KumofireError
from kumofire_core.model.times import LAST_MS, from_ms, to_ms
from kumofire_core.text import relative

PAGE = 50
"""Runs that are shown at once."""

MOST_READ_AGAIN = 100
"""Rows on the screen that are read again: one request of ``Jobs.get_many``."""

MOST_CHOSEN = 1_000

MOST_AT_ONCE = 100
"""Chosen runs that are changed while the person waits; an operation in the background changes more."""

STEPS_BY_ITSELF = 5
"""How often the list goes on by itself where a page has fewer runs than fit on it."""

MOST_NEWER = 5

MOST_NAMES = 200
"""Names of jobs, and of errors' types, that are remembered to be suggested."""

CHANGES_IN_FLIGHT = 8

WAITING = (RunStatus.SCHEDULED, RunStatus.QUEUED)

TABS = (
    ("", "All"),
    ("failed", "Failed"),
    ("scheduled", "Scheduled"),
    ("queued", "Queued"),
    ("running", "Running"),
    ("canceled", "Canceled"),
    ("succeeded", "Succeeded"),
)

_DOM_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the list."""

    id: str
    run: Run | None
    """``None`` where it has been deleted since it was shown."""
    fits: bool = True
    """Whether it is still one of those that are wanted."""

    @property
    def dom_id(self) -> str:
        """Its name in the page, by which it is found when it is read again."""
        return f"run-{self.id}" if _DOM_NAME.fullmatch(self.id) else f"run-{_digest(self.id)}"

    @property
    def seen(self) -> str:
        """What the checkbox sends: the id, and the state in which the person saw the run."""
        return "" if self.run is None else f"{self.id} {self.run.status.value} {self.run.retries}"

    @property
    def at(self) -> datetime | None:
        """When it ended, when it started, or when it is due."""
        return None if self.run is None else _at(self.run)

    @property
    def at_word(self) -> str:
        """What ``at`` is the time of."""
        if self.run is None or self.run.status in ENDED:
            return ""
        return "started" if self.run.status is RunStatus.RUNNING else "due"

    @property
    def error(self) -> str:
        """The first line of the latest error's text, without the error's type; or why it was canceled."""
        if self.run is None:
            return ""
        if self.run.status is RunStatus.CANCELED and self.run.cancel_reason:
            return self.run.cancel_reason.split("\n", 1)[0]
        first = (self.run.last_error or "").split("\n", 1)[0]
        return first.removeprefix(f"{self.run.error_type}: ") if first != self.run.error_type else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What one page of the list shows."""

    rows: list[Row]
    next_page: str | None = None
    steps: int = 0
    """How many pages in a row had fewer runs than fit on them, this one included."""
    back_to: datetime | None = None
    """The time that the search has come to, where the page has fewer runs than fit on it."""
    found_by: str = ""
    """``id`` or ``key``, where that was what the person wrote."""
    goes_on: bool = True
    """Whether the next page is loaded when the end of the list comes into view."""


def show(visit: Visit) -> Response:
    """Answer with the page, or with the list where the page's script asks for that."""
    filters = filters_of(visit)
    listing = Listing(rows=[]) if filters.wrong else _listing(visit, filters)
    is_part = visit.request.headers.get("hx-target") == "list"
    shown = visit.page(
        "runs_part.html" if is_part else "runs.html",
        status=422 if filters.wrong else 200,
        filters=filters,
        listing=listing,
        tabs=TABS,
        actions=() if filters.is_empty or filters.wrong or listing.found_by else ACTIONS[filters.status],
        live_at=_live_address(visit, filters, listing),
        back=urlencode(filters.query()),
        names=_names(visit),
    )
    if is_part:
        shown.headers["HX-Push-Url"] = visit.url("runs", **filters.query())
    return shown


def more(visit: Visit) -> Response:
    """Answer with the rows of the next page, which are put below those that are there."""
    filters = filters_of(visit)
    if filters.wrong:
        return visit.done("The filter is wrong; load the page again.", kind="wrong")
    return visit.page("runs_more.html", filters=filters, listing=_listing(visit, filters))


def rows(visit: Visit) -> Response:
    """Answer with the rows that are on the screen, as they are now, and whether there are newer runs."""
    filters = filters_of(visit)
    ids = list(dict.fromkeys(visit.request.query_params.getlist("id")))[:MOST_READ_AGAIN]
    found = visit.jobs.get_many(ids)
    fits_any = bool(filters.wrong) or visit.query("found_by") != ""
    shown = [
        Row(id=run_id, run=run, fits=run is None or fits_any or filters.wanted.fits(run))
        for run_id in ids
        for run in [found.get(run_id)]
    ]
    is_newer = visit.query("newer") == "yes" or _is_newer(visit, filters, set(ids))
    given = {name: visit.query(name) for name in ("newest", "asof", "found_by")}
    at = visit.url("runs", "rows", **filters.fixed(), **given, newer="yes" if is_newer else "")
    return visit.page("runs_rows.html", filters=filters, rows=shown, live_at=at, is_newer=is_newer)


def _listing(visit: Visit, filters: Filters) -> Listing:
    """Read one page of the list."""
    page = visit.query("page") or None
    typed = filters.typed["q"]
    if typed and page is None and visit.query("contains") != "yes":
        run, found_by = visit.jobs.get_status(typed, payloads=False), "id"
        if run is None:
            run, found_by = visit.jobs.find_run(dedupe_key=typed), "key"
        if run is not None:
            return Listing(rows=[Row(id=run.id, run=run)], found_by=found_by)
    got = visit.jobs.list_runs(**filters.arguments, limit=PAGE, page=page)
    _remember_names(visit, got.runs)
    given = visit.query("steps")
    steps = int(given) if given.isascii() and given.isdecimal() and len(given) < 6 else 0
    steps = steps + 1 if len(got.runs) < PAGE else 0
    return Listing(
        rows=[Row(id=run.id, run=run) for run in got.runs],
        next_page=got.next_page,
        steps=steps,
        back_to=got.back_to if steps else None,
        goes_on=steps == 0 or steps % STEPS_BY_ITSELF != 0,
    )


def _live_address(visit: Visit, filters: Filters, listing: Listing) -> str | None:
    """Return where the rows are read again, and what is newer than them; ``None`` where there is nothing to read."""
    if filters.wrong:
        return None
    times = [row.at for row in listing.rows if row.at is not None]
    newest = max(times, default=None)
    is_first_page = visit.query("page") == "" and not listing.found_by
    return visit.url(
        "runs",
        "rows",
        **filters.fixed(),
        asof=to_ms(visit.now),
        newest=to_ms(newest or visit.now) if is_first_page else "",
        found_by=listing.found_by,
    )


def _is_newer(visit: Visit, filters: Filters, shown: set[str]) -> bool:
    """Say whether a run would be above those that were shown, by one small query.

    Where a list of all statuses begins with runs that are still to come, what is looked for is a new failure.
    """
    newest, asof = _moment_of(visit.query("newest")), _moment_of(visit.query("asof"))
    if newest is None or asof is None or filters.wrong:
        return False
    wanted = filters.arguments
    if filters.status == "" and newest > asof:
        wanted["status"], newest = RunStatus.FAILED, asof
    since = newest + timedelta(milliseconds=1)
    until = filters.wanted.until
    if until is not None and until < since:
        return False
    wanted["since"] = since
    return any(run.id not in shown for run in visit.jobs.list_runs(**wanted, limit=MOST_NEWER).runs)


# What is chosen


class Chosen(NamedTuple):
    """A run that a person has chosen, in the state in which they saw it."""

    id: str
    status: str
    retries: int

    @classmethod
    def parsed(cls, text: str) -> Chosen | None:
        """Return what a checkbox sent, or ``None`` for what none of ours sends."""
        parts = text.rsplit(" ", 2)
        if len(parts) != 3 or parts[1] not in set(RunStatus) or not re.fullmatch("[0-9]{1,9}", parts[2], re.ASCII):
            return None
        return cls(parts[0], parts[1], int(parts[2]))

    def is_as_seen(self, run: Run | None) -> bool:
        """Say whether the run is still in that state."""
        return run is not None and run.status == self.status and run.retries == self.retries


class Verb(NamedTuple):
    """How an action is told, and the statuses of the runs that it can change."""

    did: str
    done: str
    statuses: frozenset[RunStatus]


VERBS = {
    "retry": Verb("Retried", "retried", frozenset({RunStatus.FAILED, RunStatus.CANCELED})),
    "cancel": Verb("Canceled", "canceled", frozenset(RunStatus) - set(ENDED)),
    "delete": Verb("Deleted", "deleted", frozenset(ENDED)),
    "run-now": Verb("Started", "started at once", frozenset({RunStatus.SCHEDULED})),
    "reschedule": Verb("Moved", "moved", frozenset(WAITING)),
}

CHANGED_MEANWHILE = (
    "1 has changed meanwhile and was left as it is.",
    "{} have changed meanwhile and were left as they are.",
)


@dataclass(slots=True, kw_only=True)
class Told:
    """What became of the chosen runs, to be told in sentences."""

    action: str
    sentences: list[str] = field(default_factory=list)
    changed: int = 0
    undo: str = ""

    def add(self, number: int, one: str, many: str) -> None:
        """Add a sentence about some of the runs, none where there are none. ``{}`` is the number."""
        if number > 0:
            self.sentences.append(one if number == 1 else many.format(f"{number:,}"))

    @property
    def text(self) -> str:
        """All sentences."""
        return " ".join(self.sentences)


def act(visit: Visit) -> Response:
    """Do to the chosen runs what was asked for, except to those that are not as the person saw them any more."""
    action = visit.field("action")
    if action not in VERBS:
        return visit.done("Say what to do with the runs.", kind="wrong", go_to=_back(visit))
    parsed = [Chosen.parsed(text) for text in visit.fields("run")]
    chosen = [each for each in parsed if each is not None]
    if not chosen or len(chosen) < len(parsed):
        return visit.done("Choose the runs first.", kind="wrong", go_to=_back(visit))
    if len(chosen) > MOST_CHOSEN:
        return visit.done(
            f"{things(len(chosen), 'run')} are chosen, and {MOST_CHOSEN:,} are the most at once. "
            "Narrow the list by its filter, and act on all that fit it.",
            kind="wrong",
            go_to=_back(visit),
        )
    at = visit.now
    if action == "delete" and visit.field("sure") != "yes":
        return _ask(visit, action, chosen)
    if action == "reschedule":
        if "at" not in visit.form:
            return _ask(visit, action, chosen)
        try:
            at = moment("the time", visit.field("at"), visit.now, ahead=True)
        except InvalidArgumentError:
            return _ask(
                visit, action, chosen, wrong="Write a time such as 2026-11-26T09:30 (UTC), or 2h for in two hours."
            )
    return _act(visit, action, chosen, at)


def _ask(visit: Visit, action: str, chosen: Sequence[Chosen], *, wrong: str = "") -> Response:
    """Ask what has to be known first: in the dialog, or on a page where there are no scripts."""
    response = visit.page(
        "runs_question_part.html" if visit.is_partial else "runs_question.html",
        status=422 if wrong else 200,
        action=action,
        chosen=chosen,
        at=visit.field("at"),
        wrong=wrong,
        back=visit.field("back"),
    )
    response.headers["HX-Retarget"], response.headers["HX-Reswap"] = "#dialog", "innerHTML"
    return response


def _act(visit: Visit, action: str, chosen: Sequence[Chosen], at: datetime) -> Response:
    runs = _read(visit, [each.id for each in chosen])
    as_seen = [runs[each.id] for each in chosen if each.is_as_seen(runs.get(each.id))]
    possible = [run for run in as_seen if run.status in VERBS[action].statuses]
    meant = [run for run in possible if not (action == "cancel" and run.cancel_requested)]
    before = Told(action=action)
    before.add(len(chosen) - len(as_seen), *CHANGED_MEANWHILE)
    done = VERBS[action].done
    before.add(len(as_seen) - len(possible), f"1 can't be {done} in its status.", f"{{}} can't be {done} in theirs.")
    before.add(len(possible) - len(meant), "1 was asked to stop already.", "{} were asked to stop already.")
    if action not in ("run-now", "reschedule") and len(meant) > MOST_AT_ONCE:
        bulk_id = bulk_pages.start(visit, _operation(visit, action, meant))
        visit.record(f"began to {action} {len(meant)} chosen runs: operation {bulk_id}")
        before.sentences.insert(0, f"{things(len(meant), 'run')} are being {done}.")
        return visit.done(before.text, go_to=visit.url("bulk", bulk_id, of=len(meant)))
    told = _change(visit, action, meant, at) if meant else Told(action=action)
    told.sentences += before.sentences
    if told.changed:
        visit.record(f"{done} {told.changed} of the chosen runs {' '.join(run.id for run in meant[:MOST_AT_ONCE])}")
    else:
        told.sentences.insert(0, "Nothing was changed.")
    return visit.done(
        told.text,
        kind="done" if told.changed else "stale",
        undo={"what": told.undo} if told.undo else None,
        undo_at=visit.url("runs", "undo") if told.undo else None,
        go_to=_back(visit),
    )


def _change(visit: Visit, action: str, meant: list[Run], at: datetime) -> Told:
    """Change these runs, and tell what became of them."""
    told = Told(action=action)
    keyed = 0
    if action in ("run-now", "reschedule"):
        moved, errors = _each(meant, lambda run: visit.jobs.reschedule(run.id, at))
        told.changed, failed = len(moved), len(errors)
        told.undo = _undo_of("move", moved, to=at)
    else:
        operation = _operation(visit, action, meant)()
        told.changed, failed, errors = operation.changed, operation.failed, list(operation.errors)
        if action == "delete" and visit.field("free") != "yes":
            keyed = sum(run.dedupe_key is not None for run in meant)
    when = f"; due {relative(at, visit.now)}" if action == "reschedule" else ""
    if told.changed:
        told.sentences.append(f"{VERBS[action].did} {things(told.changed, 'run')}{when}.")
    if action == "cancel" and told.changed:
        running = sum(run.status is RunStatus.RUNNING for run in meant)
        told.add(
            running,
            "1 of them executes, and was asked to stop.",
            "{} of them execute, and were asked to stop.",
        )
        fresh = [run for run in meant if run.status in WAITING and run.attempt == 0]
        told.undo = _undo_of("cancel", fresh)
        if told.undo:
            told.add(len(meant) - len(fresh), "1 can't be undone.", "{} can't be undone.")
    told.add(keyed, "1 has a dedupe key and was left.", "{} have a dedupe key and were left.")
    if failed:
        told.add(failed, "1 could not be changed:", "{} could not be changed, among them:")
        told.sentences.append(errors[0])
    told.add(len(meant) - told.changed - failed - keyed, *CHANGED_MEANWHILE)
    return told


def _operation(visit: Visit, action: str, meant: Sequence[Run]) -> bulk_pages.Operate:
    """Return the call that does an action to these runs."""
    ids = [run.id for run in meant]
    if action == "retry":
        return partial(visit.jobs.retry_many, run_ids=ids)
    if action == "cancel":
        return partial(visit.jobs.cancel_many, run_ids=ids)
    return partial(visit.jobs.delete_many, run_ids=ids, free_dedupe_keys=visit.field("free") == "yes")


def _read(visit: Visit, ids: Sequence[str]) -> dict[str, Run]:
    """Return these runs as they are now."""
    found: dict[str, Run] = {}
    for start in range(0, len(ids), MOST_READ_AGAIN):
        found |= visit.jobs.get_many(ids[start : start + MOST_READ_AGAIN])
    return found


def _each(runs: Sequence[Run], change: Callable[[Run], bool]) -> tuple[list[Run], list[str]]:
    """Change runs one by one, a few at a time; return those that were changed, and what went wrong with others."""

    def changed(run: Run) -> bool | str:
        try:
            return change(run)
        except KumofireError as error:
            return str(error)
        except AWS_ERRORS as error:
            return advice(error)

    with ThreadPoolExecutor(CHANGES_IN_FLIGHT) as pool:
        answers = list(pool.map(changed, runs))
    errors = [answer for answer in answers if isinstance(answer, str)]
    return [run for run, answer in zip(runs, answers, strict=True) if answer is True], errors


# Undo


class Undo(NamedTuple):
    """What can be undone to one run, as the notice's form carries it."""

    id: str
    retries: int
    former_ms: int
    """The time that it was for."""
    to_ms: int
    """The time that it was given; 0 where it was canceled."""


def _undo_of(action: str, runs: Sequence[Run], *, to: datetime | None = None) -> str:
    """Return what undoes a change of these runs; empty where there are none, or too many."""
    if not runs or len(runs) > MOST_AT_ONCE:
        return ""
    entries = [Undo(run.id, run.retries, to_ms(run.scheduled_for), 0 if to is None else to_ms(to)) for run in runs]
    return json.dumps({"action": action, "runs": entries}, separators=(",", ":"))


def undo(visit: Visit) -> Response:
    """Give runs that were canceled, or moved to another time, the time back that they were for."""
    action, entries = _parsed_undo(visit.field("what"))
    if not entries:
        return visit.done("There is nothing to undo.", kind="wrong", go_to=_back(visit))
    runs = visit.jobs.get_many([each.id for each in entries])
    former = {each.id: from_ms(each.former_ms) for each in entries}
    meant = [runs[each.id] for each in entries if _can_undo(action, each, runs.get(each.id))]
    if action == "cancel":
        changed, errors = _each(meant, lambda run: visit.jobs.retry(run.id, run_at=former[run.id]))
    else:
        changed, errors = _each(meant, lambda run: visit.jobs.reschedule(run.id, former[run.id]))
    told = Told(action=action)
    if changed:
        visit.record(f"undid: {len(changed)} runs have their time again: {' '.join(run.id for run in changed)}")
        told.sentences.append(f"Undone: {things(len(changed), 'run')} as before.")
    else:
        told.sentences.append("Nothing was undone.")
    if errors:
        told.add(len(errors), "1 could not be changed:", "{} could not be changed, among them:")
        told.sentences.append(errors[0])
    left = len(entries) - len(changed) - len(errors)
    told.add(left, "1 has moved on and was left as it is.", "{} have moved on and were left as they are.")
    return visit.done(told.text, kind="done" if changed else "stale", go_to=_back(visit))


def _can_undo(action: str, entry: Undo, run: Run | None) -> bool:
    """Say whether a run is still as the change left it."""
    if run is None or run.retries != entry.retries:
        return False
    if action == "cancel":
        return run.status is RunStatus.CANCELED
    return run.status in WAITING and to_ms(run.scheduled_for) == entry.to_ms


def _parsed_undo(text: str) -> tuple[str, list[Undo]]:
    """Return what is to be undone; nothing where the text is not one of ours."""
    try:
        given: Any = json.loads(text)
        action, entries = given["action"], [Undo(*each) for each in given["runs"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return "", []
    if action not in ("cancel", "move") or not 1 <= len(entries) <= MOST_AT_ONCE:
        return "", []
    for entry in entries:
        numbers = (entry.retries, entry.former_ms, entry.to_ms)
        are_times = all(type(number) is int and 0 <= number <= LAST_MS for number in numbers)
        if not isinstance(entry.id, str) or not are_times:
            return "", []
    return action, entries


# Small things


def _at(run: Run) -> datetime:
    if run.status in ENDED:
        return run.finished_at or run.updated_at
    if run.status is RunStatus.RUNNING:
        return run.started_at or run.updated_at
    return run.scheduled_for


def _moment_of(text: str) -> datetime | None:
    """Return the time in an address of ours."""
    if not text.isascii() or not text.isdecimal() or len(text) > 15 or int(text) > LAST_MS - 1:
        return None
    return from_ms(int(text))


def _back(visit: Visit) -> str | None:
    """Return the list that a form was on, for a person without scripts; a script stays where it is."""
    if visit.is_partial:
        return None
    given = dict(parse_qsl(visit.field("back"), max_num_fields=20)) if len(visit.field("back")) < 8_000 else {}
    return visit.url("runs", **filters_of(visit, given).query())


def _remember_names(visit: Visit, runs: Sequence[Run]) -> None:
    """Keep the names of jobs and error types that were seen, to suggest them. Nothing is read for it."""
    for run in runs:
        for kind, name in (("jobs", run.job_name), ("error types", run.error_type)):
            names: dict[str, None] = visit.desk.memory.setdefault(f"runs: {kind}", {})
            if name and name.isprintable() and len(names) < MOST_NAMES:
                names[name] = None


def _names(visit: Visit) -> Mapping[str, list[str]]:
    return {kind: sorted(visit.desk.memory.get(f"runs: {kind}", ())) for kind in ("jobs", "error types")}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


PAGES: list[tuple[str, list[str], Page]] = [
    ("/runs", ["GET"], show),
    ("/runs/more", ["GET"], more),
    ("/runs/rows", ["GET"], rows),
    ("/runs/chosen", ["POST"], act),
    ("/runs/undo", ["POST"], undo),
]

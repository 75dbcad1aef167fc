"""One request of a person: what a page reads it by, and the answers that pages give.

A page is a plain function from a ``Visit`` to a response. It runs in a thread, since ``Jobs`` waits for AWS.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from kumofire_core.aws.error_notes import advice, code_of
from kumofire_core.aws.errors import AWS_ERRORS, note_of
from kumofire_core.console.access import Access
from kumofire_core.console.guard import SAFE_METHODS
from kumofire_core.errors import InvalidArgumentError, InvalidJSONError, InvalidScheduleError, KumofireError
from kumofire_core.text import plain

if TYPE_CHECKING:
    from jinja2 import Environment

    from kumofire_core.deployment.dead_letters import DeadLetters
    from kumofire_core.jobs import Jobs

log = logging.getLogger("kumofire_core.console")

THEME_COOKIE = "kumofire_theme"

MOST_THREADS = 40
"""Pages that are at work at once. They are the console's own threads: where AWS is slow, the pages wait for it, and the
threads of the application around, which has as many by default, do not."""

STOP_POLLING = 286
"""The status by which htmx ends the polling of what has asked. https://htmx.org/attributes/hx-trigger/#polling"""

WRONG_INPUT = (InvalidArgumentError, InvalidJSONError, InvalidScheduleError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What all visits share."""

    jobs: Jobs
    title: str
    """What the pages call the deployment."""
    dead_letters: Callable[[], DeadLetters]
    templates: Environment
    clock: Callable[[], datetime]
    memory: dict[str, Any] = field(default_factory=dict)
    """What a page keeps for its next visitor, such as the latest counts. Lost when the process ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One request of a person."""

    desk: Desk
    request: Request
    access: Access
    form: FormData
    """What a form sent; empty for a page that is only looked at."""
    now: datetime
    root: str
    """The path that the console is mounted at, without a slash at its end."""

    @property
    def jobs(self) -> Jobs:
        """The deployment's ``Jobs``."""
        return self.desk.jobs

    @property
    def is_partial(self) -> bool:
        """Whether a script asks for a part of a page. A person without scripts gets whole pages."""
        return self.request.headers.get("hx-request") == "true"

    @property
    def theme(self) -> str:
        """``light`` or ``dark`` where the person has chosen one, which their browser keeps in a cookie; else empty."""
        chosen = self.request.cookies.get(THEME_COOKIE, "")
        return chosen if chosen in ("light", "dark") else ""

    @property
    def is_live(self) -> bool:
        """Whether a part of a page asks that is kept up to date: it asks for itself."""
        target = self.request.headers.get("hx-target", "")
        return target != "" and target == self.request.headers.get("hx-trigger")

    def query(self, name: str) -> str:
        """Return a value of the address, stripped; empty where it has none."""
        return self.request.query_params.get(name, "").strip()

    def field(self, name: str) -> str:
        """Return a value of the form, as it was sent; empty where it has none."""
        value = self.form.get(name, "")
        return value if isinstance(value, str) else ""

    def fields(self, name: str) -> list[str]:
        """Return all values that the form has under a name."""
        return [value for value in self.form.getlist(name) if isinstance(value, str)]

    def url(self, *parts: str, **query: object) -> str:
        """Return the address of a page: ``visit.url("runs", run_id)``. What is ``None`` or empty is left out."""
        path = "/".join(quote(part, safe="") for part in parts)
        given = {name: str(value) for name, value in query.items() if value is not None and value != ""}
        return f"{self.root}/{path}" + (f"?{urlencode(given)}" if given else "")

    def page(self, template: str, *, status: int = 200, **values: Any) -> Response:
        """Return a page or a part of one."""
        text = self.desk.templates.get_template(template).render(
            visit=self,
            url=self.url,
            now=self.now,
            may_act=self.access.act,
            may_see_payloads=self.access.payloads,
            csrf=self.request.scope.get("kumofire.csrf", ""),
            **values,
        )
        return HTMLResponse(text, status_code=status)

    def done(
        self,
        text: str,
        *,
        kind: str = "done",
        undo: Mapping[str, object] | None = None,
        undo_at: str | None = None,
        go_to: str | None = None,
        link: tuple[str, str] | None = None,
    ) -> Response:
        """Answer an action: tell what happened, and let the page look again at what it shows.

        ``kind`` is ``done``; ``stale`` where nothing was changed because it had changed already; ``wrong`` where
        nothing was changed because of what was given. ``undo_at`` is the address that undoes it, with ``undo`` as its
        form. ``go_to`` leads to another page instead, for example after what it showed was deleted. ``link`` is the
        address and the name of what was made.
        """
        status = {"done": 200, "stale": 409, "wrong": 422}[kind]
        notice = {"text": text, "kind": kind, "undo": undo or {}, "undo_at": undo_at, "link": link}
        if not self.is_partial:
            return self.page("notice_page.html", status=status, notice=notice, back=go_to or self.back())
        response = self.page("notice.html", status=status, notice=notice)
        response.headers["HX-Retarget"], response.headers["HX-Reswap"] = "#notices", "afterbegin"
        response.headers["HX-Trigger"] = "refresh"
        if go_to is not None and kind == "done":
            response.headers["HX-Location"] = go_to
        return response

    def unless_sure(self, question: str, *, section: str) -> Response | None:
        """Return a page that asks before something is deleted, ``None`` where that was asked; a script has asked."""
        if self.is_partial or self.field("sure") == "yes":
            return None
        return self.page("sure.html", question=question, section=section)

    def missing(self, what: str) -> Response:
        """Answer a question for something that does not exist."""
        if self.is_partial:
            response = self.done(f"There is no {what}. It was deleted, or never existed.", kind="stale")
            if self.request.method in SAFE_METHODS:
                # A live part would look again at once, and get this answer again.
                del response.headers["HX-Trigger"]
                if self.is_live:
                    response.status_code = STOP_POLLING
            return response
        return self.page("missing.html", status=404, what=what)

    def record(self, what: str) -> None:
        """Log who changed what, on one line. Text of others must not be in ``what``, but names and ids."""
        log.info("%s %s", plain(self.access.user or "a person"), plain(what))

    @property
    def here(self) -> str:
        """The address that was asked for, within this site."""
        query = self.request.url.query
        return f"/{quote(self.request.scope['path']).lstrip('/')}" + (f"?{query}" if query else "")

    def back(self) -> str:
        """Return the page that a form was on, where the browser tells it and it is one of ours."""
        referer = self.request.headers.get("referer", "")
        base = f"{self.request.url.scheme}://{self.request.url.netloc}{self.root}/"
        return referer if referer.startswith(base) else f"{self.root}/"


Page = Callable[[Visit], Response]

_limiters: RunVar[CapacityLimiter] = RunVar("kumofire_console_threads")


def _limiter() -> CapacityLimiter:
    """Return what bounds the console's threads in this event loop."""
    try:
        return _limiters.get()
    except LookupError:
        made = CapacityLimiter(MOST_THREADS)
        _limiters.set(made)
        return made


def endpoint(desk: Desk, page: Page) -> Callable[[Request], Awaitable[Response]]:
    """Return what Starlette calls for a page. Whatever AWS or the arguments are at fault for becomes an answer."""

    @functools.wraps(page)
    async def answer(request: Request) -> Response:
        visit = Visit(
            desk=desk,
            request=request,
            access=request.scope["kumofire.access"],
            form=request.scope.get("kumofire.form") or FormData(),
            now=desk.clock(),
            root=quote(request.scope.get("root_path", "").rstrip("/")),
        )
        return await to_thread.run_sync(_answered, page, visit, limiter=_limiter())

    return answer


def _answered(page: Page, visit: Visit) -> Response:
    try:
        return page(visit)
    except WRONG_INPUT as error:
        return trouble(visit, 422, str(error))
    except AWS_ERRORS as error:
        log.warning("the console got no answer from AWS: %s (%s)", note_of(error) or advice(error), code_of(error))
        return trouble(visit, 503, f"{note_of(error) or advice(error)} ({code_of(error)})")
    except KumofireError as error:
        return trouble(visit, 409, str(error))


def trouble(visit: Visit, status: int, text: str) -> Response:
    """Return the answer to a request that could not be met. What the page shows stays, and says that it is old."""
    if not visit.is_partial:
        return visit.page("trouble.html", status=status, text=text, is_form=visit.request.method == "POST")
    response = visit.page("trouble_part.html", status=status, text=text)
    response.headers["HX-Retarget"], response.headers["HX-Reswap"] = "#trouble", "innerHTML"
    return response


def utc_now() -> datetime:
    """Return the current time."""
    return datetime.now(UTC)

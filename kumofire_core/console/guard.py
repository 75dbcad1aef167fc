"""What every request passes before a page sees it: the Host, the origin of a change, its CSRF token, and its rights.

The console needs no secret of its own: a random cookie and the token in each form must be equal (OWASP's double-submit
cookie), which another site can neither read nor, with the origin checked first, make a browser send.
https://cheatsheetseries.owasp.org/cheatsheets/Cross-Site_Request_Forgery_Prevention_Cheat_Sheet.html
"""

from __future__ import annotations

import hmac
import logging
import re
import secrets
from collections.abc import Collection
from urllib.parse import quote, urlsplit

from starlette.datastructures import FormData, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kumofire_core.console.access import Authorize, access_of

log = logging.getLogger("kumofire_core.console")

COOKIE = "kumofire_csrf"
FIELD = "csrf"
HEADER = "X-Kumofire-Csrf"
"""The form field and the header, either of which carries the token."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)

SAFE_METHODS = ("GET", "HEAD")

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

MOST_BODY_BYTES = 1024 * 1024
"""Of a request: a form with a thousand runs takes about 100 KB, a schedule's payload up to 400 KB."""


MOST_FIELDS = 5_000
"""Of a form."""


class Guard:
    """The outermost ASGI application of the console."""

    def __init__(
        self, app: ASGIApp, *, authorize: Authorize, read_only: bool, hosts: Collection[str] | None, open_paths: str
    ) -> None:
        self._app = app
        self._authorize = authorize
        self._read_only = read_only
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        receive = _limited(receive)
        request = Request(scope, receive)
        token = request.cookies.get(COOKIE, "")
        is_new = not _TOKEN.fullmatch(token)
        if is_new:
            token = secrets.token_urlsafe(32)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
                if is_new:
                    headers.append("Set-Cookie", _cookie(token, request))
            await send(message)

        try:
            refusal = await self._refusal(request, "" if is_new else token)
        except ClientDisconnect:  # or the body is too long
            refusal = _too_large()
        if refusal is not None:
            await refusal(scope, receive, answer)
            return
        scope["kumofire.csrf"] = token
        await self._app(scope, receive, answer)

    async def _refusal(self, request: Request, token: str) -> Response | None:
        """Return the answer to a request that goes no further. ``token`` is that of its cookie."""
        host = request.headers.get("host", "")
        if self._hosts is not None and host.lower() not in self._hosts:
            return _refused(421, f"this console does not answer to the name {host[:200]!r}")
        if _size(request) > MOST_BODY_BYTES:
            return _too_large()
        changes = request.method not in SAFE_METHODS
        if changes and not _is_same_origin(request, host):
            return _refused(403, "the request comes from another site; nothing was changed")
        if self._is_open(request):
            return None
        access = await access_of(request, self._authorize, read_only=self._read_only)
        if access is None:
            return _refused(403, "you may not see this console")
        request.scope["kumofire.access"] = access
        if changes and not access.act:
            return _refused(403, "you may look at this console and not change anything; nothing was changed")
        if changes:
            try:
                form = await _form(request)
            except (MultiPartException, HTTPException):  # the latter where an application is around this one
                return _refused(400, f"the form can't be read, or has more than {MOST_FIELDS:,} fields")
            given = request.headers.get(HEADER) or form.get(FIELD)
            if not token or not isinstance(given, str) or not hmac.compare_digest(_bytes(given), _bytes(token)):
                return _refused(
                    403, "the form is of another session, or your browser takes no cookies; load the page again"
                )
        return None

    def _is_open(self, request: Request) -> bool:
        """Say whether anybody may have what is asked for: the style sheet and the scripts, which hold no data."""
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        return request.method in SAFE_METHODS and path.startswith(self._open_paths)


def _size(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdecimal() and len(length) < 20 else 0


def _limited(receive: Receive) -> Receive:
    """Return a ``receive`` that ends a body which has no length and is longer than it may be."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        return {"type": "http.disconnect"} if received > MOST_BODY_BYTES else message

    return limited


async def _form(request: Request) -> FormData:
    """Read the form that was sent, which is empty for a body of another kind, and keep it for whoever answers."""
    form = await request.form(max_files=0, max_fields=MOST_FIELDS, max_part_size=MOST_BODY_BYTES)
    request.scope["kumofire.form"] = form
    return form


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")  # a form may name any charset


def _is_same_origin(request: Request, host: str) -> bool:
    """Say whether a change was asked for by a page of this very host.

    Every current browser sends both headers with a POST. What sends neither is no browser, and has no cookie either.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == host.lower()


def _cookie(token: str, request: Request) -> str:
    path = quote(request.scope.get("root_path", "")) or "/"
    secure = "; Secure" if request.url.scheme == "https" else ""
    return f"{COOKIE}={token}; Path={path}; HttpOnly; SameSite=Strict{secure}"


def _too_large() -> Response:
    return _refused(413, f"the request is larger than {MOST_BODY_BYTES:,} bytes; nothing was changed")


def _refused(status: int, reason: str) -> Response:
    log.warning("the console refused a request (%d): %s", status, reason)
    return PlainTextResponse(f"{reason}\n", status_code=status)

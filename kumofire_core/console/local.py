"""The console of ``kumofire console``: on the loopback alone, for who has the address that was printed.

Every user of a machine can reach its loopback, and the console acts with the credentials of the one who started it. So
its address has a key, which is new each time; the browser trades it for a cookie, and it leaves the address bar.
"""

from __future__ import annotations

import hmac
import re
import secrets
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvicorn
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from kumofire_core.console import console
from kumofire_core.console.access import Access

if TYPE_CHECKING:
    from kumofire_core.deployment.dead_letters import DeadLetters
    from kumofire_core.jobs import Jobs

LOOPBACK = "127.0.0.1"
PARAMETER = "key"

_KEY = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


class LocalConsole:
    """The console of one ``kumofire console``, on a socket that listens already."""

    def __init__(
        self,
        jobs: Jobs,
        *,
        port: int,
        read_only: bool = False,
        payloads: bool = True,
        title: str | None = None,
        dead_letters: Callable[[], DeadLetters] | None = None,
    ) -> None:
        """Listen on a port of the loopback, ``0`` for a free one. Raises ``OSError`` where it is taken.

        ``title`` and ``dead_letters`` are those of ``console``.
        """
        self._key = secrets.token_urlsafe(32)
        self._access = Access(act=not read_only, payloads=payloads)
        self._socket = socket.create_server((LOOPBACK, port))
        self.port: int = self._socket.getsockname()[1]
        # A cookie does not tell ports apart, and two consoles may run beside each other.
        self._cookie = f"kumofire_console_{self.port}"
        self.app: ASGIApp = _Entrance(
            console(
                jobs,
                authorize=self._authorize,
                read_only=read_only,
                hosts=[f"{name}:{self.port}" for name in (LOOPBACK, "localhost")],
                title=title,
                dead_letters=dead_letters,
            ),
            self._key,
            self._cookie,
        )

        self._server = uvicorn.Server(
            uvicorn.Config(
                self.app,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                timeout_graceful_shutdown=1,
            )
        )

    @property
    def address(self) -> str:
        """Where the console is, with its key."""
        return f"http://{LOOPBACK}:{self.port}/?{PARAMETER}={self._key}"

    def serve(self) -> None:
        """Answer requests until ``stop`` is called, or the process is interrupted."""
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """Let ``serve`` return."""
        self._server.should_exit = True

    def _authorize(self, request: Request) -> Access | None:
        given = request.cookies.get(self._cookie, "")
        return self._access if hmac.compare_digest(given.encode(), self._key.encode()) else None


class _Entrance:
    """Trades the key in the address for a cookie, before anything else is asked."""

    def __init__(self, app: ASGIApp, key: str, cookie: str) -> None:
        self._app = app
        self._key = key
        self._cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        given = QueryParams(scope["query_string"]).get(PARAMETER)
        if given is not None and scope["path"] == "/" and scope["method"] == "GET":
            if not _KEY.fullmatch(given) or not hmac.compare_digest(given.encode(), self._key.encode()):
                refusal = PlainTextResponse("this address is of a console that has ended; open the new one\n", 403)
                await refusal(scope, receive, send)
                return
            entered = RedirectResponse(
                "/", 303, headers={"Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
            )
            entered.set_cookie(self._cookie, self._key, httponly=True, samesite="strict", path="/")
            await entered(scope, receive, send)
            return
        if self._cookie not in request.cookies and not scope["path"].startswith("/static/"):
            refusal = PlainTextResponse("open the address that `kumofire console` has printed\n", 403)
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

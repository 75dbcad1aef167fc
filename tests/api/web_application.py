"""What ``test_web_servers.py`` has real web servers serve: each request creates a run and answers with its id.

Both applications make a run in the process that imports them, before their server forks: the workers begin with its
clients and threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from kumofire_core import Jobs

jobs = Jobs.from_env()
jobs.create("imported", os.getpid())


async def _create(request: Request) -> JSONResponse:
    return JSONResponse({"run_id": await jobs.aio.create("asked", request.url.query), "process": os.getpid()})


asgi = Starlette(routes=[Route("/", _create)])


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer a request of a plain WSGI server, in one of its threads."""
    run_id = jobs.create("asked", environ["QUERY_STRING"])
    start_response("200 OK", [("Content-Type", "application/json")])
    return [f'{{"run_id": "{run_id}", "process": {os.getpid()}}}'.encode()]

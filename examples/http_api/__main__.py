"""Serves the API on a free port and talks to it over HTTP: ``make example NAME=http_api``."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from examples.http_api.app import app
from examples.on_local_aws import expect

TEXT = {"text": "a job has a name\na run has an id\n" * 50}


def main() -> None:
    """Create a count, ask until it has ended, create it again with its key, and cancel another one."""
    with served() as address:
        key = {"Idempotency-Key": "first"}
        code, created = call("POST", f"{address}/counts", TEXT, key)
        expect("POST answers 202 with the id of a run", code == 202 and len(created["id"]) > 0)
        shown = created
        for _ in range(200):
            if shown["status"] in ("succeeded", "failed", "canceled"):
                break
            time.sleep(0.1)
            code, shown = call("GET", f"{address}/counts/{created['id']}")
        expect(
            "GET tells of the result", shown["result"] == {"total": 500, "most_used": {"a": 150, "has": 100, "job": 50}}
        )

        code, again = call("POST", f"{address}/counts", TEXT, key)
        expect("the same Idempotency-Key gets the same run", code == 202 and again["id"] == created["id"])
        code, _ = call("POST", f"{address}/counts", {"text": "another"}, key)
        expect("the key is refused with another text", code == 422)

        _, later = call("POST", f"{address}/counts?delay=3600", {"text": "tomorrow"})
        code, canceled = call("DELETE", f"{address}/counts/{later['id']}")
        expect("DELETE cancels a run that waits", code == 202 and canceled["status"] == "canceled")
        code, _ = call("DELETE", f"{address}/counts/{created['id']}")
        expect("a run that has ended can't be canceled", code == 409)
        code, _ = call("GET", f"{address}/counts/unknown")
        expect("an unknown id is answered by 404", code == 404)


@contextmanager
def served() -> Iterator[str]:
    """Serve the API in a thread for the length of the block, and give its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise SystemExit("wrong: the server did not start")
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(5)


def call(method: str, url: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Make a request, print it with its answer, and return status and content."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            code, content = answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        code, content = refused.code, json.load(refused)
    print(f"{method} {request.selector} -> {code} {content}", flush=True)
    return code, content


if __name__ == "__main__":
    main()

"""An HTTP API over a job: POST creates a run, GET tells what became of it, DELETE cancels it.

It has no users. In an API of yours, put the user's id into the dedupe key and the payload, and compare it before you
show or cancel a run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException, Query, Response, status

from examples.http_api.jobs import Text, count_words, jobs
from kumofire_core import InvalidJSONError, Run


@dataclass
class Count:
    """A count of words, as clients see it."""

    id: str
    status: str
    progress: float | None
    result: dict[str, Any] | None
    error: str | None


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Make the AWS clients before the first request waits for them."""
    await jobs.aio.make_clients()
    yield


app = FastAPI(title="Words", lifespan=lifespan)


@app.post("/counts", status_code=status.HTTP_202_ACCEPTED)
async def create(
    text: Text,
    response: Response,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
    delay: Annotated[float, Query(ge=0, le=30 * 86_400, description="seconds")] = 0,
) -> Count:
    """Count the words of a text, after a delay if you like. The same ``Idempotency-Key`` gets the same count."""
    key = None if idempotency_key is None else f"count-words/{idempotency_key}"
    try:
        run = await find(await count_words.aio.create(text, delay=delay, dedupe_key=key))
    except InvalidJSONError as refused:  # the text is too large, which FastAPI can't know
        raise HTTPException(status.HTTP_422_UNPROCESSABLE_CONTENT, str(refused)) from None
    if run.payload != asdict(text):
        raise HTTPException(status.HTTP_422_UNPROCESSABLE_CONTENT, "this Idempotency-Key belongs to another text")
    response.headers["Location"] = app.url_path_for("read", run_id=run.id)
    return shown(run)


@app.get("/counts/{run_id}")
async def read(run_id: str) -> Count:
    """Tell what became of a count."""
    return shown(await find(run_id))


@app.delete("/counts/{run_id}", status_code=status.HTTP_202_ACCEPTED)
async def cancel(run_id: str) -> Count:
    """Cancel a count. One that is being executed stops at its next line."""
    run = await find(run_id)
    if not await jobs.aio.cancel(run.id, "canceled by the client"):
        run = await find(run_id)
        if not run.cancel_requested and run.status != "canceled":
            raise HTTPException(status.HTTP_409_CONFLICT, f"it has {run.status} already")
    return shown(await find(run_id))


async def find(run_id: str) -> Run:
    """Return the run, or answer 404. The id of another job's run is unknown here."""
    run = await jobs.aio.get_status(run_id)
    if run is None or run.job_name != count_words.job_name:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "there is no such count")
    return run


def shown(run: Run) -> Count:
    """Return what clients may see: no payload, and an error's type without its text, which may quote secrets."""
    return Count(
        id=run.id,
        status=run.status,
        progress=run.progress.fraction if run.progress else None,
        result=run.output,
        error=run.error_type,
    )

"""Creating runs: the whole request is checked, then the run is put and its message is sent; one run or many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from kumofire_core.engine import dedupe
from kumofire_core.engine.dedupe import Created
from kumofire_core.engine.run_store import RunStore
from kumofire_core.errors import InvalidArgumentError, KumofireError, PartlyCreatedError, short_repr, unknown_names
from kumofire_core.handlers.context import run_under_way
from kumofire_core.handlers.handler_pool import BoundedPool, HandlerPool
from kumofire_core.handlers.job_function import Dedupe, RunRequest
from kumofire_core.model.message import Sending
from kumofire_core.model.run import NewRun, derived_run_id, new_run_id
from kumofire_core.model.times import LAST_MS, delay_ms, require_aware, to_ms
from kumofire_core.rules.validation import (
    dedupe_rule,
    require_group,
    require_job_name,
    require_key,
    require_max_attempts,
)
from kumofire_core.rules.wake_ups import message_delay_seconds

CHUNK = 10
"""Runs put one after the other and then sent in one request: the size of an SQS batch."""

PUTS_IN_FLIGHT = 16
"""Chunks under way at once. More would only wait for this process's one core."""


_REQUEST_KEYS = ("name", *(key for key in RunRequest.__annotations__ if key != "name"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCreator:
    """Makes the runs of one ``Jobs``."""

    store: RunStore
    pool: HandlerPool
    allow_unknown_jobs: bool

    def prepare(
        self,
        name: str,
        payload: Any = None,
        *,
        run_at: datetime | None = None,
        delay: timedelta | float | None = None,
        max_attempts: int | None = None,
        dedupe_key: str | None = None,
        dedupe: Dedupe | None = None,
        group: str | None = None,
        run_id: str | None = None,
    ) -> NewRun:
        """Return the run that is asked for, nothing of it written; or raise what ``Jobs.create`` says.

        ``run_id`` is the id of a run that can't have a ``dedupe_key``, where the caller derives it.
        """
        self.require_job(name)
        require_max_attempts(max_attempts)
        require_group(group)
        if dedupe_key is not None:
            require_key("dedupe_key", dedupe_key)
        mode, period_ms = (None, None) if dedupe is None else dedupe_rule(dedupe, dedupe_key)
        now_ms = self.store.now_ms()
        if run_id is None:
            run_id = new_run_id() if dedupe_key is None else derived_run_id("dedupe_key", dedupe_key)
        text = self.store.registry.payload_text(name, payload, self.store.most_payload_bytes)
        return NewRun(
            id=run_id,
            job_name=name,
            payload=self.store.encrypted_payload(run_id, text),
            max_attempts=max_attempts,
            due_ms=_due_ms(run_at, delay, now_ms),
            now_ms=now_ms,
            dedupe_key=dedupe_key,
            dedupe_mode=mode,
            period_ms=period_ms,
            payload_text="" if mode is None else text,
            parent_id=run_under_way(),
            group=group,
        )

    def create(self, new_run: NewRun) -> str:
        """Make a run that was prepared, and send its message; return its id, or that of the run that its key has."""
        with self.store.creating([new_run]):
            created = self._put(new_run)
            if created.delay_seconds is not None:
                self.store.queue.try_send(created.run_id, delay_seconds=created.delay_seconds, group=new_run.group)
        return created.run_id

    def _put(self, new_run: NewRun) -> Created:
        if new_run.dedupe_mode is not None:
            return dedupe.create(self.store, new_run)
        put = self.store.put(new_run)
        return Created(new_run.id, message_delay_seconds(new_run.due_ms, new_run.now_ms) if put else None)

    def require_job(self, name: str) -> None:
        """Raise where ``name`` is no job's name, or one that has no handler here although it should."""
        require_job_name(name)
        if not self.allow_unknown_jobs:
            self.store.registry.require_known(name)

    def create_many(self, requests: Iterable[RunRequest]) -> list[str]:
        """Make all the runs that are asked for and return their ids in order; see ``Jobs.create_many``."""
        if isinstance(requests, Mapping | str | bytes) or not isinstance(requests, Iterable):
            one = "; for a single run call create(**request)" if isinstance(requests, Mapping) else ""
            raise InvalidArgumentError(
                "create_many takes a list (or another iterable) of requests, each a mapping of what create takes, "
                f"not {type(requests).__name__}{one}"
            )
        new_runs = [self.prepare_one(index, request) for index, request in enumerate(requests)]
        failures: dict[int, Exception] = {}
        run_ids: list[str | None] = [None] * len(new_runs)
        if new_runs:
            self.store.shards_to_write()  # once, before many threads ask
        with self.store.creating(new_runs):
            in_flight = BoundedPool(self.pool, PUTS_IN_FLIGHT)
            for start in range(0, len(new_runs), CHUNK):
                chunk = new_runs[start : start + CHUNK]
                in_flight.start(partial(self._put_and_send, start, chunk, run_ids, failures))
            in_flight.finish()
            if failures:
                raise PartlyCreatedError(run_ids, failures)
        return [run_id for run_id in run_ids if run_id is not None]

    def prepare_one(
        self, index: int, request: RunRequest, *, call: str = "create_many", run_id: str | None = None
    ) -> NewRun:
        """Return one of the runs that a call asks for, as ``prepare`` does; its errors say which one is wrong."""
        if not isinstance(request, Mapping):
            kind = type(request).__name__
            raise InvalidArgumentError(f"run {index} of {call}: it must be a mapping of what create takes, not {kind}")
        if problem := unknown_names("create", list(request), _REQUEST_KEYS):
            raise InvalidArgumentError(f"run {index} of {call}: {problem}")
        if "name" not in request:
            raise InvalidArgumentError(f"run {index} of {call}: it has no 'name', which says which job to run")
        try:
            return self.prepare(**request, run_id=run_id)
        except KumofireError as error:
            error.args = (f"run {index} of {call}: {error}",)
            raise

    def _put_and_send(
        self, start: int, new_runs: list[NewRun], run_ids: list[str | None], failures: dict[int, Exception]
    ) -> None:
        sendings: dict[str, Sending] = {}
        for index, new_run in enumerate(new_runs, start):
            try:
                created = self._put(new_run)
            except Exception as error:
                failures[index] = error
                continue
            run_ids[index] = created.run_id
            if created.delay_seconds is not None:
                sendings[created.run_id] = Sending(created.delay_seconds, new_run.group)
        if sendings:
            self.store.queue.try_send_many(sendings)


def _due_ms(run_at: datetime | None, delay: timedelta | float | None, now_ms: int) -> int:
    if run_at is not None and delay is not None:
        raise InvalidArgumentError("give either run_at or delay, not both")
    if run_at is not None:
        return to_ms(require_aware("run_at", run_at))
    if delay is None:
        return now_ms
    due_ms = now_ms + delay_ms("delay", delay)
    seconds = "" if isinstance(delay, timedelta) else " seconds"
    if due_ms > LAST_MS:
        raise InvalidArgumentError(f"a delay of {short_repr(delay)}{seconds} ends after the year 9999")
    return due_ms

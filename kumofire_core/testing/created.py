"""Which runs a test has created, as they were before their first attempt, and what a test may ask of them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from kumofire_core.errors import InvalidArgumentError, KumofireError, MalformedMessageError, short_repr
from kumofire_core.handlers.payload_types import json_value
from kumofire_core.model.message import decode_body
from kumofire_core.model.run_view import Run
from kumofire_core.model.times import delay_ms, require_aware, to_ms
from kumofire_core.model.write import Attributes

if TYPE_CHECKING:
    from kumofire_core.testing.world import InProcessAWS

MOST_TOLD = 20
_LEFT_OUT: Any = object()


class Wanted(NamedTuple):
    """What a test asks for."""

    job_name: str
    fields: Mapping[str, Any]
    payload: Any
    delay_ms: int | None
    run_at: datetime | None

    def __str__(self) -> str:
        parts = [f"{name}={value!r}" for name, value in self.fields.items()]
        parts += [] if self.payload is _LEFT_OUT else [f"payload={self.payload!r}"]
        parts += [] if self.delay_ms is None else [f"a delay of {timedelta(milliseconds=self.delay_ms)}"]
        parts += [] if self.run_at is None else [f"run_at={self.run_at.isoformat()}"]
        return f"{self.job_name!r}{' with ' + ', '.join(parts) if parts else ''}"


class CreatedRuns:
    """The runs that were put into the table, in their order."""

    def __init__(self, aws: InProcessAWS) -> None:
        self._aws = aws
        self._items: dict[str, Attributes] = {}
        """Each run as it was before its first attempt, changes by the application included."""
        self._now: dict[str, Attributes] = {}
        self._identities: dict[str, str] = {}
        self._alike = Counter[str]()

    def __len__(self) -> int:
        return len(self._items)

    def changed(self, key: tuple[Any, ...], old: Attributes | None, new: Attributes | None) -> None:
        """Take note of a change of an item."""
        kind, _, run_id = str(key[0]).partition("#")
        if kind != "run" or key[1] != "run":
            return
        if new is None:
            self._now.pop(run_id, None)
            return
        self._now[run_id] = new
        if run_id not in self._identities:
            looks = f"{new.get('job_name')} {new.get('payload')}"
            self._alike[looks] += 1
            self._identities[run_id] = f"{looks} {self._alike[looks]}"
        if old is None or not new.get("claims"):
            self._items[run_id] = new

    def ids(self, job_name: str | None) -> list[str]:
        """Return the ids of the runs of a job, or of all."""
        return [run_id for run_id, item in self._items.items() if job_name in (None, item.get("job_name"))]

    def job_name(self, run_id: str) -> str | None:
        """Return the name of a run's job."""
        name = self._items.get(run_id, {}).get("job_name")
        return None if name is None else str(name)

    def identity(self, run_id: str) -> str:
        """Return what a run is in every repetition of a test: its job and payload, and the how many-th of these."""
        return self._identities.get(run_id, "")

    def due_ms(self, body: str) -> int | None:
        """Return when the run is due that a message names, where that is known."""
        try:
            due = self._now.get(decode_body(body), {}).get("scheduled_for")
        except MalformedMessageError:
            return None
        return None if due is None else int(due)

    def wanted(
        self,
        job_name: str,
        fields: Mapping[str, Any] | None,
        further: Mapping[str, Any],
        *,
        delay: timedelta | float | None,
        run_at: datetime | None,
    ) -> Wanted:
        """Return what a test asks for; raises ``InvalidArgumentError`` for what can't be."""
        if fields is not None and not isinstance(fields, Mapping):
            raise InvalidArgumentError(
                f"the fields must be a mapping, not {short_repr(fields)}; write payload=… for the whole payload"
            )
        names = self._aws.jobs._registry.names()
        if names and job_name not in names and not self.ids(job_name):
            listed = ", ".join(sorted(names))
            raise InvalidArgumentError(f"there is no job {job_name!r} (registered: {listed})")
        given = {**further}
        payload = given.pop("payload", _LEFT_OUT)
        return Wanted(
            job_name,
            {**(fields or {}), **given},
            payload,
            None if delay is None else delay_ms("delay", delay),
            None if run_at is None else require_aware("run_at", run_at),
        )

    def matching(self, wanted: Wanted) -> list[Run]:
        """Return the runs that are as a test asks for."""
        found = []
        for run_id in self.ids(wanted.job_name):
            run = self._run(run_id)
            if run is not None and self._matches(run, wanted):
                found.append(self._aws.jobs.get_status(run_id) or run)
        return found

    def told(self) -> str:
        """Return what was created, for the message of an assertion."""
        if not self._items:
            return "No run was created."
        lines = []
        for run_id in list(self._items)[:MOST_TOLD]:
            run = self._run(run_id)
            if run is None:
                lines.append(f"  {run_id}, which can't be read")
                continue
            length = run.scheduled_for - run.created_at
            after = f", to start after {length}" if length else ""
            lines.append(f"  {run.job_name!r} with {short_repr(run.payload)}{after} (run {run_id})")
        more = len(self._items) - MOST_TOLD
        return "Created were:\n" + "\n".join([*lines, *([f"  and {more} more"] if more > 0 else [])])

    def _run(self, run_id: str) -> Run | None:
        store = self._aws.jobs._store
        try:
            stored = store.read(run_id, self._items[run_id])
            return store.decrypted(stored, required=False).run
        except KumofireError:
            return None

    def _matches(self, run: Run, wanted: Wanted) -> bool:
        if wanted.run_at is not None and to_ms(run.scheduled_for) != to_ms(wanted.run_at):
            return False
        if wanted.delay_ms is not None and to_ms(run.scheduled_for) - to_ms(run.created_at) != wanted.delay_ms:
            return False
        typed = self._typed(run)
        if wanted.payload is not _LEFT_OUT and not _same(run.payload, typed, wanted.payload):
            return False
        for name, value in wanted.fields.items():
            as_json = run.payload.get(name, _LEFT_OUT) if isinstance(run.payload, Mapping) else _LEFT_OUT
            as_typed = typed.get(name, _LEFT_OUT) if isinstance(typed, Mapping) else getattr(typed, name, _LEFT_OUT)
            if not (_fits(as_json, value) or _fits(as_typed, value)):
                return False
        return True

    def _typed(self, run: Run) -> Any:
        """Return a payload as its handler gets it, where its job has a type here and it fits."""
        job = self._aws.jobs._registry.get(run.job_name)
        if job is None or job.payload_type is None:
            return run.payload
        try:
            return job.payload_type.read(run.payload)
        except KumofireError:
            return run.payload


def _same(payload: Any, typed: Any, wanted: Any) -> bool:
    return _equal(payload, wanted) or _equal(typed, wanted) or _equal(payload, _json(wanted))


def _fits(found: Any, wanted: Any) -> bool:
    """Say whether a value is as it is wanted; of a mapping only the keys that are given are looked at."""
    if found is _LEFT_OUT:
        return False
    if isinstance(wanted, Mapping):
        if isinstance(found, Mapping):
            return all(_fits(found.get(name, _LEFT_OUT), value) for name, value in wanted.items())
        return dataclasses.is_dataclass(found) and all(
            _fits(getattr(found, str(name), _LEFT_OUT), value) for name, value in wanted.items()
        )
    return _equal(found, wanted) or _equal(found, _json(wanted))


def _json(value: Any) -> Any:
    """Return a value as JSON has it, or what equals nothing."""
    if isinstance(value, tuple):
        return [_json(each) for each in value]
    if isinstance(value, str | int | float | bool | list | Mapping | None):
        return value
    try:
        return json_value(value)
    except Exception:  # of a library, or of the type's own code
        return _LEFT_OUT


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, bool) is not isinstance(second, bool):
        return False  # Python takes True and 1 for equal; JSON does not
    return bool(first == second)

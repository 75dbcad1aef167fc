"""The trial of batched writes: makes claims and ends by PartiQL on the deployment's own table, on items of its own.

The only check that writes, and only made when it is asked for. Its items are runs of no job, in no index, so that no
consumer, dispatcher or list finds them. It deletes them, and they expire a day later where it can't.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kumofire_core.aws.expressions import partiql_statement, typed, typed_key
from kumofire_core.deployment.examination import Examination
from kumofire_core.deployment.findings import Finding, error, note, warning
from kumofire_core.model.run import RunStatus
from kumofire_core.model.run_item import StoredRun
from kumofire_core.model.times import to_ms
from kumofire_core.model.write import SCHEMA, Attributes, Key, Value, Write
from kumofire_core.rules import run_writes

CHECK = "batch-writes"
DAY_SECONDS = 86_400
LEASE_MS = 60_000

WAITING = ("first", "second")
"""Two runs that can be claimed."""

UNCLAIMABLE = ("ended", "absent")
"""A run that has ended, and one that there is not."""

KEEP_OFF = "Leave BatchWrites (KUMOFIRE_BATCH_WRITES) at false, and report this with the table's region."


def batch_writes(look: Examination) -> list[Finding]:
    """Batched writes that do what the consumer counts on: made and told, or refused; once, and nothing else."""
    with look.asking("dynamodb") as client:
        return _Trial(client, look).findings()


class _Trial:
    def __init__(self, client: Any, look: Examination) -> None:
        self._client = client
        self._table = look.deployment.table
        self._items = look.items
        self._now_ms = to_ms(look.clock())
        name = f"kumofire-doctor-{os.urandom(8).hex()}"
        self._keys = {part: Key("run", f"{name}-{part}") for part in (*WAITING, *UNCLAIMABLE)}
        self._tokens = {part: os.urandom(16).hex() for part in self._keys}
        self._units = 0.0

    def findings(self) -> list[Finding]:
        """Claim, claim again, and end, each by one request; return what it came to, which is never nothing."""
        with self._stored():
            claims = {
                self._keys[part]: run_writes.claim(
                    self._tokens[part], now_ms=self._now_ms, longest_ms=LEASE_MS, heeds_timeout=False
                )
                for part in self._keys
            }
            told = self._items.try_batch(claims, read_back=True)
            made = self._claimed()
            if wrong := self._wrong(made):
                return wrong
            if problem := self._untold(set(told), made):
                return problem
            # The SDK repeats a request whose reply it has lost.
            self._request(claims)
            if wrong := self._wrong(self._claimed()):
                return wrong
            ends = {
                key: run_writes.succeed(
                    StoredRun(key.id, item, 1),
                    now_ms=self._now_ms,
                    output=None,
                    expires_at=self._now_ms // 1000 + DAY_SECONDS,
                )
                for key, item in told.items()
            }
            self._request(ends)
            ended = {key for key in ends if self._read(key).get("status") == RunStatus.SUCCEEDED.value}
            if len(ended) < len(ends):
                return [
                    warning(
                        CHECK,
                        f"Of {len(ends)} batched ends of attempts, {len(ended)} were made.",
                        f"The ordinary writes would make them, so nothing is lost, and nothing gained. {KEEP_OFF}",
                    )
                ]
        return [
            note(
                CHECK,
                f"Tried on this table: {len(WAITING)} claims and {len(ends)} ends, each kind in one request, were made "
                "once and told; claims of a run that has ended, and of one that is not there, were refused. The ends "
                f"and the repeated claims took {self._units:g} capacity units.",
                "You can set the stack's BatchWrites to true: a batch of ten runs then takes two requests in place of "
                'twenty (docs/protocol.md, "Batched writes").',
            )
        ]

    @contextmanager
    def _stored(self) -> Iterator[None]:
        try:
            for part in (*WAITING, "ended"):
                status = RunStatus.SUCCEEDED if part == "ended" else RunStatus.QUEUED
                self._client.put_item(
                    TableName=self._table,
                    Item={name: typed(value) for name, value in self._item(part, status).items()},
                    ConditionExpression="attribute_not_exists(pk)",
                )
            yield
        finally:
            for key in self._keys.values():
                self._client.delete_item(TableName=self._table, Key=typed_key(key))

    def _item(self, part: str, status: RunStatus) -> dict[str, Value]:
        key = self._keys[part]
        return {
            "pk": f"{key.kind}#{key.id}",
            "sk": key.kind,
            "schema": SCHEMA,
            "status": status.value,
            "job_name": "kumofire doctor",
            "payload": "null",
            "attempt": 0,
            "claims": 0,
            "max_attempts": 1,
            "scheduled_for": self._now_ms,
            "created_at": self._now_ms,
            "updated_at": self._now_ms,
            "expires_at": self._now_ms // 1000 + DAY_SECONDS,
        }

    def _request(self, writes: Mapping[Key, Write]) -> None:
        statements = [partiql_statement(self._table, key, write, "ALL NEW *") for key, write in writes.items()]
        reply = self._client.batch_execute_statement(Statements=statements, ReturnConsumedCapacity="TOTAL")
        self._units += sum(each.get("CapacityUnits", 0.0) for each in reply.get("ConsumedCapacity") or ())

    def _read(self, key: Key) -> Attributes:
        return self._items.get(key) or {}

    def _claimed(self) -> dict[str, Attributes]:
        """Return what is stored of the runs that hold their claim's token."""
        found = {part: self._read(key) for part, key in self._keys.items()}
        return {part: item for part, item in found.items() if item.get("lease_token") == self._tokens[part]}

    def _wrong(self, made: dict[str, Attributes]) -> list[Finding]:
        """Return the finding of a claim that was made and must not be: the one thing that would harm a run."""
        forbidden = [part for part in made if part in UNCLAIMABLE]
        twice = [part for part, item in made.items() if item.get("claims") != 1]
        if not forbidden and not twice:
            return []
        what = f"of a run that was {forbidden[0]}" if forbidden else "was made a second time by a repeated request"
        return [error(CHECK, f"A batched claim {what}: the table ignored a statement's condition.", KEEP_OFF)]

    def _untold(self, told: set[Key], made: dict[str, Attributes]) -> list[Finding]:
        missing = [part for part in WAITING if self._keys[part] not in told]
        if not missing:
            return []
        were = "made, and not told" if all(part in made for part in missing) else "not made"
        return [
            warning(
                CHECK,
                f"Of {len(WAITING)} batched claims, {len(missing)} were {were}.",
                f"The ordinary writes would make them, so nothing is lost, and nothing gained. {KEEP_OFF}",
            )
        ]

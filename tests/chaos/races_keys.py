"""The race of what is to be made once: transactions, dedupe keys in all their modes, and bulk operations."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError

from kumofire_core import DedupeKeyTakenError, JobContext, Jobs, PendingRun
from tests.chaos import ledger, promises
from tests.chaos.racer import Racer, Settings, a_value, number_of, run_id_of

PERIOD = timedelta(seconds=4)
"""By the race's clock."""

REFUSED = ("TransactionCanceledException", "TransactionInProgressException")

BULK = 12
"""How many runs one bulk operation is for."""


class KeyRacer(Racer):
    """Commit the same items with a run, use the same keys, and work on the same bulk operations."""

    further = {"keys": 90}  # noqa: RUF012

    def __init__(self, settings: Settings, number: int) -> None:
        super().__init__(settings, number)
        self.operations |= {
            self._transact: 12,
            self._create_alone: 10,
            self._create_periodic: 8,
            self._debounce: 14,
            self._create_doomed: 12,
            self._retry_many: 3,
            self._cancel_many: 1,
            self._resume_bulk: 5,
        }

    @classmethod
    def register(cls, jobs: Jobs, settings: Settings, clock: Callable[[], datetime]) -> None:
        """Register a job for each kind of key."""
        for name in ("owned", "alone", "periodic"):

            @jobs.handler(name, max_attempts=2)
            def execute(ctx: JobContext) -> None:
                with settings.execution(ctx, clock):
                    settings.dawdle(ctx, stuck=0.01)
                    if random.random() < 0.3:
                        raise ConnectionError("no answer")

        @jobs.handler("indexed", max_attempts=2)
        def indexed(ctx: JobContext) -> None:
            settings.enter("indexes", run_id=ctx.run.id, value=ctx.payload)
            execute(ctx)

        @jobs.handler("doomed", max_attempts=1)
        def doomed(ctx: JobContext) -> None:
            with settings.execution(ctx, clock):
                raise ConnectionError("no answer")

    def _transact(self, key: str, chance: random.Random) -> None:
        taken = key if number_of(key) % 2 else None
        pending = self.jobs.create_in_transaction("owned", key, dedupe_key=taken and f"owned-{key}")
        drawn = chance.random()
        if drawn < 0.1:
            return  # whoever prepares a run need not commit it
        if drawn > 0.3:
            self._commit(pending, key)
            return
        both = [threading.Thread(target=self._commit, args=(pending, key)) for _ in range(2)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()

    def _commit(self, pending: PendingRun, key: str) -> None:
        own = {"pk": {"S": f"own#{key}"}, "sk": {"S": "own"}, "run": {"S": pending.run_id}}
        put = {"TableName": self.settings.table, "Item": own, "ConditionExpression": "attribute_not_exists(pk)"}
        try:
            with pending:
                self.dynamodb.transact_write_items(TransactItems=[{"Put": put}, pending.entry])
        except DedupeKeyTakenError:
            return
        except ClientError as error:
            if error.response["Error"]["Code"] not in REFUSED:
                self.settings.enter("error", operation="commit", text=repr(error)[:300])
            return
        self.settings.enter("committed", run_id=pending.run_id)

    def _create_alone(self, key: str, chance: random.Random) -> None:
        self.jobs.create("alone", key, dedupe_key=f"alone-{key}", dedupe="unfinished")

    def _create_periodic(self, key: str, chance: random.Random) -> None:
        name = f"periodic-{key}"
        self.settings.enter("period", key=name, period_ms=int(PERIOD.total_seconds() * 1000))
        self.jobs.create("periodic", key, dedupe_key=name, dedupe=PERIOD)

    def _debounce(self, key: str, chance: random.Random) -> None:
        value = a_value()
        self.settings.enter("debounces", value=value)
        run_id = self.jobs.create(
            "indexed", value, dedupe_key=f"indexed-{key}", dedupe="debounce", delay=chance.choice((0, 1, 2))
        )
        self.settings.enter("debounced", run_id=run_id, value=value)

    def _create_doomed(self, key: str, chance: random.Random) -> None:
        self.jobs.create("doomed", key, dedupe_key=f"doomed-{key}")

    def _retry_many(self, key: str, chance: random.Random) -> None:
        wanted = self._doomed(key)
        self.jobs.retry_many(run_ids=wanted, on_progress=self._entering_bulk(retries=wanted))

    def _cancel_many(self, key: str, chance: random.Random) -> None:
        self.jobs.cancel_many(run_ids=self._doomed(key), reason="raced", on_progress=self._entering_bulk(retries=[]))

    def _entering_bulk(self, *, retries: list[str]) -> Callable[[Any], None]:
        """Return what enters an operation, once it has begun, with the runs that it may retry."""
        began: list[str] = []

        def tell(operation: Any) -> None:
            if not began:
                began.append(operation.id)
                self.settings.enter("bulk", bulk_id=operation.id, run_ids=retries)

        return tell

    def _doomed(self, key: str) -> list[str]:
        numbers = ((number_of(key) - step) % self.settings.keys for step in range(BULK))
        return [run_id_of(f"doomed-key-{number}") for number in numbers]

    def _resume_bulk(self, key: str, chance: random.Random) -> None:
        operations = [event["bulk_id"] for event in ledger.read(self.settings.ledger) if event["event"] == "bulk"]
        for bulk_id in operations[-2:]:
            self.jobs.resume_bulk(bulk_id)

    @classmethod
    def judge(cls, events: list[dict[str, Any]], items: list[dict[str, Any]]) -> list[str]:
        """Judge transactions, keys and bulk operations."""
        return [
            *promises.broken_transactions(events, items, job="owned"),
            *promises.broken_keys(events, items),
            *promises.broken_debounces(events),
            *promises.broken_bulk(events, items),
        ]

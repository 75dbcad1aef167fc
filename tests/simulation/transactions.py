"""Persons who commit an item of their own together with a run: the one must never be there without the other."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from kumofire_core import Jobs, PendingRun
from kumofire_core.errors import DedupeKeyConflictError, DedupeKeyTakenError
from tests.simulation.invariants import group_asked_for
from tests.simulation.table import Attributes, Key
from tests.simulation.world import ENDPOINT, START_MS, Process, running

if TYPE_CHECKING:
    from tests.simulation.processes import Play

JOBS = ("work", "timed", "eager", "brief")
TOGETHER = "a run exists if and only if its transaction was committed"
ONCE = "a transaction is committed once"
SENT_MS = 15 * 60_000


class Transactions:
    """The transactions of a history. An application's item is an order, which names its run."""

    def __init__(self, play: Play, jobs: Callable[[Process], Jobs]) -> None:
        self._play = play
        self._world = play.world
        self._jobs = jobs
        self._orders: dict[str, set[str]] = {}
        """The orders that each prepared run may be committed with."""

    def plan(self) -> None:
        """Let persons commit orders, some of them the same order or the same dedupe key, at about the same time."""
        play, choices = self._play, self._play.choices
        self._world.observers.append(self._wrote)
        for number in range(1 + choices.below(3)):
            guarded = choices.below(3) < 2
            order_id = f"order-{number % 2 if guarded else f'{number}-alone'}"
            key = f"key-{choices.below(2)}" if choices.below(4) == 3 else None
            process = play.person() if choices.below(2) else play.consumers[0]
            asked = play.ask(choices.of(JOBS))

            def commit(
                process: Process = process,
                order_id: str = order_id,
                guarded: bool = guarded,
                key: str | None = key,
                asked: tuple[str, Any] = asked,
            ) -> None:
                self._commit(process, order_id, asked, guarded=guarded, dedupe_key=key)

            play.do_at(START_MS + choices.of((0, 1, 3, 2_000)), process, f"commits {order_id}", commit)

    def _commit(
        self, process: Process, order_id: str, asked: tuple[str, Any], *, guarded: bool, dedupe_key: str | None
    ) -> None:
        play, world, choices = self._play, self._world, self._play.choices
        (job, payload), delay_ms = asked, choices.of((0, 0, 3_000, 62_000, 20 * 60_000))
        pending = self._jobs(process).create_in_transaction(
            job,
            payload,
            delay=timedelta(milliseconds=delay_ms),
            dedupe_key=dedupe_key,
            group=group_asked_for(payload),
        )
        self._orders.setdefault(pending.run_id, set()).add(order_id)
        if f"run#{pending.run_id}" in (key[0] for key in world.table.items) and dedupe_key is None:
            world.violate(TOGETHER, f"{pending.run_id} exists before it is committed")
        # In a history in which nothing goes wrong, a message is not sent twice; one that is committed late may be.
        world.pause(choices.of((1, 500, 5_000) if play.calm else (1, 5_000, 150_000)))
        for _ in range(1 + choices.below(4)):
            try:
                with pending:
                    self._transact(order_id, pending, guarded=guarded)
            except (ConnectionClosedError, ReadTimeoutError):
                world.pause(choices.of((10, 4_000)))
                continue  # what became of it is not known
            except (DedupeKeyTakenError, DedupeKeyConflictError):
                self._taken(pending)
            except ClientError as refusal:
                self._refused(pending, refusal)
                raise
            else:
                self._committed(pending, payload, delay_ms, dedupe_key)
            return

    def _transact(self, order_id: str, pending: PendingRun, *, guarded: bool) -> None:
        put: dict[str, Any] = {
            "TableName": "table",
            "Item": {"pk": {"S": f"order#{order_id}"}, "sk": {"S": "order"}, "run_id": {"S": pending.run_id}},
        }
        if guarded:
            put["ConditionExpression"] = "attribute_not_exists(pk)"
        self._play.dynamodb.transact_write_items(TransactItems=[{"Put": put}, pending.entry])
        if self._world.faults.probability and self._play.choices.below(3) == 2:
            self._world.counts["the reply to a commit lost for good"] += 1
            raise ReadTimeoutError(endpoint_url=ENDPOINT)

    # What must hold

    def _wrote(self, key: Key, old: Attributes | None, new: Attributes | None) -> None:
        """Check a write of a committed transaction: all of it is there when any of it is seen."""
        kind, _, id = key[0].partition("#")
        items, gone = self._world.table.items, self._play.invariants.gone
        if new is None:
            return
        if kind == "order":
            self._world.counts["committed"] += 1
            if (f"run#{new['run_id']}", "run") not in items:
                self._world.violate(TOGETHER, f"{id} is there without {new['run_id']}")
            if old is not None and old["run_id"] not in gone:
                self._world.violate(ONCE, f"{id} was written again")
        elif kind == "run" and key[1] == "run" and old is None and id in self._orders and not self._has_order(id):
            self._world.violate(TOGETHER, f"{id} is there without {sorted(self._orders[id])}")

    def _has_order(self, run_id: str) -> bool:
        found = (self._world.table.items.get((f"order#{each}", "order"), {}) for each in self._orders[run_id])
        return any(order.get("run_id") == run_id for order in found)

    def _found(self, pending: PendingRun) -> Attributes | None:
        """Return the run as it is stored; ``None``, too, where nothing can be said of it any more."""
        play = self._play
        if pending.run_id in play.invariants.gone or play.invariants.restored_at >= running().begun:
            return None
        return self._world.table.items.get((f"run#{pending.run_id}", "run"))

    def _is_own(self, pending: PendingRun, stored: Attributes) -> bool:
        return bool(stored["create_token"] == pending.entry["Put"]["Item"]["create_token"]["S"])

    def _committed(self, pending: PendingRun, payload: Any, delay_ms: int, dedupe_key: str | None) -> None:
        self._world.counts["told of a commit"] += 1
        self._play._created(pending.run_id, payload, timedelta(milliseconds=delay_ms), dedupe_key)
        stored = self._found(pending)
        if stored is None:
            return
        if not self._is_own(pending, stored):
            self._world.violate("who is told of a commit has made it", f"{pending.run_id} is another's")
        if delay_ms <= SENT_MS and pending.run_id not in self._play.invariants.tried:
            self._world.violate("a message follows its run", f"{pending.run_id} was committed, and not sent")

    def _taken(self, pending: PendingRun) -> None:
        self._world.counts["told of a key's run"] += 1
        stored = self._found(pending)
        if stored is not None and self._is_own(pending, stored):
            self._world.violate("a write is known again", f"{pending.run_id} is said to be another's")

    def _refused(self, pending: PendingRun, refusal: ClientError) -> None:
        reply: Any = refusal.response
        codes = [reason["Code"] for reason in reply.get("CancellationReasons", ())]
        self._world.counts["told of a refusal"] += 1
        if "ValidationError" in codes:
            self._world.violate("every request is valid", f"TransactWriteItems: {refusal}")
        if codes and codes[-1] == "ConditionalCheckFailed":
            self._world.violate("a write is known again", f"{pending.run_id} was there, and its block does not know it")

    def at_the_end(self) -> None:
        """Check that each order has its run, and each run its order."""
        items, gone = self._world.table.items, self._play.invariants.gone
        for (pk, _), item in items.items():
            if pk.startswith("order#") and (f"run#{item['run_id']}", "run") not in items and item["run_id"] not in gone:
                self._world.violate(TOGETHER, f"{pk} is there without {item['run_id']}")
        for run_id in self._orders:
            if (f"run#{run_id}", "run") in items and not self._has_order(run_id):
                self._world.violate(TOGETHER, f"{run_id} is there without {sorted(self._orders[run_id])}")


__all__ = ["Transactions"]

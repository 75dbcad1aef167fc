"""What goes wrong for a while and for all at once: a table or a queue that refuses, messages or items that are gone.

A history has at most one of these. Each has ended when the faults stop, so that everything must still end.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from tests.simulation.table import INDEX_TYPES, Attributes, Key
from tests.simulation.world import RETENTION_MS, START_MS

if TYPE_CHECKING:
    from tests.simulation.processes import Play

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DEAD_RETENTION_MS = 14 * 24 * HOUR_MS
"""How long the dead-letter queue keeps a message: SQS's longest."""

FOR_LONG = timedelta(days=1)
MOST_RETURNS = 3
"""How often somebody comes back to a run about when it is deleted."""

NONE = "nothing"
CHANGES_KEY = "key changes"
TABLE_REFUSES = "table refuses"
KINDS = (
    *(NONE,) * 12,
    TABLE_REFUSES,
    "index refuses writes",
    "queue purged",
    "queue recreated",
    "messages expire",
    "dead letters come back",
    "table restored",
    "table restored",
)
THROTTLED = "ProvisionedThroughputExceededException"
NO_QUEUE = "AWS.SimpleQueueService.NonExistentQueue"
TO_THE_QUEUE = frozenset({"send_message", "send_message_batch", "get_queue_attributes"})
REPEATS_MS = (40, 700, 3_000)
"""How long the SDK repeats a throttled request before it gives up."""


class Disasters:
    """The disaster of a history, if it has one."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self._world = play.world
        self.kind = play.choices.of((NONE, *(CHANGES_KEY,) * 2, *KINDS) if play.variant.sealed else KINDS)
        self._returns = 0

    def plan(self) -> None:
        """Let it happen at its time."""
        if self._play.variant.retention < FOR_LONG:
            self._world.observers.append(self._wrote)
        if self._play.variant.rolling:
            self._world.observers.append(self._cancel_without_handler)
        if self.kind == NONE:
            return
        choices = self._play.choices
        begins = START_MS + choices.of((1_000, 20, 5_000, 62_000))
        lasts_ms = choices.of((10_000, 3_000, 70_000))
        match self.kind:
            case "table refuses":
                self._refuse(begins, lasts_ms, lambda operation: operation not in TO_THE_QUEUE, THROTTLED)
            case "index refuses writes":
                self._world.at(begins, lambda: self._index(refuses=True))
                self._world.at(begins + lasts_ms, lambda: self._index(refuses=False))
            case "queue purged":
                self._world.at(begins, lambda: self._purge(begins + choices.of((0, 60_000))))
            case "queue recreated":
                self._world.at(begins, lambda: self._purge(begins))
                self._refuse(begins, MINUTE_MS, lambda operation: operation in TO_THE_QUEUE, NO_QUEUE)
            case "dead letters come back":
                self._world.at(
                    START_MS + choices.of((HOUR_MS, 3 * MINUTE_MS, DEAD_RETENTION_MS - HOUR_MS)), self._redrive
                )
            case "key changes":
                self._world.at(begins, lambda: self._change_key(changed=True))
                self._world.at(begins + lasts_ms, lambda: self._change_key(changed=False))
            case "table restored":
                self._restore(begins)
            case _:
                self._expire()

    def end(self) -> None:
        """Let it be over: what was refused is taken from now on."""
        self._world.refuses = None
        self._index(refuses=False)
        self._world.queue.loses_until_ms = 0
        self._play.key_changed = False

    def _tell(self, text: str) -> None:
        self._world.counts["disaster: " + self.kind] += 1
        self._world.tell(None, text)

    def _refuse(self, begins: int, lasts_ms: int, concerns: Callable[[str], bool], code: str) -> None:
        """Let requests be refused for a while, however often the SDK repeats them."""
        world, play = self._world, self._play

        def refuses(operation: str) -> None:
            if not concerns(operation):
                return
            if code == THROTTLED:
                world.pause(play.choices.of(REPEATS_MS))
            if world.refuses is refuses:
                world.tell(None, f"{operation}: {code}")
                raise ClientError({"Error": {"Code": code, "Message": "refused"}}, operation)

        def begin() -> None:
            if not play.settling:
                self._tell(f"requests are refused: {code}")
                world.refuses = refuses

        def end() -> None:
            if world.refuses is refuses:
                world.tell(None, "requests are taken again")
                world.refuses = None

        world.at(begins, begin)
        world.at(begins + lasts_ms, end)

    def _index(self, *, refuses: bool) -> None:
        """Let each write that changes an entry of the index be refused, as DynamoDB does where the index is throttled.

        https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/GSI.html (throughput for write activity)
        """
        if refuses and not self._play.settling:
            self._tell("the index refuses writes")
        self._world.table.refuses = _changes_index if refuses and not self._play.settling else None

    def _purge(self, until_ms: int) -> None:
        """Take away all that is in the queue, delayed and invisible messages too; and what is sent until then.

        https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_PurgeQueue.html
        """
        if self._play.settling:
            return
        self._tell("all messages are gone")
        self._world.queue.purge(until_ms)
        self._play.inbox.clear()

    def _change_key(self, *, changed: bool) -> None:
        """Let all processes have another key, which reads nothing that was encrypted before; or both keys again."""
        if changed and not self._play.settling:
            self._tell("the key is another one")
        self._play.key_changed = changed and not self._play.settling

    def _redrive(self) -> None:
        """Let a person move the dead letters back to the queue, those that are kept still.

        The age of a message counts from when it was first sent, also in a dead-letter queue.
        https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-dead-letter-queues.html
        """
        self._tell("the dead letters come back")
        dead, self._world.queue.dead = self._world.queue.dead, []
        for body in dead:
            self._world.queue.put_back(body, 0, 1)

    def _wrote(self, key: Key, old: Attributes | None, new: Attributes | None) -> None:
        """Let DynamoDB delete a finished item some time after it may; persons and messages come just then."""
        if key[1] in ("limit", "rate"):
            return  # it is kept for longer than a history lasts
        if new is None or "expires_at" not in new or (old is not None and old.get("expires_at") == new["expires_at"]):
            return
        world, play, choices = self._world, self._play, self._play.choices
        when = new["expires_at"] * 1000 + choices.of((1, 2, 90_000))
        world.at(when, lambda: self._delete(key))
        if key[1] == "run" and self._returns < MOST_RETURNS and choices.below(2):
            self._returns += 1
            run_id = key[0].removeprefix("run#")
            what, at = choices.below(4), when + choices.of((2, 0, -3, -9, 30))
            if what == 0:
                play._deliver_at(at, run_id)
            elif what == 1:
                play._cancel_at(at, run_id)
            else:
                play._retry_at(at, run_id)

    def _cancel_without_handler(self, key: Key, old: Attributes | None, new: Attributes | None) -> None:
        """Let a person cancel a run in the instant in which a consumer finds that it has no handler for it."""
        play, found = self._play, new or {}
        if found.get("job_name") == "absent" and found["status"] == "running" and self._returns < MOST_RETURNS:
            self._returns += 1
            if play.choices.below(2):
                play._cancel_at(self._world.now + play.choices.of((1, 2, 4)), key[0].removeprefix("run#"))

    def _delete(self, key: Key) -> None:
        world = self._world
        world.writer, world.writer_incarnation, world.writer_task = None, 0, None
        if world.table.expire(key):
            world.counts["item expired"] += 1

    def _restore(self, begins: int) -> None:
        """Restore the table to an earlier time, while messages of now are under way.

        DynamoDB restores into a new table. So whoever used the old one is started anew, and messages go on.

        Most often to the time before a run was claimed, while its handler is executing.
        """
        choices, world = self._play.choices, self._world
        if choices.below(3) == 0:
            back_ms = choices.of((5_000, 500, 30_000))
            world.at(begins, lambda: self._restore_to(world.now - back_ms))
            return
        after_ms, before_ms, claimed = choices.of((50, 5, 1_000)), choices.of((1, 10, 2_000)), choices.of((1, 2))

        def wrote(key: Key, old: Attributes | None, new: Attributes | None) -> None:
            if new is not None and new.get("status") == "running" and new.get("claims", 0) >= claimed:
                world.observers.remove(wrote)
                at = world.now - before_ms
                world.at(world.now + after_ms, lambda: self._restore_to(at))

        world.observers.append(wrote)

    def _restore_to(self, at_ms: int) -> None:
        play, world = self._play, self._world
        if play.settling:
            return
        self._tell(f"the table is as it was {world.now - at_ms} ms ago")
        for process in (*play.consumers, *play.dispatchers, *play.persons):
            world.kill(process)
        world.table.restore(at_ms)
        play.invariants.restored()
        for kind, _, id in [key[0].partition("#") for key in world.table.items]:
            if kind == "run" and play.choices.below(2):
                play._deliver_at(world.now + play.choices.of((1, 20, 600)), id)

    def _expire(self) -> None:
        """Let nobody consume or dispatch until the first messages have been in the queue for four days."""
        queue, choices = self._world.queue, self._play.choices
        queue.opens_ms = START_MS + RETENTION_MS + choices.of((MINUTE_MS, -2_000, 10 * MINUTE_MS))
        self._play.lasts_ms = queue.opens_ms - START_MS
        self._world.at(queue.opens_ms, lambda: self._tell("the queue is consumed again, after four days"))


def _changes_index(key: Key, old: Attributes | None, new: Attributes | None) -> bool:
    before, after = old or {}, new or {}
    return any(before.get(name) != after.get(name) for name in INDEX_TYPES)


__all__ = ["Disasters"]

"""The simulated world: one line of time, tasks that wait on it, faults at every request, a table, an index and a queue.

A task runs in a greenlet; the code in it is the engine's own. Only one runs at a time, and it gives way at each
request, so whatever happens between two requests of one process is decided here, by ``Choices``. Free of what the
processes do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import greenlet
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError, ReadTimeoutError

from tests.simulation.history import Choices, Violation
from tests.simulation.table import Attributes, Key, SimulatedTable, canceled

Count = str | tuple[str, str]
"""What is counted: that something happened, or a step from one status to another."""

START_MS = 1_773_489_600_000
"""When every history begins: 2026-03-14 12:00 UTC."""

SKEW_MS = 500
"""How far a clock may be ahead or behind."""
ENDPOINT = "https://aws.invalid"
LATENCIES_MS = (2, 3, 5, 8, 13, 40)
LATE_COPIES_MS = (20, 400, 3_000, 20_000)
SLOW_MS = (300, 1_500, 4_000, 6_500, 9_000, 40_000)
INDEX_LAGS_MS = (0, 0, 20, 400, 3_000, 70_000)
BACKLOGS = ("0", "0", "7", "100000")
RETENTION_MS = 4 * 86_400_000
"""How long the queue keeps a message: SQS's default."""
MOST_STEPS = 4_000
"""How many things may happen in a history."""

ENDED = -1
"""The incarnation of a task that was ended, which is none of its process's."""
REPEATS = 3
"""How often the SDK repeats a request before it gives up: ``total_max_attempts`` is 4 in ``clients.py``."""

INVALID = frozenset({"ValidationException", "InvalidParameterValue", "InvalidBatch"})
"""What a service answers to a request that it would never take."""

_LONG_ID = re.compile(r"\b0{20,}(?=[0-9a-f])([0-9a-f]+)\b")

FAULTS = ("refused", "reply lost", "throttled", "slow", "slow reply", "late copy", "dies before", "dies after")


class DiedError(BaseException):
    """Raised in the tasks of a process that dies. No ``Exception``, and no request is made after it."""


class Task:
    """Code that runs in a process of the world."""

    waiting = 0
    """The number of the event that it waits for; -1 when it has been ended."""
    ended = False
    abandoned = False
    value: Any = None
    error: BaseException | None = None
    waiter: Task | None = None
    worker: Worker | None = None
    """Where it runs, once it has begun and until it ends."""
    written: tuple[Key, Attributes | None] | None = None
    """What it wrote last, except by a late copy and to settings."""
    sends = 0
    asks = ""
    """What the person asks for whose task it is, where that changes a run in another way than to cancel or retry it."""
    asks_for_ms = 0
    """The time that the person wants the run to start at."""
    call: Any = None
    """The call of the engine's pool that it executes, if it does."""
    thread: Any = None
    """The thread of the engine's that it is, if it is one."""

    def __init__(
        self, world: World, process: Process, function: Callable[[], Any], *, background: bool = False
    ) -> None:
        self.world = world
        self.process = process
        self.among = process.background if background else process.tasks
        self.incarnation = process.incarnation
        self.function = function
        self.begun = world.now
        self.calm = not world.faults.probability
        """No request of it goes wrong."""

    def run(self) -> None:
        """Run it from its beginning to its end."""
        try:
            self.value = self.function()
        except BaseException as error:
            self.error = error.with_traceback(None)  # whose frames know this task
        self.ended = True
        self.worker = self.call = None
        del self.function  # which knows this task: a cycle less for the collector
        self.among.pop(self, None)
        self.world.tasks.pop(self, None)
        if self.waiter is not None:
            self.world.wake(self.waiter)


class Worker(greenlet.greenlet):
    """Runs tasks, one after the other; to make a greenlet costs more than most tasks do."""

    task: Task
    back: greenlet.greenlet | None = None
    """Who goes on when the task ends; the world's hub where nobody is named."""

    def __init__(self) -> None:
        super().__init__(self._main)

    def _main(self) -> None:
        while True:
            task = self.task
            task.run()
            del self.task
            back, self.back = self.back or task.world.hub, None
            del task
            _IDLE.append(self)
            back.switch()


_IDLE: list[Worker] = []


def running() -> Task:
    """Return the task that is running."""
    task: Task = greenlet.getcurrent().task
    return task


class Process:
    """A process: a clock that is a little wrong, and tasks that die together."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.skew_ms = 0
        self.incarnation = 0
        self.invocations = 0
        self.log: str | None = None
        """Where its present invocation logs, if it says so."""
        self.tasks: dict[Task, None] = {}
        self.background: dict[Task, None] = {}
        """Tasks that outlast an invocation: the threads of event loops, and calls that were given up."""
        self.loop: Any = None
        """The engine's event loop in this process, if it has one."""
        self.loops: list[Any] = []
        """All event loops that were made in it."""
        self.coroutines: list[Any] = []
        """All calls of ``async`` handlers that were made in it."""
        self.engine: Any = None
        self.passes_overlap = False
        self.clock_jumped = False

    def __repr__(self) -> str:
        return self.name

    def clocks(self) -> tuple[int, ...]:
        """Return how far its clock is ahead, and how far it may have been before it jumped."""
        return (self.skew_ms, *((-SKEW_MS, SKEW_MS) if self.clock_jumped else ()))

    def unwind(self) -> None:
        """End its event loops, and the coroutines in them."""
        for each in self.loops:
            each.die()
        for each in self.coroutines:
            each.close()
        self.loops, self.coroutines, self.loop = [], [], None


class Faults:
    """How often a request goes wrong, and in which ways."""

    def __init__(self, probability: float = 0.0, kinds: tuple[str, ...] = FAULTS) -> None:
        self.probability = probability
        self.kinds = kinds


class World:
    """Everything outside the engine, for one history."""

    def __init__(self, choices: Choices, counts: Counter[Count], *, record: bool = False) -> None:
        self.hub = greenlet.getcurrent()
        self.now = START_MS
        self.choices = choices
        self.faults = Faults()
        self.lines: list[str] | None = [] if record else None
        self.counts = counts
        self.violation: Violation | None = None
        self.writer: Process | None = None
        self.writer_task: Task | None = None
        self.writer_incarnation = 0
        """That of the process which wrote; -1 for a copy of its request that comes late."""
        self.observers: list[Callable[[Key, Attributes | None, Attributes | None], None]] = []
        self.tries: Callable[[Process, list[str]], None] = lambda process, run_ids: None
        """Called when a process is about to send the messages of runs."""
        self.table = SimulatedTable(lambda: self.now, self._wrote)
        self.queue = SimulatedQueue(self)
        self.statements = SimulatedStatements(self)
        self.bucket: Any = None
        """The bucket of large values (``bucket.SimulatedBucket``)."""
        self.refuses: Callable[[str], None] | None = None
        """Raises where a service refuses all requests of an operation for a while."""
        self.steps = 0
        self.tokens = 0
        """How many transactions were asked for."""
        self.tasks: dict[Task, None] = {}
        self._events: list[tuple[int, int, Task | Callable[[], object]]] = []
        self._number = 0
        self._until = START_MS

    # Time and tasks

    def at(self, when_ms: int, event: Callable[[], object]) -> None:
        """Let something happen at a time."""
        self._number += 1
        heappush(self._events, (when_ms, self._number, event))

    def start(self, process: Process, function: Callable[[], Any], *, background: bool = False) -> Task:
        """Begin a task in a process, at once but not before the running one gives way."""
        task = Task(self, process, function, background=background)
        task.among[task] = self.tasks[task] = None
        self.wake(task)
        return task

    def wake(self, task: Task, when_ms: int | None = None) -> None:
        """Let a waiting task go on, at a time, unless it has ended; a wake-up that was set before is void."""
        if task.ended:
            return
        self._number += 1
        task.waiting = self._number
        heappush(self._events, (self.now if when_ms is None else when_ms, self._number, task))

    def pause(self, length_ms: int) -> None:
        """Let the running task wait."""
        when, events = self.now + length_ms, self._events
        if (
            when <= self._until
            and (not events or events[0][0] > when)
            and self.violation is None
            and self.steps < MOST_STEPS
        ):
            # Nothing else happens meanwhile, so there is nobody to give way to.
            self.now = when
            self.steps += 1
            return
        task = running()
        if task.incarnation == ENDED:
            raise DiedError
        self._number += 1
        task.waiting = self._number
        heappush(events, (when, self._number, task))
        self._give_way(task)

    def suspend(self) -> None:
        """Let the running task wait until it is woken. One that was ended, and has caught that, is ended again."""
        task = running()
        if task.incarnation == ENDED:
            raise DiedError
        task.waiting = 0
        self._give_way(task)

    def _give_way(self, task: Task) -> None:
        """Go on with what is next: straight to another task, or by way of ``run`` for all that is none."""
        events, until = self._events, self._until
        while events and self.violation is None and self.steps < MOST_STEPS:
            when, number, event = events[0]
            if type(event) is not Task or when > until:
                break
            heappop(events)
            if event.waiting != number:
                continue
            self.now = when
            self.steps += 1
            if event is not task:
                self._go_on(event)
            return
        self.hub.switch()

    def _go_on(self, task: Task) -> None:
        worker = task.worker
        if worker is None:
            worker = task.worker = _IDLE.pop() if _IDLE else Worker()
            worker.task = task
        worker.switch()

    def kill(self, process: Process) -> None:
        """End a process in this instant. Its code is unwound, but none of its requests leaves any more."""
        self.tell(process, "dies")
        self.counts["a process died"] += 1
        process.incarnation += 1
        me = greenlet.getcurrent()
        for task in [*process.tasks, *process.background]:
            if task.worker is not me:
                self.end(task)
        process.unwind()

    def end(self, task: Task) -> None:
        """End one task in this instant."""
        task.waiting = -1
        task.incarnation = ENDED
        task.waiter = None
        task.among.pop(task, None)
        self.tasks.pop(task, None)
        worker = task.worker
        if worker is not None:  # it has begun, and is not over
            worker.back = greenlet.getcurrent()
            until, self._until = self._until, -1  # so that no time passes while it is unwound
            worker.throw(DiedError)
            self._until = until
        task.ended = True

    def run(self, until_ms: int) -> bool:
        """Let time pass; say whether anything is left that will happen later."""
        events, self._until = self._events, until_ms
        while events:
            if events[0][0] > until_ms:
                return True
            when, number, event = heappop(events)
            if type(event) is Task:
                if event.waiting != number:
                    continue
                self.now = when
                self._go_on(event)
            else:
                self.now = when
                event()
            if self.violation is not None:
                raise self.violation
            self.steps += 1
            if self.steps > MOST_STEPS:
                raise Violation("every history ends", f"{MOST_STEPS} steps were made and more are waiting")
        return False

    def next_event_ms(self) -> int | None:
        """Return when the next thing happens."""
        return self._events[0][0] if self._events else None

    def close(self) -> None:
        """End what still waits, so that nothing is left to be collected later."""
        for task in list(self.tasks):
            self.end(task)
        self._events.clear()
        self.observers.clear()

    def violate(self, name: str, text: str) -> None:
        """Note that an invariant does not hold. Not raised here: the engine would take it for a failed handler."""
        if self.violation is None:
            self.violation = Violation(name, text)
            self.tell(None, f"VIOLATION  {self.violation}")

    def tell(self, who: Process | None, text: str) -> None:
        """Add a line to the history that a reader sees."""
        if self.lines is not None:
            text = _LONG_ID.sub(r"\1", text)
            self.lines.append(f"{(self.now - START_MS) / 1000:10.3f} s  {'' if who is None else who.name:<12} {text}")

    # Requests

    def request(self, operation: str, call: Callable[..., Any], parameters: dict[str, Any]) -> Any:
        """Make a request of the running task, with whatever happens to it on its way there and back."""
        task: Task = greenlet.getcurrent().task
        process, incarnation = task.process, task.incarnation
        if incarnation != process.incarnation:
            raise DiedError
        choices, faults = self.choices, self.faults
        for attempt in range(REPEATS + 1):
            self.pause(choices.of(LATENCIES_MS))
            if self.refuses is not None:
                self.refuses(operation)
            if not (faults.probability and choices.chance(faults.probability)):
                self.writer, self.writer_incarnation, self.writer_task = process, incarnation, task
                try:
                    reply = call(**parameters)
                except ClientError as error:
                    self._refused(process, operation, parameters, error)
                    error.response["ResponseMetadata"] = {"RetryAttempts": attempt}  # type: ignore[typeddict-item]
                    raise
                if self.lines is not None:
                    self.tell(process, f"{operation} {_what(parameters)}{_result(operation, reply)}")
                return reply
            fault = choices.of(faults.kinds)
            self.counts[fault] += 1
            if self.lines is not None:
                self.tell(process, f"{operation}: {fault}")
            if fault == "slow":
                self.pause(choices.of(SLOW_MS))
            elif fault == "refused":
                if choices.below(2):
                    raise EndpointConnectionError(endpoint_url=ENDPOINT)
                continue
            elif fault == "throttled":
                raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "too fast"}}, operation)
            elif fault == "dies before":
                self.kill(process)
                raise DiedError
            elif fault == "late copy":
                # The first copy is under way for long; its sender has given it up and repeats it.
                self.at(self.now + choices.of(LATE_COPIES_MS), lambda: self._late(operation, call, parameters, process))
                continue
            self.writer, self.writer_incarnation, self.writer_task = process, incarnation, task
            try:
                reply = call(**parameters)
            except ClientError as error:
                self._refused(process, operation, parameters, error)
                error.response["ResponseMetadata"] = {"RetryAttempts": attempt}  # type: ignore[typeddict-item]
                if fault not in ("reply lost", "dies after"):
                    if fault == "slow reply":
                        self.pause(choices.of(SLOW_MS))
                    raise
            else:
                if self.lines is not None:
                    self.tell(process, f"{operation} {_what(parameters)}{_result(operation, reply)}")
            if fault == "reply lost":
                self.pause(choices.of((20, 5_000)))
                if attempt < REPEATS and choices.below(4) < 3:
                    continue
                break
            if fault == "dies after":
                self.kill(process)
                raise DiedError
            if fault == "slow reply":
                self.pause(choices.of(SLOW_MS))
            return reply
        if choices.below(2):
            raise ReadTimeoutError(endpoint_url=ENDPOINT)
        raise ConnectionClosedError(endpoint_url=ENDPOINT)

    def transact(self, **parameters: Any) -> Any:
        """Commit a transaction, or cancel it because another request is at one of its items."""
        if self.choices.chance(self.faults.probability):
            self.counts["transactions in conflict"] += 1
            raise canceled(
                [{"Code": "TransactionConflict"}, *({"Code": "None"} for _ in parameters["TransactItems"][1:])]
            )
        return self.table.transact_write_items(**parameters)

    def _refused(self, process: Process, operation: str, parameters: dict[str, Any], error: ClientError) -> None:
        if error.response["Error"]["Code"] in INVALID:
            self.violate("every request is valid", f"{operation}: {error}")
        if self.lines is not None:
            self.tell(process, f"{operation} {_what(parameters)}: {error.response['Error']['Code']}")

    def _late(self, operation: str, call: Callable[..., Any], parameters: dict[str, Any], process: Process) -> None:
        self.writer, self.writer_incarnation, self.writer_task = process, -1, None
        try:
            call(**parameters)
        except ClientError as error:
            self.tell(process, f"{operation} {_what(parameters)}, late copy: {error.response['Error']['Code']}")
        else:
            self.tell(process, f"{operation} {_what(parameters)}, late copy: done")

    def _wrote(self, key: Key, old: Attributes | None, new: Attributes | None) -> None:
        if self.writer_task is not None and not key[0].startswith(("settings#", "bucket#", "batch#")):
            self.writer_task.written = (key, new)
        if self.lines is not None:
            self.tell(self.writer, f"  {key[0]}: {_difference(old, new)}")
        for observer in self.observers:
            observer(key, old, new)


class DynamoDB:
    """The part of boto3's DynamoDB client that the engine calls."""

    world: World
    """The one that is played at present."""

    def put_item(self, **parameters: Any) -> Any:
        world = self.world
        return world.request("put_item", world.table.put_item, parameters)

    def transact_write_items(self, **parameters: Any) -> Any:
        world = self.world
        world.tokens += 1  # as boto3 does: each call has a token of its own, which its repeats share
        parameters.setdefault("ClientRequestToken", f"token-{world.tokens}")
        return world.request("transact_write_items", world.transact, parameters)

    def update_item(self, **parameters: Any) -> Any:
        world = self.world
        return world.request("update_item", world.table.update_item, parameters)

    def delete_item(self, **parameters: Any) -> Any:
        world = self.world
        return world.request("delete_item", world.table.delete_item, parameters)

    def get_item(self, **parameters: Any) -> Any:
        world = self.world
        if not parameters.get("ConsistentRead"):
            parameters["lag_ms"] = world.choices.of(INDEX_LAGS_MS)
        return world.request("get_item", world.table.get_item, parameters)

    def batch_get_item(self, **parameters: Any) -> Any:
        world = self.world
        return world.request("batch_get_item", world.table.batch_get_item, parameters)

    def batch_execute_statement(self, **parameters: Any) -> Any:
        world = self.world
        return world.request("batch_execute_statement", world.statements.execute, parameters)

    def query(self, **parameters: Any) -> Any:
        world = self.world
        if world.faults.probability and not parameters.get("ConsistentRead"):
            parameters["lag_ms"] = world.choices.of(INDEX_LAGS_MS)
        return world.request("query", world.table.query, parameters)


class SQS:
    """The part of boto3's SQS client that the engine calls."""

    world: World
    """The one that is played at present."""

    def send_message(self, **parameters: Any) -> Any:
        world, task = self.world, running()
        task.sends += 1
        world.tries(task.process, [run_id_in(parameters["MessageBody"])])
        return world.request("send_message", world.queue.send_message, parameters)

    def get_queue_attributes(self, **parameters: Any) -> Any:
        world = self.world
        return world.request("get_queue_attributes", world.queue.get_queue_attributes, parameters)

    def send_message_batch(self, **parameters: Any) -> Any:
        world, task = self.world, running()
        task.sends += 1
        world.tries(task.process, [run_id_in(entry["MessageBody"]) for entry in parameters["Entries"]])
        return world.request("send_message_batch", world.queue.send_message_batch, parameters)

    def change_message_visibility_batch(self, **parameters: Any) -> Any:
        world = self.world
        return world.request("change_message_visibility_batch", world.queue.change_message_visibility_batch, parameters)


class Hidden:
    """A message that was received, and stays hidden until it is deleted or its time is over."""

    def __init__(self, body: str, receives: int) -> None:
        self.body = body
        self.receives = receives
        self.changes = 0


class SimulatedQueue:
    """A queue that never loses what it took, and otherwise promises nothing: not once, not in order, not at once."""

    MAX_RECEIVES = 5

    def __init__(self, world: World) -> None:
        self._world = world
        self.deliver: Callable[[str, int], None] = lambda body, receives: None
        """Called when a message becomes visible, with its body and how often it was received, this time included."""
        self.taken: Callable[[str, str | None], None] = lambda body, group: None
        """Called with each body that is sent, and its ``MessageGroupId``."""
        self.opens_ms = START_MS
        """Before this time nothing is delivered: a backlog."""
        self.dead: list[str] = []
        self.hidden: dict[str, Hidden] = {}
        """What was received, by receipt handle."""
        self._receipts = 0
        self.loses_until_ms = 0
        """Until then what is taken is lost: the queue is being purged."""
        self._purges = 0
        self.undelivered: Counter[str] = Counter()
        """Messages that were taken and not yet delivered, by body: whoever sends one of them again makes a copy."""
        self.sent_ms: dict[str, int] = {}
        """When the message was sent that was delivered last, by body."""
        self.eternal = 0
        """Messages of others that are counted with ours, and never delivered."""

    def send_message(
        self, *, QueueUrl: str, MessageBody: str, DelaySeconds: int = 0, MessageGroupId: str | None = None
    ) -> dict[str, str]:
        problem = _send_problem(MessageBody, DelaySeconds, MessageGroupId)
        if problem:
            raise ClientError({"Error": {"Code": "InvalidParameterValue", "Message": problem}}, "SendMessage")
        self._take(MessageBody, DelaySeconds, MessageGroupId)
        return {"MessageId": "message"}

    def send_message_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:
        if not 1 <= len(Entries) <= 10 or len({entry["Id"] for entry in Entries}) < len(Entries):
            raise ClientError({"Error": {"Code": "InvalidBatch", "Message": "size or ids"}}, "SendMessageBatch")
        successful, failed = [], []
        partial = self._world.choices.chance(self._world.faults.probability)
        for entry in Entries:
            problem = _send_problem(entry["MessageBody"], entry.get("DelaySeconds", 0), entry.get("MessageGroupId"))
            if problem:
                self._world.violate("every request is valid", f"SendMessageBatch: {problem}")
            if problem or (partial and self._world.choices.below(2)):
                self._world.counts["partial batch send"] += 1
                failed.append({"Id": entry["Id"], "SenderFault": bool(problem), "Code": problem or "InternalError"})
            else:
                self._take(entry["MessageBody"], entry.get("DelaySeconds", 0), entry.get("MessageGroupId"))
                successful.append({"Id": entry["Id"], "MessageId": "message"})
        # As in the service: a list that would be empty is not there.
        return {key: value for key, value in (("Successful", successful), ("Failed", failed)) if value}

    def get_queue_attributes(self, *, QueueUrl: str, AttributeNames: list[str]) -> dict[str, Any]:
        """Return an estimate that may be far from the truth while things go wrong, as the service's may for a while."""
        waiting = str(self.undelivered.total() + self.eternal)
        guess = self._world.choices.of(BACKLOGS) if self._world.faults.probability else waiting
        return {"Attributes": dict.fromkeys(AttributeNames, guess)}

    def change_message_visibility_batch(self, *, QueueUrl: str, Entries: list[dict[str, Any]]) -> dict[str, Any]:
        name = "ChangeMessageVisibilityBatch"
        if not 1 <= len(Entries) <= 10 or len({entry["Id"] for entry in Entries}) < len(Entries):
            raise ClientError({"Error": {"Code": "InvalidBatch", "Message": "size or ids"}}, name)
        failed = []
        for entry in Entries:
            seconds = entry["VisibilityTimeout"]
            if not isinstance(seconds, int) or not 0 <= seconds <= 43_200:
                self._world.violate("every request is valid", f"{name}: VisibilityTimeout is {seconds}")
            if entry["ReceiptHandle"] not in self.hidden:
                failed.append({"Id": entry["Id"], "SenderFault": True, "Code": "ReceiptHandleIsInvalid"})
            else:
                self._world.counts["visibility changed"] += 1
                self.hide(entry["ReceiptHandle"], seconds * 1000)
        return {"Failed": failed} if failed else {}

    def receive(self, body: str, receives: int, visible_in_ms: int) -> str:
        """Hide a message that is received now; return its receipt handle."""
        self._receipts += 1
        receipt = f"receipt-{self._receipts}"
        self.hidden[receipt] = Hidden(body, receives)
        self.hide(receipt, visible_in_ms)
        return receipt

    def hide(self, receipt: str, length_ms: int) -> None:
        """Let a message that was received become visible again after this time, and at no other."""
        held = self.hidden[receipt]
        held.changes += 1
        change = held.changes
        kept = self.kept()

        def visible() -> None:
            if self.hidden.get(receipt) is held and held.changes == change:
                del self.hidden[receipt]
                if kept():
                    self.put_back(held.body, held.receives, 0)

        self._world.at(self._world.now + length_ms, visible)

    def delete(self, receipt: str) -> None:
        """Forget a message, unless it was received again since."""
        self.hidden.pop(receipt, None)

    def purge(self, until_ms: int) -> None:
        """Lose all that is in the queue, and what is taken up to a time."""
        self._purges += 1
        self.loses_until_ms = until_ms

    def kept(self) -> Callable[[], bool]:
        """Return what says, later, whether a message that is in the queue now is still there."""
        purges, until = self._purges, self._world.now + RETENTION_MS
        return lambda: self._purges == purges and self._world.now < until

    def put_back(self, body: str, receives: int, visible_in_ms: int) -> None:
        """Let a message that was received become visible again, or go to the dead letters."""
        if receives >= self.MAX_RECEIVES:
            self._world.counts["dead letter"] += 1
            self._world.tell(None, f"dead letter: {body}")
            self.dead.append(body)
            return
        self._deliver_at(self._world.now + visible_in_ms, body, receives + 1)

    def _deliver_at(self, when_ms: int, body: str, receives: int, sent_ms: int | None = None) -> None:
        kept = self.kept()

        def deliver() -> None:
            if sent_ms is not None:
                self.undelivered[body] -= 1
                self.sent_ms[body] = sent_ms
            if kept():
                self.deliver(body, receives)
            else:
                self._world.counts["message gone"] += 1

        self._world.at(when_ms, deliver)

    def _take(self, body: str, delay_seconds: int, group: str | None) -> None:
        world = self._world
        world.counts["message"] += 1
        self.taken(body, group)
        if world.now < self.loses_until_ms:
            return
        copies, sent_ms = 1, world.now
        if world.choices.chance(world.faults.probability):
            world.counts["duplicate"] += 1
            copies = 2
        for _ in range(copies):
            on_its_way = 1
            if world.choices.chance(world.faults.probability):
                on_its_way = world.choices.of((30, 900, 20_000, 150_000))
            visible = world.now + delay_seconds * 1000 + on_its_way
            self.undelivered[body] += 1
            self._deliver_at(max(visible, self.opens_ms), body, 1, sent_ms)


class SimulatedStatements:
    """``BatchExecuteStatement``, which says little of what it does: each statement's answer may be any."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.oddity = 0.0
        """How probable it is that a statement is answered oddly."""

    def execute(self, *, Statements: list[dict[str, Any]]) -> dict[str, Any]:
        world, answers = self._world, []
        if not 1 <= len(Statements) <= 25:
            raise ClientError(
                {"Error": {"Code": "ValidationException", "Message": "1 to 25 statements"}}, "BatchExecuteStatement"
            )
        for statement in Statements:
            oddity = world.choices.of(ODDITIES) if world.choices.chance(self.oddity) else ""
            if oddity:
                world.counts["odd answer to a statement"] += 1
                if world.lines is not None:
                    world.tell(world.writer, f"  {statement['Parameters']}: {oddity}")
            answers += self._answer(statement, oddity)
        if self.oddity and world.choices.chance(self.oddity / 2):
            answers.reverse()
        return {"Responses": answers}

    def _answer(self, statement: dict[str, Any], oddity: str) -> list[dict[str, Any]]:
        world, table = self._world, self._world.table
        item = table.statement_item(statement)
        if oddity == "not made, throttled":
            return [{"Error": {"Code": "ThrottlingError", "Message": "too fast"}}]
        if oddity == "not made, shown as it is":
            return [{"TableName": "table", **({} if item is None else {"Item": item})}]
        if oddity == "not made, not answered":
            return []
        if oddity == "made later":
            process, at = world.writer, world.now + world.choices.of(LATE_COPIES_MS)
            world.at(at, lambda: self._make_later(statement, process))
            return [{"Error": {"Code": "InternalServerError", "Message": "try again"}}]
        answer = table.execute_statement(statement)
        if "Error" in answer and answer["Error"]["Code"] == "ValidationError":
            world.violate("every request is valid", f"BatchExecuteStatement: {answer}")
        if oddity == "made, with an error":
            return [{**answer, "Error": {"Code": "InternalServerError", "Message": "try again"}}]
        if oddity == "made, shown as it was":
            return [{"TableName": "table", **({} if item is None else {"Item": item})}]
        if oddity == "made, empty":
            return [{}]
        if oddity == "made, not answered":
            return []
        if oddity == "made, answered twice":
            return [answer, answer]
        return [answer]

    def _make_later(self, statement: dict[str, Any], process: Process | None) -> None:
        world = self._world
        world.writer, world.writer_incarnation, world.writer_task = process, -1, None
        world.table.execute_statement(statement)


ODDITIES = (
    "not made, throttled",
    "not made, shown as it is",
    "not made, not answered",
    "made later",
    "made, with an error",
    "made, shown as it was",
    "made, empty",
    "made, not answered",
    "made, answered twice",
)


def message_of(run_id: str) -> str:
    """Return the message of a run."""
    return f'{{"version":1,"kumofireJobRunId":"{run_id}"}}'


def run_id_in(body: str) -> str:
    """Return the run that a message names; nothing where it is no such message."""
    parts = body.split('"')
    return parts[5] if len(parts) == 7 else ""


def _send_problem(body: str, delay_seconds: object, group: object = None) -> str | None:
    if group is not None and (not isinstance(group, str) or not re.fullmatch(r"[!-~]{1,128}", group)):
        return f"MessageGroupId is {group!r}; it must have 1 to 128 letters, digits and punctuation"
    if not isinstance(delay_seconds, int) or not 0 <= delay_seconds <= 900:
        return f"DelaySeconds is {delay_seconds}; it must be from 0 to 900"
    return None if body else "the body is empty"


def _what(parameters: dict[str, Any]) -> str:
    if isinstance(parameters.get("Key"), str):
        return str(parameters["Key"])
    if "Delete" in parameters:
        return ", ".join(each["Key"] for each in parameters["Delete"]["Objects"])
    for name in ("Key", "Item"):
        if name in parameters:
            return str(parameters[name]["pk"]["S"])
    if "TransactItems" in parameters:
        return ", ".join(each["Put"]["Item"]["pk"]["S"] for each in parameters["TransactItems"])
    if "MessageBody" in parameters:
        return f"{parameters['MessageBody']} in {parameters['DelaySeconds']} s"
    if "Entries" in parameters and "VisibilityTimeout" in parameters["Entries"][0]:
        return ", ".join(f"{each['ReceiptHandle']} in {each['VisibilityTimeout']} s" for each in parameters["Entries"])
    if "Entries" in parameters:
        return ", ".join(f"{entry['MessageBody']} in {entry['DelaySeconds']} s" for entry in parameters["Entries"])
    if "Statements" in parameters:
        return f"{len(parameters['Statements'])} statements"
    if "ExpressionAttributeValues" in parameters:
        values = parameters["ExpressionAttributeValues"]
        if ":pk" in values:
            return str(values[":pk"]["S"])
        return f"shard {next(iter((values.get(':shard') or values[':partition']).values()))}"
    return ""


def _result(operation: str, reply: dict[str, Any]) -> str:
    if operation == "query":
        return f": {', '.join(item.get('pk', item.get('sk'))['S'] for item in reply['Items']) or 'nothing'}"
    return f": failed {reply['Failed']}" if "Failed" in reply else ""


def _difference(old: Attributes | None, new: Attributes | None) -> str:
    if new is None:
        return "deleted"
    before = old or {}
    changes = []
    for name in sorted({*before, *new}):
        if name in ("pk", "sk") or before.get(name) == new.get(name):
            continue
        changes.append(f"{name} {_shown(name, before.get(name))} -> {_shown(name, new.get(name))}")
    return "; ".join(changes) or "unchanged"


def _shown(name: str, value: Any) -> str:
    if isinstance(value, int) and value > START_MS // 2:
        return "parked" if value > 2 * START_MS else f"{(value - START_MS) / 1000:.3f} s"
    return "-" if value is None else str(value)


__all__ = [
    "SQS",
    "DiedError",
    "DynamoDB",
    "Faults",
    "Process",
    "SimulatedQueue",
    "Task",
    "World",
    "message_of",
    "run_id_in",
    "running",
]

"""What goes wrong in a test with ``chaos=True``: workers that die, messages that come twice and late, lost replies.

All of it may happen on AWS, and a run gets through it. Here it happens to every run, so that a test shows what a
handler makes of being called again. One seed decides all of it.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError, ConnectionClosedError

from kumofire_core.model.message import decode_body
from kumofire_core.testing.sqs import MemoryQueue, MemorySQS, Message

LATE_SECONDS = (1, 2, 5, 20)
"""How late a message may come."""

MOST_LOGGED = 500

WRITES = frozenset({"put_item", "update_item", "delete_item"})


class WorkerDiedError(BaseException):
    """The worker of an attempt dies here. No ``Exception``, because no code can handle its own death."""


class Chaos:
    """Decides what goes wrong, and notes it."""

    def __init__(self, seed: str, sqs: MemorySQS) -> None:
        self.seed = seed
        self.log: list[str] = []
        """What was done to which run, in order."""
        self.describe: Callable[[str], str] = str
        """Returns how the log names a run."""
        self.may_die: Callable[[str], bool] = lambda run_id: False
        """Says whether a run whose worker dies now gets another attempt."""
        self.hurt: set[str] = set()
        """Runs whose worker died, and which have not been attempted again."""
        self.copies: set[str] = set()
        """Ids of messages that come late, or a second time, and have not come."""
        self._sqs = sqs
        self.identify: Callable[[str], str] = str
        """Returns by what a run is told from others in every repetition of a test: not by its id, which is random."""
        self._drawn = Counter[tuple[str, str]]()
        self._order: dict[str, float] = {}
        """By what the messages that are visible at one moment are put in an order."""
        self._died_at: set[tuple[str, str]] = set()
        self._attempted: str | None = None
        self._dead = False
        self._thread = 0
        self._lock = threading.RLock()

    def note(self, run_id: str, what: str) -> None:
        """Add a line to the log."""
        with self._lock:
            if len(self.log) == MOST_LOGGED:
                self.log.append(f"… and more: only the first {MOST_LOGGED} are listed")
            elif len(self.log) < MOST_LOGGED:
                self.log.append(f"{self.describe(run_id)}: {what}")

    def _draw(self, run_id: str, what: str) -> random.Random:
        """Return the chance of one event of a run, whatever happens to other runs, in whatever thread, before it."""
        run = self.identify(run_id)
        with self._lock:
            self._drawn[run, what] += 1
            return random.Random(f"{self.seed} {run} {what} {self._drawn[run, what]}")

    def pending(self) -> bool:
        """Say whether something that was broken is not mended yet."""
        return bool(self.hurt or self.copies)

    # Messages

    def on_send(self, queue: MemoryQueue, message: Message) -> None:
        """Let a message come late, now and then, and a second time in any case."""
        with self._lock:
            run_id = decode_body(message.body)
            chance = self._draw(run_id, "message")
            if chance.random() < 1 / 3:
                late = chance.choice(LATE_SECONDS)
                message.visible_ms += 1000 * late
                self.copies.add(message.id)
                self.note(run_id, f"its message comes {late} s late")
            later = chance.choice((0, *LATE_SECONDS))
            copy = Message(
                id=f"{message.id}-again",
                body=message.body,
                sent_ms=message.sent_ms,
                visible_ms=message.visible_ms + 1000 * later,
                group=message.group,
            )
            queue.messages[copy.id] = copy
            self.copies.add(copy.id)
            self._order[message.id], self._order[copy.id] = chance.random(), chance.random()

    def pick(self, messages: list[Message]) -> Message:
        """Choose which of the messages that are visible comes first."""
        with self._lock:
            return min(messages, key=lambda message: self._order.get(message.id, 0.0))

    def delivered(self, message: Message) -> None:
        """Note that a message has come."""
        with self._lock:
            self.copies.discard(message.id)
            if message.id.endswith("-again"):
                self.note(decode_body(message.body), "its message comes a second time")

    # The worker's death

    def begin(self, run_id: str) -> None:
        """Begin a delivery: a worker that lives."""
        self._attempted, self._dead, self._thread = run_id, False, threading.get_ident()

    def end(self) -> None:
        """End a delivery."""
        self._attempted, self._dead = None, False

    def called(self, run_id: str) -> None:
        """Note that a run's handler is called."""
        with self._lock:
            self.hurt.discard(run_id)

    def returned(self, run_id: str) -> None:
        """Let the worker die whose handler has returned, once a run; its next request is not made any more."""
        if run_id == self._attempted and not self._dead and self._dies(run_id, "end"):
            self._die(run_id, "its worker died after the handler had returned, and before that was recorded")

    def _dies_at(self, run_id: str, step: str) -> bool:
        what = f"step {step}"
        return self._draw(run_id, what).random() < 1 / 2 and self._dies(run_id, what)

    def _dies(self, run_id: str, point: str) -> bool:
        with self._lock:
            if (run_id, point) in self._died_at or not self.may_die(run_id):
                return False
            self._died_at.add((run_id, point))
            return True

    def _die(self, run_id: str, how: str) -> None:
        with self._lock:
            self._dead = True
            self.hurt.add(run_id)
            self.note(run_id, how)

    def request(self, operation: str, make: Callable[..., Any], parameters: dict[str, Any]) -> Any:
        """Make a request of the worker, unless it is dead; the reply of a write may be lost at first."""
        run_id = self._attempted
        step = None if run_id is None or self._dead else _kept_step(operation, parameters)
        if run_id is not None and step is not None and self._dies_at(run_id, step):
            self._die(run_id, f"its worker died after the step {step!r} had returned, and before that was kept")
            raise WorkerDiedError
        if self._dead:
            if threading.get_ident() == self._thread:
                raise WorkerDiedError
            raise ConnectionClosedError(endpoint_url="in-process")
        if run_id is None or operation not in WRITES or not _is_of_a_run(parameters):
            return make(**parameters)
        if self._draw(run_id, "reply").random() >= 1 / 4:
            return make(**parameters)
        self.note(run_id, f"the reply to a write ({operation}) is lost, and the write is sent again")
        try:
            make(**parameters)
        except ClientError as first:
            if first.response["Error"]["Code"] != "ConditionalCheckFailedException":
                raise
        try:
            return make(**parameters)
        except ClientError as error:
            metadata: Any = {"RetryAttempts": 1}
            error.response["ResponseMetadata"] = metadata
            raise


def _kept_step(operation: str, parameters: dict[str, Any]) -> str | None:
    """Return the name of the step whose result a request keeps."""
    if operation != "put_item" or parameters["Item"].get("kind") != {"S": "step"}:
        return None
    sort_key: str = parameters["Item"]["sk"]["S"]
    return sort_key.partition("#step#")[2] or None


def _is_of_a_run(parameters: dict[str, Any]) -> bool:
    """Say whether a write is to a run, and not to counts or progress, which other threads write at any time."""
    identity = parameters.get("Key") or parameters.get("Item") or {}
    return str(identity.get("pk", {}).get("S", "")).startswith("run#")


class ChaoticClient:
    """A client whose requests go through the chaos."""

    def __init__(self, client: Any, chaos: Chaos) -> None:
        self._client = client
        self._chaos = chaos

    def __getattr__(self, operation: str) -> Any:
        method = getattr(self._client, operation)
        if not callable(method):
            return method
        return lambda **parameters: self._chaos.request(operation, method, parameters)

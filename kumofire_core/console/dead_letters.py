"""The page of the dead-letter queue: how many messages are there, a look at them, and the two ways to be rid of them.

It asks SQS alone. Sending messages back takes as long as there are many, so a thread does it, and the page shows how
far it is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from starlette.responses import Response

from kumofire_core.aws.error_notes import advice, code_of
from kumofire_core.aws.errors import AWS_ERRORS, note_of
from kumofire_core.console.visit import Desk, Page, Visit
from kumofire_core.console.words import things
from kumofire_core.deployment.dead_letters import DeadLetter, DeadLetterError
from kumofire_core.errors import KumofireError

if TYPE_CHECKING:
    from kumofire_core.deployment.dead_letters import DeadLetters

log = logging.getLogger("kumofire_core.console")

KEPT = "dead-letters"
"""Where the desk keeps the reader of the queue, and the latest move."""
LOOKS = (10, 100)
"""How many messages a person may choose to look at."""


@dataclass(slots=True, kw_only=True)
class Move:
    """Messages on their way back to the jobs' queue. The thread that moves them writes; pages read."""

    started_at: datetime
    found: int
    """How many were there, as SQS estimates it."""
    moved: int = 0
    state: str = "running"
    """``running``, ``done``, ``unfinished`` (SQS goes on, nobody waits for it any more) or ``failed``."""
    ended_at: datetime | None = None
    trouble: str = ""
    """Why it failed, and what to do."""


class Queue:
    """The dead-letter queue as all visits of one console share it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._lock = threading.Lock()
        self._letters: DeadLetters | None = None
        self.move: Move | None = None
        """The latest move that this process has made."""
        self.moving: threading.Thread | None = None

    @property
    def letters(self) -> DeadLetters:
        """The queue's reader, made once: a client of AWS is dear."""
        with self._lock:
            if self._letters is None:
                self._letters = self._desk.dead_letters()
            return self._letters

    @property
    def is_moving(self) -> bool:
        """Whether this process sends messages back now."""
        return self.move is not None and self.move.state == "running"

    def redrive(self, count: int) -> bool:
        """Begin to send all messages back, unless this process does so already; return whether it began."""
        letters = self.letters
        with self._lock:
            if self.is_moving:
                return False
            self.move = Move(started_at=self._desk.clock(), found=count)
            # A daemon: SQS moves the messages itself, so the console may end meanwhile.
            self.moving = threading.Thread(
                target=_redrive, args=(letters, self.move, self._desk.clock), name="kumofire-redrive", daemon=True
            )
            self.moving.start()
        return True


def _redrive(letters: DeadLetters, move: Move, clock: Callable[[], datetime]) -> None:
    def tell(moved: int, found: int) -> None:
        move.moved, move.found = moved, max(found, move.found)

    state = "failed"
    try:
        result = letters.redrive(on_progress=tell)
        move.moved, move.found = result.moved, result.found
        state = "done" if result.finished else "unfinished"
    except AWS_ERRORS as error:
        move.trouble = f"{note_of(error) or advice(error)} ({code_of(error)})"
    except KumofireError as error:
        move.trouble = str(error)
    except Exception:
        log.exception("sending the dead letters back failed")
        move.trouble = "an error of the console; its log has it"
    if move.trouble:
        log.warning("the dead letters were not all sent back: %s", move.trouble)
    move.ended_at = clock()
    move.state = state


def show(visit: Visit) -> Response:
    """Show how many messages there are, and what can be done. It receives none."""
    return _page(visit, "dead_letters.html")


def state(visit: Visit) -> Response:
    """Return the live part: the count and how far a move is; one request once the queue's address is known."""
    return _page(visit, "dead_letters_state.html" if visit.is_partial else "dead_letters.html")


def look(visit: Visit) -> Response:
    """Receive some messages and show them. They stay, and their counts of receives grow: so it takes a POST."""
    given = visit.field("most")
    most = int(given) if given in map(str, LOOKS) else LOOKS[0]
    found = _queue(visit).letters.show(most)
    visit.record(f"looked at {things(len(found), 'dead letter')}")
    if visit.is_partial:
        return visit.page("dead_letters_found.html", found=found)
    return _page(visit, "dead_letters.html", found=found)


def redrive(visit: Visit) -> Response:
    """Send all messages back to the jobs' queue, in a thread."""
    queue = _queue(visit)
    if queue.is_moving:
        return visit.done("They are being sent back already; the page shows how far that is.", kind="stale")
    count = queue.letters.count()
    if not count:
        return visit.done("There are no dead letters.", kind="stale", go_to=visit.url("dead-letters"))
    if not _is_sure(visit):
        return visit.page("dead_letters_sure.html", doing="redrive", count=count)
    if not queue.redrive(count):
        return visit.done("They are being sent back already; the page shows how far that is.", kind="stale")
    visit.record(f"sent about {things(count, 'dead letter')} back to the queue")
    return visit.done(f"About {things(count, 'message')} on the way back to the queue.", go_to=_unless_scripted(visit))


def purge(visit: Visit) -> Response:
    """Delete all messages."""
    queue = _queue(visit)
    if queue.is_moving:
        return visit.done("They are being sent back to the queue now. Wait until that has ended.", kind="stale")
    count = queue.letters.count()
    if not count:
        return visit.done("There are no dead letters.", kind="stale", go_to=visit.url("dead-letters"))
    if not _is_sure(visit):
        return visit.page("dead_letters_sure.html", doing="purge", count=count)
    try:
        queue.letters.purge()
    except DeadLetterError as error:
        return visit.done(str(error), kind="stale")
    visit.record(f"purged about {things(count, 'dead letter')}")
    return visit.done(
        f"About {things(count, 'message')} deleted. SQS takes up to a minute for it, and the count as long.",
        go_to=_unless_scripted(visit),
    )


PAGES: list[tuple[str, list[str], Page]] = [
    ("/dead-letters", ["GET"], show),
    ("/dead-letters/state", ["GET"], state),
    ("/dead-letters/look", ["POST"], look),
    ("/dead-letters/redrive", ["POST"], redrive),
    ("/dead-letters/purge", ["POST"], purge),
]


def _queue(visit: Visit) -> Queue:
    found: Queue = visit.desk.memory.setdefault(KEPT, Queue(visit.desk))
    return found


def _page(visit: Visit, template: str, *, found: list[DeadLetter] | None = None) -> Response:
    queue = _queue(visit)
    count, missing = None, ""
    try:
        count = queue.letters.count()
    except DeadLetterError as error:
        missing = str(error)
    return visit.page(
        template, count=count, missing=missing, move=queue.move, is_moving=queue.is_moving, found=found, looks=LOOKS
    )


def _is_sure(visit: Visit) -> bool:
    """Whether the person was asked. The page's script asks by itself; without it a page does."""
    return visit.is_partial or visit.field("sure") == "yes"


def _unless_scripted(visit: Visit) -> str | None:
    return None if visit.is_partial else visit.url("dead-letters")

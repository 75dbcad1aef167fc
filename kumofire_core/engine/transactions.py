"""A run that an application's own transaction stores, so that it exists if and only if the application's items do.

The put of the run requires that its id is new. So however often the transaction is requested, it is committed once: a
second copy is canceled as a whole, and shows the run with the token of the first.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from kumofire_core.aws.transactions import found_instead, put_new_entry
from kumofire_core.engine.run_store import RunStore, run_key
from kumofire_core.errors import DedupeKeyConflictError, DedupeKeyTakenError, InvalidArgumentError
from kumofire_core.model.run import NewRun
from kumofire_core.model.times import whole_seconds_until
from kumofire_core.model.write import Attributes
from kumofire_core.rules.wake_ups import sent_at_once


def pending_run(store: RunStore, new_run: NewRun) -> PendingRun:
    """Return a prepared run for somebody else's transaction; see ``Jobs.create_in_transaction``."""
    if new_run.dedupe_mode is not None:
        raise InvalidArgumentError(
            "create_in_transaction takes dedupe='kept' only, because the other modes read before they write; "
            "leave dedupe out, or call create after the commit"
        )
    with store.creating([new_run]):
        # A large payload's object has to be there before the commit. Where that never comes, the sweep removes it.
        new_run = new_run._replace(payload=store.apart(new_run.id, new_run.payload))
        return PendingRun(store, new_run, store.new_item(new_run))


class PendingRun:
    """A run that exists as soon as the transaction with its ``entry`` is committed.

    Used as a ``with`` block around the commit, it sends the run's message afterwards. A block whose commit failed sends
    nothing and lets the error go on, with two exceptions. An error that says that this very transaction was committed
    before is none: the message is sent. And where a run has the ``dedupe_key``, the block raises
    ``DedupeKeyTakenError``, or ``DedupeKeyConflictError`` if it is another job's run. One block may follow another: to
    commit again after a lost reply is safe.
    """

    def __init__(self, store: RunStore, new_run: NewRun, attributes: Attributes) -> None:
        self._store = store
        self._new_run = new_run
        self._attributes = attributes
        self._told = False
        self._sent = False

    def __repr__(self) -> str:
        return f"PendingRun(run_id={self.run_id!r}, job_name={self._new_run.job_name!r})"

    @property
    def run_id(self) -> str:
        """The id that the run has once it is committed."""
        return self._new_run.id

    @property
    def entry(self) -> Any:  # so that it fits the types of boto3's stubs, which not everybody has
        """The run's part of ``TransactItems``, a dictionary for the low-level client ``boto3.client("dynamodb")``."""
        return put_new_entry(self._store.table.name, run_key(self.run_id), self._attributes)

    @property
    def plain_entry(self) -> Any:
        """The same with Python's own values, for ``boto3.resource("dynamodb").meta.client``."""
        return put_new_entry(self._store.table.name, run_key(self.run_id), self._attributes, plain=True)

    def committed(self, error: BaseException) -> bool:
        """Say whether an error of the transaction means that this same transaction was committed before.

        ``False`` says nothing of a request whose reply was lost: it may have been committed, or still be under way.
        """
        found = found_instead(error, run_key(self.run_id))
        return found is not None and self._is_own(found)

    def send(self) -> None:
        """Send the message of the committed run, and tell the hooks on ``created``. Only call it after the commit.

        A run that is due more than 15 minutes after it was prepared has no message yet: the dispatcher sends it. An
        error of SQS is logged, and the dispatcher sends the message. Once SQS has taken it, further calls do nothing.
        """
        new_run, store = self._new_run, self._store
        if not self._told:
            self._told = True
            store.tell_of_item("created", new_run.id, self._attributes)
        # The stored wake-up was decided about by the clock of that time, so the message must be, too.
        if self._sent or not sent_at_once(new_run.due_ms, new_run.now_ms):
            return
        delay_seconds = whole_seconds_until(new_run.due_ms, max(store.now_ms(), new_run.now_ms))
        self._sent = store.queue.try_send(new_run.id, delay_seconds=delay_seconds, group=new_run.group)

    def __enter__(self) -> PendingRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None:
            self.send()
            return False
        found = found_instead(error, run_key(self.run_id))
        if found is None:
            return False
        if not self._is_own(found):
            self._refuse(found, error)
        self.send()
        return True

    def _is_own(self, found: Attributes) -> bool:
        return found.get("create_token") == self._attributes["create_token"]

    def _refuse(self, found: Attributes, error: BaseException) -> None:
        """Raise what the run that was found means: only a ``dedupe_key`` gives two runs one id."""
        new_run = self._new_run
        key, found_name = str(new_run.dedupe_key), str(found.get("job_name", new_run.job_name))
        if found_name != new_run.job_name:
            raise DedupeKeyConflictError(
                key, job_name=new_run.job_name, run_id=self.run_id, found_job_name=found_name
            ) from error
        raise DedupeKeyTakenError(key, run_id=self.run_id) from error

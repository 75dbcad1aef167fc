"""What goes wrong between a program and AWS, as wrappers around a client. They can be put around one another."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError, ConnectionClosedError

READS = frozenset({"get_item", "query", "batch_get_item"})


class Recorded:
    """Keeps a list of the requests made. One at a time goes through, because moto is not made for threads."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self._lock = threading.Lock()

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def request(**parameters: Any) -> Any:
            with self._lock:
                self.requests.append((operation, parameters))
                return getattr(self.client, operation)(**parameters)

        return request

    def count(self) -> dict[str, int]:
        """Return how many requests were made, by operation."""
        return dict(Counter(operation for operation, _ in self.requests))

    def parameters(self, operation: str) -> list[dict[str, Any]]:
        """Return the parameters of every request of one operation."""
        return [parameters for name, parameters in self.requests if name == operation]


class Repeated:
    """Loses the first reply of every write: the request is repeated, and its second answer is what the caller sees."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        method = getattr(self.client, operation)

        def request(**parameters: Any) -> Any:
            if operation not in READS:
                method(**parameters)
            return method(**parameters)

        return request


class Outage:
    """Breaks the connection of one request, the ``at``-th over all wrapped clients, or of every one from there on.

    ``applied`` says whether the service had done what was asked when the connection broke.
    """

    def __init__(self, at: int = 1, *, applied: bool, lasting: bool = False) -> None:
        self.at = at
        self.applied = applied
        self.lasting = lasting
        self.made = 0
        self._lock = threading.Lock()

    def wrap(self, client: Any) -> Any:
        """Return ``client`` with this outage before it."""
        return _Broken(self, client)

    def hits(self) -> bool:
        """Count a request and say whether its connection breaks."""
        with self._lock:
            self.made += 1
            return self.made >= self.at if self.lasting else self.made == self.at


class _Broken:
    def __init__(self, outage: Outage, client: Any) -> None:
        self._outage = outage
        self._client = client

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        method = getattr(self._client, operation)

        def request(**parameters: Any) -> Any:
            if not self._outage.hits():
                return method(**parameters)
            if self._outage.applied:
                method(**parameters)
            raise ConnectionClosedError(endpoint_url="https://aws.invalid")

        return request


class Refused:
    """Answers every request with an error of the service, for example ``ProvisionedThroughputExceededException``."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def request(**parameters: Any) -> Any:
            raise ClientError({"Error": {"Code": self.code, "Message": "no"}}, operation)

        return request


class Interrupted:
    """Does something else just before one request, the ``at``-th: what another process did in that moment."""

    def __init__(self, client: Any, action: Callable[[], object], *, at: int) -> None:
        self.client = client
        self._action = action
        self._at = at
        self._made = 0

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        method = getattr(self.client, operation)

        def request(**parameters: Any) -> Any:
            self._made += 1
            if self._made == self._at:
                self._action()
            return method(**parameters)

        return request


class WriteUnits:
    """Counts the write units of each request by DynamoDB's rules, from the item as it was and as it became.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/GSI.html#GSI.ThroughputConsiderations.Writes
    For items that are smaller than a kilobyte, with their index entries.
    """

    def __init__(self, client: Any, *, table: str) -> None:
        self.client = client
        self.written = 0
        self._table = table
        self._lock = threading.RLock()

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        method = getattr(self.client, operation)

        def request(**parameters: Any) -> Any:
            if operation in READS:
                return method(**parameters)
            key = parameters.get("Key") or {name: parameters["Item"][name] for name in ("pk", "sk")}
            with self._lock:
                before = self._item(key)
                try:
                    return method(**parameters)
                finally:
                    after = self._item(key)
                    self.written += 1 + sum(_entries_written(before, after, index) for index in INDEXES)

        return request

    def _item(self, key: dict[str, Any]) -> dict[str, Any]:
        client = self.client.client if isinstance(self.client, Recorded) else self.client
        found: dict[str, Any] = client.get_item(TableName=self._table, Key=key, ConsistentRead=True).get("Item") or {}
        return found

    def take(self) -> int:
        """Return the units since the last look."""
        written, self.written = self.written, 0
        return written


INDEXES = (("wake_shard", "wake_at"), ("list_shard", "list_at"))


def _entries_written(before: dict[str, Any], after: dict[str, Any], index: tuple[str, str]) -> int:
    """Return the units of an index: an entry that is moved is deleted and put."""
    old, new = ([item.get(name) for name in index] for item in (before, after))
    return 0 if old == new else (None not in old) + (None not in new)

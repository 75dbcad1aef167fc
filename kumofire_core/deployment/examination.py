"""What the checks look at: each is read once in an examination, however many checks ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)

from kumofire_core.aws.dynamodb import Table
from kumofire_core.aws.error_notes import code_of
from kumofire_core.deployment.discovery import Deployment
from kumofire_core.deployment.findings import Trouble, error, note
from kumofire_core.engine.run_store import WAKE_SETTINGS
from kumofire_core.model.write import Value
from kumofire_core.rules.wake_ups import LEAST_SHARDS_READ, MOST_SHARDS

ALIAS = "live"
"""The alias of the consumer that the template's queue feeds."""

UNREACHED = (ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError, ReadTimeoutError, SSLError)
NO_STACK = note(
    "stack",
    "No stack is named, so the dispatcher's function, rule and log were not looked at.",
    "Name the stack (--stack-name).",
)
NO_QUEUE = ("QueueDoesNotExist", "NonExistentQueue")

Read = TypeVar("Read")


class Examination:
    """A deployment, and what was read of it. Methods raise ``Trouble``, and botocore's errors unchanged."""

    def __init__(self, deployment: Deployment, clock: Callable[[], datetime]) -> None:
        self.deployment = deployment
        self.clock = clock
        self.items = Table(deployment.table, lambda: deployment.client("dynamodb"))
        self._known: dict[str, tuple[Any, Exception | None]] = {}
        self._unreached: dict[str, BotoCoreError] = {}

    @contextmanager
    def asking(self, service: str) -> Iterator[Any]:
        """Give a client for requests to a service; one that was out of reach before is not waited for again."""
        if service in self._unreached:
            raise self._unreached[service]
        try:
            yield self.deployment.client(service)
        except UNREACHED as error:
            self._unreached[service] = error
            raise

    def queue(self) -> dict[str, str]:
        """Return the queue's attributes."""
        return self._once("queue", self._queue)

    def mappings(self) -> list[dict[str, Any]]:
        """Return the event source mappings of the queue: what Lambda takes messages for."""
        return self._once("mappings", self._mappings)

    def consumer(self) -> dict[str, Any]:
        """Return the configuration of the function that the queue feeds, as the version that it feeds has it."""
        return self._once("consumer", self._consumer)

    def dispatcher(self) -> dict[str, Any]:
        """Return the configuration of the dispatcher."""
        return self._once("dispatcher", self._dispatcher)

    def table(self) -> dict[str, Any]:
        """Return the table's description."""
        return self._once("table", self._table)

    def partitions(self) -> tuple[Value | None, int]:
        """Return the number of partitions that the table stores, and how many the dispatcher reads."""
        return self._once("partitions", self._partitions)

    def setting(self, function: dict[str, Any], name: str) -> str:
        """Return the value of a function's environment variable, or nothing."""
        return str(function.get("Environment", {}).get("Variables", {}).get(name, ""))

    def _once(self, name: str, read: Callable[[], Read]) -> Read:
        if name not in self._known:
            try:
                self._known[name] = (read(), None)
            except Exception as error:
                self._known[name] = (None, error)
        found, failure = self._known[name]
        if failure is not None:
            raise failure
        value: Read = found
        return value

    def _queue(self) -> dict[str, str]:
        url = self.deployment.queue_url
        with self.asking("sqs") as sqs:
            try:
                found: dict[str, str] = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
            except ClientError as failure:
                if code_of(failure) not in NO_QUEUE:
                    raise
                raise Trouble(
                    error(
                        "queue",
                        f"There is no queue {url} in {self.deployment.clients.region}.",
                        "Check the URL, the region and the account. If the queue was deleted, deploy the stack again: "
                        "the runs are in the table, and the dispatcher sends their messages.",
                    )
                ) from failure
        return found

    def _mappings(self) -> list[dict[str, Any]]:
        request: dict[str, str] = {"EventSourceArn": self.queue()["QueueArn"]}
        found: list[dict[str, Any]] = []
        with self.asking("lambda") as functions:
            while True:
                reply = functions.list_event_source_mappings(**request)
                found += reply["EventSourceMappings"]
                if not reply.get("NextMarker"):
                    return found
                request["Marker"] = reply["NextMarker"]

    def _consumer(self) -> dict[str, Any]:
        mapped = next((each["FunctionArn"] for each in self.mappings()), None)
        if mapped is None and self.deployment.consumer_function is None:
            raise Trouble(NO_STACK)
        return self._function("consumer", mapped or f"{self.deployment.consumer_function}:{ALIAS}")

    def _dispatcher(self) -> dict[str, Any]:
        if self.deployment.dispatcher_function is None:
            raise Trouble(NO_STACK)
        return self._function("dispatcher", self.deployment.dispatcher_function)

    def _function(self, role: str, name: str) -> dict[str, Any]:
        with self.asking("lambda") as functions:
            try:
                found: dict[str, Any] = functions.get_function_configuration(FunctionName=name)
            except ClientError as failure:
                if code_of(failure) != "ResourceNotFound":
                    raise
                raise Trouble(
                    error(role, f"The {role}'s function {name} does not exist any more.", "Deploy the stack again.")
                ) from failure
        return found

    def _table(self) -> dict[str, Any]:
        name = self.deployment.table
        with self.asking("dynamodb") as dynamodb:
            try:
                found: dict[str, Any] = dynamodb.describe_table(TableName=name)["Table"]
            except ClientError as failure:
                if code_of(failure) != "ResourceNotFound":
                    raise
                raise Trouble(
                    error(
                        "table",
                        f"There is no table {name} in {self.deployment.clients.region}.",
                        "Check the name, the region and the account. If the table was deleted, restore it from a "
                        "backup or from its point-in-time recovery: all runs and schedules are in it.",
                    )
                ) from failure
        return found

    def _partitions(self) -> tuple[Value | None, int]:
        with self.asking("dynamodb"):
            stored = self.items.get_attribute(WAKE_SETTINGS, "wake_shards")
        known = stored if isinstance(stored, int) else 0 if stored is None else MOST_SHARDS
        try:
            own = self.setting(self.dispatcher(), "KUMOFIRE_WAKE_SHARDS")
        except (Trouble, BotoCoreError, ClientError):
            own = ""  # its own check tells of it
        return stored, max(LEAST_SHARDS_READ, min(known, MOST_SHARDS), int(own) if own.isdecimal() else 0)

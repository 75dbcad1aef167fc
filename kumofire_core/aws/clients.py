"""The AWS clients of one process: made on first use, on one shared session.

botocore makes the very clients that boto3 hands out; going through boto3's session would add its import to every cold
start. One session serves both clients, because most of a client's cost is the session's data (measured: 4.5 ms for a
second client on the same session, 76 ms on a new one).
"""

from __future__ import annotations

import json
import os
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kumofire_core.aws.errors import explained

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.client import DynamoDBClient
    from mypy_boto3_sqs.client import SQSClient


class Clients:
    """The clients of DynamoDB, SQS and S3, given or made when first asked for. HandlerPool may ask at once."""

    def __init__(
        self,
        *,
        dynamodb: DynamoDBClient | None,
        sqs: SQSClient | None,
        connections: int,
        s3: Any = None,
    ) -> None:
        self._given: dict[str, Any] = {"dynamodb": dynamodb, "sqs": sqs, "s3": s3, "receiver": None}
        self._connections = connections
        self._lock = threading.Lock()
        self._made: tuple[int, list[str]] = os.getpid(), []
        """In which process clients were made, and which."""

    def dynamodb(self) -> DynamoDBClient:
        """Return the DynamoDB client."""
        client: DynamoDBClient = self._known("dynamodb") or self._make("dynamodb")
        return client

    def sqs(self) -> SQSClient:
        """Return the SQS client."""
        client: SQSClient = self._known("sqs") or self._make("sqs")
        return client

    def receiver(self) -> SQSClient:
        """Return a client of SQS for long polls: it waits longer for a reply, and leaves repeats to its caller."""
        given: SQSClient | None = self._known("sqs")
        if given is not None and "sqs" not in self._made[1]:  # the application's own
            return given
        client: SQSClient = self._known("receiver") or self._make("receiver")
        return client

    def s3(self) -> Any:
        """Return the S3 client. A process without large payloads does not make it."""
        return self._known("s3") or self._make("s3")

    def _known(self, service: str) -> Any:
        """Return the client that was given or made. After a fork, those that the parent made are forgotten.

        Parent and child would write into one connection, and get each other's answers. The child has one thread then,
        and a lock that another thread of the parent held at that moment is never given back here.
        """
        process, made = self._made
        if process != os.getpid():
            for each in made:
                self._given[each] = None
            self.__dict__.pop("_session", None)
            self._lock = threading.Lock()
            self._made = os.getpid(), []
        return self._given[service]

    def described(self) -> str:
        """Return what a note says of these clients."""
        return "the AWS clients of this process (the AWS environment, or dynamodb=… and sqs=… of Jobs)"

    @explained
    def _make(self, service: str) -> Any:
        with self._lock:  # a session is not safe to make clients from in several threads
            if self._given[service] is None:
                name = "sqs" if service == "receiver" else service
                client = self._session.create_client(name, config=self._config_of(service))
                if service == "dynamodb":
                    client.meta.events.register("before-parse.dynamodb", read_as_sent)
                self._given[service] = client
                self._made[1].append(service)
            return self._given[service]

    @cached_property
    def _session(self) -> Any:
        from botocore.session import get_session

        return get_session()

    def _config_of(self, service: str) -> Any:
        if service not in ("s3", "receiver"):
            return self._config
        from botocore.config import Config

        if service == "receiver":
            # A long poll takes up to 20 seconds.
            return self._config.merge(Config(read_timeout=25, retries={"mode": "standard", "total_max_attempts": 1}))
        # The bytes of a large value take their time. Its checksum is made and checked by this package.
        return self._config.merge(
            Config(
                read_timeout=5,
                retries={"mode": "standard", "total_max_attempts": 3},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
        )

    @cached_property
    def _config(self) -> Any:
        import botocore
        from botocore.config import Config

        # botocore's defaults wait 60 s for a connection or a reply: longer than most Lambda functions live. Both
        # services answer in milliseconds, so a few short tries fit well before a deadline.
        return Config(
            connect_timeout=1,
            read_timeout=2,
            retries={"mode": "standard", "total_max_attempts": 4},
            max_pool_connections=self._connections,
            # Every parameter is made by this package; checking each against the service model is a tenth of a call.
            parameter_validation=False,
            # botocore's own is put together anew, character by character, twice a request: a fifth of a call.
            user_agent=f"kumofire-jobs botocore/{botocore.__version__}",
        )


def read_as_sent(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    """Take a reply of DynamoDB's as its JSON is, without botocore's walk through it along the service model.

    The walk changes nothing but binary values and dates, which no reply that is read here has, and took a sixth of the
    time of ten claims in one request. Errors, and what is no JSON object, are left to botocore.
    """
    body = response_dict["body"]
    if response_dict["status_code"] >= 300:
        return
    try:
        reply = json.loads(body)
    except ValueError:
        return
    if isinstance(reply, dict):
        customized_response_dict.update(reply)
        response_dict["body"] = b"{}"

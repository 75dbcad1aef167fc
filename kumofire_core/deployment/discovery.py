"""Finds a deployment by its stack's name, by its table and queue, or by the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from kumofire_core.aws.error_notes import advice, code_of
from kumofire_core.errors import KumofireError, short_repr

if TYPE_CHECKING:
    from kumofire_core.jobs import Jobs

TABLE, QUEUE_URL, PAYLOAD_KEY = "KUMOFIRE_TABLE", "KUMOFIRE_QUEUE_URL", "KUMOFIRE_PAYLOAD_KEY_ARN"
BUCKET = "KUMOFIRE_BUCKET"

OUTPUTS = {
    "TableName": "table",
    "QueueUrl": "queue_url",
    "DeadLetterQueueUrl": "dead_letter_queue_url",
    "ConsumerFunction": "consumer_function",
    "DispatcherFunction": "dispatcher_function",
    "ConsumerLogGroup": "consumer_log_group",
    "DispatcherLogGroup": "dispatcher_log_group",
    "DispatcherRule": "dispatcher_rule",
}
"""The outputs of the stack that are read, and the fields of a ``Deployment`` that they become."""

NEEDED_OUTPUTS = ("TableName", "QueueUrl")


class DiscoveryError(KumofireError):
    """No deployment was found: the text says what was looked for, and what to do."""


class AwsClients:
    """The boto3 clients of one session, made on first use. ``boto3`` is imported with the first."""

    def __init__(
        self, *, region: str | None = None, profile: str | None = None, endpoint_url: str | None = None
    ) -> None:
        # botocore reads AWS_DEFAULT_REGION alone; the AWS CLI, which people know, reads AWS_REGION first.
        self._region = region or os.environ.get("AWS_REGION") or None
        self._profile, self._endpoint_url = profile, endpoint_url
        self._made: dict[tuple[str, str | None], Any] = {}

    @cached_property
    def session(self) -> Any:
        """The boto3 session. Raises ``DiscoveryError`` for a profile that does not exist, or without a region."""
        import boto3

        try:
            session = boto3.Session(
                botocore_session=self.core_session, profile_name=self._profile, region_name=self._region
            )
            region = session.region_name
        except BotoCoreError as error:
            raise DiscoveryError(f"{error}: {advice(error)}") from error
        if not region:
            raise DiscoveryError(
                "no AWS region is given: name the deployment's region by --region, AWS_REGION or a profile"
            )
        return session

    @cached_property
    def core_session(self) -> Any:
        """The botocore session under the boto3 session."""
        from botocore.session import get_session

        return get_session()

    @property
    def region(self) -> str:
        """The region that is asked."""
        return str(self.session.region_name)

    def client(self, service: str, *, region: str | None = None) -> Any:
        """Return the client for a service, in the session's region unless another is given.

        Each request ends after 30 seconds at most: a person waits for it.
        """
        key = (service, region)
        if key not in self._made:
            from botocore.config import Config

            # A receive waits for a second at SQS, so its answer may take longer than others'.
            config = Config(connect_timeout=3, read_timeout=8, retries={"mode": "standard", "total_max_attempts": 3})
            try:
                self._made[key] = self.session.client(
                    service, endpoint_url=self._endpoint_url, region_name=region, config=config
                )
            except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
                raise DiscoveryError(f"the client for {service} can't be made ({error}): {advice(error)}") from error
        return self._made[key]


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What is known of a deployment. ``None`` is what the way by which it was found does not tell."""

    table: str
    queue_url: str
    dead_letter_queue_url: str | None = None
    consumer_function: str | None = None
    dispatcher_function: str | None = None
    consumer_log_group: str | None = None
    dispatcher_log_group: str | None = None
    dispatcher_rule: str | None = None
    payload_key_arn: str | None = None
    bucket: str | None = None
    """The bucket of large payloads, where there is one."""
    retention_days: str | None = None
    """For how long the deployment keeps runs that have ended, as ``KUMOFIRE_RETENTION_DAYS`` takes it."""
    consumed_by_workers: bool = False
    """Whether workers take the messages, so that the consumer function is to take none."""
    stack_name: str | None = None
    missing_outputs: tuple[str, ...] = ()
    """Outputs that this release's template has and the stack has not: the stack is of an earlier release."""
    clients: AwsClients = field(repr=False, compare=False, default_factory=AwsClients)

    def client(self, service: str) -> Any:
        """Return a boto3 client for a service, in the deployment's region."""
        return self.clients.client(service)

    def jobs(self, **settings: Any) -> Jobs:
        """Return a ``Jobs`` on this deployment, which takes any job's name. ``settings`` are further arguments of it.

        With the extra ``encryption`` it decrypts payloads under the deployment's KMS key; without the extra they read
        as ``ENCRYPTED``. Raises ``ConfigurationError`` for wrong settings.
        """
        from kumofire_core.jobs import Jobs

        given: dict[str, Any] = {
            "table": self.table,
            "queue_url": self.queue_url,
            "dynamodb": self.client("dynamodb"),
            "sqs": self.client("sqs"),
            "allow_unknown_jobs": True,
            "cipher": None if "cipher" in settings else self._cipher(),
        }
        if self.bucket:
            given |= {"bucket": self.bucket, "s3": _LateClient(lambda: self.client("s3"))}
        return Jobs(**(given | settings))

    def _cipher(self) -> Any:
        if not self.payload_key_arn:
            return None
        try:
            from kumofire_core.encryption import EnvelopeCipher
        except ImportError:
            return None
        # Under the session that was asked for: its profile may be another one than the environment's.
        self.clients.session  # noqa: B018  # sets the profile and the region of the session under it
        return EnvelopeCipher.for_kms_key(self.payload_key_arn, session=self.clients.core_session)


def find_deployment(
    *,
    stack_name: str | None = None,
    table: str | None = None,
    queue_url: str | None = None,
    environment: Mapping[str, str] | None = None,
    region: str | None = None,
    profile: str | None = None,
    endpoint_url: str | None = None,
) -> Deployment:
    """Return the deployment of a stack, of a table and a queue, or of ``KUMOFIRE_TABLE`` and ``KUMOFIRE_QUEUE_URL``.

    A stack tells more: its functions, logs and dead-letter queue. What is missing beside ``table`` or ``queue_url`` is
    read from ``environment``, which is this process's own by default. ``region``, ``profile`` and ``endpoint_url``
    override the usual AWS settings. Only the way by a stack sends a request (``cloudformation:DescribeStacks``).
    Raises ``DiscoveryError``.
    """
    variables = os.environ if environment is None else environment
    clients = AwsClients(region=region, profile=profile, endpoint_url=endpoint_url)
    if stack_name is not None:
        if table or queue_url:
            raise DiscoveryError(
                "both a stack and a table or queue are named, which could be of two deployments; "
                "name the stack (--stack-name), or the table and the queue (--table, --queue-url)"
            )
        return deployment_of_stack(stack_name, clients)
    table, queue_url = table or variables.get(TABLE), queue_url or variables.get(QUEUE_URL)
    if not table or not queue_url:
        missing = [
            text for text, found in ((f"a table ({TABLE})", table), (f"a queue ({QUEUE_URL})", queue_url)) if not found
        ]
        raise DiscoveryError(
            f"no deployment is named: {' and '.join(missing)} is missing; "
            f"name a stack (--stack-name), or a table and a queue (--table and --queue-url, or {TABLE} and {QUEUE_URL})"
        )
    return Deployment(
        table=table,
        queue_url=queue_url,
        payload_key_arn=variables.get(PAYLOAD_KEY) or None,
        bucket=variables.get(BUCKET) or None,
        clients=clients,
    )


def deployment_of_jobs(jobs: Jobs) -> Deployment:
    """Return what a ``Jobs`` knows of its deployment; SQS is asked by its own client."""
    return Deployment(table=jobs.table_name, queue_url=jobs.queue_url, bucket=jobs.bucket, clients=_ClientsOfJobs(jobs))


class _LateClient:
    """A client that is made with its first request."""

    def __init__(self, client: Callable[[], Any]) -> None:
        self._client = client

    def __getattr__(self, operation: str) -> Any:
        return getattr(self._client(), operation)


class _ClientsOfJobs(AwsClients):
    def __init__(self, jobs: Jobs) -> None:
        super().__init__()
        self._jobs = jobs

    def client(self, service: str, *, region: str | None = None) -> Any:
        """Return the client for a service: for SQS, the one that the ``Jobs`` has."""
        return self._jobs.sqs_client if service == "sqs" and region is None else super().client(service, region=region)


def deployment_of_stack(stack_name: str, clients: AwsClients) -> Deployment:
    """Return the deployment whose stack has this name (or ARN), from the stack's outputs; one request.

    Raises ``DiscoveryError`` where there is no such stack, where it is not one of Kumofire, and where it can't be read.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,127}|arn:[-A-Za-z0-9:/._+]{1,1000}", stack_name):
        raise DiscoveryError(
            f"{short_repr(stack_name)} is not a stack's name: letters, digits and hyphens, a letter first"
        )
    region = clients.region
    try:
        [stack] = clients.client("cloudformation").describe_stacks(StackName=stack_name)["Stacks"]
    except (BotoCoreError, ClientError) as error:
        # https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_DescribeStacks.html
        if code_of(error) == "ValidationError":
            text = f"there is no stack {stack_name!r} in {region}; check its name, the region and the account"
        else:
            text = f"the stack {stack_name!r} in {region} can't be read ({error}): {advice(error)}"
        raise DiscoveryError(text) from error
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", ())}
    if missing := [name for name in NEEDED_OUTPUTS if not outputs.get(name)]:
        raise DiscoveryError(
            f"the stack {stack_name!r} in {region} is {stack['StackStatus']} and has no output "
            f"{' and no '.join(missing)}, so it is not a complete deployment of Kumofire Jobs; "
            "name the stack that `sam deploy` made"
        )
    parameters = {each["ParameterKey"]: each.get("ParameterValue") for each in stack.get("Parameters", ())}
    return Deployment(
        **{attribute: outputs[name] for name, attribute in OUTPUTS.items() if outputs.get(name)},
        payload_key_arn=parameters.get("PayloadKeyArn") or None,
        bucket=outputs.get("BucketName") or None,
        retention_days=parameters.get("RetentionDays") or None,
        consumed_by_workers=parameters.get("ConsumeWith") == "workers",
        stack_name=stack["StackName"],
        missing_outputs=tuple(name for name in OUTPUTS if not outputs.get(name)),
        clients=clients,
    )

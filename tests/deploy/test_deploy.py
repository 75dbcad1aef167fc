"""The template and the built artifact in a local AWS, deployed as into a real one: created, used, updated, deleted."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from examples import deploy_local, running
from examples.deployment import PROJECT, load_template, outputs_of
from examples.local_aws import RUNTIMES, LocalAws, interpreter_of, interpreters, local_aws, local_aws_at
from kumofire_core import ENCRYPTED, Jobs, Run
from kumofire_core.engine.schedule_firing import occurrence_run_id
from tests import waiting
from tests.builders import event
from tests.built import ARCHITECTURE, RUNTIME, build_artifact

PATIENCE_SECONDS = 60
BUCKET = "artifacts"
PARAMETERS = {"JobsModule": "deployed:jobs", "ConsumerConcurrency": "7", "Runtime": RUNTIME}

DEPLOYED = """
from kumofire_core import Jobs

jobs = Jobs.from_env()

@jobs.handler("greet")
def greet(ctx):
    return "VERSION 1"

@jobs.handler("echo")
def echo(ctx):
    return ctx.payload

@jobs.handler("parent", max_attempts=1)
def parent(ctx):
    jobs.cancel(ctx.run.id)
    ctx.step("once", str)
    return {"cancel requested": ctx.cancel_requested(), "child": jobs.create("greet")}

@jobs.handler("fail", max_attempts=1)
def fail(ctx):
    raise ConnectionError("no answer")
"""

SECRET = "4111 1111 1111 1111"

one_stack = pytest.mark.xdist_group("guarded")
"""Keeps the tests that share the guarded stack in one process; it takes seconds to make."""


eventually = partial(waiting.eventually, seconds=PATIENCE_SECONDS)


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """A stack in a local AWS."""

    aws: LocalAws
    name: str

    @property
    def outputs(self) -> dict[str, str]:
        return outputs_of(self.aws, self.name)

    def jobs(self, **settings: Any) -> Jobs:
        """Return a ``Jobs`` as an application outside the stack has it."""
        return Jobs(
            table=self.outputs["TableName"],
            queue_url=self.outputs["QueueUrl"],
            dynamodb=self.aws.client("dynamodb"),
            sqs=self.aws.client("sqs"),
            allow_unknown_jobs=True,
            **settings,
        )

    def ended(self, run_id: str) -> Run:
        """Wait for the end of a run, and return it."""
        jobs = self.jobs()
        return eventually(lambda: (run := jobs.get_status(run_id)) and run.finished_at and run)

    def invoke(self, function: str, payload: Any) -> Any:
        """Return a function's answer, or its error as ``{"errorType": …}``."""
        reply = self.aws.client("lambda").invoke(FunctionName=self.outputs[function], Payload=json.dumps(payload))
        return json.loads(reply["Payload"].read())

    def messages(self) -> list[str]:
        """Take the messages that are on the queue, and return the run ids they name."""
        found = []
        sqs = self.aws.client("sqs")
        while taken := sqs.receive_message(QueueUrl=self.outputs["QueueUrl"], MaxNumberOfMessages=10).get("Messages"):
            for message in taken:
                sqs.delete_message(QueueUrl=self.outputs["QueueUrl"], ReceiptHandle=message["ReceiptHandle"])
                found.append(json.loads(message["Body"])["kumofireJobRunId"])
        return found


def upload(aws: LocalAws, artifact: Path, key: str, **changed: str) -> str:
    """Zip the artifact, with ``changed`` in place of modules of these names, and upload it; return its address."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(path for path in artifact.rglob("*") if path.is_file()):
            name = str(path.relative_to(artifact))
            archive.writestr(name, changed.get(name.removesuffix(".py")) or path.read_bytes())
    aws.client("s3").put_object(Bucket=BUCKET, Key=key, Body=buffer.getvalue())
    return f"s3://{BUCKET}/{key}"


def packaged(code_uri: str, *, without: tuple[str, ...] = ()) -> str:
    """Return the template as ``sam package`` leaves it: its code uploaded."""
    template = load_template()
    template["Globals"]["Function"]["CodeUri"] = code_uri
    for name in without:
        del template["Resources"][name]
    return json.dumps(template)


def deploy(aws: LocalAws, name: str, template: str, parameters: Mapping[str, str], *, update: bool = False) -> Deployed:
    cloudformation = aws.client("cloudformation")
    action = cloudformation.update_stack if update else cloudformation.create_stack
    action(
        StackName=name,
        TemplateBody=template,
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
    )
    done = "UPDATE_COMPLETE" if update else "CREATE_COMPLETE"

    def status() -> bool:
        [stack] = cloudformation.describe_stacks(StackName=name)["Stacks"]
        assert "FAILED" not in stack["StackStatus"], stack.get("StackStatusReason")
        assert "ROLLBACK" not in stack["StackStatus"], stack.get("StackStatusReason")
        return bool(stack["StackStatus"] == done)

    eventually(status)
    return Deployed(aws=aws, name=name)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_artifact(tmp_path_factory.mktemp("built") / "artifact", deployed=DEPLOYED)


def test_a_stack_is_created_used_updated_and_deleted(ministack: LocalAws, artifact: Path) -> None:
    ministack.client("s3").create_bucket(Bucket=BUCKET)
    first = upload(ministack, artifact, "first.zip")
    stack = deploy(ministack, "lifecycle", packaged(first), PARAMETERS)
    outputs, jobs = stack.outputs, stack.jobs()

    succeeds, fails, delayed = jobs.create("greet"), jobs.create("fail"), jobs.create("greet", delay=1)
    assert stack.ended(succeeds).output == "VERSION 1"
    assert consumers_at_most(stack) == 7
    assert (stack.ended(fails).status, stack.ended(fails).attempt) == ("failed", 1)
    assert stack.ended(delayed).status == "succeeded"

    far_off = an_hour_ago(stack).create("greet", delay=timedelta(minutes=30))
    ticked = stack.invoke("DispatcherFunction", {})
    assert (ticked["dispatched"], ticked["errors"]) == (1, 0)
    assert stack.ended(far_off).status == "succeeded"

    second = upload(ministack, artifact, "second.zip", deployed=DEPLOYED.replace("VERSION 1", "VERSION 2"))
    deploy(
        ministack,
        "lifecycle",
        packaged(second),
        {**PARAMETERS, "RunConcurrency": "3", "ConsumerConcurrency": "0"},
        update=True,
    )
    function = ministack.client("lambda").get_function_configuration(FunctionName=outputs["ConsumerFunction"])
    assert function["Environment"]["Variables"]["KUMOFIRE_CONCURRENCY"] == "3"
    assert consumers_at_most(stack) is None
    assert stack.outputs == outputs
    assert stack.ended(jobs.create("greet")).output == "VERSION 2"
    assert jobs.get_status(succeeds) == stack.ended(succeeds)

    cloudformation = ministack.client("cloudformation")
    cloudformation.delete_stack(StackName="lifecycle")
    eventually(lambda: "lifecycle" not in stacks_of(ministack))
    assert outputs["TableName"] in ministack.client("dynamodb").list_tables()["TableNames"]
    assert outputs["QueueUrl"] not in ministack.client("sqs").list_queues().get("QueueUrls", [])


def consumers_at_most(stack: Deployed) -> int | None:
    """Return how many consumers the queue may start; ``None`` where that has no limit."""
    functions = stack.aws.client("lambda")
    name = stack.outputs["ConsumerFunction"]
    [mapping] = functions.list_event_source_mappings(FunctionName=name)["EventSourceMappings"]
    return (mapping.get("ScalingConfig") or {}).get("MaximumConcurrency")


SEES = """
import sys
from importlib.util import find_spec

def handler(event, context):
    installed = [name for name in ("moto", "pytest", "yaml", "examples", "kumofire_core", "mine") if find_spec(name)]
    return {"python": "python%d.%d" % sys.version_info[:2], "sees": installed, "exits": callable(exit)}
"""


def seen_by_a_function(aws: LocalAws, name: str, runtime: str) -> Any:
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("mine.py", SEES)
    functions = aws.client("lambda")
    functions.create_function(
        FunctionName=name,
        Runtime=runtime,
        Role="arn:aws:iam::000000000000:role/none",
        Handler="mine.handler",
        Code={"ZipFile": code.getvalue()},
    )
    return json.loads(functions.invoke(FunctionName=name)["Payload"].read())


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_function_sees_its_artifact_and_nothing_else_under_the_python_it_was_built_for(
    ministack: LocalAws, runtime: str
) -> None:
    if runtime not in interpreters():
        pytest.skip(f"there is no {runtime} here")

    seen = seen_by_a_function(ministack, f"sees-{runtime.replace('.', '-')}", runtime)

    assert seen == {"python": runtime, "sees": ["mine"], "exits": True}


def test_a_function_whose_python_is_not_here_still_sees_its_artifact_alone(ministack: LocalAws) -> None:
    assert seen_by_a_function(ministack, "sees-another", "python3.10") == {
        "python": RUNTIME,
        "sees": ["mine"],
        "exits": True,
    }


def test_the_local_aws_looks_for_an_interpreter_of_every_runtime_that_the_template_allows() -> None:
    assert list(RUNTIMES) == load_template()["Parameters"]["Runtime"]["AllowedValues"]
    assert interpreter_of("python3.99") is None
    assert interpreters()[RUNTIME] == sys.executable


def two_queues(aws: LocalAws, name: str) -> tuple[str, str, str]:
    """Return the URL of a queue, and the URL and the ARN of the dead-letter queue behind it."""
    sqs = aws.client("sqs")
    dead = sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1})
    url = sqs.create_queue(QueueName=name, Attributes={"RedrivePolicy": redrive, "VisibilityTimeout": "0"})["QueueUrl"]
    return url, dead, arn


def test_messages_of_a_dead_letter_queue_are_moved_back_as_on_aws(ministack: LocalAws) -> None:
    sqs = ministack.client("sqs")
    url, dead, arn = two_queues(ministack, "moved-back")
    color = {"color": {"DataType": "String", "StringValue": "red"}}
    sent = sqs.send_message(QueueUrl=url, MessageBody="body", MessageAttributes=color)
    sqs.receive_message(QueueUrl=url)
    assert "Messages" not in sqs.receive_message(QueueUrl=url)
    assert sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["All"])["Attributes"][COUNT] == "1"

    assert sqs.start_message_move_task(SourceArn=arn)["TaskHandle"]

    assert sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["All"])["Attributes"][COUNT] == "0"
    [task] = sqs.list_message_move_tasks(SourceArn=arn)["Results"]
    assert (task["Status"], task["ApproximateNumberOfMessagesMoved"]) == ("COMPLETED", 1)
    [moved] = sqs.receive_message(
        QueueUrl=url, MessageSystemAttributeNames=["ApproximateReceiveCount"], MessageAttributeNames=["All"]
    )["Messages"]
    assert (moved["Body"], moved["MessageAttributes"]) == ("body", color)
    assert moved["Attributes"]["ApproximateReceiveCount"] == "1"
    assert moved["MessageId"] != sent["MessageId"]


COUNT = "ApproximateNumberOfMessages"


def test_a_message_of_unknown_source_stays_on_the_dead_letter_queue_unless_told_where_to_go(
    ministack: LocalAws,
) -> None:
    sqs = ministack.client("sqs")
    url, dead, arn = two_queues(ministack, "of-unknown-source")
    sqs.send_message(QueueUrl=dead, MessageBody="by hand")

    sqs.start_message_move_task(SourceArn=arn)
    [task] = sqs.list_message_move_tasks(SourceArn=arn)["Results"]
    assert (task["Status"], task["FailureReason"]) == ("FAILED", "CouldNotDetermineMessageSource")
    assert sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["All"])["Attributes"][COUNT] == "1"

    destination = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sqs.start_message_move_task(SourceArn=arn, DestinationArn=destination)
    assert [message["Body"] for message in sqs.receive_message(QueueUrl=url)["Messages"]] == ["by hand"]


def test_only_a_dead_letter_queue_has_messages_to_move(ministack: LocalAws) -> None:
    sqs = ministack.client("sqs")
    url, _, arn = two_queues(ministack, "not-to-move")
    source = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]

    with pytest.raises(ClientError, match="must be configured as a Dead Letter Queue"):
        sqs.start_message_move_task(SourceArn=source)
    with pytest.raises(sqs.exceptions.ResourceNotFoundException):
        sqs.start_message_move_task(SourceArn=f"{arn}-unknown")


def test_a_later_process_finds_the_local_aws_for_as_long_as_another_keeps_it(tmp_path: Path) -> None:
    assert running.find(tmp_path) is None
    with running.kept(tmp_path) as tell:
        with pytest.raises(running.StillStartingError):
            running.find(tmp_path)
        tell("http://127.0.0.1:1")
        assert running.find(tmp_path) == "http://127.0.0.1:1"
        with pytest.raises(running.StillStartingError), running.kept(tmp_path):
            pass
        assert running.find(tmp_path) == "http://127.0.0.1:1"
    assert running.find(tmp_path) is None


def test_what_a_killed_process_left_is_not_taken_for_a_running_local_aws(tmp_path: Path) -> None:
    (tmp_path / running.PLACE).parent.mkdir()
    (tmp_path / running.PLACE).write_text("http://127.0.0.1:1")

    assert running.find(tmp_path) is None
    with running.kept(tmp_path), pytest.raises(running.StillStartingError):
        running.find(tmp_path)


THROTTLED = """
import json

from botocore.exceptions import ClientError
from kumofire_core import Jobs

jobs = Jobs.from_env()
jobs.make_clients()
throttled = []
hidden = []

def throttle_once(params, **_):
    claim = "lease_token" in str(params["body"])  # the write that tells how far the consumer is comes first
    if claim and not throttled:
        throttled.append(True)
        raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "too fast"}}, "UpdateItem")

def note(params, **_):
    hidden.append([entry["VisibilityTimeout"] for entry in json.loads(params["body"])["Entries"]])

jobs._clients.dynamodb().meta.events.register("before-call.dynamodb.UpdateItem", throttle_once)
jobs._clients.sqs().meta.events.register("before-call.sqs.ChangeMessageVisibilityBatch", note)

@jobs.handler("greet")
def greet(ctx):
    return hidden
"""


@pytest.mark.long
def test_a_run_hit_by_one_throttle_and_one_whose_creator_is_ahead_start_long_before_the_visibility_timeout(
    ministack: LocalAws, artifact: Path
) -> None:
    with contextlib.suppress(ministack.client("s3").exceptions.BucketAlreadyOwnedByYou):
        ministack.client("s3").create_bucket(Bucket=BUCKET)
    code = upload(ministack, artifact, "throttled.zip", deployed=THROTTLED)
    stack = deploy(ministack, "throttled", packaged(code), PARAMETERS)

    # Nothing dispatches here: without the change of its visibility a run would start after 360 seconds, if ever.
    throttled = stack.ended(stack.jobs().create("greet"))
    ahead = stack.jobs(clock=lambda: datetime.now(UTC) + timedelta(seconds=3))
    early = stack.ended(ahead.create("greet"))

    # Each process is throttled once, and there may be two.
    assert throttled.output in ([[1]], [[1], [2]], [[2]])
    assert (throttled.status, throttled.attempt) == ("succeeded", 0)
    assert early.status == "succeeded"
    assert early.started_at is not None
    assert early.started_at >= early.scheduled_for - timedelta(seconds=1)
    sqs, url = ministack.client("sqs"), stack.outputs["DeadLetterQueueUrl"]
    assert "Messages" not in sqs.receive_message(QueueUrl=url)


@pytest.mark.long
def test_a_stack_with_a_payload_key_keeps_payloads_and_outputs_from_the_table(
    ministack: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ministack.client("kms").create_key()["KeyMetadata"]["Arn"]
    ministack.client("s3").create_bucket(Bucket=BUCKET)
    artifact = build_artifact(tmp_path / "artifact", encryption=True, deployed=DEPLOYED)
    code = upload(ministack, artifact, "encrypting.zip")
    stack = deploy(ministack, "encrypting", packaged(code), {**PARAMETERS, "PayloadKeyArn": key})
    outside = ministack.client("kms").meta
    monkeypatch.setenv("AWS_ENDPOINT_URL", outside.endpoint_url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", outside.region_name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    names = {"KUMOFIRE_TABLE": "TableName", "KUMOFIRE_QUEUE_URL": "QueueUrl"}
    settings = {name: stack.outputs[output] for name, output in names.items()}
    jobs = Jobs.from_env({**settings, "KUMOFIRE_PAYLOAD_KEY_ARN": key}, allow_unknown_jobs=True)

    created = jobs.create("echo", {"card": SECRET})
    moment = datetime.now(UTC) - timedelta(seconds=1)
    schedule = jobs.create_schedule("echo", {"card": SECRET}, schedule_type="once", schedule_expr=moment)
    assert stack.invoke("DispatcherFunction", {})["errors"] == 0
    fired = occurrence_run_id(schedule, moment.replace(microsecond=moment.microsecond // 1000 * 1000))

    for run_id in (created, fired):
        assert stack.ended(run_id).output == ENCRYPTED
        assert jobs.get_status(run_id).output == {"card": SECRET}
    assert SECRET not in str(ministack.client("dynamodb").scan(TableName=stack.outputs["TableName"])["Items"])


def stacks_of(aws: LocalAws) -> set[str]:
    summaries = aws.client("cloudformation").list_stacks()["StackSummaries"]
    return {summary["StackName"] for summary in summaries if summary["StackStatus"] != "DELETE_COMPLETE"}


def an_hour_ago(stack: Deployed) -> Jobs:
    """Return a ``Jobs`` whose clock is an hour late: what it plans for soon is due by now."""
    return stack.jobs(clock=lambda: datetime.now(UTC) - timedelta(hours=1))


@pytest.fixture(scope="module")
def guarded(artifact: Path) -> Iterator[Deployed]:
    """A stack in a local AWS that enforces the functions' permissions; the queue is read by nobody."""
    with local_aws({"AUTH": "true"}) as aws:
        aws.client("s3").create_bucket(Bucket=BUCKET)
        code = upload(aws, artifact, "code.zip")
        # Here everything is plain http, which this policy denies. And where AWS has one permission for sending one
        # message and for sending ten, this one has two.
        template = packaged(code, without=("QueuesPolicy",))
        template = template.replace('"Action": "sqs:SendMessage"', '"Action": ["sqs:SendMessage"]')
        template = template.replace('"sqs:SendMessage"', '"sqs:SendMessage", "sqs:SendMessageBatch"')
        yield deploy(aws, "guarded", template, PARAMETERS)


def enforced(function: str) -> list[str]:
    """Return the actions of a function's role that the local AWS can refuse: those of the function's own requests."""
    policy = load_template()["Resources"][f"{function}Role"]["Properties"]["Policies"][0]
    actions = []
    for statement in policy["PolicyDocument"]["Statement"]:
        named = statement["Action"]
        actions += [named] if isinstance(named, str) else named
    # Lambda's own, and the one without which records that are given back only come later.
    others = {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ChangeMessageVisibility"}
    return [action for action in actions if action not in others and not action.startswith("logs:")]


@pytest.fixture
def without(guarded: Deployed) -> Iterator[Callable[[str, str], None]]:
    """Take one action out of a function's role, until the test ends."""
    iam = guarded.aws.client("iam")
    taken: list[dict[str, str]] = []

    def take(function: str, action: str) -> None:
        name = guarded.outputs[f"{function}Function"]
        role = guarded.aws.client("lambda").get_function_configuration(FunctionName=name)["Role"].rpartition("/")[2]
        policies = iam.list_role_policies(RoleName=role)["PolicyNames"]
        documents = {each: iam.get_role_policy(RoleName=role, PolicyName=each)["PolicyDocument"] for each in policies}
        [policy] = [each for each, document in documents.items() if f'"{action}"' in json.dumps(document)]
        document = documents[policy]
        taken.append({"RoleName": role, "PolicyName": policy, "PolicyDocument": json.dumps(document)})
        less = []
        for statement in document["Statement"]:
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            if kept := [each for each in actions if each not in (action, f"{action}Batch")]:
                less.append({**statement, "Action": kept})
        assert less != document["Statement"], f"{name} has no {action}"
        iam.put_role_policy(**{**taken[0], "PolicyDocument": json.dumps({**document, "Statement": less})})

    yield take
    for original in taken:
        iam.put_role_policy(**original)


@one_stack
def test_the_deployed_permissions_suffice_for_the_whole_life_of_a_run(guarded: Deployed) -> None:
    parent = guarded.jobs().create("parent")

    ended = guarded.ended(parent)
    assert (ended.status, ended.output["cancel requested"]) == ("succeeded", True)
    assert guarded.ended(ended.output["child"]).output == "VERSION 1"


@pytest.fixture
def unread(guarded: Deployed) -> Iterator[Deployed]:
    """The guarded stack with its mapping off: what is sent to the queue stays there for the test to see."""
    client = guarded.aws.client("lambda")
    [mapping] = client.list_event_source_mappings()["EventSourceMappings"]
    client.update_event_source_mapping(UUID=mapping["UUID"], Enabled=False)
    eventually(lambda: client.get_event_source_mapping(UUID=mapping["UUID"])["State"] == "Disabled")
    guarded.messages()
    yield guarded
    client.update_event_source_mapping(UUID=mapping["UUID"], Enabled=True)


def consumes(stack: Deployed) -> bool:
    """Say whether the consumer can do all that it is for.

    Its handler sees a cancellation, looks for kept steps, because the run was signaled, and creates another run; then
    the consumer completes the batch that this was the only member of.
    """
    jobs = stack.jobs()
    batch_id = jobs.create_batch([{"name": "parent"}], then="greet")
    [member] = jobs.batch_members(batch_id)
    parent = member.id
    jobs.signal(parent, "early")
    stack.messages()
    answer = stack.invoke("ConsumerFunction", event(parent))
    run, batch = jobs.get_status(parent), jobs.get_batch(batch_id)
    if answer != {"batchItemFailures": []} or run is None or run.status != "succeeded":
        return False
    assert batch is not None
    return bool(run.output["cancel requested"]) and {*stack.messages()} == {run.output["child"], batch.then_run_id}


def dispatches(stack: Deployed) -> bool:
    """Say whether the dispatcher can do all that it is for: send what is due, fire a schedule, look at a batch."""
    past = an_hour_ago(stack)
    batch_id = past.create_batch([{"name": "greet", "delay": timedelta(days=10)}])
    run_id = past.create("greet", delay=timedelta(minutes=30))
    schedule = past.create_schedule("greet", schedule_type="once", schedule_expr=past_moment())
    answer = stack.invoke("DispatcherFunction", {})
    sent = stack.messages()
    past.delete_schedule(schedule)
    past.cancel(run_id)
    past.cancel_batch(batch_id)
    if "errorType" in answer:
        return False
    counts = (answer["dispatched"], answer["schedules"], answer["errors"], answer["unsent"])
    return counts == (1, 1, 0, 0) and len(sent) == 2 and run_id in sent


def past_moment() -> datetime:
    return datetime.now(UTC) - timedelta(minutes=30)


WORKS = {"Consumer": consumes, "Dispatcher": dispatches}


@one_stack
@pytest.mark.parametrize("function", WORKS)
def test_a_function_works_with_the_permissions_it_has(unread: Deployed, function: str) -> None:
    assert WORKS[function](unread)


@one_stack
@pytest.mark.parametrize(
    ("function", "action"), [(function, action) for function in WORKS for action in enforced(function)]
)
def test_a_function_fails_without_any_one_of_its_permissions(
    unread: Deployed, without: Callable[[str, str], None], function: str, action: str
) -> None:
    without(function, action)

    assert not WORKS[function](unread)


OF_THE_TEST = """
from kumofire_core import Jobs

jobs = Jobs.from_env()

@jobs.handler("of the test")
def of_the_test(ctx):
    return ctx.payload
"""


@contextmanager
def deployed_and_kept(project: Path, *options: str) -> Iterator[LocalAws]:
    """Have another process deploy into a local AWS and keep it, as a person does in another terminal."""
    command = [sys.executable, "-m", "examples.deploy_local", "--project", project, *options]
    with subprocess.Popen(command, cwd=PROJECT) as keeper:

        def address() -> str | None:
            assert keeper.poll() is None, "it did not stay"
            with suppress(running.StillStartingError):
                return running.find(project)
            return None

        try:
            yield local_aws_at(eventually(address))
        finally:
            keeper.send_signal(signal.SIGINT)


@pytest.mark.long
def test_the_sam_cli_builds_and_deploys_a_fresh_clone_and_changes_of_its_jobs(tmp_path: Path) -> None:
    sam = os.environ.get("SAM")
    if not sam:
        pytest.skip("the variable SAM names no SAM CLI; `make test` sets it")
    for name in ("Makefile", "template.yaml", "samconfig.toml"):
        shutil.copy(PROJECT / name, tmp_path)
    for name in ("tools", "requirements", "handler", "kumofire_core"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "my_work").mkdir()
    (tmp_path / "my_work/jobs.py").write_text(OF_THE_TEST)
    # Where an earlier build keeps dependencies; a build of a real clone fetches them.
    (PROJECT / "build").mkdir(exist_ok=True)
    (tmp_path / "build").symlink_to(PROJECT / "build")

    overrides = (f"Runtime={RUNTIME}", f"Architecture={ARCHITECTURE}")

    def build() -> None:
        built = subprocess.run(
            [sam, "build", "--parameter-overrides", *overrides],
            cwd=tmp_path,
            env={
                **os.environ,
                "RUNTIME": RUNTIME,
                "ARCHITECTURE": ARCHITECTURE,
                "JOBS_MODULE": "my_work.jobs:jobs",
                "PYTHON": sys.executable,
                "SAM_CLI_TELEMETRY": "0",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert built.returncode == 0, built.stdout + built.stderr

    build()
    for function in ("Consumer", "Dispatcher"):
        shipped = {path.name for path in (tmp_path / ".aws-sam/build" / function).iterdir()}
        assert {"handler", "my_work", "kumofire_core", "botocore"} <= shipped
        assert not shipped & {"tests", "build", "Makefile", "template.yaml", "tools", "requirements", "moto", "pytest"}

    deploy = ("--parameter-overrides", *overrides, "JobsModule=my_work.jobs:jobs")
    with deployed_and_kept(tmp_path, *deploy) as aws:
        outputs = outputs_of(aws, deploy_local.STACK)
        first = deploy_local.run_job(aws, outputs, "of the test", "its payload")
        assert first.output == "its payload"

        (tmp_path / "my_work/jobs.py").write_text(OF_THE_TEST.replace("return ctx.payload", "return 'changed'"))
        build()
        assert deploy_local.main(["--project", str(tmp_path), *deploy]) == 0

        assert deploy_local.run_job(aws, outputs, "of the test", "its payload").output == "changed"
        assert Deployed(aws=aws, name=deploy_local.STACK).jobs().get_status(first.id) == first
    assert running.find(tmp_path) is None


@pytest.mark.long
def test_a_stack_of_the_release_before_gets_the_listing_index_in_place_and_keeps_its_runs(
    ministack: LocalAws, artifact: Path
) -> None:
    if BUCKET not in {bucket["Name"] for bucket in ministack.client("s3").list_buckets()["Buckets"]}:
        ministack.client("s3").create_bucket(Bucket=BUCKET)
    current = packaged(upload(ministack, artifact, "upgraded.zip"))
    before = json.loads(current)
    table = before["Resources"]["Table"]["Properties"]
    table["GlobalSecondaryIndexes"] = [
        index for index in table["GlobalSecondaryIndexes"] if index["IndexName"] != "listing"
    ]
    listed = ("list_shard", "list_at")
    table["AttributeDefinitions"] = [
        each for each in table["AttributeDefinitions"] if each["AttributeName"] not in listed
    ]
    stack = deploy(ministack, "upgraded", json.dumps(before), PARAMETERS)
    old = stack.ended(stack.jobs().create("fail"))
    assert old.status == "failed"

    stack = deploy(ministack, "upgraded", current, PARAMETERS, update=True)

    jobs = stack.jobs()
    failed = stack.ended(jobs.create("fail"))
    found = {run.id for run in jobs.list_runs(status="failed").runs}
    assert failed.id in found
    assert jobs.get_status(old.id) == old

"""The doctor finds what was broken, says it, and says nothing of what is well."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from examples import deployment as local
from examples.deployment import PROJECT, load_template
from examples.local_aws import REGION, LocalAws
from kumofire_core.deployment.checks import functions, queues, runs, surroundings, tables
from kumofire_core.deployment.discovery import Deployment, find_deployment
from kumofire_core.deployment.doctor import ACTIONS, CHECKS, examine
from kumofire_core.deployment.examination import Examination
from kumofire_core.deployment.findings import Diagnosis, Finding, Severity
from kumofire_core.model.times import to_ms
from tests.builders import Clock, body
from tests.deployment.arranged import Deployed, answering, clients_of, deployed, refusing

pytestmark = pytest.mark.long

_names = itertools.count(1)


@pytest.fixture
def stack(ministack: LocalAws) -> Deployed:
    """A table and queues of this test's own."""
    return deployed(ministack)


@pytest.fixture(scope="module")
def whole_stack(ministack: LocalAws) -> str:
    """The name of a whole deployment, whose dispatcher has just made a pass. Tests mend what they break."""
    local.deploy(
        ministack,
        name="examined",
        parameters={"JobsModule": "examples.demo_jobs:jobs", "WakeShards": "16"},
        further_sources=("examples",),
    )
    dispatcher = local.outputs_of(ministack, "examined")["DispatcherFunction"]
    ministack.client("lambda").invoke(FunctionName=dispatcher)
    return "examined"


@pytest.fixture
def whole(ministack: LocalAws, whole_stack: str) -> Deployment:
    return find_deployment(stack_name=whole_stack, region=REGION, endpoint_url=ministack.endpoint_url)


def look(deployment: Deployment, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Examination:
    return Examination(deployment, clock)


def told(findings: list[Finding] | tuple[Finding, ...]) -> list[tuple[str, str]]:
    return [(finding.severity.value, finding.what) for finding in findings]


def only(findings: list[Finding], severity: str, *parts: str) -> Finding:
    """Return the one finding, after making sure that it says these things."""
    [found] = findings
    assert found.severity == severity, found
    for part in parts:
        assert part in found.what + found.do, found
    return found


def test_a_deployment_that_is_well_passes_every_check(whole: Deployment) -> None:
    diagnosis = examine(whole)

    assert told(diagnosis.findings) == []
    assert diagnosis.passed == tuple(CHECKS)
    assert diagnosis.healthy


def test_whoever_waits_is_told_which_check_is_made(whole: Deployment) -> None:
    begun: list[str] = []

    examine(whole, on_check=begun.append)

    assert begun == list(CHECKS)


def test_an_examination_writes_nothing(whole: Deployment) -> None:
    asked: set[str] = set()
    for service in ("dynamodb", "sqs", "lambda", "logs", "events"):
        whole.client(service).meta.events.register("before-call", lambda model, **_: asked.add(model.name))

    examine(whole)

    assert asked <= ACTIONS.keys()
    assert not [
        name for name in asked if not name.startswith(("Get", "Describe", "List", "Query", "Filter", "BatchGet"))
    ]


def test_what_several_checks_look_at_is_asked_once(whole: Deployment) -> None:
    asked: Counter[str] = Counter()
    for service in ("dynamodb", "lambda"):
        whole.client(service).meta.events.register("before-call", lambda model, **_: asked.update([model.name]))

    examine(whole)

    once = ("DescribeTable", "ListEventSourceMappings", "GetItem")
    assert {name: asked[name] for name in once} == dict.fromkeys(once, 1)
    assert asked["GetFunctionConfiguration"] == 2


# The queue


def test_a_queue_that_is_gone_is_told_once_and_the_table_is_looked_at_all_the_same(stack: Deployed) -> None:
    gone = replace(stack.deployment, queue_url=stack.deployment.queue_url + "-gone", dead_letter_queue_url=None)

    diagnosis = examine(gone)

    [found] = [each for each in diagnosis.findings if each.severity == "error"]
    assert found.check == "queue"
    assert f"There is no queue {gone.queue_url} in {REGION}." in found.what
    assert {"table", "indexes", "schedules"} <= set(diagnosis.passed)


@pytest.mark.parametrize(
    "url",
    [
        "https://sqs.eu-west-1.amazonaws.com/123456789012/queue",
        "https://eu-west-1.queue.amazonaws.com/123456789012/queue",
        "https://sqs.eu-west-1.api.aws/123456789012/queue",
    ],
)
def test_a_queue_of_another_region_is_told_without_asking_for_it(stack: Deployed, url: str) -> None:
    found = queues.queue(look(replace(stack.deployment, queue_url=url)))

    only(found, "error", "The queue is in eu-west-1, but us-east-1 is asked", "AWS_REGION")


def test_a_fifo_queue_is_told(stack: Deployed) -> None:
    url = stack.aws.client("sqs").create_queue(
        QueueName=f"doctor-{next(_names)}.fifo", Attributes={"FifoQueue": "true"}
    )["QueueUrl"]

    only(queues.queue(look(replace(stack.deployment, queue_url=url))), "error", "is a FIFO queue")


def set_queue(stack: Deployed, **attributes: str) -> None:
    stack.aws.client("sqs").set_queue_attributes(QueueUrl=stack.deployment.queue_url, Attributes=attributes)


def test_a_queue_without_a_dead_letter_queue_is_told_once(stack: Deployed) -> None:
    set_queue(stack, RedrivePolicy="")
    without = look(stack.found_without_a_stack())

    only(queues.queue(without), "warning", "has no dead-letter queue")
    assert queues.dead_letters(without) == []


@pytest.mark.parametrize(("receives", "minutes"), [(5, 1), (10, 7)])
def test_a_queue_that_gives_up_after_a_short_outage_is_told(stack: Deployed, receives: int, minutes: int) -> None:
    arn = stack.aws.client("sqs").get_queue_attributes(QueueUrl=stack.dead_letter_queue_url, AttributeNames=["All"])
    policy = {"deadLetterTargetArn": arn["Attributes"]["QueueArn"], "maxReceiveCount": receives}
    set_queue(stack, RedrivePolicy=json.dumps(policy))

    found = only(queues.queue(look(stack.deployment)), "warning", f"after {receives} receives (maxReceiveCount)")

    assert int(re.findall(r"outage of (\d+) minutes", found.what)[0]) == pytest.approx(minutes, abs=3)


def test_dead_letters_are_counted_and_left_where_they_are(stack: Deployed) -> None:
    assert queues.dead_letters(look(stack.deployment)) == []

    stack.bury(body("run-1"))
    only(queues.dead_letters(look(stack.deployment)), "warning", "1 message is on the dead-letter queue", "dlq show")
    stack.bury("x", "y")
    only(queues.dead_letters(look(stack.deployment)), "warning", "About 3 messages are on the dead-letter queue")


def test_a_dead_letter_queue_that_is_gone_is_told(stack: Deployed) -> None:
    stack.aws.client("sqs").delete_queue(QueueUrl=stack.dead_letter_queue_url)

    only(queues.dead_letters(look(stack.deployment)), "warning", "The dead-letter queue does not exist any more")


# What takes messages from it


def test_a_queue_that_nothing_reads_is_told(stack: Deployed) -> None:
    only(queues.event_source_mapping(look(stack.deployment)), "error", "has no event source mapping")


@pytest.fixture
def mapping(ministack: LocalAws, whole: Deployment) -> Iterator[Callable[..., None]]:
    """Change the event source mapping of the whole deployment, until the test ends."""
    client = ministack.client("lambda")
    [found] = look(whole).mappings()
    kept = {
        "BatchSize": found["BatchSize"],
        "MaximumBatchingWindowInSeconds": 0,
        "FunctionResponseTypes": found["FunctionResponseTypes"],
        "FilterCriteria": {"Filters": []},
        "Enabled": True,
    }

    def change(**changes: Any) -> None:
        client.update_event_source_mapping(UUID=found["UUID"], **changes)

    yield change
    change(**kept)


def test_a_mapping_that_is_disabled_is_told_with_the_command_unless_workers_take_the_messages(
    whole: Deployment, mapping: Callable[..., None]
) -> None:
    mapping(Enabled=False)

    assert queues.event_source_mapping(look(replace(whole, consumed_by_workers=True))) == []
    found = only(queues.event_source_mapping(look(whole)), "error", "disabled: no run is executed")

    assert re.search("update-event-source-mapping --enabled --uuid [0-9a-f-]{36}$", found.do)


def test_a_mapping_on_its_way_is_a_note(whole: Deployment) -> None:
    def creating(parsed: dict[str, Any]) -> None:
        parsed["EventSourceMappings"][0]["State"] = "Creating"

    with answering(whole.client("lambda"), "ListEventSourceMappings", creating):
        only(queues.event_source_mapping(look(whole)), "note", "is creating")


def test_what_lambda_says_of_a_queue_that_it_can_not_read_is_told(whole: Deployment) -> None:
    def problem(parsed: dict[str, Any]) -> None:
        parsed["EventSourceMappings"][0]["LastProcessingResult"] = "PROBLEM: Function call failed"

    with answering(whole.client("lambda"), "ListEventSourceMappings", problem):
        only(queues.event_source_mapping(look(whole)), "error", "PROBLEM: Function call failed")


def test_all_pages_of_mappings_are_read(whole: Deployment) -> None:
    pages = itertools.count()

    def paged(parsed: dict[str, Any]) -> None:
        if next(pages) == 0:
            parsed["NextMarker"] = "more"

    with answering(whole.client("lambda"), "ListEventSourceMappings", paged):
        assert len(look(whole).mappings()) == 2


def test_a_second_function_on_the_queue_is_told(ministack: LocalAws, whole: Deployment) -> None:
    client = ministack.client("lambda")
    second = client.create_event_source_mapping(
        EventSourceArn=look(whole).queue()["QueueArn"], FunctionName=whole.dispatcher_function, Enabled=True
    )
    try:
        [found] = [each for each in queues.event_source_mapping(look(whole)) if each.severity == "warning"]
        assert "2 functions take messages from the queue" in found.what
        assert str(whole.dispatcher_function) in found.what
    finally:
        client.delete_event_source_mapping(UUID=second["UUID"])


def test_a_consumer_that_can_not_answer_record_by_record_is_told(
    whole: Deployment, mapping: Callable[..., None]
) -> None:
    mapping(FunctionResponseTypes=[])

    only(queues.batches(look(whole)), "error", "lacks ReportBatchItemFailures")


def test_a_batch_that_is_larger_than_the_stack_allows_is_told(whole: Deployment, mapping: Callable[..., None]) -> None:
    mapping(BatchSize=100, MaximumBatchingWindowInSeconds=1)

    only(queues.batches(look(whole)), "warning", "up to 100 records")


def test_a_filter_that_deletes_messages_is_told(whole: Deployment, mapping: Callable[..., None]) -> None:
    mapping(FilterCriteria={"Filters": [{"Pattern": '{"body": {"version": [1]}}'}]})

    only(queues.batches(look(whole)), "warning", "has a filter")


@pytest.mark.parametrize(
    ("hidden", "window", "severity", "text"),
    [
        (361, 0, None, ""),
        (360, 0, None, ""),
        (359, 0, "warning", "less than six times the consumer's timeout of 60 s"),
        (360, 5, "warning", "the batch window of 5 s"),
        (365, 5, None, ""),
        (60, 0, "warning", "hides a message for 60 s"),
        (59, 0, "error", "less than the 60 s that the consumer may take"),
    ],
)
def test_a_visibility_timeout_below_six_times_the_functions_is_told(
    ministack: LocalAws,
    whole: Deployment,
    mapping: Callable[..., None],
    hidden: int,
    window: int,
    severity: str | None,
    text: str,
) -> None:
    sqs = ministack.client("sqs")
    mapping(MaximumBatchingWindowInSeconds=window)
    sqs.set_queue_attributes(QueueUrl=whole.queue_url, Attributes={"VisibilityTimeout": str(hidden)})
    try:
        found = queues.visibility_timeout(look(whole))
    finally:
        sqs.set_queue_attributes(QueueUrl=whole.queue_url, Attributes={"VisibilityTimeout": "360"})

    if severity is None:
        assert found == []
    else:
        only(found, severity, text, f"VisibilityTimeout to {360 + window} s")


# The functions


@pytest.mark.parametrize("check", ["consumer", "dispatcher"])
@pytest.mark.parametrize(
    ("changes", "variable"), [({"table": "other"}, "KUMOFIRE_TABLE"), ({"queue_url": ""}, "KUMOFIRE_QUEUE_URL")]
)
def test_a_function_that_works_on_another_table_or_queue_is_told(
    whole: Deployment, check: str, changes: dict[str, str], variable: str
) -> None:
    configuration = look(whole).consumer() if check == "consumer" else look(whole).dispatcher()

    only(functions._function(look(replace(whole, **changes)), check, configuration), "error", check, variable)


def test_the_same_queue_at_another_host_is_the_same_queue(whole: Deployment) -> None:
    elsewhere = replace(whole, queue_url=whole.queue_url.replace("127.0.0.1", "localhost"))

    assert functions._function(look(elsewhere), "consumer", look(whole).consumer()) == []


@pytest.mark.parametrize("changes", [{"State": "Failed", "StateReason": "no ENI"}, {"LastUpdateStatus": "Failed"}])
def test_a_function_that_can_not_be_started_is_told_with_lambdas_reason(
    whole: Deployment, changes: dict[str, str]
) -> None:
    with answering(whole.client("lambda"), "GetFunctionConfiguration", lambda parsed: parsed.update(changes)):
        only(functions.consumer(look(whole)), "error", changes.get("StateReason", "Lambda does not say why"))


def test_a_function_that_is_gone_is_told(whole: Deployment) -> None:
    diagnosis = examine(replace(whole, dispatcher_function="gone"))

    assert told(diagnosis.findings) == [("error", "The dispatcher's function gone does not exist any more.")]


def test_a_rule_that_is_disabled_is_told_with_the_command_that_enables_it(
    ministack: LocalAws, whole: Deployment
) -> None:
    events = ministack.client("events")
    events.disable_rule(Name=whole.dispatcher_rule)
    try:
        found = only(functions.dispatcher(look(whole)), "error", "is disabled")
    finally:
        events.enable_rule(Name=whole.dispatcher_rule)

    assert found.do == f"Enable it: aws events enable-rule --name {whole.dispatcher_rule}"


def test_a_rule_that_is_gone_is_told(whole: Deployment) -> None:
    only(functions.dispatcher(look(replace(whole, dispatcher_rule="gone"))), "error", "does not exist any more")


def test_a_dispatcher_that_is_silent_for_five_minutes_is_told(whole: Deployment) -> None:
    soon = datetime.now(UTC) + timedelta(minutes=4)
    assert functions.dispatcher(look(whole, lambda: soon)) == []

    # Later than any tick that MiniStack makes meanwhile.
    late = datetime.now(UTC) + timedelta(minutes=10)
    only(functions.dispatcher(look(whole, lambda: late)), "error", "The dispatcher has not run in the last 5 minutes")


def test_a_dispatcher_without_a_log_has_not_run(whole: Deployment) -> None:
    silent = look(replace(whole, dispatcher_log_group="/aws/lambda/gone"))

    only(functions.dispatcher(silent), "error", "has not run")


def test_a_dispatcher_that_starts_and_completes_nothing_is_told_with_its_log(
    ministack: LocalAws, whole: Deployment
) -> None:
    logs, group = ministack.client("logs"), f"failing-{next(_names)}"
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName="one")
    event = {"timestamp": to_ms(datetime.now(UTC)), "message": "START RequestId: 1 Version: $LATEST"}
    logs.put_log_events(logGroupName=group, logStreamName="one", logEvents=[event])

    only(functions.dispatcher(look(replace(whole, dispatcher_log_group=group))), "error", "completed no pass", group)


def test_an_empty_page_of_the_log_is_not_taken_for_its_end(whole: Deployment) -> None:
    pages = itertools.count()

    def paged(parsed: dict[str, Any]) -> None:
        if next(pages) == 0:
            parsed.update(events=[], nextToken="more")

    # MiniStack knows no such token, so what it makes of it is left out.
    with answering(whole.client("logs"), "FilterLogEvents", paged), without_token(whole.client("logs")):
        assert functions.dispatcher(look(whole)) == []


@contextlib.contextmanager
def without_token(client: Any) -> Iterator[None]:
    def forget(params: dict[str, Any], **_: Any) -> None:
        params.pop("nextToken", None)

    event = "provide-client-params.cloudwatch-logs.FilterLogEvents"
    client.meta.events.register(event, forget)
    try:
        yield
    finally:
        client.meta.events.unregister(event, forget)


def test_without_a_stack_the_functions_settings_are_found_by_the_queue(whole: Deployment) -> None:
    by_queue = Deployment(table=whole.table, queue_url=whole.queue_url, clients=whole.clients)

    diagnosis = examine(by_queue)

    [found] = diagnosis.findings
    assert (found.severity, found.check, "--stack-name" in found.do) == ("note", "stack", True)
    assert diagnosis.healthy
    assert set(CHECKS) - set(diagnosis.passed) == {"stack", "dispatcher"}


def test_a_stack_of_an_earlier_release_is_told(whole: Deployment) -> None:
    earlier = replace(whole, dispatcher_rule=None, missing_outputs=("DispatcherRule",))

    [found] = examine(earlier).findings

    only([found], "warning", "of an earlier release: it has no output DispatcherRule", "Update the stack")


def test_a_stack_of_an_earlier_release_is_well_once_it_is_updated_and_its_runs_are_listed(
    ministack: LocalAws, whole_stack: str
) -> None:
    cloudformation, name = ministack.client("cloudformation"), "earlier"
    uploaded = f"s3://{local.BUCKET}/{local.ARTIFACT}"
    now = local.for_local_aws(load_template(), code_uri=uploaded)
    before = copy.deepcopy(now)
    table = before["Resources"]["Table"]["Properties"]
    del table["GlobalSecondaryIndexes"][1], before["Outputs"]["DispatcherRule"]
    table["AttributeDefinitions"] = [each for each in table["AttributeDefinitions"] if "list_" not in str(each)]
    given = {
        "StackName": name,
        "Parameters": [{"ParameterKey": "JobsModule", "ParameterValue": "examples.demo_jobs:jobs"}],
        "Capabilities": ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
    }

    cloudformation.create_stack(TemplateBody=json.dumps(before), **given)
    cloudformation.get_waiter("stack_create_complete").wait(StackName=name, WaiterConfig={"Delay": 1})
    earlier = found_after_a_pass(ministack, name)
    assert [finding.check for finding in examine(earlier).findings] == ["stack", "indexes"]
    failed = earlier.jobs().create("absent", delay=timedelta(hours=1))
    later = earlier.jobs(clock=lambda: datetime.now(UTC) + timedelta(hours=2))
    later.consume(json.loads(body(failed)))

    cloudformation.update_stack(TemplateBody=json.dumps(now), **given)
    cloudformation.get_waiter("stack_update_complete").wait(StackName=name, WaiterConfig={"Delay": 1})
    updated = found_after_a_pass(ministack, name)
    assert (updated.table, updated.queue_url) == (earlier.table, earlier.queue_url)
    assert told(examine(updated).findings) == []
    assert [run.id for run in updated.jobs().list_runs(status="failed").runs] == [failed]


def found_after_a_pass(aws: LocalAws, name: str) -> Deployment:
    found = find_deployment(stack_name=name, region=REGION, endpoint_url=aws.endpoint_url)
    aws.client("lambda").invoke(FunctionName=str(found.dispatcher_function))
    return found


# The table


def test_a_table_that_is_gone_is_told(stack: Deployed) -> None:
    diagnosis = examine(replace(stack.deployment, table="gone"))

    assert ("error", f"There is no table gone in {REGION}.") in told(diagnosis.findings)


def a_table(stack: Deployed, **changes: Any) -> Deployment:
    """Make a table as the template's with changes; return a deployment on it."""
    properties = load_template()["Resources"]["Table"]["Properties"]
    names = ("BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes")
    name = f"doctor-{next(_names)}"
    given = {each: properties[each] for each in names} | changes
    used = {key["AttributeName"] for each in (given, *given["GlobalSecondaryIndexes"]) for key in each["KeySchema"]}
    given["AttributeDefinitions"] = [each for each in given["AttributeDefinitions"] if each["AttributeName"] in used]
    stack.aws.client("dynamodb").create_table(TableName=name, **given)
    return replace(stack.deployment, table=name)


def index(number: int, **changes: Any) -> dict[str, Any]:
    return load_template()["Resources"]["Table"]["Properties"]["GlobalSecondaryIndexes"][number] | changes


def test_a_table_of_something_else_is_told(stack: Deployed) -> None:
    other = a_table(stack, KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}])

    only(tables.table(look(other)), "error", "is not a table of Kumofire Jobs")


def test_a_table_that_keeps_what_expired_and_can_not_be_restored_is_told(stack: Deployed) -> None:
    assert tables.table(look(stack.deployment)) == []

    found = tables.table(look(a_table(stack)))

    assert [each.what.partition(" is ")[0] for each in found] == ["Time to live", "Point-in-time recovery"]
    assert {each.severity for each in found} == {"warning"}


def test_a_time_to_live_of_another_attribute_is_told(stack: Deployed) -> None:
    table = a_table(stack)
    stack.aws.client("dynamodb").update_time_to_live(
        TableName=table.table, TimeToLiveSpecification={"Enabled": True, "AttributeName": "other"}
    )

    assert "not enabled on expires_at" in tables.table(look(table))[0].what


def test_an_index_that_is_missing_is_told_with_what_it_costs(stack: Deployed) -> None:
    assert tables.indexes(look(stack.deployment)) == []

    only(
        tables.indexes(look(a_table(stack, GlobalSecondaryIndexes=[index(0)]))),
        "warning",
        "has no index listing",
        "can't be listed",
        "made in place",
    )
    only(
        tables.indexes(look(a_table(stack, GlobalSecondaryIndexes=[index(1)]))),
        "error",
        "has no index wake",
        "the dispatcher finds nothing",
    )


@pytest.mark.parametrize(("number", "severity"), [(0, "error"), (1, "warning")])
def test_an_index_that_is_still_being_filled_is_told(stack: Deployed, number: int, severity: str) -> None:
    def creating(parsed: dict[str, Any]) -> None:
        parsed["Table"]["GlobalSecondaryIndexes"][number]["IndexStatus"] = "CREATING"

    with answering(stack.deployment.client("dynamodb"), "DescribeTable", creating):
        only(tables.indexes(look(stack.deployment)), severity, "is being filled", "Wait")


def test_a_listing_without_what_is_read_from_it_is_told(stack: Deployed) -> None:
    short = index(1, Projection={"ProjectionType": "KEYS_ONLY"})
    all_of_it = index(1, Projection={"ProjectionType": "ALL"})

    found = tables.indexes(look(a_table(stack, GlobalSecondaryIndexes=[index(0), short])))

    only(found, "warning", "The index listing has other keys or attributes")
    assert tables.indexes(look(a_table(stack, GlobalSecondaryIndexes=[index(0), all_of_it]))) == []


def test_a_table_that_is_not_active_is_told(stack: Deployed) -> None:
    def archived(parsed: dict[str, Any]) -> None:
        parsed["Table"]["TableStatus"] = "ARCHIVED"

    with answering(stack.deployment.client("dynamodb"), "DescribeTable", archived):
        only(tables.table(look(stack.deployment)), "error", "The table is archived")


# What is stored


def test_wake_ups_that_the_dispatcher_has_left_for_three_minutes_are_told(stack: Deployed) -> None:
    clock = Clock()
    jobs = stack.deployment.jobs(clock=clock)
    first = jobs.create("email", delay=timedelta(hours=1))
    jobs.create("email", delay=timedelta(hours=1, minutes=1))
    clock.advance(hours=1, minutes=3, seconds=-1)
    assert runs.wake_ups(look(stack.deployment, clock)) == []

    clock.advance(seconds=1)
    only(runs.wake_ups(look(stack.deployment, clock)), "error", "1 wake-up by now", f"of run {first}, 3 minutes ago")
    clock.advance(minutes=1)
    only(runs.wake_ups(look(stack.deployment, clock)), "error", "2 wake-ups by now", f"of run {first}, 4 minutes ago")
    jobs.dispatch()
    assert runs.wake_ups(look(stack.deployment, clock)) == []


def test_a_schedule_that_the_dispatcher_has_left_is_told(stack: Deployed) -> None:
    clock = Clock()
    schedule = stack.deployment.jobs(clock=clock).create_schedule(
        "email", schedule_type="interval", schedule_expr="rate(1 hour)"
    )
    clock.advance(hours=2)

    only(runs.wake_ups(look(stack.deployment, clock)), "error", f"of schedule {schedule}")


def test_more_wake_ups_than_are_counted_are_at_least_that_many(
    stack: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "WAKE_UPS_COUNTED", 2)
    clock = Clock()
    jobs = stack.deployment.jobs(clock=clock, wake_shards=1)
    for _ in range(3):
        jobs.create("email", delay=timedelta(hours=1))
    clock.advance(hours=2)

    only(runs.wake_ups(look(stack.deployment, clock)), "error", "at least 2 wake-ups")


def settings(deployment: Deployment, number: Any) -> None:
    item = {"pk": {"S": "settings#wake"}, "sk": {"S": "settings"}, "schema": {"N": "1"}, "wake_shards": number}
    deployment.client("dynamodb").put_item(TableName=deployment.table, Item=item)


def test_partitions_that_were_lowered_by_hand_are_told_with_a_run_that_waits_there(stack: Deployed) -> None:
    jobs = stack.deployment.jobs(wake_shards=64)
    ids = {jobs.create("email") for _ in range(20)}
    assert runs.partitions(look(stack.deployment)) == []

    settings(stack.deployment, {"N": "8"})
    found = only(runs.partitions(look(stack.deployment)), "error", "behind the 8 that the dispatcher reads", "lowered")

    assert re.search("for example ([0-9a-f]+):", found.what)[1] in ids  # type: ignore[index]


def test_a_number_of_partitions_that_is_no_number_is_told(stack: Deployed) -> None:
    settings(stack.deployment, {"S": "many"})

    only(runs.partitions(look(stack.deployment)), "warning", "holds no whole number", "reads all 1000")


def test_a_consumer_that_spreads_runs_further_than_is_read_is_told(whole: Deployment) -> None:
    assert runs.partitions(look(whole)) == []
    settings(whole, {"N": "8"})

    def fewer(parsed: dict[str, Any]) -> None:
        if not parsed["FunctionArn"].endswith(":1"):  # the dispatcher, which has no version
            parsed["Environment"]["Variables"]["KUMOFIRE_WAKE_SHARDS"] = "8"

    with answering(whole.client("lambda"), "GetFunctionConfiguration", fewer):
        only(runs.partitions(look(whole)), "error", "over 16 partitions", "the dispatcher reads 8")


def test_a_run_that_is_due_for_ten_minutes_and_has_not_started_is_told(stack: Deployed) -> None:
    clock = Clock()
    jobs = stack.deployment.jobs(clock=clock)
    first = jobs.create("email")
    clock.advance(minutes=2)
    jobs.create("report")
    jobs.create("report", delay=timedelta(days=2))
    clock.advance(minutes=8, seconds=-1)
    assert runs.runs(look(stack.deployment, clock)) == []

    clock.advance(seconds=1)
    found = only(runs.runs(look(stack.deployment, clock)), "warning", "1 of 3 unfinished runs", f"{first} of job email")

    assert "due since 2026-03-14 12:00 UTC" in found.what


def test_a_run_that_is_executed_or_parked_is_not_late(stack: Deployed) -> None:
    clock = Clock()
    jobs = stack.deployment.jobs(clock=clock)
    for change in ({"status": {"S": "running"}}, {"parked": {"N": "1"}}):
        run_id = jobs.create("email")
        key = {"pk": {"S": f"run#{run_id}"}, "sk": {"S": "run"}}
        dynamodb = stack.deployment.client("dynamodb")
        item = dynamodb.get_item(TableName=stack.deployment.table, Key=key)["Item"]
        dynamodb.put_item(TableName=stack.deployment.table, Item=item | change)
    clock.advance(hours=1)

    assert runs.runs(look(stack.deployment, clock)) == []


def schedule_item(stack: Deployed, schedule_id: str, **changes: Any) -> None:
    dynamodb, key = (
        stack.deployment.client("dynamodb"),
        {"pk": {"S": f"schedule#{schedule_id}"}, "sk": {"S": "schedule"}},
    )
    item = dynamodb.get_item(TableName=stack.deployment.table, Key=key)["Item"]
    item = {name: value for name, value in (item | changes).items() if value is not None}
    dynamodb.put_item(TableName=stack.deployment.table, Item=item)


HOURLY = {"schedule_type": "interval", "schedule_expr": "rate(1 hour)"}
PARKED = {"next_run_at": None, "wake_at": {"N": "253402300799999"}}


def test_a_schedule_that_is_well_or_disabled_is_not_told(stack: Deployed) -> None:
    jobs = stack.deployment.jobs()
    jobs.create_schedule("email", **HOURLY)
    jobs.disable_schedule(jobs.create_schedule("email", **HOURLY))

    assert runs.schedules(look(stack.deployment)) == []


def test_an_enabled_schedule_that_never_fires_is_told_by_its_key(stack: Deployed) -> None:
    jobs = stack.deployment.jobs()
    over = jobs.create_schedule("email", schedule_key="over", **HOURLY)
    broken = jobs.create_schedule("email", schedule_key="broken", **HOURLY)
    ended = {"end_at": {"N": str(to_ms(datetime.now(UTC)) - 86_400_000)}}
    schedule_item(stack, over, **PARKED, **ended)
    schedule_item(stack, broken, **PARKED)

    found = only(runs.schedules(look(stack.deployment)), "warning", "2 enabled schedules have never fired")

    assert re.search("run time: (broken, over|over, broken)[.]", found.what)


def test_a_schedule_that_has_fired_for_the_last_time_is_a_note(stack: Deployed) -> None:
    clock = Clock()
    jobs = stack.deployment.jobs(clock=clock)
    jobs.create_schedule("email", schedule_key="once", schedule_type="once", schedule_expr=clock())
    jobs.dispatch()

    only(runs.schedules(look(stack.deployment, clock)), "note", "1 enabled schedule have no occurrence left: once.")


@pytest.mark.parametrize(
    "change",
    [
        {"missed": {"S": "sometimes"}},
        {"schedule_expr": {"S": "every now and then"}},
        {"schedule_type": {"S": "cron"}, "schedule_expr": {"S": "0 0 31 2 *"}, "timezone": {"S": "Mars/Olympus"}},
    ],
    ids=["choice", "expression", "zone"],
)
def test_a_schedule_that_can_not_be_read_is_told(stack: Deployed, change: dict[str, Any]) -> None:
    schedule = stack.deployment.jobs().create_schedule("email", **HOURLY)
    schedule_item(stack, schedule, **change)

    only(runs.schedules(look(stack.deployment)), "error", "1 schedule can't be read", schedule)


def test_a_schedule_of_a_later_release_is_told(stack: Deployed) -> None:
    schedule = stack.deployment.jobs().create_schedule("email", **HOURLY)
    schedule_item(stack, schedule, schema={"N": "99"})

    only(runs.schedules(look(stack.deployment)), "warning", "written by a later release", schedule)


def test_of_many_schedules_a_finding_names_five(stack: Deployed) -> None:
    jobs = stack.deployment.jobs()
    for number in range(7):
        schedule_item(stack, jobs.create_schedule("email", schedule_key=f"k{number}", **HOURLY), **PARKED)

    found = only(runs.schedules(look(stack.deployment)), "warning", "7 enabled schedules", "and 2 more")

    assert len(re.findall(r"k\d", found.what)) == 5


# Surroundings


@pytest.fixture
def key(ministack: LocalAws) -> str:
    return str(ministack.client("kms").create_key()["KeyMetadata"]["Arn"])


def with_key(whole: Deployment, key: str) -> Any:
    """The whole deployment with this payload key, which the consumer has as well."""

    def has_it(parsed: dict[str, Any]) -> None:
        if "Error" not in parsed:
            parsed["Environment"]["Variables"]["KUMOFIRE_PAYLOAD_KEY_ARN"] = key

    return answering(whole.client("lambda"), "GetFunctionConfiguration", has_it)


@pytest.fixture
def bucket(ministack: LocalAws) -> str:
    ministack.client("s3").create_bucket(Bucket="large-values")
    return "large-values"


def with_bucket(whole: Deployment, bucket: str) -> Any:
    """The whole deployment, whose consumer has this bucket."""

    def has_it(parsed: dict[str, Any]) -> None:
        if "Error" not in parsed:
            parsed["Environment"]["Variables"]["KUMOFIRE_BUCKET"] = bucket

    return answering(whole.client("lambda"), "GetFunctionConfiguration", has_it)


def test_a_bucket_that_is_there_passes_and_must_be_the_consumers(whole: Deployment, bucket: str) -> None:
    assert surroundings.bucket(look(whole)) == []
    with with_bucket(whole, bucket):
        assert surroundings.bucket(look(replace(whole, bucket=bucket))) == []
        only(surroundings.bucket(look(whole)), "warning", f"large payloads in {bucket}, and here none is named")
    only(surroundings.bucket(look(replace(whole, bucket=bucket))), "warning", f"in no bucket, and here {bucket}")


def test_a_bucket_that_is_not_there_is_told(whole: Deployment) -> None:
    with with_bucket(whole, "never-made"):
        only(surroundings.bucket(look(replace(whole, bucket="never-made"))), "error", "There is no bucket never-made")


def test_a_payload_key_that_can_be_used_passes_and_is_found_at_the_consumer(whole: Deployment, key: str) -> None:
    assert surroundings.payload_key(look(whole)) == []
    with with_key(whole, key):
        assert surroundings.payload_key(look(replace(whole, payload_key_arn=key))) == []
        only(surroundings.payload_key(look(whole)), "warning", f"encrypts with {key}, and here no key is set")


@pytest.mark.parametrize(
    ("change", "state", "do"),
    [
        ("disable_key", "Disabled", "aws kms enable-key"),
        ("schedule_key_deletion", "PendingDeletion", "aws kms cancel-key-deletion"),
    ],
)
def test_a_payload_key_that_can_not_be_used_is_told(
    ministack: LocalAws, whole: Deployment, key: str, change: str, state: str, do: str
) -> None:
    getattr(ministack.client("kms"), change)(KeyId=key)

    with with_key(whole, key):
        only(surroundings.payload_key(look(whole)), "error", f"{key}, which is {state}", do)


def test_a_payload_key_that_does_not_exist_is_told(whole: Deployment, key: str) -> None:
    absent = key.rpartition("/")[0] + "/00000000-0000-0000-0000-000000000000"

    with with_key(whole, absent):
        only(surroundings.payload_key(look(whole)), "error", f"{absent}, which does not exist")


@pytest.mark.parametrize(
    ("operation", "action"),
    [("DescribeKey", "kms:DescribeKey"), ("GenerateDataKey", "kms:GenerateDataKey"), ("Decrypt", "kms:Decrypt")],
)
def test_a_payload_key_whose_use_is_denied_is_told(whole: Deployment, key: str, operation: str, action: str) -> None:
    client = whole.clients.client("kms", region=REGION)

    with with_key(whole, key), refusing(client, "AccessDeniedException", operation):
        [found] = examine(replace(whole, payload_key_arn=key)).findings

    only([found], "warning", f"lack {action}, so the check 'payload-key'", "the key's own policy refuses it")


@pytest.mark.parametrize(
    ("seconds", "severity", "text"),
    [
        (0, None, ""),
        (5, "warning", "ahead of AWS's"),
        (-5, "warning", "behind AWS's"),
        (3600, "error", "ahead of AWS's"),
        (-3600, "error", "behind AWS's"),
    ],
)
def test_a_clock_that_is_apart_from_that_of_aws_is_told(
    stack: Deployed, seconds: int, severity: str | None, text: str
) -> None:
    found = surroundings.clock(look(stack.deployment, lambda: datetime.now(UTC) + timedelta(seconds=seconds)))

    if severity is None:
        assert found == []
    else:
        only(found, severity, text, "Synchronise the clock")


def test_the_answer_that_refuses_a_wrong_clock_tells_how_wrong_it_is(stack: Deployed) -> None:
    url = stack.deployment.queue_url + "-gone"  # the error of any request has a date as well

    found = surroundings.clock(
        look(replace(stack.deployment, queue_url=url), lambda: datetime.now(UTC) + timedelta(minutes=20))
    )

    only(found, "error", "ahead of AWS's")


AT_NOON = datetime(2026, 3, 14, 12, 0, 0, tzinfo=UTC)
NOON = "Sat, 14 Mar 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("before", "after", "date", "apart"),
    [
        (0, 0, NOON, 0),
        (0.999, 0.999, NOON, 0),
        (2, 2.5, NOON, 1),
        (-3, -2, NOON, -2),
        # A slow answer proves nothing.
        (-30, 30, NOON, 0),
        (900, 900, None, 0),
        (900, 900, "yesterday", 0),
    ],
)
def test_clocks_are_apart_by_what_whole_seconds_and_a_slow_answer_can_not_explain(
    before: float, after: float, date: str | None, apart: float
) -> None:
    moments = [AT_NOON + timedelta(seconds=each) for each in (before, after)]

    assert surroundings.seconds_apart(*moments, date) == timedelta(seconds=apart)


# What may not be asked, or can't be


@pytest.mark.parametrize(("operation", "known"), ACTIONS.items())
def test_a_permission_that_is_missing_is_told_and_stops_no_other_check(
    whole: Deployment, key: str, bucket: str, operation: str, known: tuple[str, tuple[str, ...]]
) -> None:
    stored_schedule(whole)
    action, outputs = known
    with contextlib.ExitStack() as refusals, with_key(whole, key), with_bucket(whole, bucket):
        refused = []
        for client in clients_in_use(whole):
            refused.append(refusals.enter_context(refusing(client, "AccessDeniedException", operation)))
        diagnosis = examine(replace(whole, payload_key_arn=key, bucket=bucket))

    assert any(refused), "no check asks this"
    [found] = diagnosis.findings
    only([found], "warning", f"lack {action}", *outputs)
    assert set(re.findall("'([a-z-]+)'", found.what)) | set(diagnosis.passed) == set(CHECKS)


def clients_in_use(deployment: Deployment) -> list[Any]:
    services = ("dynamodb", "sqs", "lambda", "logs", "events", "s3")
    return [*map(deployment.client, services), deployment.clients.client("kms", region=REGION)]


def stored_schedule(deployment: Deployment) -> None:
    deployment.jobs().upsert_schedule("email", schedule_key="doctors", **HOURLY)


def test_the_policies_that_a_finding_names_have_the_permission() -> None:
    resources = load_template()["Resources"]
    for action, outputs in ACTIONS.values():
        for output in outputs:
            document = resources[output.removesuffix("Arn")]["Properties"]["PolicyDocument"]
            assert f"'{action}'" in str(document), (action, output)
    reader = str(resources["ReaderPolicy"]["Properties"]["PolicyDocument"])
    for action, outputs in ACTIONS.values():
        assert ("ReaderPolicyArn" in outputs) == (f"'{action}'" in reader), action


def test_a_service_that_is_out_of_reach_is_told_once_and_waited_for_once(ministack: LocalAws) -> None:
    asked: list[str] = []
    clients = clients_of(ministack, endpoint_url="http://127.0.0.1:9")
    for service in ("dynamodb", "sqs", "lambda"):
        clients.client(service).meta.events.register("before-call", lambda model, **_: asked.append(model.name))

    url = "http://127.0.0.1:9/000000000000/queue"
    diagnosis = examine(Deployment(table="t", queue_url=url, dead_letter_queue_url=f"{url}-dead", clients=clients))

    assert [finding.check for finding in diagnosis.findings if finding.severity == "error"] == ["requests"]
    assert asked == ["GetQueueAttributes", "DescribeTable"]
    assert "AWS_ENDPOINT_URL" in diagnosis.findings[0].do


@pytest.mark.parametrize("code", ["ExpiredTokenException", "UnrecognizedClientException", "RequestTimeTooSkewed"])
def test_credentials_that_aws_refuses_end_the_examination(stack: Deployed, code: str) -> None:
    with refusing(stack.deployment.client("dynamodb"), code) as refused:
        diagnosis = examine(stack.deployment)

    assert len(refused) == 1
    assert [finding.check for finding in diagnosis.findings] == ["requests", "stack"]


def test_an_error_of_aws_is_a_finding_with_advice(stack: Deployed) -> None:
    client = stack.deployment.client("dynamodb")

    with refusing(client, "ProvisionedThroughputExceededException", "DescribeTimeToLive"):
        diagnosis = examine(stack.deployment)

    [found] = [each for each in diagnosis.findings if each.check == "requests"]
    only([found], "error", "ProvisionedThroughputExceeded", "asked too fast")


def test_the_worst_comes_first(stack: Deployed) -> None:
    stack.bury("x")

    severities = [finding.severity.value for finding in examine(stack.deployment).findings]

    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert set(severities) == {"error", "warning", "note"}


def test_only_notes_are_healthy() -> None:
    note = Finding(severity=Severity.NOTE, check="stack", what="", do="")

    assert Diagnosis(findings=(note,), passed=()).healthy
    for severity in (Severity.ERROR, Severity.WARNING):
        assert not Diagnosis(findings=(note, replace(note, severity=severity)), passed=()).healthy


def test_the_page_on_the_doctor_explains_every_check() -> None:
    page = (PROJECT / "docs/doctor.md").read_text()

    assert not [name for name in (*CHECKS, "permissions", "requests") if f"`{name}`" not in page]

"""What is deployed: small, complete, and of nothing but this project and its locked dependencies."""

from __future__ import annotations

import importlib.util
import io
import json
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from examples.deployment import PROJECT, load_template
from tests.built import ARCHITECTURE, RUNTIME, SERVICES, build_artifact
from tools import artifact as recipe

# Each request that the code makes, as its client's method, and what boto3 itself may need of credentials.
CALLS = {
    "dynamodb": (
        "batch_execute_statement",
        "batch_get_item",
        "delete_item",
        "get_item",
        "put_item",
        "query",
        "update_item",
    ),
    "sqs": ("send_message", "send_message_batch"),
    "sts": ("assume_role", "assume_role_with_web_identity"),
    "lambda": ("invoke",),
}
EXPECTED_PACKAGES = {
    "aws_lambda_powertools",
    "boto3",
    "botocore",
    "cronsim",
    "dateutil",
    "handler",
    "jmespath",
    "kumofire_core",
    "msgspec",
    "s3transfer",
    "six",
    "typing_extensions",
    "tzdata",
    "urllib3",
}
MAX_ZIPPED_BYTES = 6_000_000
ENCRYPTION_PACKAGES = {
    "_cffi_backend",
    "attr",
    "attrs",
    "aws_encryption_sdk",
    "cffi",
    "cryptography",
    "pycparser",
    "wrapt",
    "wrapt-stubs",
}
MAX_ZIPPED_BYTES_WITH_ENCRYPTION = 12_500_000


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_artifact(tmp_path_factory.mktemp("built") / "artifact")


@pytest.fixture(scope="module")
def encrypting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``ENCRYPTION=true sam build`` makes."""
    return build_artifact(tmp_path_factory.mktemp("built") / "encrypting", encryption=True)


def run_alone(artifact: Path, code: str, **environment: str) -> str:
    """Run code with the artifact and the standard library on the path, and nothing else; return what it prints."""
    isolated = [sys.executable, "-I", "-S", "-B", "-W", "error", "-c"]
    ended = subprocess.run(
        [*isolated, f"import sys; sys.path.insert(0, {str(artifact)!r})\n{code}"],
        capture_output=True,
        text=True,
        check=False,
        env={"AWS_DEFAULT_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
        | environment,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def zipped(artifact: Path) -> bytes:
    """Return the artifact zipped as SAM zips it: Python's default compression."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(artifact.rglob("*")):
            archive.write(path, path.relative_to(artifact))
    return buffer.getvalue()


def test_the_artifact_holds_this_project_and_its_dependencies_and_nothing_else(artifact: Path) -> None:
    assert packages(artifact) == EXPECTED_PACKAGES
    assert distributions(artifact) == locked("runtime")


def packages(artifact: Path) -> set[str]:
    names = {path.name for path in artifact.iterdir() if not path.name.endswith(".dist-info")}
    return {re.sub(r"(\.[a-z0-9_-]+)?\.(py|so)$", "", name) for name in names} - {"__pycache__"}


def distributions(artifact: Path) -> set[str]:
    return {path.name for path in artifact.glob("*.dist-info")}


def locked(lock: str) -> set[str]:
    """Return the folders of metadata that the distributions of a lock leave."""
    text = (PROJECT / f"requirements/{lock}.txt").read_text()
    pinned = re.findall(r"^([a-z0-9-]+)==([^ ]+)", text, re.MULTILINE)
    return {f"{name.replace('-', '_')}-{version}.dist-info" for name, version in pinned}


def test_the_lock_with_encryption_is_the_other_one_and_what_encryption_needs() -> None:
    def pins(lock: str) -> dict[str, str]:
        text = (PROJECT / f"requirements/{lock}.txt").read_text()
        return dict(re.findall(r"^([a-z0-9-]+==[^ ]+).*\n((?: +--hash.*\n)+)", text, re.MULTILINE))

    more = pins("encryption")

    assert pins("runtime").items() <= more.items()
    assert more.items() <= pins("dev").items()


@pytest.mark.long
def test_a_build_for_encryption_adds_the_sdk_and_what_it_needs_and_nothing_else(encrypting: Path) -> None:
    assert packages(encrypting) == EXPECTED_PACKAGES | ENCRYPTION_PACKAGES
    assert distributions(encrypting) == locked("encryption")
    assert len(zipped(encrypting)) < MAX_ZIPPED_BYTES_WITH_ENCRYPTION


@pytest.mark.parametrize("function", ["consumer", "dispatcher"])
def test_a_function_with_a_payload_key_starts_with_its_cipher_and_without_one_loads_none_of_it(
    encrypting: Path, function: str
) -> None:
    code = (
        f"import handler.{function}\nfrom handler.jobs import jobs\n"
        "print(type(jobs._store.cipher).__name__, 'aws_encryption_sdk' in sys.modules, 'cryptography' in sys.modules)"
    )
    settings = {"KUMOFIRE_TABLE": "table", "KUMOFIRE_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/1/queue"}
    key = {"KUMOFIRE_PAYLOAD_KEY_ARN": "arn:aws:kms:eu-central-1:123456789012:key/1234abcd"}

    assert run_alone(encrypting, code, **settings, **key) == "EnvelopeCipher True True\n"
    assert run_alone(encrypting, code, **settings, KUMOFIRE_PAYLOAD_KEY_ARN="") == "NoneType False False\n"


def test_a_payload_key_without_the_library_for_it_says_what_to_build(artifact: Path) -> None:
    code = """
from kumofire_core import ConfigurationError, Jobs
try:
    Jobs.from_env()
except ConfigurationError as error:
    print(error)
"""
    settings = {"KUMOFIRE_TABLE": "table", "KUMOFIRE_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/1/queue"}
    key = {"KUMOFIRE_PAYLOAD_KEY_ARN": "arn:aws:kms:eu-central-1:123456789012:key/1234abcd"}

    said = run_alone(artifact, code, **settings, **key)

    assert "KUMOFIRE_PAYLOAD_KEY_ARN is set" in said
    assert "ENCRYPTION=true sam build" in said


FROM_OUTSIDE = ("cli", "console", "deployment", "testing", "text.py")


def test_every_source_file_that_a_function_may_import_is_shipped(artifact: Path) -> None:
    from_outside = [PROJECT / "kumofire_core" / name for name in FROM_OUTSIDE]
    for folder in ("handler", "kumofire_core"):
        files = [path for path in (PROJECT / folder).rglob("*.py") if not {path, *path.parents} & {*from_outside}]
        shipped = {path.relative_to(artifact) for path in (artifact / folder).rglob("*.py")}
        assert shipped == {path.relative_to(PROJECT) for path in files}


def test_what_looks_at_a_deployment_from_outside_is_not_shipped(artifact: Path) -> None:
    assert all((PROJECT / "kumofire_core" / name).exists() for name in FROM_OUTSIDE)
    assert not [name for name in FROM_OUTSIDE if (artifact / "kumofire_core" / name).exists()]


def test_the_artifact_stays_small_enough_to_start_fast(artifact: Path) -> None:
    assert len(zipped(artifact)) < MAX_ZIPPED_BYTES


def test_equal_sources_make_equal_artifacts(artifact: Path, tmp_path: Path) -> None:
    # So a deployment without changes uploads nothing, and both functions share one upload.
    again = build_artifact(tmp_path / "again")

    assert zipped(again) == zipped(artifact)


def test_the_artifact_starts_both_functions_by_itself(artifact: Path) -> None:
    printed = run_alone(
        artifact,
        "import handler.consumer, handler.dispatcher\n"
        "print(handler.consumer.handler({'Records': []}, type('Context', (), {\n"
        "    'function_name': 'f', 'memory_limit_in_mb': 128, 'invoked_function_arn': 'arn', 'aws_request_id': 'r',\n"
        "    'get_remaining_time_in_millis': lambda self: 30000})()))\n"
        "files = [getattr(module, '__file__', None) or '' for module in list(sys.modules.values())]\n"
        "assert not [file for file in files if 'site-packages' in file]",
        KUMOFIRE_TABLE="table",
        KUMOFIRE_QUEUE_URL="https://sqs.eu-central-1.amazonaws.com/123456789012/queue",
    )

    assert printed.splitlines()[-1] == "{'batchItemFailures': []}"


def test_what_is_imported_at_a_cold_start_comes_as_byte_code_that_needs_no_check(artifact: Path) -> None:
    sources = [path for path in artifact.rglob("*.py") if "vendored" not in path.parts]
    missing = [path for path in sources if not Path(importlib.util.cache_from_source(str(path))).is_file()]
    flags = {path.read_bytes()[4:8] for path in artifact.rglob("*.pyc")}

    assert not missing
    # Hash-based and unchecked: valid whatever date a file has after it was unpacked.
    assert flags == {b"\x01\x00\x00\x00"}
    assert {path.read_bytes()[:4] for path in artifact.rglob("*.pyc")} == {importlib.util.MAGIC_NUMBER}


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The recipe, where no variable names an interpreter."""
    monkeypatch.delenv("BYTECODE_PYTHON", raising=False)
    return recipe


def test_without_an_interpreter_of_the_runtime_there_is_no_byte_code_rather_than_a_wrong_one(
    builder: ModuleType,
) -> None:
    assert builder.interpreter_of("python3.99") is None
    assert builder.interpreter_of(RUNTIME) is not None


def test_a_build_without_byte_code_warns_of_it(
    builder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dependencies").mkdir()
    monkeypatch.setattr(builder, "built_dependencies", lambda *_: tmp_path / "dependencies")

    builder.build(
        tmp_path / "target", PROJECT / "requirements/runtime.txt", "python3.99", ARCHITECTURE, ["sqs"], tmp_path
    )

    assert capsys.readouterr().err.startswith("warning: no python3.99 found here")
    assert not list((tmp_path / "target").rglob("*.pyc"))


def test_boto3_makes_the_clients_and_botocore_every_request_that_the_code_makes(artifact: Path) -> None:
    # Serialized against what the uncut botocore makes of the same parameters, without a network.
    code = REQUESTS.replace("CALLS", repr(CALLS))
    alone = json.loads(run_alone(artifact, code))
    uncut = json.loads(
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"AWS_DEFAULT_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"},
        ).stdout
    )

    assert set(alone) == {f"{service}.{call}" for service, calls in CALLS.items() for call in calls}
    assert alone == uncut


REQUESTS = """
import json
import boto3

PARAMETERS = {
    "batch_execute_statement": {"Statements": [{"Statement": "UPDATE t SET a=1 WHERE pk='x'"}]},
    "batch_get_item": {"RequestItems": {"t": {"Keys": [{"pk": {"S": "x"}}]}}},
    "delete_item": {"TableName": "t", "Key": {"pk": {"S": "x"}}},
    "get_item": {"TableName": "t", "Key": {"pk": {"S": "x"}}},
    "put_item": {"TableName": "t", "Item": {"pk": {"S": "x"}}},
    "query": {"TableName": "t", "KeyConditionExpression": "pk = :pk"},
    "update_item": {"TableName": "t", "Key": {"pk": {"S": "x"}}},
    "send_message": {"QueueUrl": "https://sqs.eu-central-1.amazonaws.com/1/q", "MessageBody": "x"},
    "send_message_batch": {
        "QueueUrl": "https://sqs.eu-central-1.amazonaws.com/1/q", "Entries": [{"Id": "0", "MessageBody": "x"}]},
    "invoke": {"FunctionName": "f", "InvocationType": "Event", "Payload": b"{}"},
    "assume_role": {"RoleArn": "arn:aws:iam::123456789012:role/r", "RoleSessionName": "session"},
    "assume_role_with_web_identity": {
        "RoleArn": "arn:aws:iam::123456789012:role/r", "RoleSessionName": "session", "WebIdentityToken": "token"},
}
made = {}

class Sent(Exception):
    pass

def keep(request, **_):
    made[current] = [request.method, request.url, str(request.body), request.headers.get("X-Amz-Target")]
    made[current] = [part.decode() if isinstance(part, bytes) else part for part in made[current]]
    raise Sent

for service, calls in CALLS.items():
    client = boto3.client(service)
    client.meta.events.register("before-send", keep)
    for call in calls:
        current = f"{service}.{call}"
        try:
            getattr(client, call)(**PARAMETERS[call])
        except Sent:
            pass
print(json.dumps(made))
"""


def test_a_service_that_is_kept_keeps_all_its_operations_and_its_endpoint_in_every_region(artifact: Path) -> None:
    code = """
import json, boto3
session = boto3.Session()
print(json.dumps({
    service: [
        sorted(session.client(service).meta.method_to_api_mapping.items()),
        {
            (partition, region): session.client(service, region_name=region).meta.endpoint_url
            for partition in session.get_available_partitions()
            for region in session.get_available_regions(service, partition)
        }.__repr__(),
    ]
    for service in SERVICES
}))
""".replace("SERVICES", repr(SERVICES.split()))
    environment = {"AWS_DEFAULT_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    uncut: dict[str, Any] = json.loads(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout
    )

    assert json.loads(run_alone(artifact, code)) == uncut
    assert "Scan" in dict(uncut["dynamodb"][0]).values()


def test_errors_of_the_service_keep_their_names_and_their_items(artifact: Path) -> None:
    code = """
import io, boto3, urllib3
from botocore.awsrequest import AWSResponse

class Raw(io.BytesIO):
    def stream(self, **_):
        yield self.read()

client = boto3.client("dynamodb")
body = b'{"__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException", "Item": {"pk": {"S": "x"}}}'
client.meta.events.register(
    "before-send", lambda request, **_: AWSResponse(request.url, 400, {"x-amzn-requestid": "r"}, Raw(body)))
try:
    client.put_item(TableName="t", Item={"pk": {"S": "x"}})
except client.exceptions.ConditionalCheckFailedException as refusal:
    print(refusal.response["Item"])
"""
    assert run_alone(artifact, code) == "{'pk': {'S': 'x'}}\n"


def test_schedules_have_a_zone_database_where_the_system_has_none(artifact: Path) -> None:
    code = """
import zoneinfo
zoneinfo.reset_tzpath(to=[])
from datetime import datetime
print(datetime(2026, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")).utcoffset())
"""
    assert run_alone(artifact, code) == "2:00:00\n"


def test_the_build_is_for_the_runtime_and_processor_that_the_template_deploys() -> None:
    makefile = dict(re.findall(r"^(\w+) \?= (.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    parameters = load_template()["Parameters"]

    assert makefile["RUNTIME"] == parameters["Runtime"]["Default"]
    assert makefile["ARCHITECTURE"] == parameters["Architecture"]["Default"]
    assert makefile["JOBS_MODULE"] == parameters["JobsModule"]["Default"]
    assert makefile["BOTO3_SERVICES"] == SERVICES
    assert (makefile["ENCRYPTION"], parameters["PayloadKeyArn"]["Default"]) == ("false", "")
    assert ARCHITECTURE in parameters["Architecture"]["AllowedValues"]


MINE = "from kumofire_core import Jobs\njobs = Jobs.from_env()\n"


@pytest.fixture
def project(builder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of this project for the recipe to build, whose jobs a test may change."""
    folder = tmp_path / "project"
    folder.mkdir()
    for path in PROJECT.iterdir():
        if path.name != "handler" and not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    shutil.copytree(PROJECT / "handler", folder / "handler")
    monkeypatch.setattr(builder, "PROJECT", folder)
    return folder


def build(builder: Any, target: Path, *options: str) -> None:
    given = ("--runtime", RUNTIME, "--architecture", ARCHITECTURE, "--services", SERVICES)
    builder.main([str(target), *given, "--cache", str(PROJECT / "build"), *options])


def test_the_build_ships_the_package_that_the_jobs_are_in_and_those_that_are_named(
    builder: Any, project: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (project / "my_work/parts").mkdir(parents=True)
    (project / "my_work/__init__.py").write_text("")
    (project / "my_work/parts/mail.py").write_text(f"import my_texts\n{MINE}")
    (project / "my_texts.py").write_text("HELLO = 1")
    (project / "my_notes.py").write_text("not shipped")

    build(builder, tmp_path / "target", "--jobs", "my_work.parts.mail:jobs", "--packages", "my_texts")

    assert packages(tmp_path / "target") == EXPECTED_PACKAGES | {"my_work", "my_texts"}
    assert (tmp_path / "target/my_work/parts/mail.py").read_text() == f"import my_texts\n{MINE}"
    assert "both functions start with my_work.parts.mail:jobs" in capfd.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize(
    ("added", "jobs", "told"),
    [
        ({"handler/jobs.py": f"import moto\n{MINE}"}, "handler.jobs:jobs", "No module named 'moto'"),
        ({"my_work.py": f"import my_texts\n{MINE}", "my_texts.py": ""}, "my_work:jobs", "No module named 'my_texts'"),
        ({"handler/jobs.py": f"{MINE}1 / 0"}, "handler.jobs:jobs", "ZeroDivisionError"),
        ({"handler/jobs.py": "def"}, "handler.jobs:jobs", "handler/jobs.py"),
        ({}, "handler.jobs:others", "names 'handler.jobs:others', which is NoneType"),
        ({}, "handler.missing:jobs", "names the module 'handler.missing', which is not in the package"),
        ({}, "my_work:jobs", "neither a folder my_work nor a file my_work.py"),
        ({"urllib3.py": MINE}, "urllib3:jobs", "urllib3.py of yours has the name of a dependency"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_jobs_that_would_not_start_are_told_at_the_build(
    builder: Any,
    project: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    added: dict[str, str],
    jobs: str,
    told: str,
) -> None:
    for name, text in added.items():
        (project / name).write_text(text)

    with pytest.raises(SystemExit) as ended:
        build(builder, tmp_path / "target", "--jobs", jobs)

    assert ended.value.code not in (0, None)
    assert told in f"{ended.value.code}{capfd.readouterr()}"


def test_jobs_that_need_more_than_a_build_has_can_go_unchecked(builder: Any, project: Path, tmp_path: Path) -> None:
    (project / "handler/jobs.py").write_text(f"import os\nos.environ['OF_THE_STACK']\n{MINE}")

    build(builder, tmp_path / "target", "--check-jobs", "false")

    assert packages(tmp_path / "target") == EXPECTED_PACKAGES


def test_jobs_are_checked_up_to_native_code_for_another_processor(
    builder: Any, project: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = {"arm64": "x86_64", "x86_64": "arm64"}[ARCHITECTURE]
    (project / "my_work").mkdir()
    (project / "my_work/__init__.py").write_text("import my_work._fast\n")
    (project / "my_work/_fast.cpython-313-another-linux-gnu.so").write_bytes(b"")
    build(builder, tmp_path / "target", "--jobs", "my_work:jobs", "--check-jobs", "false")

    builder.check(tmp_path / "target", RUNTIME, other, "my_work:jobs")
    said = capfd.readouterr().err
    assert f"checked only up to the import of my_work._fast, which is native code for {RUNTIME} on {other}" in said

    with pytest.raises(SystemExit, match="the functions would not start"):
        builder.check(tmp_path / "target", RUNTIME, ARCHITECTURE, "my_work:jobs")
    for elsewhere in ("handler.missing:jobs", "handler.jobs:missing"):
        with pytest.raises(SystemExit, match="the functions would not start"):
            builder.check(tmp_path / "target", RUNTIME, other, elsewhere)


def test_where_no_interpreter_of_the_runtime_is_found_the_check_says_which_one_it_used(
    builder: Any, artifact: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    builder.check(artifact, "python3.99", ARCHITECTURE, "handler.jobs:jobs")

    assert f"(under Python {platform.python_version()}, since there is no python3.99 here)" in capfd.readouterr().out

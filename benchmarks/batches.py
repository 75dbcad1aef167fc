"""What a batch adds to its members: requests and write units as DynamoDB Local reports them, and the hottest item.

It needs Java and DynamoDB Local (``tools.dynamodb_local``) for the units. The time of creating runs is measured without
them, with clients that answer at once.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

from benchmarks.counted import AnyQueue, CountingClient, bench_table
from benchmarks.endpoint import Endpoint
from benchmarks.measure import Row, rounds
from tools.dynamodb_local import NotThereError, beside_dynamodb_local

MEMBERS = 1_000
MILLION = 1_000_000
MOST_A_MEMBER = 1.02
"""Write units that a member costs more than another run: its mark, and a hundredth of the next level's."""
MOST_OF_A_BATCH = 10
PARTITION_UNITS = 1_000
"""https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html"""


def measure(endpoint: Endpoint, *, quick: bool) -> list[Row]:
    """Measure units in a process of its own, without a network, and times here."""
    rows = [_creating(100 if quick else MEMBERS, 3 if quick else 15)]
    what = "write units that a member costs more than another run"
    try:
        done: dict[str, Any] = json.loads(beside_dynamodb_local("benchmarks.batches"))
    except NotThereError as reason:
        return [*rows, Row(what=what, value=None, detail=str(reason))]
    rows += [
        Row(what=what, value=done["a member"], at_most=MOST_A_MEMBER, detail=f"of {MEMBERS:,} in one batch"),
        Row(
            what="requests to the table that a member costs more",
            value=done["requests of a member"],
            at_most=MOST_A_MEMBER,
        ),
        Row(
            what="write units of a batch itself, with its callback's run left out",
            value=done["a batch"],
            at_most=MOST_OF_A_BATCH,
            detail="measured with one member, its mark left out",
        ),
        Row(
            what=f"writes to the hottest item of a batch of {MEMBERS:,}",
            value=done["hottest"],
            detail=f"{done['hottest item']}; a member's run has {done['of a run']}",
        ),
        Row(
            what="writes to the hottest item of a batch of a million",
            value=hottest_of(MILLION),
            at_most=PARTITION_UNITS,
            detail="calculated: the batch's own item, once for each 10,000 members that were created",
        ),
    ]
    return rows


def hottest_of(total: int) -> int:
    """Return how often the item of a batch that is written most is written, without the dispatcher's looks."""
    from kumofire_core.engine.batches import WINDOW
    from kumofire_core.model.batch import FAN_OUT

    windows = max(0, -(-total // WINDOW) - 1)
    put, seal, finish = 1, 1, 1
    return max(FAN_OUT, put + windows + seal + finish)


class _Answers:
    """Clients whose services take everything at once."""

    def put_item(self, **parameters: Any) -> dict[str, Any]:
        return {}

    def update_item(self, **parameters: Any) -> dict[str, Any]:
        return {}

    def batch_get_item(self, **parameters: Any) -> dict[str, Any]:
        return {"Responses": {}}

    def send_message_batch(self, **parameters: Any) -> dict[str, Any]:
        return {}


def _creating(members: int, count: int) -> Row:
    """Return how much longer this process works to create members than to create as many other runs."""
    from kumofire_core import Jobs

    answers: Any = _Answers()
    jobs = Jobs(table="bench", queue_url="queue", dynamodb=answers, sqs=answers, allow_unknown_jobs=True)
    requests: Any = [{"name": "email", "payload": {"to": f"user-{number}"}} for number in range(members)]

    def of_a_batch() -> float:
        began = time.process_time()
        jobs.create_batch(requests, then="report")
        return time.process_time() - began

    def of_many() -> float:
        began = time.process_time()
        jobs.create_many(requests)
        return time.process_time() - began

    samples = rounds({"create_batch": of_a_batch, "create_many": of_many}, count)
    ratios = sorted(one / other for one, other in zip(samples["create_batch"], samples["create_many"], strict=True))
    quarter = len(ratios) // 4
    medians = {name: statistics.median(each) / members * 1e6 for name, each in samples.items()}
    return Row(
        what="CPU of create_batch over create_many",
        value=statistics.median(ratios),
        low=ratios[quarter],
        high=ratios[-1 - quarter],
        at_most=1.3,
        detail=", ".join(f"{name} {value:.0f} µs a run" for name, value in medians.items()),
    )


def main() -> None:
    """Run DynamoDB Local, measure, and print the counts as JSON."""
    from kumofire_core import Jobs
    from kumofire_core.model.batch import member_run_id

    with bench_table() as client:
        counting: Any = CountingClient(client)
        queue: Any = AnyQueue()
        jobs = Jobs(table="bench", queue_url="queue", dynamodb=counting, sqs=queue)
        jobs.handler("email")(lambda ctx: {"sent": True})
        jobs.handler("report")(lambda ctx: None)

        def consume(run_ids: list[str]) -> None:
            for run_id in run_ids:
                assert jobs.consume({"version": 1, "kumofireJobRunId": run_id}).outcome == "succeeded"

        def requests(count: int) -> Any:
            return [{"name": "email", "payload": {"to": f"user-{number}"}} for number in range(count)]

        def of_a_batch(count: int) -> tuple[float, int]:
            counting.begin()
            batch_id = jobs.create_batch(requests(count))
            consume([member_run_id(batch_id, index) for index in range(count)])
            batch = jobs.get_batch(batch_id)
            assert batch is not None
            assert batch.state == "done", batch
            return counting.writes, counting.requests

        consume(jobs.create_many(requests(1)))  # which reads what is paused
        counting.begin()
        consume(jobs.create_many(requests(MEMBERS)))
        plain_units, plain_requests = counting.writes, counting.requests
        one_units, one_requests = of_a_batch(1)
        units, made = of_a_batch(MEMBERS)
        hottest, writes = counting.items.most_common(1)[0]
        own_units = one_units - plain_units / MEMBERS - 1
        own_requests = one_requests - plain_requests / MEMBERS - 1
        print(
            json.dumps(
                {
                    "a member": (units - own_units - plain_units) / MEMBERS,
                    "requests of a member": (made - own_requests - plain_requests) / MEMBERS,
                    "a batch": own_units,
                    "hottest": writes,
                    "hottest item": hottest.partition("#")[0],
                    "of a run": counting.items[next(pk for pk in counting.items if pk.startswith("run#"))],
                }
            )
        )


if __name__ == "__main__":
    main()

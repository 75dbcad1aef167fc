"""Real races and real deaths, judged by an outside ledger: one execution for each claim, and every run ends.

``make test-dynamodb-local`` has DynamoDB Local judge the races, too. ``python -m tests.chaos --minutes 5`` is longer.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.local_aws import LocalAws
from tests.builders import Aws, make_aws
from tests.chaos import ledger
from tests.chaos.kills import storm
from tests.chaos.made_up import begin, end
from tests.chaos.mistakes import MISTAKES
from tests.chaos.proxy import CuttingProxy
from tests.chaos.racer import NoSqs, Settings
from tests.chaos.races import OCCURRENCES, RACES, Result, race
from tests.simulation.mutations import MUTATIONS


@pytest.mark.long
def test_processes_that_race_execute_each_claim_once_and_none_under_another_s_lease(
    ministack: LocalAws, tmp_path: Path
):
    aws = make_aws(ministack.client("dynamodb"), ministack.client("sqs"), name=f"chaos-{uuid.uuid4().hex[:8]}")
    settings = Settings(
        endpoint_url=ministack.endpoint_url,
        table=aws.table,
        queue_url=aws.queue_url,
        ledger=str(tmp_path / "ledger"),
        began=time.time(),
        seed=1,
    )

    result = race(settings)

    assert result.verdict.problems == [], str(result)
    assert not result.errors
    assert result.runs >= 100
    assert result.occurrences >= OCCURRENCES / 2
    assert result.verdict.executions >= 100


@pytest.mark.dynamodb_local
@pytest.mark.parametrize("batch_writes", [False, True])
def test_on_dynamodb_local_the_race_ends_alike(dynamodb_local: Any, tmp_path: Path, batch_writes: bool):
    aws = make_aws(dynamodb_local, NoSqs(), name=f"chaos-{uuid.uuid4().hex[:8]}")
    settings = Settings(
        endpoint_url=dynamodb_local.meta.endpoint_url,
        table=aws.table,
        queue_url=None,
        ledger=str(tmp_path / "ledger"),
        began=time.time(),
        seed=2,
        keys=240,
        operations=60,
        batch_writes=batch_writes,
    )

    result = race(settings)

    print(result)
    assert result.verdict.problems == []
    assert not result.errors
    assert result.runs >= 200


FEATURES = {
    "flow": ("effect", "got", "slept", "gave", "given"),
    "limits": (),
    "rates": (),
    "pauses": ("paused", "resumes"),
    "keys": ("committed", "debounced", "indexes", "bulk"),
    "workers": ("worked", "freezes", "handed"),
}
"""The races about more than plain runs, and what has to have happened in each."""


def test_each_race_has_mistakes_to_find_that_there_are():
    assert MISTAKES.keys() == RACES.keys()
    assert {mistake for mistakes in MISTAKES.values() for mistake in mistakes} <= MUTATIONS.keys()


def a_short_race(what: str, aws: Aws, endpoint_url: str, queue_url: str | None, folder: Path) -> Result:
    return race(
        Settings(
            what=what,
            endpoint_url=endpoint_url,
            table=aws.table,
            queue_url=queue_url,
            ledger=str(folder / "ledger"),
            began=time.time(),
            seed=3,
            keys=24,
            threads=4,
            operations=20,
        )
    )


@pytest.mark.dynamodb_local
@pytest.mark.parametrize("what", FEATURES)
def test_what_is_raced_for_keeps_its_promises_on_dynamodb_local(dynamodb_local: Any, tmp_path: Path, what: str):
    aws = make_aws(dynamodb_local, NoSqs(), name=f"chaos-{uuid.uuid4().hex[:8]}")

    result = a_short_race(what, aws, dynamodb_local.meta.endpoint_url, None, tmp_path)

    print(result)
    assert result.verdict.problems == []
    assert not result.errors
    assert result.verdict.executions >= 10
    assert all(result.events[event] for event in FEATURES[what])


@pytest.mark.long
@pytest.mark.parametrize("what", FEATURES)
def test_what_is_raced_for_keeps_its_promises_on_ministack(ministack: LocalAws, tmp_path: Path, what: str):
    aws = make_aws(ministack.client("dynamodb"), ministack.client("sqs"), name=f"chaos-{uuid.uuid4().hex[:8]}")

    result = a_short_race(what, aws, ministack.endpoint_url, aws.queue_url, tmp_path)

    assert result.verdict.problems == [], str(result)
    assert not result.errors
    assert result.verdict.executions >= 10
    assert all(result.events[event] for event in FEATURES[what])


@pytest.mark.long
def test_every_run_of_the_deployed_stack_ends_though_its_processes_are_killed_and_its_connections_cut():
    result = storm(seconds=6, seed=1)

    assert result.verdict.problems == [], str(result)
    assert result.runs >= 20
    assert result.verdict.unended >= 1, "no consumer died in mid-handler"
    assert result.consumers_killed >= 1
    assert result.dispatchers_killed >= 1
    assert result.cut["refused"] + result.cut["lost"] >= 1
    assert all(result.events[event] for event in ("effect", "got", "slept"))


def item(**fields: Any) -> dict[str, Any]:
    return {"pk": "run#r", "status": "succeeded", "attempt": 0, "max_attempts": 3, "claims": 1, **fields}


GOOD = [begin(), end(how="raised"), begin(fence=2, at=1_000), end(fence=2)]


def test_the_ledger_of_a_run_that_was_retried_and_of_one_that_was_taken_over_is_in_order():
    taken_over = [begin(), begin(fence=2, at=10_000), end(fence=2), end()]

    assert ledger.judge(GOOD, [item(attempt=1, claims=2)]).problems == []
    assert ledger.judge(GOOD, [item(attempt=1, claims=2, attempts="[[0,1]]")]).problems == []
    assert ledger.judge(GOOD, [item(attempt=1, claims=2, retries=1, attempts="[[0,3],[1,1]]")]).problems == []
    assert ledger.judge(taken_over, [item(attempt=1, claims=2)]).problems == []


def test_a_run_may_go_on_when_its_attempt_was_cut_by_a_time_limit_and_not_before():
    late = [begin(timeout_ms=1_000), begin(fence=2, at=1_200), end(fence=2), end()]

    def problems(cut_ms: int, ended: str) -> list[str]:
        kept = f'[[0,1,0,{cut_ms},"{ended}",null,null,null]]'
        return ledger.judge(late, [item(attempt=1, claims=2, attempts=kept)]).problems

    assert problems(1_100, "timed_out") == []
    assert problems(1_201, "timed_out") != []
    assert problems(999, "timed_out") != []
    assert problems(1_100, "raised") != []


@pytest.mark.parametrize(
    ("events", "items", "problem"),
    [
        ([begin(), begin(), end()], [item()], "two executions under the claim 1"),
        ([begin(), begin(fence=2, at=9_999), end(fence=2)], [item(claims=2, attempt=1)], "had 1 ms of its lease"),
        ([begin(fence=2), end(fence=2), begin()], [item(claims=2, attempt=1)], "before claim 1"),
        ([begin(scheduled_ms=1_001), end()], [item()], "1001 ms before its time"),
        ([begin(attempt=4), end()], [item()], "attempt 4 of 3 was executed"),
        ([end()], [item(claims=0)], "without having begun"),
        (GOOD, [item(attempt=1, claims=1)], "2 executions of 1 claims"),
        (GOOD, [item(attempt=0, claims=2)], "2 claims, 0 given back, and 1 attempts counted"),
        (GOOD, [item(attempt=2, claims=2)], "3 attempts counted of 2 claims"),
        (GOOD, [], "executed, and not stored"),
        ([begin(), end(how="raised")], [item()], "its last execution did not return"),
        ([begin(), end()], [item(status="queued")], "did not end: it is queued"),
        ([begin(), end()], [item(wake_at=5)], "is succeeded and has ['wake_at']"),
        ([begin(), end()], [item(attempt=4)], "attempt 4 of 3"),
        (GOOD, [item(attempt=1, claims=2, attempts="[[0,2]]")], "keeps the attempts [(0, 2)], and 1 were counted"),
        (GOOD, [item(attempt=1, claims=2, attempts="[[0,1],[0,1]]")], "keeps the attempts [(0, 1), (0, 1)]"),
        (GOOD, [item(attempt=2, claims=2, attempts="[[0,2],[0,1]]")], "keeps the attempts [(0, 2), (0, 1)]"),
        (
            [begin(), end(), {"event": "succeeded", "run_id": "r"}, begin(fence=2, at=1), end(fence=2)],
            [item(claims=2, attempt=1)],
            "executed after it had succeeded",
        ),
        ([begin(), end(), *[{"event": "succeeded", "run_id": "r"}] * 2], [item()], "succeeded 2 times"),
        (
            [begin(), end()],
            [item(schedule_id="s", scheduled_for=1), item(pk="run#q", claims=0, schedule_id="s", scheduled_for=1)],
            "2 runs for 1",
        ),
        (
            [begin(), end()],
            [item(dedupe_key="k"), item(pk="run#q", claims=0, status="canceled", dedupe_key="k")],
            "dedupe key k: 2 runs",
        ),
    ],
)
def test_the_ledger_tells_what_is_wrong(events: list[dict[str, Any]], items: list[dict[str, Any]], problem: str):
    assert any(problem in found for found in ledger.judge(events, items).problems)


def test_lines_of_many_threads_are_in_the_ledger_whole(tmp_path: Path):
    path = tmp_path / "ledger"
    threads = [
        threading.Thread(target=lambda: [ledger.enter(path, "line", text="x" * 500) for _ in range(50)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(ledger.read(path)) == 400


@pytest.fixture
def served() -> Iterator[tuple[CuttingProxy, list[bytes]]]:
    """A proxy before a server that keeps what it got."""
    got: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    with CuttingProxy(seed=1) as proxy:
        proxy.target = ("127.0.0.1", server.server_port)
        yield proxy, got
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def a_connection(proxy: CuttingProxy) -> Iterator[Callable[[bytes], bytes]]:
    connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=10)

    def post(body: bytes) -> bytes:
        connection.request("POST", "/", body)
        return connection.getresponse().read()

    with contextlib.closing(connection):
        yield post


def test_the_proxy_passes_requests_on(served: tuple[CuttingProxy, list[bytes]]):
    proxy, got = served

    with a_connection(proxy) as post:
        assert [post(b"x" * size) for size in (0, 1, 300_000)] == [b"ok"] * 3
    assert [len(body) for body in got] == [0, 1, 300_000]


def test_the_proxy_loses_requests_and_replies(served: tuple[CuttingProxy, list[bytes]]):
    proxy, got = served
    proxy.cutting = 1.0

    for _ in range(20):
        with a_connection(proxy) as post, pytest.raises((http.client.HTTPException, OSError)):
            post(b"x")

    assert proxy.counts["refused"] >= 3
    assert proxy.counts["lost"] >= 3
    assert len(got) == proxy.counts["lost"]

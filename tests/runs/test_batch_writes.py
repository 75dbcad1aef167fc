"""Writes made together: whatever DynamoDB answers to a batch of statements, a run is executed once or not at all."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from examples.local_aws import LocalAws
from kumofire_core.engine import batch_writes
from kumofire_core.engine.batch_writes import BREAKER_FAILURES
from tests.builders import NOW_MS, Aws, LambdaContext, event, failures, make_aws

Statement = dict[str, Any]
Answers = list[dict[str, Any]]
ERROR = {"Error": {"Code": "ConditionalCheckFailed", "Message": "The conditional request failed"}}


class Statements:
    """A DynamoDB client whose batches of statements are answered by the test; all else goes on to the emulator."""

    def __init__(self, aws: Aws, answer: Callable[[Statements, list[Statement]], Any]) -> None:
        self._aws = aws
        self._answer = answer
        self.batches = 0

    def __getattr__(self, operation: str) -> Any:
        return getattr(self._aws.dynamodb, operation)

    def batch_execute_statement(self, *, Statements: list[Statement]) -> Any:
        self.batches += 1
        answers = self._answer(self, Statements)
        return {"Responses": answers} if isinstance(answers, list) else answers

    def apply(self, statement: Statement, **instead: Any) -> dict[str, Any]:
        """Do what a statement says to its item, whatever its conditions are, and return the item as it is then."""
        parameters = iter(next(iter(value.values())) for value in statement["Parameters"])
        changes, _, _ = statement["Statement"].partition(" WHERE ")
        fields: dict[str, Any] = {}
        for name, text in re.findall(r'SET "(\w+)"=(\?|\'\w+\'|-?\d+|"\w+"\+1)', changes):
            plain = next(parameters) if text == "?" else text.strip("'")
            fields[name] = 1 if text.endswith("+1") else int(plain) if text == plain and text != "?" else plain
        gone = re.findall(r'REMOVE "(\w+)"', changes)
        self._aws.change(self.run_id(statement), without=gone, **(fields | instead))
        return self.item(statement)

    def item(self, statement: Statement) -> dict[str, Any]:
        key = {"pk": {"S": f"run#{self.run_id(statement)}"}, "sk": {"S": "run"}}
        return self._aws.dynamodb.client.get_item(TableName=self._aws.table, Key=key)["Item"]

    @staticmethod
    def run_id(statement: Statement) -> str:
        return next(v["S"][4:] for v in statement["Parameters"] if str(v.get("S")).startswith("run#"))


def answered(
    aws: Aws, answer: Callable[[Statements, list[Statement]], Any], **settings: Any
) -> tuple[Any, Counter, Any]:
    """Return a ``Jobs`` that makes writes together, the executions by run, and its client."""
    client, executions = Statements(aws, answer), Counter[str]()
    # Without counts, so that every request to the table is one for a run.
    jobs = aws.jobs(dynamodb=client, batch_writes=True, **({"concurrency": 10, "counts": False} | settings))
    jobs.handler("email")(lambda ctx: executions.update([ctx.run.id]))
    return jobs, executions, client


def won(client: Statements, statements: list[Statement]) -> Answers:
    return [{"TableName": "t", "Item": client.apply(statement)} for statement in statements]


def for_ends(answer: Callable[[Statements, list[Statement]], Any]) -> Callable[[Statements, list[Statement]], Any]:
    """Return an answer to the ends of attempts, after claims that were won."""
    return lambda client, statements: (won if is_claim(statements) else answer)(client, statements)


def is_claim(statements: list[Statement]) -> bool:
    return "'running' SET" in statements[0]["Statement"]


def test_a_batch_whose_handlers_end_at_about_the_same_time_needs_two_requests(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(batch_writes, "LINGER_SECONDS", 60)
    jobs, executions, client = answered(aws, won)
    run_ids = [aws.a_run() for _ in range(10)]

    assert failures(jobs.consume_batch(event(*run_ids), LambdaContext())) == []

    assert executions == dict.fromkeys(run_ids, 1)
    assert client.batches == 2
    assert aws.dynamodb.count() == {"get_item": 1}, "which jobs are paused"
    ended = [aws.item(run_id) for run_id in run_ids]
    assert {item["status"] for item in ended} == {"succeeded"}
    assert not any({"lease_token", "wake_at"} & item.keys() for item in ended)


def test_an_end_does_not_wait_for_a_handler_that_takes_longer(aws: Aws):
    jobs, _, _ = answered(aws, won)
    quick, slow = aws.a_run(), aws.a_run(job_name="slow")
    seen: list[str] = []

    @jobs.handler("slow")
    def wait_for_the_other(ctx: Any) -> None:
        for _ in range(2_000):
            seen[:] = [aws.item(quick)["status"]]
            if seen == ["succeeded"]:
                return
            time.sleep(0.005)

    assert failures(jobs.consume_batch(event(quick, slow), LambdaContext())) == []

    assert seen == ["succeeded"]


def test_an_attempt_that_fails_is_not_waited_for(aws: Aws, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batch_writes, "LINGER_SECONDS", 3_600)
    jobs, _, client = answered(aws, won)
    run_ids = [aws.a_run(), aws.a_run(), aws.a_run(job_name="wrong")]
    lingers = threading.Event()
    original = batch_writes.BatchCompleter.record

    def record(self: Any, *given: Any) -> bool:
        lingers.set()
        return original(self, *given)

    monkeypatch.setattr(batch_writes.BatchCompleter, "record", record)

    @jobs.handler("wrong")
    def fail(ctx: Any) -> None:
        lingers.wait(10)
        raise RuntimeError

    batch = threading.Thread(target=jobs.consume_batch, args=(event(*run_ids), LambdaContext()), daemon=True)
    batch.start()
    batch.join(20)

    assert not batch.is_alive()
    assert [aws.item(run_id)["status"] for run_id in run_ids] == ["succeeded", "succeeded", "scheduled"]
    assert client.batches == 2


ANSWERS: dict[str, Callable[[Statements, list[Statement]], Any]] = {
    "nothing is said about the runs it claimed": lambda c, s: [c.apply(one) and {"TableName": "t"} for one in s],
    "it claimed none": lambda c, s: [ERROR for _ in s],
    "it claimed each and reports an error": lambda c, s: [c.apply(one) and ERROR for one in s],
    "an error beside the claimed item": lambda c, s: [{"Item": c.apply(one), **ERROR} for one in s],
    "items that were not changed": lambda c, s: [{"Item": c.item(one)} for one in s],
    "items of another order": lambda c, s: won(c, s)[::-1],
    "each statement throttled": lambda c, s: [{"Error": {"Code": "ThrottlingError"}} for _ in s],
    "fewer answers than statements": lambda c, s: won(c, s)[:1],
    "no answers": lambda c, s: {},
    "answers that are null": lambda c, s: {"Responses": None},
    "items without a token": lambda c, s: [{"Item": {"pk": c.apply(one)["pk"]}} for one in s],
    "an answer that is no answer": lambda c, s: [None for _ in s],
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_each_run_is_executed_once_whatever_the_service_answers(aws: Aws, answer: Any):
    jobs, executions, _ = answered(aws, answer)
    run_ids = [aws.a_run() for _ in range(4)]

    assert failures(jobs.consume_batch(event(*run_ids), LambdaContext())) == []

    assert executions == dict.fromkeys(run_ids, 1)
    assert {aws.item(run_id)["status"] for run_id in run_ids} == {"succeeded"}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_each_end_is_recorded_whatever_the_service_answers(
    aws: Aws, answer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(batch_writes, "LINGER_SECONDS", 60)
    jobs, executions, client = answered(aws, for_ends(answer))
    run_ids = [aws.a_run() for _ in range(4)]

    report = jobs.run_batch(event(*run_ids), LambdaContext())

    assert client.batches == 2
    assert [record.result.outcome for record in report.records if record.result] == ["succeeded"] * 4
    assert executions == dict.fromkeys(run_ids, 1)
    assert {aws.item(run_id)["status"] for run_id in run_ids} == {"succeeded"}
    assert "lost the lease" not in caplog.text


def test_what_changed_is_enough_of_an_answer(aws: Aws, monkeypatch: pytest.MonkeyPatch):
    def changed(client: Statements, statements: list[Statement]) -> Answers:
        fields = ("status", "settled_by", "finished_at")
        return [{"Item": {name: client.apply(one)[name] for name in fields}} for one in statements]

    monkeypatch.setattr(batch_writes, "LINGER_SECONDS", 60)
    jobs, _, _ = answered(aws, for_ends(changed))
    run_ids = [aws.a_run() for _ in range(3)]

    assert failures(jobs.consume_batch(event(*run_ids), LambdaContext())) == []

    assert aws.dynamodb.count() == {"get_item": 1}, "which jobs are paused"


def test_who_lost_a_lease_records_no_end_though_an_item_comes_back(aws: Aws, monkeypatch: pytest.MonkeyPatch):
    def taken_over(client: Statements, statements: list[Statement]) -> Answers:
        for one in statements:
            aws.change(client.run_id(one), lease_token="another", lease_until=NOW_MS + 10**9)
        return [{"Item": client.item(one)} for one in statements]

    monkeypatch.setattr(batch_writes, "LINGER_SECONDS", 60)
    jobs, _, _ = answered(aws, for_ends(taken_over))
    run_ids = [aws.a_run() for _ in range(2)]

    report = jobs.run_batch(event(*run_ids), LambdaContext())

    assert [record.result and record.result.reason for record in report.records] == ["lost its lease"] * 2
    assert {aws.item(run_id)["status"] for run_id in run_ids} == {"running"}


def test_what_a_handler_made_is_no_part_of_a_statement_s_text(aws: Aws, monkeypatch: pytest.MonkeyPatch):
    texts: list[str] = []

    def noted(client: Statements, statements: list[Statement]) -> Answers:
        texts.extend(one["Statement"] for one in statements)
        return won(client, statements)

    monkeypatch.setattr(batch_writes, "LINGER_SECONDS", 60)
    jobs, _, _ = answered(aws, noted)
    outputs: dict[str, Any] = {"number": 4711, "quote": "' OR '1'='1", "true": True}
    for name, output in outputs.items():
        jobs.handler(name)(lambda ctx, output=output: output)
    run_ids = [aws.a_run(job_name=name, payload="815") for name in outputs]

    assert failures(jobs.consume_batch(event(*run_ids), LambdaContext())) == []

    assert [jobs.get_status(run_id).output for run_id in run_ids] == list(outputs.values())
    foreign = ("4711", "'1'='1", "815", "true", *run_ids)
    assert [(text, statement) for text in foreign for statement in texts if text in statement] == []


def refused(code: str) -> Callable[[Statements, list[Statement]], Any]:
    def answer(client: Statements, statements: list[Statement]) -> Any:
        raise ClientError({"Error": {"Code": code, "Message": "no"}}, "BatchExecuteStatement")

    return answer


def lost_reply(client: Statements, statements: list[Statement]) -> Any:
    won(client, statements)
    raise ReadTimeoutError(endpoint_url="https://dynamodb")


@pytest.mark.parametrize(
    "answer",
    [refused("AccessDeniedException"), refused("ValidationException"), refused("ThrottlingException"), lost_reply],
    ids=["no permission", "not understood", "throttled", "applied, and the reply lost"],
)
def test_a_request_that_fails_whole_costs_nothing_but_itself(aws: Aws, answer: Any):
    jobs, executions, _ = answered(aws, answer)
    run_ids = [aws.a_run() for _ in range(3)]

    assert failures(jobs.consume_batch(event(*run_ids), LambdaContext())) == []

    assert executions == dict.fromkeys(run_ids, 1)


@pytest.mark.parametrize("answer", [refused("ThrottlingException"), lost_reply])
def test_ends_that_fail_whole_are_recorded_one_by_one(aws: Aws, answer: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batch_writes, "LINGER_SECONDS", 60)
    jobs, executions, _ = answered(aws, for_ends(answer))
    run_ids = [aws.a_run() for _ in range(3)]

    report = jobs.run_batch(event(*run_ids), LambdaContext())

    assert [record.result.outcome for record in report.records if record.result] == ["succeeded"] * 3
    assert executions == dict.fromkeys(run_ids, 1)


def test_a_run_that_another_consumer_holds_is_not_executed_though_an_item_comes_back(aws: Aws):
    def taken(client: Statements, statements: list[Statement]) -> Answers:
        return [{"Item": client.apply(one, lease_token="another")} for one in statements]

    jobs, executions, _ = answered(aws, taken)
    run_ids = [aws.a_run() for _ in range(2)]

    assert failures(jobs.consume_batch(event(*run_ids), LambdaContext())) == []

    assert executions == {}
    assert {aws.item(run_id)["lease_token"] for run_id in run_ids} == {"another"}


def test_a_run_that_can_not_be_read_fails_alone(aws: Aws):
    jobs, executions, _ = answered(aws, won)
    corrupt, sound = aws.a_run(payload="{not JSON"), aws.a_run()

    assert failures(jobs.consume_batch(event(corrupt, sound), LambdaContext())) == []

    assert executions == {sound: 1}
    assert aws.item(corrupt)["status"] == "failed"


def test_a_run_that_comes_twice_in_a_batch_is_executed_once(aws: Aws):
    jobs, executions, _ = answered(aws, won)
    first, second = aws.a_run(), aws.a_run()

    jobs.consume_batch(event(first, second, first), LambdaContext())

    assert executions == {first: 1, second: 1}


def test_only_what_is_begun_at_once_is_claimed_together(aws: Aws):
    seen: list[int] = []

    def counted(client: Statements, statements: list[Statement]) -> Answers:
        if is_claim(statements):
            seen.append(len(statements))
        return won(client, statements)

    jobs, executions, _ = answered(aws, counted, concurrency=3)
    run_ids = [aws.a_run() for _ in range(7)]

    jobs.consume_batch(event(*run_ids), LambdaContext())

    assert seen == [3]
    assert executions == dict.fromkeys(run_ids, 1)


def test_a_process_that_gains_nothing_by_it_stops_trying(aws: Aws):
    jobs, executions, client = answered(aws, ANSWERS["it claimed none"])

    for _ in range(BREAKER_FAILURES + 3):
        jobs.consume_batch(event(aws.a_run(), aws.a_run()), LambdaContext())

    assert client.batches == BREAKER_FAILURES
    assert sum(executions.values()) == 2 * (BREAKER_FAILURES + 3)


def test_a_process_that_gains_nothing_by_ends_made_together_stops_trying_them(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(batch_writes, "LINGER_SECONDS", 60)
    jobs, executions, client = answered(aws, for_ends(ANSWERS["it claimed none"]))

    for _ in range(BREAKER_FAILURES + 3):
        jobs.consume_batch(event(aws.a_run(), aws.a_run()), LambdaContext())

    assert client.batches == BREAKER_FAILURES + 3 + BREAKER_FAILURES  # all claims, and the first ends
    assert sum(executions.values()) == 2 * (BREAKER_FAILURES + 3)


def test_an_end_that_comes_alone_is_an_ordinary_write(aws: Aws, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batch_writes, "LINGER_SECONDS", 0)
    jobs, _, client = answered(aws, won)
    jobs.handler("wrong")(lambda ctx: 1 / 0)

    jobs.consume_batch(event(aws.a_run(), aws.a_run(job_name="wrong")), LambdaContext())

    assert client.batches == 1
    assert aws.dynamodb.count() == {"get_item": 1, "update_item": 2}, "and which jobs are paused was read"


def test_nothing_is_made_together_where_a_request_that_hangs_would_leave_no_time_for_the_ordinary_ones(aws: Aws):
    jobs, executions, client = answered(aws, won)
    run_ids = [aws.a_run() for _ in range(3)]

    assert failures(jobs.consume_batch(event(*run_ids), LambdaContext(remaining_ms=15_000))) == []

    assert client.batches == 0
    assert executions == dict.fromkeys(run_ids, 1)


def test_now_and_then_in_vain_does_not_stop_it(aws: Aws):
    turn = iter(([False] * (BREAKER_FAILURES - 1) + [True]) * 2 + [True])
    claims: list[bool] = []

    def now_and_then(client: Statements, statements: list[Statement]) -> Answers:
        if is_claim(statements):
            claims.append(next(turn))
        return won(client, statements) if claims[-1] else [ERROR for _ in statements]

    jobs, _, _ = answered(aws, now_and_then)

    for _ in range(2 * BREAKER_FAILURES + 1):
        jobs.consume_batch(event(aws.a_run(), aws.a_run()), LambdaContext())

    assert len(claims) == 2 * BREAKER_FAILURES + 1


def test_nothing_is_claimed_together_too_close_to_the_deadline_for_a_single_record_or_unasked(aws: Aws):
    jobs, _, client = answered(aws, won)
    run_ids = [aws.a_run() for _ in range(2)]

    assert failures(jobs.consume_batch(event(*run_ids), LambdaContext(remaining_ms=100))) == [f"m-{r}" for r in run_ids]
    assert failures(jobs.consume_batch(event(aws.a_run()), LambdaContext())) == []
    unasked = aws.jobs(dynamodb=client, handlers={"email": lambda ctx: None}, concurrency=10)
    assert failures(unasked.consume_batch(event(*run_ids), LambdaContext())) == []

    assert client.batches == 0


def test_consumers_racing_for_the_same_batch_execute_each_run_once(ministack: LocalAws):
    aws = make_aws(ministack.client("dynamodb"), ministack.client("sqs"), name="claims-together")
    executions, lock = Counter[str](), threading.Lock()

    def email(ctx: Any) -> None:
        with lock:
            executions[ctx.run.id] += 1

    run_ids = [aws.a_run() for _ in range(10)]
    later = aws.a_run(scheduled_for=NOW_MS + 3_600_000)
    racers = [
        aws.jobs(dynamodb=ministack.client("dynamodb"), batch_writes=True, handlers={"email": email}) for _ in range(6)
    ]
    start = threading.Barrier(len(racers))
    responses: list[Any] = []

    def race(jobs: Any) -> None:
        start.wait()
        responses.append(jobs.consume_batch(event(*run_ids[:9], later), LambdaContext()))

    threads = [threading.Thread(target=race, args=(jobs,)) for jobs in racers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [failures(response) for response in responses] == [[]] * len(racers)
    assert executions == dict.fromkeys(run_ids[:9], 1)
    assert {aws.item(run_id)["status"] for run_id in run_ids[:9]} == {"succeeded"}
    assert aws.item(later)["claims"] == 0

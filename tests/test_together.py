"""Claims made together: whatever DynamoDB answers to a batch of statements, a run is executed once or not at all."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from examples.local_aws import LocalAws
from kumofire_core.claims import PATIENCE
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

    def claim(self, statement: Statement, **instead: Any) -> dict[str, Any]:
        """Do what a claim's statement says, and return the item as it is then."""
        run_id = self.run_id(statement)
        status, token, until, started, updated = (next(iter(v.values())) for v in statement["Parameters"][:5])
        fields = {"status": status, "lease_token": token, "lease_until": int(until), "claims": 1}
        self._aws.change(run_id, **(fields | {"started_at": int(started), "updated_at": int(updated)} | instead))
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
    """Return a ``Jobs`` that claims together, the executions by run, and its client."""
    client, executions = Statements(aws, answer), Counter[str]()
    jobs = aws.jobs(dynamodb=client, batch_claims=True, **({"concurrency": 10} | settings))
    jobs.handler("email")(lambda ctx: executions.update([ctx.run.id]))
    return jobs, executions, client


def won(client: Statements, statements: list[Statement]) -> Answers:
    return [{"TableName": "t", "Item": client.claim(statement)} for statement in statements]


def test_runs_that_come_back_with_their_token_need_one_request_more_each(aws: Aws):
    jobs, executions, client = answered(aws, won)
    run_ids = [aws.a_run() for _ in range(10)]

    assert failures(jobs.consume_batch(event(*run_ids), LambdaContext())) == []

    assert executions == dict.fromkeys(run_ids, 1)
    assert client.batches == 1
    assert aws.dynamodb.count() == {"update_item": 10}  # the ends of the attempts
    assert {aws.item(run_id)["status"] for run_id in run_ids} == {"succeeded"}


ANSWERS: dict[str, Callable[[Statements, list[Statement]], Any]] = {
    "nothing is said about the runs it claimed": lambda c, s: [c.claim(one) and {"TableName": "t"} for one in s],
    "it claimed none": lambda c, s: [ERROR for _ in s],
    "it claimed each and reports an error": lambda c, s: [c.claim(one) and ERROR for one in s],
    "an error beside the claimed item": lambda c, s: [{"Item": c.claim(one), **ERROR} for one in s],
    "items that were not changed": lambda c, s: [{"Item": c.item(one)} for one in s],
    "items of another order": lambda c, s: won(c, s)[::-1],
    "each statement throttled": lambda c, s: [{"Error": {"Code": "ThrottlingError"}} for _ in s],
    "fewer answers than statements": lambda c, s: won(c, s)[:1],
    "no answers": lambda c, s: {},
    "answers that are null": lambda c, s: {"Responses": None},
    "items without a key": lambda c, s: [{"Item": {"lease_token": one["Parameters"][1]}} for one in s if c.claim(one)],
    "an answer that is no answer": lambda c, s: [None for _ in s],
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_each_run_is_executed_once_whatever_the_service_answers(aws: Aws, answer: Any):
    jobs, executions, _ = answered(aws, answer)
    run_ids = [aws.a_run() for _ in range(4)]

    assert failures(jobs.consume_batch(event(*run_ids), LambdaContext())) == []

    assert executions == dict.fromkeys(run_ids, 1)
    assert {aws.item(run_id)["status"] for run_id in run_ids} == {"succeeded"}


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


def test_a_run_that_another_consumer_holds_is_not_executed_though_an_item_comes_back(aws: Aws):
    def taken(client: Statements, statements: list[Statement]) -> Answers:
        return [{"Item": client.claim(one, lease_token="another")} for one in statements]

    jobs, executions, _ = answered(aws, taken)
    run_ids = [aws.a_run() for _ in range(2)]

    assert failures(jobs.consume_batch(event(*run_ids), LambdaContext())) == []

    assert executions == {}
    assert {aws.item(run_id)["lease_token"] for run_id in run_ids} == {"another"}


def test_a_run_that_can_not_be_read_fails_alone(aws: Aws):
    jobs, executions, _ = answered(aws, won)
    corrupt, sound = aws.a_run(payload="{not JSON"), aws.a_run()

    assert failures(jobs.consume_batch(event(corrupt, sound), LambdaContext())) == [f"m-{corrupt}"]

    assert executions == {sound: 1}


def test_a_run_that_comes_twice_in_a_batch_is_executed_once(aws: Aws):
    jobs, executions, _ = answered(aws, won)
    first, second = aws.a_run(), aws.a_run()

    jobs.consume_batch(event(first, second, first), LambdaContext())

    assert executions == {first: 1, second: 1}


def test_only_what_is_begun_at_once_is_claimed_together(aws: Aws):
    seen: list[int] = []

    def counted(client: Statements, statements: list[Statement]) -> Answers:
        seen.append(len(statements))
        return won(client, statements)

    jobs, executions, _ = answered(aws, counted, concurrency=3)
    run_ids = [aws.a_run() for _ in range(7)]

    jobs.consume_batch(event(*run_ids), LambdaContext())

    assert seen == [3]
    assert executions == dict.fromkeys(run_ids, 1)


def test_a_process_that_gains_nothing_by_it_stops_trying(aws: Aws):
    jobs, executions, client = answered(aws, ANSWERS["it claimed none"])

    for _ in range(PATIENCE + 3):
        jobs.consume_batch(event(aws.a_run(), aws.a_run()), LambdaContext())

    assert client.batches == PATIENCE
    assert sum(executions.values()) == 2 * (PATIENCE + 3)


def test_now_and_then_in_vain_does_not_stop_it(aws: Aws):
    turn = iter(([False] * (PATIENCE - 1) + [True]) * 2 + [True])
    jobs, _, client = answered(aws, lambda c, s: won(c, s) if next(turn) else [ERROR for _ in s])

    for _ in range(2 * PATIENCE + 1):
        jobs.consume_batch(event(aws.a_run(), aws.a_run()), LambdaContext())

    assert client.batches == 2 * PATIENCE + 1


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
        aws.jobs(dynamodb=ministack.client("dynamodb"), batch_claims=True, handlers={"email": email}) for _ in range(6)
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

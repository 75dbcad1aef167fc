"""The doctor's trial of batched writes: it says what the table did, harms nothing, and leaves nothing behind."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import pytest

from examples.local_aws import LocalAws
from kumofire_core.deployment.checks import batch_writes
from kumofire_core.deployment.discovery import Deployment
from kumofire_core.deployment.doctor import CHECKS, examine
from kumofire_core.deployment.findings import Finding, Severity
from tests.builders import make_aws
from tests.deployment.arranged import Deployed, answering, clients_of, deployed, refusing
from tests.deployment.test_doctor import look


@pytest.fixture
def stack(ministack: LocalAws) -> Deployed:
    return deployed(ministack)


def trial(deployment: Deployment) -> Finding:
    [finding] = batch_writes.batch_writes(look(deployment))
    return finding


def everything(client: Any, table: str) -> list[Any]:
    return list(client.scan(TableName=table, ConsistentRead=True)["Items"])


def test_a_table_that_batches_as_it_should_is_told_so_and_is_left_as_it_was(stack: Deployed) -> None:
    before = everything(stack.aws.client("dynamodb"), stack.deployment.table)

    finding = trial(stack.deployment)

    assert finding.severity is Severity.NOTE, finding
    assert "2 claims and 2 ends" in finding.what
    assert "BatchWrites" in finding.do
    assert everything(stack.aws.client("dynamodb"), stack.deployment.table) == before


@pytest.mark.dynamodb_local
def test_dynamodb_local_batches_as_it_should(dynamodb_local: Any, ministack: LocalAws) -> None:
    name = f"trial-{uuid.uuid4().hex[:8]}"
    make_aws(dynamodb_local, ministack.client("sqs"), name=name)
    deployment = deployed(ministack).deployment
    endpoint = dynamodb_local.meta.endpoint_url

    finding = trial(replace(deployment, table=name, clients=clients_of(ministack, endpoint_url=endpoint)))

    assert finding.severity is Severity.NOTE, finding
    assert everything(dynamodb_local, name) == []


def test_the_trial_is_made_only_where_it_is_asked_for(stack: Deployed) -> None:
    asked: list[str] = []
    stack.deployment.client("dynamodb").meta.events.register("before-call", lambda model, **_: asked.append(model.name))

    examine(stack.deployment)
    assert "BatchExecuteStatement" not in asked
    diagnosis = examine(stack.deployment, try_batch_writes=True)

    assert asked.count("BatchExecuteStatement") == 3
    assert batch_writes.CHECK in diagnosis.passed
    assert batch_writes.CHECK not in CHECKS


@pytest.mark.parametrize(
    ("operation", "action", "do"),
    [
        ("BatchExecuteStatement", "dynamodb:PartiQLUpdate", "no policy of the stack's outputs has it"),
        ("PutItem", "dynamodb:PutItem", "OperatorPolicyArn"),
        ("DeleteItem", "dynamodb:DeleteItem", "OperatorPolicyArn"),
    ],
)
def test_without_a_right_the_finding_names_it(stack: Deployed, operation: str, action: str, do: str) -> None:
    client = stack.deployment.client("dynamodb")

    with refusing(client, "AccessDeniedException", operation):
        diagnosis = examine(stack.deployment, try_batch_writes=True)

    [finding] = [each for each in diagnosis.findings if f"lack {action}, so the check 'batch-writes'" in each.what]
    assert do in finding.do
    # What can't be deleted is in no index, and expires a day later.
    left = everything(stack.aws.client("dynamodb"), stack.deployment.table)
    assert len(left) == (3 if operation == "DeleteItem" else 0)
    assert not [each for each in left if {"wake_at", "list_at"} & each.keys() or "expires_at" not in each]


def test_claims_that_are_made_and_not_told_are_a_warning(stack: Deployed) -> None:
    def silent(reply: dict[str, Any]) -> None:
        reply["Responses"] = [{"TableName": "t"} for _ in reply["Responses"]]

    with answering(stack.deployment.client("dynamodb"), "BatchExecuteStatement", silent):
        finding = trial(stack.deployment)

    assert finding.severity is Severity.WARNING
    assert "made, and not told" in finding.what
    assert "at false" in finding.do


def test_claims_that_are_refused_altogether_are_a_warning(stack: Deployed) -> None:
    with refusing(stack.deployment.client("dynamodb"), "ThrottlingException", "BatchExecuteStatement"):
        diagnosis = examine(stack.deployment, try_batch_writes=True)

    assert not [each for each in diagnosis.findings if each.check == batch_writes.CHECK]
    assert batch_writes.CHECK not in diagnosis.passed
    assert everything(stack.aws.client("dynamodb"), stack.deployment.table) == []


def without_conditions(statement: dict[str, Any]) -> dict[str, Any]:
    """Return the statement with nothing but the key behind its WHERE, as a table would judge that ignores the rest."""
    text, _, returning = statement["Statement"].partition(" RETURNING ")
    update, _, terms = text.partition(" WHERE ")
    kept = " AND ".join(term for term in terms.split(" AND ") if term.startswith(('"pk"', '"sk"')))
    used = update.count("?") + kept.count("?")
    return {
        "Statement": f"{update} WHERE {kept} RETURNING {returning}",
        "Parameters": statement["Parameters"][:used],
    }


def test_a_table_that_ignores_a_condition_is_an_error(stack: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    statement = batch_writes.partiql_statement
    monkeypatch.setattr(
        "kumofire_core.aws.dynamodb.partiql_statement", lambda *given: without_conditions(statement(*given))
    )

    finding = trial(stack.deployment)

    assert finding.severity is Severity.ERROR
    assert "ignored a statement's condition" in finding.what
    assert everything(stack.aws.client("dynamodb"), stack.deployment.table) == []


def test_a_claim_that_a_repeated_request_makes_again_is_an_error(
    stack: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement = batch_writes.partiql_statement
    monkeypatch.setattr(batch_writes, "partiql_statement", lambda *given: without_conditions(statement(*given)))

    finding = trial(stack.deployment)

    assert finding.severity is Severity.ERROR
    assert everything(stack.aws.client("dynamodb"), stack.deployment.table) == []

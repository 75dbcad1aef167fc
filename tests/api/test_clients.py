"""The AWS clients of a process: made once, on short timeouts, and reading what botocore's own would read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError
from botocore.session import get_session

from kumofire_core.aws.clients import Clients
from tests.conftest import Aws

ITEM = {
    "pk": {"S": "run#1"},
    "attempt": {"N": "3"},
    "note": {"NULL": True},
    "tags": {"SS": ["é", "\n"]},
    "list": {"L": []},
}


def test_clients_are_made_once_on_one_session(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    clients = Clients(dynamodb=None, sqs=None, connections=12)

    assert clients.dynamodb() is clients.dynamodb()
    assert clients.sqs() is clients.sqs()
    assert clients.dynamodb().meta.service_model.service_name == "dynamodb"
    assert clients.sqs().meta.service_model.service_name == "sqs"
    assert clients.dynamodb()._loader is clients.sqs()._loader


def test_clients_of_our_own_give_up_well_before_a_function_s_deadline(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    config = Clients(dynamodb=None, sqs=None, connections=12).dynamodb().meta.config

    assert config.connect_timeout + config.read_timeout < 10
    assert config.max_pool_connections == 12


def test_given_clients_are_used(aws: Aws):
    clients = Clients(dynamodb=aws.dynamodb, sqs=aws.sqs, connections=1)

    assert clients.dynamodb() is aws.dynamodb
    assert clients.sqs() is aws.sqs


def answered(client: Any, body: bytes, *, status: int = 200) -> Any:
    """Return a client whose every request is answered so, below all of botocore but its sockets."""

    def answer(**_: object) -> AWSResponse:
        response = AWSResponse("https://localhost/", status, {"x-amzn-requestid": "7"}, None)
        response._content = body
        return response

    client.meta.events.register("before-send.dynamodb", answer)
    return client


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Our client, and one as botocore makes it."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    return [Clients(dynamodb=None, sqs=None, connections=1).dynamodb(), get_session().create_client("dynamodb")]


UPDATE = {"TableName": "t", "Key": {"pk": {"S": "run#1"}}}
STATEMENTS = {"Statements": [{"Statement": "UPDATE"}, {"Statement": "UPDATE"}]}
REFUSED = {"Error": {"Code": "ConditionalCheckFailed", "Message": "The conditional request failed", "Item": ITEM}}


@pytest.mark.parametrize(
    ("operation", "parameters", "reply"),
    [
        ("update_item", UPDATE, {"Attributes": ITEM}),
        ("update_item", UPDATE, {}),
        ("get_item", UPDATE, {"Item": ITEM}),
        ("query", {"TableName": "t"}, {"Items": [ITEM, {}], "Count": 2, "LastEvaluatedKey": {"pk": {"S": "run#1"}}}),
        ("batch_execute_statement", STATEMENTS, {"Responses": [{"TableName": "t", "Item": ITEM}, REFUSED]}),
        ("batch_get_item", {"RequestItems": {}}, {"Responses": {"t": [ITEM]}, "UnprocessedKeys": {}}),
    ],
)
def test_our_client_reads_what_botocore_s_would(both: list[Any], operation: str, parameters: Any, reply: Any):
    ours, theirs = (getattr(answered(client, json.dumps(reply).encode()), operation)(**parameters) for client in both)

    assert ours == theirs
    assert ours.items() >= reply.items()


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"<html>", b"\xff", b'{"Attributes":'])
def test_a_reply_that_is_none_is_left_to_botocore(both: list[Any], body: bytes):
    def outcome(client: Any) -> Any:
        try:
            return answered(client, body).update_item(**UPDATE)
        except (ResponseParserError, AttributeError, TypeError, ValueError) as error:  # botocore is not strict here
            return type(error)

    ours, theirs = map(outcome, both)

    assert ours == theirs


def test_a_refusal_is_told_as_botocore_s_client_tells_it(both: list[Any]):
    kind = "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException"
    body = json.dumps({"__type": kind, "message": "The conditional request failed", "Item": ITEM}).encode()
    errors = []
    for client in both:
        with pytest.raises(ClientError) as caught:
            answered(client, body, status=400).update_item(**UPDATE)
        errors.append(caught.value.response)

    assert errors[0] == errors[1]
    assert errors[0]["Item"] == ITEM

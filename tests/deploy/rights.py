"""The rights that a policy of ``template.yaml`` gives, and a guard that refuses what they do not cover, as IAM does.

Resources are named as in the template: ``Table``, ``Table/index/wake``, ``DeadLetterQueue``. The guard knows the
requests and the conditions that this project uses, and fails at any other.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from examples.deployment import load_template


class Right(NamedTuple):
    """One action on one resource, where the statement has leading keys under one of them."""

    policy: str
    sid: str
    action: str
    resource: str
    leading_key: str | None
    returns: str | None
    """The only ``ReturnValues`` that the statement allows, or ``None``: it allows any."""

    def __str__(self) -> str:
        return "-".join(filter(None, (self.policy, self.sid, self.action, self.resource, self.leading_key)))


class Need(NamedTuple):
    """What a request needs a right for."""

    action: str
    resource: str
    keys: tuple[str, ...] = ()
    returns: str | None = None


def rights_of(policy: str) -> list[Right]:
    """Return all rights of a policy, with those that only a payload key adds.

    Those that a bucket adds are compared with its users' requests in ``test_large_template.py``.
    """
    rights = []
    for statement in load_template()["Resources"][policy]["Properties"]["PolicyDocument"]["Statement"]:
        match statement:
            case {"Fn::If": ["KeepsLargePayloads", _, _]}:
                continue
            case {"Fn::If": [_, under_it, {"Ref": "AWS::NoValue"}]}:
                statement = under_it
        assert statement["Effect"] == "Allow"
        conditions = dict(statement.get("Condition", {}))
        keys = conditions.pop("ForAllValues:StringLike", {"dynamodb:LeadingKeys": [None]})
        returns = conditions.pop("StringEqualsIfExists", {"dynamodb:ReturnValues": None})
        assert conditions == {}
        assert keys.keys() == {"dynamodb:LeadingKeys"}
        assert returns.keys() == {"dynamodb:ReturnValues"}
        rights += [
            Right(policy, statement["Sid"], action, _name(resource), key, returns["dynamodb:ReturnValues"])
            for action in _listed(statement["Action"])
            for resource in _listed(statement["Resource"])
            for key in keys["dynamodb:LeadingKeys"]
        ]
    return rights


class Guard:
    """Refuses requests of a botocore session's clients for which there is no right."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        """The template's name of each resource, by what requests call it."""
        self.rights: list[Right] = []
        self.used: set[Right] = set()
        self.refused: list[Need] = []
        self._lock = threading.Lock()

    def watch(self, session: Any) -> None:
        """Judge every request of the clients that a botocore session makes from now on."""
        session.register("provide-client-params", self._judge)

    @contextmanager
    def allowing(self, rights: list[Right]) -> Iterator[None]:
        """Allow these rights and no other, until the block ends."""
        self.rights, self.used, self.refused = rights, set(), []
        yield

    def _judge(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        for need in self._needs(model.service_model.service_name, model.name, params):
            by_statement: dict[str, list[Right]] = {}
            for right in self.rights:
                if (right.action, right.resource) == (need.action, need.resource):
                    by_statement.setdefault(right.sid, []).append(right)
            with self._lock:
                for rights in by_statement.values():
                    if covering := _covering(rights, need):
                        self.used |= covering
                        break
                else:
                    self.refused.append(need)
                    error = {"Code": "AccessDeniedException", "Message": f"not authorized to perform: {need.action}"}
                    raise ClientError({"Error": error}, model.name)  # type: ignore[typeddict-item]

    def _needs(self, service: str, operation: str, params: dict[str, Any]) -> list[Need]:
        def named(value: str) -> str:
            # The last part of an ARN, or of a queue's URL; an alias is part of the function's name.
            for name in (value, value.rpartition("/")[2], value.rpartition(":")[2], value.partition(":function:")[2]):
                if name in self._names:
                    return self._names[name]
            raise AssertionError(f"{operation} is asked of {value}, which is not of the stack")

        action = f"{service}:{operation.removesuffix('Batch') if service == 'sqs' else operation}"
        match service, operation:
            case "dynamodb", "BatchGetItem":
                return [
                    Need(action, named(table), tuple(key["pk"]["S"] for key in request["Keys"]))
                    for table, request in params["RequestItems"].items()
                ]
            case "dynamodb", "Query":
                table = named(params["TableName"])
                if "IndexName" not in params:
                    return [Need(action, table, (params["ExpressionAttributeValues"][":pk"]["S"],))]
                return [Need(action, f"{table}/index/{params['IndexName']}")]
            case "dynamodb", "GetItem" | "PutItem" | "UpdateItem" | "DeleteItem":
                key = (params.get("Key") or params["Item"])["pk"]["S"]
                return [Need(action, named(params["TableName"]), (key,), params.get("ReturnValues"))]
            case "dynamodb", "TransactWriteItems":
                # https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis-iam.html
                puts = [each["Put"] for each in params["TransactItems"]]
                return [Need("dynamodb:PutItem", named(put["TableName"]), (put["Item"]["pk"]["S"],)) for put in puts]
            case "dynamodb", "DescribeTable" | "DescribeTimeToLive" | "DescribeContinuousBackups":
                return [Need(action, named(params["TableName"]))]
            case "sqs", "StartMessageMoveTask":
                # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-configure-dead-letter-queue-redrive.html
                source, target = named(params["SourceArn"]), named(params["DestinationArn"])
                others = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes")
                return [Need(each, source) for each in (action, *others)] + [Need("sqs:SendMessage", target)]
            case "sqs", "ListMessageMoveTasks":
                return [Need(action, named(params["SourceArn"]))]
            case "sqs", _:
                return [Need(action, named(params["QueueUrl"]))]
            case "logs", _:
                return [Need(action, named(params["logGroupName"]))]
            case "cloudformation", _:
                return [Need(action, named(params["StackName"]))]
            case "lambda", "ListEventSourceMappings":
                return [Need(action, "*")]
            case "lambda", _:
                return [Need(action, named(params["FunctionName"]))]
            case "events", _:
                return [Need(action, named(params["Name"]))]
            case "kms", _:
                return [Need(action, "PayloadKeyArn")]
        raise AssertionError(f"nobody has said which right {service}:{operation} needs")


def _covering(rights: list[Right], need: Need) -> set[Right]:
    """Return the rights of one statement that a need is covered by, or nothing."""
    if rights[0].returns is not None and need.returns not in (None, rights[0].returns):
        return set()
    if rights[0].leading_key is None:
        return {rights[0]}
    found = [[r for r in rights if fnmatchcase(key, str(r.leading_key))] for key in need.keys]
    return {each[0] for each in found} if all(found) else set()


def _name(resource: Any) -> str:
    match resource:
        case {"Fn::GetAtt": [name, "Arn"]} | {"Ref": name}:
            return str(name)
        case {"Fn::Sub": str(text)} if text.endswith(":stack/${AWS::StackName}/*"):
            return "Stack"
        case {"Fn::Sub": str(text)}:
            return text.replace("${Table.Arn}", "Table").replace("${Consumer.Arn}", "Consumer")
        case "*":
            return "*"
    raise AssertionError(resource)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]

"""What the imitated services refuse, as botocore raises it: a ``ClientError`` of the class that the client names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from botocore.exceptions import ClientError

from kumofire_core.testing.values import typed


@cache
def error_class(code: str) -> type[ClientError]:
    """Return the class of the errors with a code, which is an attribute of a client's ``exceptions``."""
    return type(code.rpartition(".")[2], (ClientError,), {"__module__": "botocore.errorfactory"})


class Exceptions:
    """What a client has as ``exceptions``: ``client.exceptions.ConditionalCheckFailedException`` and so on."""

    def __getattr__(self, code: str) -> type[ClientError]:
        if code == "ClientError":
            return ClientError
        if code.startswith("_"):
            raise AttributeError(code)
        return error_class(code)


def service_error(operation: str, code: str, message: str, **further: Any) -> ClientError:
    """Return an error of a service; ``further`` is in its reply beside the code and the message."""
    response: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"RetryAttempts": 0}, **further}
    return error_class(code)(response, operation)


def invalid(operation: str, problem: object) -> ClientError:
    """Return the error of a request that DynamoDB does not take."""
    return service_error(operation, "ValidationException", str(problem))


def refusal(operation: str, old: Mapping[str, Any] | None, show: str) -> ClientError:
    """Return the error of a condition that does not hold, with the item where it was asked for."""
    shown = {"Item": typed(old)} if old is not None and show == "ALL_OLD" else {}
    return service_error(operation, "ConditionalCheckFailedException", "The conditional request failed", **shown)


def canceled(reasons: list[dict[str, Any]]) -> ClientError:
    """Return the error of a transaction that is canceled, with the reason of each of its actions."""
    codes = ", ".join(reason["Code"] for reason in reasons)
    message = f"Transaction cancelled, please refer cancellation reasons for specific reasons [{codes}]"
    return service_error("TransactWriteItems", "TransactionCanceledException", message, CancellationReasons=reasons)


def throttled(operation: str) -> ClientError:
    """Return the error of a table or an index whose capacity is used up."""
    return service_error(operation, "ProvisionedThroughputExceededException", "too fast")


class NotImitatedError(NotImplementedError):
    """The in-memory services don't know an operation, a parameter or a form of an expression that AWS knows."""

    def __init__(self, what: str) -> None:
        super().__init__(f"kumofire_core.testing does not imitate {what}; test this with an emulator of the service")

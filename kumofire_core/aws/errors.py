"""The errors that a request to AWS can raise."""

from __future__ import annotations

from botocore.exceptions import BotoCoreError, ClientError

AWS_ERRORS = (BotoCoreError, ClientError)
"""What leaves a botocore client: the request could not be made, or the service answered with an error."""


def is_access_denied(error: Exception) -> bool:
    """Say whether the service refused a request because IAM does not allow it to this process."""
    return _code(error) == "AccessDeniedException"


def is_invalid(error: Exception) -> bool:
    """Say whether DynamoDB refused a request for what it asks for: an item that would be too large, for example."""
    return _code(error) == "ValidationException"


def _code(error: Exception) -> str | None:
    return error.response.get("Error", {}).get("Code") if isinstance(error, ClientError) else None

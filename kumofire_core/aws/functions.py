"""Lambda functions: the only module that invokes one."""

from __future__ import annotations

from typing import Any


def invoke_async(function: str, payload: bytes) -> None:
    """Ask Lambda to invoke a function with this event, and do not wait for it; errors leave as botocore raised them.

    https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html (``InvocationType`` ``Event``)
    """
    from botocore.config import Config
    from botocore.session import get_session

    # Few passes hand anything over, so the client is made here. It gives up well before the function's deadline.
    config = Config(connect_timeout=1, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 2})
    client: Any = get_session().create_client("lambda", config=config)
    client.invoke(FunctionName=function, InvocationType="Event", Payload=payload)

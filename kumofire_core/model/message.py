"""The message on the queue: a version and a run id. Free of AWS and of the engine.

The table is the source of truth, so a forged or replayed message can at worst cause one look-up.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from kumofire_core.errors import MalformedMessageError, UnsupportedMessageVersionError
from kumofire_core.model import json_codec

MESSAGE_VERSION = 1
MAX_RUN_ID_LENGTH = 128

MAX_GROUP_LENGTH = 128
"""https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html (MessageGroupId)"""


class Sending(NamedTuple):
    """How the message of a run is sent."""

    delay_seconds: int
    group: str | None = None
    """Its ``MessageGroupId``: the tenant that SQS counts it for (docs/fairness.md)."""


def is_group(value: object) -> bool:
    """Return whether SQS takes this as a ``MessageGroupId``: 1 to 128 letters, digits and punctuation, in ASCII."""
    return (
        isinstance(value, str)
        and 1 <= len(value) <= MAX_GROUP_LENGTH
        and value.isascii()
        and value.isprintable()
        and " " not in value
    )


def encode_message(run_id: str) -> str:
    """Return the SQS body of a run's message."""
    quoted = f'"{run_id}"' if run_id.isalnum() else json.dumps(run_id)
    return f'{{"version":{MESSAGE_VERSION},"kumofireJobRunId":{quoted}}}'


def decode_body(body: object) -> str:
    """Return the run id in an SQS body; raises ``MalformedMessageError`` if the body is not a Kumofire message."""
    if not isinstance(body, str):
        raise MalformedMessageError(f"the body is {_kind(body)}, not text")
    try:
        message = json_codec.decode(body)
    except ValueError:
        raise MalformedMessageError("the body is not JSON") from None
    return parse_message(message)


def parse_message(message: object) -> str:
    """Return the run id in a message, a mapping with ``version`` and ``kumofireJobRunId``; other keys are ignored.

    Raises ``UnsupportedMessageVersionError`` for any version but 1, and ``MalformedMessageError`` for any other shape.
    """
    if not isinstance(message, dict):
        raise MalformedMessageError(f"the message is {_kind(message)}, not an object")
    version = message.get("version")
    if type(version) is not int or version != MESSAGE_VERSION:
        number = type(version) is int and abs(version) < 1_000_000
        raise UnsupportedMessageVersionError(f"{version}" if number else f"({_kind(version)})")
    run_id = message.get("kumofireJobRunId")
    if not isinstance(run_id, str):
        raise MalformedMessageError(f"kumofireJobRunId is {_kind(run_id)}, not a string")
    if not 1 <= len(run_id) <= MAX_RUN_ID_LENGTH:
        raise MalformedMessageError(
            f"kumofireJobRunId has {len(run_id)} characters; it must have 1 to {MAX_RUN_ID_LENGTH}"
        )
    if not run_id.isprintable():
        raise MalformedMessageError("kumofireJobRunId holds characters that no run id has")
    return run_id


def _kind(value: object) -> str:
    return "missing or null" if value is None else f"of type {type(value).__name__}"

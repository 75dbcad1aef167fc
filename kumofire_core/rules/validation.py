"""Checks of the arguments of public calls, made before anything is written."""

from __future__ import annotations

from kumofire_core.errors import InvalidArgumentError, InvalidJSONError, short_repr
from kumofire_core.model import json_codec
from kumofire_core.model.error_text import MAX_ERROR_LENGTH
from kumofire_core.model.message import MAX_RUN_ID_LENGTH
from kumofire_core.model.run import MAX_KEY_LENGTH, MAX_NAME_LENGTH
from kumofire_core.model.run_item import CANCEL_REASON_BYTES, MAX_PAYLOAD_BYTES, text_bytes
from kumofire_core.rules.retry import is_attempt_count


def payload_text(payload: object) -> str:
    """Return a payload's JSON text; ``InvalidJSONError`` where it is not JSON or too large for one item."""
    text = json_codec.encode("the payload", payload)
    require_room(text)
    return text


def require_room(text: str) -> None:
    """Raise ``InvalidJSONError`` where a payload, as it would be stored, is too large for one item."""
    size = text_bytes(text)
    if size > MAX_PAYLOAD_BYTES:
        raise InvalidJSONError(
            f"the payload has {size} bytes as it would be stored; a run has room for {MAX_PAYLOAD_BYTES} (DynamoDB's "
            "item limit is 400 KB); store it elsewhere, in S3 for example, and pass a reference"
        )


def name_problem(name: object) -> str | None:
    """Say what is wrong with a job's name, or return ``None``."""
    if not isinstance(name, str):
        return f"a job's name must be a string, not {type(name).__name__}"
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        return f"a job's name must have 1 to {MAX_NAME_LENGTH} characters, not {len(name)}"
    if not name.isprintable():
        return f"the job name {name!r} has characters that can't be printed"
    return None


def require_job_name(name: object) -> None:
    """Raise ``InvalidArgumentError`` where ``name`` can't be a job's name."""
    if problem := name_problem(name):
        raise InvalidArgumentError(problem)


def require_max_attempts(max_attempts: object) -> None:
    """Raise ``InvalidArgumentError`` unless ``max_attempts`` is ``None`` or a number of attempts."""
    if max_attempts is not None and not is_attempt_count(max_attempts):
        raise InvalidArgumentError(f"max_attempts must be a whole number of at least 1, not {short_repr(max_attempts)}")


def require_key(name: str, key: object) -> None:
    """Raise ``InvalidArgumentError`` where ``key`` can't be a key of the application's."""
    if not isinstance(key, str):
        raise InvalidArgumentError(f"{name} must be a string, not {type(key).__name__}")
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise InvalidArgumentError(f"{name} must have 1 to {MAX_KEY_LENGTH} characters, not {len(key)}")
    if any("\ud800" <= character <= "\udfff" for character in key):
        raise InvalidArgumentError(f"{name} holds half a surrogate pair, which UTF-8 has no form for")


def require_id(what: str, id: object) -> None:
    """Raise ``InvalidArgumentError`` where ``id`` can't be an id of ours."""
    if not isinstance(id, str) or not 1 <= len(id) <= MAX_RUN_ID_LENGTH or not id.isprintable():
        raise InvalidArgumentError(
            f"{what} must be a string of 1 to {MAX_RUN_ID_LENGTH} characters, not {short_repr(id)}"
        )


def require_reason(reason: object) -> None:
    """Raise ``InvalidArgumentError`` unless ``reason`` is ``None`` or a short text."""
    if reason is None:
        return
    if not isinstance(reason, str) or len(reason) > MAX_ERROR_LENGTH:
        raise InvalidArgumentError(f"reason must be a string of at most {MAX_ERROR_LENGTH} characters")
    if any("\ud800" <= character <= "\udfff" for character in reason):
        raise InvalidArgumentError("reason holds half a surrogate pair, which UTF-8 has no form for")
    if text_bytes(reason) > CANCEL_REASON_BYTES:
        raise InvalidArgumentError(
            f"reason must have at most {CANCEL_REASON_BYTES} bytes in UTF-8, not {text_bytes(reason)}"
        )

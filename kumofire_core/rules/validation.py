"""Checks of the arguments of public calls, made before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Final

from kumofire_core.errors import InvalidArgumentError, InvalidJSONError, short_repr
from kumofire_core.model import json_codec
from kumofire_core.model.message import MAX_GROUP_LENGTH, MAX_RUN_ID_LENGTH, is_group
from kumofire_core.model.run import MAX_KEY_LENGTH, MAX_NAME_LENGTH
from kumofire_core.model.run_item import CANCEL_REASON_BYTES, MAX_PAYLOAD_BYTES
from kumofire_core.model.times import duration_ms
from kumofire_core.model.write import text_bytes
from kumofire_core.rules.retry import is_attempt_count

MAX_REASON_LENGTH = 1000

PAGE_LIMIT = 100
"""https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html (items per request)"""


class Unchanged:
    """The type of ``UNCHANGED``."""

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged()
"""The default of an argument for which ``None`` is a value. It means that the caller left the argument out."""


def payload_text(payload: object, most_bytes: int = MAX_PAYLOAD_BYTES) -> str:
    """Return a payload's JSON text; raises ``InvalidJSONError`` if it is not JSON or has more than ``most_bytes``."""
    text = json_codec.encode("the payload", payload)
    require_room(text, most_bytes)
    return text


def require_room(text: str, most_bytes: int = MAX_PAYLOAD_BYTES) -> None:
    """Raise ``InvalidJSONError`` if a payload's stored text has more than ``most_bytes``.

    By default these are what one item has room for.
    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html (item size)
    """
    size = text_bytes(text)
    if size <= most_bytes:
        return
    if most_bytes > MAX_PAYLOAD_BYTES:
        raise InvalidJSONError(
            f"the payload has {size} bytes as it would be stored; a value in S3 may have {most_bytes}; store it "
            "elsewhere and pass a reference"
        )
    raise InvalidJSONError(
        f"the payload has {size} bytes as it would be stored; a run has room for {MAX_PAYLOAD_BYTES} (DynamoDB's "
        "item limit is 400 KB); give Jobs a bucket, which takes payloads of runs up to 100 MB "
        "(docs/large-payloads.md), or store it elsewhere and pass a reference"
    )


def name_problem(name: object) -> str | None:
    """Return a sentence that says what is wrong with a job's name, or ``None``."""
    if not isinstance(name, str):
        return f"a job's name must be a string, not {type(name).__name__}"
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        return f"a job's name must have 1 to {MAX_NAME_LENGTH} characters, not {len(name)}"
    if not name.isprintable():
        return f"the job name {name!r} has characters that can't be printed"
    return None


def require_job_name(name: object) -> None:
    """Raise ``InvalidArgumentError`` if ``name`` can't be a job's name."""
    if problem := name_problem(name):
        raise InvalidArgumentError(problem)


def require_max_attempts(max_attempts: object) -> None:
    """Raise ``InvalidArgumentError`` unless ``max_attempts`` is ``None`` or a whole number of at least 1."""
    if max_attempts is not None and not is_attempt_count(max_attempts):
        raise InvalidArgumentError(f"max_attempts must be a whole number of at least 1, not {short_repr(max_attempts)}")


def require_page_limit(limit: object) -> int:
    """Return how long a page of a list may be; ``InvalidArgumentError`` unless it is from 1 to ``PAGE_LIMIT``."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= PAGE_LIMIT:
        raise InvalidArgumentError(f"limit must be a whole number from 1 to {PAGE_LIMIT}, not {short_repr(limit)}")
    return limit


def require_flag(name: str, flag: object) -> None:
    """Raise ``InvalidArgumentError`` unless ``flag`` is ``True`` or ``False``; ``name`` is the argument."""
    if not isinstance(flag, bool):
        raise InvalidArgumentError(f"{name} must be True or False, not {short_repr(flag)}")


def require_most_bytes(most_bytes: object) -> None:
    """Raise ``InvalidArgumentError`` unless ``most_bytes`` is ``None`` or a whole number from 0."""
    if most_bytes is None or (type(most_bytes) is int and most_bytes >= 0):
        return
    raise InvalidArgumentError(f"most_bytes must be None or a whole number from 0, not {short_repr(most_bytes)}")


def require_group(group: object) -> None:
    """Raise ``InvalidArgumentError`` unless ``group`` is ``None`` or what SQS takes as a ``MessageGroupId``."""
    if group is None or is_group(group):
        return
    if not isinstance(group, str):
        raise InvalidArgumentError(f"group must be a string or None, not {type(group).__name__}")
    if not 1 <= len(group) <= MAX_GROUP_LENGTH:
        raise InvalidArgumentError(f"group must have 1 to {MAX_GROUP_LENGTH} characters, not {len(group)}")
    raise InvalidArgumentError(
        f"group may have letters, digits and punctuation of ASCII, and no spaces (SQS's MessageGroupId); "
        f"{short_repr(group)} has others; give an id, or a hash of the name"
    )


def require_key(name: str, key: object) -> None:
    """Raise ``InvalidArgumentError`` unless ``key`` can be a dedupe or schedule key; ``name`` is the argument."""
    if problem := _key_problem(name, key):
        raise InvalidArgumentError(problem)


def dedupe_rule(dedupe: object, dedupe_key: object) -> tuple[str | None, int | None]:
    """Return what ``dedupe`` means: the mode, and the period in milliseconds; ``InvalidArgumentError`` otherwise."""
    if isinstance(dedupe, timedelta):
        if dedupe < timedelta(milliseconds=1):
            raise InvalidArgumentError(f"dedupe must be a time of at least a millisecond, not {short_repr(dedupe)}")
        rule: tuple[str | None, int | None] = "period", duration_ms(dedupe)
    elif isinstance(dedupe, str) and dedupe in ("kept", "unfinished", "debounce"):
        rule = (None if dedupe == "kept" else dedupe), None
    else:
        raise InvalidArgumentError(
            f"dedupe must be 'kept', 'unfinished', 'debounce' or a timedelta, not {short_repr(dedupe)}"
        )
    if dedupe_key is None:
        raise InvalidArgumentError(f"dedupe={short_repr(dedupe)} needs a dedupe_key")
    return rule


def may_be_key(name: str, key: object) -> bool:
    """Return whether ``key`` can be a key; raises ``InvalidArgumentError`` if it is not a string."""
    problem = _key_problem(name, key)
    if problem and not isinstance(key, str):
        raise InvalidArgumentError(problem)
    return problem is None


def _key_problem(name: str, key: object) -> str | None:
    if not isinstance(key, str):
        return f"{name} must be a string, not {type(key).__name__}"
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        return f"{name} must have 1 to {MAX_KEY_LENGTH} characters, not {len(key)}"
    if any("\ud800" <= character <= "\udfff" for character in key):
        return f"{name} holds half a surrogate pair, which UTF-8 has no form for"
    return None


def may_exist(what: str, id: object) -> bool:
    """Return whether an item can have this id. A string that is not an id is treated as an unknown id.

    Raises ``InvalidArgumentError`` if ``id`` is not a string.
    """
    if not isinstance(id, str):
        raise InvalidArgumentError(f"{what} must be a string, not {short_repr(id)}")
    return 1 <= len(id) <= MAX_RUN_ID_LENGTH and id.isprintable()


def distinct_ids(run_ids: object) -> tuple[str, ...]:
    """Return the ids of a list of run ids that can exist, each once; ``InvalidArgumentError`` for what is no list."""
    if isinstance(run_ids, str | bytes | Mapping) or not isinstance(run_ids, Iterable):
        raise InvalidArgumentError(f"run_ids must be a list of run ids, not {type(run_ids).__name__}")
    return tuple(dict.fromkeys(run_id for run_id in run_ids if may_exist("a run id in run_ids", run_id)))


def require_spread(spread: object) -> int:
    """Return a time to spread runs over, in milliseconds; ``InvalidArgumentError`` unless it is a timedelta from 0."""
    if not isinstance(spread, timedelta) or spread < timedelta(0):
        raise InvalidArgumentError(f"spread must be a timedelta that is not negative, not {short_repr(spread)}")
    return duration_ms(spread)


def require_reason(reason: object) -> None:
    """Raise ``InvalidArgumentError`` unless ``reason`` is ``None`` or a short string."""
    if reason is None:
        return
    if not isinstance(reason, str):
        raise InvalidArgumentError(f"reason must be a string or None, not {type(reason).__name__}")
    if len(reason) > MAX_REASON_LENGTH:
        raise InvalidArgumentError(f"reason may have {MAX_REASON_LENGTH} characters, and has {len(reason)}")
    if any("\ud800" <= character <= "\udfff" for character in reason):
        raise InvalidArgumentError("reason holds half a surrogate pair, which UTF-8 has no form for")
    if text_bytes(reason) > CANCEL_REASON_BYTES:
        raise InvalidArgumentError(
            f"reason must have at most {CANCEL_REASON_BYTES} bytes in UTF-8, not {text_bytes(reason)}"
        )

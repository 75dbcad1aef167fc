"""The errors that a request to AWS can raise, and the note that each gets before it leaves this package."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from typing import Protocol

    class Place(Protocol):
        """What a note says of the table or the queue."""

        def described(self) -> str: ...


AWS_ERRORS = (BotoCoreError, ClientError)
"""What leaves a botocore client: the request could not be made, or the service answered with an error."""

NOTE_BEGINS = "Kumofire: "
"""By this a note of ours is told from others', which may quote data."""

Self = TypeVar("Self", bound="Place")
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def explained(
    method: Callable[Concatenate[Self, Parameters], Result],
) -> Callable[Concatenate[Self, Parameters], Result]:
    """Let errors of AWS leave a method as they are, with a note that says where they come from and what to do.

    The texts are imported only then. A request that succeeds costs one function call more.
    """

    @wraps(method)
    def noting(self: Self, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return method(self, *args, **kwargs)
        except AWS_ERRORS as error:
            if not note_of(error):
                from kumofire_core.aws.error_notes import advice

                error.add_note(f"{NOTE_BEGINS}{self.described()}: {advice(error)}")
            raise

    return noting


def note_of(error: BaseException) -> str:
    """Return the note that this package put on an error, without its mark, or nothing. It never has data of a run."""
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, str) and note.startswith(NOTE_BEGINS):
            return note.removeprefix(NOTE_BEGINS)
    return ""


def where(client: Callable[[], Any]) -> str:
    """Return the region that a client asks, and the endpoint where it is not one of AWS's own."""
    try:
        meta = getattr(client(), "meta", None)
    except Exception:  # there is not a client: the error that is being explained says why
        return ""
    region, endpoint = getattr(meta, "region_name", None), getattr(meta, "endpoint_url", None)
    text = f" in {region}" if isinstance(region, str) else ""
    if isinstance(endpoint, str) and not endpoint.partition("://")[2].split("/")[0].endswith(AWS_DOMAINS):
        text += f" at {endpoint}"
    return text


AWS_DOMAINS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".amazonwebservices.com.cn")


def is_access_denied(error: Exception) -> bool:
    """Say whether the service refused a request because IAM does not allow it to this process."""
    return _code(error) in ("AccessDeniedException", "AccessDenied")  # S3 says the latter


def is_invalid(error: Exception) -> bool:
    """Say whether DynamoDB refused a request for what it asks for: an item that would be too large, for example."""
    return _code(error) == "ValidationException"


def require_failed_condition(refusal: ClientError) -> None:
    """Raise an error that is not a failed condition."""
    if _code(refusal) != "ConditionalCheckFailedException":
        raise refusal


def _code(error: Exception) -> str | None:
    return error.response.get("Error", {}).get("Code") if isinstance(error, ClientError) else None

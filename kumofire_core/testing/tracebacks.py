"""What a handler raised, with its tracebacks, which the engine lets go of when the attempt is recorded."""

from __future__ import annotations

from types import TracebackType

from kumofire_core.model.steering import Steering


class KeptTracebacks:
    """The error of one attempt, with those that led to it."""

    def __init__(self) -> None:
        self._error: BaseException | None = None
        self._kept: list[tuple[BaseException, TracebackType | None]] = []

    def keep(self, error: BaseException) -> None:
        """Keep an error as it is now."""
        self._error, seen, pending = error, set[int](), [error]
        while pending:
            each = pending.pop()
            if id(each) in seen:
                continue
            seen.add(id(each))
            self._kept.append((each, each.__traceback__))
            pending += [linked for linked in (each.__cause__, each.__context__) if linked is not None]
            pending += getattr(each, "exceptions", ())

    def reraise(self) -> None:
        """Raise the error, where there is one and it is the handler's own."""
        error, self._error = self._error, None
        if type(error).__name__.startswith("_"):  # private to the engine: of an output that is not JSON, for example
            error = getattr(error, "error", None)
        if not isinstance(error, Exception) or isinstance(error, Steering):
            return
        for each, places in self._kept:
            each.__traceback__ = places
        raise error

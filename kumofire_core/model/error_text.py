"""An error as text: what is stored with a run, and what of it may appear in a log.

An error is told with what led to it: the leaves of an ``ExceptionGroup``, and the chain of its causes.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator
from typing import NamedTuple

from kumofire_core.errors import LeaseExpiredError
from kumofire_core.model.times import from_ms

MAX_ERROR_BYTES = 3 * 1024
"""How long the text of an error is as it is stored, in UTF-8."""

MAX_MESSAGE_BYTES = 600
MAX_TRACEBACK_BYTES = 1500
"""How long an error's text and its traceback are with the attempt that it ended, in UTF-8."""

MOST_FRAMES = 100
"""How many frames of a traceback are looked at: the outermost and the innermost."""

MOST_LEAVES = 4
"""How many errors of a group are told, each with its first cause."""

MOST_CAUSES = 4
"""How many errors of a chain of causes are told: those next to the error, and those at the chain's beginning."""

MOST_TOLD = 12
"""How many errors are told in all, so that each has a line of some length."""

_MOST_LINKS = 1000
"""How many errors are visited: more are a program's mistake, or an attack."""


def error_text(error: BaseException) -> str:
    """Return an error's type and text as it is stored: bounded, and always possible to store.

    The errors that led to it follow, a line each. A long text leaves room for those of the others.
    """
    return bounded_text([f"{'  ' * depth}{relation}{_one_text(each)}" for relation, depth, each in _told(error)])


def bounded_text(lines: list[str]) -> str:
    """Return lines as one text of at most ``MAX_ERROR_BYTES`` bytes. Long lines are cut, and short ones stay whole."""
    encoded = [line.encode("utf-8", "backslashreplace") for line in lines]
    room, left = MAX_ERROR_BYTES - (len(encoded) - 1), len(encoded)
    for index in sorted(range(len(encoded)), key=lambda index: len(encoded[index])):
        encoded[index] = _cut(encoded[index], room // left)
        room, left = room - len(encoded[index]), left - 1
    return b"\n".join(encoded).decode()


def _cut(text: bytes, size: int) -> bytes:
    if len(text) <= size:
        return text
    mark = "…".encode()
    return text[: size - len(mark)].decode(errors="ignore").encode() + mark


def _one_text(error: BaseException | None) -> str:
    if error is None:
        return "…"
    name = type_name(error)
    try:
        message = str(error)
    except BaseException:
        message = "(its text can't be made)"
    return f"{name}: {message}" if message else name


class _Told(NamedTuple):
    """An error that is told, and how it led to the one before it."""

    relation: str
    depth: int
    error: BaseException | None
    """``None`` stands for those that are left out."""


def _told(error: BaseException) -> list[_Told]:
    """Return an error with the leaves of the group that it is, and the chain of its causes; bounded in number."""
    told = list(_told_all(error))
    if len(told) <= MOST_TOLD:
        return told
    return [*told[: MOST_TOLD - 3], _Told("", 1, None), *told[-2:]]


def _told_all(error: BaseException) -> Iterator[_Told]:
    yield _Told("", 0, error)
    seen = {id(error)}
    yield from _told_leaves(error, 1, seen)
    for relation, cause in _causes(error, seen, most=MOST_CAUSES):
        yield _Told(relation, 1, cause)
        if cause is not None:
            yield from _told_leaves(cause, 2, seen)


def _told_leaves(error: BaseException, depth: int, seen: set[int]) -> Iterator[_Told]:
    leaves = list(_leaves(error, seen))
    for leaf in leaves[:MOST_LEAVES]:
        yield _Told("- ", depth, leaf)
        for relation, cause in _causes(leaf, seen, most=1):
            yield _Told(relation, depth + 1, cause)
    if len(leaves) > MOST_LEAVES:
        yield _Told(f"- and {len(leaves) - MOST_LEAVES} more ", depth, None)


def _leaves(error: BaseException, seen: set[int]) -> Iterator[BaseException]:
    """Give the errors of a group that are no groups themselves, each once and in their order."""
    pending = _members(error)[::-1]
    while pending and len(seen) < _MOST_LINKS:
        each = pending.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        members = _members(each)
        pending += members[::-1]
        if not members:
            yield each


def error_leaves(error: BaseException) -> list[BaseException]:
    """Return the errors of a group that are not groups themselves; the error itself where it is no group."""
    return list(_leaves(error, {id(error)})) or [error]


def error_chain(error: BaseException) -> list[BaseException]:
    """Return an error and all that led to it, also what a ``from None`` hides; without the members of groups."""
    chain: list[BaseException] = []
    seen, pending = set[int](), [error]
    while pending and len(seen) < _MOST_LINKS:
        each = pending.pop()
        if id(each) not in seen:
            seen.add(id(each))
            chain.append(each)
            pending += [linked for linked in (each.__cause__, each.__context__) if linked is not None]
    return chain


def _members(error: BaseException) -> list[BaseException]:
    try:
        return list(error.exceptions) if isinstance(error, BaseExceptionGroup) else []
    except BaseException:  # a class may make anything of its attributes
        return []


def _causes(error: BaseException, seen: set[int], *, most: int) -> list[tuple[str, BaseException | None]]:
    """Return the chain of what led to an error, the latest first. What is left out is in the chain's middle."""
    chain: list[tuple[str, BaseException | None]] = []
    link = _cause(error)
    while link is not None and id(link[1]) not in seen and len(seen) < _MOST_LINKS:
        seen.add(id(link[1]))
        chain.append(link)
        link = _cause(link[1])
    if len(chain) <= most:
        return chain
    first = most - (most + 1) // 2
    return [*chain[:first], (f"({len(chain) - most} between) ", None), *chain[first - most :]]


def _cause(error: BaseException) -> tuple[str, BaseException] | None:
    """Return what Python's own traceback shows above an error."""
    try:
        if error.__cause__ is not None:
            return "caused by ", error.__cause__
        if error.__context__ is not None and not error.__suppress_context__:
            return "while handling ", error.__context__
    except BaseException:
        return None
    return None


def type_name(error: BaseException) -> str:
    """Return the name of an error's type, in a length that fits into a line."""
    return type(error).__name__[:100]


def error_name(error: BaseException) -> str:
    """Return what names an error in a log: an AWS service's code where it gave one, else the exception's type."""
    try:
        response = getattr(error, "response", None)
    except Exception:  # a class may make anything of its attributes
        response = None
    details = response.get("Error") if isinstance(response, dict) else None
    code = details.get("Code") if isinstance(details, dict) else None
    return f"{type_name(error)} {code}" if code else type_name(error)


def error_places(error: BaseException) -> list[str]:
    """Return the last places that an error passed through, for a log; without the engine's own way to the handler.

    Places only: an error's text, and the lines of a formatted traceback, may quote a payload. A module that only leads
    to the handler says so by a variable ``HIDDEN_IN_TRACEBACKS``.
    """
    shown = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    kept = [not frame.f_globals.get("HIDDEN_IN_TRACEBACKS") for frame in shown]
    summary = traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__), lookup_lines=False)
    places = [
        f"{place.filename}:{place.lineno} in {place.name}" for place, keep in zip(summary, kept, strict=True) if keep
    ]
    return places[-8:]


def error_causes(error: BaseException) -> list[str]:
    """Return what led to an error, for a log: a line for each that ``error_text`` tells, with its type and last place.

    Like ``error_places`` it is free of texts.
    """
    lines = []
    for relation, depth, cause in _told(error)[1:]:
        place = error_places(cause)[-1:] if cause is not None else []
        name = "…" if cause is None else error_name(cause)
        lines.append(f"{'  ' * (depth - 1)}{relation}{name}{''.join(f' at {where}' for where in place)}")
    return lines


def attempt_message(error: BaseException) -> str:
    """Return an error's text, without its type in front, as it is kept with the attempt; its causes follow."""
    text = error_text(error)
    rest = text.removeprefix(type_name(error))
    return cut_to_bytes(rest.removeprefix(":").strip(), MAX_MESSAGE_BYTES)


def attempt_traceback(error: BaseException) -> str | None:
    """Return where an error came from, as Python writes it, in ``MAX_TRACEBACK_BYTES``; ``None`` without any frame.

    The engine's own way to the handler is left out. Where it is too long, the frames of libraries go first, and of each
    kind those that are the furthest from the error. It never raises: a module's loader, which may be anybody's code, is
    asked for the source, and what it raises must not keep the end of the attempt from being stored.
    """
    try:
        return _traceback_text(error)
    except Exception:
        return None


def _traceback_text(error: BaseException) -> str | None:
    walked = [
        step for step in traceback.walk_tb(error.__traceback__) if not step[0].f_globals.get("HIDDEN_IN_TRACEBACKS")
    ]
    if len(walked) > MOST_FRAMES:  # a recursion without an end
        walked = walked[: MOST_FRAMES // 2] + walked[-MOST_FRAMES // 2 :]
    frames = traceback.StackSummary.extract(iter(walked))
    paths = {path for path in sys.path if isinstance(path, str)}  # programs put other things there, too
    roots = [f"{path}/" for path in sorted(paths, key=len, reverse=True) if path not in ("", "/")]
    texts = [_frame_text(place, roots) for place in frames]
    inward = sorted(range(len(frames)), key=lambda index: (_is_library(frames[index].filename), -index))
    kept: set[int] = set()
    size = 0
    for index in inward:
        needed = len(texts[index].encode("utf-8", "backslashreplace")) + len(_GAP.encode())
        if size + needed > MAX_TRACEBACK_BYTES:
            break
        kept.add(index)
        size += needed
    lines: list[str] = []
    for index, text in enumerate(texts):
        if index in kept:
            lines.append(text)
        elif not lines or lines[-1] != _GAP:
            lines.append(_GAP)
    return cut_to_bytes("\n".join(lines), MAX_TRACEBACK_BYTES) if kept else None


_GAP = "  …"


def _frame_text(place: traceback.FrameSummary, roots: list[str]) -> str:
    """Return a frame as Python writes it; its file as seen from the directory that it was imported from."""
    name = place.filename
    name = next((name[len(root) :] for root in roots if name.startswith(root)), name)
    line = (place.line or "").strip()[:160]
    return f'  File "{name[-200:]}", line {place.lineno}, in {place.name[:100]}' + (f"\n    {line}" if line else "")


def _is_library(filename: str) -> bool:
    """Say whether a file belongs to an installed package or to Python itself."""
    parts = filename.replace("\\", "/")
    return (
        "/site-packages/" in parts
        or parts.startswith(("<frozen", "/opt/python/", "/var/lang/", "/var/runtime/"))
        or f"/lib/python{sys.version_info.major}.{sys.version_info.minor}/" in parts
    )


def cut_to_bytes(text: str, most: int) -> str:
    """Return a text that takes at most ``most`` bytes in an item; one that is cut ends in an ellipsis."""
    stored = text.encode("utf-8", "backslashreplace")
    if len(stored) <= most:
        return stored.decode()
    return stored[: most - len("…".encode())].decode(errors="ignore") + "…"


def forget_frames(error: BaseException) -> None:
    """Let go of the frames that an error and those that led to it hold, and so of the local variables in them.

    A frame that holds its own error is a reference cycle, which stays in memory until the garbage collector finds it.
    """
    seen, pending = set[int](), [error]
    while pending:
        each = pending.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        pending += _members(each)
        with contextlib.suppress(Exception):
            each.__traceback__ = None
            pending += [linked for linked in (each.__cause__, each.__context__) if linked is not None]


def lost_attempt(attempt: int, lease_until: int | None) -> LeaseExpiredError:
    """Return the error of an attempt whose lease ended, at this epoch millisecond, without a word from its worker."""
    until = from_ms(lease_until or 0).isoformat(timespec="seconds")
    return LeaseExpiredError(
        f"attempt {attempt} was lost: its lease expired at {until}; its worker died or was cut off"
    )

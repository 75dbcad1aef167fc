"""A file with the address of a project's local AWS: the process that runs it writes the file, later ones read it.

The writing process holds a lock on the file until it ends. A file without a lock is ignored: a killed process has left
it. So nobody has to clean up, or to trust a process id. Free of AWS.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path

PLACE = Path(".aws-sam/local-aws")


class StillStartingError(Exception):
    """Another process is about to keep a local AWS for this project; try again when it has said so."""

    def __init__(self) -> None:
        super().__init__(
            "another `make deploy-local` is starting in this folder; call this one again when that one has printed"
            " the variables to export"
        )


def find(project: Path) -> str | None:
    """Return the address of the local AWS that a process keeps for ``project``, or ``None`` where none does.

    Raises ``StillStartingError``.
    """
    try:
        with open(project / PLACE) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        if address := (project / PLACE).read_text():
            return address
        raise StillStartingError from None
    return None


@contextlib.contextmanager
def kept(project: Path) -> Iterator[Callable[[str], object]]:
    """Be the process that keeps the project's local AWS; call what is yielded with its address when it can be used.

    Raises ``StillStartingError`` where another process became that one first.
    """
    (project / PLACE).parent.mkdir(exist_ok=True)
    with open(project / PLACE, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StillStartingError from None
        file.truncate(0)

        def tell(address: str) -> None:
            file.write(address)
            file.flush()

        yield tell
        file.truncate(0)

"""What the tests of an application need: an AWS in memory, and a clock that moves (docs/testing.md).

Free of pytest, which only ``kumofire_core.testing.plugin`` imports.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kumofire_core.testing.drained import Drained as Drained
    from kumofire_core.testing.environment import prepare_environment as prepare_environment
    from kumofire_core.testing.errors import InProcessError as InProcessError
    from kumofire_core.testing.refusals import NotImitatedError as NotImitatedError
    from kumofire_core.testing.world import InProcessAWS as InProcessAWS
    from kumofire_core.testing.world import in_process as in_process

_PLACES = {
    "Drained": "drained",
    "InProcessAWS": "world",
    "InProcessError": "errors",
    "NotImitatedError": "refusals",
    "in_process": "world",
    "prepare_environment": "environment",
}

__all__ = ["Drained", "InProcessAWS", "InProcessError", "NotImitatedError", "in_process", "prepare_environment"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)

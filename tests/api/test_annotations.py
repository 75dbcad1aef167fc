"""Public annotations resolve at run time, as FastAPI, pydantic and others ask for them."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from typing import Any

import pytest

import kumofire_core
from kumofire_core import RetriedRun, Run


def annotated() -> Iterator[Any]:
    """Yield every public class and function, and each method and property of the classes."""
    for name in kumofire_core.__all__:
        found = getattr(kumofire_core, name)
        if not inspect.isclass(found):
            continue
        yield pytest.param(found, id=name)
        for attribute, value in vars(found).items():
            function = getattr(value, "fget", None) or getattr(value, "__func__", value)
            # A named tuple's own functions have a namespace without builtins.
            if inspect.isfunction(function) and function.__module__ == found.__module__:
                yield pytest.param(function, id=f"{name}.{attribute}")


@pytest.mark.parametrize("of", list(annotated()))
def test_a_public_annotation_resolves_at_run_time(of: Any):
    assert isinstance(typing.get_type_hints(of), dict)


def test_a_run_is_annotated_with_what_it_holds():
    hints = typing.get_type_hints(Run)

    assert hints["history"] == tuple[RetriedRun, ...]
    assert typing.get_type_hints(kumofire_core.Jobs.get_status)["return"] == Run | None

"""The extension of griffe by which the builder reads docstrings; griffe is in the environment of the site alone."""

from __future__ import annotations

from typing import Any

import griffe

from tools.site.docstrings import markdown_of


class Docstrings(griffe.Extension):
    """Turns every docstring into Markdown when it is loaded."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object."""
        if obj.docstring is not None:
            obj.docstring.value = markdown_of(obj.docstring.value, owner=obj.path)

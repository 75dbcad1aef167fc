"""The errors of tests."""

from __future__ import annotations

from kumofire_core.errors import KumofireError


class InProcessError(KumofireError):
    """A test asks for what its AWS in memory can't do, or its runs don't come to an end."""

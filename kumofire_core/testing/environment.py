"""What the environment must have before a test imports an application's modules. Standard library only."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

TABLE = "use-the-kumofire-fixture"
"""The table's name where none is set: the error of AWS quotes it to whoever has forgotten the fixture."""

QUEUE_URL = "https://sqs.us-east-1.amazonaws.com/123456789012/use-the-kumofire-fixture"

_REGION = ("AWS_DEFAULT_REGION", "us-east-1")
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
_ACCOUNT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_CONFIG_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_DEFAULT_PROFILE",
    "AWS_PROFILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)
"""The variables by which boto3 finds credentials. Others, such as ``AWS_CA_BUNDLE``, name no account."""


def prepare_environment(environment: MutableMapping[str, str] | None = None) -> None:
    """Set what ``Jobs.from_env()`` needs, unless it is set; call it before the application's modules are imported.

    These are ``KUMOFIRE_TABLE`` and ``KUMOFIRE_QUEUE_URL``. A machine without AWS credentials, neither in the
    environment nor in files, gets dummy ones and a region as well, so that modules can make boto3 clients.
    """
    found = os.environ if environment is None else environment
    found.setdefault("KUMOFIRE_TABLE", TABLE)
    found.setdefault("KUMOFIRE_QUEUE_URL", QUEUE_URL)
    if not _has_credentials(found):
        found.update(_CREDENTIALS)
        found.setdefault(*_REGION)


def _has_credentials(environment: MutableMapping[str, str]) -> bool:
    if any(name in environment for name in _ACCOUNT):
        return True
    home = environment.get("HOME") or environment.get("USERPROFILE")
    return home is not None and any((Path(home) / ".aws" / name).exists() for name in ("config", "credentials"))

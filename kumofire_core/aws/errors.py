"""The errors that a request to AWS can raise."""

from __future__ import annotations

from botocore.exceptions import BotoCoreError, ClientError

AWS_ERRORS = (BotoCoreError, ClientError)
"""What leaves a botocore client: the request could not be made, or the service answered with an error."""

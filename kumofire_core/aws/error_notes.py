"""What each error of AWS means here, whether it can pass by itself, and what to do. Imported when there is one."""

from __future__ import annotations

from botocore.exceptions import ClientError

_NO_TABLE = (
    "there is no such table in this account and region; check the name, AWS_DEFAULT_REGION and the credentials' account"
)
_NO_INDEX = (
    "the table lacks the index that is asked for; update the stack: template.yaml has the indexes wake and listing"
)
_NO_QUEUE = (
    "there is no such queue in this account and region; check the URL, AWS_DEFAULT_REGION and the credentials' account"
)
_NO_BUCKET = "there is no such bucket; check the name (the stack's output BucketName) and the credentials' account"
_DENIED = (
    "the credentials may not make this request; give their role the permission that the error names "
    "(the stack's outputs CreatorPolicyArn, ReaderPolicyArn and OperatorPolicyArn are such policies)"
)
_CREDENTIALS = "AWS does not accept the credentials; check that they are complete, current, and of this account"
_EXPIRED = "the credentials have expired; get new ones (for example by aws sso login), or use a role that renews them"
_THROTTLED = (
    "the service was asked too fast and the request's repeats were used up; it passes by itself, "
    "and if it comes often raise the table's or the account's limits"
)
_SERVICE = "the service failed; it passes by itself, and may be tried again"
_UNREACHED = (
    "the service was not reached, or did not answer in time; check the endpoint, AWS_ENDPOINT_URL, and the way there "
    "(in a VPC: a route or an endpoint to the service)"
)
_REGION = (
    "the request went to another region, or was signed for one; make AWS_DEFAULT_REGION the one of the table and queue"
)
_CLOCK = "the clock of this machine is wrong by minutes; set it"
_QUEUE_REQUEST = "SQS does not take such a request on this queue; it must be a standard queue, as template.yaml has it"
_KEY = "the KMS key that encrypts it can't be used; enable the key, and allow the credentials its use"

_PERMANENT = {
    "ResourceNotFound": _NO_TABLE,
    "QueueDoesNotExist": _NO_QUEUE,
    "NonExistentQueue": _NO_QUEUE,
    "QueueDeletedRecently": _NO_QUEUE,
    "NoSuchBucket": _NO_BUCKET,
    "AllAccessDisabled": _NO_BUCKET,
    "PermanentRedirect": "the bucket is in another region; make AWS_DEFAULT_REGION that of the table, queue and bucket",
    "AccessDenied": _DENIED,
    "AuthorizationError": _DENIED,
    "UnauthorizedOperation": _DENIED,
    "OptInRequired": "the account is not signed up for the service in this region",
    "UnrecognizedClient": _CREDENTIALS,
    "InvalidClientTokenId": _CREDENTIALS,
    "InvalidSecurity": _CREDENTIALS,
    "AuthFailure": _CREDENTIALS,
    "MissingAuthenticationToken": _CREDENTIALS,
    "IncompleteSignature": _CREDENTIALS,
    "SignatureDoesNotMatch": f"{_CREDENTIALS}; or {_REGION}",
    "InvalidSignature": f"{_CREDENTIALS}; or {_REGION}",
    "ExpiredToken": _EXPIRED,
    "RequestExpired": _CLOCK,
    "RequestTimeTooSkewed": _CLOCK,
    "InvalidAddress": f"the URL is not a queue's of this endpoint: {_REGION}",
    "MissingParameter": _QUEUE_REQUEST,
    "MissingRequiredParameter": _QUEUE_REQUEST,
    "InvalidParameterValue": _QUEUE_REQUEST,
    "InvalidParameterCombination": _QUEUE_REQUEST,
    "UnsupportedOperation": _QUEUE_REQUEST,
    "InvalidAction": _QUEUE_REQUEST,
    "UnknownOperation": f"this is not the endpoint of the service; {_UNREACHED}",
    "InvalidMessageContents": _QUEUE_REQUEST,
    "KmsAccessDenied": _KEY,
    "KmsDisabled": _KEY,
    "KmsInvalidKeyUsage": _KEY,
    "KmsInvalidState": _KEY,
    "KmsNotFound": _KEY,
    "KmsOptInRequired": _KEY,
    "Validation": "the request does not fit the table; its keys and its index must be those of template.yaml",
    # botocore's own
    "UnknownServiceError": "boto3 does not know the service here; build with it among BOTO3_SERVICES (s3 for a bucket)",
    "NoCredentialsError": "there are no credentials; set AWS_PROFILE, or give the process a role",
    "PartialCredentialsError": "the credentials are incomplete; set both the key id and the secret key",
    "CredentialRetrievalError": "the credentials could not be had; check the profile or the command that gives them",
    "ProfileNotFound": "there is no profile of this name; set AWS_PROFILE to one of those in ~/.aws/config",
    "NoRegionError": "there is no region; set AWS_DEFAULT_REGION, or give Jobs clients that have one",
    "InvalidRegionError": "AWS_DEFAULT_REGION is not a region's name",
    "TokenRetrievalError": _EXPIRED,
    "UnauthorizedSSOTokenError": _EXPIRED,
    "SSOTokenLoadError": _EXPIRED,
}

_PASSING = {
    "Throttling": _THROTTLED,
    "ThrottlingError": _THROTTLED,
    "RequestThrottled": _THROTTLED,
    "KmsThrottled": _THROTTLED,
    "ProvisionedThroughputExceeded": _THROTTLED,
    "RequestLimitExceeded": _THROTTLED,
    "OverLimit": _THROTTLED,
    "TransactionConflict": _THROTTLED,
    "InternalServerError": _SERVICE,
    "InternalFailure": _SERVICE,
    "InternalError": _SERVICE,
    "ServiceUnavailable": _SERVICE,
    "SlowDown": _THROTTLED,
    "RequestTimeout": _UNREACHED,
    "ResponseStreamingError": _UNREACHED,
    "IncompleteReadError": _UNREACHED,
    "EndpointConnectionError": _UNREACHED,
    "ConnectTimeoutError": _UNREACHED,
    "ReadTimeoutError": _UNREACHED,
    "ConnectionClosedError": _UNREACHED,
    "ProxyConnectionError": _UNREACHED,
    "SSLError": f"the endpoint's certificate is not accepted; {_UNREACHED}",
}


def code_of(error: BaseException) -> str:
    """Return an error's code as the tables here have it: a service's without its prefix and suffix, or the type."""
    if isinstance(error, ClientError):
        return _short(error.response.get("Error", {}).get("Code"))
    return type(error).__name__


def is_permanent(error: BaseException) -> bool:
    """Say whether an error will come again however often the request is repeated, until a person changes something."""
    return code_of(error) in _PERMANENT


def is_permanent_code(code: object) -> bool:
    """Say the same of a code, as SQS answers it for one entry of a batch."""
    return _short(code) in _PERMANENT


def advice(error: BaseException) -> str:
    """Return what an error means here and what to do."""
    code = code_of(error)
    if code == "Validation" and "index" in str(error):
        return _NO_INDEX
    return advice_for(code)


def advice_for(code: object) -> str:
    """Return what the error of this code means here and what to do."""
    known = _PERMANENT.get(_short(code)) or _PASSING.get(_short(code))
    return known or "docs/errors.md has no advice for this error; look it up in the service's API reference"


def _short(code: object) -> str:
    # SQS says AWS.SimpleQueueService.NonExistentQueue to some clients, and QueueDoesNotExist to others.
    return str(code).rpartition(".")[2].rpartition("#")[2].removesuffix("Exception")

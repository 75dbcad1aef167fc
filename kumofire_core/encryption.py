"""A cipher on the AWS Encryption SDK: envelope encryption with a key of yours in AWS KMS.

Needs the extra: ``pip install '.[encryption]'``. Imported only by who uses it.
"""

from __future__ import annotations

from typing import Any

from botocore.config import Config
from botocore.session import get_session

try:
    # The SDK brings no types; in an environment without the extra it is not there at all.
    import aws_encryption_sdk  # type: ignore[import-untyped,import-not-found,unused-ignore]
    from aws_encryption_sdk.identifiers import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
        CommitmentPolicy,
    )
except ImportError as missing:  # pragma: no cover
    raise ImportError("kumofire_core.encryption needs the AWS Encryption SDK: pip install '.[encryption]'") from missing

CACHED_KEYS = 100
CONTEXT = {"application": "kumofire-jobs"}
"""The same for all, because data keys are cached by it; whose a text is, is inside the ciphertext."""


class EnvelopeCipher:
    """Encrypts each text with a data key, and the data keys with a master key.

    ``master_key_provider`` is one of the SDK's; ``for_kms_key`` makes the usual one. A data key is used for up to
    ``cache_seconds`` and ``cache_messages`` texts, because asking KMS for each would cost more than the run itself:
    https://docs.aws.amazon.com/encryption-sdk/latest/developer-guide/data-key-caching.html
    """

    def __init__(self, master_key_provider: Any, *, cache_seconds: float = 300.0, cache_messages: int = 1000) -> None:
        self._client = aws_encryption_sdk.EncryptionSDKClient(
            commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
        )
        self._materials = aws_encryption_sdk.CachingCryptoMaterialsManager(
            master_key_provider=master_key_provider,
            cache=aws_encryption_sdk.LocalCryptoMaterialsCache(CACHED_KEYS),
            max_age=cache_seconds,
            max_messages_encrypted=cache_messages,
        )

    @classmethod
    def for_kms_key(cls, key_arn: str, **settings: Any) -> EnvelopeCipher:
        """Return the cipher for a KMS key. ``kms:GenerateDataKey`` is needed to create, ``kms:Decrypt`` to read.

        Its client is made here, and gives up well before a function's deadline, as those of the table and queue do.
        """
        session = get_session()
        session.set_default_client_config(
            Config(connect_timeout=1, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 3})
        )
        keys = aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=[key_arn], botocore_session=session)
        return cls(keys, **settings)

    def encrypt(self, plaintext: bytes) -> bytes:
        """Return the ciphertext; errors of KMS leave as they are."""
        ciphertext, _ = self._client.encrypt(
            source=plaintext, materials_manager=self._materials, encryption_context=CONTEXT
        )
        return bytes(ciphertext)

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Return the plaintext; errors of KMS, and the SDK's for a damaged text, leave as they are."""
        plaintext, header = self._client.decrypt(source=ciphertext, materials_manager=self._materials)
        if header.encryption_context.get("application") != CONTEXT["application"]:
            raise ValueError("encrypted by another application")
        return bytes(plaintext)

"""A cipher on the AWS Encryption SDK: envelope encryption with your own key in AWS KMS.

Needs the extra: ``pip install '.[encryption]'``. Only processes that encrypt or decrypt import this module.
"""

from __future__ import annotations

from typing import Any

from botocore.config import Config
from botocore.session import get_session

try:
    # The SDK has no type annotations, and without the extra it is not installed.
    import aws_encryption_sdk  # type: ignore[import-untyped,import-not-found,unused-ignore]
    from aws_encryption_sdk.identifiers import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
        CommitmentPolicy,
    )
except ImportError as missing:  # pragma: no cover
    raise ImportError("kumofire_core.encryption needs the AWS Encryption SDK: pip install '.[encryption]'") from missing

CACHED_KEYS = 100
CONTEXT = {"application": "kumofire-jobs"}
"""The encryption context. All texts share it, because data keys are cached by context. A text's owner is encrypted
with the text."""


class EnvelopeCipher:
    """Encrypts each text with a data key, and each data key with a master key.

    ``master_key_provider`` is a provider of the SDK; ``for_kms_key`` uses the provider for KMS. A data key is used for
    at most ``cache_seconds`` and ``cache_messages`` texts, because a KMS request per text would cost more than the run:
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
    def for_kms_key(cls, key_arn: str, *, session: Any = None, **settings: Any) -> EnvelopeCipher:
        """Return the cipher for a KMS key. Encrypting needs ``kms:GenerateDataKey``, decrypting ``kms:Decrypt``.

        This makes the KMS client. A request waits at most 3 seconds for a reply and is tried up to three times, so that
        it ends well before a function's deadline. ``session`` is a botocore session, by default a new one.
        """
        session = session or get_session()
        session.set_default_client_config(
            Config(connect_timeout=1, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 3})
        )
        keys = aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=[key_arn], botocore_session=session)
        return cls(keys, **settings)

    def encrypt(self, plaintext: bytes) -> bytes:
        """Return the ciphertext; raises KMS's errors unchanged."""
        ciphertext, _ = self._client.encrypt(
            source=plaintext, materials_manager=self._materials, encryption_context=CONTEXT
        )
        return bytes(ciphertext)

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Return the plaintext; raises KMS's errors, and the SDK's for a damaged text, unchanged."""
        plaintext, header = self._client.decrypt(source=ciphertext, materials_manager=self._materials)
        if header.encryption_context.get("application") != CONTEXT["application"]:
            raise ValueError("encrypted by another application")
        return bytes(plaintext)

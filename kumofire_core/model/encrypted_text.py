"""Payloads and outputs that are stored encrypted. Free of AWS: the caller passes the ``Cipher``.

The ciphertext includes the text's owner. So a person who can write to the table can't use one run's payload for another
run.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final, Protocol

from kumofire_core.errors import DecryptionError
from kumofire_core.model import json_codec
from kumofire_core.model.error_text import error_name

PREFIX = "sealed:"
"""JSON text never begins with this, so an unencrypted text never does."""

IN_S3 = "object:"
"""How the text begins that stands for a value in S3 (``large_value``), encrypted or not."""


class Cipher(Protocol):
    """Encrypts and decrypts bytes. ``kumofire_core.encryption`` has a cipher that uses AWS KMS."""

    def encrypt(self, plaintext: bytes) -> bytes:
        """Return the ciphertext, which must hold everything that ``decrypt`` needs, except the key."""
        ...

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Return the plaintext; raise if the ciphertext was made with another key or was changed since."""
        ...


class Encrypted:
    """The value of a payload or an output that this process can't decrypt because it does not have a cipher."""

    def __repr__(self) -> str:
        return "ENCRYPTED"


ENCRYPTED: Final = Encrypted()


def encrypt_text(cipher: Cipher | None, text: str, *, owner: str) -> str:
    """Return the text to store: encrypted for ``owner``, or unchanged if ``cipher`` is ``None``."""
    if cipher is None:
        return text
    plaintext = json_codec.encode("the sealed text", [owner, text]).encode()
    return PREFIX + base64.b64encode(cipher.encrypt(plaintext)).decode()


def is_encrypted(stored: str) -> bool:
    """Return whether a stored text is encrypted."""
    return stored.startswith(PREFIX)


def decrypt_text(cipher: Cipher | None, stored: str, *, owner: str) -> str:
    """Return the JSON text of a stored text. Texts that were stored without a cipher stay readable.

    Raises ``DecryptionError`` if the text is encrypted, and this process has no cipher or another key, or the text was
    changed or encrypted for another owner.
    """
    if not is_encrypted(stored):
        return stored
    if cipher is None:
        raise DecryptionError(owner, "this process has no cipher; pass Jobs the one that it was encrypted with")
    try:
        plaintext = cipher.decrypt(base64.b64decode(stored[len(PREFIX) :], validate=True))
        content = json_codec.decode(plaintext.decode())
    except (binascii.Error, TypeError, ValueError):
        raise DecryptionError(owner, "it is damaged") from None
    except Exception as error:  # an error of the key's service, or the library's error for a wrong key
        raise DecryptionError(owner, f"decrypting failed with {error_name(error)}") from error
    match content:
        case [sealed_for, str(text)] if sealed_for == owner:
            return text
    raise DecryptionError(owner, "it was encrypted for another item")


def read(stored: str) -> Any:
    """Return the value of a stored text, or ``ENCRYPTED`` if it is encrypted (``decrypt_text`` decrypts it).

    For a value in S3 it is the ``LargeValue`` that says where.
    """
    if is_encrypted(stored):
        return ENCRYPTED
    if stored.startswith(IN_S3):
        from kumofire_core.model.large_value import read_large

        return read_large(stored)
    return json_codec.decode(stored)

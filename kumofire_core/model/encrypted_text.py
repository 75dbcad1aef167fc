"""Payloads and outputs that are stored encrypted. Free of AWS: how to encrypt is a ``Cipher`` that is handed in.

A sealed text holds, encrypted, whose it is. So nobody who can write to the table can make one run's payload another's.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final, Protocol

from kumofire_core.errors import DecryptionError
from kumofire_core.model import json_codec
from kumofire_core.model.error_text import error_name

PREFIX = "sealed:"
"""No JSON text begins so, and so no unencrypted one."""


class Cipher(Protocol):
    """Encrypts and decrypts bytes; errors of either leave as they are. ``encryption`` has one that uses AWS KMS."""

    def encrypt(self, plaintext: bytes) -> bytes:
        """Return the ciphertext, with all that ``decrypt`` needs but the key."""
        ...

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Return the plaintext, or raise where the ciphertext was made with another key or changed since."""
        ...


class Encrypted:
    """Stands for a payload or an output that this process has no key to read."""

    def __repr__(self) -> str:
        return "ENCRYPTED"


ENCRYPTED: Final = Encrypted()


def encrypt_text(cipher: Cipher | None, text: str, *, owner: str) -> str:
    """Return JSON text as it is stored: as it is without a cipher, else encrypted for ``owner``."""
    if cipher is None:
        return text
    plaintext = json_codec.encode("the sealed text", [owner, text]).encode()
    return PREFIX + base64.b64encode(cipher.encrypt(plaintext)).decode()


def is_encrypted(stored: str) -> bool:
    """Say whether a stored text is encrypted."""
    return stored.startswith(PREFIX)


def decrypt_text(cipher: Cipher | None, stored: str, *, owner: str) -> str:
    """Return the JSON text of a stored one.

    Raises ``DecryptionError`` where it is encrypted and can't be read: without a cipher, with another key, where it was
    changed, or was sealed for another owner. What was stored before there was a cipher stays readable.
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
    except Exception as error:  # the key's service, or the library's own word for a wrong key
        raise DecryptionError(owner, f"decrypting failed with {error_name(error)}") from error
    match content:
        case [sealed_for, str(text)] if sealed_for == owner:
            return text
    raise DecryptionError(owner, "it was sealed for another item")


def read(stored: str) -> Any:
    """Return the value of a stored text, or ``ENCRYPTED`` where it is encrypted: ``decrypt_text`` opens that."""
    return ENCRYPTED if is_encrypted(stored) else json_codec.decode(stored)

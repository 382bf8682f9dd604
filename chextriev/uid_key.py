"""Keyed hashes that stand for the identifiers of patients, studies and images.

A bare hash of an identifier is no protection: hospital numbers are few, and trying all takes seconds. HMAC-SHA256
(RFC 2104) with a secret key can be repeated only by whoever holds the key, and two sites with keys of their own cannot
join their tables.
"""

import hashlib
import hmac
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from chextriev.errors import InvalidSetting, MissingFile, OutputExists

IdentifierKind = Literal["patient", "study", "image"]
KEY_BYTES = 32
HASH_DIGITS = 32
"""Hexadecimal digits of a hash: 128 bits, so that a billion images have no two alike."""


@dataclass(frozen=True, repr=False)
class UidKey:
    """A secret of 32 bytes. The same identifier of the same kind has the same hash under the same key, and no other."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.secret, bytes) or len(self.secret) != KEY_BYTES:
            raise InvalidSetting(f"a key of identifiers has {KEY_BYTES} bytes; make one with UidKey.create(path)")

    def __repr__(self) -> str:
        return "UidKey(...)"

    @classmethod
    def random(cls) -> "UidKey":
        """A key that nobody keeps: what it hashes can never be linked to another run."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def create(cls, path: str | Path) -> "UidKey":
        """A new key, written to a file that only its owner may read; OutputExists where there is one."""
        key = cls.random()
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except FileExistsError:
            raise OutputExists(f"{path} exists; a key is never overwritten: read it, or name another file") from None
        except OSError as error:
            raise MissingFile(f"{path}: {error.strerror}; name a file in a folder of yours") from None
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(handle, 0o600)  # whatever the umask took away
            stream.write(key.secret)
            stream.flush()
            os.fsync(handle)
        return key

    @classmethod
    def read(cls, path: str | Path) -> "UidKey":
        """The key of a file; InvalidSetting where others may read it or it is no key."""
        try:
            with Path(path).open("rb") as stream:
                mode = os.fstat(stream.fileno()).st_mode
                secret = stream.read(KEY_BYTES + 1)
        except OSError as error:
            raise MissingFile(f"{path}: {error.strerror}; make a key with UidKey.create(path)") from None
        if not stat.S_ISREG(mode) or mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise InvalidSetting(f"{path}: others may read or write this key; run: chmod 600 {path}")
        if len(secret) != KEY_BYTES:
            raise InvalidSetting(f"{path}: not a key; one has {KEY_BYTES} bytes, as UidKey.create(path) writes it")
        return cls(secret)

    def hash(self, uid: str, *, kind: IdentifierKind) -> str:
        """32 hexadecimal digits that stand for an identifier, which the kind keeps apart from its namesakes."""
        if kind not in get_args(IdentifierKind):
            raise InvalidSetting(f"no kind {kind!r} of identifier; choose one of {', '.join(get_args(IdentifierKind))}")
        message = f"chextriev-uid-1/{kind}/".encode() + uid.encode("utf-8", "surrogatepass")
        return hmac.new(self.secret, message, hashlib.sha256).hexdigest()[:HASH_DIGITS]

"""Where an archive is, how long and how much it may answer, and who asks."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from chextriev.errors import InvalidSetting, MissingFile

TOKEN, USER, PASSWORD = "CHEXTRIEV_DICOMWEB_TOKEN", "CHEXTRIEV_DICOMWEB_USER", "CHEXTRIEV_DICOMWEB_PASSWORD"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Credentials:
    """A bearer token, or a user with a password, or neither. Shown nowhere."""

    token: str | None = field(default=None, repr=False)
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.user is None) != (self.password is None):
            raise InvalidSetting(f"a user and a password belong together: set {USER} and {PASSWORD}")
        if self.token is not None and self.user is not None:
            raise InvalidSetting(f"a token and a user were given; set {TOKEN}, or {USER} and {PASSWORD}")
        if any("\n" in text or "\r" in text for text in (self.token, self.user, self.password) if text):
            raise InvalidSetting(f"a line break stands in {TOKEN}, {USER} or {PASSWORD}; leave it out")

    def __bool__(self) -> bool:
        return self.token is not None or self.user is not None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Credentials":
        """Those of three environment variables: arguments of a program are seen by everybody on the machine."""
        token, user, password = (environment.get(name) or None for name in (TOKEN, USER, PASSWORD))
        return cls(token, user, password)


@dataclass(frozen=True)
class ArchiveSettings:
    """An archive's DICOMweb address, such as https://pacs.example/dicom-web, and the limits of its answers.

    connect_timeout_s, answer_timeout_s: to connect, and for an answer as a whole. max_bytes: of an answer, unpacked.
    ca_file: certificates to trust in place of the system's. allow_http: send patient data without TLS to another
    machine; to this one it is allowed anyway.
    """

    url: str
    connect_timeout_s: float = 10.0
    answer_timeout_s: float = 60.0
    max_bytes: int = 256 * 2**20
    ca_file: str | None = None
    allow_http: bool = False

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError:
            raise InvalidSetting("the archive's address is none; one is https://host/dicom-web") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise InvalidSetting("the archive's address is none; one is https://host/dicom-web")
        if parts.username is not None or parts.password is not None:
            raise InvalidSetting(f"the archive's address holds a user; set {USER} and {PASSWORD} instead")
        if parts.query or parts.fragment:
            raise InvalidSetting("the archive's address ends before '?' and '#'; give it as https://host/dicom-web")
        if parts.scheme == "http" and not self.allow_http and parts.hostname not in _LOOPBACK:
            raise InvalidSetting("http sends patient data in the clear; give an https address, or allow http")
        if self.ca_file is not None and not os.path.exists(self.ca_file):
            raise MissingFile(f"{self.ca_file}: no such file; name the certificates to trust (PEM)")
        for name in ("connect_timeout_s", "answer_timeout_s", "max_bytes"):
            if not getattr(self, name) > 0:
                raise InvalidSetting(f"archive: {name} is {getattr(self, name)!r}; a positive number is needed")

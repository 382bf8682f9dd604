"""Certificates of both ends of a connection."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chextriev.errors import InvalidSetting, MissingFile, UntrustedServer

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True)
class Tls:
    """PEM files. ca: who must have signed the server's certificate; None for the authorities that the system trusts.

    certificate, key: of this client, where the server asks for one (mutual TLS).
    """

    ca: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidSetting("certificate and key belong together; give both files, or neither")

    def contents(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Bytes of ca, key and certificate, each None where not given; MissingFile where one cannot be read."""
        return _content(self.ca, "ca"), _content(self.key, "key"), _content(self.certificate, "certificate")

    def context(self) -> "ssl.SSLContext":
        """The same for HTTPS; UntrustedServer where the files hold no certificate or no key."""
        import ssl

        ca, _, certificate = self.contents()
        try:
            context = ssl.create_default_context(cadata=None if ca is None else ca.decode("ascii", "replace"))
            if certificate is not None:
                context.load_cert_chain(str(self.certificate), str(self.key))
        except (ssl.SSLError, ValueError):
            raise UntrustedServer("the files of Tls are no certificates in PEM form; give others") from None
        return context


def _content(path: str | Path | None, role: str) -> bytes | None:
    try:
        return None if path is None else Path(path).read_bytes()
    except OSError as error:
        raise MissingFile(f"{path}: {error.strerror}; Tls({role}=...) is the name of a PEM file") from None

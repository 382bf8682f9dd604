"""The HTTP session of an archive: certificates checked, answers bounded in size and time, no way to another host."""

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
import requests.adapters
import requests.auth

from chextriev.errors import ServingError, UntrustedServer
from chextriev.serving.archive.settings import ArchiveSettings, Credentials


class TooLarge(Exception):
    """An answer beyond the limit; the client says so in its own words."""


class TooSlow(Exception):
    """An answer that did not end in time."""


class _Bearer(requests.auth.AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Bounded:
    """The body of an answer, which ends with an error where it is too large or too slow."""

    def __init__(self, raw: Any, *, max_bytes: int, until: float) -> None:
        self._raw, self._max_bytes, self._until = raw, max_bytes, until

    def stream(self, size: int, decode_content: bool | None = None) -> Iterator[bytes]:
        """As urllib3's."""
        total = 0
        # What has come, up to so many bytes: urllib3's own waits for all of them, each as long as a timeout allows.
        while chunk := self._raw.read1(min(size, 2**16), decode_content=decode_content):
            total += len(chunk)
            error = TooLarge if total > self._max_bytes else TooSlow if time.monotonic() > self._until else None
            if error is not None:
                self._raw.close()  # the connection is of no use to another question, and nobody else ends it
                raise error
            yield chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


class _BoundedAdapter(requests.adapters.HTTPAdapter):
    def __init__(self, settings: ArchiveSettings) -> None:
        super().__init__(max_retries=0)
        self._settings = settings

    def send(self, request: Any, **options: Any) -> Any:  # type: ignore[override, unused-ignore]
        until = time.monotonic() + self._settings.answer_timeout_s
        response = super().send(request, **options)
        response.raw = _Bounded(response.raw, max_bytes=self._settings.max_bytes, until=until)
        return response


class ArchiveSession(requests.Session):
    """A session that speaks to one origin: scheme, host and port of the archive's address."""

    def __init__(self, settings: ArchiveSettings, credentials: Credentials) -> None:
        super().__init__()
        self._origin = _origin(settings.url)
        self.trust_env = False  # neither a proxy nor a .netrc of the environment gets between
        self.verify = settings.ca_file or True
        if credentials.token is not None:
            self.auth = _Bearer(credentials.token)
        elif credentials.user is not None and credentials.password is not None:
            self.auth = requests.auth.HTTPBasicAuth(
                credentials.user.encode(), credentials.password.encode()
            )  # as UTF-8; text would go as Latin-1
        self.mount("https://", _BoundedAdapter(settings))
        self.mount("http://", _BoundedAdapter(settings))

    def get_redirect_target(self, resp: Any) -> str | None:
        """Where an answer sends the session on to; UntrustedServer where that is another host."""
        target: str | None = super().get_redirect_target(resp)
        if target is not None and urlsplit(target).netloc and _origin(target) != self._origin:
            resp.close()  # unread, and so its connection open
            raise UntrustedServer("the archive sends on to another host, which is not followed; give its own address")
        return target


def failure_of(error: Exception) -> type[ServingError] | None:
    """The kind of an error of requests, None where it is none of the connection's."""
    from chextriev.errors import DeadlineExpired, ServerUnavailable

    if isinstance(error, requests.exceptions.Timeout | TooSlow):
        return DeadlineExpired
    if isinstance(error, requests.exceptions.SSLError):
        return UntrustedServer
    return ServerUnavailable if isinstance(error, requests.exceptions.ConnectionError) else None


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)

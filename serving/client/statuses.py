"""Statuses of Triton, gRPC and HTTP as errors of this package, in words that hold no traceback and no path."""

import re
from collections.abc import Iterable

from chextriev.errors import (
    DeadlineExpired,
    Overloaded,
    RequestRefused,
    ServerFailed,
    ServerUnavailable,
    ServingError,
    UnknownModel,
    UntrustedServer,
)

_KIND: dict[str, type[ServingError]] = {
    **dict.fromkeys(("INVALID_ARGUMENT", "OUT_OF_RANGE", "RESOURCE_EXHAUSTED", "400", "413", "422"), RequestRefused),
    **dict.fromkeys(("UNAUTHENTICATED", "PERMISSION_DENIED", "401", "403"), RequestRefused),
    **dict.fromkeys(("NOT_FOUND", "404"), UnknownModel),
    **dict.fromkeys(("UNAVAILABLE", "CANCELLED", "429", "499", "502", "503"), ServerUnavailable),
    **dict.fromkeys(("DEADLINE_EXCEEDED", "408", "504"), DeadlineExpired),
}
# Words tell apart what Triton and gRPC send under one status.
_WORDS: tuple[tuple[re.Pattern[str], type[ServingError]], ...] = (
    (re.compile(r"maximum queue size", re.I), Overloaded),
    (re.compile(r"request timeout expired", re.I), DeadlineExpired),
    (re.compile(r"handshak|certificate|ssl_|tsi_|\bssl\b|\btls\b", re.I), UntrustedServer),
    (re.compile(r"protocol is restricted", re.I), RequestRefused),
)
# What comes under other statuses while a model whose process died is loaded anew, which takes seconds.
_MENDED = re.compile(r"stub process .*not healthy|has no available versions", re.I)
_MENDED_CURE = "a process of the model died, or it is being loaded; ask again in some seconds"
_CURES: dict[type[ServingError], str] = {
    UnknownModel: "was the repository made of a bundle of this system, and with --index for a served index?",
    Overloaded: "send fewer at once, or later",
    ServerUnavailable: "is a server running there?",
    DeadlineExpired: "give more time (Deadline), or send less at once",
    UntrustedServer: "check the address and the certificates (Tls) of both ends",
    ServerFailed: "the server's log says more under this request",
}
_PATH = re.compile(r"(?<![\w:/])/(?:[^\s/'\":,;]+/)+[^\s'\":,;]*")
_WRAPPING = re.compile(
    r"^(?:in ensemble '[^']*', |\[[^\]]*\] "
    r"|Failed to process the request\(s\) for model (?:instance )?'[^']*', message: )+"
)
_LONGEST = 400


def serving_error(status: str | None, words: str | None, address: str) -> ServingError:
    """The error for a status of gRPC ("StatusCode.UNAVAILABLE") or HTTP ("503") and the words that came with it."""
    name = str(status).removeprefix("StatusCode.")
    if being_mended(words or ""):
        return ServerUnavailable(f"{address}: {clean(words)}; {_MENDED_CURE}")
    kind = _KIND.get(name, ServerFailed)
    if kind is ServerUnavailable:
        kind = next((special for pattern, special in _WORDS if pattern.search(words or "")), kind)
    return new_error(kind, clean(words) or f"status {name}", address)


def being_mended(words: str) -> bool:
    """Whether a failure, in Triton's words, is that of a model whose process died or that is being loaded."""
    return _MENDED.search(words) is not None


def new_error(kind: type[ServingError], words: str, address: str) -> ServingError:
    """An error of this kind that names the server and what to do."""
    cure = _CURES.get(kind)
    return kind(f"{address}: {words}" + (f"; {cure}" if cure else ""))


def clean(words: str | None) -> str:
    """The first line of what a server says, without what Triton wraps it in and without paths."""
    lines = (words or "").strip().splitlines()
    first = _WRAPPING.sub("", lines[0].strip()) if lines else ""
    if first.startswith("Traceback"):
        return "an exception"
    first = _PATH.sub("(a path)", first)
    return first if len(first) <= _LONGEST else first[:_LONGEST] + " ..."


def named(error: ServingError, request: str | None, image_ids: Iterable[str] = ()) -> ServingError:
    """The same error with the request and its images named, for the caller alone."""
    if error.request is not None or request is None:
        return error
    ids = list(image_ids)
    images = f", image{'s' if len(ids) > 1 else ''} {', '.join(ids[:3])}" if ids else ""
    more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    return type(error)(f"{error} (request {request}{images}{more})", request=request)

"""Why a server hung up before it said anything: gRPC itself does not tell."""

import socket
from urllib.parse import urlsplit

from chextriev.serving.client.tls import Tls

_PROBE_S = 2.0
_REFUSED = (
    "the server hangs up on this client's certificate; give one that its authority has signed",
    "the server hangs up on a client without a certificate; give Tls(certificate=..., key=...)",
)


def hung_up(words: str) -> bool:
    """Whether a failure to connect, in gRPC's words, was the other end's will."""
    return "failed to connect" in words and any(sign in words for sign in ("Socket closed", "reset by peer", "EOF"))


def tls_quarrel(address: str, ours: Tls | None) -> str | None:
    """What the server at HOST:PORT wants of TLS and was not given; None where that is not why it hung up.

    Shakes hands without looking at the server's certificate, and sends nothing.
    """
    import ssl

    parts = urlsplit(f"//{address}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        if ours is not None and ours.certificate is not None:
            context.load_cert_chain(str(ours.certificate), str(ours.key))
        with (
            socket.create_connection((str(parts.hostname), parts.port or 0), _PROBE_S) as plain,
            context.wrap_socket(plain) as shaken,
        ):
            if ours is None:
                return "the server speaks TLS; connect with grpcs:// or Connection(tls=Tls(ca=...))"
            # In TLS 1.3 the server looks at our certificate after our handshake; Triton then hangs up without a word.
            return None if shaken.recv(1) else _REFUSED[ours.certificate is None]
    except (OSError, ValueError):  # also ssl.SSLError: it does not speak TLS, or not with us
        return None

"""Start Triton in its container: TLS for gRPC, HTTP on loopback alone, administration behind a key.

Settings come from the environment, secrets from files; what else is given on the command line is passed on to
`tritonserver`. Only the standard library is used, so that nothing can fail here but what is checked.

CHEXTRIEV_DEVICE     cpu (the default) or gpu: whether the metrics tell of GPUs
CHEXTRIEV_MUTUAL_TLS 1: only clients with a certificate of ca.crt are served
CHEXTRIEV_MODELS     the model repository (/models)
CHEXTRIEV_SECRETS    folder of server.crt, server.key, admin.key and, for mutual TLS, ca.crt (/run/secrets)
CHEXTRIEV_TRITON     the program (/opt/tritonserver/bin/tritonserver)
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

RESTRICTED = ("model-repository", "shared-memory", "statistics", "trace", "logging")
"""Interfaces that administer the server or tell what others ask it; a client of the models needs none of them."""
KEY_HEADER = "admin-key"
KEY_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
KEY_LENGTH = 32
SWITCH = {"0": False, "1": True}


def command(environment: Mapping[str, str], extra: list[str]) -> list[str]:
    """The command line of `tritonserver`; SystemExit says what is missing."""
    device = environment.get("CHEXTRIEV_DEVICE", "cpu")
    if device not in ("cpu", "gpu"):
        sys.exit(f"CHEXTRIEV_DEVICE is {device!r}; choose cpu or gpu")
    mutual = environment.get("CHEXTRIEV_MUTUAL_TLS", "0")
    if mutual not in SWITCH:
        sys.exit(f"CHEXTRIEV_MUTUAL_TLS is {mutual!r}; choose 0 or 1")
    models = Path(environment.get("CHEXTRIEV_MODELS", "/models"))
    if not models.is_dir() or not any(models.glob("*/config.pbtxt")):
        sys.exit(f"{models} holds no model; mount what `chextriev export repository` wrote there, read-only")
    secrets = Path(environment.get("CHEXTRIEV_SECRETS", "/run/secrets"))
    return [
        environment.get("CHEXTRIEV_TRITON", "/opt/tritonserver/bin/tritonserver"),
        f"--model-repository={models}",
        "--model-control-mode=none",
        "--exit-timeout-secs=30",
        # What is logged at level info can name requests.
        *("--log-verbose=0", "--log-info=false", "--log-warning=true", "--log-error=true", "--log-format=ISO8601"),
        *tls(secrets, mutual=SWITCH[mutual]),
        *restrictions(secrets),
        *("--grpc-address=0.0.0.0", "--grpc-port=8001"),
        # Triton keeps that many requests for reuse with the memory of the largest each ever had: of twelve of 96 MB, 0
        # left 324 MB in the process, 8 (its default) 785 MB.
        "--grpc-infer-allocation-pool-size=0",
        # HTTP has no TLS: it serves the health check inside this container and nobody else.
        *("--http-address=127.0.0.1", "--http-port=8000"),
        *("--metrics-address=0.0.0.0", "--metrics-port=8002", "--metrics-config=summary_latencies=true"),
        f"--allow-gpu-metrics={'true' if device == 'gpu' else 'false'}",
        *extra,
    ]


def tls(secrets: Path, *, mutual: bool) -> list[str]:
    """gRPC over TLS alone; with `mutual`, for clients that show a certificate."""
    files = {"--grpc-server-cert": "server.crt", "--grpc-server-key": "server.key"}
    if mutual:
        files["--grpc-root-cert"] = "ca.crt"
    for name in files.values():
        read_secret(secrets / name)
    switch = "--grpc-use-ssl-mutual=true" if mutual else "--grpc-use-ssl=true"
    return [switch, *(f"{option}={secrets / name}" for option, name in files.items())]


def restrictions(secrets: Path) -> list[str]:
    """A key for the interfaces of administration. Triton takes it on its command line only: `ps` in here shows it."""
    key = read_secret(secrets / "admin.key").strip()
    if len(key) < KEY_LENGTH or not KEY_LETTERS.issuperset(key):
        sys.exit(f"{secrets / 'admin.key'}: {KEY_LENGTH} or more letters, digits, - and _ are needed")
    setting = f"{','.join(RESTRICTED)}:{KEY_HEADER}={key}"
    return [f"--grpc-restricted-protocol={setting}", f"--http-restricted-api={setting}"]


def read_secret(path: Path) -> str:
    """The text of a secret; never printed."""
    try:
        text = path.read_text(encoding="ascii")
    except UnicodeDecodeError:
        sys.exit(f"{path} is not text; PEM files and a key in ASCII are needed")
    except OSError as error:
        sys.exit(f"{path}: {error.strerror}; user {os.getuid()} must be able to read it (docker/README.md, secrets)")
    if not text.strip():
        sys.exit(f"{path} is empty")
    return text


if __name__ == "__main__":
    words = command(os.environ, sys.argv[1:])
    try:
        os.execv(words[0], words)
    except OSError as error:
        sys.exit(f"{words[0]}: {error.strerror}")

"""Who made an artefact: an ed25519 signature of its manifest, and so of every file that the manifest names.

`manifest.json.sig` holds the 64 bytes of the signature and nothing else, over the exact bytes of `manifest.json`, so
that OpenSSL makes and checks it as well::

    openssl genpkey -algorithm ed25519 -out private.pem
    openssl pkey -in private.pem -pubout -out public.pem
    openssl pkeyutl -verify -rawin -pubin -inkey public.pem -in manifest.json -sigfile manifest.json.sig
"""

from pathlib import Path
from typing import Any

from chextriev.artifact_files import MANIFEST, SIGNATURE, open_inside
from chextriev.artifacts import Manifest, manifest_bytes, parse_manifest, write_bytes
from chextriev.errors import ForgedSignature, InvalidSetting, UnsignedArtifact
from chextriev.optional import require

SIGNATURE_BYTES = 64
KEY_LIMIT = 2**16
"""Bytes of a key file; an ed25519 key takes about 120."""


def sign_artifact(directory: str | Path, key: str | Path) -> None:
    """Write the signature of an artefact's manifest, in place of any other.

    key: file with an ed25519 private key, PEM in PKCS 8 without a password. The files are not compared with the
    manifest here: whoever opens the artefact does that, and a signed manifest does not vouch for others.
    Raises InvalidSetting for another key, NotAnArtifact where there is no manifest.
    """
    signature = _load_key(Path(key), "private").sign(manifest_bytes(Path(directory)))
    write_bytes(Path(directory) / SIGNATURE, signature)


def check_signature(directory: str | Path, public_key: str | Path) -> bytes:
    """The bytes of the artefact's `manifest.json`, which the owner of the key signed.

    public_key: file with the ed25519 public key, PEM. Raises UnsignedArtifact where there is no signature,
    ForgedSignature where it is not of this manifest by this key, InvalidSetting for another kind of key file,
    NotAnArtifact where there is no manifest, DamagedArtifact where the signature is a link.
    """
    directory, public_key = Path(directory), Path(public_key)
    faults = require("cryptography.exceptions", extra="sign")
    key, content = _load_key(public_key, "public"), manifest_bytes(directory)
    signature = _read_signature(directory, public_key)
    try:
        key.verify(signature, content)
    except faults.InvalidSignature as error:
        raise ForgedSignature(
            f"{directory / SIGNATURE} does not belong to {MANIFEST} and {public_key}: the manifest was changed, or"
            " another key signed it; get the artefact anew from its maker, or give the maker's public key"
        ) from error
    return content


def read_signed_manifest(directory: str | Path, kind: str, public_key: str | Path) -> Manifest:
    """As `artifacts.read_manifest`, of the very bytes whose signature was checked; raises what either raises."""
    return parse_manifest(check_signature(directory, public_key), Path(directory), kind)


def _read_signature(directory: Path, public_key: Path) -> bytes:
    try:
        with open_inside(directory, SIGNATURE) as stream:
            signature = stream.read(SIGNATURE_BYTES + 1)
    except FileNotFoundError:
        raise UnsignedArtifact(
            f"{directory} is not signed, and a signature by {public_key} is required; get a signed one from its maker,"
            " or sign it if you made it"
        ) from None
    if len(signature) != SIGNATURE_BYTES:
        raise ForgedSignature(
            f"{directory / SIGNATURE} is no ed25519 signature, which has {SIGNATURE_BYTES} bytes; get the artefact anew"
            " from its maker"
        )
    return signature


def _load_key(path: Path, role: str) -> Any:
    """An ed25519 key; role: "private" or "public"."""
    content = _read_key(path)
    serialization = require("cryptography.hazmat.primitives.serialization", extra="sign")
    ed25519 = require("cryptography.hazmat.primitives.asymmetric.ed25519", extra="sign")
    faults = require("cryptography.exceptions", extra="sign")
    try:
        if role == "private":
            key, wanted = serialization.load_pem_private_key(content, password=None), ed25519.Ed25519PrivateKey
        else:
            key, wanted = serialization.load_pem_public_key(content), ed25519.Ed25519PublicKey
    except TypeError as error:
        raise InvalidSetting(
            f"{path} is protected by a password, which is not asked for here; write the key without one:"
            " openssl pkey -in KEY -out private.pem"
        ) from error
    except (ValueError, faults.UnsupportedAlgorithm, faults.InternalError) as error:
        raise InvalidSetting(_no_key(path, role)) from error
    if not isinstance(key, wanted):
        raise InvalidSetting(_no_key(path, role))
    return key


def _read_key(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(KEY_LIMIT)
    except OSError as error:
        raise InvalidSetting(f"the key {path} cannot be read ({error.strerror})") from error


def _no_key(path: Path, role: str) -> str:
    make = {
        "private": "openssl genpkey -algorithm ed25519 -out private.pem",
        "public": "openssl pkey -in private.pem -pubout -out public.pem",
    }
    return f"{path} is not an ed25519 {role} key in PEM; one is made by: {make[role]}"

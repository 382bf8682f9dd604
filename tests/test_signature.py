"""A signature says who made an artefact, and OpenSSL says the same."""

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from chextriev.artifacts import MANIFEST, Recipe, check_contents, find_current, open_artifact, publishing, seal
from chextriev.errors import (
    ChextrievError,
    DamagedArtifact,
    ForgedSignature,
    InvalidSetting,
    MissingDependency,
    NotAnArtifact,
    UnsignedArtifact,
)
from chextriev.signature import SIGNATURE, check_signature, read_signed_manifest, sign_artifact

RECIPE = Recipe({"k": 1})


def publish(target: Path, text: str = "x") -> None:
    with publishing(target, "thing") as scratch:
        (scratch / "a.txt").write_text(text)
        seal(scratch, "thing", RECIPE)


def write_keys(
    folder: Path,
    key: Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    encryption: KeySerializationEncryption | None = None,
) -> tuple[Path, Path]:
    folder.mkdir()
    private, public = folder / "private.pem", folder / "public.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path / "keys", Ed25519PrivateKey.generate())


@pytest.fixture
def signed(tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    publish(tmp_path / "one")
    sign_artifact(tmp_path / "one", keys[0])
    return tmp_path / "one"


def test_a_signed_artefact_is_checked_and_stays_what_it_was(signed: Path, keys: tuple[Path, Path]) -> None:
    assert check_signature(signed, keys[1]) == (signed / MANIFEST).read_bytes()
    manifest = read_signed_manifest(signed, "thing", keys[1])
    assert manifest == open_artifact(signed, "thing") == find_current(signed, "thing", RECIPE)
    check_contents(signed, manifest)
    assert len((signed / SIGNATURE).read_bytes()) == 64
    assert sorted(path.name for path in signed.iterdir()) == ["a.txt", MANIFEST, SIGNATURE]


def test_a_new_artefact_in_its_place_is_unsigned(signed: Path, keys: tuple[Path, Path]) -> None:
    publish(signed, "y")
    assert not (signed / SIGNATURE).exists()
    with pytest.raises(UnsignedArtifact, match=r"one is not signed, and a signature by .*public\.pem is required; get"):
        check_signature(signed, keys[1])


def test_sealing_again_in_place_drops_the_signature(signed: Path, keys: tuple[Path, Path]) -> None:
    assert SIGNATURE not in seal(signed, "thing", RECIPE).files
    with pytest.raises(UnsignedArtifact):
        check_signature(signed, keys[1])


@pytest.mark.parametrize("damage", ["manifest", "space", "facts", "signature", "short", "long", "other"])
def test_forgeries_are_refused(signed: Path, keys: tuple[Path, Path], damage: str) -> None:
    manifest, signature = signed / MANIFEST, signed / SIGNATURE
    if damage == "manifest":
        (signed / "a.txt").write_text("y")
        kept = signature.read_bytes()
        seal(signed, "thing", RECIPE)
        signature.write_bytes(kept)
    elif damage == "space":
        manifest.write_text(manifest.read_text() + " ")
    elif damage == "facts":
        manifest.write_text(manifest.read_text().replace('"facts": {}', '"facts": {"gate": "passed"}'))
        open_artifact(signed, "thing")
    elif damage == "other":
        publish(signed.parent / "two", "z")
        sign_artifact(signed.parent / "two", keys[0])
        shutil.copy(signed.parent / "two" / SIGNATURE, signature)
    else:
        raw = signature.read_bytes()
        changed = {"signature": bytes([raw[0] ^ 1]) + raw[1:], "short": raw[:-1], "long": raw + b"\n"}
        signature.write_bytes(changed[damage])
    with pytest.raises(ForgedSignature, match="get the artefact anew from its maker"):
        check_signature(signed, keys[1])


def test_another_key_is_refused(signed: Path, tmp_path: Path) -> None:
    _, other = write_keys(tmp_path / "others", Ed25519PrivateKey.generate())
    with pytest.raises(ForgedSignature, match="another key signed it"):
        read_signed_manifest(signed, "thing", other)


def test_the_kind_of_a_signed_manifest_is_still_checked(signed: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(NotAnArtifact, match="holds a thing; a bundle is needed"):
        read_signed_manifest(signed, "bundle", keys[1])


def test_a_linked_signature_is_refused(signed: Path, keys: tuple[Path, Path]) -> None:
    (signed / SIGNATURE).rename(signed.parent / "elsewhere")
    (signed / SIGNATURE).symlink_to(signed.parent / "elsewhere")
    with pytest.raises(DamagedArtifact, match="symbolic link"):
        check_signature(signed, keys[1])
    sign_artifact(signed, keys[0])
    assert not (signed / SIGNATURE).is_symlink()
    check_signature(signed, keys[1])


def test_what_has_no_manifest_cannot_be_signed(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotAnArtifact, match=r"has no manifest\.json"):
        sign_artifact(tmp_path / "empty", keys[0])
    with pytest.raises(NotAnArtifact, match=r"has no manifest\.json"):
        check_signature(tmp_path / "empty", keys[1])
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize("kind", ["rsa", "ec", "text", "empty", "swapped", "missing", "folder", "huge"])
def test_unusable_keys_are_named(signed: Path, keys: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    before = (signed / SIGNATURE).read_bytes()
    private, public = tmp_path / "p", tmp_path / "q"
    if kind == "rsa":
        private, public = write_keys(tmp_path / "r", rsa.generate_private_key(65537, 2048))
    elif kind == "ec":
        private, public = write_keys(tmp_path / "e", ec.generate_private_key(ec.SECP256R1()))
    elif kind == "swapped":
        public, private = keys
    elif kind == "folder":
        private = public = tmp_path
    elif kind != "missing":
        for path in (private, public):
            path.write_bytes({"text": b"a key", "empty": b"", "huge": b"-" * 10**6}[kind])
    reason = "cannot be read" if kind in ("missing", "folder") else "is not an ed25519 {} key in PEM; one is made by: "
    with pytest.raises(InvalidSetting, match=reason.format("private")):
        sign_artifact(signed, private)
    with pytest.raises(InvalidSetting, match=reason.format("public")):
        check_signature(signed, public)
    assert (signed / SIGNATURE).read_bytes() == before


def test_a_key_with_a_password_is_named(signed: Path, tmp_path: Path) -> None:
    private, _ = write_keys(tmp_path / "k", Ed25519PrivateKey.generate(), BestAvailableEncryption(b"word"))
    with pytest.raises(InvalidSetting, match="is protected by a password, which is not asked for here; write the key"):
        sign_artifact(signed, private)


def test_damaged_keys_raise_nothing_else(signed: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """Every byte of both key files, changed in its lowest bit."""
    for path, use in ((keys[0], sign_artifact), (keys[1], check_signature)):
        content = path.read_bytes()
        for place in range(len(content)):
            changed = bytearray(content)
            changed[place] ^= 1
            (tmp_path / "damaged.pem").write_bytes(changed)
            with suppress(ChextrievError):  # flips in the text around the key change nothing
                use(signed, tmp_path / "damaged.pem")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="OpenSSL is not installed")
def test_openssl_makes_the_keys_and_confirms_the_signature(tmp_path: Path) -> None:
    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=tmp_path, check=True, capture_output=True)

    openssl("genpkey", "-algorithm", "ed25519", "-out", "private.pem")
    openssl("pkey", "-in", "private.pem", "-pubout", "-out", "public.pem")
    publish(tmp_path / "one")
    sign_artifact(tmp_path / "one", tmp_path / "private.pem")
    check_signature(tmp_path / "one", tmp_path / "public.pem")
    files = ("-in", f"one/{MANIFEST}", "-sigfile", f"one/{SIGNATURE}")
    openssl("pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "public.pem", *files)
    (tmp_path / "one" / SIGNATURE).unlink()
    openssl(
        *("pkeyutl", "-sign", "-rawin", "-inkey", "private.pem", "-in", f"one/{MANIFEST}", "-out", f"one/{SIGNATURE}")
    )
    check_signature(tmp_path / "one", tmp_path / "public.pem")


def test_without_the_library_the_extra_is_named(
    signed: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name="cryptography")

    monkeypatch.setattr("chextriev.optional.import_module", absent)
    with pytest.raises(MissingDependency, match=r"pip install 'chextriev\[sign\]'"):
        check_signature(signed, keys[1])

"""Nothing of a bundle reaches a native parser that its manifest does not vouch for, and nothing that reaches out."""

import json
import os
import pickle
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from chextriev import open_bundle, open_encoder
from chextriev.artifacts import MANIFEST, Manifest, Recipe, read_manifest, seal
from chextriev.bundle import CARD_FILE, KIND, REFERENCE
from chextriev.cli import main
from chextriev.errors import DamagedArtifact, ForgedSignature, UnreadableCheckpoint, UnsignedArtifact
from chextriev.signature import SIGNATURE
from tests.export.tiny_bundle import TinyBundle

BACKBONE, ENCODER = "onnx-fp32/region_backbone.onnx", "onnx-fp32/encoder.onnx"


@pytest.fixture
def bundle(ath: TinyBundle, tmp_path: Path) -> Path:
    """A copy to damage."""
    return ath.copy_to(tmp_path / "bundle")


@pytest.fixture
def no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any file that reaches ONNX Runtime fails the test."""

    def reached(*_: Any, **__: Any) -> None:
        pytest.fail("ONNX Runtime was given a file")

    monkeypatch.setattr(onnxruntime, "InferenceSession", reached)


def reseal(bundle: Path) -> None:
    """Let the manifest vouch for what is there now."""
    seal(bundle, KIND, Recipe())


def write_entries(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest's entries and give it the digest that goes with them."""
    manifest = read_manifest(bundle, KIND)
    files = {name: dict(record) for name, record in manifest.files.items()}
    change(files)
    (bundle / MANIFEST).write_text(Manifest(KIND, manifest.recipe, files, manifest.facts).to_json())


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change_card(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    card = json.loads((bundle / CARD_FILE).read_text())
    change(card)
    (bundle / CARD_FILE).write_text(json.dumps(card))
    reseal(bundle)


def add_file(bundle: Path) -> None:
    (bundle / "onnx-fp32" / "weights.bin").write_bytes(b"x")


def add_hidden_file(bundle: Path) -> None:
    (bundle / ".weights").write_bytes(b"x")


def link_file(bundle: Path) -> None:
    (bundle / BACKBONE).rename(bundle.parent / "elsewhere.onnx")
    (bundle / BACKBONE).symlink_to(bundle.parent / "elsewhere.onnx")


def link_folder(bundle: Path) -> None:
    (bundle / "onnx-fp32").rename(bundle.parent / "elsewhere")
    (bundle / "onnx-fp32").symlink_to(bundle.parent / "elsewhere")


def edit_card(bundle: Path) -> None:
    (bundle / CARD_FILE).write_text((bundle / CARD_FILE).read_text().replace('"ath"', '"aht"', 1))


def edit_manifest(bundle: Path) -> None:
    text = (bundle / MANIFEST).read_text()
    (bundle / MANIFEST).write_text(text.replace('"size": ', '"size": 1', 1))


def climb_out(bundle: Path) -> None:
    write_entries(bundle, lambda files: files.update({"../outside.onnx": files[BACKBONE]}))


def give_a_path(bundle: Path) -> None:
    write_entries(bundle, lambda files: files.update({"/etc/passwd": files[BACKBONE]}))


def grow(bundle: Path) -> None:
    size = 2**32 + 1
    os.truncate(bundle / BACKBONE, size)  # a hole: it takes no room
    write_entries(bundle, lambda files: files[BACKBONE].update(size=size))


def name_outside(bundle: Path) -> None:
    change_card(bundle, lambda card: card["engines"]["onnx-fp32"]["files"].update(encoder="../outside.onnx"))


def move_weights_outside(bundle: Path) -> None:
    model = onnx.load(bundle / ENCODER)
    onnx.save(model, bundle.parent / "e.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (bundle / ENCODER).write_bytes((bundle.parent / "e.onnx").read_bytes())
    reseal(bundle)


def truncate(bundle: Path) -> None:
    for name in (BACKBONE, ENCODER):
        (bundle / name).write_bytes((bundle / name).read_bytes()[:-100])
    reseal(bundle)


def no_onnx(bundle: Path) -> None:
    (bundle / BACKBONE).write_bytes(b"\x08\x0aRIFF")
    reseal(bundle)


def in_another_format(bundle: Path) -> None:
    (bundle / BACKBONE).write_bytes(b"\x08\x00\x00\x00ORTM" + bytes(64))
    reseal(bundle)


@pytest.mark.usefixtures("no_runtime")
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (add_file, r"holds 'onnx-fp32/weights\.bin', which its manifest\.json does not name; remove it"),
        (add_hidden_file, r"holds '\.weights', which its manifest\.json does not name"),
        (link_file, r"region_backbone\.onnx' is a symbolic link"),
        (link_folder, r"onnx-fp32' is a symbolic link"),
        (edit_card, r"card\.json differs from its manifest \(sha256\)"),
        (edit_manifest, r"manifest\.json was altered"),
        (lambda bundle: flip_byte(bundle / BACKBONE), r"region_backbone\.onnx differs from its manifest \(sha256\)"),
        (lambda bundle: (bundle / BACKBONE).unlink(), r"region_backbone\.onnx is missing"),
        (climb_out, r"names the file '\.\./outside\.onnx'; a name is a relative path"),
        (give_a_path, r"names the file '/etc/passwd'"),
        (grow, r"has 4,294,967,297 bytes; at most 4,294,967,296 are read into memory"),
        (no_onnx, r"region_backbone\.onnx is not an? (whole )?ONNX file"),
        (in_another_format, r"is a file in ONNX Runtime's own format"),
    ],
)
def test_damage_is_refused_in_words(bundle: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(bundle)
    with pytest.raises(DamagedArtifact, match=words):
        open_encoder(bundle)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (name_outside, r"names no file '\.\./outside\.onnx'"),
        (move_weights_outside, r"encoder\.onnx is not an ONNX file that may be opened: .* lie in another file"),
        (truncate, r"is not an ONNX file that may be opened: .* ends after the message that holds it"),
    ],
)
def test_a_manifest_that_vouches_for_it_does_not_help(
    bundle: Path, damage: Callable[[Path], None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes that ONNX Runtime is given are at most those of the part that was not touched."""
    whole, start = (bundle / BACKBONE).read_bytes(), onnxruntime.InferenceSession

    def starting(model: bytes, *rest: Any, **options: Any) -> Any:
        assert model == whole
        return start(model, *rest, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", starting)
    damage(bundle)
    with pytest.raises(DamagedArtifact, match=words):
        open_encoder(bundle)


def test_an_onnx_file_over_its_limit_is_refused(
    bundle: Path, no_runtime: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chextriev.export.onnx_files.SIZE_LIMIT", 1000)
    with pytest.raises(DamagedArtifact, match="an ONNX file has at most 1,000"):
        open_encoder(bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card.pop("engines"),
        lambda card: card.update(surprise=1),
        lambda card: card.update(engines=["onnx-fp32"]),
        lambda card: card["engines"]["onnx-fp32"].update(files=["a", "b"]),
        lambda card: card["engines"]["onnx-fp32"]["files"].pop("encoder"),
        lambda card: card["engines"]["onnx-fp32"]["files"].update(encoder=7),
        lambda card: card["tensors"].pop("region_backbone"),
        lambda card: card["tensors"]["encoder"].pop("outputs"),
        lambda card: card["spec"].update(family="oracle"),
        lambda card: card["crops"].update(size=-1),
        lambda card: card.update(verdicts=[{"engine": "onnx-fp32"}]),
    ],
)
def test_a_card_that_makes_no_sense_is_refused(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    change_card(bundle, change)
    with pytest.raises(DamagedArtifact, match=r"card\.json is not a bundle card of this release .*export the bundle"):
        open_bundle(bundle)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, "\ufffd"])
def test_a_card_that_is_no_json_is_refused(bundle: Path, content: str) -> None:
    (bundle / CARD_FILE).write_text(content)
    reseal(bundle)
    with pytest.raises(DamagedArtifact, match=r"card\.json is not a bundle card of this release"):
        open_bundle(bundle)


def test_parts_that_were_exchanged_are_refused(bundle: Path) -> None:
    backbone, encoder = ((bundle / name).read_bytes() for name in (BACKBONE, ENCODER))
    (bundle / BACKBONE).write_bytes(encoder)
    (bundle / ENCODER).write_bytes(backbone)
    reseal(bundle)
    with pytest.raises(DamagedArtifact, match="region_backbone has the inputs features; its card says crops; export"):
        open_encoder(bundle)


class Exploding:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return eval, ("__import__('pathlib').Path('exploded').touch()",)


def test_weights_run_no_code(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle.parent)
    (bundle / "torch-fp32" / "encoder.pt").write_bytes(pickle.dumps({"state": Exploding()}))
    reseal(bundle)
    with pytest.raises(UnreadableCheckpoint, match=r"encoder\.pt"):
        open_encoder(bundle, engine=REFERENCE)
    assert not (bundle.parent / "exploded").exists()


@pytest.mark.parametrize(
    "weights",
    [
        {"feature_width": 1024},
        {"feature_width": 1024, "state": {"code.weight": torch.zeros(2)}},
        {"feature_width": "wide", "state": {}},
        {"feature_width": 1024, "state": [1]},
    ],
)
def test_weights_of_something_else_are_refused(bundle: Path, weights: dict[str, Any]) -> None:
    torch.save(weights, bundle / "torch-fp32" / "encoder.pt")
    reseal(bundle)
    with pytest.raises(DamagedArtifact, match="weights of torch-fp32 do not fit its card"):
        open_encoder(bundle, engine=REFERENCE)


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, Path]:
    """Two pairs, in the form that OpenSSL writes."""
    written = {}
    for name in ("maker", "forger"):
        key = Ed25519PrivateKey.generate()
        private, public = written[name], written[f"{name}.pub"] = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub.pem"
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return written


def test_a_bundle_is_signed_and_verified(
    bundle: Path, keys: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    verify = ["export", "verify", str(bundle)]
    assert main(verify) == 0
    assert f"{bundle}: 5 files are those of the manifest\n" in capsys.readouterr().out
    assert main([*verify, "--signed-by", str(keys["maker.pub"])]) == 2
    assert "UnsignedArtifact" in capsys.readouterr().err

    assert main(["export", "sign", str(bundle), "--key", str(keys["maker"]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == open_bundle(bundle).digest
    assert main([*verify, "--signed-by", str(keys["maker.pub"]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["signed"] is True
    assert main([*verify, "--signed-by", str(keys["forger.pub"])]) == 2
    assert "ForgedSignature" in capsys.readouterr().err
    assert open_encoder(open_bundle(bundle, signed_by=keys["maker.pub"])).engine == "onnx-fp32"

    flip_byte(bundle / ENCODER)
    for words in ([*verify, "--signed-by", str(keys["maker.pub"])], ["export", "sign", str(bundle), "--key", "none"]):
        assert main(words) == 2
        assert "encoder.onnx differs from its manifest" in capsys.readouterr().err


def test_a_changed_bundle_is_not_its_makers(bundle: Path, keys: dict[str, Path]) -> None:
    main(["export", "sign", str(bundle), "--key", str(keys["maker"])])
    signature = (bundle / SIGNATURE).read_bytes()
    change_card(bundle, lambda card: card.update(notes=["proven, believe me"]))
    with pytest.raises(UnsignedArtifact, match="is not signed, and a signature by"):
        open_bundle(bundle, signed_by=keys["maker.pub"])
    (bundle / SIGNATURE).write_bytes(signature)
    with pytest.raises(ForgedSignature, match="the manifest was changed, or another key signed it"):
        open_bundle(bundle, signed_by=keys["maker.pub"])
    assert open_bundle(bundle).card.notes == ["proven, believe me"]  # nobody asked who made it


def test_new_engines_cost_the_signature(
    bundle: Path, ath: TinyBundle, keys: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    add = ["export", "engines", str(bundle), str(ath.study), "--engines", "onnx-fp32"]
    assert main(add) == 0
    assert "signature" not in capsys.readouterr().err
    main(["export", "sign", str(bundle), "--key", str(keys["maker"])])
    assert main(add) == 0
    assert "the bundle has changed and lost its signature; sign it again" in capsys.readouterr().err
    with pytest.raises(UnsignedArtifact):
        open_bundle(bundle, signed_by=keys["maker.pub"])


def test_what_a_card_says_survives_its_file(bundle: Path) -> None:
    card = open_bundle(bundle).card
    assert asdict(type(card).from_json(card.to_json())) == asdict(card)

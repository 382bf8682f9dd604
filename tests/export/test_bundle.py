"""From a training run to answers, on real engines: what PyTorch computes is what the bundle computes."""

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from chextriev import open_bundle, open_encoder
from chextriev.cli import main
from chextriev.embedding_set import read_embeddings
from chextriev.errors import (
    CountMismatch,
    DamagedArtifact,
    DigestMismatch,
    EngineDiffers,
    InvalidSetting,
    OtherBackbone,
    UnknownEngine,
    UnreadableCheckpoint,
)
from chextriev.export.build_bundle import PARITY_LIMIT, build_bundle
from chextriev.export.checkpoint import load_checkpoint
from chextriev.export.embed import embed_table, pooled_features
from chextriev.export.onnx_runner import OnnxExtractor
from chextriev.index.build import build_index
from chextriev.study_table import StudyTable
from chextriev.train.backbones import Backbone, load_backbone, region_extractor
from chextriev.train.features import compute_features, open_features
from chextriev.train.fit import run_train
from tests.export.tiny_bundle import TinyBundle, export_once
from tests.tiny import as_mapping, write_tiny_table

SMALL = "{name: tiny, positions: true, edges: learned, width: 32, heads: 2, head_width: 8}"


@dataclass(frozen=True)
class Chain:
    """Everything the stages leave behind, on a dozen small radiographs and the real efficientnet-lite0."""

    folder: Path
    table: StudyTable
    backbone: Backbone


@pytest.fixture(scope="module")
def chain(lite0_engine: bytes, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("chain")
    table = write_tiny_table(folder, per_split=(4, 4, 4))
    backbone = load_backbone("efficientnet-lite0")
    extractor = OnnxExtractor(lite0_engine, backbone=backbone.spec.name, backbone_digest=backbone.digest)
    compute_features(table, folder / "features", extractor)
    words = [
        "fit",
        "--data.features",
        f"{folder}/features",
        "--data.table",
        f"{folder}/study",
        "--out",
        f"{folder}/run",
    ]
    options = {"max_epochs": "1", "accelerator": "cpu", "logger": "false", "enable_progress_bar": "false"}
    words += ["--model.system", SMALL, *(word for name in options for word in (f"--trainer.{name}", options[name]))]
    run_train(words)
    with pytest.MonkeyPatch.context() as patch:
        export_once(tmp_path_factory, patch)
        build_bundle(folder / "run", folder / "bundle")
    embed_table(open_encoder(folder / "bundle"), table, folder / "embeddings")
    build_index(folder / "embeddings", folder / "index")
    return Chain(folder, table, backbone)


def test_engines_equal_pytorch_on_radiographs(chain: Chain) -> None:
    encoder = open_encoder(chain.folder / "bundle")
    radiographs = [chain.table.radiograph(row) for row in range(3)]
    found = encoder.encode(radiographs)
    trained = load_checkpoint(chain.folder / "run" / "best.ckpt").encoder
    from chextriev.preprocess import region_crops

    crops = np.concatenate([region_crops(item.pixels, item.boxes) for item in radiographs])
    with torch.inference_mode():
        features = region_extractor(chain.backbone)(torch.from_numpy(crops)[:, None])
        expected = trained(features.reshape(3, 18, -1))
    pairs = (
        (found.vectors, expected.embedding),
        (found.finding_logits, expected.finding_logits),
        (found.region_logits, expected.region_logits),
        (found.region_vectors, expected.region_vectors),
    )
    for ours, torchs in pairs:
        assert np.abs(ours - torchs.numpy()).max() / np.abs(torchs.numpy()).max() <= PARITY_LIMIT
    np.testing.assert_allclose(found.region_vectors.mean(axis=1), found.vectors, atol=1e-5)
    assert found.image_ids == ("image-000", "image-001", "image-002")
    assert bool(((found.finding_probabilities > 0) & (found.finding_probabilities < 1)).all())


def test_nothing_to_encode_gives_nothing(chain: Chain) -> None:
    empty = open_encoder(chain.folder / "bundle").encode([])
    assert empty.vectors.shape == (0, 32)
    assert empty.region_logits.shape == (0, 18, 9)


def test_crops_of_another_size_are_refused(chain: Chain) -> None:
    encoder = open_encoder(chain.folder / "bundle")
    with pytest.raises(
        InvalidSetting, match=r"crops are \[18, 256, 256\] uint8; efficientnet-lite0 takes \[n, 224, 224\] uint8"
    ):
        encoder.extract(np.zeros((18, 256, 256), np.uint8))


def test_engines_name_no_place_of_this_machine(chain: Chain) -> None:
    for name in ("onnx-fp32/region_backbone.onnx", "onnx-fp32/encoder.onnx"):
        content = (chain.folder / "bundle" / name).read_bytes()
        assert b".py" not in content
        assert b"site-packages" not in content


def test_an_unreadable_image_is_quarantined(chain: Chain, tmp_path: Path) -> None:
    table = write_tiny_table(tmp_path, per_split=(4, 4, 4))
    table.image_path(2).write_bytes(b"not a picture")
    manifest, _ = embed_table(open_encoder(chain.folder / "bundle"), table, tmp_path / "e")
    assert manifest.facts["quarantined"] == 1
    assert "image-002" not in read_embeddings(tmp_path / "e").image_id
    assert "2,image-002,UnreadableImage" in (tmp_path / "e" / "quarantine.csv").read_text()


def test_the_card_says_what_a_user_must_know(chain: Chain) -> None:
    bundle = open_bundle(chain.folder / "bundle")
    card = bundle.card
    assert card.system == "tiny"
    assert card.backbone_digest == chain.backbone.digest
    assert card.training["table_digest"] == chain.table.digest
    assert set(card.parity) == {"features", "embedding", "finding_logits", "region_logits", "region_vectors"}
    assert all(0 < value <= PARITY_LIMIT for value in card.parity.values())
    assert [tensor.shape for tensor in card.tensors["region_backbone"]["inputs"]] == [("n", 1, 224, 224)]


def test_embedding_from_features_equals_embedding_from_images(chain: Chain, tmp_path: Path) -> None:
    encoder, features = open_encoder(chain.folder / "bundle"), open_features(chain.folder / "features")
    embed_table(encoder, chain.table, tmp_path / "e", features=features)
    cached, direct = read_embeddings(tmp_path / "e"), read_embeddings(chain.folder / "embeddings")
    assert cached.image_id.tolist() == direct.image_id.tolist()
    unit = [item.vectors / np.linalg.norm(item.vectors, axis=1, keepdims=True) for item in (cached, direct)]
    assert float((unit[0] * unit[1]).sum(axis=1).min()) > 1 - 1e-5  # float16 in the cache
    assert embed_table(encoder, chain.table, tmp_path / "e", features=features)[1]


def test_the_baseline_is_the_mean_of_the_frozen_features(chain: Chain) -> None:
    features = open_features(chain.folder / "features")
    pooled = pooled_features(chain.table, features)
    np.testing.assert_allclose(pooled.vectors[5], features.rows([5])[0].mean(axis=0), rtol=1e-6)
    assert pooled.encoder_digest == features.digest


def test_parts_that_do_not_belong_together_are_refused(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(OtherBackbone, match="give the same weights"):
        build_bundle(chain.folder / "run", tmp_path / "bundle", weights="random:1")
    other = write_tiny_table(tmp_path / "other", per_split=(4, 4, 4), seed=1)
    encoder = open_encoder(chain.folder / "bundle")
    with pytest.raises(DigestMismatch, match="embed from the images"):
        embed_table(encoder, other, tmp_path / "e", features=open_features(chain.folder / "features"))
    with pytest.raises(CountMismatch, match=r"\[2, 18, 1280\] is needed"):
        encoder.relate(np.zeros((2, 18, 7), np.float32), ["a", "b"])
    with pytest.raises(UnknownEngine, match=r"no engine .abacus. in .*; choose one of .*onnx"):
        open_encoder(chain.folder / "bundle", engine="abacus")
    assert not (tmp_path / "bundle").exists()
    assert not (tmp_path / "e").exists()


def test_an_engine_that_strays_is_not_published(
    ath: TinyBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chextriev.export.build_bundle.PARITY_LIMIT", 1e-12)
    with pytest.raises(EngineDiffers, match="differs from PyTorch by"):
        build_bundle(ath.checkpoint, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


class Exploding:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return eval, ("__import__('pathlib').Path('exploded').touch()",)


@pytest.mark.parametrize("fault", ["truncated", "code", "not ours", "missing", "text"])
def test_bad_checkpoints_are_refused(chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.ckpt"
    if fault == "truncated":
        path.write_bytes((chain.folder / "run" / "best.ckpt").read_bytes()[:5000])
    elif fault == "code":
        path.write_bytes(pickle.dumps({"state_dict": Exploding()}))
    elif fault == "not ours":
        torch.save({"state_dict": {"cnn.weight": torch.zeros(2)}}, path)
    elif fault == "text":
        path.write_text("weights")
    with pytest.raises(UnreadableCheckpoint, match=r"bad\.ckpt"):
        build_bundle(path, tmp_path / "bundle")
    assert {item.name for item in tmp_path.iterdir()} <= {"bad.ckpt"}


def test_a_damaged_bundle_is_not_opened(chain: Chain, tmp_path: Path) -> None:
    shutil.copytree(chain.folder / "bundle", tmp_path / "bundle")
    engine = tmp_path / "bundle" / "onnx-fp32" / "encoder.onnx"
    engine.write_bytes(engine.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedArtifact, match=r"encoder\.onnx differs from its manifest"):
        open_encoder(tmp_path / "bundle")


def test_query_excludes_the_image_and_its_patient(
    chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(as_mapping(chain.table.boxes(6))))
    words = ["query", str(chain.table.image_path(6)), "--boxes", str(boxes), "-k", "20", "--json"]
    words += ["--index", str(chain.folder / "index"), "--bundle", str(chain.folder / "bundle")]
    assert main(words) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    same_patient = set(chain.table.image_id[chain.table.patient_id == chain.table.patient_id[6]])
    assert {hit["id"] for hit in hits} == set(chain.table.image_id) - same_patient
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)

    assert main([*words, "--image-id", "new", "--patient-id", "nobody"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert "nothing was left out" in answer["remark"]
    hits = answer["hits"]
    assert hits[0]["id"] == "image-006"
    assert hits[0]["score"] == pytest.approx(1, abs=1e-5)


def test_an_index_of_another_encoder_is_refused(
    chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder_digest = open_bundle(chain.folder / "bundle").digest[:12]
    build_index(pooled_features(chain.table, open_features(chain.folder / "features")), tmp_path / "index")
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(as_mapping(chain.table.boxes(6))))
    words = ["query", str(chain.table.image_path(6)), "--boxes", str(boxes)]
    assert main([*words, "--index", str(tmp_path / "index"), "--bundle", str(chain.folder / "bundle")]) == 2
    said = capsys.readouterr().err
    assert "OtherEncoder" in said
    assert encoder_digest in said

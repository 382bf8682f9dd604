"""The feature cache holds what the extractor said, and refuses what does not belong to it."""

import os
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from chextriev import artifacts
from chextriev.artifacts import MANIFEST
from chextriev.cli import main
from chextriev.errors import (
    CountMismatch,
    DamagedArtifact,
    InvalidSetting,
    InvalidValue,
    OtherBackbone,
    OtherStudyTable,
    OutputExists,
)
from chextriev.preprocess import CropSpec, region_crops
from chextriev.refusals import Refusal
from chextriev.study_table import StudyTable, read_study_table
from chextriev.train.backbones import load_backbone, region_extractor
from chextriev.train.crop_stream import crops_in_order
from chextriev.train.feature_store import FLOAT16_ABSOLUTE_ERROR, FLOAT16_RELATIVE_ERROR
from chextriev.train.features import FeatureSettings, TorchExtractor, compute_features, open_features
from tests.tiny import write_tiny_table
from tests.train.extractors import IMAGES, SETTINGS, Means, shards


def test_rows_are_the_features_within_float16_rounding(shared: StudyTable, tmp_path: Path) -> None:
    manifest = compute_features(shared, tmp_path / "out", Means(), settings=SETTINGS)
    features = open_features(tmp_path / "out", backbone_digest="a" * 64, crops_digest=CropSpec().digest)
    order = [12, 0, 5, 4, 5]
    found = features.rows(order)
    assert found.shape == (5, 18, 6)
    assert found.dtype == np.float32
    for row, values in zip(order, found, strict=True):
        radiograph = shared.radiograph(row)
        exact = Means().extract(region_crops(radiograph.pixels, radiograph.boxes)[:, None])
        error = np.abs(values - exact)
        assert (error <= np.maximum(FLOAT16_RELATIVE_ERROR * exact, FLOAT16_ABSOLUTE_ERROR)).all()
        assert error.max() > 0
    assert len(shards(tmp_path / "out")) == 3
    assert (len(features), features.width, features.digest) == (IMAGES, 6, manifest.digest)
    assert features.available.all()
    assert features.table_digest == shared.digest


def test_float16_rounding_bound_holds_over_the_range() -> None:
    values = np.float32(10.0) ** np.random.default_rng(0).uniform(-9, 4.8, 100_000).astype(np.float32)
    error = np.abs(values.astype(np.float16).astype(np.float64) - values)
    assert (error <= np.maximum(FLOAT16_RELATIVE_ERROR * values, FLOAT16_ABSOLUTE_ERROR)).all()


@pytest.mark.parametrize("complete", [True, False])
def test_a_store_of_another_key_is_refused_by_name(shared: StudyTable, tmp_path: Path, complete: bool) -> None:
    out = tmp_path / "out"
    compute_features(shared, out, Means(), settings=SETTINGS)
    if not complete:
        (out / MANIFEST).unlink()
    other = Means()
    other.backbone_digest = "b" * 64
    with pytest.raises(OtherBackbone, match=r"means aaaaaaaaaaaa .* means bbbbbbbbbbbb"):
        compute_features(shared, out, other, settings=SETTINGS)
    with pytest.raises(OtherBackbone, match="on crops"):
        compute_features(shared, out, Means(), settings=replace(SETTINGS, crops=CropSpec(size=112)))
    with pytest.raises(OtherStudyTable, match=rf"{shared.digest[:12]} \(13 radiographs\), this one is cccccccccccc"):
        compute_features(replace(shared, digest="c" * 64), out, Means(), settings=SETTINGS)
    with pytest.raises(OtherStudyTable, match=r"\(7 radiographs\)"):
        compute_features(shared.of_split("train"), out, Means(), settings=SETTINGS)
    with pytest.raises(OtherStudyTable):
        compute_features(shared.take(np.arange(IMAGES)[::-1]), out, Means(), settings=SETTINGS)
    with pytest.raises(InvalidSetting, match="5 rows a shard, not 6"):
        compute_features(shared, out, Means(), settings=replace(SETTINGS, shard_rows=6))


def test_open_refuses_features_of_another_backbone_or_crop(shared: StudyTable, tmp_path: Path) -> None:
    compute_features(shared, tmp_path / "out", Means(), settings=SETTINGS)
    with pytest.raises(OtherBackbone, match=r"of backbone aaaaaaaaaaaa .* bbbbbbbbbbbb"):
        open_features(tmp_path / "out", backbone_digest="b" * 64)
    with pytest.raises(OtherBackbone, match="of crops"):
        open_features(tmp_path / "out", crops_digest="b" * 64)


def test_other_content_at_the_output_is_left_alone(shared: StudyTable, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputExists):
        compute_features(shared, tmp_path, Means(), settings=SETTINGS)
    (tmp_path / "store.json").write_text("{}")
    with pytest.raises(OutputExists, match="not the key of a feature store"):
        compute_features(shared, tmp_path, Means(), settings=SETTINGS)
    with pytest.raises(OutputExists):
        compute_features(shared, shared.image_root / "study", Means(), settings=SETTINGS)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", [".notes.tmp-123", ".notes.tmp-999999999", ".notes.txt.tmp-0123456789abcdef"])
def test_hidden_files_of_others_are_left_alone(shared: StudyTable, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputExists):
        compute_features(shared, tmp_path, Means(), settings=SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("row", [-1, IMAGES])
def test_rows_outside_the_table_are_refused(shared: StudyTable, tmp_path: Path, row: int) -> None:
    compute_features(shared, tmp_path / "out", Means(), settings=SETTINGS)
    with pytest.raises(InvalidValue, match=f"no row {row}; it has rows 0 to 12"):
        open_features(tmp_path / "out").rows([0, row])


def test_a_reader_can_go_to_another_process(shared: StudyTable, tmp_path: Path) -> None:
    compute_features(shared, tmp_path / "out", Means(), settings=SETTINGS)
    features = open_features(tmp_path / "out")
    before = features.rows([3])
    content = pickle.dumps(features)
    assert len(content) < 10_000
    assert np.array_equal(pickle.loads(content).rows([3]), before)


def test_a_process_reads_a_store_once_to_verify_it(
    shared: StudyTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed, digest = list[str](), artifacts.file_digest

    def watch(path: Path) -> str:
        hashed.append(path.name)
        return digest(path)

    out = tmp_path / "out"
    manifest = compute_features(shared, out, Means(), settings=SETTINGS)
    monkeypatch.setattr(artifacts, "file_digest", watch)
    assert open_features(out).digest == manifest.digest
    assert sorted(hashed) == sorted(manifest.files)
    hashed.clear()
    (tmp_path / "link").symlink_to(out)
    assert open_features(out).digest == open_features(tmp_path / "link").digest == manifest.digest
    assert not hashed

    shard = out / "features-00001.npy"
    content, stamp = bytearray(shard.read_bytes()), shard.stat()
    os.utime(shard, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    open_features(out)
    assert shard.name in hashed, "a file of another time is read again"
    content[-1] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))  # only the time of the change tells
    for _ in range(2):
        with pytest.raises(DamagedArtifact, match=r"features-00001\.npy differs from its manifest"):
            open_features(out)
    shard.unlink()
    with pytest.raises(DamagedArtifact, match="is missing"):
        open_features(out)


def test_shards_are_a_sixteenth_of_the_table_within_bounds() -> None:
    assert [FeatureSettings().rows_a_shard(count, 73_728) for count in (3, 357, 231_528)] == [16, 22, 512]


class Wide(Means):
    def extract(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.zeros((len(crops), 7), np.float32)


class Huge(Means):
    def extract(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.full((len(crops), 6), 7e4, np.float32)


def test_features_that_do_not_fit_are_refused(shared: StudyTable, tmp_path: Path) -> None:
    with pytest.raises(CountMismatch, match=r"means gave features \[36, 7\]; \[36, 6\] is needed"):
        compute_features(shared, tmp_path / "wide", Wide(), settings=SETTINGS)
    with pytest.raises(InvalidValue, match=r"up to 7e\+04; the cache holds 65,504 at most"):
        compute_features(shared, tmp_path / "huge", Huge(), settings=SETTINGS)
    with pytest.raises(InvalidValue, match="read from disk"):
        compute_features(replace(shared, digest=""), tmp_path / "unnamed", Means())
    with pytest.raises(InvalidSetting, match="batch is 0"):
        FeatureSettings(batch=0)


def test_at_most_two_batches_are_read_ahead(own: StudyTable) -> None:
    stream = crops_in_order(own, range(IMAGES), SETTINGS)
    next(stream)
    for row in range(4, IMAGES):
        own.image_path(row).unlink()
    late = [row for row, crops in stream if isinstance(crops, Refusal)]
    assert late == list(range(4, IMAGES))


def test_torch_extractor_is_the_region_extractor(shared: StudyTable) -> None:
    backbone = load_backbone("efficientnet-lite0")
    extractor = TorchExtractor(backbone)
    radiograph = shared.radiograph(0)
    crops = region_crops(radiograph.pixels, radiograph.boxes)[:4, None]
    with torch.inference_mode():
        wanted = region_extractor(backbone)(torch.from_numpy(crops)).numpy()
    found = extractor.extract(crops)
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert (extractor.backbone, extractor.backbone_digest) == ("efficientnet-lite0", backbone.digest)
    assert (extractor.width, found.shape, found.dtype) == (1280, (4, 1280), np.float32)
    with pytest.raises(InvalidSetting, match="device 'abacus'"):
        TorchExtractor(backbone, device="abacus")


def test_the_command_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_tiny_table(tmp_path / "tiny", per_split=(1, 1, 1))
    table.image_path(1).unlink()
    words = ["data", "features", str(table.image_root / "study"), str(tmp_path / "out"), "--engine", "torch"]
    assert main([*words, "--backbone", "efficientnet-lite0"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"3 radiographs -> \[3, 18, 1280\] float16: 3 computed at .* 0 reused, 1 quarantined", said)
    assert main([*words, "--backbone", "efficientnet-lite0"]) == 0
    assert "0 computed, 3 reused, 1 quarantined" in capsys.readouterr().out
    assert main([*words, "--backbone", "efficientnet-lite0", "--weights", "random:3"]) == 2
    assert "OtherBackbone" in capsys.readouterr().err
    assert main([*words, "--backbone", "resnet"]) == 2
    assert "UnknownBackbone: no backbone 'resnet'" in capsys.readouterr().err


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif("CHEXTRIEV_REAL_DATA" not in os.environ, reason="CHEXTRIEV_REAL_DATA is not set")
def test_real_radiographs_have_features_that_differ_by_region(tmp_path: Path) -> None:
    from chextriev.train.prepare import prepare

    prepare(os.environ["CHEXTRIEV_REAL_DATA"], tmp_path / "study")
    table = read_study_table(tmp_path / "study")
    table = table.take(np.arange(3))
    compute_features(table, tmp_path / "out", TorchExtractor(load_backbone("efficientnet-lite0")))
    features = open_features(tmp_path / "out").rows([0, 1, 2])
    assert features.min() >= 0
    assert features.std(axis=1).mean() > 0.1

"""The feature cache holds what the extractor said, survives being killed, and refuses what does not belong to it."""

import os
import pickle
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from chextriev.artifacts import MANIFEST
from chextriev.cli import main
from chextriev.errors import (
    CountMismatch,
    DamagedArtifact,
    InvalidSetting,
    InvalidValue,
    NotAnArtifact,
    OtherBackbone,
    OtherStudyTable,
    OutputExists,
    UnreadableImage,
)
from chextriev.preprocess import CropSpec, region_crops
from chextriev.study_table import StudyTable, read_study_table
from chextriev.train import feature_store
from chextriev.train.backbones import load_backbone, region_extractor
from chextriev.train.crop_stream import Refusal, crops_in_order
from chextriev.train.feature_store import FLOAT16_ABSOLUTE_ERROR, FLOAT16_RELATIVE_ERROR
from chextriev.train.features import FeatureSettings, TorchExtractor, compute_features, open_features
from tests.tiny import write_tiny_table

IMAGES = 13
SETTINGS = FeatureSettings(batch=2, shard_rows=5)  # shards of 5, 5 and 3 rows


class Means:
    """A backbone whose six features are means and powers of the crop; it can stop after some calls."""

    backbone, backbone_digest, width = "means", "a" * 64, 6

    def __init__(self, *, stop_after: int = 1000) -> None:
        self.calls, self.stop_after = 0, stop_after

    def extract(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        mean = crops.mean(axis=(1, 2, 3), dtype=np.float64)
        return np.stack([mean * 10.0**power for power in range(-8, 4, 2)], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> StudyTable:
    return write_tiny_table(tmp_path_factory.mktemp("tiny"), per_split=(7, 3, 3))


@pytest.fixture
def own(tmp_path: Path) -> StudyTable:
    """A table whose images a test may spoil."""
    return write_tiny_table(tmp_path / "tiny", per_split=(7, 3, 3))


def shards(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("features-*"))


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


@pytest.mark.parametrize(("calls", "whole"), [(0, 0), (2, 0), (3, 1), (6, 2)])
def test_an_interrupted_run_leaves_whole_shards_and_goes_on(
    shared: StudyTable, tmp_path: Path, calls: int, whole: int
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        compute_features(shared, out, Means(stop_after=calls), settings=SETTINGS)
    assert len(shards(out)) == whole
    with pytest.raises(NotAnArtifact, match="not a complete region features"):
        open_features(out)
    resumed = compute_features(shared, out, Means(), settings=SETTINGS)
    assert (resumed.facts["reused"], resumed.facts["computed"]) == (5 * whole, IMAGES - 5 * whole)
    assert resumed.digest == compute_features(shared, tmp_path / "unbroken", Means(), settings=SETTINGS).digest


KILLED = """
import os, signal, sys
from pathlib import Path
from chextriev.study_table import read_study_table
from chextriev.train import feature_store
from chextriev.train.features import compute_features
from tests.train.test_features import SETTINGS, Means

written = 0
def die_within_the_second_shard(path, content):
    global written
    written += 1
    if written == 2:
        path.with_name(f".{path.name}.tmp-0123456789abcdef").write_bytes(content[:100])
        os.kill(os.getpid(), signal.SIGKILL)
    path.write_bytes(content)
feature_store.write_bytes = die_within_the_second_shard
compute_features(read_study_table(sys.argv[1]), Path(sys.argv[2]), Means(), settings=SETTINGS)
"""


def test_a_killed_run_leaves_nothing_that_counts_as_complete(own: StudyTable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(own.image_root / "study"), str(out)]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert shards(out) == ["features-00000.npy"]
    assert list(out.glob(".*.tmp-*"))
    manifest = compute_features(own, out, Means(), settings=SETTINGS)
    assert manifest.facts["reused"] == 5
    assert not list(out.glob(".*"))


def test_a_complete_store_is_reused_whole(shared: StudyTable, tmp_path: Path) -> None:
    first = compute_features(shared, tmp_path / "out", Means(), settings=SETTINGS)
    idle = Means(stop_after=0)
    again = compute_features(shared, tmp_path / "out", idle, settings=SETTINGS)
    assert (again.digest, again.facts["reused"], again.facts["computed"]) == (first.digest, IMAGES, 0)


def test_a_shard_cut_short_is_computed_again(shared: StudyTable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    whole = compute_features(shared, out, Means(), settings=SETTINGS)
    shard = out / "features-00001.npy"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DamagedArtifact, match="features-00001"):
        open_features(out)
    with pytest.raises(DamagedArtifact, match="features-00001"):
        compute_features(shared, out, Means(), settings=SETTINGS)
    (out / MANIFEST).unlink()
    again = compute_features(shared, out, Means(), settings=SETTINGS)
    assert (again.digest, again.facts["reused"]) == (whole.digest, 5)


def test_unusable_radiographs_are_quarantined_with_reasons(own: StudyTable, tmp_path: Path) -> None:
    own.image_path(1).write_bytes(own.image_path(1).read_bytes()[:300])
    own.image_path(3).unlink()
    Image.new("L", (100, 120), 7).save(own.image_path(8))
    Image.fromarray(np.eye(50, dtype=np.uint8) * 255).save(own.image_path(12))
    with pytest.raises(KeyboardInterrupt):
        compute_features(own, tmp_path / "out", Means(stop_after=3), settings=SETTINGS)
    manifest = compute_features(own, tmp_path / "out", Means(), settings=SETTINGS)
    assert (manifest.facts["reused"], manifest.facts["quarantined"]) == (5, 4)
    lines = (tmp_path / "out" / "quarantine.csv").read_text().splitlines()
    assert lines[0] == "row,image_id,reason,detail"
    assert [line.split(",")[:3] for line in lines[1:]] == [
        ["1", "image-001", "UnreadableImage"],
        ["3", "image-003", "UnreadableImage"],
        ["8", "image-008", "EmptyImage"],
        ["12", "image-012", "InvalidValue"],
    ]
    assert "50 x 50 pixels, the study table says 100 x 120" in lines[4]
    assert str(tmp_path) not in "".join(lines)
    features = open_features(tmp_path / "out")
    assert np.flatnonzero(~features.available).tolist() == [1, 3, 8, 12]
    assert np.isfinite(features.rows(np.flatnonzero(features.available))).all()
    with pytest.raises(InvalidValue, match="row 8 has no features"):
        features.rows([0, 8])


def spoil(table: StudyTable, *rows: int) -> dict[int, bytes]:
    """Cut images short; what they held."""
    whole = {row: table.image_path(row).read_bytes() for row in rows}
    for row in rows:
        table.image_path(row).write_bytes(whole[row][:300])
    return whole


def test_repaired_radiographs_leave_quarantine(own: StudyTable, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", spoil(own, 1, 3, 12)
    first = compute_features(own, out, Means(), settings=SETTINGS)
    own.image_path(3).write_bytes(whole[3])
    own.image_path(12).write_bytes(whole[12])
    mended = compute_features(own, out, Means(), settings=SETTINGS)
    assert [mended.facts[name] for name in ("computed", "reused", "quarantined")] == [2, IMAGES - 2, 1]
    assert mended.digest != first.digest
    assert open_features(out).available.tolist() == [row != 1 for row in range(IMAGES)]
    own.image_path(1).write_bytes(whole[1])
    compute_features(own, out, Means(), settings=SETTINGS)
    fresh = compute_features(own, tmp_path / "fresh", Means(), settings=SETTINGS)
    assert open_features(out).digest == fresh.digest


def test_radiographs_refused_again_are_a_plain_reuse(own: StudyTable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    spoil(own, 1, 12)
    first = compute_features(own, out, Means(), settings=SETTINGS)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    again = compute_features(own, out, Means(stop_after=0), settings=SETTINGS)
    assert (again.digest, again.facts["computed"], again.facts["quarantined"]) == (first.digest, 0, 2)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_another_reason_is_recorded(own: StudyTable, tmp_path: Path) -> None:
    spoil(own, 1)
    first = compute_features(own, tmp_path / "out", Means(), settings=SETTINGS)
    Image.new("L", (100, 120), 7).save(own.image_path(1))
    again = compute_features(own, tmp_path / "out", Means(), settings=SETTINGS)
    assert (again.facts["computed"], again.facts["quarantined"], again.digest == first.digest) == (0, 1, False)
    assert "1,image-001,EmptyImage" in (tmp_path / "out" / "quarantine.csv").read_text()
    assert open_features(tmp_path / "out").digest == again.digest


@pytest.mark.parametrize("written", range(4))
def test_a_retry_that_is_interrupted_goes_on(
    own: StudyTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """Stopped before each of its four writes: shard and quarantine, twice."""
    out, whole = tmp_path / "out", spoil(own, 3, 12)
    compute_features(own, out, Means(), settings=SETTINGS)
    for row, content in whole.items():
        own.image_path(row).write_bytes(content)
    write, writes = feature_store.write_bytes, []

    def interrupted(path: Path, content: bytes) -> None:
        if len(writes) == written:
            raise KeyboardInterrupt
        writes.append(path)
        write(path, content)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(feature_store, "write_bytes", interrupted)
        patch.setattr(feature_store, "write_text", lambda path, text: interrupted(path, text.encode()))
        compute_features(own, out, Means(), settings=SETTINGS)
    with pytest.raises(NotAnArtifact):
        open_features(out)
    resumed = compute_features(own, out, Means(), settings=SETTINGS)
    assert resumed.facts["quarantined"] == 0
    assert resumed.digest == compute_features(own, tmp_path / "fresh", Means(), settings=SETTINGS).digest


def test_a_data_set_without_any_usable_image_is_refused(own: StudyTable, tmp_path: Path) -> None:
    away = replace(own, image_root=tmp_path / "elsewhere")
    with pytest.raises(
        UnreadableImage, match=r"none of the first 5 radiographs.*image-000.*check where its images are"
    ):
        compute_features(away, tmp_path / "out", Means(), settings=SETTINGS)
    assert compute_features(own, tmp_path / "out", Means(), settings=SETTINGS).facts["quarantined"] == 0


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


def test_a_run_killed_before_its_first_file_is_begun_again(shared: StudyTable, tmp_path: Path) -> None:
    (tmp_path / ".store.json.tmp-0123456789abcdef").write_text("{")
    compute_features(shared, tmp_path, Means(), settings=SETTINGS)
    assert not list(tmp_path.glob(".*"))


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


def test_shards_are_a_sixteenth_of_the_table_within_bounds() -> None:
    assert [FeatureSettings().rows_a_shard(count) for count in (3, 357, 231_528)] == [16, 22, 512]


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

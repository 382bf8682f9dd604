"""The feature cache survives being killed, and goes on: whole shards are reused, quarantine is tried again."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chextriev import refusals
from chextriev.artifacts import MANIFEST
from chextriev.errors import (
    DamagedArtifact,
    InvalidValue,
    NotAnArtifact,
    UnreadableImage,
)
from chextriev.study_table import StudyTable
from chextriev.train import feature_store
from chextriev.train.features import compute_features, open_features
from tests.train.extractors import IMAGES, SETTINGS, Means, shards


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
from chextriev import refusals
from chextriev.train import feature_store
from chextriev.train.features import compute_features
from tests.train.extractors import SETTINGS, Means

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
        patch.setattr(refusals, "write_text", lambda path, text: interrupted(path, text.encode()))
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


def test_a_run_killed_before_its_first_file_is_begun_again(shared: StudyTable, tmp_path: Path) -> None:
    (tmp_path / ".store.json.tmp-0123456789abcdef").write_text("{")
    compute_features(shared, tmp_path, Means(), settings=SETTINGS)
    assert not list(tmp_path.glob(".*"))

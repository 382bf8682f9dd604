"""Caches of pixels and of whole images, and how rows are read from any cache without holding it in memory."""

import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from chextriev.artifacts import Recipe, seal
from chextriev.cli import EXIT_REFUSED, main
from chextriev.errors import CountMismatch, InvalidValue, OtherBackbone
from chextriev.preprocess import CropSpec, region_crops
from chextriev.study_table import StudyTable
from chextriev.train.crop_stream import SHARD_BYTES, FeatureSettings
from chextriev.train.feature_store import KIND, STORE_FILE, StoreKey
from chextriev.train.features import FeatureExtractor, PixelExtractor, compute_features, open_features
from tests.tiny import write_tiny_table
from tests.train.extractors import IMAGES, SETTINGS, Means, shards

SMALL = CropSpec(size=32)


def settings_of(crops: CropSpec) -> FeatureSettings:
    return replace(SETTINGS, crops=crops)


def cache(table: StudyTable, out: Path, crops: CropSpec, extractor: FeatureExtractor | None = None) -> Path:
    compute_features(table, out, extractor or PixelExtractor(crops), settings=settings_of(crops))
    return out


def stored_shards(out: Path) -> npt.NDArray[np.uint8] | npt.NDArray[np.float16]:
    """The whole store, read by numpy."""
    return np.concatenate([np.load(out / name) for name in shards(out)])


class Stopping(PixelExtractor):
    """Interrupts itself after some calls."""

    def __init__(self, crops: CropSpec, *, stop_after: int) -> None:
        super().__init__(crops)
        self.left = stop_after

    def extract(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return super().extract(crops)


@pytest.mark.parametrize(
    ("crops", "count"),
    [(SMALL, 18), (replace(SMALL, area="image"), 1), (replace(SMALL, area="regions+image"), 19)],
    ids=lambda value: getattr(value, "area", value),
)
def test_pixels_are_the_crops(shared: StudyTable, tmp_path: Path, crops: CropSpec, count: int) -> None:
    features = open_features(cache(shared, tmp_path / "out", crops))
    found = features.rows(range(IMAGES))
    assert (found.shape, found.dtype) == ((IMAGES, count, 32 * 32), np.uint8)
    for row in range(IMAGES):
        radiograph = shared.radiograph(row)
        assert np.array_equal(
            found[row].reshape(count, 32, 32), region_crops(radiograph.pixels, radiograph.boxes, crops)
        )
    assert len({row.tobytes() for row in found}) == IMAGES
    assert (features.backbone, features.width, features.crops) == ("pixels", 1024, asdict(crops))


def test_the_last_of_19_crops_is_the_whole_image(shared: StudyTable, tmp_path: Path) -> None:
    both = open_features(cache(shared, tmp_path / "both", replace(SMALL, area="regions+image"))).rows([4, 2])
    regions = open_features(cache(shared, tmp_path / "regions", SMALL)).rows([4, 2])
    assert np.array_equal(both[:, :18], regions)
    whole = [
        Image.fromarray(shared.radiograph(row).pixels).resize((32, 32), Image.Resampling.BILINEAR) for row in (4, 2)
    ]
    assert np.array_equal(both[:, 18].reshape(2, 32, 32), np.stack(whole))


def test_the_hash_trains_on_whole_images_of_256_pixels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_tiny_table(tmp_path / "tiny", per_split=(2, 1, 1))
    words = ["data", "features", str(table.image_root / "study"), str(tmp_path / "out"), "--backbone", "pixels"]
    assert main([*words, "--area", "image", "--size", "256"]) == 0
    assert re.search(r"4 radiographs -> \[4, 1, 65536\] uint8: 4 computed", capsys.readouterr().out)
    found = open_features(tmp_path / "out").rows([3])
    assert (found.shape, found.dtype) == ((1, 1, 65536), np.uint8)
    whole = Image.open(table.image_path(3)).convert("L").resize((256, 256), Image.Resampling.BILINEAR)
    assert np.array_equal(found.reshape(256, 256), np.asarray(whole))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--size", "256"), "crops of 256 pixels for efficientnet-lite0; its weights expect 224"),
        (("--size", "256", "--engine", "torch"), "its weights expect 224"),
        (("--size", "100000"), "its weights expect 224"),
        (("--size", "15", "--backbone", "pixels"), "crops of 15 pixels; 16 to 1024 are possible"),
        (("--size", "1025", "--backbone", "pixels"), "crops of 1025 pixels; 16 to 1024 are possible"),
        (("--size", "-1", "--backbone", "pixels"), "a positive number of pixels is needed"),
    ],
)
def test_sizes_that_cannot_be_served_are_refused_before_anything_is_written(
    shared: StudyTable, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    out = tmp_path / "out"
    assert main(["data", "features", str(shared.image_root / "study"), str(out), *words]) == EXIT_REFUSED
    error = capsys.readouterr().err
    assert "InvalidSetting" in error
    assert said in error
    assert not out.exists()


@pytest.mark.parametrize(("calls", "whole"), [(0, 0), (3, 1), (6, 2)])
def test_an_interrupted_run_goes_on(shared: StudyTable, tmp_path: Path, calls: int, whole: int) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        cache(shared, out, SMALL, Stopping(SMALL, stop_after=calls))
    assert len(shards(out)) == whole
    resumed = compute_features(shared, out, PixelExtractor(SMALL), settings=settings_of(SMALL))
    assert (resumed.facts["reused"], resumed.facts["computed"]) == (5 * whole, IMAGES - 5 * whole)
    assert resumed.digest == open_features(cache(shared, tmp_path / "unbroken", SMALL)).digest
    again = compute_features(shared, out, Stopping(SMALL, stop_after=0), settings=settings_of(SMALL))
    assert again.facts["computed"] == 0


def test_unreadable_images_are_black_in_the_store_and_in_quarantine(own: StudyTable, tmp_path: Path) -> None:
    whole = own.image_path(6).read_bytes()
    own.image_path(6).write_bytes(whole[:300])
    features = open_features(cache(own, tmp_path / "out", SMALL))
    assert np.flatnonzero(~features.available).tolist() == [6]
    assert not stored_shards(tmp_path / "out")[6].any()
    with pytest.raises(InvalidValue, match=r"row 6 has no features, see quarantine\.csv"):
        features.rows([5, 6])

    own.image_path(6).write_bytes(whole)
    mended = open_features(cache(own, tmp_path / "out", SMALL))
    assert mended.available.all()
    assert mended.digest == open_features(cache(own, tmp_path / "fresh", SMALL)).digest


def test_caches_of_other_areas_or_sizes_are_refused(shared: StudyTable, tmp_path: Path) -> None:
    out = cache(shared, tmp_path / "out", SMALL)
    for other in (replace(SMALL, area="image"), replace(SMALL, size=16)):
        with pytest.raises(OtherBackbone, match=r"pixels .* on crops"):
            cache(shared, out, other)
    with pytest.raises(OtherBackbone, match=r"means aaaaaaaaaaaa .* pixels"):
        cache(shared, cache(shared, tmp_path / "means", SMALL, Means()), SMALL)


def test_shards_of_pixels_stay_small_enough_to_build_in_memory() -> None:
    of_regions, of_image = 18 * 224 * 224, 256 * 256
    assert [FeatureSettings().rows_a_shard(231_528, size) for size in (of_regions, of_image)] == [74, 512]
    assert 74 * of_regions <= SHARD_BYTES < 75 * of_regions
    assert FeatureSettings().rows_a_shard(231_528, 2 * SHARD_BYTES) == 1


def test_an_extractor_of_another_size_is_refused(shared: StudyTable, tmp_path: Path) -> None:
    with pytest.raises(CountMismatch, match=r"pixels gave features \[36, 1024\]; \[36, 256\] is needed"):
        cache(shared, tmp_path / "out", SMALL, PixelExtractor(CropSpec(size=16)))


ORDERS = {
    "in order": list(range(IMAGES)),
    "backwards": list(range(IMAGES))[::-1],
    "shuffled": [7, 0, 12, 3, 9, 1, 11, 5],
    "repeated": [4, 4, 11, 4],
    "of the last, short shard": [12, 10],
    "one": [5],
    "none": [],
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("kind", ["float16", "uint8"])
def test_rows_are_those_of_the_files_in_any_order(
    shared: StudyTable, tmp_path: Path, kind: str, order: list[int]
) -> None:
    out = cache(shared, tmp_path / "out", SMALL, Means() if kind == "float16" else PixelExtractor(SMALL))
    found, stored = open_features(out).rows(order), stored_shards(out)
    assert stored.dtype == kind
    assert found.dtype == ("float32" if kind == "float16" else "uint8")
    assert np.array_equal(found, stored[np.array(order, int)])


READING = """
import re, sys
from pathlib import Path
import numpy as np
from chextriev.train.features import open_features

def peak_bytes():  # of this program alone: ru_maxrss begins at what its parent held
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1))

features = open_features(sys.argv[1])
order = np.random.default_rng(0).permutation(len(features))
assert features.rows(order[:64]).shape == (64, 18, 2048)
before = peak_bytes()
for begin in range(0, len(order), 64):
    assert not features.rows(order[begin : begin + 64]).any()
print(peak_bytes() - before)
"""


def write_hollow_store(out: Path, *, files: int) -> int:
    """A complete store of zeros that takes no room on disk, and its bytes."""
    key = StoreKey(
        backbone="hollow",
        backbone_digest="a" * 64,
        crops_digest=CropSpec().digest,
        table_digest="b" * 64,
        image_ids_digest="c" * 64,
        radiographs=512 * files,
        width=2048,
        shard_rows=512,
        crops=18,
        dtype="float16",
    )
    out.mkdir()
    (out / STORE_FILE).write_text(json.dumps(asdict(key)))
    for number in range(files):
        with (out / f"features-{number:05d}.npy").open("wb") as stream:
            header = {"descr": "<f2", "fortran_order": False, "shape": key.shape_of(number)}
            np.lib.format.write_array_header_1_0(stream, header)
            stream.truncate(stream.tell() + 2 * int(np.prod(key.shape_of(number))))
    seal(out, KIND, Recipe({"crops": asdict(CropSpec())}))
    return key.radiographs * 18 * 2048 * 2


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc, where Linux says how much memory")
def test_reading_a_large_store_holds_a_batch_at_a_time(tmp_path: Path) -> None:
    size = write_hollow_store(tmp_path / "out", files=8)
    assert size > 300e6
    command = [sys.executable, "-c", READING, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16e6  # one batch as float32 is 9.4 MB, and the allocator may keep one

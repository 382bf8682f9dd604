"""A radiograph and its boxes are checked when they are read; each fault has its own error, naming file and field."""

import csv
import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chextriev.anatomy import Region
from chextriev.errors import (
    BoxOutside,
    ChextrievError,
    CountMismatch,
    DuplicateRegion,
    EmptyBox,
    EmptyImage,
    InvalidBox,
    MissingRegion,
    UnknownRegion,
    UnreadableImage,
)
from chextriev.radiograph import (
    MAX_PIXELS,
    Radiograph,
    RegionBoxes,
    read_boxes,
    read_pixels,
    read_radiograph,
)

BOX = [10.0, 20.0, 60.0, 90.5]
BOXES = {region.label: [corner + region for corner in BOX] for region in Region}
PICTURE = np.add.outer(np.arange(120), np.arange(100)).astype(np.uint8)


def picture(path: Path, image: Image.Image | None = None) -> Path:
    (image or Image.fromarray(PICTURE)).save(path)
    return path


def boxes_json(folder: Path, **changes: object) -> Path:
    """A JSON file of boxes; underscores in names of changes stand for spaces."""
    path = folder / "boxes.json"
    path.write_text(json.dumps({**BOXES, **{name.replace("_", " "): value for name, value in changes.items()}}))
    return path


def boxes_csv(folder: Path, rows: list[list[object]]) -> Path:
    path = folder / "regions.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["image_id", "region", "x1", "y1", "x2", "y2", "lung opacity"], *rows])
    return path


def test_image_and_boxes_are_read_as_they_are(tmp_path: Path) -> None:
    found = read_radiograph(picture(tmp_path / "chest-1.png"), boxes_json(tmp_path))
    assert found.image_id == "chest-1"
    assert np.array_equal(found.pixels, PICTURE)
    assert found.boxes.xyxy.dtype == np.float32
    assert found.boxes.xyxy[Region.TRACHEA].tolist() == BOXES["trachea"]
    assert found.boxes.xyxy.tolist() == list(BOXES.values())


def test_grey_stored_as_colour_is_grey(tmp_path: Path) -> None:
    assert np.array_equal(read_pixels(picture(tmp_path / "a.png", Image.fromarray(PICTURE).convert("RGB"))), PICTURE)


def test_csv_boxes_are_those_of_the_image_in_any_order(tmp_path: Path) -> None:
    rows: list[list[object]] = [["chest-1", name, *corners, ""] for name, corners in BOXES.items()]
    others: list[list[object]] = [["chest-2", name, 1, 1, 2, 2, ""] for name in BOXES]
    path = boxes_csv(tmp_path, [*others[:9], *rows[::-1], *others[9:]])
    assert read_boxes(path, image_id="chest-1").xyxy.tolist() == list(BOXES.values())
    assert read_radiograph(picture(tmp_path / "chest-1.png"), path).boxes.xyxy[0].tolist() == BOXES["right lung"]
    with pytest.raises(MissingRegion, match=r"regions\.csv has no box for image 'chest-3'"):
        read_boxes(path, image_id="chest-3")


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims a size and holds no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a readable JPEG or PNG"),
        (b"not a picture", "not a readable JPEG or PNG"),
        (jpeg()[:400], "not a readable JPEG or PNG"),
        (png_header(100, 100), "not a readable JPEG or PNG"),
        (png_header(9_435, 9_435), f"at most {MAX_PIXELS:,}"),
        (png_header(9_600, 9_600), f"at most {MAX_PIXELS:,}"),
        (png_header(30_000, 30_000), f"at most {MAX_PIXELS:,}"),
    ],
    ids=["empty", "text", "truncated", "no-pixels", "too-large", "larger", "bomb"],
)
def test_unreadable_images_are_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=rf"bad\.png: .*{words}"):
        read_pixels(path)


@pytest.mark.parametrize("mode", ["RGBA", "P", "1", "LA"])
def test_other_pixel_formats_are_refused(tmp_path: Path, mode: str) -> None:
    path = picture(tmp_path / "other.png", Image.fromarray(PICTURE).convert(mode))
    with pytest.raises(UnreadableImage, match=f"pixel format {mode}; 8-bit grey"):
        read_pixels(path)


def test_sixteen_bits_are_refused_rather_than_cut_to_eight(tmp_path: Path) -> None:
    path = picture(tmp_path / "deep.png", Image.fromarray(PICTURE.astype(np.uint16) * 200))
    with pytest.raises(UnreadableImage, match="pixel format I;16"):
        read_pixels(path)


def test_absent_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"absent\.jpg: .*No such file"):
        read_pixels(tmp_path / "absent.jpg")
    with pytest.raises(UnreadableImage):
        read_pixels(tmp_path)
    with pytest.raises(InvalidBox, match=r"absent\.json: .*No such file"):
        read_boxes(tmp_path / "absent.json", image_id="a")
    with pytest.raises(InvalidBox, match=r"absent\.csv: .*No such file"):
        read_boxes(tmp_path / "absent.csv", image_id="a")


def test_other_picture_formats_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.bmp").rename(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="not a readable JPEG or PNG"):
        read_pixels(tmp_path / "a.png")


def test_an_image_of_one_grey_level_is_empty(tmp_path: Path) -> None:
    with pytest.raises(EmptyImage, match=r"flat\.png: every pixel is equal"):
        read_pixels(picture(tmp_path / "flat.png", Image.new("L", (50, 50), 9)))


@pytest.mark.parametrize(
    ("box", "error", "words"),
    [
        ([10, 10, 10, 50], EmptyBox, r"'trachea' \[10, 10, 10, 50\] has no area"),
        ([10, 50, 20, 40], EmptyBox, "x1 < x2 and y1 < y2"),
        ([10, 10, float("nan"), 50], InvalidBox, "four finite numbers"),
        ([10, 10, float("inf"), 50], InvalidBox, "four finite numbers"),
        ([10, 10, 1e300, 50], InvalidBox, "four finite numbers"),
        ([-1e9, 10, 20, 50], InvalidBox, "covers more than"),
        ([-9e4, -9e4, 20, 50], InvalidBox, "covers more than"),
        ([10, 10, 20], InvalidBox, "each box is four numbers"),
        ([10, 10, "left", 20], InvalidBox, "each box is four numbers"),
        (None, InvalidBox, "each box is four numbers"),
        ({"x1": 3}, InvalidBox, "each box is four numbers"),
    ],
)
def test_bad_boxes_are_refused(tmp_path: Path, box: object, error: type[ChextrievError], words: str) -> None:
    with pytest.raises(error, match=rf"boxes\.json: .*{words}"):
        read_boxes(boxes_json(tmp_path, trachea=box), image_id="a")


@pytest.mark.parametrize("box", [[100, 0, 120, 50], [0, 120, 50, 130], [-50, 0, 0, 50], [0, -50, 50, 0]])
def test_a_box_beside_the_image_is_refused(tmp_path: Path, box: list[float]) -> None:
    path = picture(tmp_path / "chest.png")
    with pytest.raises(BoxOutside, match=r"image chest: box of 'right lung' .* the image of 100 x 120 pixels"):
        read_radiograph(path, boxes_json(tmp_path, right_lung=box))


def test_a_box_may_reach_past_the_border(tmp_path: Path) -> None:
    path = boxes_json(tmp_path, right_lung=[-50, -50, 1, 1], left_lung=[99, 119, 500, 500])
    assert read_radiograph(picture(tmp_path / "chest.png"), path).boxes.xyxy[0].tolist() == [-50, -50, 1, 1]


def test_missing_unknown_and_repeated_regions_are_named(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({name: box for name, box in BOXES.items() if "hilar" not in name}))
    with pytest.raises(MissingRegion, match="no box for right hilar structures, left hilar structures; all 18"):
        read_boxes(path, image_id="a")
    with pytest.raises(UnknownRegion, match=r"no region 'left ear' in .*boxes\.json; choose one of right lung"):
        read_boxes(boxes_json(tmp_path, left_ear=BOX), image_id="a")
    path.write_text(json.dumps(BOXES)[:-1] + f', "trachea": {BOX}}}')
    with pytest.raises(DuplicateRegion, match=r"boxes\.json: region 'trachea' has two boxes"):
        read_boxes(path, image_id="a")
    rows: list[list[object]] = [["a", name, *corners, ""] for name, corners in BOXES.items()]
    with pytest.raises(DuplicateRegion, match=r"regions\.csv, image a: region 'right lung'"):
        read_boxes(boxes_csv(tmp_path, [*rows, rows[0]]), image_id="a")


@pytest.mark.parametrize("content", ["", "[1, 2]", '"trachea"', "{", "[" * 100_000, "\udcff"])
def test_a_file_that_is_no_object_of_boxes_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "boxes.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InvalidBox, match=r"boxes\.json: "):
        read_boxes(path, image_id="a")


@pytest.mark.parametrize(
    "content", ["image_id,region,x1\na,trachea,1\n", "image_id,region,x1,y1,x2,y2\na,trachea,1,2,three,4\n", "id\na\n"]
)
def test_a_csv_without_the_columns_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "regions.csv").write_text(content)
    with pytest.raises(InvalidBox, match=r"regions\.csv: needs columns image_id, region, x1, y1, x2, y2"):
        read_boxes(tmp_path / "regions.csv", image_id="a")


def test_arrays_of_the_wrong_shape_or_type_are_refused() -> None:
    boxes = RegionBoxes.from_rows(list(BOXES.values()), where="test")
    with pytest.raises(CountMismatch, match=r"\[17, 4\]; \[18, 4\] is needed"):
        RegionBoxes(np.ones((17, 4), np.float32))
    with pytest.raises(UnreadableImage, match=r"image a: pixels are .* float64"):
        Radiograph("a", PICTURE.astype(float), boxes)  # type: ignore[arg-type]
    with pytest.raises(UnreadableImage, match=r"\[120, 100, 1\] uint8"):
        Radiograph("a", PICTURE[..., None], boxes)


def test_boxes_cannot_change_once_checked() -> None:
    boxes = RegionBoxes.from_rows(list(BOXES.values()), where="test")
    with pytest.raises(ValueError, match="read-only"):
        boxes.xyxy[0, 0] = 3

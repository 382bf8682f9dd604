"""One scene graph, and an archive of them."""

import json
import multiprocessing
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chextriev.anatomy import Finding, Region
from chextriev.errors import InvalidBox, MissingFile, MissingRegion, TruncatedArchive, UnreadableSceneGraph
from chextriev.radiograph import read_boxes
from chextriev.train.archive import open_archive
from chextriev.train.pool import map_in_order
from chextriev.train.scene_graph import SceneGraph, parse_scene_graph
from tests.tiny import boxes
from tests.train.data_sets import scene_graph, write_zip

REAL = os.environ.get("CHEXTRIEV_REAL_DATA")


def parse(graph: dict[str, Any]) -> SceneGraph:
    return parse_scene_graph(json.dumps(graph).encode(), where="x_SceneGraph.json")


def said(region: Region, *phrases: list[str]) -> dict[str, Any]:
    return {"bbox_name": region.label, "attributes": list(phrases)}


def test_boxes_are_those_of_the_original_image() -> None:
    graph = parse(scene_graph("x"))
    np.testing.assert_array_equal(graph.boxes.xyxy, boxes().xyxy)
    assert (graph.image_id, graph.viewpoint, graph.sex, graph.age) == ("x", "AP", "F", 55)


def test_the_last_mention_wins_and_silence_is_absence() -> None:
    lung = said(
        Region.LEFT_LUNG,
        ["anatomicalfinding|yes|lung opacity", "disease|yes|pneumonia", "nlp|yes|abnormal"],
        ["anatomicalfinding|no|lung opacity", "anatomicalfinding|yes|vascular redistribution"],
    )
    heart = said(Region.CARDIAC_SILHOUETTE, ["disease|yes|fluid overload/heart failure", "nlp|yes|pneumothorax"])
    elsewhere = {"bbox_name": "chest wall", "attributes": [["anatomicalfinding|yes|lung opacity"]]}
    again = said(Region.TRACHEA, ["anatomicalfinding|no|pneumothorax"], ["anatomicalfinding|yes|pneumothorax"])
    findings = parse(scene_graph("x", attributes=[lung, heart, elsewhere, again])).region_findings
    assert set(zip(*np.nonzero(findings), strict=True)) == {
        (Region.LEFT_LUNG, Finding.PNEUMONIA),
        (Region.CARDIAC_SILHOUETTE, Finding.HEART_FAILURE),
        (Region.TRACHEA, Finding.PNEUMOTHORAX),
    }
    assert findings.dtype == np.int8


def test_optional_keys_may_be_absent() -> None:
    graph = parse({"objects": scene_graph("x")["objects"]})
    assert (graph.image_id, graph.viewpoint, graph.sex, graph.age) == ("x", "", None, -1)
    assert not graph.region_findings.any()


def test_boxes_past_the_border_are_allowed() -> None:
    graph = scene_graph("x")
    graph["objects"][0]["original_x1"] = -20
    assert parse(graph).boxes.xyxy[0, 0] == -20


def test_a_box_without_a_corner_is_missing() -> None:
    graph = scene_graph("x")
    graph["objects"][3]["original_y2"] = None
    with pytest.raises(MissingRegion, match="right mid lung zone"):
        parse(graph)


def test_a_box_of_words_is_invalid() -> None:
    graph = scene_graph("x")
    graph["objects"][3]["original_y2"] = "low"
    with pytest.raises(InvalidBox, match=r"x_SceneGraph\.json"):
        parse(graph)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"objects": 3}', b'{"attributes": []}'])
def test_anything_else_is_unreadable(content: bytes) -> None:
    with pytest.raises(UnreadableSceneGraph, match=r"x_SceneGraph\.json"):
        parse_scene_graph(content, where="x_SceneGraph.json")


def many(folder: Path, count: int = 300) -> Path:
    write_zip(
        folder / "scene_graph.zip", {f"im-{number:04d}": scene_graph(f"im-{number:04d}") for number in range(count)}
    )
    return folder / "scene_graph.zip"


def test_processes_give_what_one_process_gives(tmp_path: Path) -> None:
    archive = open_archive(many(tmp_path))
    alone, together = (list(archive.batches(workers=workers)) for workers in (1, 2))
    assert sum(map(len, alone)) == 300
    assert [b.image_id for b in alone] == [b.image_id for b in together]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.boxes_xyxy, other.boxes_xyxy)


def test_a_folder_has_the_digest_of_the_zip_it_came_from(tmp_path: Path) -> None:
    path = many(tmp_path, 5)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path)
    folder = open_archive(tmp_path / "scene_graph")
    assert folder.digest == open_archive(path).digest
    assert next(folder.batches()).image_id == [f"im-{number:04d}" for number in range(5)]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_zip_is_named(tmp_path: Path, share: float) -> None:
    path = many(tmp_path, 20)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(TruncatedArchive, match=r"scene_graph\.zip is not a whole zip file"):
        open_archive(path)


def test_a_zip_whose_places_lie_before_the_file_is_named(tmp_path: Path) -> None:
    """zipfile takes a directory that begins late for bytes that are missing at the front."""
    path = many(tmp_path, 3)
    content = bytearray(path.read_bytes())
    place = slice(content.index(b"PK\x05\x06") + 16, content.index(b"PK\x05\x06") + 20)
    content[place] = (int.from_bytes(content[place], "little") + 9).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(TruncatedArchive, match=r"scene_graph\.zip is not a whole zip file"):
        open_archive(path)


def test_a_damaged_directory_of_a_zip_gives_our_errors_only(tmp_path: Path) -> None:
    """One to three bytes changed, in the directory, the headers or the content: named, refused alone, or harmless."""
    rng = np.random.default_rng(0)
    whole = np.frombuffer(many(tmp_path, 4).read_bytes(), np.uint8)
    directory = whole.tobytes().index(b"PK\x01\x02")
    path = tmp_path / "damaged.zip"
    truncated = refused = 0
    for case in range(300):
        content = whole.copy()
        places = rng.integers(0 if case % 4 == 0 else directory, len(whole), rng.integers(1, 4))
        content[places] = rng.choice([0, 0x7F, 0x80, 0xFF, *rng.integers(0, 256, 4)], len(places))
        path.write_bytes(content.tobytes())
        try:
            refused += sum(len(batch.refused) for batch in open_archive(path).batches(workers=1))
        except TruncatedArchive:
            truncated += 1
        except MissingFile:
            continue
    assert truncated > 30
    assert refused > 30


def test_an_archive_of_something_else_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "")
        archive.writestr("__MACOSX/._x_SceneGraph.json", "")
    with pytest.raises(MissingFile, match=r"holds no \*_SceneGraph\.json"):
        open_archive(tmp_path / "other.zip")


def test_a_damaged_member_is_refused_alone(tmp_path: Path) -> None:
    path = many(tmp_path, 3)
    damaged = open_archive(path).members[1]
    content = bytearray(path.read_bytes())
    content[damaged.offset + damaged.packed] ^= 0xFF
    path.write_bytes(content)
    (batch,) = open_archive(path).batches()
    assert batch.image_id == ["im-0000", "im-0002"]
    ((image_id, error),) = batch.refused
    assert image_id == "im-0001"
    assert isinstance(error, UnreadableSceneGraph)
    assert "damaged in the zip" in str(error)


def test_an_abandoned_pool_ends(tmp_path: Path) -> None:
    results = map_in_order(abs, range(-50, 0), workers=2)
    assert next(results) == 50
    assert multiprocessing.active_children()
    results.close()  # what an interrupt of the consumer does
    assert not multiprocessing.active_children()


@pytest.mark.real
@pytest.mark.skipif(REAL is None, reason="CHEXTRIEV_REAL_DATA is not set")
def test_real_scene_graphs_have_the_boxes_of_the_table() -> None:
    folder = Path(REAL or "")
    batches = list(open_archive(folder / "scene_graph.zip").batches())
    assert sum(map(len, batches)) == 357
    for batch in batches:
        assert not batch.refused
        np.testing.assert_array_equal(
            batch.boxes_xyxy[0], read_boxes(folder / "regions.csv", image_id=batch.image_id[0]).xyxy
        )
    opacity = [batch.region_findings.max(axis=1)[:, Finding.LUNG_OPACITY].sum() for batch in batches]
    assert sum(opacity) == 158

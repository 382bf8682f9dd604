"""Phantoms: the layout on disk, the geometry of the boxes, where findings sit and how often."""

import csv
import gzip
import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chextriev.anatomy import Finding, Region
from chextriev.artifacts import open_artifact
from chextriev.cli import main
from chextriev.errors import InvalidSetting, OutputExists
from chextriev.radiograph import RegionBoxes, read_pixels
from chextriev.train.phantom.cases import FAULTS, SYNTHETIC, Case, iterate_cases, sample_patient
from chextriev.train.phantom.dataset import DRAWING, KIND, PhantomSummary, write_phantoms
from chextriev.train.phantom.exposure import draw_radiograph
from chextriev.train.phantom.findings import (
    CHILDREN_OF_OPACITY,
    LUNG_PARTS,
    SIDES,
    Presentation,
    region_of,
    sample_presentation,
)
from chextriev.train.phantom.layout import Anatomy, Layout, Pose
from chextriev.train.phantom.scene_graph import scene_graph, write_scene_graphs
from chextriev.train.prepare import prepare
from chextriev.train.study_source import CARRIERS
from tests.train.data_sets import MimicData, PlainData

PATIENTS, SEED = 10, 3
# Positives of the published test split (3,191 images), in the order of Finding.
PREVALENCE = np.array([2679, 1340, 1241, 1212, 819, 96, 334, 169, 643]) / 3191
MIDLINE = [Region.MEDIASTINUM, Region.UPPER_MEDIASTINUM, Region.TRACHEA]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PhantomSummary]:
    out = tmp_path_factory.mktemp("phantom") / "set"
    return out, write_phantoms(out, patients=PATIENTS, seed=SEED)


@pytest.fixture(scope="module")
def many() -> list[Case]:
    return [case for group in iterate_cases(200, 0) for case in group]


@pytest.fixture(scope="module")
def presentations() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([sample_presentation(rng).regions for _ in range(4000)])  # [n, 18, 9]


def rows_of(path: Path) -> list[dict[str, str]]:
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    return list(csv.DictReader(io.StringIO(text)))


def graphs_of(out: Path) -> dict[str, dict]:
    with zipfile.ZipFile(out / "chest-imagenome/1.0.0/silver_dataset/scene_graph.zip") as archive:
        graphs = [json.loads(archive.read(name)) for name in archive.namelist()]
    return {graph["image_id"]: graph for graph in graphs}


def last_mentions(graph: dict) -> np.ndarray:
    """Region findings [18, 9] as the rule of the reference reads them: the last mention wins, yes = 1, else 0."""
    found = np.zeros((len(Region), len(Finding)), np.int8)
    for record in graph["attributes"]:
        if record["bbox_name"] not in Region.labels():
            continue
        for phrase in record["attributes"]:
            for mention in phrase:
                _, answer, label = mention.split("|")
                if label in Finding.labels():
                    found[Region.from_label(record["bbox_name"]), Finding.from_label(label)] = answer == "yes"
    return found


def test_the_same_arguments_give_the_same_bytes(phantoms: tuple[Path, PhantomSummary], tmp_path: Path) -> None:
    write_phantoms(tmp_path / "again", patients=PATIENTS, seed=SEED)
    first, again = (open_artifact(path, KIND) for path in (phantoms[0], tmp_path / "again"))
    assert first.files == again.files
    assert first.digest == again.digest


def test_another_seed_gives_other_patients() -> None:
    assert sample_patient(0, 1)[0].image_id != sample_patient(0, 2)[0].image_id


def test_a_larger_set_begins_with_the_smaller() -> None:
    small, large = (list(iterate_cases(count, 0)) for count in (12, 15))
    assert [case.image_id for group in small for case in group] == [
        case.image_id for group in large[:12] for case in group
    ]


def test_files_lie_where_the_real_data_have_them(phantoms: tuple[Path, PhantomSummary]) -> None:
    out, summary = phantoms
    mimic = out / "mimic-cxr-jpg/2.0.0"
    split = rows_of(mimic / "mimic-cxr-2.0.0-split.csv.gz")
    metadata = {row["dicom_id"]: row for row in rows_of(mimic / "mimic-cxr-2.0.0-metadata.csv.gz")}
    assert list(split[0]) == ["dicom_id", "study_id", "subject_id", "split"]
    assert len(split) == len(metadata) == summary.images == len(graphs_of(out))
    for row in split:
        subject, image_id = row["subject_id"], row["dicom_id"]
        path = mimic / f"files/p{subject[:2]}/p{subject}/s{row['study_id']}/{image_id}.jpg"
        pixels = read_pixels(path)
        assert [len(word) for word in image_id.split("-")] == [8] * 5
        assert pixels.shape == (int(metadata[image_id]["Rows"]), int(metadata[image_id]["Columns"]))
    assert {row["split"] for row in split} == {"train", "validate", "test"}


def test_imagenome_splits_have_an_unnamed_index_and_no_laterals(phantoms: tuple[Path, PhantomSummary]) -> None:
    folder = phantoms[0] / "chest-imagenome/1.0.0/silver_dataset/splits"
    for name in ("train", "valid", "test"):
        rows = rows_of(folder / f"{name}.csv")
        assert next(iter(rows[0])) == ""
        assert {row["ViewPosition"] for row in rows} <= {"AP", "PA"}
    assert (folder / "images_to_avoid.csv").read_text().startswith("subject_id,study_id,dicom_id")


def test_every_file_says_that_it_is_synthetic(phantoms: tuple[Path, PhantomSummary]) -> None:
    out, _ = phantoms
    for path in out.rglob("*.jpg"):
        with Image.open(path) as image:
            assert image.mode == "L"
            assert image.info["comment"].decode() == SYNTHETIC
            assert image.getexif()[0x010E] == SYNTHETIC
    assert all(graph["reason_for_exam"] == SYNTHETIC for graph in graphs_of(out).values())
    assert SYNTHETIC in (out / "README.txt").read_text()
    assert open_artifact(out, KIND).facts["synthetic"] == SYNTHETIC


def test_a_study_table_knows_phantoms_wherever_they_lie(phantoms: tuple[Path, PhantomSummary], tmp_path: Path) -> None:
    assert prepare(phantoms[0], tmp_path / "study").synthetic
    shutil.copytree(phantoms[0], tmp_path / "parent/set")
    (tmp_path / "parent/set/manifest.json").unlink()
    assert prepare(tmp_path / "parent", tmp_path / "other").synthetic
    assert prepare(tmp_path / "parent", tmp_path / "other").synthetic  # reused
    real = MimicData(tmp_path / "real")
    assert not prepare(real.write(), tmp_path / "third").synthetic


def test_a_plain_table_of_phantoms_is_synthetic_too(phantoms: tuple[Path, PhantomSummary], tmp_path: Path) -> None:
    data = PlainData(tmp_path / "data")
    data.drop("width", "height")
    assert not prepare(data.write(), tmp_path / "out").synthetic
    for row, drawn in zip(data.images, phantoms[0].rglob("*.jpg"), strict=False):
        shutil.copyfile(drawn, data.folder / row["file"])
    assert prepare(data.folder, tmp_path / "out").synthetic


def test_patients_stay_in_one_split_and_have_unique_ids(many: list[Case]) -> None:
    splits: dict[int, set[str]] = {}
    for case in many:
        splits.setdefault(case.patient_id, set()).add(case.split)
    assert len(splits) == 200
    assert all(len(found) == 1 for found in splits.values())
    assert len({case.image_id for case in many}) == len({case.study_id for case in many}) == len(many)
    share = np.mean([case.split == "test" for case in many])
    assert 0.15 < share < 0.25


def test_follow_ups_share_the_anatomy_and_change_findings() -> None:
    group = next(group for group in iterate_cases(50, 0) if len(group) >= 3)
    assert len({case.layout.anatomy.half_width for case in group}) == 1
    assert len({case.presentation.regions.tobytes() for case in group}) > 1


def test_boxes_are_valid_and_inside(many: list[Case]) -> None:
    for case in many:
        pose, boxes = case.layout.pose, case.layout.boxes()
        RegionBoxes(boxes.astype(np.float32)).check_inside(pose.width, pose.height, where=case.image_id)
        assert (boxes >= 0).all()
        assert (boxes[:, 2] <= pose.width).all()
        assert (boxes[:, 3] <= pose.height).all()
        assert ((boxes[:, 2:] - boxes[:, :2]) >= 8).all()


def test_the_patients_right_is_on_the_left_of_the_picture(many: list[Case]) -> None:
    boxes = np.stack([case.layout.boxes() for case in many])
    middle = boxes[..., [0, 2]].mean(axis=2)  # [n, 18]
    assert (middle[:, Region.RIGHT_LUNG : Region.LEFT_LUNG] < middle[:, Region.LEFT_LUNG : Region.MEDIASTINUM]).all()
    # The heart lies mostly in the left half of the chest.
    assert (middle[:, Region.CARDIAC_SILHOUETTE] > middle[:, Region.TRACHEA]).mean() > 0.95


def test_parts_lie_inside_their_lung_from_top_to_bottom(many: list[Case]) -> None:
    for case in many[:100]:
        boxes = case.layout.boxes()
        for side in SIDES:
            lung = boxes[region_of(side, "lung")]
            parts = [boxes[region_of(side, part)] for part in LUNG_PARTS[:4]]
            tops = [part[1] for part in parts]
            assert tops == sorted(tops)
            assert all(part[0] >= lung[0] - 8 and part[2] <= lung[2] + 8 for part in parts)


def test_an_enlarged_heart_has_a_wider_box(many: list[Case]) -> None:
    ratio = {True: [], False: []}
    for case in many:
        boxes = case.layout.boxes()
        chest = boxes[Region.LEFT_LUNG, 2] - boxes[Region.RIGHT_LUNG, 0]
        heart = boxes[Region.CARDIAC_SILHOUETTE]
        ratio[case.presentation.has(Finding.ENLARGED_CARDIAC_SILHOUETTE)].append((heart[2] - heart[0]) / chest)
    assert np.mean(ratio[True]) > np.mean(ratio[False]) + 0.08
    # The textbook limit separates the two, as far as it does in people.
    assert np.mean(np.array(ratio[True]) > 0.5) > 0.9


def test_a_finding_in_a_part_is_in_its_lung(presentations: np.ndarray) -> None:
    for side in SIDES:
        lung = presentations[:, region_of(side, "lung")]
        for part in LUNG_PARTS:
            assert (presentations[:, region_of(side, part)] <= lung).all()


def test_findings_keep_to_the_regions_where_they_occur(presentations: np.ndarray) -> None:
    carried = presentations.any(axis=0)  # [18, 9]
    assert not carried[MIDLINE].any()
    heart = np.flatnonzero(carried[Region.CARDIAC_SILHOUETTE])
    assert heart.tolist() == [Finding.ENLARGED_CARDIAC_SILHOUETTE, Finding.HEART_FAILURE]
    assert np.flatnonzero(carried[:, Finding.ENLARGED_CARDIAC_SILHOUETTE]).tolist() == [Region.CARDIAC_SILHOUETTE]
    assert not carried[[region_of(side, "upper lung zone") for side in SIDES], Finding.PLEURAL_EFFUSION].any()


def test_opacity_is_the_parent_of_the_lung_findings(presentations: np.ndarray) -> None:
    images = presentations.any(axis=1)
    child = images[:, CHILDREN_OF_OPACITY].any(axis=1)
    assert 0.89 <= images[child, Finding.LUNG_OPACITY].mean() <= 1.0
    lungs = presentations[images[:, Finding.LUNG_OPACITY], : Region.MEDIASTINUM]
    assert (lungs[:, :, CHILDREN_OF_OPACITY].any(axis=2) <= lungs[:, :, Finding.LUNG_OPACITY]).all()


def test_prevalences_are_those_of_the_real_test_split(presentations: np.ndarray) -> None:
    images = presentations.any(axis=1)
    np.testing.assert_allclose(images.mean(axis=0), PREVALENCE, atol=0.03)
    labels = np.bincount(images.sum(axis=1), minlength=10)[:8] / len(images)
    np.testing.assert_allclose(labels, np.array([12, 12, 20, 25, 18, 8, 3, 1]) / 100, atol=0.04)


@pytest.mark.parametrize(
    ("finding", "region", "share"),
    [
        (Finding.PLEURAL_EFFUSION, Region.RIGHT_COSTOPHRENIC_ANGLE, 0.79),
        (Finding.PLEURAL_EFFUSION, Region.LEFT_LUNG, 0.76),
        (Finding.ATELECTASIS, Region.LEFT_LOWER_LUNG_ZONE, 0.65),
        (Finding.PULMONARY_EDEMA, Region.RIGHT_HILAR_STRUCTURES, 0.99),
        (Finding.CONSOLIDATION, Region.RIGHT_LOWER_LUNG_ZONE, 0.41),
        (Finding.PNEUMONIA, Region.LEFT_MID_LUNG_ZONE, 0.21),
        (Finding.LUNG_OPACITY, Region.RIGHT_HILAR_STRUCTURES, 0.48),
    ],
)
def test_findings_sit_where_they_do_in_the_real_data(
    presentations: np.ndarray, finding: Finding, region: Region, share: float
) -> None:
    positive = presentations[presentations[:, :, finding].any(axis=1)]
    assert positive[:, region, finding].mean() == pytest.approx(share, abs=0.06)


def test_scene_graphs_say_what_was_drawn_and_where(phantoms: tuple[Path, PhantomSummary]) -> None:
    graphs = graphs_of(phantoms[0])
    overruled = 0
    for case in (case for group in iterate_cases(PATIENTS, SEED) for case in group if case.fault is None):
        graph = graphs[case.image_id]
        np.testing.assert_array_equal(last_mentions(graph), case.presentation.regions)
        boxes = {
            record["bbox_name"]: [record[f"original_{c}"] for c in ("x1", "y1", "x2", "y2")]
            for record in graph["objects"]
        }
        np.testing.assert_array_equal([boxes[name] for name in Region.labels()], case.layout.boxes())
        for record in graph["objects"][: len(Region)]:
            assert min(record["x1"], record["y1"]) >= 0
            assert max(record["x2"], record["y2"]) <= 224
        text = [{m.partition("|")[2] for p in record["attributes"] for m in p} for record in graph["attributes"]]
        overruled += sum(
            f"yes|{label}" in said and f"no|{label}" in said for said in text for label in Finding.labels()
        )
    assert overruled > 0


def drawn_boxes(case: Case) -> dict[str, list[int]]:
    corners = ("original_x1", "original_y1", "original_x2", "original_y2")
    return {record["bbox_name"]: [record[corner] for corner in corners] for record in scene_graph(case)["objects"]}


def test_each_fault_is_in_its_scene_graph(many: list[Case]) -> None:
    faulty = {case.fault: case for case in many if case.fault}
    assert set(faulty) == set(FAULTS)
    assert scene_graph(faulty["lateral view"])["viewpoint"] == "LATERAL"
    assert set(Region.labels()) - set(drawn_boxes(faulty["missing box"])) == {"left costophrenic angle"}
    x1, _, x2, _ = drawn_boxes(faulty["empty box"])["right apical zone"]
    assert x1 == x2
    outside = faulty["box outside the image"]
    assert drawn_boxes(outside)["right costophrenic angle"][0] > outside.layout.pose.width


def test_the_summary_counts_faulty_images_apart(phantoms: tuple[Path, PhantomSummary]) -> None:
    _, summary = phantoms
    assert summary.faulty == {"lateral view": 1}
    assert sum(summary.splits.values()) == summary.images - 1
    assert "1 with a fault on purpose" in summary.sentence()


def test_scene_graphs_alone_have_real_size(tmp_path: Path) -> None:
    write_scene_graphs(tmp_path / "graphs.zip", 25, 0)
    with zipfile.ZipFile(tmp_path / "graphs.zip") as archive:
        sizes = [record.file_size for record in archive.infolist()]
    assert len(sizes) == 25
    assert 25_000 < np.mean(sizes) < 60_000


def plain_layout() -> Layout:
    anatomy = Anatomy(0.58, 0.2, 0.15, 0.04, 0.0, 0.02, 0.1, 0.0, 1.0, 10.0, 0.3, 0.25)
    return Layout(anatomy, Pose("PA", 512, 512, (256.0, 240.0), 320.0, 0.0, 1.0), 0.45)


def with_finding(finding: Finding | None, *regions: Region) -> Presentation:
    table = np.zeros((len(Region), len(Finding)), np.int8)
    if finding is not None:
        table[list(regions), finding] = 1
    return Presentation(table, np.zeros(len(Region), np.bool_), np.full(len(Finding), 0.5, np.float32))


@pytest.mark.parametrize(
    ("finding", "lung", "part", "brighter"),
    [
        (Finding.PLEURAL_EFFUSION, Region.LEFT_LUNG, Region.LEFT_COSTOPHRENIC_ANGLE, True),
        (Finding.CONSOLIDATION, Region.RIGHT_LUNG, Region.RIGHT_MID_LUNG_ZONE, True),
        (Finding.PNEUMONIA, Region.RIGHT_LUNG, Region.RIGHT_MID_LUNG_ZONE, True),
        (Finding.ATELECTASIS, Region.LEFT_LUNG, Region.LEFT_MID_LUNG_ZONE, True),
        (Finding.PULMONARY_EDEMA, Region.RIGHT_LUNG, Region.RIGHT_HILAR_STRUCTURES, True),
        (Finding.PNEUMOTHORAX, Region.LEFT_LUNG, Region.LEFT_APICAL_ZONE, False),
    ],
)
def test_a_finding_changes_the_pixels_of_its_region(
    finding: Finding, lung: Region, part: Region, brighter: bool
) -> None:
    layout = plain_layout()
    # Averaged over exposures, because devices and film response differ from one to the next.
    shown, clear = (
        np.mean([draw_radiograph(layout, each, np.random.default_rng(seed)) for seed in range(3)], axis=0)
        for each in (with_finding(finding, lung, part), with_finding(None))
    )

    def change(region: Region) -> float:
        x1, y1, x2, y2 = layout.boxes()[region]
        return float(np.mean(shown[y1:y2, x1:x2]) - np.mean(clear[y1:y2, x1:x2]))

    mirrored = Region((part + 7) % 14)
    assert (change(part) - change(mirrored)) * (1 if brighter else -1) > 1.0


PINNED_DRAWING = 2
# Mean and standard deviation of the grey levels: of six sampled cases, then of each finding alone in the same chest.
PINNED_GREYS = [
    (127.34, 66.48),
    (143.32, 86.03),
    (145.62, 80.18),
    (120.51, 75.48),
    (129.93, 89.73),
    (104.27, 80.40),
    (119.99, 79.64),
    (131.86, 78.81),
    (133.95, 77.50),
    (119.99, 79.64),
    (117.84, 66.95),
    (118.48, 81.15),
    (149.99, 79.56),
    (139.16, 81.52),
    (162.70, 82.24),
]


def greys() -> np.ndarray:
    """[15, 2]; means over a picture, so that another version of a library moves them by far less than 0.1."""
    cases = [sample_patient(index, SEED)[0] for index in range(6)]
    drawn = [draw_radiograph(case.layout, case.presentation, np.random.default_rng(0)) for case in cases]
    for finding in Finding:
        shown = with_finding(finding, *map(Region, np.flatnonzero(CARRIERS[:, finding])))
        drawn.append(draw_radiograph(plain_layout(), shown, np.random.default_rng(0)))
    return np.array([(pixels.mean(), pixels.std()) for pixels in drawn])


def test_a_changed_drawing_has_another_version() -> None:
    np.testing.assert_allclose(
        greys(),
        PINNED_GREYS,
        atol=0.1,
        err_msg="the phantoms are drawn differently: raise DRAWING in phantom/dataset.py by one, then pin both here",
    )
    assert DRAWING == PINNED_DRAWING, "DRAWING was raised: pin it here, with the grey levels of the new drawing"


def test_too_few_patients_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="at least 10"):
        write_phantoms(tmp_path / "set", patients=9, seed=0)
    with pytest.raises(InvalidSetting, match="seed is -1"):
        write_phantoms(tmp_path / "set", patients=10, seed=-1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(OutputExists):
        write_phantoms(tmp_path / "mine", patients=10, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("chextriev.train.phantom.dataset.write_member", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_phantoms(tmp_path / "set", patients=10, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_writes_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "phantom", str(tmp_path / "set"), "--patients", "10", "--seed", "1"]) == 0
    assert "synthetic radiographs of 10 phantoms" in capsys.readouterr().out
    assert main(["data", "phantom", str(tmp_path / "other"), "--patients", "3"]) == 2
    assert "at least 10" in capsys.readouterr().err

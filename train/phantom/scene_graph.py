"""Scene graphs of phantoms in the schema of Chest ImaGenome's silver data set.

As in the real files, regions that the model does not use have boxes too, some without boxes carry attributes, a region
is mentioned in several phrases of which the last counts, and boxes stand in original pixels beside a zero-padded square
of 224.
"""

import json
import zipfile
from itertools import chain, islice
from itertools import count as naturals
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import Finding, Region
from chextriev.progress import track
from chextriev.train.phantom.cases import SYNTHETIC, Case, Fault, sample_patient

FOLDER = "scene_graph"
_SQUARE = 224
_DISEASES = (Finding.PNEUMONIA, Finding.HEART_FAILURE)
_EARLIER_OPPOSITE = 0.06  # mentions that a later phrase of the region corrects
_UNMENTIONED = 0.4  # absences that no phrase states
_MIDLINE = (Region.MEDIASTINUM, Region.UPPER_MEDIASTINUM, Region.TRACHEA)
_FAULTY_REGION: dict[Fault, Region] = {
    "missing box": Region.LEFT_COSTOPHRENIC_ANGLE,
    "empty box": Region.RIGHT_APICAL_ZONE,
    "box outside the image": Region.RIGHT_COSTOPHRENIC_ANGLE,
}
# Regions beside the 18, each placed in a box of the 18: x and y as fractions of it.
_OTHER_BOXES: dict[str, tuple[Region, tuple[float, float, float, float]]] = {
    "carina": (Region.TRACHEA, (0.2, 0.85, 0.8, 1.05)),
    "svc": (Region.UPPER_MEDIASTINUM, (0.0, 0.4, 0.35, 1.0)),
    "aortic arch": (Region.UPPER_MEDIASTINUM, (0.55, 0.5, 1.0, 0.85)),
    "right atrium": (Region.CARDIAC_SILHOUETTE, (0.0, 0.3, 0.3, 0.9)),
    "cavoatrial junction": (Region.CARDIAC_SILHOUETTE, (0.05, 0.1, 0.2, 0.25)),
    "descending aorta": (Region.MEDIASTINUM, (0.45, 0.4, 0.6, 1.0)),
    "right cardiophrenic angle": (Region.RIGHT_LOWER_LUNG_ZONE, (0.7, 0.7, 1.0, 1.0)),
    "left cardiophrenic angle": (Region.LEFT_LOWER_LUNG_ZONE, (0.0, 0.7, 0.3, 1.0)),
    "right hemidiaphragm": (Region.RIGHT_LUNG, (0.0, 0.82, 1.0, 1.0)),
    "left hemidiaphragm": (Region.LEFT_LUNG, (0.0, 0.82, 1.0, 1.0)),
    "right clavicle": (Region.RIGHT_LUNG, (0.0, 0.0, 1.0, 0.2)),
    "left clavicle": (Region.LEFT_LUNG, (0.0, 0.0, 1.0, 0.2)),
    "spine": (Region.MEDIASTINUM, (0.2, 0.0, 0.6, 1.0)),
    "abdomen": (Region.CARDIAC_SILHOUETTE, (-0.5, 0.9, 1.5, 1.4)),
}
_WITHOUT_BOX = ("left chest wall", "neck")


def scene_graph(case: Case) -> dict[str, Any]:
    """The scene graph of one image."""
    rng = np.random.default_rng([case.pixel_seed, 1])
    objects = _objects(case)
    names = [record["bbox_name"] for record in objects] + [name for name in _WITHOUT_BOX if rng.random() < 0.5]
    return {
        "image_id": case.image_id,
        "viewpoint": case.view,
        "patient_id": case.patient_id,
        "study_id": case.study_id,
        "gender": case.sex,
        "age_decile": f"{case.age // 10 * 10}-{case.age // 10 * 10 + 10}",
        "reason_for_exam": SYNTHETIC,
        "StudyOrder": case.study_order,
        "StudyDateTime": f"{case.study_date[:4]}-{case.study_date[4:6]}-{case.study_date[6:]} 00:00:00",
        "objects": objects,
        "attributes": [_attributes(case, name, rng) for name in names],
        "relationships": [_relationship(case, name) for name in names] if case.study_order > 1 else [],
    }


def member_name(case: Case) -> str:
    """Where the scene graph lies in the zip file."""
    return f"{FOLDER}/{case.image_id}_SceneGraph.json"


def write_member(archive: zipfile.ZipFile, case: Case) -> None:
    """Add one scene graph to a zip file, with a fixed time so that equal content gives equal bytes."""
    record = zipfile.ZipInfo(member_name(case), date_time=(2021, 7, 13, 0, 0, 0))
    record.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(record, json.dumps(scene_graph(case)))


def write_scene_graphs(zip_path: Path, count: int, seed: int) -> None:
    """Write `count` scene graphs of real size without images, to measure how fast they are read."""
    cases = islice(chain.from_iterable(sample_patient(index, seed) for index in naturals()), count)
    with zipfile.ZipFile(zip_path, "w") as archive:
        for case in track(cases, "scene graphs", total=count, unit="file"):
            write_member(archive, case)


def _objects(case: Case) -> list[dict[str, Any]]:
    boxes = case.layout.boxes()
    faulty = _FAULTY_REGION.get(case.fault) if case.fault else None
    if case.fault == "empty box":
        boxes[faulty, 2] = boxes[faulty, 0]
    if case.fault == "box outside the image":
        boxes[faulty, ::2] += 2 * case.layout.pose.width
    kept = [region for region in Region if case.fault != "missing box" or region != faulty]
    records = [_object(case, region.label, boxes[region]) for region in kept]
    for name, (region, parts) in _OTHER_BOXES.items():
        corner, size = boxes[region][[0, 1, 0, 1]], (boxes[region][2:] - boxes[region][:2])[[0, 1, 0, 1]]
        records.append(_object(case, name, np.rint(corner + size * np.array(parts)).astype(np.int64)))
    return records


def _object(case: Case, name: str, box: npt.NDArray[np.int64]) -> dict[str, Any]:
    pose = case.layout.pose
    longest = max(pose.width, pose.height)
    padding = (np.array([longest - pose.width, longest - pose.height]) // 2)[[0, 1, 0, 1]]
    small = np.rint((box + padding) * _SQUARE / longest).astype(int).tolist()
    x1, y1, x2, y2 = box.tolist()
    return {
        "object_id": f"{case.image_id}_{name}",
        **dict(zip(("x1", "y1", "x2", "y2"), small, strict=True)),
        "width": small[2] - small[0],
        "height": small[3] - small[1],
        "bbox_name": name,
        "synsets": [],
        "name": name.capitalize(),
        "original_x1": x1,
        "original_y1": y1,
        "original_x2": x2,
        "original_y2": y2,
        "original_width": x2 - x1,
        "original_height": y2 - y1,
    }


def _attributes(case: Case, name: str, rng: np.random.Generator) -> dict[str, Any]:
    """The phrases about one region; the last mention of a finding is the true one."""
    mentions = _mentions(case, name, rng)
    texts = [f"({SYNTHETIC}) {name}: {', '.join(text.split('|')[2] for text in phrase)}." for phrase in mentions]
    empty: list[list[str]] = [[] for _ in mentions]
    return {
        name: True,
        "bbox_name": name,
        "synsets": [],
        "name": name.capitalize(),
        "attributes": mentions,
        "attributes_ids": [[""] * len(phrase) for phrase in mentions],
        "phrases": texts,
        "phrase_IDs": [f"{case.study_id}|{number}" for number in range(len(mentions))],
        "sections": ["finalreport"] * len(mentions),
        "comparison_cues": empty,
        "temporal_cues": empty,
        "severity_cues": empty,
        "texture_cues": empty,
        "object_id": f"{case.image_id}_{name}",
    }


def _mentions(case: Case, name: str, rng: np.random.Generator) -> list[list[str]]:
    """One to three phrases `category|yes or no|label`, some of them overruled by a later one."""
    if name not in Region.labels() or (region := Region.from_label(name)) in _MIDLINE:
        return [["anatomicalfinding|no|mediastinal widening", "nlp|yes|normal"]]
    truth = case.presentation.regions[region]
    first, second, last = ["technicalassessment|yes|low lung volumes"], list[str](), list[str]()
    for finding in Finding:
        positive = bool(truth[finding])
        if rng.random() < _EARLIER_OPPOSITE:
            first.append(_mention(finding, positive=not positive))
            last.append(_mention(finding, positive=positive))
        elif positive or rng.random() > _UNMENTIONED:
            (second if rng.random() < 0.5 else last).append(_mention(finding, positive=positive))
    last.append("nlp|yes|abnormal" if truth.any() else "nlp|yes|normal")
    return [phrase for phrase in (first, second, last) if phrase]


def _mention(finding: Finding, *, positive: bool) -> str:
    category = "disease" if finding in _DISEASES else "anatomicalfinding"
    return f"{category}|{'yes' if positive else 'no'}|{finding.label}"


def _relationship(case: Case, name: str) -> dict[str, Any]:
    """A comparison of one region with the study before."""
    return {
        "relationship_id": f"{case.study_id}|1_{case.study_id - 1}_{name}",
        "predicate": "['comparison|yes|no change']",
        "synsets": ["C0442739"],
        "relationship_names": ["comparison|yes|no change"],
        "relationship_contexts": [1.0],
        "phrase": f"({SYNTHETIC}) {name}: no change.",
        "attributes": [],
        "bbox_name": name,
        "subject_id": f"{case.image_id}_{name}",
        "object_id": f"{case.image_id}_{name}_previous",
    }

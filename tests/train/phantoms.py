"""Phantoms for the tests: made by hand, or read back from where they were written."""

import csv
import gzip
import io
import json
import zipfile
from pathlib import Path

import numpy as np

from chextriev.anatomy import Finding, Region
from chextriev.train.phantom.cases import Case
from chextriev.train.phantom.findings import (
    Presentation,
)
from chextriev.train.phantom.layout import Anatomy, Layout, Pose
from chextriev.train.phantom.scene_graph import scene_graph

PATIENTS, SEED = 10, 3


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


def drawn_boxes(case: Case) -> dict[str, list[int]]:
    corners = ("original_x1", "original_y1", "original_x2", "original_y2")
    return {record["bbox_name"]: [record[corner] for corner in corners] for record in scene_graph(case)["objects"]}


def plain_layout() -> Layout:
    anatomy = Anatomy(0.58, 0.2, 0.15, 0.04, 0.0, 0.02, 0.1, 0.0, 1.0, 10.0, 0.3, 0.25)
    return Layout(anatomy, Pose("PA", 512, 512, (256.0, 240.0), 320.0, 0.0, 1.0), 0.45)


def with_finding(finding: Finding | None, *regions: Region) -> Presentation:
    table = np.zeros((len(Region), len(Finding)), np.int8)
    if finding is not None:
        table[list(regions), finding] = 1
    return Presentation(table, np.zeros(len(Region), np.bool_), np.full(len(Finding), 0.5, np.float32))

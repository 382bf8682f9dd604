"""Small made-up embeddings and a study table with pictures that match them."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from chextriev.anatomy import N_FINDINGS, N_REGIONS, Region
from chextriev.embedding_set import EmbeddingSet
from chextriev.eval.adjacency_picture import RegionLinks
from chextriev.eval.cases import choose_cases, read_cases
from chextriev.eval.report import ReportContent, render_report
from chextriev.eval.run import evaluate
from chextriev.study_table import StudyTable

PREVALENCE = (0.8, 0.4, 0.4, 0.35, 0.25, 0.05, 0.1, 0.05, 0.2)


def _objects(values):
    return np.array(values, dtype=object)


@pytest.fixture(scope="session")
def embedding_set():
    """A function that makes an EmbeddingSet of given labels and vectors, one patient an image unless told."""

    def make(vectors, findings, *, patients=None, views=None, split="test"):
        count = len(vectors)
        names = [f"image-{row:03d}" for row in range(count)]
        return EmbeddingSet(
            vectors=np.asarray(vectors, np.float32),
            image_id=_objects(names),
            study_id=_objects(names),
            patient_id=_objects(patients or [f"patient-{row}" for row in range(count)]),
            findings=np.asarray(findings, np.int8),
            metadata={
                "view": _objects(views or ["AP"] * count),
                "sex": _objects(["F"] * count),
                "age": np.full(count, 60, np.int16),
                "split": _objects([split] * count),
            },
            encoder_digest="e" * 64,
            digest="d" * 64,
        )

    return make


@pytest.fixture(scope="session")
def made_up(embedding_set):
    """90 radiographs of 60 patients, two thirds AP, with unknown labels, whose vectors carry the findings faintly."""
    generator = np.random.default_rng(7)
    findings = (generator.random((90, N_FINDINGS)) < PREVALENCE).astype(np.int8)
    vectors = findings @ generator.normal(size=(N_FINDINGS, 12)) + 2 * generator.normal(size=(90, 12))
    findings[generator.random(findings.shape) < 0.05] = -1
    return embedding_set(
        vectors,
        findings,
        patients=[f"patient-{row * 2 // 3}" for row in range(90)],
        views=["PA" if row % 3 == 0 else "AP" for row in range(90)],
    )


@pytest.fixture(scope="session")
def pictures(made_up, tmp_path_factory) -> StudyTable:
    """The study table of `made_up`, with 64 x 64 pictures on disk."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(3)
    count = len(made_up)
    for name in made_up.image_id:
        Image.fromarray(generator.integers(0, 255, (64, 64), np.uint8)).save(folder / f"{name}.png")
    corners = np.array([[region, region, region + 20, region + 30] for region in range(N_REGIONS)], np.float32)
    return StudyTable(
        image_id=made_up.image_id,
        study_id=made_up.study_id,
        patient_id=made_up.patient_id,
        path=_objects([f"{name}.png" for name in made_up.image_id]),
        view=made_up.metadata["view"],
        sex=made_up.metadata["sex"],
        age=made_up.metadata["age"],
        width=np.full(count, 64, np.int32),
        height=np.full(count, 64, np.int32),
        boxes_xyxy=np.tile(corners, (count, 1, 1)),
        region_findings=np.zeros((count, N_REGIONS, N_FINDINGS), np.int8),
        image_findings=made_up.findings,
        split=made_up.metadata["split"],
        image_root=folder,
    )


@pytest.fixture(scope="session")
def links():
    """Random similarities; no radiograph has a finding in trachea or mediastinum."""
    similarity = np.random.default_rng(5).random((18, 18))
    similarity = np.maximum(similarity, similarity.T)
    similarity[Region.TRACHEA, Region.MEDIASTINUM] = similarity[Region.MEDIASTINUM, Region.TRACHEA] = np.nan
    return RegionLinks(similarity, (similarity > 0.7).astype(np.int8), radiographs=12345, used=False)


@pytest.fixture(scope="session")
def content(made_up, pictures, links):
    """A report of two systems on the made-up data, with six cases."""
    strong = evaluate(made_up)
    generator = np.random.default_rng(1)
    weak = evaluate(replace(made_up, vectors=generator.normal(size=made_up.vectors.shape).astype(np.float32)))
    return ReportContent(
        title="Retrieval <on> made-up data",
        data_note="90 made-up radiographs of 60 patients.",
        rows=[("v6", strong), ("frozen features", weak)],
        cases=read_cases(pictures, strong.lists, choose_cases(strong.lists, pictures)),
        provenance={"embeddings": made_up.digest},
        remarks=["Noise & boxes."],
        warning="Synthetic phantoms: no patient.",
        links=links,
    )


@pytest.fixture(scope="session")
def page(content):
    """The report of `content` as HTML."""
    return render_report(content)

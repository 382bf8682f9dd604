"""A study table becomes embeddings, from its images or from features that are already there."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_REGIONS
from chextriev.artifacts import Manifest, Recipe, check_output, find_current, publishing, seal
from chextriev.embedding_set import KIND, METADATA, EmbeddingSet, write_embedding_files
from chextriev.encoder import Encoder
from chextriev.errors import DigestMismatch, EmptySplit
from chextriev.export.runners import BATCH, batched
from chextriev.progress import track
from chextriev.study_table import StudyTable
from chextriev.train.crop_stream import FeatureSettings, Refusal, crops_in_order, write_refusals
from chextriev.train.feature_store import QUARANTINE_FILE, RegionFeatures

METHOD = 2
"""Part of the recipe of embeddings; raise it when the same inputs begin to give other vectors."""


def embed_table(
    encoder: Encoder, table: StudyTable, out: str | Path, *, features: RegionFeatures | None = None
) -> tuple[Manifest, bool]:
    """Encode every radiograph of the table; the manifest, and whether an earlier result was reused.

    features: a cache of the same table, backbone and preprocessing, which saves decoding and the backbone. Radiographs
    that cannot be read are left out and listed in `quarantine.csv`.
    """
    parents = {"encoder": encoder.bundle.digest, "study table": table.digest}
    if features is not None:
        _check_same(encoder, table, features)
        parents["region features"] = features.digest
    recipe = Recipe({"engine": type(encoder).__name__, "method": METHOD}, parents)
    current = find_current(Path(out), KIND, recipe)
    if current is not None:
        return current, True
    check_output(Path(out), KIND)
    refusals: list[Refusal] = []
    parts = list(_encoded(encoder, table, features, refusals))
    if not parts:
        raise EmptySplit("no radiograph to embed: the study table is empty or all of its images are unreadable")
    rows, vectors = (np.concatenate(column) for column in zip(*parts, strict=True))
    with publishing(Path(out), KIND) as scratch:
        write_embedding_files(_as_set(table.take(rows), vectors, encoder.bundle.digest), scratch)
        write_refusals(refusals, scratch / QUARANTINE_FILE)
        facts = {"n": len(vectors), "width": vectors.shape[1], "quarantined": len(table) - len(rows)}
        manifest = seal(scratch, KIND, recipe, facts)
    return manifest, False


Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


def _encoded(
    encoder: Encoder, table: StudyTable, features: RegionFeatures | None, refusals: list[Refusal]
) -> Iterator[tuple[Rows, Vectors]]:
    """Rows of the table and their embeddings, batch by batch; what cannot be read goes to `refusals`."""
    if features is None:
        settings = FeatureSettings(crops=encoder.bundle.card.crops, batch=BATCH)
        stream = track(crops_in_order(table, range(len(table)), settings), "embed", total=len(table), unit="radiograph")
        for batch in batched(stream, BATCH):
            refusals.extend(crops for _, crops in batch if isinstance(crops, Refusal))
            read = [(row, crops) for row, crops in batch if not isinstance(crops, Refusal)]
            if read:
                rows = np.array([row for row, _ in read])
                extracted = encoder.extract(np.concatenate([crops for _, crops in read]))
                yield rows, encoder.relate(extracted.reshape(len(rows), N_REGIONS, -1), table.image_id[rows]).vectors
    else:
        available = np.flatnonzero(features.available)
        starts = track(range(0, len(available), BATCH), "embed", unit="batch")
        for rows in (available[start : start + BATCH] for start in starts):
            yield rows, encoder.relate(features.rows(rows), table.image_id[rows]).vectors


def _check_same(encoder: Encoder, table: StudyTable, features: RegionFeatures) -> None:
    card = encoder.bundle.card
    pairs = {
        "study table": (features.table_digest, table.digest),
        "backbone": (features.backbone_digest, card.backbone_digest),
        "preprocessing": (features.crops_digest, card.crops.digest),
    }
    for name, (ours, wanted) in pairs.items():
        if ours != wanted:
            raise DigestMismatch(
                f"the features are of {name} {ours[:12]}, {wanted[:12]} is needed; embed from the images"
            )


def _as_set(table: StudyTable, vectors: npt.NDArray[np.float32], encoder_digest: str) -> EmbeddingSet:
    return EmbeddingSet(
        vectors=vectors,
        image_id=table.image_id,
        study_id=table.study_id,
        patient_id=table.patient_id,
        findings=table.image_findings,
        metadata={name: getattr(table, name) for name in METADATA},
        encoder_digest=encoder_digest,
    )


def pooled_features(table: StudyTable, features: RegionFeatures) -> EmbeddingSet:
    """The baseline every trained encoder must beat: the mean of the frozen features over the 18 regions."""
    rows = np.flatnonzero(features.available)
    batches = (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))
    vectors = np.concatenate([features.rows(batch).mean(axis=1) for batch in batches])
    return _as_set(table.take(rows), vectors, features.digest)

"""A study table becomes embeddings, from its images or from features that are already there."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from chextriev.artifacts import Manifest, Recipe, find_current, publishing, seal
from chextriev.embedding_set import KIND, METADATA, EmbeddingSet, write_embedding_files
from chextriev.encoder import Encoder
from chextriev.errors import DigestMismatch, EmptySplit
from chextriev.export.runners import BATCH
from chextriev.progress import track
from chextriev.study_table import StudyTable
from chextriev.train.features import RegionFeatures


def embed_table(
    encoder: Encoder, table: StudyTable, out: str | Path, *, features: RegionFeatures | None = None
) -> tuple[Manifest, bool]:
    """Encode every radiograph of the table; the manifest, and whether an earlier result was reused.

    features: a cache of the same table, backbone and preprocessing, which saves decoding and the backbone; rows that it
    quarantined are left out.
    """
    recipe = Recipe(
        {"engine": type(encoder).__name__, "from": "features" if features else "images"},
        {"encoder": encoder.bundle.digest, "study table": table.digest},
    )
    current = find_current(Path(out), KIND, recipe)
    if current is not None:
        return current, True
    if features is not None:
        _check_same(encoder, table, features)
    rows = np.flatnonzero(features.available) if features else np.arange(len(table))
    if not len(rows):
        raise EmptySplit("no radiograph to embed: the study table is empty or all of its images were quarantined")
    batches = track(_vectors(encoder, table, rows, features), "embed", total=-(-len(rows) // BATCH), unit="batch")
    vectors = np.concatenate(list(batches))
    with publishing(Path(out), KIND) as scratch:
        write_embedding_files(_as_set(table.take(rows), vectors, encoder.bundle.digest), scratch)
        manifest = seal(scratch, KIND, recipe, {"n": len(vectors), "width": vectors.shape[1]})
    return manifest, False


def _vectors(
    encoder: Encoder, table: StudyTable, rows: npt.NDArray[np.int64], features: RegionFeatures | None
) -> Iterator[npt.NDArray[np.float32]]:
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        if features is None:
            yield encoder.encode(table.radiograph(int(row)) for row in batch).vectors
        else:
            yield encoder.relate(np.asarray(features.rows(batch), np.float32), table.image_id[batch]).vectors


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
    vectors = np.concatenate([np.asarray(features.rows(batch), np.float32).mean(axis=1) for batch in batches])
    return _as_set(table.take(rows), vectors, features.digest)

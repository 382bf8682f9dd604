"""A study table becomes embeddings, from its images or from features that are already there."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from chextriev.artifacts import Manifest, Recipe, check_output, find_current, publishing, seal
from chextriev.embedding_set import KIND, EmbeddingSet, embedding_set, write_embedding_files
from chextriev.encoder import Encoder
from chextriev.errors import DigestMismatch, EmptySplit
from chextriev.export.runners import BATCH, batched
from chextriev.progress import track
from chextriev.refusals import Refusal, write_refusals
from chextriev.study_table import StudyTable
from chextriev.train.crop_stream import FeatureSettings, crops_in_order
from chextriev.train.feature_store import QUARANTINE_FILE, RegionFeatures
from chextriev.train.features import PIXELS

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
    recipe = Recipe({"engine": encoder.engine, "method": METHOD}, parents)
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
        write_embedding_files(embedding_set(table.take(rows), vectors, encoder.bundle.digest), scratch)
        write_refusals(refusals, scratch / QUARANTINE_FILE)
        facts = {"n": len(vectors), "width": vectors.shape[1], "quarantined": len(table) - len(rows)}
        manifest = seal(scratch, KIND, recipe, facts)
    return manifest, False


def encode_table(encoder: Encoder, table: StudyTable) -> EmbeddingSet:
    """Embeddings of every radiograph of the table that can be read, in memory; EmptySplit where none can."""
    parts = list(_encoded(encoder, table, None, []))
    if not parts:
        raise EmptySplit("no radiograph to encode: the study table is empty or all of its images are unreadable")
    rows, vectors = (np.concatenate(column) for column in zip(*parts, strict=True))
    return embedding_set(table.take(rows), vectors, encoder.bundle.digest)


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
                yield rows, _vectors(encoder, np.concatenate([crops for _, crops in read]), table.image_id[rows])
    else:
        available = np.flatnonzero(features.available)
        starts = track(range(0, len(available), BATCH), "embed", unit="batch")
        for rows in (available[start : start + BATCH] for start in starts):
            content, names = features.rows(rows), table.image_id[rows]
            if features.backbone == PIXELS:
                size = encoder.bundle.card.crops.size
                yield rows, _vectors(encoder, content.reshape(-1, size, size), names)
            else:
                yield rows, encoder.relate(content, names).vectors


def _vectors(encoder: Encoder, crops: npt.NDArray[np.uint8], image_ids: npt.NDArray[np.object_]) -> Vectors:
    """Embeddings [B, D] float32 of the grey crops [B * crops, size, size] of B radiographs."""
    return encoder.relate(
        encoder.extract(crops).reshape(len(image_ids), -1, encoder.bundle.feature_width), image_ids
    ).vectors


def _check_same(encoder: Encoder, table: StudyTable, features: RegionFeatures) -> None:
    card = encoder.bundle.card
    pairs = {
        "study table": (features.table_digest, table.digest),
        "backbone": (
            card.backbone_digest if features.backbone == PIXELS else features.backbone_digest,
            card.backbone_digest,
        ),
        "preprocessing": (features.crops_digest, card.crops.digest),
    }
    for name, (ours, wanted) in pairs.items():
        if ours != wanted:
            raise DigestMismatch(
                f"the features are of {name} {ours[:12]}, {wanted[:12]} is needed; embed from the images"
            )


def pooled_features(table: StudyTable, features: RegionFeatures) -> EmbeddingSet:
    """The baseline every trained encoder must beat: the mean of the frozen features over the 18 regions."""
    rows = np.flatnonzero(features.available)
    batches = (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))
    vectors = np.concatenate([features.rows(batch).mean(axis=1) for batch in batches])
    return embedding_set(table.take(rows), vectors, features.digest)

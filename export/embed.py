"""A study table becomes embeddings, from its images or from features that are already there."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import N_REGIONS
from chextriev.artifacts import Manifest, Recipe, find_current, publishing, seal
from chextriev.bundle import ENCODER
from chextriev.embedding_set import KIND, REGIONS_FILE, EmbeddingSet, embedding_set, write_embedding_files
from chextriev.encoder import Embeddings, Encoder
from chextriev.errors import DigestMismatch, EmptySplit, InvalidSetting
from chextriev.export.runners import BATCH, batched
from chextriev.progress import track
from chextriev.refusals import Refusal, write_refusals
from chextriev.row_file import writing_rows
from chextriev.study_table import StudyTable
from chextriev.train.crop_stream import FeatureSettings, crops_in_order
from chextriev.train.feature_store import QUARANTINE_FILE, RegionFeatures
from chextriev.train.features import PIXELS

METHOD = 2
"""Part of the recipe of embeddings; raise it when the same inputs begin to give other vectors."""


def embed_table(
    encoder: Encoder,
    table: StudyTable,
    out: str | Path,
    *,
    features: RegionFeatures | None = None,
    regions: bool = False,
) -> tuple[Manifest, bool]:
    """Encode every radiograph of the table; the manifest, and whether an earlier result was reused.

    features: a cache of the same table, backbone and preprocessing, which saves decoding and the backbone. Radiographs
    that cannot be read are left out and listed in `quarantine.csv`. regions: write `region_vectors.npy` too, batch by
    batch; of an encoder whose 19th vector is the whole image the first 18. InvalidSetting where an encoder has none.
    """
    settings = {"engine": encoder.engine, "method": METHOD} | ({"regions": N_REGIONS} if regions else {})
    width = _region_width(encoder) if regions else None
    parents = {"encoder": encoder.bundle.digest, "study table": table.digest}
    if features is not None:
        _check_same(encoder, table, features)
        parents["region features"] = features.digest
    recipe = Recipe(settings, parents)
    current = find_current(Path(out), KIND, recipe)
    if current is not None:
        return current, True
    refusals: list[Refusal] = []
    with publishing(Path(out), KIND) as scratch:
        encoded = _encoded(encoder, table, features, refusals)
        if width is not None:
            encoded = _writing_regions(encoded, scratch / REGIONS_FILE, width)
        rows, vectors = _joined(encoded, "embed")
        write_embedding_files(embedding_set(table.take(rows), vectors, encoder.bundle.digest), scratch)
        write_refusals(refusals, scratch / QUARANTINE_FILE)
        facts = {"n": len(vectors), "width": vectors.shape[1], "quarantined": len(table) - len(rows)}
        manifest = seal(scratch, KIND, recipe, facts)
    return manifest, False


def encode_table(encoder: Encoder, table: StudyTable) -> EmbeddingSet:
    """Embeddings of every radiograph of the table that can be read, in memory; EmptySplit where none can."""
    rows, vectors = _joined(_encoded(encoder, table, None, []), "encode")
    return embedding_set(table.take(rows), vectors, encoder.bundle.digest)


Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Encoded = Iterator[tuple[Rows, Embeddings]]


def _joined(encoded: Encoded, verb: str) -> tuple[Rows, Vectors]:
    """All rows of the table that could be read, and their embeddings [N, D]."""
    parts = [(rows, found.vectors) for rows, found in encoded]
    if not parts:
        raise EmptySplit(f"no radiograph to {verb}: the study table is empty or all of its images are unreadable")
    rows, vectors = (np.concatenate(column) for column in zip(*parts, strict=True))
    return rows, vectors


def _region_width(encoder: Encoder) -> int:
    """D of the encoder's region vectors; InvalidSetting where it has none."""
    card = encoder.bundle.card
    shapes = {tensor.name: tensor.shape for tensor in card.tensors[ENCODER]["outputs"]}
    if "region_vectors" not in shapes:
        raise InvalidSetting(
            f"region vectors were asked for, but {card.system} sees the whole image and has none; embed without them,"
            " or with an encoder of regions, such as v6 or anaxnet"
        )
    return int(shapes["region_vectors"][2])


def _writing_regions(encoded: Encoded, path: Path, width: int) -> Encoded:
    """The same, while the region vectors go to a file, float16 of length 1, since only cosines are compared."""
    with writing_rows(path, (N_REGIONS, width), np.float16) as append:
        for rows, found in encoded:
            regions = np.asarray(found.region_vectors)[:, :N_REGIONS]
            lengths = np.linalg.norm(regions, axis=2, keepdims=True)
            append(regions / np.where(lengths > 0, lengths, 1))
            yield rows, found


def _encoded(encoder: Encoder, table: StudyTable, features: RegionFeatures | None, refusals: list[Refusal]) -> Encoded:
    """Rows of the table and their embeddings, batch by batch; what cannot be read goes to `refusals`."""
    if features is None:
        settings = FeatureSettings(crops=encoder.bundle.card.crops, batch=BATCH)
        stream = track(crops_in_order(table, range(len(table)), settings), "embed", total=len(table), unit="radiograph")
        for batch in batched(stream, BATCH):
            refusals.extend(crops for _, crops in batch if isinstance(crops, Refusal))
            read = [(row, crops) for row, crops in batch if not isinstance(crops, Refusal)]
            if read:
                rows = np.array([row for row, _ in read])
                yield rows, _embeddings(encoder, np.concatenate([crops for _, crops in read]), table.image_id[rows])
    else:
        available = np.flatnonzero(features.available)
        starts = track(range(0, len(available), BATCH), "embed", unit="batch")
        for rows in (available[start : start + BATCH] for start in starts):
            content, names = features.rows(rows), table.image_id[rows]
            if features.backbone == PIXELS:
                size = encoder.bundle.card.crops.size
                yield rows, _embeddings(encoder, content.reshape(-1, size, size), names)
            else:
                yield rows, encoder.relate(content, names)


def _embeddings(encoder: Encoder, crops: npt.NDArray[np.uint8], image_ids: npt.NDArray[np.object_]) -> Embeddings:
    """Of the grey crops [B * crops, size, size] of B radiographs."""
    features = encoder.extract(crops).reshape(len(image_ids), -1, encoder.bundle.feature_width)
    return encoder.relate(features, image_ids)


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

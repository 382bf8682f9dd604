"""Add to an index and remove from it while others search: each step is a new generation beside the old.

What is added lies in a small part that every search compares with one by one, what is removed is passed over, and
`compact` makes one index of it again. Unchanged files get a second name instead of a copy.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.anatomy import UNKNOWN
from chextriev.artifacts import Manifest, Recipe, digest_of, seal
from chextriev.embedding_set import IDS_FILE, EmbeddingSet, write_ids
from chextriev.errors import CountMismatch, DuplicateImage, EmptySplit, InvalidSetting, InvalidValue, UnknownColumn
from chextriev.hits import ImageId
from chextriev.index.build import check_ids, content_digest, train_measured
from chextriev.index.exact import Rows
from chextriev.index.generation import (
    CODES_FILE,
    DELTA_FILE,
    INDEX_FILE,
    KIND,
    REMOVED_FILE,
    Generation,
    Part,
    delta_spec,
    open_generation,
)
from chextriev.index.region_codes import CODEBOOKS_FILE, write_added_codes, write_taken_codes
from chextriev.index.region_codes import CODES_FILE as REGION_CODES_FILE
from chextriev.index.region_codes import DELTA_FILE as REGION_DELTA_FILE
from chextriev.index.retriever import check_same_encoder
from chextriev.index.spec import HAMMING, Goal, IndexSpec, choose_spec
from chextriev.index.store import IndexStore, link_or_copy
from chextriev.scratch import reserve

_MAIN_FILES = (INDEX_FILE, CODES_FILE, CODEBOOKS_FILE, REGION_CODES_FILE)
_BLOCK = 16_384


def add(directory: str | Path, embeddings: EmbeddingSet) -> Manifest:
    """Add radiographs to an index and publish the generation that has them.

    They are of the encoder of the index, and have its columns (one that is missing is unknown throughout). Raises
    OtherEncoder, CountMismatch for vectors of another width, DuplicateImage for an id that it has, UnknownColumn,
    InvalidValue for ids of another type.
    """
    check_ids(embeddings)
    store = IndexStore(directory)
    with store.writing():
        old = open_generation(store.current)
        _check_addition(old, embeddings)
        made = store.add(lambda scratch: _write_added(old, embeddings, scratch))
        return open_generation(made.directory).manifest


def remove(directory: str | Path, image_ids: Iterable[ImageId]) -> Manifest:
    """Have an index not find these radiographs any more. InvalidValue names the first that it does not hold.

    Their vectors leave the files with the next `compact`, and the disk when `gc` removes the generations before it.
    """
    store = IndexStore(directory)
    with store.writing():
        old = open_generation(store.current)
        row_of = old.rows_by_id()
        asked = list(dict.fromkeys(image_ids))
        unknown = [each for each in asked if each not in row_of]
        if not asked:
            raise InvalidValue("no image to remove was named; give ids")
        if unknown:
            first = f"{unknown[0]!r:.80}"
            raise InvalidValue(
                f"{len(unknown)} of {len(asked)} images to remove are not in the index, the first: {first}; nothing was"
                " removed: give ids that it holds"
            )
        removed = np.union1d(old.removed, [row_of[each] for each in asked]).astype(np.int64)
        made = store.add(lambda scratch: _write_removed(old, removed, scratch))
        return open_generation(made.directory).manifest


def compact(directory: str | Path, *, spec: IndexSpec | None = None) -> Manifest:
    """Make one index of the main part and what was added, without what was removed, and publish it.

    spec: in place of its own, which is chosen anew where it was `auto`. The vectors are those that the index stores:
    scores of Flat and half precision stay as they are; what was added to an index of other codes is coded now.
    """
    store = IndexStore(directory)
    with store.writing():
        old = open_generation(store.current)
        rows = np.flatnonzero(old.live())
        if not len(rows):
            raise EmptySplit(f"every radiograph was removed from {directory}; there is nothing to make an index of")
        made = store.add(lambda scratch: _write_compact(old, rows, scratch, spec))
        return open_generation(made.directory).manifest


def _check_addition(old: Generation, new: EmbeddingSet) -> None:
    if new.encoder_digest or old.encoder_digest:
        check_same_encoder(new.encoder_digest, old.encoder_digest)
    if new.vectors.shape[1] != old.main.width:
        raise CountMismatch(
            f"vectors of width {new.vectors.shape[1]} cannot join an index of width {old.main.width}; embed them with"
            " the encoder of the index"
        )
    if new.image_id.dtype.kind != old.columns["image_id"].dtype.kind:
        raise InvalidValue(
            f"image ids of type {new.image_id.dtype} cannot join an index with ids of type"
            f" {old.columns['image_id'].dtype}; an index has either text or integers"
        )
    held = old.rows_by_id()
    twice = [each for each in new.image_id.tolist() if each in held]
    if twice:
        raise DuplicateImage(
            f"{len(twice)} of {len(new)} images are in the index already, the first: {twice[0]!r:.80}; nothing was"
            " added: leave them out, or remove them first"
        )
    _check_columns(old, new)
    if (old.regions is None) != (new.region_vectors is None):
        has, lacks = ("the radiographs", "the index") if old.regions is None else ("the index", "the radiographs")
        raise InvalidSetting(
            f"{has} have region vectors and {lacks} has none; embed with --regions for both or neither"
        )


def _check_columns(old: Generation, new: EmbeddingSet) -> None:
    for name, values in new.metadata.items():
        if name not in old.columns:
            raise UnknownColumn(name, sorted(old.columns), where="the index")
        own, like = _type(values), _type(old.columns[name])
        if own and like and own != like:
            raise InvalidValue(f"column {name!r} holds {own}, and {like} in the index; give {like}")


def _type(column: npt.NDArray[Any]) -> str:
    """Numbers, text, or true and false; "" where all is unknown."""
    if column.dtype.kind != "O":
        return {"b": "true or false", "U": "text"}.get(column.dtype.kind, "numbers")
    known = {type(value) for value in column if value is not None}
    return "" if not known else "true or false" if known <= {bool, np.bool_} else "text"


def _write_added(old: Generation, new: EmbeddingSet, scratch: Path) -> Manifest:
    delta = _grown_delta(old, new)
    delta.save(scratch / DELTA_FILE)
    _link(old, scratch, (*_MAIN_FILES, REMOVED_FILE))
    columns = {name: np.concatenate([values, _column(new, name, values)]) for name, values in old.columns.items()}
    write_ids(_as_set(columns, old), scratch / IDS_FILE)
    if old.regions is not None:
        write_added_codes(old.regions, new.region_vectors, scratch)
    changed = {"added": len(delta), "images": digest_of(columns["image_id"].tolist())}
    return _seal(old, scratch, changed, {"added": new.digest or content_digest(new)})


def _grown_delta(old: Generation, new: EmbeddingSet) -> Part:
    """What was added before, and now. The opened part is nobody else's, so it may grow."""
    if old.delta is None:
        return train_measured(new.vectors, delta_spec(old.main.spec), Goal())[0]
    old.delta.add(new.vectors)
    return old.delta


def _write_removed(old: Generation, removed: Rows, scratch: Path) -> Manifest:
    np.save(scratch / REMOVED_FILE, removed)
    _link(old, scratch, (*_MAIN_FILES, DELTA_FILE, REGION_DELTA_FILE, IDS_FILE))
    return _seal(old, scratch, {"removed": len(removed)}, {})


def _write_compact(old: Generation, rows: Rows, scratch: Path, spec: IndexSpec | None) -> Manifest:
    kept = _as_set({name: values[rows] for name, values in old.columns.items()}, old)
    settings = old.manifest.recipe.settings
    goal = Goal(**settings["asked"]["goal"])
    if spec is None:
        own = old.main.spec
        spec = choose_spec(len(rows), old.main.width, goal) if own.auto and own.metric != HAMMING else own
    if spec.metric != old.main.spec.metric:
        raise InvalidSetting(
            f"spec {spec.factory!r} of metric {spec.metric!r}; the index has metric {old.main.spec.metric!r}, which"
            " compacting keeps"
        )
    built, facts = train_measured(_stored_vectors(old, rows, scratch), spec, goal, stored=True)
    built.save(scratch / INDEX_FILE)
    write_ids(kept, scratch / IDS_FILE)
    if old.regions is not None:
        _link(old, scratch, [CODEBOOKS_FILE])
        write_taken_codes(old.regions, rows, scratch)
    changed = {
        "n": len(rows),
        "added": 0,
        "removed": 0,
        "spec": asdict(built.spec),
        "images": digest_of(kept.image_id.tolist()),
    }
    return _seal(old, scratch, changed, {}, facts)


def _stored_vectors(old: Generation, rows: Rows, scratch: Path) -> npt.NDArray[np.float32]:
    """[R, D] float32 as the index stores them, in a file that has no name any more."""
    path = scratch / ".vectors.npy"
    vectors: npt.NDArray[np.float32] = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.float32, shape=(len(rows), old.main.width)
    )
    reserve(path)
    path.unlink()
    first = 0
    for part in (old.main, old.delta):
        count = 0 if part is None else len(part)
        for start in range(0, count, _BLOCK):
            stop = min(start + _BLOCK, count)
            low, high = np.searchsorted(rows, [first + start, first + stop])
            if part is not None and high > low:
                vectors[low:high] = part.reconstruct(start, stop)[rows[low:high] - first - start]
        first += count
    return vectors


def _column(new: EmbeddingSet, name: str, like: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A column of the new radiographs, unknown throughout where they have none."""
    own: Mapping[str, npt.NDArray[Any]] = {
        "image_id": new.image_id,
        "study_id": new.study_id,
        "patient_id": new.patient_id,
        "findings": new.findings,
        **new.metadata,
    }
    if name in own:
        return own[name]
    if name == "age":
        return np.full(len(new), UNKNOWN, like.dtype)
    return np.full(len(new), None, object) if like.dtype.kind in "Ob" else np.full(len(new), np.nan)


def _as_set(columns: Mapping[str, npt.NDArray[Any]], old: Generation) -> EmbeddingSet:
    """The ids and metadata as a set whose vectors are elsewhere."""
    own = ("image_id", "study_id", "patient_id", "findings")
    count = len(columns["image_id"])
    return EmbeddingSet(
        vectors=np.empty((count, 0), np.float32),
        image_id=columns["image_id"],
        study_id=columns["study_id"],
        patient_id=columns["patient_id"],
        findings=columns["findings"],
        metadata={name: values for name, values in columns.items() if name not in own},
        encoder_digest=old.encoder_digest,
    )


def _link(old: Generation, scratch: Path, names: Iterable[str]) -> None:
    for name in names:
        if name in old.manifest.files:
            link_or_copy(old.directory / name, scratch / name)


def _seal(
    old: Generation,
    scratch: Path,
    changed: Mapping[str, Any],
    parents: Mapping[str, str],
    facts: Mapping[str, Any] | None = None,
) -> Manifest:
    """Seal a generation that comes of another, which its recipe names."""
    recipe = old.manifest.recipe
    kept = {name: digest for name, digest in recipe.parents.items() if name in ("encoder", "embeddings")}
    settings = {**recipe.settings, **changed}
    return seal(
        scratch,
        KIND,
        Recipe(settings, {**kept, "generation": old.manifest.digest, **parents}),
        old.manifest.facts if facts is None else facts,
    )

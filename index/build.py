"""Embeddings to a generation of an index, an artefact of kind "index" that answers for its own accuracy.

Its recipe names what was asked for, the spec that came of it, and the digests of the encoder and the embeddings.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from chextriev.artifacts import Manifest, Recipe, digest_of, open_artifact, seal
from chextriev.embedding_set import IDS_FILE, EmbeddingSet, read_embeddings, write_ids
from chextriev.errors import ArtifactError, DuplicateImage, EmptySplit, InvalidValue
from chextriev.index.exact import Rows, Vectors, exact_search
from chextriev.index.generation import INDEX_FILE, KIND, Part
from chextriev.index.gpu_devices import CPU, Copier, open_gpus
from chextriev.index.hash_index import train_hash_index
from chextriev.index.region_codes import write_region_codes
from chextriev.index.spec import HAMMING, Goal, IndexSpec, choose_spec
from chextriev.index.store import IndexStore
from chextriev.index.tune import overlap, tune
from chextriev.index.vector_index import Scan, VectorIndex, faiss, train_index

HELD_OUT = 1_000
_HASH_BLOCK = 16_384


@dataclass(frozen=True)
class BuildSettings:
    """What is asked of an index.

    spec: how to make it; chosen by size, memory and goal if None. goal: what a chosen one must reach.
    region_vectors: keep the codes of the regions too, where the embeddings hold them. publish: have readers open it.
    device: "cuda" has GPUs help with inverted lists, where there are any (see `gpu_devices.explain_device`).
    """

    spec: IndexSpec | None = None
    goal: Goal = field(default_factory=Goal)
    region_vectors: bool = True
    publish: bool = True
    device: str = "cpu"


DEFAULT = BuildSettings()


def build_index(
    embeddings: EmbeddingSet | str | Path,
    out: str | Path,
    *,
    spec: IndexSpec | None = None,
    settings: BuildSettings = DEFAULT,
) -> Manifest:
    """Build an index of embeddings, given as such or by their directory, and publish it in the directory `out`.

    spec: short for settings with this spec. facts: n, width, faiss_version, spec (in words) and, for an approximate
    index, `ann_recall@10`, how many queries measured it and what was tried. The same embeddings give the same digest.
    """
    source = embeddings if isinstance(embeddings, EmbeddingSet) else read_embeddings(embeddings)
    asked = _asked(settings, spec)
    check_ids(source)
    store = IndexStore(out)
    with store.writing(new=True):
        made = store.add(lambda scratch: write_generation(source, scratch, asked), publish=asked.publish)
    return open_artifact(made.directory, KIND)


def build_or_reuse(
    embeddings: EmbeddingSet,
    out: str | Path,
    *,
    spec: IndexSpec | None = None,
    settings: BuildSettings = DEFAULT,
) -> tuple[Manifest, bool]:
    """`build_index`, unless `out` publishes the index of these embeddings and settings already; and whether it did."""
    asked = _asked(settings, spec)
    store = IndexStore(out)
    if store.exists:
        try:
            manifest = open_artifact(store.current, KIND)
        except ArtifactError:
            manifest = None
        if manifest is not None and _without_spec(manifest.recipe) == _without_spec(index_recipe(embeddings, asked)):
            return manifest, True
    return build_index(embeddings, out, settings=asked), False


def write_generation(source: EmbeddingSet, scratch: Path, settings: BuildSettings) -> Manifest:
    """Train, measure, write and seal the generation of these embeddings in an empty directory."""
    n, width = source.vectors.shape
    chosen = settings.spec or choose_spec(n, width, settings.goal)
    gpus, words = open_gpus(settings.device)
    built, facts = train_measured(source.vectors, chosen, settings.goal, gpus=gpus)
    if settings.device != CPU:
        facts["device"] = words
    built.save(scratch / INDEX_FILE)
    write_ids(source, scratch / IDS_FILE)
    if source.region_vectors is not None and settings.region_vectors:
        write_region_codes(source.region_vectors, scratch)
    recipe = index_recipe(source, settings)
    recipe = Recipe({**recipe.settings, "spec": asdict(built.spec)}, recipe.parents)
    return seal(scratch, KIND, recipe, facts)


def train_measured(
    vectors: Vectors, spec: IndexSpec, goal: Goal, *, stored: bool = False, gpus: Copier | None = None
) -> tuple[Part, dict[str, Any]]:
    """The index of vectors [N, D], with how deep it looks set by its own measurement where that was left to it.

    stored, gpus: see `train_index`. facts: number, width, the spec in words, and what the measurement found.
    """
    n, width = vectors.shape
    held_out = _held_out_rows(n)
    if spec.metric == HAMMING:
        built: Part = train_hash_index(vectors, spec)
    else:
        built = train_index(vectors, spec, held_out=held_out, stored=stored, gpus=gpus)
    facts: dict[str, Any] = {"n": n, "width": width, "faiss_version": faiss.__version__}
    if not spec.is_exact and n > 1:
        wanted = _nearest_others(built, vectors, held_out, min(goal.k, n - 1))
        if spec.auto and isinstance(built, VectorIndex):
            spec, facts["tuning"] = tune(built, vectors[held_out], wanted, goal, own=held_out)
            built = VectorIndex(spec, built.faiss_index)
        facts |= _recall(built, vectors, held_out, wanted)
    return built, {"spec": spec.explain(n, width), **facts}


def index_recipe(embeddings: EmbeddingSet, settings: BuildSettings = DEFAULT) -> Recipe:
    """What an index of these embeddings is made of, but for the spec that comes of it."""
    n, width = embeddings.vectors.shape
    asked = {
        "asked": {
            "spec": None if settings.spec is None else asdict(settings.spec),
            "goal": asdict(settings.goal),
            "region_vectors": settings.region_vectors and embeddings.region_vectors is not None,
        },
        "n": n,
        "added": 0,
        "removed": 0,
        "width": width,
        "images": digest_of(embeddings.image_id.tolist()),  # a subset keeps the digest of its whole set
    }
    parents = {"embeddings": embeddings.digest or content_digest(embeddings)}
    if embeddings.encoder_digest:
        parents["encoder"] = embeddings.encoder_digest
    return Recipe(asked, parents)


def _without_spec(recipe: Recipe) -> tuple[str, Mapping[str, str]]:
    settings = {name: value for name, value in recipe.settings.items() if name != "spec"}
    return digest_of(settings), recipe.parents


def _asked(settings: BuildSettings, spec: IndexSpec | None) -> BuildSettings:
    return settings if spec is None else replace(settings, spec=spec)


def _nearest_others(built: Part, vectors: Vectors, rows: Rows, k: int) -> Rows:
    """[Q, k] the true nearest of these rows among all others."""
    if isinstance(built, VectorIndex):
        return exact_search(vectors[rows], vectors, k, groups=(rows, np.arange(len(vectors))))[1]
    _, found = built.search(vectors[rows], k + 1, Scan(exact=True))
    return _others(found, rows)[:, :k]


def _recall(built: Part, vectors: Vectors, rows: Rows, wanted: Rows) -> dict[str, Any]:
    """Share of the nearest by exact search that the index finds, over queries that it was not trained on.

    The queries are these rows of the vectors; each is left out of its own results.
    """
    k = wanted.shape[1]
    _, found = built.search(vectors[rows], k + 1)
    found = np.where(found == rows[:, None], -1, found)
    return {f"ann_recall@{k}": round(overlap(found, wanted), 4), "held_out_queries": len(rows)}


def _others(found: Rows, rows: Rows) -> Rows:
    """The lines without their own row, which is moved to the end."""
    order = np.argsort(found == rows[:, None], axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)


def _held_out_rows(n: int) -> Rows:
    """At most a thousand rows, and at most a tenth of all."""
    return np.sort(np.random.default_rng(1).permutation(n)[: min(HELD_OUT, max(1, n // 10))])


def check_ids(embeddings: EmbeddingSet) -> None:
    """EmptySplit for none, InvalidValue for ids that are no names, DuplicateImage for an id that two have."""
    if not len(embeddings):
        raise EmptySplit("the embeddings hold no radiograph; an index needs at least one")
    ids = embeddings.image_id
    if ids.dtype.kind == "O":
        wrong = next((row for row, each in enumerate(ids) if not isinstance(each, str) or not each), None)
        if wrong is not None:
            raise InvalidValue(
                f"embeddings: image id {ids[wrong]!r:.80} in row {wrong}; ids are text that is not empty, or integers"
            )
        ids = ids.astype(str)
    unique, counts = np.unique(ids, return_counts=True)
    if counts.max() > 1:
        raise DuplicateImage(
            f"embeddings: image id {unique[counts.argmax()].item()!r} stands {counts.max()} times; ids are unique"
        )


def content_digest(embeddings: EmbeddingSet) -> str:
    """Identity of a set that was never on disk, or is no artefact."""
    content = hashlib.sha256()
    for start in range(0, len(embeddings), _HASH_BLOCK):
        content.update(np.ascontiguousarray(embeddings.vectors[start : start + _HASH_BLOCK]).data)
    content.update(np.ascontiguousarray(embeddings.findings).data)
    for column in (embeddings.study_id, embeddings.patient_id, *embeddings.metadata.values()):
        content.update(digest_of([str(value) for value in column]).encode())
    return content.hexdigest()

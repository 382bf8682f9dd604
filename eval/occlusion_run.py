"""An occlusion study from radiographs or from region vectors to a folder of results.

The folder holds `occlusion.json`, `occlusion.md`, `occlusion.svg` and a manifest of kind "occlusion study" over them,
whose parents are the digests of encoder, study table and embeddings. Where radiographs are encoded, it also holds the
embeddings with nothing hidden and of each hidden group, each an artefact of its own made in shards: a run may be killed
at any moment, and the next one goes on. One run at a time writes to a folder.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from chextriev.anatomy import N_REGIONS, Region
from chextriev.artifacts import MANIFEST, Recipe, open_artifact, seal, write_text
from chextriev.embedding_set import EmbeddingSet
from chextriev.encoder import Encoder
from chextriev.errors import DamagedArtifact, InvalidSetting
from chextriev.eval.engine_embeddings import embed_split
from chextriev.eval.engine_identity import Subject, engine_recipe
from chextriev.eval.occlusion import measure_occlusion
from chextriev.eval.occlusion_groups import GROUPS, HiddenTable, extent_of, mean_boxes
from chextriev.eval.occlusion_picture import draw_occlusion
from chextriev.eval.occlusion_result import SIDES, Method, OcclusionStudy, Side
from chextriev.eval.occlusion_table import render_occlusion
from chextriev.eval.protocol import DEFAULT, IntervalSpec, Protocol
from chextriev.eval.results_folder import claimed
from chextriev.progress import track
from chextriev.study_table import SPLITS, StudyTable

KIND = "occlusion study"
JSON_FILE, TABLE_FILE, PICTURE_FILE = "occlusion.json", "occlusion.md", "occlusion.svg"
LOCK_FILE = ".occlusion.lock"
ALL_SPLITS = "all"
METHOD = 1
"""Part of the recipe of hidden embeddings; raise it when the same group is hidden in another way."""

BLOCK = 1024
"""Radiographs whose region vectors are held at once."""


@dataclass(frozen=True)
class OcclusionSettings:
    """k: list length. split: queries and gallery, or "all". sides: where regions are hidden. groups: names.

    shard_rows: radiographs that are lost at most when a run is killed.
    """

    k: int = 5
    split: str = "test"
    sides: tuple[Side, ...] = SIDES
    groups: tuple[str, ...] = tuple(GROUPS)
    shard_rows: int = 64
    interval: IntervalSpec = field(default_factory=IntervalSpec)

    def __post_init__(self) -> None:
        for name, given, allowed in (("sides", self.sides, SIDES), ("groups", self.groups, tuple(GROUPS))):
            if not given or len(set(given)) != len(given) or not set(given) <= set(allowed):
                shown = ", ".join(map(str, given)) or "nothing"
                raise InvalidSetting(f"occlusion {name}: {shown}; choose of {', '.join(allowed)}, each once")
        if self.split not in (*SPLITS, ALL_SPLITS):
            raise InvalidSetting(f"no split {self.split!r}; choose one of {', '.join((*SPLITS, ALL_SPLITS))}")
        if self.k < 1 or self.shard_rows < 1:
            raise InvalidSetting(f"occlusion: k is {self.k}, shard_rows {self.shard_rows}; at least 1 is needed")

    @property
    def protocol(self) -> Protocol:
        """The default one, with this list length and interval."""
        return replace(DEFAULT, ks=(self.k,), interval=self.interval)


def occlude_pixels(
    encoder: Encoder, table: StudyTable, out: str | Path, settings: OcclusionSettings | None = None
) -> OcclusionStudy:
    """Encode the radiographs of a split as they are and with each group black, and write the folder `out`.

    Radiographs that cannot be read are left out. Raises EmptySplit, InvalidValue where no finding has 20 queries, and
    OutputExists where `out` holds something else or another run is writing to it.
    """
    settings, out = settings or OcclusionSettings(), Path(out)
    part = table if settings.split == ALL_SPLITS else table.of_split(settings.split)
    with claimed(out, LOCK_FILE, holds=KIND):
        visible = _embedded(encoder, HiddenTable.of(part, ()), out / "visible", settings)
        names = enumerate(track(settings.groups, "occlusion study", unit="group"), start=1)
        hidden = {
            group: _embedded(encoder, HiddenTable.of(part, GROUPS[group]), _folder(out, number, group), settings)
            for number, group in names
        }
        card = encoder.bundle.card
        study = _studied(visible, hidden, part, settings, method="pixels")
        about = {"system": card.system, "backbone": card.backbone, "engine": encoder.engine}
        parents = {**study.parents, "encoder": encoder.bundle.digest, "study table": table.digest}
        study = replace(study, about=about, parents=parents)
        _write(out, study, settings)
    return study


def occlude_vectors(
    embeddings: EmbeddingSet, table: StudyTable, out: str | Path, settings: OcclusionSettings | None = None
) -> OcclusionStudy:
    """Leave the region vectors of each group out of the mean, and write the folder `out`: needs no encoder.

    embeddings: with region vectors (`chextriev embed --regions`). table: of the same radiographs, for the boxes. The
    embedding with nothing hidden is the mean of all 18 vectors, each of length 1, and not the stored embedding, whose
    vectors have lengths of their own. Raises as `occlude_pixels`, and InvalidSetting where there are no region vectors.
    """
    settings, out = settings or OcclusionSettings(), Path(out)
    whole = embeddings if settings.split == ALL_SPLITS else embeddings.of_split(settings.split)
    if whole.region_vectors is None:
        raise InvalidSetting(
            "these embeddings have no region vectors; embed again with --regions, or give the encoder's bundle"
        )
    rows = {name: row for row, name in enumerate(table.image_id)}
    absent = sum(1 for name in whole.image_id if name not in rows)
    if absent:
        raise InvalidSetting(
            f"the study table lacks {absent} of {len(whole)} embedded images; give the table that was embedded"
        )
    part = table.take(np.array([rows[name] for name in whole.image_id]))
    with claimed(out, LOCK_FILE, holds=KIND):
        hidden = {group: _without(whole, GROUPS[group]) for group in settings.groups}
        study = _studied(_without(whole, ()), hidden, part, settings, method="vectors")
        parents = {"embeddings": embeddings.digest, "encoder": embeddings.encoder_digest, "study table": table.digest}
        study = replace(study, parents=parents)
        _write(out, study, settings)
    return study


def read_occlusion(directory: str | Path) -> OcclusionStudy:
    """Open an occlusion study, its files verified."""
    directory = Path(directory)
    open_artifact(directory, KIND)
    try:
        return OcclusionStudy.from_dict(json.loads((directory / JSON_FILE).read_text()))
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedArtifact(f"{directory / JSON_FILE} is no occlusion study of this release ({error})") from error


def _folder(out: Path, number: int, group: str) -> Path:
    return out / f"{number:02d}-without-{group.replace(' ', '-')}"


def _embedded(encoder: Encoder, table: HiddenTable, folder: Path, settings: OcclusionSettings) -> EmbeddingSet:
    recipe = engine_recipe(encoder, table, settings.split)
    recipe = Recipe({**recipe.settings, "hidden": [*map(int, table.hidden)], "hiding": METHOD}, recipe.parents)
    what = f"embed {folder.name.replace('-', ' ')}"
    subject = Subject(encoder, encoder.arithmetic, table, folder, recipe, label=what)
    return embed_split(subject, shard_rows=settings.shard_rows).embeddings


def _without(embeddings: EmbeddingSet, hidden: tuple[Region, ...]) -> EmbeddingSet:
    """The mean of the region vectors but for the hidden ones, in place of each embedding."""
    regions, kept = embeddings.region_vectors, [region for region in range(N_REGIONS) if region not in hidden]
    if regions is None:
        raise InvalidSetting("embeddings without region vectors have none to leave out")
    blocks = (regions[start : start + BLOCK] for start in range(0, len(embeddings), BLOCK))
    vectors = np.concatenate([np.asarray(block)[:, kept].mean(axis=1, dtype=np.float32) for block in blocks])
    return replace(embeddings, vectors=vectors, region_vectors=None)


def _studied(
    visible: EmbeddingSet,
    hidden: Mapping[str, EmbeddingSet],
    table: StudyTable,
    settings: OcclusionSettings,
    *,
    method: Method,
) -> OcclusionStudy:
    embedded = table.take(np.flatnonzero(np.isin(table.image_id, visible.image_id)))
    asked = (visible.findings == 1).any(axis=1)
    boxes, aspect = mean_boxes(embedded)
    return OcclusionStudy(
        method=method,
        protocol=settings.protocol,
        split=settings.split,
        n_queries=int(asked.sum()),
        n_gallery=len(visible),
        n_patients=len(set(visible.patient_id[asked])),
        sides=measure_occlusion(visible, hidden, settings.protocol, sides=settings.sides),
        extents={group: extent_of(embedded, GROUPS[group]) for group in hidden},
        boxes=tuple(tuple(round(float(corner), 4) for corner in box) for box in boxes),
        aspect=round(aspect, 4),
        parents={"visible": visible.digest, **{f"without {group}": part.digest for group, part in hidden.items()}},
    )


def _write(out: Path, study: OcclusionStudy, settings: OcclusionSettings) -> None:
    """Write the results; the manifest, which vouches for them, goes first and comes last."""
    (out / MANIFEST).unlink(missing_ok=True)
    text = json.dumps(study.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(out / JSON_FILE, text + "\n")
    write_text(out / TABLE_FILE, render_occlusion(study))
    write_text(out / PICTURE_FILE, draw_occlusion(study))
    recipe = {
        "method": study.method,
        "protocol": study.protocol.as_dict(),
        "split": settings.split,
        "sides": list(settings.sides),
        "groups": list(settings.groups),
    }
    seal(out, KIND, Recipe(recipe, study.parents), names=(JSON_FILE, TABLE_FILE, PICTURE_FILE))

"""A training run on disk: what identifies it, who may write to its directory, and how others open it.

A run is an artefact of kind "training run": `best.ckpt` and, outside its digest because they name places and times,
`last.ckpt`, `config.yaml` and what the loggers keep. `recipe.json` says whose the directory is before the manifest
does, which is written when training ends.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chextriev.artifacts import MANIFEST, Manifest, Recipe, digest_of, open_artifact, write_text
from chextriev.errors import DigestMismatch, NotAnArtifact, OutputExists, UnreadableCheckpoint
from chextriev.train.torch_files import load_plain

KIND = "training run"
BEST_CHECKPOINT, LAST_CHECKPOINT = "best.ckpt", "last.ckpt"
RECIPE_FILE, CONFIG_FILE = "recipe.json", "config.yaml"

METHOD = 4
"""Part of every run's recipe; raise it when the same settings and data begin to give other weights."""

PLACES = (  # where things are and how they are shown: no part of a run's identity
    *("config", "out", "predictions", "logger", "ckpt_path", "weights_only", "verbose"),
    *("data.features", "data.table", "model.weights", "best.dirpath"),
    *("trainer.default_root_dir", "trainer.logger", "trainer.enable_progress_bar", "trainer.enable_model_summary"),
)


def open_run(directory: str | Path) -> tuple[Path, Manifest]:
    """The best checkpoint of a complete run and its manifest, verified."""
    manifest = open_artifact(Path(directory), KIND)
    return Path(directory) / BEST_CHECKPOINT, manifest


def run_recipe(settings: dict[str, Any], parents: Mapping[str, str]) -> Recipe:
    """The recipe of a run with these settings, the places among them left out."""
    for place in PLACES:
        *group, name = place.split(".")
        (settings[group[0]] if group else settings).pop(name, None)
    return Recipe({"method": METHOD, **settings}, dict(parents))


def claim(out: Path, recipe: Recipe, *, write: bool) -> str | None:
    """Prepare `out` for this recipe; the checkpoint to go on from if it holds an interrupted run of the same recipe.

    A directory in which nothing was trained yet is taken over. Raises OutputExists for anything else that is there,
    DamagedArtifact for a complete run whose files were altered, UnreadableCheckpoint for checkpoints that cannot be
    read. write: only the first of several processes does.
    """
    if (out / MANIFEST).exists():
        open_artifact(out, KIND)
    text = json.dumps({"digest": digest_of({"settings": recipe.settings, "parents": recipe.parents})}) + "\n"
    stated = out / RECIPE_FILE
    same = stated.is_file() and stated.read_bytes() == text.encode()
    if not same and not _is_free(out):
        raise OutputExists(
            f"{out} holds something else than a run of these settings; choose another --out or remove it"
        )
    if write:
        out.mkdir(parents=True, exist_ok=True)
        write_text(stated, text)
    last = out / LAST_CHECKPOINT
    if not last.is_file():
        return None
    load_plain(last)
    if not (out / BEST_CHECKPOINT).is_file():
        raise NotAnArtifact(f"{out} has a {LAST_CHECKPOINT} and no {BEST_CHECKPOINT}; remove it and train again")
    load_plain(out / BEST_CHECKPOINT)
    return str(last)


def check_trained_as(path: Path, *, system: Mapping[str, Any], provenance: Mapping[str, str]) -> None:
    """Refuse a checkpoint of another system or on other features than those at hand.

    Several systems have weights of equal names and shapes, and only their settings tell them apart.
    """
    content: Any = load_plain(path)
    try:
        own, held = content["hyper_parameters"]["system"], content["hyper_parameters"]["provenance"]
        found = {name: held[name] for name in ("backbone_digest", "crops_digest")}
    except (TypeError, KeyError) as error:
        raise UnreadableCheckpoint(
            f"{path} is not a checkpoint of `chextriev train fit` ({error} is missing)"
        ) from None
    if own != dict(system):
        differing = sorted(name for name in {*own, *system} if own.get(name) != system.get(name))
        raise DigestMismatch(
            f"{path} was trained as system {own.get('name')!r}, asked for is {system.get('name')!r} (they differ in"
            f" {', '.join(differing)}); give the run's own configuration, --config {path.parent / CONFIG_FILE}"
        )
    for name, digest in found.items():
        if digest != provenance.get(name):
            raise DigestMismatch(
                f"{path} was trained on features with {name} {str(digest)[:12]}, these have"
                f" {str(provenance.get(name))[:12]}; compute the features as it was trained"
            )


def _is_free(out: Path) -> bool:
    """Whether there is nothing, or only what a run leaves that ended before its first checkpoint."""
    if not out.exists():
        return True
    if not out.is_dir():
        return False
    names = {path.name for path in out.iterdir()}
    begun = RECIPE_FILE in names and not names & {MANIFEST, LAST_CHECKPOINT, BEST_CHECKPOINT}
    return not names or (begun and all(_is_early(name) for name in names))


def _is_early(name: str) -> bool:
    return name in (RECIPE_FILE, CONFIG_FILE, "hparams.yaml") or name.startswith("events.out.tfevents.")

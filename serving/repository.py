"""Encoder bundles to a Triton model repository: a directory of kind "model repository" that a server can load."""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from chextriev.artifacts import (
    Manifest,
    Recipe,
    find_current,
    open_artifact,
    publishing,
    read_manifest,
    seal,
    write_bytes,
    write_text,
)
from chextriev.bundle import EncoderBundle
from chextriev.errors import ArtifactError, InvalidSetting
from chextriev.index.generation import KIND as INDEX_KIND
from chextriev.index.search import find_generation
from chextriev.serving import model_config as triton
from chextriev.serving.proof import check_engine, plan_key
from chextriev.serving.repository_models import Model, RepositoryMaker, template
from chextriev.serving.repository_settings import RepositorySettings

KIND = "model repository"
METHOD = 2
"""Of making repositories; a change makes former ones outdated."""


def build_repository(
    bundles: Sequence[EncoderBundle], out: Path, settings: RepositorySettings | None = None
) -> tuple[Manifest, bool]:
    """Write the repository of some bundles, or reuse the one at `out` that was made of the same; and which of the two.

    Raises InvalidSetting for two bundles of one system, UnprovenEngine for an engine that no retrieval gate has passed,
    OtherEncoder for an index of none of the bundles; UnbuildableEngine, MissingDependency where a plan cannot be built.
    """
    settings = settings or RepositorySettings()
    systems = [bundle.card.system for bundle in bundles]
    if not systems or len(set(systems)) != len(systems):
        raise InvalidSetting(
            f"bundles of {', '.join(systems) or 'no system'}; give one or more, each of its own system"
        )
    for bundle in bundles:
        check_engine(bundle, settings.chosen_engine, settings.target)
    generations = [find_generation(path) for path in settings.indexes]
    indexes = {path: open_artifact(path, INDEX_KIND) for path in generations}
    recipe = _recipe(bundles, settings, indexes)
    if (current := find_current(out, KIND, recipe)) is not None:
        return current, True
    _check_version(out, settings.version)
    with publishing(out, KIND) as scratch:
        models = RepositoryMaker(settings).models(bundles, indexes)
        for model in models:
            _write(model, scratch, settings.version)
        write_bytes(scratch / "README.md", template("README.md"))
        manifest = seal(scratch, KIND, recipe, {"models": [model.config.name for model in models]})
    return manifest, False


def _check_version(out: Path, version: int) -> None:
    """Refuse to put another version in the place of one that a server may be serving."""
    try:
        held = read_manifest(out, KIND).recipe.settings.get("version")
    except ArtifactError:  # nothing, or what `publishing` will refuse or replace
        return
    if held != version:
        raise InvalidSetting(f"{out} holds version {held}; write version {version} beside it, to another folder")


def _write(model: Model, repository: Path, version: int) -> None:
    folder = repository / model.config.name
    (folder / str(version)).mkdir(parents=True)
    write_text(folder / "config.pbtxt", triton.config_text(model.config))
    for name, content in model.content.items():
        target = folder / str(version) / name
        if isinstance(content, Path):
            shutil.copytree(content, target, copy_function=_link_or_copy)
        else:
            write_bytes(target, content)


def _link_or_copy(source: str, target: str) -> None:
    """An index is never changed in place, so a second name for its files is as good as a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _recipe(bundles: Sequence[EncoderBundle], settings: RepositorySettings, indexes: Mapping[Path, Manifest]) -> Recipe:
    said = asdict(replace(settings, indexes=(), engine=settings.chosen_engine))
    if settings.target == "tensorrt":
        said["plans"] = str(plan_key())
    parents = {f"bundle of {bundle.card.system}": bundle.manifest.digest for bundle in bundles}
    parents |= {f"index {number}": manifest.digest for number, manifest in enumerate(indexes.values())}
    return Recipe({**said, "method": METHOD}, parents)

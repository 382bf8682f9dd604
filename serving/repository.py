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
from chextriev.serving.repository_models import Model, RepositoryMaker, looks_at_regions, template
from chextriev.serving.repository_settings import RepositorySettings
from chextriev.serving.wire import LOCATED, takes_boxes

KIND = "model repository"
METHOD = 3
"""Of making repositories; a change makes former ones outdated."""


def build_repository(
    bundles: Sequence[EncoderBundle],
    out: Path,
    settings: RepositorySettings | None = None,
    *,
    localizer: EncoderBundle | None = None,
) -> tuple[Manifest, bool]:
    """Write the repository of some bundles, or reuse the one at `out` that was made of the same; and which of the two.

    localizer: a bundle that proposes boxes, for ensembles that take an image alone.
    Raises InvalidSetting for two bundles of one system, UnprovenEngine for an engine that no gate has passed,
    OtherEncoder for an index of none of the bundles; UnbuildableEngine, MissingDependency where a plan cannot be built.
    """
    settings = settings or RepositorySettings()
    _check_systems(bundles)
    _check_localizer(bundles, localizer, settings)
    parts = [*bundles, localizer] if localizer is not None else list(bundles)
    for bundle in parts:
        check_engine(bundle, settings.engine_of(bundle), settings.target)
    generations = [find_generation(path) for path in settings.indexes]
    indexes = {path: open_artifact(path, INDEX_KIND) for path in generations}
    recipe = _recipe(parts, settings, indexes)
    if (current := find_current(out, KIND, recipe)) is not None:
        return current, True
    _check_version(out, settings.version)
    with publishing(out, KIND) as scratch:
        models = RepositoryMaker(settings).models(bundles, indexes, localizer)
        for model in models:
            _write(model, scratch, settings.version)
        write_bytes(scratch / "README.md", template("README.md"))
        manifest = seal(scratch, KIND, recipe, {"models": [model.config.name for model in models]})
    return manifest, False


def _check_systems(bundles: Sequence[EncoderBundle]) -> None:
    systems = [bundle.card.system for bundle in bundles]
    if not systems or len(set(systems)) != len(systems):
        raise InvalidSetting(
            f"bundles of {', '.join(systems) or 'no system'}; give one or more, each of its own system"
        )
    for bundle in bundles:
        bundle.check_embeds()
        if not takes_boxes(bundle.card.system):
            raise InvalidSetting(f"system {bundle.card.system}: names in {LOCATED} are kept; give it another name")


def _check_localizer(
    bundles: Sequence[EncoderBundle], localizer: EncoderBundle | None, settings: RepositorySettings
) -> None:
    if localizer is None:
        if settings.localizer_engine is not None:
            raise InvalidSetting(f"engine {settings.localizer_engine} of no localizer; give its bundle as --localizer")
        return
    localizer.check_locates()
    if not any(map(looks_at_regions, bundles)):
        systems = ", ".join(bundle.card.system for bundle in bundles)
        raise InvalidSetting(f"a localizer beside {systems}, which takes no boxes; leave --localizer out")


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

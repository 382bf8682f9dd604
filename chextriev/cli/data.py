"""`chextriev data`: write phantoms, prepare a study table, compute region features."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chextriev.cli.output import add_action, emit
from chextriev.cli.reading import add_reading_options, chosen_localizer, read_settings
from chextriev.preprocess import AREAS, CropSpec


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions of this verb."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_phantom(actions)
    _add_import(actions)
    _add_prepare(actions)
    _add_features(actions)


def _add_phantom(actions: Any) -> None:
    parser = add_action(actions, "phantom", "write generated radiographs in the layout of the real data", _phantom)
    parser.add_argument("out", type=Path, metavar="OUT", help="directory to write")
    parser.add_argument("--patients", type=int, default=300, help="number of phantoms, at least 10 (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files (default: 0)")


def _phantom(options: argparse.Namespace) -> None:
    from chextriev.train.phantom.dataset import write_phantoms

    summary = write_phantoms(options.out, patients=options.patients, seed=options.seed)
    emit(options, f"{summary.sentence()}; written to {options.out}", asdict(summary))


def _add_import(actions: Any) -> None:
    parser = add_action(
        actions,
        "import",
        "read DICOM, JPEG and PNG files without boxes into a folder that `data prepare` takes",
        _import,
    )
    parser.add_argument("source", type=Path, metavar="SRC", help="a folder, or a zip archive")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of grey PNG files, images.csv and regions.csv")
    parser.add_argument(
        "--keep-names",
        action="store_true",
        help="ids of JPEG and PNG files are their names, where nobody can be known by these (default: keyed hashes)",
    )
    add_reading_options(parser)


def _import(options: argparse.Namespace) -> None:
    from chextriev.train.import_radiographs import ImportSettings, import_radiographs

    localizer = chosen_localizer(options)
    settings = ImportSettings(read_settings(options, make_key=True), options.strict, options.keep_names)
    manifest = import_radiographs(options.source, options.out, localizer, settings=settings)
    facts = manifest.facts
    left_out = ", ".join(f"{reason} {count:,}" for reason, count in facts["quarantined"].items())
    lines = [
        f"{facts['radiographs']:,} radiographs, {sum(facts['quarantined'].values()):,} quarantined"
        f"{f' ({left_out})' if left_out else ''} -> {options.out}",
        f"  boxes by the {facts['boxes_source']}",
        f"  {facts['unfit']:,} look unfit to the quality check: see proposals.csv",
        *(f"  {count:,} times: {remark}" for remark, count in facts["remarks"].items()),
        f"next: chextriev data prepare {options.out} TABLE",
    ]
    emit(options, "\n".join(lines), {"directory": str(options.out), "digest": manifest.digest, **facts})


def _add_prepare(actions: Any) -> None:
    parser = add_action(actions, "prepare", "read a data set into one validated study table", _prepare)
    parser.add_argument(
        "source",
        type=Path,
        metavar="SRC",
        help="folder of images.csv and regions.csv, or above MIMIC-CXR-JPG and Chest ImaGenome",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="directory of the study table")
    parser.add_argument("--mimic", type=Path, metavar="DIR", help="MIMIC-CXR-JPG, if it does not lie under SRC")
    parser.add_argument("--imagenome", type=Path, metavar="DIR", help="Chest ImaGenome, if it does not lie under SRC")
    parser.add_argument("--no-check-files", action="store_true", help="do not look whether the image files are there")
    parser.add_argument("--strict", action="store_true", help="stop at the first image that would be left out")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read scene graphs (default: cores)")
    parser.add_argument("--force", action="store_true", help="make the table even if it is there")


def _prepare(options: argparse.Namespace) -> None:
    from chextriev.train.prepare import prepare
    from chextriev.train.study_source import PrepareSettings

    settings = PrepareSettings(
        check_files=not options.no_check_files,
        strict=options.strict,
        mimic=options.mimic,
        imagenome=options.imagenome,
        workers=options.workers,
        force=options.force,
    )
    prepared = prepare(options.source, options.out, settings=settings)
    remarks = "".join(f"\n  {remark}" for remark in prepared.summary["remarks"])
    emit(options, f"{prepared}{remarks}", prepared.summary)


def _add_features(actions: Any) -> None:
    parser = add_action(actions, "features", "compute the region features of a study table, once", _features)
    parser.add_argument("table", type=Path, metavar="TABLE", help="study table that `data prepare` wrote")
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="directory of features; a run that was stopped goes on there"
    )
    parser.add_argument(
        "--backbone",
        default="efficientnet-lite0",
        help="its name, or pixels: the grey crops themselves, for systems that train their own (default: %(default)s)",
    )
    parser.add_argument("--area", choices=AREAS, default="regions", help="what is cropped (default: %(default)s)")
    parser.add_argument(
        "--size",
        type=int,
        default=224,
        help="of a crop, in pixels; other than %(default)s: with --backbone pixels alone",
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="weights with the published names (default: where they come from)"
    )
    parser.add_argument("--engine", choices=("onnx", "torch"), default="onnx", help="what computes (default: onnx)")
    parser.add_argument("--batch", type=int, default=4, help="radiographs at once (default: 4)")


def _features(options: argparse.Namespace) -> None:
    from chextriev.study_table import read_study_table
    from chextriev.train.backbones import load_backbone
    from chextriev.train.features import (
        PIXELS,
        DeferredExtractor,
        FeatureExtractor,
        FeatureSettings,
        PixelExtractor,
        check_frozen_crops,
        compute_features,
    )

    settings = FeatureSettings(CropSpec(size=options.size, area=options.area), batch=options.batch)
    if options.backbone == PIXELS:
        extractor: FeatureExtractor = PixelExtractor(settings.crops)
        origin = "the grey crops themselves"
    else:
        check_frozen_crops(options.backbone, settings.crops)
        backbone = load_backbone(options.backbone, weights=options.weights)
        extractor = DeferredExtractor(backbone, _maker(options.engine))
        origin = f"{backbone.spec.name} ({backbone.weights_note})"
    table = read_study_table(options.table)
    manifest = compute_features(table, options.out, extractor, settings=settings)
    facts, made = manifest.facts, manifest.recipe.settings
    shape = f"[{facts['radiographs']}, {settings.crops.count}, {made['width']}] {made['dtype']}"
    rate = f" at {facts['computed'] / facts['seconds']:.1f} radiographs/s" if facts["seconds"] else ""
    text = (
        f"{facts['radiographs']:,} radiographs -> {shape}:"
        f" {facts['computed']:,} computed{rate}, {facts['reused']:,} reused, {facts['quarantined']:,} quarantined;"
        f" {origin} -> {options.out}"
    )
    emit(options, text, {"directory": str(options.out), "digest": manifest.digest, **facts})


def _maker(engine: str) -> Any:
    """What puts a backbone on this engine."""
    if engine == "torch":
        from chextriev.train.features import TorchExtractor

        return TorchExtractor
    from chextriev.export.onnx_runner import OnnxExtractor

    return OnnxExtractor.from_backbone

"""The options by which a verb reads radiographs that nobody has prepared, and what it says of them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from chextriev.bundle import DEFAULT
from chextriev.errors import InvalidSetting, UnfitRadiograph

if TYPE_CHECKING:
    from chextriev.localizer import Localizer
    from chextriev.quality import Quality
    from chextriev.reading import ReadSettings

MEAN_LAYOUT_NAME = "mean-layout"
"""In place of a bundle: the same boxes whatever the image shows."""


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add the localizer, the key of hashed identifiers and `--strict`."""
    add_localizer_options(parser)
    parser.add_argument(
        "--uid-key", type=Path, metavar="FILE", help="key of the hashes that stand for the identifiers of DICOM files"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse what fails the quality check, and DICOM files that do not say body part and view",
    )


def add_localizer_options(parser: argparse.ArgumentParser) -> None:
    """Add the localizer's bundle and its engine."""
    parser.add_argument(
        "--localizer", metavar="BUNDLE", help=f"what proposes boxes: a localizer's bundle, or {MEAN_LAYOUT_NAME}"
    )
    parser.add_argument("--localizer-engine", metavar="NAME", help=f"of its bundle (default: {DEFAULT})")


def chosen_localizer(options: argparse.Namespace) -> "Localizer":
    """The localizer of `--localizer`, or the mean layout."""
    from chextriev.localizer import open_localizer

    bundle = None if options.localizer == MEAN_LAYOUT_NAME else options.localizer
    if bundle is None and options.localizer_engine is not None:
        raise InvalidSetting("--localizer-engine is of a bundle; give it with --localizer BUNDLE")
    return open_localizer(bundle, engine=options.localizer_engine or DEFAULT)


def read_settings(options: argparse.Namespace, *, make_key: bool = False) -> "ReadSettings":
    """How files are read; make_key: write a new key where the file of `--uid-key` is not there yet."""
    from chextriev.reading import ReadSettings
    from chextriev.uid_key import UidKey

    if options.uid_key is None:
        return ReadSettings(strict=options.strict)
    made = make_key and not options.uid_key.exists()
    key = UidKey.create(options.uid_key) if made else UidKey.read(options.uid_key)
    return ReadSettings(key=key, strict=options.strict)


def check_fit(quality: "Quality", options: argparse.Namespace) -> None:
    """UnfitRadiograph where `--strict` was given and the quality check has something to say."""
    if options.strict and not quality.fit:
        raise UnfitRadiograph(f"the image is unfit for a query: {quality}")

"""`chextriev eval occlusion`: hide regions and see what becomes of retrieval."""

import argparse
from pathlib import Path
from typing import Any

from chextriev.cli.encoders import add_encoder_options, open_chosen
from chextriev.cli.output import add_action, emit


def configure(actions: Any) -> None:
    """Add the action to those of `eval`."""
    purpose = "hide groups of regions in the gallery or the query, and see which of them retrieval depends on"
    parser = add_action(actions, "occlusion", purpose, _occlusion)
    parser.add_argument(
        "bundle",
        type=Path,
        metavar="BUNDLE|EMBEDDINGS",
        help="a bundle: regions are black in the radiograph; or embeddings with region vectors: theirs are left out",
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="the study table")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder; the same command goes on where it was stopped")
    parser.add_argument("--split", default="test", help="queries and gallery, or all (default: %(default)s)")
    parser.add_argument("-k", type=int, default=5, metavar="K", help="list length (default: %(default)s)")
    parser.add_argument(
        "--hide", choices=("gallery", "query", "both"), default="both", help="where (default: %(default)s)"
    )
    add_encoder_options(parser)


def _occlusion(options: argparse.Namespace) -> None:
    from chextriev.embedding_set import IDS_FILE, read_embeddings
    from chextriev.eval.occlusion_result import SIDES
    from chextriev.eval.occlusion_run import OcclusionSettings, occlude_pixels, occlude_vectors
    from chextriev.eval.occlusion_table import render_occlusion
    from chextriev.study_table import read_study_table

    sides = SIDES if options.hide == "both" else (options.hide,)
    settings = OcclusionSettings(k=options.k, split=options.split, sides=sides)
    table = read_study_table(options.data)
    if (options.bundle / IDS_FILE).is_file():
        study = occlude_vectors(read_embeddings(options.bundle), table, options.out, settings)
    else:
        study = occlude_pixels(open_chosen(options), table, options.out, settings)
    emit(options, render_occlusion(study), study.as_dict())

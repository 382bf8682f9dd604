"""`chextriev eval localizer`: the boxes that a localizer proposes, against those of a study table."""

import argparse
from pathlib import Path
from typing import Any

from chextriev.cli.encoders import add_encoder_options, open_chosen_localizer
from chextriev.cli.output import add_action, check_file_place, emit


def configure(actions: Any) -> None:
    """Add the action to those of `eval`."""
    purpose = "compare the boxes that a localizer proposes with those of a data set, mean layouts beside them"
    parser = add_action(actions, "localizer", purpose, _localizer)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="of a localizer")
    parser.add_argument("data", type=Path, metavar="DATA", help="a study table, whose boxes are taken for true")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the numbers: JSON and Markdown")
    parser.add_argument("--split", default="test", help="radiographs, or all (default: %(default)s)")
    parser.add_argument(
        "--timed", type=int, default=50, metavar="N", help="radiographs timed one at a time (default: %(default)s)"
    )
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="an SVG of 16 radiographs with both boxes; it holds the radiographs",
    )
    add_encoder_options(parser)


def _localizer(options: argparse.Namespace) -> None:
    from chextriev.artifacts import write_text
    from chextriev.eval.localizer import LocalizerSettings, evaluate_localizer
    from chextriev.eval.localizer_picture import draw_located
    from chextriev.eval.localizer_store import write_localizer_evaluation
    from chextriev.eval.localizer_text import render_localizer
    from chextriev.study_table import read_study_table

    check_file_place(options.picture, "--picture")
    settings = LocalizerSettings(split=options.split, timed=options.timed)
    localizer = open_chosen_localizer(options)
    evaluation, located = evaluate_localizer(localizer, read_study_table(options.data), settings)
    manifest = write_localizer_evaluation(options.out, evaluation)
    said = ""
    if options.picture is not None:
        write_text(options.picture, draw_located(located))
        said = f"\nwrote {options.picture}, which holds radiographs"
    emit(options, render_localizer(evaluation) + said, {**evaluation.as_dict(), "digest": manifest.digest})

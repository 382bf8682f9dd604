"""`chextriev eval quality`: how the quality check judges images, faulty copies of them and other pictures."""

import argparse
from pathlib import Path
from typing import Any

from chextriev.cli.output import add_action, check_file_place, emit


def configure(actions: Any) -> None:
    """Add the action to those of `eval`."""
    parser = add_action(
        actions, "quality", "judge images, faulty copies of them and pictures of other things", _quality
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="the study table")
    parser.add_argument("--split", default="test", help="whose images (default: %(default)s)")
    parser.add_argument(
        "--others", type=Path, nargs="+", default=(), metavar="FOLDER", help="pictures that are no chest radiographs"
    )
    parser.add_argument("--model", type=Path, metavar="FILE.json", help="of `train quality` (default: the package's)")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.svg", help="draw the first image, its copies and the verdicts"
    )


def _quality(options: argparse.Namespace) -> None:
    from chextriev.eval.quality_study import study_quality
    from chextriev.eval.quality_text import render_quality
    from chextriev.quality_model import read_quality_model
    from chextriev.study_table import read_study_table

    check_file_place(options.plot, "--plot")
    model = None if options.model is None else read_quality_model(options.model)
    table = read_study_table(options.data)
    study = study_quality(table, split=options.split, others=tuple(options.others), model=model)
    if options.plot is not None:
        from chextriev.eval.quality_picture import draw_quality

        first = table.of_split(options.split).radiograph(0)
        draw_quality(first, options.plot, title="One image, copies of it, and what the check says", model=model)
    emit(options, render_quality(study), study.as_dict())

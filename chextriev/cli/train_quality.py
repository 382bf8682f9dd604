"""`chextriev train quality`: fit the quality check to prepared data."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from chextriev.cli.output import check_file_place, emit


def run_quality(arguments: Sequence[str]) -> None:
    """Parse what follows `train quality`, fit, and write the parameters."""
    from chextriev.study_table import read_study_table
    from chextriev.train.quality_fit import QualityFit, fit_quality

    options = _parser().parse_args(arguments)
    check_file_place(options.out, "--out")
    tables = [read_study_table(path) for path in options.data]
    settings = QualityFit(seed=options.seed)
    model = fit_quality(tables, source=options.source, settings=settings)
    model.write(options.out)
    fitted, checked = (sum(int((table.split == split).sum()) for table in tables) for split in ("train", "validate"))
    text = f"fitted to {fitted} radiographs, thresholds from {checked}; written to {options.out}"
    emit(options, text, {"train": fitted, "validate": checked, "out": str(options.out)})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chextriev train quality",
        description="Fit the quality check: weights to the train split, thresholds to the validation split.",
        allow_abbrev=False,
    )
    parser.add_argument("data", type=Path, nargs="+", metavar="DATA", help="study tables; each counts alike")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="parameters to write")
    parser.add_argument("--source", required=True, metavar="TEXT", help="what the data are, in words")
    parser.add_argument("--seed", type=int, default=0, help="of the views (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser

"""chextriev eval compare: whether one system retrieves better than another, on the same queries."""

import argparse
from pathlib import Path
from typing import Any

from chextriev.cli.output import add_action, emit
from chextriev.errors import InvalidSetting


def configure(actions: Any) -> None:
    """Add the action `compare` of `eval`."""
    compare = add_action(actions, "compare", "set evaluations of the same queries against each other", _compare)
    compare.add_argument(
        "evaluations", type=Path, nargs="+", metavar="EVAL", help="folders that `chextriev eval run` wrote, two or more"
    )
    compare.add_argument("--names", nargs="+", metavar="NAME", help="of the evaluations (default: as stored)")
    compare.add_argument(
        "-k", "--k", dest="k", type=int, default=5, help="list length that tables show (default: %(default)s)"
    )
    compare.add_argument(
        "--metric", default="ap_over_hits", help="metric shown for each finding (default: %(default)s)"
    )
    compare.add_argument("--draws", type=int, default=10_000, help="draws and swaps of patients (default: %(default)s)")
    compare.add_argument("--seed", type=int, default=0, help="of the draws and swaps (default: %(default)s)")
    compare.add_argument("--out", type=Path, metavar="FOLDER", help="for compare.json, compare.md and compare.svg")


def _compare(options: argparse.Namespace) -> None:
    from dataclasses import replace

    from chextriev.artifacts import read_manifest
    from chextriev.eval.compare import compare
    from chextriev.eval.compare_store import write_comparison
    from chextriev.eval.compare_text import Shown, render_compare
    from chextriev.eval.significance import SignificanceSettings
    from chextriev.eval.store import KIND, read_scores

    settings, shown = SignificanceSettings(options.draws, seed=options.seed), Shown(options.k, options.metric)
    names = _names(options)
    systems = [read_scores(directory) for directory in options.evaluations]
    if names is not None:
        systems = [replace(system, name=name) for system, name in zip(systems, names, strict=True)]
    comparison = compare(systems, settings)
    text = render_compare(comparison, shown)
    if options.out is not None:
        digests = [read_manifest(directory, KIND).digest for directory in options.evaluations]
        by_name = dict(zip(comparison.systems, digests, strict=True))
        write_comparison(options.out, comparison, evaluations=by_name, shown=shown)
    emit(options, text, comparison.as_dict())


def _names(options: argparse.Namespace) -> list[str] | None:
    names: list[str] | None = options.names
    if names is not None and len(names) != len(options.evaluations):
        raise InvalidSetting(f"--names {' '.join(names)}: {len(options.evaluations)} are needed, one for each folder")
    return names

"""chextriev eval: measure retrieval."""

import argparse
from pathlib import Path

from chextriev.cli import eval_compare, eval_lists, eval_localizer, eval_occlusion, eval_quality, eval_report, eval_run
from chextriev.cli.output import add_action, emit


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `eval`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    eval_run.configure(actions)
    eval_lists.configure(actions)
    eval_occlusion.configure(actions)
    eval_compare.configure(actions)
    eval_report.configure(actions)
    eval_quality.configure(actions)
    eval_localizer.configure(actions)
    engines = add_action(actions, "engines", "re-run the engines of a bundle over a data set, side by side", _engines)
    engines.add_argument("bundle", type=Path, metavar="BUNDLE")
    engines.add_argument("data", type=Path, metavar="DATA", help="a study table")
    engines.add_argument("out", type=Path, metavar="OUT", help="folder; the same command goes on where it was stopped")
    engines.add_argument("--engines", nargs="+", metavar="NAME", help="default: all of the bundle that can run here")
    engines.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    engines.add_argument("--split", default="test", help="queries and gallery (default: %(default)s)")
    engines.add_argument(
        "--timed", type=int, default=50, metavar="N", help="radiographs timed one at a time (default: %(default)s)"
    )
    engines.add_argument(
        "--processes", type=int, default=3, metavar="N", help="fresh starts of each engine (default: %(default)s)"
    )


def _engines(options: argparse.Namespace) -> None:
    from chextriev.eval.engine_speed import SpeedSettings
    from chextriev.eval.engine_table import render_engines
    from chextriev.eval.engines import EnginesSettings, compare_engines
    from chextriev.study_table import read_study_table

    names = None if options.engines is None else tuple(options.engines)
    speed = SpeedSettings(latency_radiographs=options.timed, processes=options.processes)
    settings = EnginesSettings(engines=names, device=options.device, split=options.split, speed=speed)
    found = compare_engines(options.bundle, read_study_table(options.data), options.out, settings)
    reused = f"\n{options.out}: unchanged, reused: {', '.join(found.reused)}" if found.reused else ""
    emit(options, render_engines(found) + reused, {**found.as_dict(), "reused": found.reused})

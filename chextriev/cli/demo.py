"""`chextriev demo`: the whole job in one command, each stage reusing what is unchanged."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chextriev.cli.demo_stages import Demo, DemoSettings
from chextriev.cli.output import emit, finish_parser

STAGES = ("data", "region features", "training", "export", "index", "query", "evaluation", "server")


class Stages:
    """Runs the stages in order and prints one line of outcome for each."""

    def __init__(self, *, silent: bool) -> None:
        self.silent = silent
        self.outcomes: list[dict[str, Any]] = []

    def run(self, work: Callable[[], tuple[str, bool]]) -> None:
        """`work` returns a sentence and whether everything in it was reused."""
        number, begun = len(self.outcomes), time.perf_counter()
        sentence, reused = work()
        outcome = {
            "stage": STAGES[number],
            "outcome": sentence,
            "reused": reused,
            "seconds": round(time.perf_counter() - begun, 1),
        }
        self.outcomes.append(outcome)
        if not self.silent:
            said = "unchanged, reused" if reused else f"{outcome['seconds']} s"
            print(f"[{number + 1}/{len(STAGES)}] {STAGES[number]}: {sentence} ({said})", flush=True)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for everything the demo makes")
    parser.add_argument(
        "--data", type=Path, help="a folder that `data prepare` accepts (default: generated radiographs)"
    )
    parser.add_argument("--patients", type=int, default=300, help="of the generated radiographs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the generated radiographs (default: %(default)s)")
    parser.add_argument("--backbone", default="efficientnet-lite0", help="default: %(default)s")
    parser.add_argument("--weights", help="of the backbone, as for `data features`")
    finish_parser(parser, _demo)


def _demo(options: argparse.Namespace) -> None:
    names = ("out", "data", "patients", "seed", "backbone", "weights")
    demo = Demo(DemoSettings(**{name: getattr(options, name) for name in names}))
    stages = Stages(silent=options.json)
    for work in (
        demo.prepare,
        demo.features,
        demo.train,
        demo.export,
        demo.index,
        demo.query,
        demo.evaluate,
        demo.serve,
    ):
        stages.run(work)
    text = f"\n{demo.table}\n\nreport: {demo.report}"
    emit(options, text, {"report": str(demo.report), "stages": stages.outcomes, **demo.numbers})

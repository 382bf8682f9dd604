"""`chextriev train tune`: search a space of settings, one run a trial."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chextriev.cli.output import emit

if TYPE_CHECKING:
    from chextriev.train.tune import Search, Trial


def run_tune(arguments: Sequence[str]) -> None:
    """Parse what follows `train tune`, search, print a line a trial and the table."""
    from chextriev.train.search_space import read_space
    from chextriev.train.settings_tree import parse_words, place, read_configurations
    from chextriev.train.tune import tune

    parser = _parser()
    if arguments and arguments[0].startswith("-") and arguments[0] not in ("-h", "--help"):
        parser.error("SPACE comes first")  # a value of an option of `train fit` would be taken for it
    options, words = parser.parse_known_args(arguments)
    space = read_space(options.space)
    if options.trials is not None:
        space = replace(space, trials=options.trials)
    base = read_configurations(options.config)
    for name, value in parse_words(words):
        base = place(base, name, value)

    def say(trial: "Trial") -> None:
        if options.json:
            return
        if trial.failed:
            print(f"a trial failed: {_row(space.metric, trial)}; training diverged, another is drawn", flush=True)
        else:
            print(f"trial {trial.number + 1}/{space.trials}: {_row(space.metric, trial)}", flush=True)

    search = tune(space, base, options.out, on_trial=say)
    emit(options, _text(search), _content(search))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="chextriev train tune",
        description="Search a space of training settings; further options are those of `train fit`.",
        allow_abbrev=False,
    )
    parser.add_argument("space", type=Path, metavar="SPACE", help="YAML file of what to search; it comes first")
    parser.add_argument("--config", type=Path, action="append", default=[], help="training configuration to start from")
    parser.add_argument("--out", type=Path, required=True, help="directory of the search")
    parser.add_argument("--trials", type=int, help="to complete, instead of the number in SPACE")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _row(metric: str, trial: "Trial") -> str:
    settings = ", ".join(f"{name}={_shown(value)}" for name, value in trial.parameters.items())
    return f"{metric} {trial.value:.4f}  {settings}"


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _text(search: "Search") -> str:
    names = list(search.best.parameters)
    ranked = sorted(search.trials, key=lambda trial: -trial.value)
    rows = [["trial", search.metric, *names]]
    rows += [[str(t.number + 1), f"{t.value:.4f}", *(_shown(t.parameters[name]) for name in names)] for t in ranked]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    table += ["", f"best: trial {search.best.number + 1}, its run is {search.best.run}"]
    return "\n".join([*table, f"to train it again: chextriev train fit --config {search.configuration} --out RUN"])


def _content(search: "Search") -> dict[str, Any]:
    trials = [
        {"trial": t.number + 1, "value": t.value, "parameters": dict(t.parameters), "run": str(t.run)}
        for t in search.trials
    ]
    best = trials[search.best.number]
    return {"metric": search.metric, "best": best, "config": str(search.configuration), "trials": trials}

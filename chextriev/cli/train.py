"""`chextriev train`: Lightning's own command line, see `chextriev train fit --help`."""

import argparse

ACTIONS = ("fit", "validate", "test")


def configure(parser: argparse.ArgumentParser) -> None:
    """Hand everything after the action to Lightning."""
    parser.add_argument("action", choices=ACTIONS, help="what to do; `train fit --help` lists the options")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="--config FILE, --data.features, --data.table, --out"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from chextriev.train.fit import run_train

    command = run_train([options.action, *options.arguments])
    if options.action == "fit":
        facts, said = command.manifest.facts, "reused" if command.reused else "trained"
        print(f"{said}: {facts['epochs']} epochs, best validation AUROC {facts['best_val_auroc']:.3f}")

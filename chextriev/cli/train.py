"""`chextriev train`: Lightning's own command line (`train fit --help`); `tune` and `quality` have their own."""

import argparse

from chextriev.cli.output import emit

ACTIONS = ("fit", "validate", "test", "predict", "tune", "quality")


def configure(parser: argparse.ArgumentParser) -> None:
    """Hand everything after the action to Lightning."""
    parser.add_argument("action", choices=ACTIONS, help="what to do; `train fit --help` lists the options")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="--config FILE, --data.features, --data.table, --out"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    if options.action == "tune":
        from chextriev.cli.tune import run_tune

        run_tune(options.arguments)
    elif options.action == "quality":
        from chextriev.cli.train_quality import run_quality

        run_quality(options.arguments)
    else:
        _run_lightning(options)


def _run_lightning(options: argparse.Namespace) -> None:
    from chextriev.train.fit import run_train

    as_json = "--json" in options.arguments
    words = [word for word in options.arguments if word != "--json"]
    if as_json and options.action in ("validate", "test"):
        words += ["--verbose", "false"]  # Lightning's table would stand before the JSON
    command = run_train([options.action, *words])
    if not command.trainer.is_global_zero:
        return  # one of several processes speaks for all
    if options.action == "predict":
        facts = {"digest": command.manifest.digest, "reused": command.reused, **command.manifest.facts}
        said = "unchanged, reused" if command.reused else "embedded"
        text = f"{said}: {facts['n']} radiographs x {facts['width']}"
    elif options.action != "fit":
        facts = {name: float(value) for name, value in command.trainer.callback_metrics.items()}
        text = ""  # Lightning has printed its table
    else:
        facts = dict(command.manifest.facts)
        said = "unchanged, reused" if command.reused else "trained"
        (best,) = (name for name in facts if name.startswith("best_"))
        named = "validation AUROC" if best == "best_val_auroc" else best.removeprefix("best_")
        text = f"{said}: {facts['epochs']} epochs, best {named} {facts[best]:.3f}"
    emit(argparse.Namespace(json=as_json), text, facts)

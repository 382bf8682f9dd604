"""`chextriev export`: checkpoints to bundles."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chextriev.cli.output import add_action, emit

if TYPE_CHECKING:
    from chextriev.bundle import EncoderBundle


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    bundle = add_action(actions, "bundle", "export a training run to an encoder bundle", _bundle)
    bundle.add_argument("checkpoint", type=Path, metavar="CKPT", help="a run of `train fit`, or a .ckpt file of one")
    bundle.add_argument("out", type=Path, metavar="OUT")
    bundle.add_argument("--weights", help="weights of the backbone: a file, or random:SEED as in `data features`")
    imported = add_action(actions, "import", "make an encoder bundle of a checkpoint of the published code", _import)
    imported.add_argument("checkpoint", type=Path, metavar="CKPT", help="a .ckpt file; its code, if any, is never run")
    imported.add_argument("out", type=Path, metavar="OUT")
    imported.add_argument("--system", required=True, metavar="NAME", help="what it was trained as; the file cannot say")
    imported.add_argument(
        "--backbone", metavar="NAME", help="where the file holds a head alone (default: by its width)"
    )
    imported.add_argument("--weights", metavar="SRC", help="weights of that backbone: a file, or random:SEED")


def _bundle(options: argparse.Namespace) -> None:
    from chextriev.export.build_bundle import build_bundle

    bundle, reused = build_bundle(options.checkpoint, options.out, weights=options.weights)
    text = f"{options.out}: {bundle.card.system} on {_measured(bundle, reused)}"
    emit(options, text, _as_json(bundle, reused))


def _import(options: argparse.Namespace) -> None:
    from chextriev.export.import_bundle import import_bundle

    chosen = {"system": options.system, "backbone": options.backbone, "weights": options.weights}
    bundle, reused = import_bundle(options.checkpoint, options.out, **chosen)
    unused = bundle.card.training["unused"]
    text = f"{options.out}: {bundle.card.system} of {options.checkpoint} on {_measured(bundle, reused)}"
    emit(options, f"{text}; {len(unused)} of its names are unused", {**_as_json(bundle, reused), "unused": unused})


def _measured(bundle: "EncoderBundle", reused: bool) -> str:
    said = "unchanged, reused" if reused else f"digest {bundle.digest[:12]}"
    worst = max(bundle.card.parity.values())
    return f"{bundle.card.backbone}, ONNX within {worst:.1e} of PyTorch ({said})"


def _as_json(bundle: "EncoderBundle", reused: bool) -> dict[str, Any]:
    return {"digest": bundle.digest, "reused": reused, "card": asdict(bundle.card)}

"""`chextriev export`: checkpoints to bundles."""

import argparse
from dataclasses import asdict
from pathlib import Path

from chextriev.cli.output import add_action, emit


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    bundle = add_action(actions, "bundle", "export a training run to an encoder bundle", _bundle)
    bundle.add_argument("checkpoint", type=Path, metavar="CKPT", help="a run of `train fit`, or a .ckpt file of one")
    bundle.add_argument("out", type=Path, metavar="OUT")
    bundle.add_argument("--weights", help="weights of the backbone: a file, or random:SEED as in `data features`")


def _bundle(options: argparse.Namespace) -> None:
    from chextriev.export.build_bundle import build_bundle

    bundle, reused = build_bundle(options.checkpoint, options.out, weights=options.weights)
    card = bundle.card
    worst = max(card.parity.values())
    said = "unchanged, reused" if reused else f"digest {bundle.digest[:12]}"
    text = f"{options.out}: {card.system} on {card.backbone}, ONNX within {worst:.1e} of PyTorch ({said})"
    emit(options, text, {"digest": bundle.digest, "reused": reused, "card": asdict(card)})

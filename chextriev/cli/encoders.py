"""The options by which a verb opens an encoder."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from chextriev.bundle import DEFAULT
from chextriev.errors import UnprovenEngine

if TYPE_CHECKING:
    from chextriev.bundle import EncoderBundle
    from chextriev.encoder import Encoder
    from chextriev.localizer import EngineLocalizer


def add_encoder_options(parser: argparse.ArgumentParser) -> None:
    """Add the engine, the device and the key that must have signed the bundle."""
    parser.add_argument("--engine", default=DEFAULT, help="of the bundle (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--signed-by", type=Path, metavar="PEM", help="public key that must have signed the bundle")


def open_chosen(options: argparse.Namespace) -> "Encoder":
    """The encoder of `options.bundle`; standard error says when a reduced engine is not proven on this machine."""
    from chextriev.bundle import open_bundle

    bundle = open_bundle(options.bundle, signed_by=options.signed_by)
    bundle.check_embeds()
    return _opened(bundle, options)


def open_chosen_localizer(options: argparse.Namespace) -> "EngineLocalizer":
    """The localizer of `options.bundle`, likewise."""
    from chextriev.bundle import open_bundle
    from chextriev.localizer import EngineLocalizer

    bundle = open_bundle(options.bundle, signed_by=options.signed_by)
    bundle.check_locates()
    return EngineLocalizer(_opened(bundle, options))


def _opened(bundle: "EncoderBundle", options: argparse.Namespace) -> "Encoder":
    from chextriev.encoder import open_encoder

    encoder = open_encoder(bundle, engine=options.engine, device=options.device)
    if not options.engine.endswith("fp32"):  # those are within 1e-4 of PyTorch, or there were no bundle
        try:
            bundle.check_proven(options.engine, encoder.arithmetic)
        except UnprovenEngine as error:
            print(f"chextriev: note: {error}", file=sys.stderr)
    return encoder

"""`chextriev embed`: a study table to embeddings."""

import argparse
from pathlib import Path

from chextriev.cli.encoders import add_encoder_options, open_chosen
from chextriev.cli.output import emit, finish_parser
from chextriev.cli.reading import add_localizer_options, chosen_localizer
from chextriev.errors import InvalidSetting


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("data", type=Path, metavar="DATA", help="a study table")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument(
        "--features", type=Path, help="a feature cache of the same table and backbone, to skip the images"
    )
    parser.add_argument(
        "--regions",
        action="store_true",
        help="also write a vector of each of the 18 regions, for queries about regions",
    )
    add_localizer_options(parser)
    add_encoder_options(parser)
    finish_parser(parser, _embed)


def _embed(options: argparse.Namespace) -> None:
    from chextriev.export.embed import embed_table
    from chextriev.located_table import predicted_table
    from chextriev.study_table import read_study_table
    from chextriev.train.features import open_features

    if options.features and options.localizer:
        raise InvalidSetting("--features are of the boxes in the table; leave them out with --localizer")
    if options.localizer_engine and not options.localizer:
        raise InvalidSetting("--localizer-engine is of a localizer; give it with --localizer BUNDLE")
    encoder = open_chosen(options)
    features = open_features(options.features) if options.features else None
    table = read_study_table(options.data)
    if options.localizer:
        table = predicted_table(table, chosen_localizer(options))
    manifest, reused = embed_table(encoder, table, options.out, features=features, regions=options.regions)
    said = "reused" if reused else "embedded"
    text = f"{said}: {manifest.facts['n']} radiographs x {manifest.facts['width']}, digest {manifest.digest[:12]}"
    emit(options, text, {"digest": manifest.digest, "reused": reused, **manifest.facts})

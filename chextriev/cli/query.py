"""`chextriev query`: one radiograph in, the most similar cases out."""

import argparse
from pathlib import Path

from chextriev.cli.encoders import add_encoder_options, open_chosen
from chextriev.cli.index_backend import add_backend_options, add_device_option, opened
from chextriev.cli.output import emit, finish_parser, hit_as_json
from chextriev.errors import InvalidSetting


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("image", type=Path, metavar="IMAGE", help="a JPEG or PNG file")
    parser.add_argument("--index", type=Path, required=True)
    add_backend_options(parser)
    add_device_option(parser, name="--index-device")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--boxes", type=Path, required=True, help="JSON {region: [x1, y1, x2, y2]}, or a regions.csv")
    parser.add_argument("-k", type=int, default=10, help="how many cases (default: 10)")
    parser.add_argument("--image-id", help="id of the image, to exclude itself (default: the file's name)")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="find only these, such as 'view = PA', 'age >= 40' or 'finding = pneumonia'; may be given several times",
    )
    parser.add_argument(
        "--region",
        action="append",
        default=[],
        metavar="NAME[=WEIGHT]",
        help="rank by this region only; may be given several times (the index needs region vectors)",
    )
    parser.add_argument("--patient-id", help="id of the patient, to exclude (default: looked up in the index)")
    add_encoder_options(parser)
    finish_parser(parser, _query)


def _query(options: argparse.Namespace) -> None:
    from chextriev.radiograph import read_radiograph

    radiograph = read_radiograph(options.image, options.boxes, image_id=options.image_id)
    regions = dict(map(_weighted, options.region)) or None
    patients = [options.patient_id] if options.patient_id else None
    with opened(options) as index:
        embeddings = open_chosen(options).encode([radiograph])
        (hits,) = index.search(embeddings, options.k, patient_ids=patients, where=options.where, regions=regions)
        known = index.holds(radiograph.image_id, options.patient_id)
    head = f"{radiograph.image_id}: {len(hits)} most similar cases (rank, cosine, image, findings)"
    lines = [
        f"{rank:3}  {hit.score:.3f}  {hit.image_id}  {', '.join(hit.findings) or 'no finding'}"
        for rank, hit in enumerate(hits, start=1)
    ]
    remark = "" if known else "neither this image nor its patient is in the index, so nothing was left out"
    content = {"query": radiograph.image_id, "hits": [hit_as_json(hit) for hit in hits], "remark": remark}
    emit(options, "\n".join([head, *lines, *([remark] if remark else [])]), content)


def _weighted(text: str) -> tuple[str, float]:
    """A region's name and its weight, 1 where none is given."""
    name, _, weight = text.partition("=")
    try:
        return name.strip(), float(weight or 1)
    except ValueError:
        raise InvalidSetting(f"--region {text!r:.80}; write NAME or NAME=WEIGHT, such as 'left lung=2'") from None

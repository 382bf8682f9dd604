"""`chextriev query`: one radiograph in, the most similar cases out."""

import argparse
from dataclasses import asdict
from pathlib import Path

from chextriev.cli.encoders import add_encoder_options
from chextriev.cli.index_backend import add_backend_options, add_device_option
from chextriev.cli.output import emit, finish_parser, hit_as_json
from chextriev.cli.query_archive import add_archive_options, check_archive_options, send_report
from chextriev.cli.query_case import read_case, remarks_of
from chextriev.cli.query_search import Case, Found, search_here, search_served
from chextriev.cli.reading import add_reading_options
from chextriev.errors import InvalidSetting


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "image", type=Path, nargs="?", metavar="IMAGE", help="a DICOM, JPEG or PNG file, or a zip archive with one"
    )
    parser.add_argument("--index", type=Path, help="directory of the index (with --server: default the server's own)")
    add_backend_options(parser)
    add_device_option(parser, name="--index-device")
    parser.add_argument("--bundle", type=Path, help="the encoder, unless --server has it")
    parser.add_argument("--server", metavar="HOST:PORT", help="ask a server: gRPC, or http://, grpcs://, ...")
    parser.add_argument("--system", default="v6", help="of the server (default: %(default)s)")
    parser.add_argument(
        "--boxes", type=Path, help="JSON {region: [x1, y1, x2, y2]}, or a regions.csv (default: the localizer's)"
    )
    parser.add_argument("-k", type=int, default=10, help="how many cases (default: 10)")
    parser.add_argument("--image-id", help="id of the image, to exclude itself (default: the file's name, or its hash)")
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
    add_reading_options(parser)
    add_archive_options(parser)
    add_encoder_options(parser)
    finish_parser(parser, _query)


def _query(options: argparse.Namespace) -> None:
    _check(options)
    case = read_case(options)
    regions = dict(map(_weighted, options.region)) or None
    found = (search_served if options.server else search_here)(options, case, regions)
    remarks = remarks_of(case, found)
    remarks += send_report(options, case, found, remarks)
    head = f"{case.image.image_id}: {len(found.hits)} most similar cases (rank, cosine, image, findings)"
    lines = [
        f"{rank:3}  {hit.score:.3f}  {hit.image_id}  {', '.join(hit.findings) or 'no finding'}"
        for rank, hit in enumerate(found.hits, start=1)
    ]
    emit(options, "\n".join([head, *lines, *remarks]), _content(case, found, remarks))


def _content(case: Case, found: Found, remarks: list[str]) -> dict[str, object]:
    return {
        "query": case.image.image_id,
        "hits": [hit_as_json(hit) for hit in found.hits],
        "boxes_source": found.boxes_source,
        "boxes": None if found.boxes is None else found.boxes.xyxy.round(1).tolist(),
        "box_confidence": None if found.confidence is None else found.confidence.astype(float).round(4).tolist(),
        "quality": {"score": found.quality.score, "reasons": [asdict(reason) for reason in found.quality.reasons]},
        "remark": "; ".join(remarks),
    }


def _check(options: argparse.Namespace) -> None:
    check_archive_options(options)
    if (options.server is None) == (options.bundle is None):
        raise InvalidSetting("give either --bundle, the encoder to run here, or --server, which has one")
    if options.boxes is not None and options.localizer is not None:
        raise InvalidSetting("give either --boxes or --localizer, which proposes them")
    if options.server is None and options.index is None:
        raise InvalidSetting("give --index, the directory of the index to search")


def _weighted(text: str) -> tuple[str, float]:
    """A region's name and its weight, 1 where none is given."""
    name, _, weight = text.partition("=")
    try:
        return name.strip(), float(weight or 1)
    except ValueError:
        raise InvalidSetting(f"--region {text!r:.80}; write NAME or NAME=WEIGHT, such as 'left lung=2'") from None

"""The radiograph that `chextriev query` asks about, and what a person should know of it."""

import argparse

from chextriev.cli.query_archive import fetch_case, read_reported
from chextriev.cli.query_search import Case, Found
from chextriev.cli.reading import read_settings

UNSURE = 0.5
"""Mean expected IoU under which proposed boxes are called unsure."""


def read_case(options: argparse.Namespace) -> Case:
    """The file, or the image of an archive, with the boxes of `--boxes`."""
    from chextriev.radiograph import read_boxes
    from chextriev.radiograph_file import RadiographFile
    from chextriev.reading import read_image

    settings = read_settings(options)
    source = fetch_case(options) if options.image is None else options.image
    image = read_image(source, image_id=options.image_id, settings=settings)
    boxes = None if options.boxes is None else read_boxes(options.boxes, image_id=image.image_id)
    if settings.key is not None and options.image_id is None:
        image = image.named_by(settings.key)  # as `data import` has it in the index
    file = (
        RadiographFile.from_path(source, image_id=image.image_id, settings=settings)
        if image.is_picture and not isinstance(source, bytes)
        else RadiographFile.from_radiograph(image)
    )
    content = read_reported(options, source)
    return Case(image, file, boxes, options.patient_id or image.patient_id, content)


def remarks_of(case: Case, found: Found) -> list[str]:
    """Sentences: where the boxes come from, what the quality check and the reader said, who was left out."""
    remarks = list(found.remarks)
    if found.located is not None:
        expected = float(found.located.confidence[0].mean())
        unsure = ", which is little: look at the boxes" if expected < UNSURE else ""
        remarks.append(f"boxes by the {found.boxes_source} (expected IoU {expected:.2f}{unsure})")
    return [
        *remarks,
        *(f"the image may be unfit: {reason.text}" for reason in found.quality.reasons),
        *case.image.remarks,
    ]

"""A localizer's bundle small enough for a test: the network itself, untrained, for images of 64 pixels.

The fixture is one of `tests/conftest.py`; a bundle that a test changes is copied first.
"""

import pytest

from chextriev.study_table import StudyTable
from chextriev.systems import LocalizerSpec
from tests.export.tiny_bundle import TinyBundle, bundle_in, make_bundle, random_backbone
from tests.made_once import made_once

TINY_LOCALIZER = LocalizerSpec(name="tiny-localizer", size=64)


@pytest.fixture(scope="session")
def localizer(tiny_study: StudyTable, tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    """Random weights: its boxes lie about the mean layout, and move a little with what an image shows."""
    made = made_once(
        tmp_path_factory,
        "localizer",
        lambda folder: make_bundle(folder, tiny_study, TINY_LOCALIZER, random_backbone("localizer-64", seed=1)),
    )
    return bundle_in(made, tiny_study)

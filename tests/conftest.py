"""Shared by all tests."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = (
    "tests.export.tiny_bundle",
    "tests.export.tiny_localizer",
    "tests.serving.served",
    "tests.docker.production",
)

REAL_DATA = "CHEXTRIEV_REAL_DATA"

# The same examples in every run, so that nobody's change fails on another's; `make test-all` draws new ones.
settings.register_profile("repeated", derandomize=True)
settings.register_profile("new", print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeated"))


def pytest_runtest_setup() -> None:
    """Every test, and whatever is made for it first, draws the same weights whichever tests ran before it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real radiographs; the test is skipped where there is none."""
    folder = os.environ.get(REAL_DATA)
    if not folder:
        pytest.skip(f"{REAL_DATA} is not set: it names a folder of real radiographs with images.csv and regions.csv")
    return Path(folder)

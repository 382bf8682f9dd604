"""The tables that the tests of the feature cache share."""

from pathlib import Path

import pytest

from chextriev.study_table import StudyTable
from tests.tiny import write_tiny_table


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> StudyTable:
    return write_tiny_table(tmp_path_factory.mktemp("tiny"), per_split=(7, 3, 3))


@pytest.fixture
def own(tmp_path: Path) -> StudyTable:
    """A table whose images a test may spoil."""
    return write_tiny_table(tmp_path / "tiny", per_split=(7, 3, 3))

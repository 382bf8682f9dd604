"""`chextriev serve`: what it makes of bundles before it starts a server."""

import argparse
from pathlib import Path

import pytest

from chextriev.cli import main
from chextriev.cli.serve import configure, served_repository
from chextriev.errors import InvalidSetting
from tests.export.tiny_bundle import TinyBundle


def parse(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    configure(parser)
    return parser.parse_args([str(word) for word in words])


def test_a_repository_is_named_after_what_it_is_made_of(
    regions_made: TinyBundle, ath: TinyBundle, tmp_path: Path
) -> None:
    one = served_repository(parse(regions_made.folder), tmp_path)
    assert (one / "region_backbone" / "config.pbtxt").exists()
    made = (one / "manifest.json").stat().st_mtime_ns
    assert served_repository(parse(regions_made.folder), tmp_path) == one
    assert (one / "manifest.json").stat().st_mtime_ns == made
    both = served_repository(parse(regions_made.folder, ath.folder), tmp_path)
    assert both != one
    assert {path.name for path in tmp_path.iterdir()} == {one.name, both.name}


def test_a_given_repository_is_taken_as_it_is(tmp_path: Path) -> None:
    assert served_repository(parse("--repository", tmp_path), tmp_path / "state") == tmp_path
    with pytest.raises(InvalidSetting, match="leave out --index and --engine"):
        served_repository(parse("--repository", tmp_path, "--engine", "onnx-int8"), tmp_path / "state")


@pytest.mark.parametrize("words", [[], ["bundle", "--repository", "repository"]])
def test_bundles_or_a_repository_are_needed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *words]) == 2
    assert "give either bundles to serve or --repository" in capsys.readouterr().err

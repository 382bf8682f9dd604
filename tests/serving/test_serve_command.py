"""`chextriev serve`: what it makes of bundles before it starts a server."""

import argparse
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chextriev.cli import main
from chextriev.cli.serve import configure, served_repository
from chextriev.errors import InvalidSetting, ServerNotStarted, UnsignedArtifact
from chextriev.signature import sign_artifact
from tests.export.tiny_bundle import TinyBundle
from tests.test_signature import write_keys


def parse(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    configure(parser)
    return parser.parse_args([str(word) for word in words])


def test_a_repository_is_named_after_what_it_is_made_of(
    regions_made: TinyBundle, ath: TinyBundle, tmp_path: Path
) -> None:
    with served_repository(parse(regions_made.folder), tmp_path) as one:
        assert (one / "region_backbone" / "config.pbtxt").exists()
        assert one.parent.stat().st_mode & 0o077 == 0
        assert [path.name for path in one.parent.iterdir()] == [one.name]
    with served_repository(parse(regions_made.folder), tmp_path) as again:
        assert again == one
    with served_repository(parse(regions_made.folder, ath.folder), tmp_path) as both:
        assert both != one


def test_a_localizer_is_part_of_it(regions_made: TinyBundle, localizer: TinyBundle, tmp_path: Path) -> None:
    with served_repository(parse(regions_made.folder), tmp_path) as one:
        assert not (one / "localizer").exists()
    options = parse(regions_made.folder, "--localizer", localizer.folder, "--localizer-engine", "onnx-fp32")
    with served_repository(options, tmp_path) as other:
        assert (other / "localizer" / "config.pbtxt").exists()
        assert other.name != one.name
    with (
        pytest.raises(InvalidSetting, match="bundle of a localizer"),
        served_repository(parse(localizer.folder), tmp_path),
    ):
        pass


def test_only_what_serve_made_is_removed(
    regions_made: TinyBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the state folder is given relative to the current one."""
    monkeypatch.chdir(tmp_path)
    state = Path("state")
    with served_repository(parse(regions_made.folder), state) as made:
        whole = made.name
        keep = [state / "models-cxr14", state / "repositories" / "0123456789ab", state / "repositories" / "mine"]
        for folder in keep:
            folder.mkdir()
            (folder / "valuable").touch()
        shutil.copytree(made, tmp_path / "given")
        killed = state / "repositories" / "ba9876543210"  # of a server that could not remove it
        shutil.copytree(made, killed)
        (link := state / "repositories" / "cccccccccccc").symlink_to(tmp_path / "given")
        half = state / "repositories" / f".{whole}.tmp-{'0' * 16}"
        half.mkdir()
    assert not made.exists()
    assert not killed.exists()
    assert not half.exists()
    assert all((folder / "valuable").exists() for folder in keep)
    assert link.is_symlink()
    before = sorted(tmp_path.rglob("*"))
    with served_repository(parse("--repository", "given"), state) as given:
        assert given == Path("given")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bundle_that_another_signed_is_not_served(regions_made: TinyBundle, tmp_path: Path) -> None:
    bundle = regions_made.copy_to(tmp_path / "bundle")
    private, public = write_keys(tmp_path / "keys", Ed25519PrivateKey.generate())
    options = parse(bundle, "--signed-by", public)
    with pytest.raises(UnsignedArtifact), served_repository(options, tmp_path / "state"):
        pass
    sign_artifact(bundle, private)
    with served_repository(options, tmp_path / "state") as made:
        assert made.is_dir()


def test_a_given_repository_is_taken_as_it_is(tmp_path: Path) -> None:
    with served_repository(parse("--repository", tmp_path), tmp_path / "state") as given:
        assert given == tmp_path
    options = parse("--repository", tmp_path, "--signed-by", "key.pem", "--localizer", "bundle")
    with (
        pytest.raises(InvalidSetting, match="leave out --localizer, --signed-by"),
        served_repository(options, tmp_path / "state"),
    ):
        pass


def test_bundles_are_not_served_twice_from_one_state_folder(regions_made: TinyBundle, tmp_path: Path) -> None:
    options = parse(regions_made.folder)
    with served_repository(options, tmp_path) as made:
        with pytest.raises(ServerNotStarted, match="another server uses"), served_repository(options, tmp_path):
            pass
        assert made.is_dir()


@pytest.mark.parametrize("words", [[], ["bundle", "--repository", "repository"]])
def test_bundles_or_a_repository_are_needed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *words]) == 2
    assert "give either bundles to serve or --repository" in capsys.readouterr().err

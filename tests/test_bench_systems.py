"""`chextriev bench systems` on a few phantoms: it trains, measures, reuses and refuses."""

import json
from pathlib import Path

import pytest

from chextriev.cli import EXIT_REFUSED, main


@pytest.mark.slow
def test_systems_are_trained_with_their_seeds_and_reused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "systems", "--work", str(tmp_path / "work"), "--patients", "40", "--seeds", "0", "1"]
    words += ["--systems", "global-cnn", "v0-global"]
    assert main([*words, "--out", str(tmp_path / "systems.json")]) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "systems.json").read_text())
    assert printed.strip().split("\n") == content["table"]
    assert list(content["systems"]) == ["frozen features", "global-cnn", "v0-global"]
    assert len(set(content["systems"]["v0-global"]["precision"]["values"])) == 2  # two seeds, two encoders
    assert len(set(content["systems"]["global-cnn"]["precision"]["values"])) == 1  # searched is the frozen feature
    assert content["settings"]["synthetic"]
    assert 0 < content["chance"]["precision"] < 1
    assert {len(times) for times in content["training_seconds"].values()} == {2}

    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("manifest.json")}
    assert main([*words, "--out", str(tmp_path / "again.json")]) == 0
    assert json.loads((tmp_path / "again.json").read_text())["systems"] == content["systems"]
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_what_cannot_be_trained_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "systems", "--work", str(tmp_path / "work"), "--systems", "v9"]) == EXIT_REFUSED
    assert "no system 'v9'" in capsys.readouterr().err
    assert main(["bench", "systems", "--work", str(tmp_path / "work"), "--seeds", "1", "1"]) == EXIT_REFUSED
    assert "different whole numbers" in capsys.readouterr().err
    eleven = [str(seed) for seed in range(11)]
    assert main(["bench", "systems", "--work", str(tmp_path / "work"), "--seeds", *eleven]) == EXIT_REFUSED
    assert "11 seeds; at most 10" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()

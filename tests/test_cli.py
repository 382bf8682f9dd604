"""The command line refuses in one sentence and exits with 2, whatever the verb."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chextriev.cli import EXIT_REFUSED, VERBS, main


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == EXIT_REFUSED
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1, "one sentence"
    assert said.err.startswith("chextriev: ")
    return said.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert verb in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["embed", "nowhere", "nowhere", "out"], "there is no nowhere; the directory of an encoder bundle is needed"),
        (["index", "build", "nowhere", "out"], "there is no nowhere; the directory of embeddings is needed"),
        (["index", "search", "nowhere", "q.npy"], "the directory of an index is needed"),
        (["eval", "run", "nowhere", "out"], "the directory of embeddings is needed"),
        (["export", "bundle", "nowhere.ckpt", "out"], "there is no checkpoint nowhere.ckpt"),
        (["data", "features", "nowhere", "out", "--backbone", "vgg"], "no backbone 'vgg'; choose one of resnet50"),
        (["data", "prepare", "nowhere", "out"], "nowhere"),
        (["data", "phantom", "file/below"], "file"),
        (["data", "phantom", "out", "--patients", "1"], "at least 10"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]),
)
def test_wrong_input_is_refused(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert said in refusal(capsys, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "vectors").mkdir()
    command = f"{sys.executable} -m chextriev data phantom {tmp_path}/p --patients 10 --json | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_terminal_without_utf8_is_served(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    words = ["data", "phantom", str(tmp_path / "ü"), "--patients", "10"]
    done = subprocess.run(
        [sys.executable, "-m", "chextriev", *words], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr


def test_json_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "phantom", str(tmp_path / "p"), "--patients", "10", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["patients"] == 10
    for _ in range(2):
        assert main(["data", "prepare", str(tmp_path / "p"), str(tmp_path / "study"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["kept"] > 0

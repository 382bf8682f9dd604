"""`chextriev eval run` of a server: the numbers are those of the bundle that it serves."""

import json
from pathlib import Path

import pytest

from chextriev.cli import EXIT_REFUSED, main
from chextriev.embedding_set import read_embeddings
from tests.export.tiny_bundle import TinyBundle
from tests.serving.served import Served


def evaluated(target: str, out: Path, study: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    capsys.readouterr()
    options = ["--data", str(study), "--split", "all", "-k", "3", "--json", *words]
    assert main(["eval", "run", target, str(out), *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_server_is_worth_what_its_bundle_is(
    served: Served, regions_made: TinyBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    system = ("--system", served.bundle.card.system)
    address = f"grpc://{served.server.grpc}"
    over_the_wire = evaluated(address, tmp_path / "served", regions_made.study, capsys, *system)
    here = evaluated(str(regions_made.folder), tmp_path / "here", regions_made.study, capsys)
    assert over_the_wire["evaluated"]["encoder"] == here["evaluated"]["encoder"] == served.bundle.digest
    assert over_the_wire["n_queries"] > 10
    assert over_the_wire["k"] == here["k"]
    vectors = [read_embeddings(tmp_path / f"{name}.embeddings" / "embeddings").vectors for name in ("served", "here")]
    assert abs(vectors[0] - vectors[1]).max() < 1e-5
    assert evaluated(address, tmp_path / "served", regions_made.study, capsys, *system)["reused"]


def test_a_system_that_is_not_served_is_named(
    served: Served, regions_made: TinyBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "run", f"grpc://{served.server.grpc}", str(tmp_path / "out"), "--data", str(regions_made.study)]
    assert main([*words, "--system", "v9"]) == EXIT_REFUSED
    assert "v9" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

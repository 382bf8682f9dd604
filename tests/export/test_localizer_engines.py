"""A localizer's engines are made, judged by their boxes, and kept out in words."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from chextriev import open_bundle
from chextriev.bundle import DEFAULT, REFERENCE
from chextriev.cli import main
from chextriev.errors import InvalidSetting, UnprovenEngine
from chextriev.eval.localizer_gate import BUDGETS, OverlapBudget
from chextriev.export.build_bundle import PARITY_LIMIT
from chextriev.export.engines import ProofSettings, prove_engines
from chextriev.export.quantize import CalibrationSettings
from chextriev.export.reference_names import reference_names
from chextriev.localizer import open_localizer
from chextriev.machine import cpu_arithmetic
from chextriev.systems import LOCALIZER
from tests.export.tiny_bundle import TinyBundle

INT8 = "onnx-int8"
QUICK = ProofSettings(calibration=CalibrationSettings(crops=6, batch=6))
LENIENT = OverlapBudget(overlap=0.2, least=0.0, loss=0.5)
"""The boxes of random weights move with every rounding."""


@pytest.fixture(scope="module")
def added(localizer: TinyBundle, tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    """With an engine in integers."""
    folder = localizer.copy_to(tmp_path_factory.mktemp("added") / "bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUDGETS, "int8", LENIENT)
        prove_engines(folder, localizer.table, [INT8, DEFAULT], QUICK)
    return replace(localizer, folder=folder)


def test_the_card_says_what_it_gives(localizer: TinyBundle) -> None:
    card = open_bundle(localizer.folder).card
    assert (card.system, card.embedding_width, card.adjacency) == ("tiny-localizer", 0, None)
    assert {tensor.name: tensor.shape for tensor in card.tensors["encoder"]["outputs"]} == {
        "region_boxes": ("batch", 18, 4),
        "box_confidence": ("batch", 18),
    }
    assert [tensor.shape for tensor in card.tensors["region_backbone"]["inputs"]] == [("n", 1, 64, 64)]
    assert set(card.parity) == {"features", "region_boxes", "box_confidence"}
    assert max(card.parity.values()) <= PARITY_LIMIT
    assert "valid_boxes makes them boxes" in " ".join(card.notes)


def test_engines_are_judged_by_their_boxes(added: TinyBundle) -> None:
    bundle = open_bundle(added.folder)
    bundle.verify()
    verdicts = {verdict.engine: verdict for verdict in bundle.card.verdicts}
    assert [verdicts[name].status for name in (INT8, DEFAULT)] == ["proven", "proven"]
    float32, integers = (verdicts[name].measured for name in (DEFAULT, INT8))
    assert float32["iou_with_pytorch"] > 0.9999
    assert 0.2 < integers["iou_with_pytorch"] < float32["iou_with_pytorch"]
    assert set(integers["iou_by_region"]) >= {"left lung", "trachea"}
    assert verdicts[INT8].data["radiographs"] == 14
    assert verdicts[INT8].remarks == ["small sample, n=14"]
    assert verdicts[INT8].budget == {"overlap": 0.2, "least": 0.0, "loss": 0.5}
    opened = open_localizer(added.folder, engine=INT8, proven=True)
    assert opened.source.endswith(f"engine {INT8}")
    assert opened.digest == open_localizer(added.folder, engine=REFERENCE).digest


def test_an_engine_that_strays_is_kept_out_and_named(
    added: TinyBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = added.copy_to(tmp_path / "bundle")
    monkeypatch.setitem(BUDGETS, "int8", replace(LENIENT, overlap=0.99999, loss=0.0))
    words = ["export", "engines", str(folder), str(added.study), "--engines", INT8]
    assert main([*words, "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["status"] == "unproven"
    with pytest.raises(UnprovenEngine, match="it is unproven here; prove it on this machine"):
        open_localizer(folder, engine=INT8, proven=True)
    assert main(words) == 2
    said = capsys.readouterr().out
    assert f"{INT8}: failed on {cpu_arithmetic()}; IoU with PyTorch's boxes 0." in said
    assert "(at least 0.99999)" in said
    assert list(open_bundle(folder).card.engines) == [REFERENCE, DEFAULT]


def test_nothing_was_published_that_could_be_imported() -> None:
    with pytest.raises(InvalidSetting, match="the published code has no localizer"):
        reference_names(LOCALIZER)

"""Engines join a bundle when they retrieve as PyTorch does, and stay out in words when they do not."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chextriev import open_encoder
from chextriev.artifacts import MANIFEST
from chextriev.bundle import DEFAULT, REFERENCE, EncoderBundle, Verdict, open_bundle
from chextriev.cli import main
from chextriev.errors import EmptySplit, UnknownEngine, UnprovenEngine
from chextriev.eval.gate import BUDGETS
from chextriev.export.build_bundle import build_bundle
from chextriev.export.embed import embed_table
from chextriev.export.engines import ProofSettings, prove_engines
from chextriev.export.make_engines import EngineMaker
from chextriev.export.quantize import CalibrationSettings, QuantizedBackbone, _add_to_output
from chextriev.index.build import build_index
from chextriev.machine import cpu_arithmetic
from tests.export.tiny_bundle import TinyBundle
from tests.tiny import as_mapping, write_tiny_table

INT8, HALF = "onnx-int8", "onnx-fp16"
QUICK = ProofSettings(calibration=CalibrationSettings(crops=6, batch=6))
ELSEWHERE = "z80 none"
LENIENT = replace(BUDGETS["int8"], cosine=0.98, overlap=0.8, rank_correlation=0.9)
"""A dozen pictures that are much alike change places easily."""


@pytest.fixture(autouse=True)
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUDGETS, "int8", LENIENT)
    monkeypatch.setattr(EngineMaker, "STEPS", (1, 2))


@pytest.fixture(scope="module")
def added(ath: TinyBundle, tmp_path_factory: pytest.TempPathFactory) -> TinyBundle:
    """ATH with an engine in integers and one in float16."""
    folder = ath.copy_to(tmp_path_factory.mktemp("added") / "bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUDGETS, "int8", LENIENT)
        prove_engines(folder, ath.table, [INT8, HALF, DEFAULT], QUICK)
    return replace(ath, folder=folder)


@pytest.fixture
def changed(added: TinyBundle, tmp_path: Path) -> Path:
    """A copy to change."""
    return added.copy_to(tmp_path / "bundle")


def verdict_of(bundle: EncoderBundle, name: str, arithmetic: str | None = None) -> Verdict:
    (found,) = [
        verdict
        for verdict in bundle.card.verdicts
        if (verdict.engine, verdict.arithmetic) == (name, arithmetic or cpu_arithmetic())
    ]
    return found


def unreachable(monkeypatch: pytest.MonkeyPatch, precision: str = "int8") -> None:
    monkeypatch.setitem(BUDGETS, precision, replace(BUDGETS[precision], cosine=2))


def on_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chextriev.export.onnx_runner.cpu_arithmetic", lambda: ELSEWHERE)


def test_the_card_says_what_was_made_and_measured(ath: TinyBundle, added: TinyBundle) -> None:
    before, after = open_bundle(ath.folder), open_bundle(added.folder)
    after.verify()
    assert list(after.card.engines) == [REFERENCE, INT8, HALF, DEFAULT]
    assert {name: after.manifest.files[name] for name in before.manifest.files if name != "card.json"} == {
        name: record for name, record in before.manifest.files.items() if name != "card.json"
    }
    assert [verdict.engine for verdict in after.card.verdicts] == [INT8, HALF, DEFAULT]
    for verdict in after.card.verdicts:
        assert (verdict.status, verdict.arithmetic) == ("proven", cpu_arithmetic())
        assert verdict.command == f"chextriev export engines BUNDLE DATA --engines {verdict.engine}"
        assert verdict.machine["cpu"]
        assert verdict.data == {
            "study table": added.table.digest,
            "split": "validate",
            "radiographs": 14,
            "unreadable": 0,
        }
        assert set(verdict.budget) == {"cosine", "overlap", "rank_correlation", "change"}
        assert verdict.remarks == [f"small sample, n={verdict.measured['queries']}"]
    assert verdict_of(after, DEFAULT).measured["cosine"] > 1 - 1e-6
    calibration = after.engine(INT8).made_by["calibration"]
    assert (calibration["split"], calibration["crops"], calibration["radiographs"]) == ("train", 6, 6)
    assert calibration["study table"] == added.table.digest
    assert after.engine(INT8).files["encoder"] == before.engine(DEFAULT).files["encoder"]  # graph layers stay float32
    assert after.size(INT8) < before.size(DEFAULT)


def test_an_index_of_before_still_answers(
    ath: TinyBundle, added: TinyBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embed_table(open_encoder(ath.folder), ath.table, tmp_path / "embeddings")
    build_index(tmp_path / "embeddings", tmp_path / "index")
    (tmp_path / "boxes.json").write_text(json.dumps(as_mapping(ath.table.boxes(9))))
    words = ["query", str(ath.table.image_path(9)), "--boxes", f"{tmp_path}/boxes.json", "--index", f"{tmp_path}/index"]
    words += ["-k", "3", "--image-id", "new", "--patient-id", "nobody", "--bundle", f"{added.folder}", "--json"]
    for engine in (DEFAULT, INT8, HALF):
        assert main([*words, "--engine", engine]) == 0
        assert json.loads(capsys.readouterr().out)["hits"][0]["id"] == "image-009"


@pytest.mark.parametrize("engine", [INT8, HALF, DEFAULT])
def test_a_proven_engine_may_serve_here_and_only_here(
    added: TinyBundle, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    radiographs = [added.table.radiograph(row) for row in range(3)]
    ours = open_encoder(added.folder, engine=engine, proven=True).encode(radiographs).vectors
    theirs = open_encoder(added.folder, engine=REFERENCE, proven=True).encode(radiographs).vectors
    assert np.abs(ours - theirs).max() < 0.2 * np.abs(theirs).max()
    on_another_machine(monkeypatch)
    words = rf"{engine} of .* may not serve on {ELSEWHERE}: it is proven on {cpu_arithmetic()}; prove it on this"
    with pytest.raises(UnprovenEngine, match=words):
        open_encoder(added.folder, engine=engine, proven=True)
    assert len(open_encoder(added.folder, engine=engine).encode(radiographs)) == 3


def test_an_engine_that_nobody_measured_may_not_serve(ath: TinyBundle) -> None:
    with pytest.raises(UnprovenEngine, match="it is proven on no machine; prove it on this machine: chextriev export"):
        open_encoder(ath.folder, proven=True)


def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many layers each engine kept that is made from now on."""
    kept: list[int] = []
    make = QuantizedBackbone.make

    def noted(self: QuantizedBackbone, keep: list[str]) -> bytes:
        kept.append(len(keep))
        return make(self, keep)

    monkeypatch.setattr(QuantizedBackbone, "make", noted)
    return kept


def test_a_failing_engine_is_kept_out_and_named(
    ath: TinyBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, kept = ath.copy_to(tmp_path / "bundle"), made(monkeypatch)
    unreachable(monkeypatch)
    assert main(["export", "engines", str(folder), str(ath.study), "--engines", INT8, HALF]) == 2
    assert kept == [0, 1, 2, 0]  # more and more layers in float32, then the other engine
    said = capsys.readouterr().out
    assert f"{INT8}: failed on {cpu_arithmetic()}; least cosine" in said
    assert "(at least 2)" in said
    assert f"{HALF}: proven on" in said
    bundle = open_bundle(folder)
    bundle.verify()
    assert list(bundle.card.engines) == [REFERENCE, DEFAULT, HALF]
    assert not (folder / INT8).exists()
    verdict = verdict_of(bundle, INT8)
    assert verdict.status == "failed"
    losses = [layer["loss_of_cosine"] for layer in verdict.worst_layers]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 0
    assert f"{verdict.worst_layers[0]['layer']}: alone costs {losses[0]:.5f}" in said
    with pytest.raises(UnknownEngine, match=rf"which was kept out on {cpu_arithmetic()}; choose one of {REFERENCE}"):
        open_encoder(folder, engine=INT8)


def test_mixed_precision_saves_an_engine(
    ath: TinyBundle, added: TinyBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = verdict_of(open_bundle(added.folder), INT8).measured["cosine"]
    monkeypatch.setitem(BUDGETS, "int8", replace(LENIENT, cosine=whole + 1e-6))
    monkeypatch.setattr(EngineMaker, "STEPS", (4, 7))
    folder = ath.copy_to(tmp_path / "bundle")
    (verdict,) = prove_engines(folder, ath.table, [INT8], QUICK)
    assert verdict.status == "proven"
    made_by = open_bundle(folder).engine(INT8).made_by
    kept = made_by["layers that keep their precision"]
    assert len(kept) in (4, 7)
    assert made_by["layers reduced"] == 8 - len(kept)
    assert kept[0] == verdict.worst_layers[0]["layer"]


def test_force_keeps_a_failing_engine_that_serving_refuses(
    ath: TinyBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ath.copy_to(tmp_path / "bundle")
    unreachable(monkeypatch)
    words = ["export", "engines", str(folder), str(ath.study), "--engines", INT8, "--json"]
    assert main([*words, "--force"]) == 0
    (printed,) = json.loads(capsys.readouterr().out)
    assert (printed["engine"], printed["status"]) == (INT8, "unproven")
    assert len(open_encoder(folder, engine=INT8).encode([ath.table.radiograph(0)])) == 1
    with pytest.raises(UnprovenEngine, match=f"may not serve on {cpu_arithmetic()}: it is unproven here; prove it"):
        open_encoder(folder, engine=INT8, proven=True)
    assert main(words) == 2
    assert not (folder / INT8).exists()


def test_engines_that_are_there_are_only_measured(
    added: TinyBundle, changed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, before = made(monkeypatch), open_bundle(changed)
    verdicts = prove_engines(changed, added.table, [INT8, HALF, INT8], QUICK)
    assert kept == []
    assert [verdict.engine for verdict in verdicts] == [INT8, HALF]
    after = open_bundle(changed)
    assert after.card.engines == before.card.engines
    assert len(after.card.verdicts) == 3
    (verdict,) = prove_engines(changed, added.table, [INT8], replace(QUICK, remake=True))
    assert (kept, verdict.status) == ([0], "proven")
    assert open_bundle(changed).manifest.files == after.manifest.files | {
        "card.json": open_bundle(changed).manifest.files["card.json"]  # the order of engines
    }


def test_an_engine_that_fails_later_leaves_the_bundle(
    added: TinyBundle, changed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreachable(monkeypatch)
    (verdict,) = prove_engines(changed, added.table, [INT8], QUICK)
    bundle = open_bundle(changed)
    assert (verdict.status, INT8 in bundle.card.engines, (changed / INT8).exists()) == ("failed", False, False)


def test_an_engine_that_is_proven_elsewhere_stays(
    added: TinyBundle, changed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_another_machine(monkeypatch)
    with monkeypatch.context() as patch:
        unreachable(patch)
        prove_engines(changed, added.table, [INT8], QUICK)
    bundle = open_bundle(changed)
    assert verdict_of(bundle, INT8).status == "proven"
    assert verdict_of(bundle, INT8, ELSEWHERE).status == "failed"
    with pytest.raises(UnprovenEngine, match=f"may not serve on {ELSEWHERE}: it is failed here"):
        open_encoder(changed, engine=INT8, proven=True)
    prove_engines(changed, added.table, [INT8], QUICK)
    assert verdict_of(open_bundle(changed), INT8, ELSEWHERE).status == "proven"


def test_other_files_are_proven_nowhere_else(added: TinyBundle, changed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_another_machine(monkeypatch)
    other = CalibrationSettings(crops=6, batch=6, quantile=0.99)
    prove_engines(changed, added.table, [INT8], replace(QUICK, remake=True, calibration=other))
    bundle = open_bundle(changed)
    assert [verdict.arithmetic for verdict in bundle.card.verdicts if verdict.engine == INT8] == [ELSEWHERE]
    assert verdict_of(bundle, HALF).status == "proven"


def test_a_remake_that_fails_leaves_the_former_engine(
    added: TinyBundle, changed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_bundle(changed)
    monkeypatch.setattr("chextriev.export.make_engines.EngineMaker.STEPS", (1,))
    unreachable(monkeypatch)
    other = replace(QUICK.calibration, quantile=0.99)
    (verdict,) = prove_engines(changed, added.table, [INT8], replace(QUICK, remake=True, calibration=other))
    assert verdict.status == "failed"
    assert "the former one stays" in verdict.remarks[-1]
    after = open_bundle(changed)
    assert after.engine_files(INT8) == before.engine_files(INT8)
    assert after.card == before.card
    after.verify()


def test_an_engine_that_overflows_is_a_verdict(
    ath: TinyBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflowing(model: bytes, **_: Any) -> bytes:
        features = 1024 if b"crops" in model else None
        return _add_to_output(model, np.full(features, np.inf, np.float32)) if features else model

    monkeypatch.setattr("chextriev.export.quantize.to_float16", overflowing)
    folder = ath.copy_to(tmp_path / "bundle")
    verdicts = prove_engines(folder, ath.table, [HALF, INT8], QUICK)
    assert [verdict.status for verdict in verdicts] == ["failed", "proven"]
    assert "14 of 14 embeddings are zero or not finite" in verdicts[0].remarks
    assert "NaN" not in (folder / "card.json").read_text()  # which is no JSON


def test_a_stopped_run_leaves_the_bundle_as_it_was(
    added: TinyBundle, changed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, judge = (changed / MANIFEST).read_bytes(), iter([KeyboardInterrupt])

    def stop(*_: Any, **__: Any) -> Iterator[None]:
        raise next(judge)

    monkeypatch.setattr("chextriev.export.engines.judge_engine", stop)
    with pytest.raises(KeyboardInterrupt):
        prove_engines(changed, added.table, [INT8], replace(QUICK, remake=True))
    assert (changed / MANIFEST).read_bytes() == before
    open_bundle(changed).verify()
    assert [path.name for path in changed.parent.iterdir()] == ["bundle"]


def test_what_cannot_be_proven_is_said(added: TinyBundle, changed: Path, tmp_path: Path) -> None:
    before = (changed / MANIFEST).read_bytes()
    for name in ("onnx-int4", REFERENCE):
        with pytest.raises(UnknownEngine, match=f"no engine '{name}'; choose one of onnx-fp32, onnx-int8, onnx-fp16"):
            prove_engines(changed, added.table, [HALF, name], QUICK)
    no_validate = write_tiny_table(tmp_path / "no-validate", per_split=(2, 0, 2))
    with pytest.raises(EmptySplit, match="no radiograph in split 'validate'"):
        prove_engines(changed, no_validate, [INT8], QUICK)
    no_train = write_tiny_table(tmp_path / "no-train", per_split=(0, 4, 0))
    with pytest.raises(EmptySplit, match="no radiograph in split 'train'"):
        prove_engines(changed, no_train, [INT8], replace(QUICK, remake=True))
    assert (changed / MANIFEST).read_bytes() == before


def test_unreadable_radiographs_are_left_out_and_counted(changed: Path, tmp_path: Path) -> None:
    table = write_tiny_table(tmp_path / "data", per_split=(2, 6, 0))
    table.image_path(0).write_bytes(b"no picture")
    table.image_path(3).unlink()
    (verdict,) = prove_engines(changed, table, [INT8], replace(QUICK, remake=True))
    assert (verdict.data["radiographs"], verdict.data["unreadable"]) == (5, 1)
    assert open_bundle(changed).engine(INT8).made_by["calibration"]["radiographs"] == 1
    for row in range(2, 8):
        table.image_path(row).unlink(missing_ok=True)
    with pytest.raises(EmptySplit, match=r"no radiograph to encode: .* all of its images are unreadable"):
        prove_engines(changed, table, [INT8], QUICK)


def test_exporting_the_same_run_again_keeps_the_engines(added: TinyBundle, changed: Path) -> None:
    bundle, reused = build_bundle(added.checkpoint, changed)
    assert reused
    assert {INT8, HALF} <= set(bundle.card.engines)

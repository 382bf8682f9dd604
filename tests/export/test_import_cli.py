"""From a published checkpoint to a bundle that encodes radiographs, on the command line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chextriev import open_bundle, open_encoder
from chextriev.artifacts import Recipe, file_digest
from chextriev.cli import main
from chextriev.errors import MismatchedWeights
from chextriev.export.build_bundle import publish_bundle
from chextriev.export.checkpoint import TrainedEncoder
from chextriev.export.import_bundle import import_bundle
from chextriev.export.reference import import_checkpoint
from chextriev.preprocess import region_crops
from chextriev.train.ath import ATH_BACKBONE, AthTrunk
from chextriev.train.backbones import Backbone, load_backbone
from chextriev.train.encoders import find_backbone_spec, new_encoder
from chextriev.variants import VARIANTS
from tests.export.test_reference import state_of
from tests.golden_rule import make_state, write_reference
from tests.tiny import write_tiny_table


def run_import(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["export", "import", *words, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_ath_brings_its_backbone_and_encodes_radiographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write_reference(tmp_path / "ath.ckpt", state_of("ath")), tmp_path / "bundle"
    words = [str(path), str(out), "--system", "ath"]
    answer = run_import(words, capsys)
    assert (answer["reused"], answer["unused"]) == (False, [])
    assert answer["card"]["training"] == {"imported": file_digest(path), "unused": []}
    assert answer["card"]["backbone"] == "ath, trained with the encoder"

    table = write_tiny_table(tmp_path / "data", per_split=(2, 2, 2))
    radiograph = table.radiograph(0)
    found = open_encoder(out).encode([radiograph])
    spec, reference = find_backbone_spec("ath"), import_checkpoint(path, "ath")
    (crop,) = region_crops(radiograph.pixels, radiograph.boxes, reference.spec.crops)
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.mean, spec.std))
    expected = reference(((torch.from_numpy(crop).expand(3, -1, -1) / 255 - mean) / std)[None])
    np.testing.assert_allclose(found.vectors, expected.hash, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.finding_logits, expected.finding_logits, rtol=1e-4, atol=1e-4)

    assert run_import(words, capsys) == {**answer, "reused": True}
    assert main(["export", "import", *words]) == 0
    assert "ath on ath, trained with the encoder, ONNX within" in capsys.readouterr().out.replace(f" of {path}", "")
    assert main(["export", "import", *words, "--weights", "random:0"]) == 2
    assert "has a backbone of its own; leave out --backbone and --weights" in capsys.readouterr().err


@pytest.mark.slow
def test_a_head_takes_the_backbone_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The published head at the width of efficientnet-lite0."""
    idle = ("model.gcn_layers.", "model.node_attn_layers.", "model.graph_attn.", "model.mlp.")
    used = {name: item for name, item in state_of("v0-global").items() if not name.startswith(idle)}
    state = {**used, **make_state({"cnn.fc.0.weight": (1024, 1280)}), "model.anatomy_inp_tensor": torch.eye(18)}
    path, out = write_reference(tmp_path / "v0.ckpt", state), tmp_path / "bundle"
    head = [str(path), str(out), "--system", "v0-global"]
    for backbone, said in (
        ("resnet50", "takes 1280 features a crop, resnet50 gives 2048; choose --backbone from efficientnet-lite0"),
        ("resnet5", "UnknownBackbone: no backbone 'resnet5'; choose one of resnet50"),
    ):
        assert main(["export", "import", *head, "--backbone", backbone]) == 2
        assert said in capsys.readouterr().err
    assert not out.exists()

    answer = run_import([*head, "--weights", "random:0"], capsys)
    card = open_bundle(out).card
    digest = load_backbone("efficientnet-lite0", weights="random:0").digest
    assert (card.backbone, card.backbone_digest) == ("efficientnet-lite0", digest)
    assert answer["unused"] == card.training["unused"] == ["model.anatomy_inp_tensor"]


def test_a_head_that_was_trained_with_its_backbone_makes_no_bundle_without_it(tmp_path: Path) -> None:
    path = write_reference(tmp_path / "v6.ckpt", state_of("v6"))
    with pytest.raises(MismatchedWeights, match="holds no backbone, and that of v6-e2e was trained with the head"):
        import_bundle(path, tmp_path / "bundle", system="v6-e2e", weights="random:0")
    path.unlink()


@pytest.mark.usefixtures("exported_once")
def test_the_card_states_an_adjacency_that_is_not_complete(tmp_path: Path) -> None:
    """Of V2, which is fully connected unless a file says otherwise; on convolutions that are small."""
    width = (224 // 8) ** 2
    backbone = Backbone(AthTrunk().freeze(), replace(ATH_BACKBONE, width=width), digest="0" * 64, weights_note="")
    encoder = new_encoder(replace(VARIANTS["v2"], name="tiny", width=32, heads=2, head_width=8), width, torch.eye(18))
    recipe = Recipe({}, {})
    publish_bundle(tmp_path / "bundle", recipe, TrainedEncoder(encoder.eval(), width, {}), backbone, training={})
    assert open_bundle(tmp_path / "bundle").card.adjacency == np.eye(18).tolist()


@pytest.mark.usefixtures("exported_once")
@pytest.mark.parametrize(
    ("share", "notes"),
    [
        (0.0, ["region_logits come from a head that no loss has trained: they say nothing about the regions"]),
        (0.5, []),
        (1.0, ["finding_logits are the largest of the regions' logits: no loss trains a head of the whole image"]),
    ],
)
def test_the_card_says_which_logits_no_loss_has_trained(tmp_path: Path, share: float, notes: list[str]) -> None:
    width = (224 // 8) ** 2
    backbone = Backbone(AthTrunk().freeze(), replace(ATH_BACKBONE, width=width), digest="0" * 64, weights_note="")
    encoder = new_encoder(replace(VARIANTS["v0-global"], name="tiny", width=32, region_loss_share=share), width)
    trained = TrainedEncoder(encoder.eval(), width, {})
    publish_bundle(tmp_path / "bundle", Recipe({}, {}), trained, backbone, training={})
    assert open_bundle(tmp_path / "bundle").card.notes == notes

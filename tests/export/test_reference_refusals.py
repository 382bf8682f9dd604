"""What is no checkpoint of the named system is refused in words, all at once, and its code is never run."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from chextriev.errors import MismatchedWeights, UnknownSystem, UnreadableCheckpoint
from chextriev.export.reference import import_checkpoint
from tests.export.test_reference import State, imported, state_of, trunk_state


def refusal(folder: Path, state: State, system: str) -> str:
    """What is said of a state dictionary."""
    with pytest.raises(MismatchedWeights, match=rf"published\.ckpt does not fit system {system}; give") as caught:
        imported(folder, state, system)
    return str(caught.value)


def test_missing_extra_and_misshaped_names_are_listed_together(tmp_path: Path) -> None:
    state = state_of("v3")
    gone = [name for name in state if name.startswith("model.layers.1.1")]
    for name in gone:
        del state[name]
    state["model.layers.0.0.0.fn.to_kv.weight"] = torch.zeros(1023, 1024)
    state["model.adj_emb.weight"] = torch.zeros(2)
    state["model.pos_emb.weight"] = torch.zeros(17, 1024)
    state["model.layers.2.0.1.proj.0.weight"] = state["model.anatomy_inp_tensor"] = torch.zeros(3)
    said = refusal(tmp_path, state, "v3")
    assert (
        f"missing: {', '.join(sorted(gone))}; extra: model.anatomy_inp_tensor, model.layers.2.0.1.proj.0.weight; mis"
        in said
    )
    assert "model.layers.0.0.0.fn.to_kv.weight [1023, 1024] instead of [1024, 1024]" in said
    assert "model.adj_emb.weight [2] instead of [2, 1024]" in said
    assert "model.pos_emb.weight [17, 1024] instead of [18 or more, 1024]" in said


def test_positions_need_the_right_width_and_no_more_than_the_regions(tmp_path: Path) -> None:
    state = state_of("v3")
    state["model.pos_emb.weight"] = state["model.pos_emb.weight"][:18].clone()
    imported(tmp_path, state, "v3")
    for shape in ((64, 1023), (64,)):
        state["model.pos_emb.weight"] = torch.zeros(shape)
        assert "misshaped: model.pos_emb.weight" in refusal(tmp_path, state, "v3")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("model.anatomy_gc1.weight", torch.zeros(77, 2048), r"gc1.weight [77, 2048] instead of [1024, 2048]"),
        ("model.anatomy_gc1.weight", torch.zeros(2048), r"gc1.weight [2048] instead of [1024, 2048]"),
        ("model.fc.2.bias", torch.zeros(14), "misshaped: model.fc.2.bias [14] instead of [9]"),
        ("model.fc.2.bias", torch.zeros(9, dtype=torch.int64), "model.fc.2.bias torch.int64 instead of torch.float32"),
        ("model.fc.2.bias", torch.zeros(9, dtype=torch.complex64), "another type: model.fc.2.bias torch.complex64"),
        ("model.fc.2.bias", torch.full((9,), torch.nan), "not finite: model.fc.2.bias"),
        ("model.fc.2.bias", torch.full((9,), 1e300, dtype=torch.float64), "not finite: model.fc.2.bias"),
        ("model.anatomy_inp_tensor", torch.ones(19, 19), "anatomy_inp_tensor [19, 19] instead of [18, 18]"),
        ("model.anatomy_inp_tensor", torch.full((18, 18), torch.inf), "not finite: model.anatomy_inp_tensor"),
        ("adj_mat", torch.ones(18, 18), "extra: adj_mat"),
    ],
)
def test_senseless_tensors_are_named(tmp_path: Path, name: str, value: torch.Tensor, said: str) -> None:
    assert said in refusal(tmp_path, {**state_of("anaxnet"), name: value}, "anaxnet")


def test_the_graphs_adjacency_is_of_0_and_1(tmp_path: Path) -> None:
    said = refusal(tmp_path, {**state_of("v1"), "adj_mat": torch.full((18, 18), 2)}, "v1")
    assert said.endswith("other than 0 and 1: adj_mat")


def test_half_a_backbone_is_none(tmp_path: Path) -> None:
    trunk = trunk_state("resnet50", "cnn.")
    del trunk["cnn.layer4.2.bn3.bias"], trunk["cnn.bn1.num_batches_tracked"]
    trunk["cnn.layer5.weight"] = torch.zeros(1)
    said = refusal(tmp_path, {**state_of("v0-global"), **trunk}, "v0-global")
    assert said.endswith("missing: cnn.layer4.2.bn3.bias; extra: cnn.layer5.weight")
    assert refusal(tmp_path, {**state_of("v0-global"), "cnn.layer5.weight": torch.zeros(1)}, "v0-global").endswith(
        "file; extra: cnn.layer5.weight"
    )


def test_ath_needs_its_backbone(tmp_path: Path) -> None:
    head = {name: item for name, item in state_of("ath").items() if "layer." in name and "downsample" not in name}
    said = refusal(tmp_path, head, "ath")
    assert "missing: model.dense.downsample_layer.0.weight, " in said
    assert said.endswith(", model.sa.conv1.weight")
    assert "num_batches_tracked" not in said


def test_the_file_of_another_system_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, state_of("anaxnet"), "v6")
    assert "missing: cnn.fc.0.bias, cnn.fc.0.weight, cnn.fc.2.bias" in said
    assert "extra: model.anatomy_gc1.weight" in said
    with pytest.raises(UnknownSystem, match=r"no system 'v9'; choose one of global-cnn"):
        import_checkpoint(tmp_path / "published.ckpt", "v9")


class Exploding:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return eval, ("__import__('pathlib').Path('exploded').touch()",)


@pytest.mark.parametrize("fault", ["absent", "code", "truncated", "list", "bare", "unnamed", "sparse", "listed"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.ckpt"
    state: dict[object, object] = dict(state_of("ath"))
    strange = {
        "unnamed": lambda: {5: torch.zeros(1)},
        "sparse": lambda: {"model.hashlayer.bias": torch.zeros(32).to_sparse()},
        "listed": lambda: {"model.hashlayer.bias": [torch.zeros(32)]},
    }
    if fault == "code":
        path.write_bytes(pickle.dumps({"state_dict": Exploding()}))
    elif fault == "list":
        torch.save([1, 2], path)
    elif fault == "bare":
        torch.save(state, path)
    elif fault == "truncated":
        torch.save({"state_dict": state}, path)
        path.write_bytes(path.read_bytes()[:-5000])
    elif fault in strange:
        torch.save({"state_dict": {**state, **strange[fault]()}}, path)
    with pytest.raises(UnreadableCheckpoint, match=r"bad\.ckpt"):
        import_checkpoint(path, "ath")
    assert {item.name for item in tmp_path.iterdir()} <= {"bad.ckpt"}

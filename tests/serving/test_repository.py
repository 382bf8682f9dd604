"""Bundles become a repository: the same models and tensors for every target, and nothing unproven in it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as types

from chextriev.anatomy import Finding, Region
from chextriev.artifacts import read_manifest, seal
from chextriev.bundle import ENCODER, REGION_BACKBONE, EncoderBundle, Verdict, open_bundle
from chextriev.bundle import KIND as BUNDLE_KIND
from chextriev.cli import main
from chextriev.embedding_set import embedding_set
from chextriev.errors import (
    InvalidSetting,
    MissingDependency,
    OtherEncoder,
    UnbuildableEngine,
    UnknownEngine,
    UnprovenEngine,
)
from chextriev.export.onnx_runner import open_session
from chextriev.export.served_models import by_radiograph, served_onnx
from chextriev.export.tensorrt_machine import find_tensorrt, this_machine
from chextriev.export.to_tensorrt import PlanSettings, build_plan
from chextriev.index.build import build_index
from chextriev.index.search import find_generation
from chextriev.machine import cpu_arithmetic
from chextriev.serving.repository import KIND, RepositorySettings, build_repository
from tests.export.tiny_bundle import SYSTEM, TinyBundle

GRAPH, ATH = f"chextriev_{SYSTEM}", "ath"
MODELS = {"radiograph_preprocess", "region_backbone", f"encoder_{SYSTEM}", GRAPH}
ATH_MODELS = {"radiograph_preprocess_image_256", "region_backbone_image_256", "encoder_ath", ATH}


@pytest.fixture(scope="module")
def bundle(regions_made: TinyBundle) -> EncoderBundle:
    return open_bundle(regions_made.folder)


@pytest.fixture(scope="module")
def repository(bundle: EncoderBundle, ath: TinyBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("repository") / "models"
    build_repository([bundle, open_bundle(ath.folder)], out)
    return out


def config_of(repository: Path, model: str) -> types.ModelConfig:
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), types.ModelConfig())


def tensors(config: types.ModelConfig) -> dict[str, tuple[int, list[int]]]:
    return {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in [*config.input, *config.output]}


def test_every_model_has_a_configuration_of_its_own_name(repository: Path) -> None:
    folders = {path.name for path in repository.iterdir() if path.is_dir()}
    assert folders == MODELS | ATH_MODELS == set(read_manifest(repository, KIND).facts["models"])
    for name in folders:
        config = config_of(repository, name)
        assert (config.name, config.max_batch_size, list(config.version_policy.specific.versions)) == (name, 32, [1])
        assert (repository / name / "1").is_dir()


def test_an_ensemble_takes_an_image_and_boxes_and_gives_what_the_encoder_has(
    repository: Path, bundle: EncoderBundle
) -> None:
    config = config_of(repository, GRAPH)
    assert tensors(config) == {
        "image": (types.TYPE_STRING, [1]),
        "boxes": (types.TYPE_FP32, [18, 4]),
        "embedding": (types.TYPE_FP32, [32]),
        "finding_logits": (types.TYPE_FP32, [9]),
        "region_logits": (types.TYPE_FP32, [18, 9]),
        "region_vectors": (types.TYPE_FP32, [18, 32]),
    }
    assert config.parameters["encoder_digest"].string_value == bundle.digest
    assert tensors(config_of(repository, ATH))["hash_bits"][0] == types.TYPE_UINT8


def test_each_step_of_an_ensemble_fits_the_next(repository: Path) -> None:
    for ensemble in (GRAPH, ATH):
        config = config_of(repository, ensemble)
        known = {tensor.name for tensor in config.input}
        for step in config.ensemble_scheduling.step:
            model = config_of(repository, step.model_name)
            assert ({tensor.name for tensor in model.input}, step.model_version) == (set(step.input_map), 1)
            assert set(step.input_map.values()) <= known
            known |= set(step.output_map.values())
        assert {tensor.name for tensor in config.output} <= known


def test_queues_are_bounded_and_a_lone_request_waits_for_nobody(repository: Path) -> None:
    for model in MODELS - {GRAPH}:
        batching = config_of(repository, model).dynamic_batching
        policy = batching.default_queue_policy
        assert batching.max_queue_delay_microseconds == 0
        alone = model in ("radiograph_preprocess", "region_backbone")
        assert list(batching.preferred_batch_size) == ([1] if alone else [])
        assert (policy.max_queue_size, policy.timeout_action) == (64, policy.REJECT)
        assert (policy.allow_timeout_override, policy.default_timeout_microseconds) == (True, 30_000_000)


def test_two_systems_share_one_backbone(bundle: EncoderBundle, tmp_path: Path) -> None:
    other = EncoderBundle(bundle.directory, replace(bundle.card, system="other"), bundle.manifest)
    manifest, _ = build_repository([bundle, other], tmp_path / "models")
    assert set(manifest.facts["models"]) == MODELS | {"encoder_other", "chextriev_other"}
    step = config_of(tmp_path / "models", "chextriev_other").ensemble_scheduling.step[1]
    assert step.model_name == "region_backbone"


def test_another_backbone_gets_a_name_of_its_own(
    bundle: EncoderBundle, regions_made: TinyBundle, tmp_path: Path
) -> None:
    folder = regions_made.copy_to(tmp_path / "other")
    path = folder / bundle.card.engines["onnx-fp32"].files[REGION_BACKBONE]
    model = onnx.load(path)
    model.producer_version = "another file"
    onnx.save(model, path)
    seal(folder, BUNDLE_KIND, bundle.manifest.recipe)
    opened = open_bundle(folder)
    other = EncoderBundle(folder, replace(opened.card, system="other"), opened.manifest)
    manifest, _ = build_repository([bundle, other], tmp_path / "models")
    added = {"region_backbone_other", "encoder_other", "chextriev_other"}
    assert set(manifest.facts["models"]) == MODELS | added
    steps = config_of(tmp_path / "models", "chextriev_other").ensemble_scheduling.step
    assert [step.model_name for step in steps] == ["radiograph_preprocess", "region_backbone_other", "encoder_other"]


@pytest.mark.parametrize("target", ["cpu", "onnxruntime"])
def test_targets_differ_in_the_executor_alone(bundle: EncoderBundle, tmp_path: Path, target: str) -> None:
    build_repository([bundle], tmp_path / "models", RepositorySettings(target=target, version=3))
    reference = tmp_path / "cpu"
    build_repository([bundle], reference)
    for name in MODELS:
        config, wanted = config_of(tmp_path / "models", name), config_of(reference, name)
        assert tensors(config) == tensors(wanted)
        assert list(config.version_policy.specific.versions) == [3]
        assert (tmp_path / "models" / name / "3").is_dir()
    engine = config_of(tmp_path / "models", "region_backbone")
    assert (engine.backend, engine.platform) == {
        "cpu": ("python", ""),
        "onnxruntime": ("onnxruntime", "onnxruntime_onnx"),
    }[target]
    assert {step.model_version for step in config_of(tmp_path / "models", GRAPH).ensemble_scheduling.step} == {3}


def test_the_served_backbone_counts_radiographs_and_computes_the_same(bundle: EncoderBundle) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (3, 18, 1, 224, 224), dtype=np.uint8)
    plain = open_session(bundle.read(bundle.engine("onnx-fp32").files[REGION_BACKBONE]))
    served = open_session(served_onnx(bundle, "onnx-fp32", REGION_BACKBONE))
    (wanted,) = plain.run(None, {"crops": crops.reshape(-1, 1, 224, 224)})
    (found,) = served.run(None, {"crops": crops})
    np.testing.assert_array_equal(found.reshape(wanted.shape), wanted)
    assert served_onnx(bundle, "onnx-fp32", ENCODER) == bundle.read(bundle.engine("onnx-fp32").files[ENCODER])


def test_tensorrt_reads_the_served_backbone(bundle: EncoderBundle) -> None:
    try:
        this_machine(find_tensorrt())
    except MissingDependency as error:
        pytest.skip(str(error))
    content = by_radiograph(bundle.read(bundle.engine("onnx-fp32").files[REGION_BACKBONE]), crops=18)
    assert len(build_plan(content, PlanSettings("crops", (1, 2)))) > 1000
    with pytest.raises(UnbuildableEngine):
        build_plan(content[:-100], PlanSettings("crops", (1, 2)))


def test_a_second_making_reuses_the_first_unless_something_changed(bundle: EncoderBundle, tmp_path: Path) -> None:
    out = tmp_path / "models"
    first, reused = build_repository([bundle], out)
    assert not reused
    assert build_repository([bundle], out) == (first, True)
    assert build_repository([bundle], out, RepositorySettings(queue=5))[1] is False
    assert config_of(out, "region_backbone").dynamic_batching.default_queue_policy.max_queue_size == 5


def proven(bundle: EncoderBundle, arithmetic: str, status: str = "proven") -> EncoderBundle:
    """The bundle with its float32 engine under the name of one that must be proven."""
    card = bundle.card.with_engine("onnx-int8", bundle.card.engines["onnx-fp32"])
    files = {file: str(bundle.manifest.files[file]["sha256"]) for file in card.engines["onnx-int8"].files.values()}
    verdict = Verdict("onnx-int8", status, arithmetic, {}, "", files=files)  # type: ignore[arg-type]
    return EncoderBundle(bundle.directory, card.with_verdict(verdict), bundle.manifest)


def test_a_reduced_engine_serves_where_it_is_proven(bundle: EncoderBundle, tmp_path: Path) -> None:
    settings = RepositorySettings(engine="onnx-int8")
    build_repository([proven(bundle, cpu_arithmetic())], tmp_path / "models", settings)
    parameters = config_of(tmp_path / "models", "region_backbone").parameters
    assert parameters["proven_on"].string_value == cpu_arithmetic()
    assert parameters["engine"].string_value == "onnx-int8"


def test_what_is_refused_leaves_nothing(bundle: EncoderBundle, tmp_path: Path) -> None:
    out = tmp_path / "models"
    with pytest.raises(UnprovenEngine, match="it is failed on x86"):
        build_repository([proven(bundle, "x86", "failed")], out, RepositorySettings(engine="onnx-int8"))
    with pytest.raises(UnprovenEngine, match=r"it is proven on x86; prove it on such a machine: .* --device cuda"):
        settings = RepositorySettings(engine="onnx-int8", target="onnxruntime")
        build_repository([proven(bundle, "x86")], out, settings)
    with pytest.raises(UnknownEngine, match=r"tensorrt-fp16.*none yet: chextriev export engines"):
        build_repository([bundle], out, RepositorySettings(target="tensorrt"))
    with pytest.raises(UnknownEngine, match=r"torch-fp32.*choose one of onnx-fp32$"):
        build_repository([bundle], out, RepositorySettings(engine="torch-fp32"))
    with pytest.raises(InvalidSetting, match=f"bundles of {SYSTEM}, {SYSTEM}"):
        build_repository([bundle, bundle], out)
    with pytest.raises(InvalidSetting, match="no system"):
        build_repository([], out)
    assert list(tmp_path.iterdir()) == []


def test_an_engine_proven_on_a_gpu_serves_on_one(bundle: EncoderBundle, tmp_path: Path) -> None:
    settings = RepositorySettings(engine="onnx-int8", target="onnxruntime")
    build_repository([proven(bundle, "CUDA on NVIDIA H100")], tmp_path / "models", settings)
    parameters = config_of(tmp_path / "models", "region_backbone").parameters
    assert parameters["proven_on"].string_value == "CUDA on NVIDIA H100"
    with pytest.raises(UnprovenEngine, match="target cpu: it is proven on CUDA"):
        build_repository([proven(bundle, "CUDA on NVIDIA H100")], tmp_path / "cpu", replace(settings, target="cpu"))


def test_plans_are_built_by_the_tensorrt_that_triton_has(bundle: EncoderBundle, tmp_path: Path) -> None:
    try:
        here = this_machine(find_tensorrt())
    except MissingDependency as error:
        pytest.skip(str(error))
    if here.runtime == "tensorrt":
        pytest.skip("TensorRT and a GPU are there")
    card = bundle.card.with_engine("tensorrt-fp16", bundle.card.engines["onnx-fp32"])
    with pytest.raises(MissingDependency, match="whose plans Triton cannot load"):
        settings = RepositorySettings(target="tensorrt")
        build_repository([replace(bundle, card=card)], tmp_path / "models", settings)


def test_another_version_is_not_written_over_one_that_is_served(bundle: EncoderBundle, tmp_path: Path) -> None:
    build_repository([bundle], tmp_path / "models")
    with pytest.raises(InvalidSetting, match="holds version 1; write version 2 beside it, to another folder"):
        build_repository([bundle], tmp_path / "models", RepositorySettings(version=2))
    assert (tmp_path / "models" / GRAPH / "1").is_dir()


@pytest.mark.parametrize("wrong", [{"target": "gpu"}, {"version": 0}, {"queue": 0}, {"timeout_s": 0.0}])
def test_settings_outside_their_range(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidSetting):
        RepositorySettings(**wrong)  # type: ignore[arg-type]


def index_of(bundle: EncoderBundle, tiny: TinyBundle, out: Path, *, digest: str) -> Path:
    vectors = np.random.default_rng(0).normal(size=(len(tiny.table), bundle.card.embedding_width)).astype(np.float32)
    build_index(embedding_set(tiny.table, vectors, digest), out)
    return out


def test_an_index_is_served_beside_its_encoder(bundle: EncoderBundle, regions_made: TinyBundle, tmp_path: Path) -> None:
    index = index_of(bundle, regions_made, tmp_path / "index", digest=bundle.digest)
    build_repository([bundle], tmp_path / "models", RepositorySettings(indexes=(index,)))
    config = config_of(tmp_path / "models", f"index_{SYSTEM}")
    assert set(tensors(config)) == {"vectors", "k", "image_ids", "patient_ids", "hits"}
    held = tmp_path / "models" / f"index_{SYSTEM}" / "1" / "index" / "manifest.json"
    assert held.read_bytes() == (find_generation(index) / "manifest.json").read_bytes()


def test_an_index_of_another_encoder_is_refused(
    bundle: EncoderBundle, regions_made: TinyBundle, tmp_path: Path
) -> None:
    index = index_of(bundle, regions_made, tmp_path / "index", digest="0" * 64)
    with pytest.raises(OtherEncoder, match=f"000000000000; the bundles are of {bundle.digest[:12]}"):
        build_repository([bundle], tmp_path / "models", RepositorySettings(indexes=(index,)))


def test_the_command(regions_made: TinyBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "repository", str(regions_made.folder), str(tmp_path / "models")]
    assert main([*words, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["models"]) == MODELS
    assert main(words) == 0
    assert "engine onnx-fp32, target cpu, unchanged, reused" in capsys.readouterr().out
    assert main([*words, "--target", "laptop"]) == 2
    assert "choose one of cpu, onnxruntime, tensorrt" in capsys.readouterr().err
    assert main([*words[:3], str(regions_made.folder)]) == 2
    assert "is not a model repository" in capsys.readouterr().err


def test_the_readme_of_the_folder_tells_what_is_served(repository: Path, bundle: EncoderBundle) -> None:
    text = (repository / "README.md").read_text()
    words = " ".join(text.split())
    assert ", ".join(region.label for region in Region) in words
    assert ", ".join(finding.label for finding in Finding) in words
    for model in (GRAPH, ATH):
        assert all(f"`{name}`" in text for name in tensors(config_of(repository, model)))
    assert all(f"`{name}`" in text for name in config_of(repository, GRAPH).parameters)


def test_a_repository_holds_no_path_of_where_it_was_made(repository: Path, bundle: EncoderBundle) -> None:
    places = (str(bundle.directory), str(repository), str(Path.home()))
    for path in repository.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(place.encode() in content for place in places), path

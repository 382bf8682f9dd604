"""A repository with a localizer: located ensembles beside the others, and nothing unproven in them."""

from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as types

from chextriev.artifacts import read_manifest
from chextriev.bundle import EncoderBundle, Verdict, open_bundle
from chextriev.cli import main
from chextriev.errors import InvalidSetting, UnknownEngine, UnprovenEngine
from chextriev.machine import cpu_arithmetic
from chextriev.serving.doctor.health import ensembles
from chextriev.serving.repository import KIND, RepositorySettings, build_repository
from chextriev.serving.wire import LOCALIZER_MODELS, located_name
from tests.export.tiny_bundle import SYSTEM, TinyBundle

PLAIN, LOCATED = f"chextriev_{SYSTEM}", located_name(SYSTEM)
MODELS = {*LOCALIZER_MODELS, "radiograph_preprocess_located", LOCATED}


@pytest.fixture(scope="module")
def bundle(regions_made: TinyBundle) -> EncoderBundle:
    return open_bundle(regions_made.folder)


@pytest.fixture(scope="module")
def locating(localizer: TinyBundle) -> EncoderBundle:
    return open_bundle(localizer.folder)


@pytest.fixture(scope="module")
def repository(
    bundle: EncoderBundle, ath: TinyBundle, locating: EncoderBundle, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("located") / "models"
    build_repository([bundle, open_bundle(ath.folder)], out, localizer=locating)
    return out


def config_of(repository: Path, model: str) -> types.ModelConfig:
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), types.ModelConfig())


def dims(tensors: object) -> dict[str, list[int]]:
    return {tensor.name: list(tensor.dims) for tensor in tensors}  # type: ignore[attr-defined]


def test_a_system_of_regions_gets_an_ensemble_without_boxes_and_one_of_the_image_needs_none(repository: Path) -> None:
    models = set(read_manifest(repository, KIND).facts["models"])
    assert models >= MODELS
    assert {name for name in models if name.endswith("_located")} == {LOCATED, "radiograph_preprocess_located"}
    assert ensembles(repository) == ["ath", PLAIN, LOCATED]


def test_a_located_ensemble_takes_an_image_and_gives_boxes_beside_what_the_encoder_has(
    repository: Path, locating: EncoderBundle
) -> None:
    config, plain = config_of(repository, LOCATED), config_of(repository, PLAIN)
    assert dims(config.input) == {"image": [1]}
    assert dims(config.output) == {**dims(plain.output), "boxes": [18, 4], "box_confidence": [18]}
    said = {name: value.string_value for name, value in config.parameters.items()}
    assert said.pop("localizer_digest") == locating.digest
    assert said.pop("boxes_source") == f"localizer {locating.digest[:12]}, engine onnx-fp32"
    assert said == {name: value.string_value for name, value in plain.parameters.items()}
    assert (said["crop_area"], config_of(repository, "ath").parameters["crop_area"].string_value) == (
        "regions",
        "image",
    )


def test_each_step_fits_the_next(repository: Path) -> None:
    config = config_of(repository, LOCATED)
    known = {"image": [1]}
    for step in config.ensemble_scheduling.step:
        model = config_of(repository, step.model_name)
        assert dims(model.input).keys() == step.input_map.keys()
        assert {name: known[step.input_map[name]] for name in step.input_map} == dims(model.input)
        made = {step.output_map[name]: shape for name, shape in dims(model.output).items()}
        assert not made.keys() & known.keys()
        known |= made
    assert {name: known[name] for name in dims(config.output)} == dims(config.output)


def test_a_localizer_serves_every_system(bundle: EncoderBundle, locating: EncoderBundle, tmp_path: Path) -> None:
    other = EncoderBundle(bundle.directory, replace(bundle.card, system="other"), bundle.manifest)
    manifest, _ = build_repository([bundle, other], tmp_path / "models", localizer=locating)
    models = manifest.facts["models"]
    assert {"chextriev_other_located", LOCATED} < set(models)
    assert len(models) == len(set(models))
    steps = config_of(tmp_path / "models", "chextriev_other_located").ensemble_scheduling.step
    assert [step.model_name for step in steps][:3] == list(LOCALIZER_MODELS)


@pytest.mark.parametrize("target", ["cpu", "onnxruntime"])
def test_the_localizer_runs_where_the_encoder_does(
    bundle: EncoderBundle, locating: EncoderBundle, tmp_path: Path, target: str
) -> None:
    build_repository([bundle], tmp_path / "models", RepositorySettings(target=target, version=3), localizer=locating)
    for name, twin in (("localizer_backbone", "region_backbone"), ("localizer", f"encoder_{SYSTEM}")):
        config, wanted = config_of(tmp_path / "models", name), config_of(tmp_path / "models", twin)
        assert (config.backend, config.platform) == (wanted.backend, wanted.platform)
        assert list(config.version_policy.specific.versions) == [3]
        assert config.model_warmup
        assert config.dynamic_batching.default_queue_policy.max_queue_size == 64


def reduced(bundle: EncoderBundle, arithmetic: str) -> EncoderBundle:
    """The bundle with its float32 engine under the name of one that must be proven, and is on one kind of machine."""
    card = bundle.card.with_engine("onnx-int8", bundle.card.engines["onnx-fp32"])
    files = bundle.engine_files("onnx-fp32")
    verdict = Verdict("onnx-int8", "proven", arithmetic, {}, "", files=files)
    return EncoderBundle(bundle.directory, card.with_verdict(verdict), bundle.manifest)


def test_a_reduced_localizer_serves_where_it_is_proven(
    bundle: EncoderBundle, locating: EncoderBundle, tmp_path: Path
) -> None:
    settings = RepositorySettings(localizer_engine="onnx-int8")
    build_repository([bundle], tmp_path / "models", settings, localizer=reduced(locating, cpu_arithmetic()))
    said = {
        name: config_of(tmp_path / "models", name).parameters
        for name in ("localizer", "region_backbone", LOCATED, PLAIN)
    }
    assert said["localizer"]["engine"].string_value == "onnx-int8"
    assert said["localizer"]["proven_on"].string_value == cpu_arithmetic()
    assert said["region_backbone"]["engine"].string_value == "onnx-fp32"
    assert said[LOCATED]["boxes_source"].string_value.endswith("engine onnx-int8")
    assert said[LOCATED]["engine"] == said[PLAIN]["engine"]


def test_what_is_refused_leaves_nothing(
    bundle: EncoderBundle, ath: TinyBundle, locating: EncoderBundle, tmp_path: Path
) -> None:
    out = tmp_path / "models"
    reduce = RepositorySettings(localizer_engine="onnx-int8")
    with pytest.raises(UnprovenEngine, match=r"onnx-int8 .* it is proven on CUDA on a GPU"):
        build_repository([bundle], out, reduce, localizer=reduced(locating, "CUDA on a GPU"))
    with pytest.raises(UnknownEngine, match="onnx-int8"):
        build_repository([bundle], out, reduce, localizer=locating)
    with pytest.raises(InvalidSetting, match="onnx-int8 of no localizer; give its bundle"):
        build_repository([bundle], out, reduce)
    with pytest.raises(InvalidSetting, match=r"bundle of the encoder .* the bundle of a localizer is needed"):
        build_repository([bundle], out, localizer=bundle)
    with pytest.raises(InvalidSetting, match="bundle of a localizer, which proposes boxes and embeds nothing"):
        build_repository([bundle, locating], out)
    with pytest.raises(InvalidSetting, match="a localizer beside ath, which takes no boxes; leave"):
        build_repository([open_bundle(ath.folder)], out, localizer=locating)
    named = EncoderBundle(bundle.directory, replace(bundle.card, system="v6_located"), bundle.manifest)
    with pytest.raises(InvalidSetting, match="names in _located are kept"):
        build_repository([named], out)
    assert list(tmp_path.iterdir()) == []


def test_another_localizer_makes_another_repository(
    bundle: EncoderBundle, locating: EncoderBundle, tmp_path: Path
) -> None:
    out = tmp_path / "models"
    without, _ = build_repository([bundle], out)
    made, reused = build_repository([bundle], out, localizer=locating)
    assert not reused
    assert made.recipe != without.recipe
    assert build_repository([bundle], out, localizer=locating) == (made, True)


def test_the_command(
    regions_made: TinyBundle, localizer: TinyBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "repository", str(regions_made.folder), str(tmp_path / "models")]
    assert main([*words, "--localizer", str(localizer.folder)]) == 0
    assert LOCATED in capsys.readouterr().out
    assert main([*words, "--localizer", str(regions_made.folder)]) == 2
    assert "the bundle of a localizer is needed" in capsys.readouterr().err


def test_the_readme_of_the_folder_tells_of_it(repository: Path) -> None:
    text = (repository / "README.md").read_text()
    for name in MODELS - {LOCATED}:
        config = config_of(repository, name)
        assert all(f"`{each}`" in text for each in (name, *dims(config.input), *dims(config.output)))
    assert all(f"`{name}`" in text for name in config_of(repository, LOCATED).parameters)

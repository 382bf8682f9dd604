"""The models of a repository: the same names and tensors for every target, parts that bundles share made once."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from chextriev.anatomy import N_REGIONS
from chextriev.artifacts import Manifest
from chextriev.bundle import ENCODER, REGION_BACKBONE, EncoderBundle, TensorSpec
from chextriev.errors import OtherEncoder
from chextriev.localizer import localizer_source
from chextriev.preprocess import CropSpec
from chextriev.serving import model_config as triton
from chextriev.serving import wire
from chextriev.serving.proof import proven_on
from chextriev.serving.repository_settings import RepositorySettings

_OF_LOCALIZER = {
    wire.CROPS: "localizer_crops",
    wire.FEATURES: "localizer_features",
    wire.CONFIDENCE: wire.PROPOSED_CONFIDENCE,
}
"""Tensors of the localizer's models -> those of a located ensemble."""


@dataclass(frozen=True)
class Model:
    """A model of the repository: its configuration and what lies in its version's folder, as bytes or a directory."""

    config: triton.Config
    content: Mapping[str, bytes | Path] = field(default_factory=dict)


class RepositoryMaker:
    """Makes the models of a repository. Parts that are the same for several bundles are made once."""

    def __init__(self, settings: RepositorySettings) -> None:
        self._settings = settings
        self._models: dict[str, Model] = {}
        self._backbones: dict[str, str] = {}

    def models(
        self,
        bundles: Iterable[EncoderBundle],
        indexes: Mapping[Path, Manifest],
        localizer: EncoderBundle | None = None,
    ) -> list[Model]:
        """Every model, those that an ensemble needs before it.

        localizer: proposes boxes for the located ensembles, which there are for bundles that look at regions.
        """
        systems = {}
        for bundle in bundles:
            proven = self._proven(bundle)
            steps = [self._preprocess(bundle), self._backbone(bundle, proven), self._encoder(bundle, proven)]
            self._ensemble(bundle, steps)
            if localizer is not None and looks_at_regions(bundle):
                self._located(bundle, steps[1:], localizer)
            systems[bundle.digest] = bundle
        for directory, manifest in indexes.items():
            self._index(directory, manifest, systems)
        return list(self._models.values())

    def _add(self, config: triton.Config, content: Mapping[str, bytes | Path], *, queued: bool = True) -> Model:
        if queued:
            # On a processor a batch of crops takes as long as one by one, and those in it wait for the last.
            alone = config.backend == "python" and config.input[0].name in (wire.IMAGE, wire.CROPS)
            queue, timeout_s = self._settings.queue, self._settings.timeout_s
            triton.queue_requests(config, queue=queue, timeout_s=timeout_s, together=not alone)
        return self._models.setdefault(config.name, Model(config, content))

    def _new(self, name: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> triton.Config:
        return triton.new_config(name, inputs, outputs, version=self._settings.version)

    def _proven(self, bundle: EncoderBundle) -> str | None:
        return proven_on(bundle, self._settings.engine_of(bundle), self._settings.target)

    def _preprocess(self, bundle: EncoderBundle) -> Model:
        config = self._new(f"radiograph_preprocess{_suffix(bundle)}", request_specs(), [_crops(bundle)])
        # Two, so that one radiograph is decoded while another one is being cut.
        return self._crop(config, bundle, instances=2)

    def _crop(self, config: triton.Config, bundle: EncoderBundle, *, instances: int, code: str = "") -> Model:
        triton.run_on(config, "python", instances=instances)
        triton.set_parameters(config, {"crops": json.dumps(asdict(bundle.card.crops))})
        return self._add(config, {"model.py": template(code or "radiograph_preprocess", "model.py")})

    def _backbone(self, bundle: EncoderBundle, proven: str | None) -> Model:
        engine = bundle.engine(self._settings.chosen_engine)
        key = f"{bundle.manifest.files[engine.files[REGION_BACKBONE]]['sha256']} {bundle.card.crops.digest}"
        if key not in self._backbones:
            usual = f"region_backbone{_suffix(bundle)}"
            taken = usual in self._backbones.values()
            self._backbones[key] = f"{usual}_{bundle.card.system}" if taken else usual
        return self._extract(self._backbones[key], bundle, proven)

    def _extract(self, name: str, bundle: EncoderBundle, proven: str | None) -> Model:
        width = TensorSpec(wire.FEATURES, ("batch", bundle.card.crops.count, bundle.feature_width), "float32")
        config = self._new(name, [_crops(bundle)], [width])
        return self._engine(config, bundle, REGION_BACKBONE, proven)

    def _encoder(self, bundle: EncoderBundle, proven: str | None, *, name: str | None = None) -> Model:
        tensors = bundle.card.tensors[ENCODER]
        config = self._new(name or wire.encoder_name(bundle.card.system), tensors["inputs"], tensors["outputs"])
        return self._engine(config, bundle, ENCODER, proven)

    def _engine(self, config: triton.Config, bundle: EncoderBundle, part: str, proven: str | None) -> Model:
        if config.name in self._models:
            return self._models[config.name]
        engine, backend = self._settings.engine_of(bundle), self._settings.backend
        content = _engine_files(bundle, engine, part, backend=backend)
        (model,) = (value for name, value in content.items() if name != "model.py")
        parameters = {"engine": engine, "sha256": hashlib.sha256(model).hexdigest()}
        triton.set_parameters(config, parameters if proven is None else {**parameters, "proven_on": proven})
        # Two backbones on a processor: while crops are on their way to one, the other one keeps the cores busy.
        both = backend == "python" and part == REGION_BACKBONE and not bundle.locates
        triton.run_on(config, backend, instances=2 if both else 1)
        if backend == "tensorrt":
            config.instance_group[0].profile.extend(["0", "1", "2"])  # as many as to_tensorrt.BATCHES
        triton.warm_up(config, [1] if backend == "python" else [1, 8])
        return self._add(config, content)

    def _ensemble(self, bundle: EncoderBundle, steps: Sequence[Model]) -> None:
        config = self._new(wire.ensemble_name(bundle.card.system), request_specs(), _outputs(bundle))
        self._through(config, [(step, {}) for step in steps])
        triton.set_parameters(config, self._identity(bundle))
        self._add(config, {".keep": b""}, queued=False)

    def _located(self, bundle: EncoderBundle, encode: Sequence[Model], localizer: EncoderBundle) -> None:
        """The ensemble that has boxes proposed, and what it needs beside the steps that encode crops."""
        locate = self._localizer(localizer)
        config = self._new(
            f"radiograph_preprocess{wire.LOCATED}{_suffix(bundle)}",
            [_text(wire.IMAGE), *_proposals(wire.REGION_BOXES, wire.PROPOSED_CONFIDENCE)],
            [_crops(bundle), *_proposals(wire.BOXES, wire.CONFIDENCE)],
        )
        crop = self._crop(config, bundle, instances=self._croppers(), code="radiograph_preprocess_located")
        outputs = [*_outputs(bundle), *_proposals(wire.BOXES, wire.CONFIDENCE)]
        config = self._new(wire.located_name(bundle.card.system), [_text(wire.IMAGE)], outputs)
        self._through(config, [*((step, _OF_LOCALIZER) for step in locate), *((step, {}) for step in (crop, *encode))])
        source = localizer_source(localizer.digest, self._settings.engine_of(localizer))
        said = {"localizer_digest": localizer.digest, "boxes_source": source}
        triton.set_parameters(config, self._identity(bundle) | said)
        self._add(config, {".keep": b""}, queued=False)

    def _localizer(self, bundle: EncoderBundle) -> list[Model]:
        """The models that propose boxes, the same for every located ensemble."""
        preprocess, backbone, head = wire.LOCALIZER_MODELS
        if head in self._models:
            return [self._models[name] for name in wire.LOCALIZER_MODELS]
        proven = self._proven(bundle)
        config = self._new(preprocess, [_text(wire.IMAGE)], [_crops(bundle)])
        crop = self._crop(config, bundle, instances=self._croppers(), code=preprocess)
        return [crop, self._extract(backbone, bundle, proven), self._encoder(bundle, proven, name=head)]

    def _croppers(self) -> int:
        """Processes of each model that crops for located ensembles.

        One radiograph is decoded in the first model while another one is cut in the second. On a processor the backbone
        takes several times as long as either; a GPU would wait for one.
        """
        return 1 if self._settings.backend == "python" else 2

    def _through(self, config: triton.Config, steps: Sequence[tuple[Model, Mapping[str, str]]]) -> None:
        """The steps of an ensemble; its tensors have the names of the models' unless a step renames them."""
        for step, renamed in steps:
            tensors = [{each.name: renamed.get(each.name, each.name) for each in side} for side in _sides(step.config)]
            triton.add_step(config, step.config.name, (tensors[0], tensors[1]), version=self._settings.version)

    def _identity(self, bundle: EncoderBundle) -> dict[str, str]:
        """What a client must know of an ensemble."""
        return {
            "system": bundle.card.system,
            "encoder_digest": bundle.digest,
            "engine": self._settings.chosen_engine,
            "embedding_width": str(bundle.card.embedding_width),
            "crop_area": bundle.card.crops.area,
        }

    def _index(self, directory: Path, manifest: Manifest, bundles: Mapping[str, EncoderBundle]) -> None:
        digest = manifest.recipe.parents.get("encoder", "")
        if digest not in bundles:
            known = ", ".join(f"{key[:12]} ({bundle.card.system})" for key, bundle in bundles.items())
            raise OtherEncoder(f"{directory} is an index of encoder {digest[:12]}; the bundles are of {known}")
        bundle = bundles[digest]
        config = self._new(wire.index_name(bundle.card.system), search_specs(bundle), [_text(wire.HITS)])
        triton.run_on(config, "python")
        triton.set_parameters(config, {"encoder_digest": digest, "system": bundle.card.system})
        self._add(config, {"model.py": template("index", "model.py"), "index": directory})


def looks_at_regions(bundle: EncoderBundle) -> bool:
    """Whether it needs boxes."""
    return bundle.card.crops.area != "image"


def request_specs() -> list[TensorSpec]:
    """The inputs of every ensemble."""
    return [_text(wire.IMAGE), TensorSpec(wire.BOXES, ("batch", N_REGIONS, 4), "float32")]


def search_specs(bundle: EncoderBundle) -> list[TensorSpec]:
    """The inputs of a served index."""
    vectors = TensorSpec(wire.VECTORS, ("batch", bundle.card.embedding_width), "float32")
    return [vectors, TensorSpec(wire.K, ("batch", 1), "int32"), _text(wire.IMAGE_IDS), _text(wire.PATIENT_IDS)]


def _engine_files(bundle: EncoderBundle, engine: str, part: str, *, backend: str) -> dict[str, bytes]:
    if backend == "python":
        return {
            "model.py": template("onnx_engine", "model.py"),
            "model.onnx": bundle.read(bundle.engine(engine).files[part]),
        }
    from chextriev.export.served_models import served_onnx, served_plan

    if backend == "onnxruntime":
        return {"model.onnx": served_onnx(bundle, engine, part)}
    return {"model.plan": served_plan(bundle, engine, part)}


def _suffix(bundle: EncoderBundle) -> str:
    """Of the names of models that depend on the crops: nothing for those of the regions at the usual size."""
    crops = bundle.card.crops
    area = "" if crops.area == "regions" else "_" + crops.area.replace("+", "_")
    return area if crops.size == CropSpec().size else f"{area}_{crops.size}"


def _crops(bundle: EncoderBundle) -> TensorSpec:
    crops = bundle.card.crops
    return TensorSpec(wire.CROPS, ("batch", crops.count, 1, crops.size, crops.size), "uint8")


def _proposals(boxes: str, confidence: str) -> list[TensorSpec]:
    shape = ("batch", N_REGIONS)
    return [TensorSpec(boxes, (*shape, 4), "float32"), TensorSpec(confidence, shape, "float32")]


def _outputs(bundle: EncoderBundle) -> list[TensorSpec]:
    return bundle.card.tensors[ENCODER]["outputs"]


def _sides(config: triton.Config) -> tuple[Any, Any]:
    return config.input, config.output


def _text(name: str) -> TensorSpec:
    return TensorSpec(name, ("batch", 1), "bytes")


def template(*name: str) -> bytes:
    """A file of the folder `model_repository` of this package."""
    return files("chextriev.serving").joinpath("model_repository", *name).read_bytes()

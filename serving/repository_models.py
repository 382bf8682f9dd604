"""The models of a repository: the same names and tensors for every target, parts that bundles share made once."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path

from chextriev.anatomy import N_REGIONS
from chextriev.artifacts import Manifest
from chextriev.bundle import ENCODER, REGION_BACKBONE, EncoderBundle, TensorSpec
from chextriev.errors import OtherEncoder
from chextriev.preprocess import CropSpec
from chextriev.serving import model_config as triton
from chextriev.serving import wire
from chextriev.serving.proof import proven_on
from chextriev.serving.repository_settings import RepositorySettings


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

    def models(self, bundles: Iterable[EncoderBundle], indexes: Mapping[Path, Manifest]) -> list[Model]:
        """Every model, those that an ensemble needs before it."""
        systems = {}
        for bundle in bundles:
            proven = proven_on(bundle, self._settings.chosen_engine, self._settings.target)
            steps = [self._preprocess(bundle), self._backbone(bundle, proven), self._encoder(bundle, proven)]
            self._ensemble(bundle, [model.config.name for model in steps])
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

    def _preprocess(self, bundle: EncoderBundle) -> Model:
        config = self._new(f"radiograph_preprocess{_suffix(bundle)}", request_specs(), [_crops(bundle)])
        # Two, so that one radiograph is decoded while another one is being cut.
        triton.run_on(config, "python", instances=2)
        triton.set_parameters(config, {"crops": json.dumps(asdict(bundle.card.crops))})
        return self._add(config, {"model.py": template("radiograph_preprocess", "model.py")})

    def _backbone(self, bundle: EncoderBundle, proven: str | None) -> Model:
        engine = bundle.engine(self._settings.chosen_engine)
        key = f"{bundle.manifest.files[engine.files[REGION_BACKBONE]]['sha256']} {bundle.card.crops.digest}"
        if key not in self._backbones:
            usual = f"region_backbone{_suffix(bundle)}"
            taken = usual in self._backbones.values()
            self._backbones[key] = f"{usual}_{bundle.card.system}" if taken else usual
        width = TensorSpec(wire.FEATURES, ("batch", bundle.card.crops.count, bundle.feature_width), "float32")
        config = self._new(self._backbones[key], [_crops(bundle)], [width])
        return self._engine(config, bundle, REGION_BACKBONE, proven)

    def _encoder(self, bundle: EncoderBundle, proven: str | None) -> Model:
        tensors = bundle.card.tensors[ENCODER]
        config = self._new(wire.encoder_name(bundle.card.system), tensors["inputs"], tensors["outputs"])
        return self._engine(config, bundle, ENCODER, proven)

    def _engine(self, config: triton.Config, bundle: EncoderBundle, part: str, proven: str | None) -> Model:
        if config.name in self._models:
            return self._models[config.name]
        engine, backend = self._settings.chosen_engine, self._settings.backend
        content = _engine_files(bundle, engine, part, backend=backend)
        (model,) = (value for name, value in content.items() if name != "model.py")
        parameters = {"engine": engine, "sha256": hashlib.sha256(model).hexdigest()}
        triton.set_parameters(config, parameters if proven is None else {**parameters, "proven_on": proven})
        # Two backbones on a processor: while crops are on their way to one, the other one keeps the cores busy.
        both = backend == "python" and part == REGION_BACKBONE
        triton.run_on(config, backend, instances=2 if both else 1)
        if backend == "tensorrt":
            config.instance_group[0].profile.extend(["0", "1", "2"])  # as many as to_tensorrt.BATCHES
        triton.warm_up(config, [1] if backend == "python" else [1, 8])
        return self._add(config, content)

    def _ensemble(self, bundle: EncoderBundle, steps: list[str]) -> None:
        outputs, version = bundle.card.tensors[ENCODER]["outputs"], self._settings.version
        config = self._new(wire.ensemble_name(bundle.card.system), request_specs(), outputs)
        through = [_same(wire.IMAGE, wire.BOXES), _same(wire.CROPS), _same(wire.FEATURES)]
        through.append(_same(*(tensor.name for tensor in outputs)))
        for place, step in enumerate(steps):
            triton.add_step(config, step, (through[place], through[place + 1]), version=version)
        triton.set_parameters(
            config,
            {
                "system": bundle.card.system,
                "encoder_digest": bundle.digest,
                "engine": self._settings.chosen_engine,
                "embedding_width": str(bundle.card.embedding_width),
            },
        )
        self._add(config, {".keep": b""}, queued=False)

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


def _text(name: str) -> TensorSpec:
    return TensorSpec(name, ("batch", 1), "bytes")


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def template(*name: str) -> bytes:
    """A file of the folder `model_repository` of this package."""
    return files("chextriev.serving").joinpath("model_repository", *name).read_bytes()

"""The reference engine: a bundle's weights as they were trained, in eager PyTorch and float32."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from chextriev.bundle import ENCODER, REGION_BACKBONE, EncoderBundle
from chextriev.errors import DamagedArtifact, InvalidSetting
from chextriev.export.runners import EngineEncoder
from chextriev.export.torch_weights import read_weights, restore_backbone, restore_encoder
from chextriev.machine import cpu_arithmetic


class TorchEncoder(EngineEncoder):
    """A bundle in PyTorch, nothing folded."""

    def __init__(self, bundle: EncoderBundle, *, engine: str, device: str = "cpu") -> None:
        super().__init__(bundle, engine=engine, device=device)
        if device == "cuda" and not torch.cuda.is_available():
            raise InvalidSetting("this PyTorch finds no CUDA device; use device 'cpu'")
        files = bundle.engine(engine).files
        weights = {part: read_weights(bundle.read(name), bundle.directory / name) for part, name in files.items()}
        try:
            extractor = restore_backbone(weights[REGION_BACKBONE])
            encoder = restore_encoder(bundle.card.spec, weights[ENCODER])
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise DamagedArtifact(f"{bundle.directory}: weights of {engine} do not fit its card: {error}") from error
        self._extractor = extractor.to(device)
        self._extractor.trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._encoder = encoder.to(device)
        self._names = [tensor.name for tensor in bundle.card.tensors[ENCODER]["outputs"]]
        self.arithmetic = cpu_arithmetic() if device == "cpu" else f"CUDA on {torch.cuda.get_device_name()}"

    @torch.inference_mode()
    def _features(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # else a GPU rounds fp32 to 10 bits
            features: torch.Tensor = self._extractor(torch.from_numpy(crops).to(self.device))
        return np.asarray(features.cpu().numpy())

    @torch.inference_mode()
    def _outputs(self, features: npt.NDArray[np.float32]) -> Mapping[str, npt.NDArray[Any]]:
        output = self._encoder(torch.from_numpy(features).to(self.device))
        return {name: getattr(output, name).cpu().numpy() for name in self._names}

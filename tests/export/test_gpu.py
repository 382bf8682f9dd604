"""On an NVIDIA GPU the answers are those of the CPU."""

import numpy as np
import pytest
import torch

from chextriev.errors import MissingDependency
from chextriev.export.build_bundle import relative_difference
from chextriev.export.onnx_runner import OnnxExtractor, open_session
from chextriev.train.backbones import load_backbone
from chextriev.train.features import TorchExtractor

CROPS = np.random.default_rng(0).integers(0, 255, (18, 1, 224, 224), np.uint8)
TOLERANCE = 5e-3  # TF32 convolutions keep 10 bits of mantissa


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_torch_on_cuda_equals_torch_on_cpu() -> None:
    backbone = load_backbone("efficientnet-lite0")
    on_gpu = TorchExtractor(backbone, device="cuda").extract(CROPS)
    assert relative_difference(on_gpu, TorchExtractor(backbone).extract(CROPS)) <= TOLERANCE


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_onnx_runtime_on_cuda_equals_the_cpu() -> None:
    backbone = load_backbone("efficientnet-lite0")
    on_cpu = OnnxExtractor.from_backbone(backbone)
    on_gpu = OnnxExtractor.from_backbone(backbone, device="cuda")
    assert relative_difference(on_gpu.extract(CROPS), on_cpu.extract(CROPS)) <= TOLERANCE


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_missing_gpu_is_said() -> None:
    with pytest.raises(MissingDependency, match=r"cannot use cuda; run: pip install 'chextriev\[gpu-export\]'"):
        open_session(b"", "cuda")

"""What Triton loads as region_backbone and encoder_<system>; its code is in the installed package."""

from chextriev.serving.models.onnx_engine import OnnxEngine as TritonPythonModel

__all__ = ["TritonPythonModel"]

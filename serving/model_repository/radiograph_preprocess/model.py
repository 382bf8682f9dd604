"""What Triton loads as radiograph_preprocess; its code is in the installed package."""

from chextriev.serving.models.preprocess import RadiographPreprocess as TritonPythonModel

__all__ = ["TritonPythonModel"]

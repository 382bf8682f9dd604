"""What Triton loads as localizer_preprocess; its code is in the installed package."""

from chextriev.serving.models.preprocess import LocalizerPreprocess as TritonPythonModel

__all__ = ["TritonPythonModel"]

"""What Triton loads as radiograph_preprocess_located; its code is in the installed package."""

from chextriev.serving.models.preprocess import LocatedPreprocess as TritonPythonModel

__all__ = ["TritonPythonModel"]

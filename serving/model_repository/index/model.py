"""What Triton loads as index_<system>; its code is in the installed package."""

from chextriev.serving.models.index_search import IndexSearch as TritonPythonModel

__all__ = ["TritonPythonModel"]

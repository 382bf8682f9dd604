"""The one door to optional dependencies, so that a missing one is named together with its cure."""

from importlib import import_module
from types import ModuleType

from chextriev.errors import MissingDependency


def require(module: str, *, extra: str) -> ModuleType:
    """Import `module`; if it is not installed, say which extra of this package brings it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise MissingDependency(
            f"this needs the module {module!r}, which is not installed; run: pip install 'chextriev[{extra}]'"
        ) from error

"""Search spaces for `chextriev train tune`, one YAML a system."""

from pathlib import Path

from chextriev.errors import UnknownSystem

_FOLDER = Path(__file__).parent


def space_path(system: str) -> Path:
    """The shipped search space of a system."""
    path = _FOLDER / f"{system}.yaml"
    if not path.is_file():
        raise UnknownSystem(system, sorted(file.stem for file in _FOLDER.glob("*.yaml")), where="the search spaces")
    return path

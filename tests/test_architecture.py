"""Who may import whom."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = ("train", "export", "serving", "index", "eval")
MAY_IMPORT = {
    "nouns": set(),
    "train": {"eval.metrics"},
    "export": {"train", "eval.metrics", "eval.gate", "eval.localizer_gate", "index"},
    "serving": {"index", "export"},
    "serving.client": {"index"},
    "index": set(),
    "eval": {"index"},
}
HOME_OF = {
    "torch": {"train", "export"},
    "pytorch_lightning": {"train"},
    "faiss": {"index"},
    "pymilvus": {"index"},
    "milvus_lite": {"index"},
    "tritonclient": {"serving"},
    "onnxruntime": {"export"},
    "onnx": {"export"},
    "tensorrt": {"export"},
    "tensorrt_rtx": {"export"},
}
LIGHTNING_FILES = 3


def sources() -> Iterator[tuple[str, Path]]:
    """(layer, file) of everything that is installed."""
    for path in (ROOT / "chextriev").rglob("*.py"):
        yield ("cli" if "cli" in path.parts or path.stem == "__main__" else "nouns"), path
    for stage in STAGES:
        for path in (ROOT / stage).rglob("*.py"):
            yield ("serving.client" if path.parent == ROOT / "serving" / "client" else stage), path


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, by a statement or through `require`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
            yield from (str(argument.value) for argument in node.args if isinstance(argument, ast.Constant))


FILES = [pytest.param(layer, path, id=str(path.relative_to(ROOT))) for layer, path in sources()]


@pytest.mark.parametrize(("layer", "path"), FILES)
def test_imports_follow_the_rules(layer: str, path: Path) -> None:
    if layer == "cli":
        return
    for module in imports(path):
        assert not module.startswith("chextriev.cli"), f"{path} imports the command line"
        parts = module.split(".")
        if parts[0] == "chextriev" and len(parts) > 1 and parts[1] in STAGES and parts[1] != layer.split(".")[0]:
            target = ".".join(parts[1:])
            allowed = any(target == may or target.startswith(f"{may}.") for may in MAY_IMPORT[layer])
            assert allowed, f"{path} ({layer}) imports {module}"


@pytest.mark.parametrize(("layer", "path"), FILES)
def test_heavy_libraries_stay_at_home(layer: str, path: Path) -> None:
    for module in imports(path):
        library, stage = module.split(".")[0], layer.split(".")[0]
        assert stage in HOME_OF.get(library, {stage}), f"{path} ({layer}) imports {library}"


def test_the_client_needs_no_server_part() -> None:
    others = {path.stem for path in (ROOT / "serving").iterdir()} - {"client", "wire", "__init__"}
    for path in (ROOT / "serving" / "client").glob("*.py"):
        used = {module.split(".")[2] for module in imports(path) if module.startswith("chextriev.serving.")}
        assert not used & others, f"{path} imports {used & others}"


def test_lightning_lives_in_three_files() -> None:
    users = {path for _, path in sources() if any(name.startswith("pytorch_lightning") for name in imports(path))}
    assert len(users) <= LIGHTNING_FILES, users


def test_no_module_is_named_after_a_library() -> None:
    names = {path.stem for _, path in sources()}
    assert not names & {*HOME_OF, "numpy", "triton", "tensorrt", "lightning", "pyarrow"}

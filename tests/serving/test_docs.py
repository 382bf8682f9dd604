"""The Python of docs/serving.md runs as it stands, but for the address, the system and the folder of the demo."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chextriev.anatomy import Region
from tests.export.tiny_bundle import SYSTEM, TinyBundle
from tests.serving.served import Served

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(served: Served, tmp_path: Path) -> Path:
    """Where a user has an image and its boxes."""
    file = served.files[0]
    (tmp_path / "image.jpg").write_bytes(file.content)
    boxes = {region.label: [float(corner) for corner in file.boxes.xyxy[region]] for region in Region}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    return tmp_path


@pytest.fixture
def run(served: Served, regions_made: TinyBundle, folder: Path):  # type: ignore[no-untyped-def]
    def run_block(code: str) -> list[str]:
        for said, meant in (
            ("127.0.0.1:8001", served.server.grpc),
            ('"v6"', f'"{SYSTEM}"'),
            ("chextriev_v6", f"chextriev_{SYSTEM}"),
            ("demo/study", str(regions_made.study)),
        ):
            code = code.replace(said, meant)
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run_block


def test_the_client(run) -> None:  # type: ignore[no-untyped-def]
    code = BLOCKS[0]
    assert len(code.strip().splitlines()) <= 10
    lines = run(code)
    assert len(lines) == 9 + 5
    assert all(re.match(r"[01]\.\d{3}  \w", line) for line in lines)


def test_a_stream(run, served: Served) -> None:  # type: ignore[no-untyped-def]
    assert run(BLOCKS[1]) == [f"{file.image_id} (1, 32)" for file in served.files]


def test_the_stock_client(run) -> None:  # type: ignore[no-untyped-def]
    assert run(BLOCKS[2]) == ["(1, 32) (1, 9)"]


def test_every_block_is_run() -> None:
    assert len(BLOCKS) == 3

"""What `eval engines` is made of: names in the picture, files of an engine, and the fresh process that is measured."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from chextriev.artifacts import seal
from chextriev.bundle import CARD_FILE, KIND, PARTS, EngineRecord, open_bundle
from chextriev.encoder import open_encoder
from chextriev.eval.engine_identity import engine_files
from chextriev.eval.engine_labels import CHARACTER, LINE, RADIUS, Box, Label, Mark, place_labels
from chextriev.machine import peak_memory_bytes
from tests.export.tiny_bundle import TinyBundle

FRAME = Box(70, 56, 736, 366)
ENGINES = ("torch-fp32", "onnx-fp32", "onnx-int8", "onnx-fp16", "tensorrt-fp16", "tensorrt-int8")


def box_of(mark: Mark, label: Label) -> Box:
    half = CHARACTER * len(mark.name) / 2
    return Box(label.x - half, label.y + 4 - LINE, label.x + half, label.y + 4)


@pytest.mark.parametrize("across", [0, 3, 20, 40, 100])
@pytest.mark.parametrize("up", [0, 2, 11])
def test_names_cover_nothing(across: float, up: float) -> None:
    marks = [Mark(name, 120 + across * n, 90 + up * n, 80 + up * n, 95 + up * n) for n, name in enumerate(ENGINES)]
    chance = Box(FRAME.left, 300, FRAME.right, 320)
    labels = place_labels(marks, inside=FRAME, kept=[chance])
    boxes = [box_of(mark, label) for mark, label in zip(marks, labels, strict=True)]
    for place, box in enumerate(boxes):
        assert box.is_in(FRAME)
        assert not any(box.meets(other) for other in (*boxes[:place], chance))
        assert not any(box.meets(Box(m.x - 5, m.y - 5, m.x + 5, m.y + 5)) for m in marks)


def test_a_name_stands_on_its_mark_where_there_is_room_and_is_led_to_elsewhere() -> None:
    alone = Mark("onnx-fp32", 300, 200, 200, 200)
    (label,) = place_labels([alone], inside=FRAME, kept=[])
    assert (label.x, label.end) == (alone.x, None)
    assert alone.y - RADIUS - LINE < label.y < alone.y - RADIUS
    crowded = place_labels([alone] * 6, inside=FRAME, kept=[])
    assert [label.end is not None for label in crowded] == [False] * 4 + [True] * 2
    assert all(label.end[0] == alone.x for label in crowded if label.end)


def test_a_fresh_process_refuses_in_words() -> None:
    request = {"bundle": "/nowhere", "engine": "onnx-fp32", "device": "cpu", "images": [], "begun_s": 0.0}
    words = [sys.executable, "-m", "chextriev.eval.engine_process"]
    ended = subprocess.run(words, input=json.dumps(request), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("NotAnArtifact: there is no /nowhere")


def test_the_memory_of_a_child_is_not_that_of_its_parent() -> None:
    held = np.ones(40_000_000)  # 320 MB
    words = [sys.executable, "-c", "from chextriev.machine import *; print(peak_memory_bytes())"]
    child = int(subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout)
    assert 5e6 < child < held.nbytes < peak_memory_bytes()


def test_the_files_of_a_plan_are_those_of_this_machine(ath: TinyBundle, tmp_path: Path) -> None:
    other = ath.copy_to(tmp_path / "bundle")
    encoder = open_encoder(other)
    plans = {}
    for gpu in ("NVIDIA A2", "NVIDIA L4"):
        files = {part: f"tensorrt-fp16/{gpu[-2:]}/{part}.plan" for part in PARTS}
        plans[gpu] = {"runtime": "tensorrt", "version": "10.16.0", "gpu": gpu, **files}
        for name in files.values():
            (other / name).parent.mkdir(parents=True, exist_ok=True)
            (other / name).write_text(name)
    record = EngineRecord(dict(encoder.bundle.engine("onnx-fp32").files), plans=plans)
    (other / CARD_FILE).write_text(encoder.bundle.card.with_engine("tensorrt-fp16", record).to_json())
    seal(other, KIND, encoder.bundle.manifest.recipe)
    encoder.bundle, encoder.engine = open_bundle(other), "tensorrt-fp16"
    encoder.arithmetic = "TensorRT 10.16.0 for NVIDIA L4"
    assert set(engine_files(encoder)) == {f"tensorrt-fp16/L4/{part}.plan" for part in PARTS}

"""On an NVIDIA GPU, TensorRT plans give the answers of ONNX Runtime on the CPU."""

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from chextriev.errors import DamagedArtifact, InvalidSetting
from chextriev.export.qdq_for_tensorrt import make_symmetric_qdq, measure_ranges, to_float16
from chextriev.export.tensorrt_machine import this_machine
from chextriev.export.tensorrt_session import TensorRTSession
from chextriev.export.to_tensorrt import PlanSettings, build_plan, encoder_settings
from tests.export.tensorrt_models import (
    SIDE,
    answers,
    block_crops,
    cosines,
    graph_encoder,
    real_backbone,
    relative_difference,
    small_backbone,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(find_spec("tensorrt") is None, reason="no TensorRT: pip install 'chextriev[gpu-tensorrt]'"),
]

FLOAT16 = 1e-2
"""Largest difference over the largest value: 11 bits of mantissa, through 50 layers; 3e-4 to 1.2e-2 on a CPU."""

SAME_INT8 = 0.99
"""Smallest cosine to the same int8 model on a CPU: sums in another order tip some values to the next of 255 steps."""

INT8 = 0.97
"""Smallest cosine to the float32 model, as on the CPU."""

SMALL = PlanSettings("crops", (4, 16))


@pytest.fixture(scope="module")
def small_session() -> TensorRTSession:
    return TensorRTSession(build_plan(to_float16(small_backbone()), SMALL), this_machine())


@pytest.mark.parametrize("rows", [0, 1, 4, 5, 16, 17, 37])
def test_any_number_of_rows_is_answered_in_order(small_session: TensorRTSession, rows: int) -> None:
    crops = block_crops(rows, SIDE)
    found = small_session.run({"crops": crops})["features"]
    assert found.shape == (rows, 24)
    assert found.dtype == np.float32
    if rows:
        (expected,) = answers(small_backbone(), crops)
        assert relative_difference(found, expected) <= FLOAT16


def test_four_threads_get_the_answers_of_one(small_session: TensorRTSession) -> None:
    batches = [block_crops(1 + 5 * seed, SIDE, seed) for seed in range(8)]
    alone = [small_session.run({"crops": batch})["features"] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda batch: small_session.run({"crops": batch})["features"], batches * 5))
    for found, expected in zip(together, alone * 5, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_other_arrays_are_refused(small_session: TensorRTSession) -> None:
    with pytest.raises(InvalidSetting, match="was given features; it takes crops"):
        small_session.run({"features": block_crops(1, SIDE)})
    with pytest.raises(InvalidSetting, match=r"crops is uint8 \[1, 1, 64, 64\]; uint8 \['n', 1, 32, 32\] is needed"):
        small_session.run({"crops": block_crops(1, 64)})
    with pytest.raises(InvalidSetting, match="crops is float32"):
        small_session.run({"crops": block_crops(1, SIDE).astype(np.float32)})


def test_a_damaged_plan_is_refused_in_words() -> None:
    plan = build_plan(small_backbone(), SMALL)
    with pytest.raises(DamagedArtifact, match="TensorRT cannot read the plan"):
        TensorRTSession(plan[: len(plan) // 2], this_machine())


def test_timings_are_kept(tmp_path: Path) -> None:
    timings = tmp_path / "timings"
    build_plan(small_backbone(), SMALL, timing_cache=timings)
    first = timings.read_bytes()
    build_plan(to_float16(small_backbone()), SMALL, timing_cache=timings)
    assert len(timings.read_bytes()) > len(first) > 0
    timings.write_bytes(b"damaged")
    build_plan(small_backbone(), SMALL, timing_cache=timings)
    assert len(timings.read_bytes()) > len(b"damaged")


def test_the_backbone_in_float16_and_int8(tmp_path: Path) -> None:
    model, settings = real_backbone(tmp_path), PlanSettings("crops", (18, 36))
    ranges = measure_ranges(model, [{"crops": block_crops(4, 224, seed)} for seed in (1, 2)])
    quantized, crops = make_symmetric_qdq(model, ranges), block_crops(24, 224)
    (exact,), (rounded,) = answers(model, crops), answers(quantized, crops)
    sessions = [
        TensorRTSession(build_plan(to_float16(each), settings, timing_cache=tmp_path / "timings"), this_machine())
        for each in (model, quantized)
    ]
    halved, integer = (session.run({"crops": crops})["features"] for session in sessions)
    assert cosines(halved, exact).min() > 0.999
    assert cosines(integer, rounded).min() > SAME_INT8
    assert cosines(integer, exact).min() > INT8


def test_the_encoder_in_float16(tmp_path: Path) -> None:
    model = graph_encoder(tmp_path)
    session = TensorRTSession(build_plan(to_float16(model), encoder_settings()), this_machine())
    features = np.random.default_rng(0).random((40, 18, 64), np.float32)
    found = session.run({"features": features})
    embedding, vectors = answers(model, features)
    assert relative_difference(found["embedding"], embedding) <= FLOAT16
    assert relative_difference(found["vectors"], vectors) <= FLOAT16

"""Engines on TensorRT."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from chextriev.bundle import ENCODER, PARTS, REGION_BACKBONE, EncoderBundle, EngineRecord
from chextriev.errors import InvalidSetting, OtherMachine
from chextriev.export.runners import EngineEncoder
from chextriev.export.tensorrt_machine import REBUILD, PlanKey, this_machine
from chextriev.export.tensorrt_session import TensorRTSession


class TensorRTEncoder(EngineEncoder):
    """A bundle on the plans that were built by this TensorRT for this GPU; OtherMachine where it has none."""

    def __init__(self, bundle: EncoderBundle, *, engine: str, device: str = "cuda") -> None:
        super().__init__(bundle, engine=engine, device=device)
        if device != "cuda":
            raise InvalidSetting(f"engine {engine} runs on an NVIDIA GPU; use device 'cuda', or engine onnx-fp32")
        record, here = bundle.engine(engine), this_machine()
        if here.folder not in record.plans:
            built = ", ".join(str(key_of(plan)) for plan in record.plans.values()) or "nobody"
            raise OtherMachine(f"the plans of {engine} were built by {built}; this machine has {here}; {REBUILD}")
        plan = record.plans[here.folder]
        self._sessions = {part: TensorRTSession(bundle.read(plan[part]), key_of(plan)) for part in PARTS}
        self.arithmetic = str(here)

    def _features(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        return self._sessions[REGION_BACKBONE].run({"crops": crops})["features"]

    def _outputs(self, features: npt.NDArray[np.float32]) -> Mapping[str, npt.NDArray[Any]]:
        return self._sessions[ENCODER].run({"features": features})


def plan_entry(key: PlanKey, files: Mapping[str, str]) -> dict[str, str]:
    """A plan as an engine's record keeps it."""
    return {"runtime": key.runtime, "version": key.version, "gpu": key.gpu, **files}


def key_of(plan: Mapping[str, str]) -> PlanKey:
    """What a recorded plan belongs to."""
    return PlanKey(plan["runtime"], plan["version"], plan["gpu"])


def has_plan(record: EngineRecord) -> bool:
    """Whether an engine has a plan for this machine."""
    return this_machine().folder in record.plans

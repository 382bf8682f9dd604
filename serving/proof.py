"""Where an engine may serve: the verdicts of the retrieval gate, by the target of a repository.

The Python backend asks again when it loads an engine. Triton's own backends cannot ask, so that a repository for a GPU
is made of engines proven on one: of ONNX Runtime with CUDA on any, of TensorRT on the GPU of this machine.
"""

from chextriev.bundle import DEFAULT, EncoderBundle
from chextriev.errors import MissingDependency, UnknownEngine, UnprovenEngine

EXECUTORS = {"cpu": "onnx", "onnxruntime": "onnx", "tensorrt": "tensorrt"}
"""Target -> the first word of the engines that it can serve."""


def check_engine(bundle: EncoderBundle, engine: str, target: str) -> None:
    """UnknownEngine where the bundle has no such engine or the target cannot serve it."""
    executor = EXECUTORS[target]
    if engine in bundle.card.engines and engine.split("-")[0] == executor:
        return
    usable = [name for name in bundle.card.engines if name.split("-")[0] == executor]
    wanted = engine if engine.startswith(executor) else f"{executor}-fp16"
    make = f"(none yet: chextriev export engines BUNDLE DATA --engines {wanted})"
    raise UnknownEngine(engine, usable or [make], where=f"{bundle.directory} for target {target}")


def proven_on(bundle: EncoderBundle, engine: str, target: str) -> str | None:
    """The kinds of machine that an engine may serve on; None for `onnx-fp32`, which serves on any.

    UnprovenEngine where the gate has passed it on none that the target could be, MissingDependency where a plan cannot
    be built here.
    """
    check_engine(bundle, engine, target)
    if engine == DEFAULT:
        return None
    files, here = bundle.engine_files(engine), str(plan_key()) if target == "tensorrt" else ""
    verdicts = [verdict for verdict in bundle.card.verdicts if verdict.engine == engine]
    proven = [each.arithmetic for each in verdicts if each.status == "proven" and each.files == files]
    kept = [name for name in proven if _is_of(name, target, here)]
    if not kept:
        device = "" if target == "cpu" else " --device cuda"
        found = ", ".join(f"{verdict.status} on {verdict.arithmetic}" for verdict in verdicts) or "measured nowhere"
        raise UnprovenEngine(
            f"engine {engine} of {bundle.directory} may not serve with target {target}: it is {found}; prove it on such"
            f" a machine: chextriev export engines BUNDLE DATA --engines {engine}{device}"
        )
    return ", ".join(kept)


def plan_key() -> object:
    """TensorRT and GPU of this machine; MissingDependency where plans that Triton can load cannot be built."""
    from chextriev.export.tensorrt_machine import this_machine

    here = this_machine()
    if here.runtime != "tensorrt":
        raise MissingDependency(
            f"here is {here}, whose plans Triton cannot load; build the repository where the server is, with a GPU and"
            " `pip install 'chextriev[gpu-tensorrt]'` (docker/export.Dockerfile)"
        )
    return here


def _is_of(arithmetic: str, target: str, here: str) -> bool:
    if target == "tensorrt":
        return arithmetic == here
    return arithmetic.startswith("CUDA") == (target == "onnxruntime") and not arithmetic.startswith("TensorRT")

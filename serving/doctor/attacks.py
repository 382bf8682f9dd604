"""Inferences that should work, and others that should be refused in words: a bomb, a giant, a batch too many."""

import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from chextriev.radiograph_file import RadiographFile
from chextriev.serving.doctor.outcome import Outcome, judge, unclear
from chextriev.serving.doctor.target import Answer, Session, shorten
from chextriev.serving.wire import BOXES, IMAGE, MAX_BATCH, MAX_IMAGE_BYTES, canary, ensemble_tensors

BOMB_SIDE = 30_000
"""Pixels; 900 million in a file of a megabyte."""
DATATYPES = {IMAGE: "BYTES", BOXES: "FP32"}
REFUSALS = ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "OUT_OF_RANGE")
"""Codes of a refusal in words; the second is a proxy's, or a full queue's."""
_LIVES = "the models must refuse what they cannot read: serve a repository that `chextriev export repository` wrote"


def check_canary(session: Session, ensembles: Sequence[str]) -> Outcome:
    """Whether every ensemble encodes a small image."""
    check = "a radiograph is encoded"
    if not session.reached:
        return unclear(check, "gRPC does not answer")
    if not ensembles:
        return Outcome(check, "fail", "no encoder of ours is served", "serve one, or name it with --system")
    answers = {name: infer(session, name, [canary()]) for name in ensembles}
    faults = {name: fault for name, answer in answers.items() if (fault := fault_of(answer))}
    seen = "; ".join(f"{name}: {fault}" for name, fault in faults.items()) or ", ".join(answers)
    return judge(check, not faults, seen, "look into the server's log; a model whose process died needs a restart")


def check_bomb(session: Session, ensemble: str) -> Outcome:
    """Whether an image that unfolds to 900 megabytes is refused."""
    check = f"an image bomb of {BOMB_SIDE:,} x {BOMB_SIDE:,} pixels is refused"
    return _check_refused(check, infer(session, ensemble, [_altered(png_bomb(BOMB_SIDE))]))


def check_giant(session: Session, ensemble: str) -> Outcome:
    """Whether a message larger than any radiograph is refused; it is sent compressed, so little travels."""
    check = f"a message of {MAX_IMAGE_BYTES / 1e6:.0f} MB is refused"
    return _check_refused(check, infer(session, ensemble, [_altered(bytes(MAX_IMAGE_BYTES + 1))], compressed=True))


def check_batch(session: Session, ensemble: str) -> Outcome:
    """Whether one request can hold more radiographs than a batch."""
    check = f"more than {MAX_BATCH} radiographs in a request are refused"
    return _check_refused(check, infer(session, ensemble, [canary()] * (MAX_BATCH + 1)))


def ask_wrongly(session: Session, ensemble: str) -> None:
    """Requests whose refusals are read for what they give away."""
    infer(session, ensemble, [_altered(b"Patient report: no image at all")])
    infer(session, ensemble, [_altered(png_bomb(BOMB_SIDE)[:60])])
    session.ask("ModelInfer", {"model_name": ensemble, "id": "doctor"})
    session.ask("ModelInfer", {"model_name": "../../etc", "id": "doctor"})


def infer(session: Session, ensemble: str, files: list[RadiographFile], *, compressed: bool = False) -> Answer:
    """An inference by an ensemble."""
    inputs, contents = [], []
    for name, tensor in ensemble_tensors(ensemble, files).items():
        inputs.append({"name": name, "datatype": DATATYPES[name], "shape": list(tensor.shape)})
        contents.append(tensor_bytes(tensor))
    fields = {"model_name": ensemble, "id": "doctor", "inputs": inputs, "raw_input_contents": contents}
    return session.ask("ModelInfer", fields, compressed=compressed)


def tensor_bytes(tensor: Any) -> bytes:
    """A tensor as the protocol has it: strings with their length before them, numbers as they lie in memory."""
    if tensor.dtype == np.object_:
        return b"".join(struct.pack("<I", len(item)) + item for item in tensor.reshape(-1))
    raw: bytes = np.ascontiguousarray(tensor).tobytes()
    return raw


def fault_of(answer: Answer) -> str:
    """What is wrong with the answer to one canary; empty where nothing is."""
    if answer.code != "OK":
        return str(answer)
    for output, raw in zip(answer.message.outputs, answer.message.raw_output_contents, strict=False):
        if output.datatype == "FP32":
            numbers = np.frombuffer(raw, np.float32)
            if numbers.size != math.prod(output.shape) or not numbers.size or not np.isfinite(numbers).all():
                return f"{shorten(output.name, 40)} holds {numbers.size} numbers, not all finite"
    return "" if answer.message.outputs else "it has no output"


def png_bomb(side: int) -> bytes:
    """A correct PNG of side x side black pixels. Equal blocks compress alike, so one is enough."""
    rows = side * (side + 1)  # each row begins with its filter
    block = 1_000_000
    press = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = press.compress(bytes(block)) + press.flush(zlib.Z_FULL_FLUSH)
    rest = press.compress(bytes(rows % block)) + press.flush()
    checksum = ((rows % 65_521) << 16 | 1).to_bytes(4, "big")  # Adler-32 of that many zeros
    data = b"\x78\xda" + piece * (rows // block) + rest + checksum
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        _chunk(*part) for part in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def _altered(content: bytes) -> RadiographFile:
    return RadiographFile("doctor", content, canary().boxes)


def _check_refused(check: str, answer: Answer) -> Outcome:
    if answer.code == "DEADLINE_EXCEEDED":
        return Outcome(check, "fail", "no answer in time", _LIVES)
    seen = "it was taken for a radiograph" if answer.code == "OK" else str(answer)
    return judge(check, answer.code in REFUSALS, seen, _LIVES)

"""Calls with the stock tritonclient, as a program makes them that has never heard of us."""

import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from tritonclient.utils import np_to_triton_dtype

Tensors = Mapping[str, npt.NDArray[Any]]
STOCK = {"grpc": over_grpc, "http": over_http}


def stock_client(protocol: str, address: str) -> Any:
    """A client of one of the two protocols."""
    return STOCK[protocol].InferenceServerClient(address)


def stock_inputs(protocol: str, tensors: Tensors) -> list[Any]:
    """Arrays as the client wants them."""
    inputs = []
    for name, array in tensors.items():
        tensor = STOCK[protocol].InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def stock_infer(client: Any, model: str, tensors: Tensors, **options: Any) -> Any:
    """One inference."""
    protocol = "grpc" if "grpc" in type(client).__module__ else "http"
    return client.infer(model, stock_inputs(protocol, tensors), **options)


def png_bomb(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that says to hold this many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(4096))), (b"IEND", b""))
    )

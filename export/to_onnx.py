"""Torch modules to ONNX files whose first dimension stays free."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

OPSET = 18


def write_onnx(module: nn.Module, sample: Tensor, path: Path, *, inputs: str, outputs: Sequence[str]) -> None:
    """Write `module`, traced with `sample`, as one ONNX file; `inputs` and `outputs` name the tensors.

    The first dimension of the input is dynamic, so the sample must have at least 2 rows there.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it reports that torchvision is absent
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # from torch's own tracing; the result is compared with torch afterwards
        torch.onnx.export(
            module.eval(),
            (sample,),
            path,
            input_names=[inputs],
            output_names=list(outputs),
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            dynamic_shapes=({0: torch.export.Dim("rows", min=1)},),
            verbose=False,
        )

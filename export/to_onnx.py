"""Torch modules to ONNX files whose first dimension stays free."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
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
    _forget_sources(path)


def _forget_sources(path: Path) -> None:
    """Drop what the exporter notes of source files: paths of this machine, on which a digest must not depend."""
    model = onnx.load(path)
    del model.metadata_props[:]
    for part in (model.graph, *model.functions):
        part.doc_string = ""
        del part.metadata_props[:]
        for item in (*part.node, *part.value_info):
            item.doc_string = ""
            del item.metadata_props[:]
    for item in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    onnx.save(model, path)

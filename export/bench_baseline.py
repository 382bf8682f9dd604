"""The published eager pipeline in its plainest form: what `chextriev bench encode` is measured against.

Nothing is folded, fused or computed ahead: crops become three equal channels, batch norm is a layer of its own, and
edges are embedded, projected and added to keys and values for every radiograph. It is written out here and not shared
with the served encoder, so that making the latter faster cannot make this one faster.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from chextriev.errors import InvalidSetting
from chextriev.export.checkpoint import TrainedEncoder
from chextriev.preprocess import integer_corners
from chextriev.radiograph import RegionBoxes
from chextriev.train.backbones import Backbone
from chextriev.train.graph_transformer import EdgeAttention, Gate, GraphTransformer
from chextriev.train.region_encoder import RegionEncoder


class PlainPipeline:
    """Radiograph files to embeddings in eager PyTorch, float32, on "cpu" or "cuda".

    It borrows weights from a backbone and from an encoder with a graph; InvalidSetting for an encoder without one.
    """

    def __init__(self, backbone: Backbone, trained: TrainedEncoder, device: str = "cpu") -> None:
        encoder = trained.encoder
        if not isinstance(encoder, RegionEncoder) or encoder.transformer is None:
            raise InvalidSetting(f"system {trained.spec.name} has no graph; the pipeline is that of v1 to v6: use one")
        self._trunk, self._encoder = backbone.module.to(device), encoder.to(device)
        self._graph: GraphTransformer = encoder.transformer
        self._device, self._size = device, trained.spec.crops.size
        self._mean, self._std = (
            torch.tensor(values)[:, None, None] for values in (backbone.spec.mean, backbone.spec.std)
        )

    def decode(self, path: str | Path) -> Image.Image:
        """The grey levels of a file, decoded now and by Pillow."""
        with Image.open(path) as image:
            return image.convert("L")

    def crops(self, image: Image.Image, boxes: RegionBoxes) -> Tensor:
        """[18, 3, size, size] float32: cut, resized with antialiasing, grey to three channels, normalised."""
        cut = []
        for corners in integer_corners(boxes):
            crop = image.crop(tuple(corners)).resize((self._size, self._size), Image.Resampling.BILINEAR)
            levels = torch.from_numpy(np.array(crop.convert("RGB"))).permute(2, 0, 1).contiguous()
            cut.append((levels.to(torch.float32) / 255 - self._mean) / self._std)
        return torch.stack(cut)

    @torch.inference_mode()
    def features(self, crops: Tensor) -> Tensor:
        """[n, 3, size, size] -> [n, width], on the device."""
        features: Tensor = self._trunk(crops.to(self._device))
        return features

    @torch.inference_mode()
    def embedding(self, features: Tensor) -> Tensor:
        """Features [B, 18, width] -> embedding [B, D], on the processor."""
        batch = len(features)
        first = self._encoder.projection(features)
        outputs = [first]
        layers: list[Any] = list(self._graph.layers)  # torch calls them Module; they are GraphLayer
        for layer in layers:
            regions = outputs[-1]
            x = layer.attention_norm(regions)
            if self._graph.positions is not None:
                x = x + self._graph.positions.weight
            related = relate(layer.attention, x, self._edges(batch))
            update = blend(layer.attention_gate, related, regions if layer.local else first)
            residual = update if layer.local else first
            outputs.append(blend(layer.feed_forward_gate, layer.feed_forward(update), residual))
        self._encoder.region_head(outputs[-1])
        self._encoder.region_head(outputs[-1].mean(dim=1))
        return torch.stack(outputs).sum(dim=0).mean(dim=1).cpu()

    def encode(self, sources: Sequence[tuple[Path, RegionBoxes]]) -> Tensor:
        """Embeddings [B, D] of B files and their boxes, as one batch."""
        crops = torch.cat([self.crops(self.decode(path), boxes) for path, boxes in sources])
        features = self.features(crops)
        return self.embedding(features.reshape(len(sources), -1, features.shape[1]))

    def _edges(self, batch: int) -> Tensor:
        """[B, N, N, width]: a vector for each pair of regions, once for each radiograph."""
        edges: Tensor = self._graph.adjacency_embedding(self._graph.adjacency)
        if self._graph.edges is not None:
            edges = edges + self._graph.edges
        return edges.expand(batch, -1, -1, -1)


def relate(attention: EdgeAttention, regions: Tensor, edges: Tensor) -> Tensor:
    """Attention over regions [B, N, width]; keys and values are made for each pair, from edges [B, N, N, width]."""
    query, key, value = (
        layer(regions).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        for layer in (attention.query, attention.key, attention.value)
    )  # [B, heads, N, d]
    projected = attention.edge(edges).unflatten(-1, (attention.heads, -1)).permute(0, 3, 1, 2, 4)
    keys = key[:, :, None] + projected  # [B, heads, N, N, d]
    values = value[:, :, None] + projected
    scores = (query[:, :, :, None] * keys).sum(dim=-1) * attention.scale
    mixed = (torch.softmax(scores, dim=-1)[..., None] * values).sum(dim=-2)
    related: Tensor = attention.out(mixed.transpose(1, 2).flatten(-2))
    return related


def blend(gate: Gate, update: Tensor, residual: Tensor) -> Tensor:
    """share * update + (1 - share) * residual, all [B, N, width]."""
    share = torch.sigmoid(gate.weight(torch.cat((update, residual, update - residual), dim=-1)))
    return share * update + (1 - share) * residual

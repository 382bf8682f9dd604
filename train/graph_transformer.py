"""Dense graph attention over the 18 regions.

Source: CheXtriev (MICCAI 2024). One layer computes what `torch_geometric.nn.TransformerConv(width, head_width, heads,
edge_dim=width, root_weight=False)` followed by a linear map computes on the complete graph with self-loops; dense
tensors export to ONNX and TensorRT, sparse ones do not.
"""

import torch
from torch import Tensor, nn

from chextriev.anatomy import N_REGIONS
from chextriev.variants import VariantSpec


class EdgeAttention(nn.Module):
    """Multi-head attention whose keys and values are shifted by a vector for each ordered pair of regions."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads, self.scale = heads, head_width**-0.5
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(width, inner)
        self.value = nn.Linear(width, inner)
        self.edge = nn.Linear(width, inner)
        self.out = nn.Linear(inner, width)

    def forward(self, regions: Tensor, edges: Tensor) -> Tensor:
        """regions [B, N, width], edges [N, N, width] (row attends to column) -> [B, N, width].

        The edges do not depend on the radiograph, so they are projected once a batch. With e_ij their projection,
        q_i.(k_j + e_ij) and sum_j a_ij (v_j + e_ij) are split at the plus sign to keep every tensor small.
        """
        return self.attend(regions, self.project_edges(edges))

    def project_edges(self, edges: Tensor) -> Tensor:
        """[N, N, width] -> [N, N, heads, head_width]."""
        projected: Tensor = self.edge(edges)
        return projected.reshape(*edges.shape[:-1], self.heads, -1)

    def attend(self, regions: Tensor, e: Tensor) -> Tensor:
        """regions [B, N, width], projected edges e [N, N, heads, head_width] -> [B, N, width]."""
        q, k, v = (self._split(layer(regions)) for layer in (self.query, self.key, self.value))  # [B, H, N, d]
        scores = q @ k.transpose(-1, -2) + torch.einsum("bhid,ijhd->bhij", q, e)
        attention = torch.softmax(scores * self.scale, dim=-1)
        mixed = attention @ v + torch.einsum("bhij,ijhd->bhid", attention, e)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(-2))
        return out

    def _split(self, projected: Tensor) -> Tensor:
        return projected.reshape(*projected.shape[:-1], self.heads, -1).transpose(1, 2)


class Gate(nn.Module):
    """Blend an update with a residual by one learned scalar a region: g*update + (1-g)*residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Linear(3 * width, 1, bias=False)

    def forward(self, update: Tensor, residual: Tensor) -> Tensor:
        """Both [B, N, width]."""
        share = torch.sigmoid(self.weight(torch.cat((update, residual, update - residual), dim=-1)))
        return update * share + residual * (1 - share)


class GraphLayer(nn.Module):
    """Attention and feed-forward, each behind a layer norm and a gate towards the residual."""

    def __init__(self, spec: VariantSpec) -> None:
        super().__init__()
        width = spec.width
        self.local = spec.residual == "local"
        self.attention_norm = nn.LayerNorm(width)
        self.attention = EdgeAttention(width, spec.heads, spec.head_width)
        self.attention_gate = Gate(width)
        hidden = width * spec.feed_forward
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
        )
        self.feed_forward_gate = Gate(width)

    def forward(self, regions: Tensor, first: Tensor, edges: Tensor, positions: Tensor | None) -> Tensor:
        """regions, first (the projected features, the global residual): [B, N, width]; positions [N, width] or None."""
        x = self.attention_norm(regions)
        if positions is not None:
            x = x + positions
        residual = regions if self.local else first
        regions = self.attention_gate(self.attention(x, edges), residual)
        residual = regions if self.local else first
        out: Tensor = self.feed_forward_gate(self.feed_forward(regions), residual)
        return out


class GraphTransformer(nn.Module):
    """The layers with the tables that they share: adjacency embedding, edges and positions."""

    adjacency: Tensor

    def __init__(self, spec: VariantSpec, adjacency: Tensor | None = None) -> None:
        super().__init__()
        linked = torch.ones(N_REGIONS, N_REGIONS) if adjacency is None else adjacency
        self.register_buffer("adjacency", linked.long())
        self.adjacency_embedding = nn.Embedding(2, spec.width)
        self.positions = nn.Embedding(N_REGIONS, spec.width) if spec.positions else None
        self.edges = _edges(spec)
        self.layers = nn.ModuleList(GraphLayer(spec) for _ in range(spec.layers))

    def forward(self, first: Tensor) -> list[Tensor]:
        """Projected features [B, 18, width] -> the output of every layer, each [B, 18, width]."""
        edges = self.edge_vectors()
        positions = None if self.positions is None else self.positions.weight
        outputs = [first]
        for layer in self.layers:
            outputs.append(layer(outputs[-1], first, edges, positions))
        return outputs[1:]

    def edge_vectors(self) -> Tensor:
        """[18, 18, width]: the embedding of each pair's adjacency, and its own vector where there is one."""
        edges = self.adjacency_embedding.weight[self.adjacency]  # a call would be named like an output in ONNX
        return edges if self.edges is None else edges + self.edges


EDGE_SCALE = 0.1
"""Standard deviation of fresh edges that learn; the adjacency embedding beside them has 1."""


def _edges(spec: VariantSpec) -> nn.Parameter | None:
    if spec.edges == "none":
        return None
    learned = spec.edges == "learned"
    scale = EDGE_SCALE if learned else (N_REGIONS * spec.width) ** -0.5  # Xavier's, as published: .0074
    return nn.Parameter(torch.randn(N_REGIONS, N_REGIONS, spec.width) * scale, requires_grad=learned)

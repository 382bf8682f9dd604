"""The names of the published checkpoints in ours: the heads of V0 to V6.

Source: state dictionaries of the CheXtriev code (MICCAI 2024).
"""

import re
from collections.abc import Mapping

from torch import Tensor

from chextriev.anatomy import N_REGIONS

_LAYER = r"model\.layers\.(\d+)\."
_RENAMES = (
    (r"cnn\.fc\.(\d)\.(.+)", r"projection.\1.\2"),
    (_LAYER + r"0\.0\.norm\.(.+)", r"transformer.layers.\1.attention_norm.\2"),
    (_LAYER + r"0\.0\.fn\.to_q\.(.+)", r"transformer.layers.\1.attention.query.\2"),
    (_LAYER + r"0\.0\.fn\.to_kv\.(.+)", r"transformer.layers.\1.attention.key+value.\2"),
    (_LAYER + r"0\.0\.fn\.edges_to_kv\.(.+)", r"transformer.layers.\1.attention.edge.\2"),
    (_LAYER + r"0\.0\.fn\.to_out\.(.+)", r"transformer.layers.\1.attention.out.\2"),
    (_LAYER + r"0\.1\.proj\.0\.weight", r"transformer.layers.\1.attention_gate.weight.weight"),
    (_LAYER + r"1\.0\.norm\.(.+)", r"transformer.layers.\1.feed_forward.0.\2"),
    (_LAYER + r"1\.0\.fn\.0\.(.+)", r"transformer.layers.\1.feed_forward.1.\2"),
    (_LAYER + r"1\.0\.fn\.2\.(.+)", r"transformer.layers.\1.feed_forward.3.\2"),
    (_LAYER + r"1\.1\.proj\.0\.weight", r"transformer.layers.\1.feed_forward_gate.weight.weight"),
    (r"model\.adj_emb\.weight", r"transformer.adjacency_embedding.weight"),
    (r"model\.pos_emb\.weight", r"transformer.positions.weight"),
    (r"edges", r"transformer.edges"),
    (r"adj_mat", r"transformer.adjacency"),
    (r"fc\.(.+)", r"region_head+finding_head.\1"),
    (r"model\.fc_node\.(.+)", r"region_head.\1"),
    (r"model\.fc_graph\.(.+)", r"finding_head.\1"),
)
_IGNORED = re.compile(
    _LAYER + r"0\.0\.fn\.pos_emb\.weight"  # alias of the shared table
    r"|model\.(gcn_layers|node_attn_layers|graph_attn|mlp)\..+"  # never called by V0
)


def encoder_weights(reference: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights under the names of `RegionEncoder`, and the reference names that nothing here uses.

    Keys and values are one matrix there and two here; the position table has 64 rows there, of which 18 are used; the
    graph variants' one head stands under both of our names.
    """
    weights: dict[str, Tensor] = {}
    unused = []
    for name, tensor in reference.items():
        ours = None if _IGNORED.fullmatch(name) else _rename(name)
        if ours is None:
            unused.append(name)
        elif "key+value" in ours:
            for part, half in zip(("key", "value"), tensor.chunk(2), strict=True):
                weights[ours.replace("key+value", part)] = half
        elif ours.startswith("region_head+finding_head"):
            for head in ("region_head", "finding_head"):
                weights[ours.replace("region_head+finding_head", head)] = tensor
        else:
            weights[ours] = tensor[:N_REGIONS] if ours == "transformer.positions.weight" else tensor
    return weights, unused


def _rename(name: str) -> str | None:
    for pattern, ours in _RENAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(ours)
    return None

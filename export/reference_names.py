"""How the published code names the weights of each system, and which of its names no answer depends on.

Source: the modules of the CheXtriev code (MICCAI 2024) and the state dictionaries that they save.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

from torch import Tensor, nn

from chextriev.errors import InvalidSetting
from chextriev.systems import AnaxnetSpec, AthSpec, GlobalCnnSpec, LocalizerSpec, SystemSpec
from chextriev.train.backbones import BACKBONES

Renames = tuple[tuple[str, str], ...]

POSITIONS = "model.pos_emb.weight"
"""64 rows there, of which the first 18 are used."""
VARIANT_ADJACENCY, ANAXNET_ADJACENCY = "adj_mat", "model.anatomy_inp_tensor"
COUNTER = ".num_batches_tracked"
"""Ends the names of what counts training steps; old files lack it."""

_LAYER = r"transformer\.layers\.(\d+)\."
_PROJECTION: Renames = ((r"projection\.(.+)", r"cnn.fc.\1"),)
_GRAPH: Renames = (
    *_PROJECTION,
    (_LAYER + r"attention_norm\.(.+)", r"model.layers.\1.0.0.norm.\2"),
    (_LAYER + r"attention\.query\.(.+)", r"model.layers.\1.0.0.fn.to_q.\2"),
    (_LAYER + r"attention\.(?:key|value)\.(.+)", r"model.layers.\1.0.0.fn.to_kv.\2"),
    (_LAYER + r"attention\.edge\.(.+)", r"model.layers.\1.0.0.fn.edges_to_kv.\2"),
    (_LAYER + r"attention\.out\.(.+)", r"model.layers.\1.0.0.fn.to_out.\2"),
    (_LAYER + r"attention_gate\.weight\.weight", r"model.layers.\1.0.1.proj.0.weight"),
    (_LAYER + r"feed_forward\.0\.(.+)", r"model.layers.\1.1.0.norm.\2"),
    (_LAYER + r"feed_forward\.1\.(.+)", r"model.layers.\1.1.0.fn.0.\2"),
    (_LAYER + r"feed_forward\.3\.(.+)", r"model.layers.\1.1.0.fn.2.\2"),
    (_LAYER + r"feed_forward_gate\.weight\.weight", r"model.layers.\1.1.1.proj.0.weight"),
    (r"transformer\.adjacency_embedding\.weight", "model.adj_emb.weight"),
    (r"transformer\.positions\.weight", POSITIONS),
    (r"transformer\.edges", "edges"),
    (r"transformer\.adjacency", VARIANT_ADJACENCY),
    (r"region_head\.(.+)", r"fc.\1"),  # the head of the image too
)
_NO_GRAPH: Renames = (
    *_PROJECTION,
    (r"region_head\.(.+)", r"model.fc_node.\1"),
    (r"finding_head\.(.+)", r"model.fc_graph.\1"),
)
_ANAXNET: Renames = (
    (r"convolution(\d)\.weight", r"model.anatomy_gc\1.weight"),
    (r"norm\.(.+)", r"model.fc.0.\1"),
    (r"classifier\.(.+)", r"model.fc.2.\1"),
    (r"adjacency", ANAXNET_ADJACENCY),
)
_GLOBAL_CNN: Renames = ((r"hidden\.(.+)", r"fc1.\1"), (r"classifier\.(.+)", r"fc2.\1"))
_ATH: Renames = ((r"code\.(.+)", r"model.hashlayer.\1"), (r"classifier\.(.+)", r"model.typelayer.\1"))
_ATH_TRUNK: Renames = (
    (r"block([12])\.inner\.(.+)", r"model.net\1.0.net.\2"),
    (r"block([12])\.shortcut\.(.+)", r"model.net\1.0.downsample_layer.\2"),
    (r"block3\.inner\.(.+)", r"model.dense.net.\1"),
    (r"block3\.shortcut\.(.+)", r"model.dense.downsample_layer.\1"),
    (r"attention\.weigh\.weight", "model.sa.conv1.weight"),
)

_POSITION_ALIAS = r"model\.layers\.\d+\.0\.0\.fn\.pos_emb\.weight"
"""The one table of positions again, under every layer."""


@dataclass(frozen=True)
class ReferenceNames:
    """The published names of one system.

    encoder: patterns of our names of the encoder's tensors, and the published names; several tensors of ours under one
    name are one tensor there, joined along the first dimension. trunk: the same for the backbone. unused: pattern of
    the names that no answer depends on. width_from: the tensor and its dimension that tell the backbone's width; None
    where the system brings its own backbone. width: of the published backbone.
    """

    encoder: Renames
    trunk: Renames
    unused: str
    width: int
    width_from: tuple[str, int] | None

    @property
    def trunk_prefix(self) -> str:
        """What the names of the backbone begin with."""
        return self.trunk[0][1].removesuffix(r"\1")

    def is_unused(self, name: str) -> bool:
        """Whether the published code has this name and no answer depends on it."""
        return re.fullmatch(self.unused, name) is not None

    def feature_width(self, state: Mapping[str, Tensor]) -> int:
        """Width of the backbone that a state dictionary was trained on; the published one where it tells no known."""
        name, dimension = self.width_from or ("", 0)
        first = state.get(name)
        if first is None or first.ndim != 2:
            return self.width
        width = first.shape[dimension]
        return width if width in {spec.width for spec in BACKBONES.values()} else self.width


def reference_names(spec: SystemSpec) -> ReferenceNames:
    """The published names of a system; InvalidSetting for a localizer, which was never published."""
    if isinstance(spec, GlobalCnnSpec):
        return ReferenceNames(_GLOBAL_CNN, _under("model."), r"model\.fc\..+", 2048, ("fc1.weight", 1))
    if isinstance(spec, AthSpec):
        return ReferenceNames(_ATH, _ATH_TRUNK, "", 1024, None)
    if isinstance(spec, AnaxnetSpec):
        unused = r"cnn\.classifier\..+"
        return ReferenceNames(_ANAXNET, _under("cnn."), unused, 1024, ("model.anatomy_gc1.weight", 0))
    if isinstance(spec, LocalizerSpec):
        raise InvalidSetting(
            f"the published code has no {spec.name}; name a system of the paper, or train one: chextriev train fit"
        )
    if spec.graph:
        # Edges or positions that a variant has not are extra: the file is of another variant.
        unused = r"hash_fn\..+" + (f"|{_POSITION_ALIAS}" if spec.positions else "")
        return ReferenceNames(_GRAPH, _under("cnn."), unused, 2048, ("cnn.fc.0.weight", 1))
    unused = r"edges|adj_mat|model\.anatomy_inp_tensor|model\.(gcn_layers|node_attn_layers|graph_attn|mlp)\..+"
    if spec.region_loss_share == 1:
        unused += r"|model\.fc_graph\..+"  # weighs nothing in the loss, and the encoder has no such head
    return ReferenceNames(_NO_GRAPH, _under("cnn."), unused, 2048, ("cnn.fc.0.weight", 1))


def published_tensors(module: nn.Module, renames: Renames) -> dict[str, list[Tensor]]:
    """The tensors of a module of ours under their published names; shared ones once."""
    found: dict[str, list[Tensor]] = {}
    for ours, tensor in chain(module.named_parameters(), module.named_buffers()):
        found.setdefault(_published(ours, renames), []).append(tensor)
    return found


def _under(prefix: str) -> Renames:
    return ((r"(.+)", prefix + r"\1"),)


def _published(ours: str, renames: Renames) -> str:
    matches = ((re.fullmatch(pattern, ours), published) for pattern, published in renames)
    return next(match.expand(published) for match, published in matches if match)

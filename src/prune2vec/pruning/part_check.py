"""Is a block's attention what we take for it, and its MLP? Asked of the blocks that a cut left whole."""

from __future__ import annotations

from transformers import PreTrainedModel

from prune2vec.models.block_layout import layout_of
from prune2vec.models.families import find_family
from prune2vec.models.layers import assemble, cut_config, renamed
from prune2vec.models.selftest import check_sub_layers


def check_parts(model: PreTrainedModel) -> None:
    """Check on two blocks that still have both sub-layers that each can go by itself; with fewer there is nothing to check.

    Everything that a plan needs was read, and no more: the whole model is never there. Its blocks are all built alike.

    Args:
        model: A cut model, in memory.

    Raises:
        UnsupportedModel: A sub-layer does not go as the record of the architecture says.
    """
    layout = layout_of(model)
    whole = [number for number, block in enumerate(layout) if block.attention and block.mlp]
    if len(whole) < 2:
        return
    pair = (whole[0], whole[-1])
    family = find_family(model, model.config)
    state = {
        new: tensor for name, tensor in model.state_dict().items() if (new := renamed(name, family.blocks, pair)) is not None
    }
    config = cut_config(model.config, pair)
    small = assemble(type(model), config, state, buffers_from=model, layout=tuple(layout[number] for number in pair))
    check_sub_layers(small, family)

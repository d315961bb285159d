"""A small model of real blocks that stands for one too large to be tested: its first and last block, and a few token ids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from prune2vec.errors import UnsupportedModel
from prune2vec.forward.block_inputs import block_inputs
from prune2vec.models.block_files import BlockFiles, built_on_meta, embedding_path
from prune2vec.models.cut import cut_config
from prune2vec.models.families import Family, block_list, in_block
from prune2vec.models.selftest import block_states, close, random_ids, self_test

_VOCABULARY = 64


def probe_model(
    model: PreTrainedModel, family: Family, files: BlockFiles, layers: Sequence[int], *, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Return the model of these blocks of ``model``, which has no values, with the values from its files.

    Args:
        model: The model without values.
        family: Where its blocks are.
        files: Its files.
        layers: The blocks, ascending.
        trust_remote_code: Run model code that came with the checkpoint.
    """
    changes = {
        "vocab_size": min(_VOCABULARY, model.config.vocab_size),
        # They would be beyond the small vocabulary, and stand for nothing here.
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")),
    }
    config = cut_config(model.config, layers, changes=changes)
    probe = built_on_meta(config, files.dtype, files.device, trust_remote_code=trust_remote_code)
    embeddings = f"{embedding_path(probe)}.weight"
    rows = torch.arange(changes["vocab_size"])
    state = {}
    for name in probe.state_dict():
        place = in_block(name, family.blocks)
        original = name if place is None else f"{family.blocks}.{layers[place[0]]}.{place[1]}"
        state[name] = files.take(original, rows=rows if name == embeddings else None)
    probe.load_state_dict(state, strict=True, assign=True)
    return probe


@torch.inference_mode()
def check_probe(probe: PreTrainedModel, family: Family) -> None:
    """Check that the model is understood, and that its blocks do alone what they do within it.

    Raises:
        UnsupportedModel: One of the two does not hold.
    """
    self_test(probe, family)
    ids = random_ids(probe)
    expected, _ = block_states(probe, family, ids)
    blocks = block_list(probe, family)
    states, calls = block_inputs(probe, blocks, {"input_ids": ids})
    for layer, (block, call) in enumerate(zip(blocks, calls, strict=True)):
        states = call.run(block, states)
        if not close(states, expected[layer]):
            raise UnsupportedModel(
                f"{probe.config.model_type} cannot be streamed: a block alone does not compute what it computes in the model; "
                "hold the whole model in memory instead (--stream off)"
            )

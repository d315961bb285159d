"""The parts of a block that can go by themselves: attention and MLP with their norms, and the neurons inside an MLP.

Both add to the residual stream, so a block without one of them passes the stream on. A record here says which modules
make up a sub-layer; as everything in ``families``, it is only trusted after a test on the model (``backbone.selftest``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from prune2vec.errors import UnsupportedModel
from prune2vec.models.families import Family


@dataclass(frozen=True, kw_only=True)
class Neurons:
    """Where an MLP keeps its neurons; paths are relative to a block.

    Attributes:
        into: Linear layers with one output a neuron.
        out: The linear layer whose inputs are the neurons' activations.
        halves: ``into`` is a single layer that holds gate and up one after the other (Phi-3).
        config_key: The config entry with their number.
    """

    into: tuple[str, ...]
    out: str
    halves: bool = False
    config_key: str = "intermediate_size"


@dataclass(frozen=True, kw_only=True)
class SubLayers:
    """The parts of a block; paths are relative to it.

    Attributes:
        attention: Attention module.
        attention_norms: Norms that serve attention alone and go with it.
        mlp: Modules of the MLP, in the order in which they are applied.
        mlp_norms: Norms that serve the MLP alone and go with it.
        between: Module whose input is the stream between attention and MLP; None where both read the block's input.
        neurons: The neurons of the MLP; None where they are unknown (a mixture of experts).
    """

    attention: str
    attention_norms: tuple[str, ...]
    mlp: tuple[str, ...]
    mlp_norms: tuple[str, ...]
    between: str | None
    neurons: Neurons | None


_GATED = Neurons(into=("mlp.gate_proj", "mlp.up_proj"), out="mlp.down_proj")
_FUSED = Neurons(into=("mlp.gate_up_proj",), out="mlp.down_proj", halves=True)
_LLAMA = SubLayers(
    attention="self_attn",
    attention_norms=("input_layernorm",),
    mlp=("mlp",),
    mlp_norms=("post_attention_layernorm",),
    between="post_attention_layernorm",
    neurons=_GATED,
)
_NORMS_AROUND = replace(  # gemma2 and gemma3: a norm before and a norm after each sub-layer
    _LLAMA,
    attention_norms=("input_layernorm", "post_attention_layernorm"),
    mlp_norms=("pre_feedforward_layernorm", "post_feedforward_layernorm"),
    between="pre_feedforward_layernorm",
)
_NORMS_AFTER = replace(  # olmo2: norms only after
    _LLAMA, attention_norms=("post_attention_layernorm",), mlp_norms=("post_feedforward_layernorm",), between="mlp"
)
_SUB_LAYERS: dict[str, SubLayers] = {
    "phi3": replace(_LLAMA, neurons=_FUSED),
    "gpt2": SubLayers(
        attention="attn",
        attention_norms=("ln_1",),
        mlp=("mlp",),
        mlp_norms=("ln_2",),
        between="ln_2",
        neurons=Neurons(into=("mlp.c_fc",), out="mlp.c_proj", config_key="n_inner"),
    ),
    "gpt_neox": replace(
        _LLAMA,
        attention="attention",
        neurons=Neurons(into=("mlp.dense_h_to_4h",), out="mlp.dense_4h_to_h"),
    ),
    # One norm serves both sub-layers, so it stays while either does.
    "phi": replace(_LLAMA, attention_norms=(), mlp_norms=(), between=None, neurons=Neurons(into=("mlp.fc1",), out="mlp.fc2")),
    "opt": SubLayers(
        attention="self_attn",
        attention_norms=("self_attn_layer_norm",),
        mlp=("fc1", "activation_fn", "fc2"),
        mlp_norms=("final_layer_norm",),
        between="final_layer_norm",
        neurons=Neurons(into=("fc1",), out="fc2", config_key="ffn_dim"),
    ),
}
WIDTH_KEYS = frozenset({_GATED.config_key, *(parts.neurons.config_key for parts in _SUB_LAYERS.values() if parts.neurons)})
"""The config entries that give the number of an MLP's neurons."""


def find_sub_layers(block: nn.Module, family: Family, config: Any) -> SubLayers:
    """Return the parts of ``block``, from the record of its architecture or, where it has none, from its modules.

    Raises:
        UnsupportedModel: They are not known, or nothing can be taken out of such a block by itself.
    """
    if getattr(config, "do_layer_norm_before", True) is False:
        raise UnsupportedModel(
            f"{config.model_type} with do_layer_norm_before=False norms the residual stream itself: no sub-layer can be taken out"
        )
    if config.model_type == "minimax":
        raise UnsupportedModel("minimax adds each sub-layer to the normed residual stream: no sub-layer can be taken out")
    found = _SUB_LAYERS.get(config.model_type) or _infer(block, family, config)
    if getattr(config, "use_parallel_residual", False):
        found = replace(found, between=None)
    if found.neurons is not None and not _has_nothing_but_neurons(block, found.mlp, found.neurons):
        found = replace(found, neurons=None)
    return found


def _infer(block: nn.Module, family: Family, config: Any) -> SubLayers:
    norms = {name for name, _ in block.named_children() if "norm" in name}
    for layout in (_LLAMA, _NORMS_AROUND, _NORMS_AFTER):
        if norms == {*layout.attention_norms, *layout.mlp_norms}:
            return replace(layout, attention=family.attention, mlp=family.mlp)
    raise UnsupportedModel(
        f"{config.model_type}: which norms belong to attention and which to the MLP is not known (found {', '.join(sorted(norms))}); "
        "cut whole layers of it"
    )


def _has_nothing_but_neurons(block: nn.Module, mlp: tuple[str, ...], neurons: Neurons) -> bool:
    """Return whether an MLP is those linear layers and no more: a norm over the neurons ties them to each other."""
    layers = (*neurons.into, neurons.out)
    if not all(_is_linear(block, path) for path in layers):
        return False
    own = {f"{path}.{leaf}" for path in layers for leaf in ("weight", "bias")}
    return {f"{path}.{name}" for path in mlp for name, _ in block.get_submodule(path).named_parameters()} <= own


def _is_linear(block: nn.Module, path: str) -> bool:
    try:
        return isinstance(block.get_submodule(path), nn.Linear | Conv1D)
    except AttributeError:
        return False


def mlp_width(block: nn.Module, neurons: Neurons) -> int:
    """Return the number of neurons of a block's MLP."""
    out = block.get_submodule(neurons.out)
    return int(out.weight.shape[0] if isinstance(out, Conv1D) else out.in_features)  # type: ignore[arg-type]

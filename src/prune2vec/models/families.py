"""Where a model keeps its blocks and final norm, what in a block can go by itself (attention, MLP and neurons), and the stream
around that.

One generic path serves every architecture: a family is inferred from the structure of its modules, or is a record here where
that does not tell. Either way the result is only trusted after the tests of ``selftest``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from prune2vec.errors import UnsupportedModel
from prune2vec.models.kept import ATTENTION, BLOCK, MLP


@dataclass(frozen=True, kw_only=True)
class Family:
    """Paths inside one architecture; those of sub-layers are relative to a block.

    Attributes:
        blocks: Path of the block list inside the base model.
        final: Paths of what is applied after the last block, in order; absent modules are skipped. Empty where the last
            block's output is the model's (BERT).
        attention: Attention sub-layer.
        mlp: MLP sub-layer, one module or the modules that make it up.
        first_stays: Whether the class builds its first block otherwise than all others, so that no other can take its place
            (ModernBERT's has no norm before its attention).
    """

    blocks: str = "layers"
    final: tuple[str, ...] = ("norm",)
    attention: str = "self_attn"
    mlp: tuple[str, ...] = ("mlp",)
    first_stays: bool = False


_SUPPORTED = "prune2vec cuts models of one stack of blocks: decoders (Llama, Qwen, Gemma, GPT-2, ...) and encoders (BERT, ModernBERT, ...)"
_TWO_PARTS = ("intermediate", "output")
# Of what the modules do not tell: OPT's MLP is spread over its block, and ModernBERT's first block is another.
_FAMILIES: dict[str, Family] = {
    "opt": Family(
        blocks="decoder.layers", final=("decoder.final_layer_norm", "decoder.project_out"), mlp=("fc1", "activation_fn", "fc2")
    ),
    "modernbert": Family(final=("final_norm",), attention="attn", first_stays=True),
}
_FINAL_NAMES = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f", "final_norm")
_ATTENTION_NAMES = ("self_attn", "attn", "attention", "self_attention")
_MLP_NAMES = (("mlp",), ("ffn",), ("feed_forward",), _TWO_PARTS)


def num_layers(config: Any) -> int:
    """Return the number of blocks; ``UnsupportedModel`` for an encoder-decoder, several parts, or a config without layers."""
    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{kind} is an encoder-decoder; {_SUPPORTED}")
    parts = [name for name in ("text_config", "llm_config", "language_config") if getattr(config, name, None) is not None]
    count = getattr(config, "num_hidden_layers", None)
    if parts and not isinstance(count, int):
        raise UnsupportedModel(
            f"{kind} cannot be cut: it keeps its language model in {parts[0]}; save that part as a model of its own"
        )
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UnsupportedModel(f"{kind} cannot be cut: num_hidden_layers is {count!r}, expected a whole number from 1 on")
    return count


def find_family(model: nn.Module, config: Any) -> Family:
    """Return the record of the architecture, or one inferred from its modules; ``UnsupportedModel`` if that cannot be done."""
    known = _FAMILIES.get(config.model_type)
    return known if known is not None else _infer(model, config)


def _infer(model: nn.Module, config: Any) -> Family:
    count = num_layers(config)
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    top = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    if len(top) != 1:
        found = ", ".join(top) or "none"
        raise UnsupportedModel(f"{config.model_type}: expected one list of {count} blocks, found {found}; {_SUPPORTED}")
    blocks = top[0]
    parent = blocks.rpartition(".")[0]
    owner = model.get_submodule(parent)
    finals = tuple(f"{parent}.{name}".lstrip(".") for name in _FINAL_NAMES if hasattr(owner, name))
    block = model.get_submodule(blocks)[0]  # type: ignore[index]
    attention = [name for name in _ATTENTION_NAMES if hasattr(block, name)]
    mlp = [names for names in _MLP_NAMES if all(hasattr(block, name) for name in names)]
    if len(finals) > 1 or not attention or not mlp:
        raise UnsupportedModel(
            f"{config.model_type}: final norms {list(finals)}, attention {attention}, MLP {list(map(list, mlp))} in block 0 of {blocks}; "
            f"attention, MLP and one final norm at most are needed; {_SUPPORTED}"
        )
    return Family(blocks=blocks, final=finals, attention=attention[0], mlp=mlp[0])


def block_list(model: nn.Module, family: Family) -> nn.ModuleList:
    """Return the model's list of blocks."""
    blocks = model.get_submodule(family.blocks)
    if not isinstance(blocks, nn.ModuleList):
        raise UnsupportedModel(f"{type(model).__name__}.{family.blocks} is a {type(blocks).__name__}, not a list of blocks")
    return blocks


def final_modules(model: nn.Module, family: Family) -> list[nn.Module]:
    """Return what the model applies after its last block, in order (``final_norm`` in the papers)."""
    places = [path.rpartition(".") for path in family.final]
    found = [getattr(model.get_submodule(parent), name, None) for parent, _, name in places]
    return [module for module in found if module is not None]


def without_head(model: PreTrainedModel) -> PreTrainedModel:
    """Take what follows the last block for another use out of a base model, in place: BERT's pooler, which no text passes."""
    if isinstance(getattr(model, "pooler", None), nn.Module):
        model.pooler = None  # type: ignore[assignment]
    return model


def padding_position(model: nn.Module) -> int | None:
    """Return the id of the padding token from which positions count on, as in RoBERTa; None where they count from 0.

    There a token's position is that id plus its number among the tokens that are no padding, from 1 on.
    """
    tables: list[Any] = [module for name, module in model.named_modules() if name.rpartition(".")[2] == "position_embeddings"]
    return next((int(table.padding_idx) for table in tables if getattr(table, "padding_idx", None) is not None), None)


def in_block(name: str, blocks: str) -> tuple[int, str] | None:
    """Return the block number in a tensor's name, and its name within the block; None for one outside of the blocks."""
    match = re.search(rf"(?:^|\.){re.escape(blocks)}\.(\d+)\.(.*)", name)
    return (int(match[1]), match[2]) if match else None


def states_of(output: Any) -> Tensor:
    """Return the states (batch, seq, dim) in what a block or a sub-layer returns: some families add other things to them."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


@dataclass(frozen=True, kw_only=True)
class Neurons:
    """Where an MLP keeps its neurons; paths are relative to a block.

    Attributes:
        into: Linear layers with one output a neuron.
        out: The linear layer whose inputs are the neurons' activations.
        halves: ``into`` is a single layer that holds gate and up one after the other (Phi-3).
        config_key: The config entry with their number.
        beside: Modules within the MLP's that tell no neuron from another (BERT's norm after it).
    """

    into: tuple[str, ...]
    out: str
    halves: bool = False
    config_key: str = "intermediate_size"
    beside: tuple[str, ...] = ()


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
        adds_input: Whether the modules of both add their input and norm the sum themselves (BERT). Where one is dropped its
            norm goes with it, so that what is left of the block is what it has between the two.
    """

    attention: str
    attention_norms: tuple[str, ...]
    mlp: tuple[str, ...]
    mlp_norms: tuple[str, ...]
    between: str | None
    neurons: Neurons | None
    adds_input: bool = False


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
_NORM_INSIDE = SubLayers(
    attention="attention",
    attention_norms=(),
    mlp=_TWO_PARTS,
    mlp_norms=(),
    between="intermediate",
    neurons=Neurons(into=("intermediate.dense",), out="output.dense", beside=("output.LayerNorm",)),
    adds_input=True,
)
_SUB_LAYERS: dict[str, SubLayers] = {
    # Norms of the sums, which go with what is added.
    "distilbert": SubLayers(
        attention="attention",
        attention_norms=("sa_layer_norm",),
        mlp=("ffn",),
        mlp_norms=("output_layer_norm",),
        between="ffn",
        neurons=Neurons(into=("ffn.lin1",), out="ffn.lin2", config_key="hidden_dim"),
    ),
    "modernbert": SubLayers(
        attention="attn",
        attention_norms=("attn_norm",),
        mlp=("mlp",),
        mlp_norms=("mlp_norm",),
        between="mlp_norm",
        neurons=Neurons(into=("mlp.Wi",), out="mlp.Wo", halves=True),
    ),
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
    found = _SUB_LAYERS.get(config.model_type) or _infer_sub_layers(block, family, config)
    if getattr(config, "use_parallel_residual", False):
        found = replace(found, between=None)
    if found.neurons is not None and not _has_nothing_but_neurons(block, found.mlp, found.neurons):
        found = replace(found, neurons=None)
    return found


def _infer_sub_layers(block: nn.Module, family: Family, config: Any) -> SubLayers:
    norms = {name for name, _ in block.named_children() if "norm" in name}
    for layout in (_LLAMA, _NORMS_AROUND, _NORMS_AFTER):
        if norms == {*layout.attention_norms, *layout.mlp_norms}:
            return replace(layout, attention=family.attention, mlp=family.mlp)
    if not norms and family.mlp == _TWO_PARTS:
        return replace(_NORM_INSIDE, attention=family.attention)
    raise UnsupportedModel(
        f"{config.model_type}: which norms belong to attention and which to the MLP is not known (found {', '.join(sorted(norms))}); "
        "cut whole layers of it"
    )


def _has_nothing_but_neurons(block: nn.Module, mlp: tuple[str, ...], neurons: Neurons) -> bool:
    """Return whether an MLP is those linear layers and no more: a norm over the neurons ties them to each other."""
    layers = (*neurons.into, neurons.out)
    modules = dict(block.named_modules())
    if not all(isinstance(modules.get(path), nn.Linear | Conv1D) for path in layers):
        return False
    own = {f"{path}.{leaf}" for path in (*layers, *neurons.beside) for leaf in ("weight", "bias")}
    return {f"{path}.{name}" for path in mlp for name, _ in modules[path].named_parameters()} <= own


def mlp_width(block: nn.Module, neurons: Neurons) -> int:
    """Return the number of neurons of a block's MLP."""
    out = block.get_submodule(neurons.out)
    return int(out.weight.shape[0] if isinstance(out, Conv1D) else out.in_features)  # type: ignore[arg-type]


See = Callable[[int, str, Tensor, Tensor], None]
"""Takes block number, kind of sub-layer, and the stream before and after it, (batch, seq, dim) in the model's dtype."""


@contextmanager
def sub_layer_states(model: PreTrainedModel, family: Family, parts: SubLayers, see: See) -> Iterator[None]:
    """Hook every block as ``watch_block`` does while the context is open; the blocks of a cut model may lack sub-layers."""
    with ExitStack() as stack:
        for number, block in enumerate(block_list(model, family)):
            for handle in watch_block(number, block, parts, see):
                stack.callback(handle.remove)
        yield


def watch_block(number: int, block: nn.Module, parts: SubLayers, see: See) -> list[RemovableHandle]:
    """Call ``see`` for attention, MLP and whole of a block in every forward pass, until the caller removes the hooks.

    Where attention and MLP follow each other, the stream between them is read off where the MLP's side receives it, so
    that scales on either branch are in it. Where both read the block's input, each is taken by itself: the input, and
    the input plus what that sub-layer returns. ``see`` should keep nothing of the states' size.
    """
    held: dict[str, Tensor] = {}

    def keep_input(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states = args[0] if args else kwargs["hidden_states"]
            # OPT lays batch and sequence together on the MLP's side of its block.
            held[name] = states.reshape(held["in"].shape) if name == "between" else states

        return hook

    def keep_output(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            held[name] = states_of(output)

        return hook

    def end(module: nn.Module, args: Any, output: Any) -> None:
        before, after = held["in"], states_of(output)
        if parts.between is not None:
            see(number, ATTENTION, before, held["between"])
            see(number, MLP, held["between"], after)
        else:
            see(number, ATTENTION, before, before + held[ATTENTION])
            see(number, MLP, before, before + held[MLP])
        see(number, BLOCK, before, after)
        held.clear()

    handles = [block.register_forward_pre_hook(keep_input("in"), with_kwargs=True)]
    if parts.between is not None:
        between = block.get_submodule(parts.between)
        handles.append(between.register_forward_pre_hook(keep_input("between"), with_kwargs=True))
    else:
        for kind, path in ((ATTENTION, parts.attention), (MLP, parts.mlp[-1])):
            handles.append(block.get_submodule(path).register_forward_hook(keep_output(kind)))
    return [*handles, block.register_forward_hook(end)]

"""Where a decoder keeps its blocks, final norm and sub-layers, and which config entries belong to single layers.

One generic path serves every architecture: a family is a record here, and a model without one is inferred from the
structure of its modules. Either way the result is only trusted after the self-test of ``backbone.selftest``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from prune2vec.errors import UnsupportedModel

# Lists with one entry a layer, over all families; they are cut by the kept layers.
PER_LAYER_LISTS = frozenset(
    {"layer_types", "no_rope_layers", "mlp_layer_types", "attention_layers", "layers_block_type", "block_types"}
)
# Lists of layer numbers; they are filtered and renumbered.
LAYER_NUMBER_LISTS = frozenset({"mlp_only_layers", "moe_layers"})
# Integers that mean "so many leading layers"; they become the number of kept layers among those.
LEADING_COUNTS = frozenset({"max_window_layers", "first_k_dense_replace"})


@dataclass(frozen=True, kw_only=True)
class Family:
    """Paths inside one architecture; those of sub-layers are relative to a block.

    Attributes:
        blocks: Path of the block list inside the base model.
        final: Paths of what is applied after the last block, in order; absent modules are skipped.
        attention: Attention sub-layer.
        mlp: MLP sub-layer, one module or the modules that make it up.
    """

    blocks: str = "layers"
    final: tuple[str, ...] = ("norm",)
    attention: str = "self_attn"
    mlp: tuple[str, ...] = ("mlp",)


_SUPPORTED = "prune2vec cuts decoder-only language models (Llama, Qwen, Gemma, GPT-2 and the like)"
_LLAMA_LIKE = Family()
_FAMILIES: dict[str, Family] = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3_text", "olmo2", "smollm3", "granite"),
        _LLAMA_LIKE,
    ),
    "gpt2": Family(blocks="h", final=("ln_f",), attention="attn"),
    "gpt_neox": Family(final=("final_layer_norm",), attention="attention"),
    "phi": Family(final=("final_layernorm",)),
    "opt": Family(
        blocks="decoder.layers", final=("decoder.final_layer_norm", "decoder.project_out"), mlp=("fc1", "activation_fn", "fc2")
    ),
}
_FINAL_NAMES = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f", "final_norm")
_ATTENTION_NAMES = ("self_attn", "attn", "attention", "self_attention")
_MLP_NAMES = ("mlp", "ffn", "feed_forward")


def known_families() -> tuple[str, ...]:
    """Return the model types that have a record, sorted."""
    return tuple(sorted(_FAMILIES))


def num_layers(config: Any) -> int:
    """Return the number of decoder blocks a config declares.

    Raises:
        UnsupportedModel: The config belongs to an encoder-decoder or a multi-part model, or declares no layers.
    """
    kind = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{kind} is an encoder-decoder; {_SUPPORTED}")
    parts = [name for name in ("text_config", "llm_config", "language_config") if getattr(config, name, None) is not None]
    count = getattr(config, "num_hidden_layers", None)
    if parts and not isinstance(count, int):
        raise UnsupportedModel(
            f"{kind} cannot be cut: it keeps its language model in {parts[0]}; save that part as a model of its own"
        )
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        raise UnsupportedModel(f"{kind} is an encoder: each token sees those after it; {_SUPPORTED}")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise UnsupportedModel(f"{kind} cannot be cut: num_hidden_layers is {count!r}, expected a whole number from 1 on")
    return count


def find_family(model: nn.Module, config: Any) -> Family:
    """Return the record of the model's architecture, or one inferred from its modules.

    Raises:
        UnsupportedModel: No module list with one entry a layer, no final norm or no sub-layers were found.
    """
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
    mlp = [name for name in _MLP_NAMES if hasattr(block, name)]
    if len(finals) != 1 or not attention or not mlp:
        raise UnsupportedModel(
            f"{config.model_type}: final norms {list(finals)}, attention {attention}, MLP {mlp} in block 0 of {blocks}; "
            f"one of each is needed; {_SUPPORTED}"
        )
    return Family(blocks=blocks, final=finals, attention=attention[0], mlp=(mlp[0],))


def block_list(model: nn.Module, family: Family) -> nn.ModuleList:
    """Return the model's list of blocks."""
    blocks = model.get_submodule(family.blocks)
    if not isinstance(blocks, nn.ModuleList):
        raise UnsupportedModel(f"{type(model).__name__}.{family.blocks} is a {type(blocks).__name__}, not a list of blocks")
    return blocks


def final_modules(model: nn.Module, family: Family) -> list[nn.Module]:
    """Return what the model applies after its last block, in order (``final_norm`` in the papers)."""
    found = []
    for path in family.final:
        parent, _, name = path.rpartition(".")
        module = getattr(model.get_submodule(parent), name, None)
        if module is not None:
            found.append(module)
    return found


def cut_config_entries(entries: dict[str, Any], keep: Sequence[int], count: int) -> dict[str, Any]:
    """Return the config entries that change when only blocks ``keep`` of ``count`` stay (the layer count aside).

    Args:
        entries: The config as a dictionary.
        keep: Kept blocks, 0-based, ascending.
        count: Number of blocks before the cut.

    Raises:
        UnsupportedModel: A list has one entry a layer but no record says that it belongs to the layers.
    """
    changed = {}
    step = entries.get("decoder_sparse_step") or 1
    if step > 1:  # Every so many layers have experts, counted from the first; said one by one, the cut can say it too.
        dense = {*(entries.get("mlp_only_layers") or ()), *(layer for layer in range(count) if (layer + 1) % step)}
        entries = {**entries, "mlp_only_layers": sorted(dense)}
        changed["decoder_sparse_step"] = 1
    for name, value in entries.items():
        rule = _CUT.get(name)
        if rule is not None and value is not None:
            changed[name] = rule(name, value, keep, count)
        elif isinstance(value, (list, tuple)) and len(value) == count > 1 and name not in _NOT_PER_LAYER:
            raise UnsupportedModel(
                f"config entry {name!r} has {count} values, one a layer by its length, and it is not known how to cut it"
            )
    return changed


# A model cut to three layers may well have three end-of-text tokens.
_NOT_PER_LAYER = frozenset({"architectures", "keys_to_ignore_at_inference", "bos_token_id", "eos_token_id", "pad_token_id"})


def _cut_list(name: str, values: Sequence[Any], keep: Sequence[int], count: int) -> list[Any]:
    if not isinstance(values, (list, tuple)) or len(values) != count:
        found = len(values) if isinstance(values, (list, tuple)) else values
        raise UnsupportedModel(f"config entry {name!r} has {found} values for {count} layers")
    return [values[layer] for layer in keep]


def _renumber(name: str, layers: Sequence[int], keep: Sequence[int], count: int) -> list[int]:
    return [new for new, old in enumerate(keep) if old in layers]


def _count_leading(name: str, leading: int, keep: Sequence[int], count: int) -> int:
    return sum(layer < leading for layer in keep)


def _cut_run_lengths(name: str, runs: Sequence[Any], keep: Sequence[int], count: int) -> list[Any]:
    """Cut GPT-Neo's attention kinds in run-length form: ``[[["global", "local"], 12]]``."""
    kinds = [kind for pattern, times in runs for kind in list(pattern) * times]
    return [[[kind], 1] for kind in _cut_list(name, kinds, keep, count)]


_CUT: dict[str, Callable[[str, Any, Sequence[int], int], Any]] = {
    **dict.fromkeys(PER_LAYER_LISTS, _cut_list),
    **dict.fromkeys(LAYER_NUMBER_LISTS, _renumber),
    **dict.fromkeys(LEADING_COUNTS, _count_leading),
    "attention_types": _cut_run_lengths,
}

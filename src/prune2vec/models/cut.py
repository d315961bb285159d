"""A cut carried out on one architecture: which blocks, sub-layers and neurons go, in the config and tensor by tensor."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from prune2vec.errors import PlanError, UnsupportedModel
from prune2vec.models.block_layout import BlockLayout, Layout, apply_layout, is_even, sub_layers_of
from prune2vec.models.families import SubLayers, block_list, find_family, in_block, mlp_width, num_layers, without_head
from prune2vec.models.kept import Kept, check_first_layer, check_keep

# Lists with one entry a layer, over all families; they are cut by the kept layers.
PER_LAYER_LISTS = frozenset(
    {"layer_types", "no_rope_layers", "mlp_layer_types", "attention_layers", "layers_block_type", "block_types"}
)
# Lists of layer numbers; they are filtered and renumbered.
LAYER_NUMBER_LISTS = frozenset({"mlp_only_layers", "moe_layers"})
# Integers that mean "so many leading layers"; they become the number of kept layers among those.
_LEADING_COUNTS = frozenset({"max_window_layers", "first_k_dense_replace"})
# A model cut to three layers may well have three end-of-text tokens.
_NOT_PER_LAYER = frozenset(
    {
        *("architectures", "keys_to_ignore_at_inference", "bos_token_id", "eos_token_id", "pad_token_id"),
        "matryoshka_dimensions",
    }
)


def cut_config_entries(entries: dict[str, Any], keep: Sequence[int], count: int) -> dict[str, Any]:
    """Return the config entries that change when only blocks ``keep`` of ``count`` stay (the layer count aside).

    Raises:
        UnsupportedModel: A list has one entry a layer but no record says that it belongs to the layers.
    """
    changed = {}
    step = entries.get("decoder_sparse_step") or 1
    if step > 1:  # Every so many layers have experts, counted from the first; said one by one, the cut can say it too.
        dense = {*(entries.get("mlp_only_layers") or ()), *(layer for layer in range(count) if (layer + 1) % step)}
        entries = {**entries, "mlp_only_layers": sorted(dense)}
        changed["decoder_sparse_step"] = 1
    cut = {name: _cut_entry(name, value, keep, count) for name, value in entries.items() if value is not None}
    return {**{name: value for name, value in cut.items() if value is not None}, **changed}


def _cut_entry(name: str, value: Any, keep: Sequence[int], count: int) -> Any:
    """Return a config entry after the cut; None where it stays as it is."""
    if name in LAYER_NUMBER_LISTS:
        return [new for new, old in enumerate(keep) if old in value]
    if name in _LEADING_COUNTS:
        return sum(layer < value for layer in keep)
    if name == "attention_types":  # GPT-Neo's kinds in run-length form: [[["global", "local"], 12]]
        kinds = [kind for pattern, times in value for kind in list(pattern) * times]
        return [[[kind], 1] for kind in _kept_of(name, kinds, keep, count)]
    if name in PER_LAYER_LISTS:
        return _kept_of(name, value, keep, count)
    if isinstance(value, (list, tuple)) and len(value) == count > 1 and name not in _NOT_PER_LAYER:
        raise UnsupportedModel(
            f"config entry {name!r} has {count} values, one a layer by its length, and it is not known how to cut it"
        )
    return None


def _kept_of(name: str, value: Any, keep: Sequence[int], count: int) -> list[Any]:
    listed = isinstance(value, (list, tuple))
    if not listed or len(value) != count:
        raise UnsupportedModel(f"config entry {name!r} has {len(value) if listed else value} values for {count} layers")
    return [value[layer] for layer in keep]


def cut_config(config: Any, keep: Sequence[int], *, changes: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """Return a copy of ``config`` for blocks ``keep`` (0-based), with ``changes``; errors as ``cut_config_entries``."""
    count, told = num_layers(config), config.to_dict()
    check_keep(keep, count)
    depth_key = type(config).attribute_map.get("num_hidden_layers", "num_hidden_layers")
    told.pop("quantization_config", None)
    return config_of_entries(config, {**told, **cut_config_entries(told, keep, count), **changes, depth_key: len(keep)})


def config_of_entries(config: Any, entries: Mapping[str, Any]) -> Any:
    """Return a config of the class of ``config`` with other entries, made anew as they are validated against each other."""
    new = type(config).from_dict(copy.deepcopy(dict(entries)))
    # No dictionary holds it, and a mask made for one attention kernel is wrong for another.
    new._attn_implementation = config._attn_implementation
    return new


def check_decided(kept: Kept) -> None:
    """Refuse, with a ``PlanError``, a share of the neurons that does not say which go."""
    if kept.width_cut:
        raise PlanError(
            f"the plan is to cut {float(kept.width_cut):.1%} of the neurons, but not which; run prune2vec slim first"
        )


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What happens to each tensor of a model.

    Attributes:
        kept: What stays.
        blocks: Path of the model's block list.
        parts: The parts of its blocks; None where only whole blocks go.
        neurons: By original block, the neurons that stay in MLPs that become narrower.
        full_widths: By kept original block, the neurons of its MLP before the cut; empty where they are not known.
        transposed: Whether the MLP's matrices are stored with the inputs first (GPT-2).
    """

    kept: Kept
    blocks: str
    parts: SubLayers | None = None
    neurons: Mapping[int, Tensor] = field(default_factory=dict)
    full_widths: Mapping[int, int] = field(default_factory=dict)
    transposed: bool = False

    @classmethod
    def of(
        cls, keep: Iterable[int] | Kept, model: PreTrainedModel, neurons: Mapping[int, Sequence[int]] = MappingProxyType({})
    ) -> Self:
        """Return the cut that carries out ``keep`` on models like ``model``, which may be without values (meta device).

        ``neurons`` are those that stay, by original block, where ``keep`` has MLPs that become narrower.

        Raises:
            PlanError: The model does not have these layers or neurons, or the plan's width is not decided yet.
            UnsupportedModel: Sub-layers or neurons go, and the architecture's are not known.
        """
        kept = Kept.whole(keep)
        family = find_family(model, model.config)
        blocks = block_list(model, family)
        check_keep(kept.layers, len(blocks))
        if family.first_stays:
            check_first_layer(kept, model.config.model_type)
        check_decided(kept)
        if kept.widths and not neurons:
            raise PlanError("these widths do not say which neurons stay; give the plan's neurons too")
        if kept.whole_blocks:
            return cls(kept=kept, blocks=family.blocks)
        parts = sub_layers_of(model)
        if parts.neurons is None and neurons:
            raise PlanError(f"{model.config.model_type}: the neurons of its MLPs are not known, so its width cannot be cut")
        widths, transposed = {}, False
        if parts.neurons is not None:
            widths = {layer: mlp_width(blocks[layer], parts.neurons) for layer in kept.mlps}
            transposed = bool(kept.mlps) and isinstance(blocks[kept.mlps[0]].get_submodule(parts.neurons.out), Conv1D)
        for layer, stay in neurons.items():
            if stay[-1] >= widths[layer]:
                raise PlanError(
                    f"the plan keeps neuron {stay[-1]} of layer {layer}, but its MLP has neurons 0 to {widths[layer] - 1}; "
                    "the plan is for another model"
                )
        return cls(
            kept=kept,
            blocks=family.blocks,
            parts=parts,
            neurons={layer: torch.tensor(stay) for layer, stay in neurons.items()},
            full_widths=widths,
            transposed=transposed,
        )

    def rename(self, name: str) -> str | None:
        """Return a tensor's name after the cut, or None when it goes."""
        found = in_block(name, self.blocks)
        if found is None:
            return name
        layer, within = found
        gone: tuple[str, ...] = ()
        if self.parts is not None and layer in self.kept.drop_attention:
            gone += (self.parts.attention, *self.parts.attention_norms)
        if self.parts is not None and layer in self.kept.drop_mlp:
            gone += (*self.parts.mlp, *self.parts.mlp_norms)
        if layer not in self.kept.layers or any(within.startswith(f"{path}.") for path in gone):
            return None
        return f"{name.removesuffix(f'{layer}.{within}')}{self.kept.layers.index(layer)}.{within}"

    def take(self, name: str, tensor: Tensor) -> Tensor:
        """Return the part of a tensor (under its name before the cut) that stays."""
        layer, within = in_block(name, self.blocks) or (None, "")
        neurons = self.parts.neurons if self.parts is not None else None
        if layer is None or layer not in self.neurons or neurons is None:
            return tensor
        path, _, leaf = within.rpartition(".")
        stay = self.neurons[layer].to(tensor.device)
        if path in neurons.into:
            outputs = 1 if self.transposed and leaf == "weight" else 0
            return tensor.index_select(
                outputs, torch.cat([stay, stay + tensor.shape[outputs] // 2]) if neurons.halves else stay
            )
        if path == neurons.out and leaf == "weight":
            return tensor.index_select(0 if self.transposed else 1, stay)
        return tensor

    def _layout(self) -> Layout:
        widths = {**self.full_widths, **{layer: len(stay) for layer, stay in self.neurons.items()}}
        return tuple(
            BlockLayout(
                attention=layer not in self.kept.drop_attention,
                mlp=layer not in self.kept.drop_mlp,
                width=None if layer in self.kept.drop_mlp else widths.get(layer),
            )
            for layer in self.kept.layers
        )

    @property
    def layout(self) -> Layout:
        """The blocks after the cut; empty where they are all alike, so that a stock config describes them."""
        layout = self._layout()
        return () if is_even(layout) else layout

    def config(self, config: Any) -> Any:
        """Return the config of the model after the cut; for uneven blocks the one that they are built from."""
        changes = {}
        if self.neurons and not self.layout and self.parts is not None and self.parts.neurons is not None:
            changes[self.parts.neurons.config_key] = self._layout()[0].width
        return cut_config(config, self.kept.layers, changes=changes)


def assemble(like: PreTrainedModel, config: Any, state: Mapping[str, Tensor], layout: Layout = ()) -> PreTrainedModel:
    """Build a model without allocating or initialising weights, and give it exactly the tensors of ``state``, not copied.

    ``like``, a model of the same class, lends what is in no checkpoint (rotary frequencies, scales).

    Raises:
        RuntimeError: From ``load_state_dict``, when ``state`` lacks a tensor or has one too many.
    """
    with torch.device("meta"):
        model = without_head(type(like)(config))
    return _filled(model, like, state, layout)


def _filled(model: PreTrainedModel, lender: PreTrainedModel, state: Mapping[str, Tensor], layout: Layout) -> PreTrainedModel:
    """Give a model on the meta device its structure, its tensors, and buffers of ``lender``.

    What the lender has none of stays without values: a cut to one kind of attention has no frequencies of the other, and
    the blocks that it keeps ask for none. A block that did would fail, as nothing computes on the meta device.
    """
    if layout:
        apply_layout(model, layout)
    model.load_state_dict(dict(state), strict=True, assign=True)
    lent = dict(lender.named_buffers())
    for name, buffer in list(model.named_buffers()):
        twin = name if name in lent else re.sub(r"\.\d+\.", ".0.", name)  # of the first block when the numbers differ
        if buffer.is_meta and twin in lent:
            parent, _, leaf = name.rpartition(".")
            model.get_submodule(parent).register_buffer(leaf, lent[twin].clone(), persistent=False)
    # Some rotary modules keep the unscaled frequencies as a plain attribute next to the buffer.
    for path, module in model.named_modules():
        for attribute, value in list(vars(module).items()):
            if isinstance(value, Tensor) and value.is_meta and hasattr(lender.get_submodule(path), attribute):
                setattr(module, attribute, getattr(lender.get_submodule(path), attribute).clone())
    model.eval()
    return model


def reference_cut(model: PreTrainedModel, original_config: Any, keep: Sequence[int], layout: Layout = ()) -> PreTrainedModel:
    """Return the original architecture with all blocks but ``keep`` deleted, sharing the weights of a cut ``model``.

    The blocks are those that the original config builds at their original places, so a cut model whose config went
    wrong (attention kinds, rotary settings) computes something else than this one. ``layout`` says what each of them still
    has, where that is not all.
    """
    with torch.device("meta"):
        whole = without_head(type(model)(original_config))
    family = find_family(whole, original_config)
    parent, _, leaf = family.blocks.rpartition(".")
    setattr(whole.get_submodule(parent), leaf, nn.ModuleList(block_list(whole, family)[layer] for layer in keep))
    # Forward passes of some families iterate over layers[:num_hidden_layers] or zip them with per-layer kinds.
    config = cut_config(original_config, keep)
    config.use_cache = False
    whole.config = config
    if parent:
        setattr(whole.get_submodule(parent), "config", config)  # noqa: B010
    return _filled(whole, model, model.state_dict(), layout)


def cut_model(
    model: PreTrainedModel,
    keep: Iterable[int] | Kept,
    neurons: Mapping[int, Sequence[int]] = MappingProxyType({}),
    *,
    share: bool = False,
) -> PreTrainedModel:
    """Return a new model of the same class that has only what ``keep`` says of ``model``, which stays as it was.

    Args:
        model: A base model (no LM head).
        keep: Kept blocks (0-based, ascending), or also sub-layers and widths.
        neurons: By original block, the neurons that stay in MLPs that become narrower.
        share: Let both models hold the same weights in memory (a view for measuring) instead of copying them; narrowed
            matrices are always copies.

    Raises:
        PlanError: The model does not have these layers or neurons, or the plan's width is not decided yet.
        UnsupportedModel: Its structure is not understood.
    """
    cut = Cut.of(keep, model, neurons)
    state = {
        new: cut.take(name, tensor) if share else cut.take(name, tensor).clone()
        for name, tensor in model.state_dict().items()
        if (new := cut.rename(name)) is not None
    }
    return assemble(model, cut.config(model.config), state, cut.layout)

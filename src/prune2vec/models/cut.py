"""A plan carried out on one architecture, tensor by tensor: which blocks, sub-layers and neurons go."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from prune2vec.errors import PlanError
from prune2vec.models.block_layout import BlockLayout, Layout, is_even, sub_layers_of
from prune2vec.models.families import block_list, find_family
from prune2vec.models.kept import Kept
from prune2vec.models.layers import assemble, block_of, check_keep, cut_config, renamed
from prune2vec.models.sublayers import Neurons, SubLayers, mlp_width


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
        check_keep(kept.layers, len(block_list(model, family)))
        if kept.width_cut:
            raise PlanError(
                f"the plan is to cut {float(kept.width_cut):.1%} of the neurons, but not which; run prune2vec slim first"
            )
        if kept.widths and not neurons:
            raise PlanError("these widths do not say which neurons stay; give the plan's neurons too")
        if kept.whole_blocks:
            return cls(kept=kept, blocks=family.blocks)
        parts = sub_layers_of(model)
        widths, transposed = {}, False
        if parts.neurons is not None:
            blocks = block_list(model, family)
            widths = {layer: mlp_width(blocks[layer], parts.neurons) for layer in kept.mlps}
            transposed = bool(kept.mlps) and isinstance(blocks[kept.mlps[0]].get_submodule(parts.neurons.out), Conv1D)
            _check_neurons(neurons, widths)
        elif neurons:
            raise PlanError(f"{model.config.model_type}: the neurons of its MLPs are not known, so its width cannot be cut")
        return cls(
            kept=kept,
            blocks=family.blocks,
            parts=parts,
            neurons={layer: torch.tensor(numbers) for layer, numbers in neurons.items()},
            full_widths=widths,
            transposed=transposed,
        )

    def rename(self, name: str) -> str | None:
        """Return a tensor's name after the cut, or None when it goes."""
        layer = block_of(name, self.blocks)
        if layer is not None and self.parts is not None:
            gone: tuple[str, ...] = ()
            if layer in self.kept.drop_attention:
                gone += (self.parts.attention, *self.parts.attention_norms)
            if layer in self.kept.drop_mlp:
                gone += (*self.parts.mlp, *self.parts.mlp_norms)
            within = self._within_block(name)
            if any(within.startswith(f"{path}.") for path in gone):
                return None
        return renamed(name, self.blocks, self.kept.layers)

    def take(self, name: str, tensor: Tensor) -> Tensor:
        """Return the part of a tensor (under its name before the cut) that stays."""
        layer = block_of(name, self.blocks)
        if layer is None or layer not in self.neurons or self.parts is None or self.parts.neurons is None:
            return tensor
        path, _, leaf = self._within_block(name).rpartition(".")
        return slice_neurons(
            tensor, path, leaf, self.neurons[layer].to(tensor.device), self.parts.neurons, transposed=self.transposed
        )

    def _within_block(self, name: str) -> str:
        return re.split(rf"(?:^|\.){re.escape(self.blocks)}\.\d+\.", name, maxsplit=1)[-1]

    @property
    def layout(self) -> Layout:
        """The blocks after the cut."""
        return tuple(self._block(layer) for layer in self.kept.layers)

    def _block(self, layer: int) -> BlockLayout:
        mlp = layer not in self.kept.drop_mlp
        width = len(self.neurons[layer]) if layer in self.neurons else self.full_widths.get(layer)
        return BlockLayout(attention=layer not in self.kept.drop_attention, mlp=mlp, width=width if mlp else None)

    def config(self, config: Any) -> Any:
        """Return the config of the model after the cut; for uneven blocks the one that they are built from."""
        changes = {}
        if self.neurons and is_even(self.layout) and self.parts is not None and self.parts.neurons is not None:
            changes[self.parts.neurons.config_key] = self.layout[0].width
        return cut_config(config, self.kept.layers, changes=changes)

    def assemble(self, model: PreTrainedModel, state: Mapping[str, Tensor]) -> PreTrainedModel:
        """Build the model after the cut from its tensors, under their new names; buffers are lent by ``model``.

        Raises:
            RuntimeError: From ``load_state_dict``, when ``state`` lacks a tensor or has one too many.
        """
        layout = () if is_even(self.layout) else self.layout
        return assemble(type(model), self.config(model.config), state, buffers_from=model, layout=layout)


def _check_neurons(stay: Mapping[int, Sequence[int]], widths: Mapping[int, int]) -> None:
    for layer, numbers in stay.items():
        if numbers[-1] >= widths[layer]:
            raise PlanError(
                f"the plan keeps neuron {numbers[-1]} of layer {layer}, but its MLP has neurons 0 to {widths[layer] - 1}; "
                "the plan is for another model"
            )


def slice_neurons(tensor: Tensor, path: str, leaf: str, stay: Tensor, neurons: Neurons, *, transposed: bool = False) -> Tensor:
    """Return the part of an MLP's tensor that belongs to the neurons ``stay``; other tensors as they are.

    Args:
        tensor: A weight or bias.
        path: Its module's path in the block.
        leaf: ``weight`` or ``bias``.
        stay: Numbers of the neurons.
        neurons: Where the MLP keeps its neurons.
        transposed: Whether weights are stored with the inputs first.
    """
    if path in neurons.into:
        outputs = 1 if transposed and leaf == "weight" else 0
        numbers = torch.cat([stay, stay + tensor.shape[outputs] // 2]) if neurons.halves else stay
        return tensor.index_select(outputs, numbers)
    if path == neurons.out and leaf == "weight":
        return tensor.index_select(0 if transposed else 1, stay)
    return tensor


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
    return cut.assemble(model, state)

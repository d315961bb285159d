"""Read from a model's files only the tensors that stay, into the class of the cut model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prune2vec.errors import CheckpointError, PlanError, UnsupportedModel
from prune2vec.models.block_layout import is_even
from prune2vec.models.cut import Cut
from prune2vec.models.layers import block_of
from prune2vec.models.load import explained, load_config, skeleton_of
from prune2vec.models.quiet import quiet_transformers
from prune2vec.models.source import ModelSource
from prune2vec.models.tensor_check import base_names, check_tensors
from prune2vec.models.uneven import load_with_layout
from prune2vec.models.weight_files import WeightFiles
from prune2vec.planning.plan import PruningPlan
from prune2vec.progress import progress

_DIFFERENCES = ("missing_keys", "unexpected_keys", "mismatched_keys")
_PIECE = 1 << 22  # values


@dataclass(frozen=True)
class KeptModel:
    """A cut model as read from disk.

    Attributes:
        model: The base model with what is kept, in the number format of most of their tensors, eval mode.
        original_config: The config before the cut.
        files: The account of what was opened and read.
    """

    model: PreTrainedModel
    original_config: Any
    files: WeightFiles


def read_kept(source: ModelSource, plan: PruningPlan, *, trust_remote_code: bool = False) -> KeptModel:
    """Read what ``plan`` keeps; files that hold none of it are never opened nor downloaded.

    Matrices are narrowed one by one as they are read, so that memory holds little more than the cut model.

    Raises:
        PlanError: The plan was made for a model of another shape, or its width is not decided yet.
        CheckpointError: A tensor is missing, damaged, or holds NaN or infinity.
        UnsupportedModel: The architecture is not understood, or the weights are quantised.
    """
    config = load_config(source, trust_remote_code=trust_remote_code)
    check_fits(plan, config)
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedModel(f"{source.name} is quantised; convert it to plain weights first")
    files = WeightFiles.find(source)
    skeleton, family = skeleton_of(source, config, trust_remote_code=trust_remote_code)
    cut = Cut.of(plan.kept, skeleton, plan.neurons)
    found = check_tensors(skeleton, family, files, wanted=lambda name: cut.rename(name) is not None)
    # In another form than the class has it, transformers converts the tensors as it loads them under their stored names.
    names = {stored: name for name, stored in found.items()} if found is not None else _of_backbone(files.file_of, skeleton)
    kept = {stored: new for stored, name in names.items() if (new := cut.rename(name)) is not None}
    with progress("reading kept layers", total=len(kept)) as advance:
        state: dict[str, Tensor] = {}
        for name, tensor in files.read(kept):
            part = cut.take(name, tensor)
            _check_finite(name, part, block_of(name, cut.blocks))
            state[kept[name]] = part
            advance(1)
    model = _build(type(skeleton), cut, cut.config(config), state, source)
    return KeptModel(model, config, files)


def check_fits(plan: PruningPlan, config: Any) -> None:
    """Refuse a plan made for a model of another kind or depth.

    Raises:
        PlanError: They do not fit each other.
    """
    layers = getattr(config, "num_hidden_layers", None)
    if (config.model_type, layers) != (plan.shape.model_type, plan.num_layers):
        raise PlanError(
            f"the plan is for a {plan.shape.model_type} of {plan.num_layers} layers ({plan.model.get('name')}), but this model is a "
            f"{config.model_type} of {layers}; make one for it with prune2vec profile and plan"
        )


def _of_backbone(stored: Iterable[str], skeleton: PreTrainedModel) -> dict[str, str]:
    """Return the tensors that belong to the base model: those under its prefix, or all when the file has no prefix."""
    names = list(base_names(skeleton, stored))
    prefix = f"{skeleton.base_model_prefix}."
    children = {name for name, _ in skeleton.named_children()}
    under = [name for name in names if name.startswith(prefix)]
    # An OPT base model has a child called "decoder", its causal LM a prefix "model."; a prefix can also be a child's name.
    if under and skeleton.base_model_prefix not in children:
        return {name: name for name in under}
    return {name: name for name in names if name.partition(".")[0] in children}


def _check_finite(name: str, tensor: Tensor, layer: int | None) -> None:
    if tensor.is_floating_point() and not _is_finite(tensor):
        place = f"layer {layer}" if layer is not None else "outside the layers"
        raise CheckpointError(
            f"tensor {name} ({place}) holds NaN or infinity; the weights are damaged, fetch or train them again"
        )


def _is_finite(tensor: Tensor) -> bool:
    """Return whether all values are finite; in pieces, as the check of a whole embedding would take its size three times."""
    rows = max(1, _PIECE * len(tensor) // max(1, tensor.numel())) if tensor.ndim else 1
    return all(bool(torch.isfinite(piece).all()) for piece in (tensor.split(rows) if tensor.ndim else (tensor,)))


def _build(
    model_class: type[PreTrainedModel], cut: Cut, config: Any, state: dict[str, Tensor], source: ModelSource
) -> PreTrainedModel:
    layout = () if is_even(cut.layout) else cut.layout
    values: Counter[torch.dtype] = Counter()
    for tensor in state.values():
        values[tensor.dtype] += tensor.numel() * tensor.is_floating_point()
    with explained(source, "cannot build its cut"), quiet_transformers():
        model, info = load_with_layout(
            model_class,
            layout,
            None,
            config=config,
            state_dict=state,
            dtype=values.most_common(1)[0][0],
            ignore_mismatched_sizes=True,
        )
    other = sorted(name if isinstance(name, str) else name[0] for key in _DIFFERENCES for name in info[key])
    if other:
        # check_tensors found every kept tensor in its shape, so it is the cut class that has others.
        raise UnsupportedModel(
            f"{source.name} cannot be cut to layers {list(cut.kept.layers)}: its config tells kinds of layers (dense, mixture of "
            f"experts) by their place, so the cut would have {other[0]} of another kind; keep other layers"
        )
    model.eval()
    return model


def round_weights(model: PreTrainedModel, dtype: torch.dtype) -> bool:
    """Convert a model's parameters in place; return whether any was of another number format.

    Raises:
        CheckpointError: A finite value is beyond ``dtype``.
    """
    others = [(name, parameter) for name, parameter in model.named_parameters() if parameter.dtype != dtype]
    for name, parameter in others:
        parameter.data = parameter.data.to(dtype)
        if not _is_finite(parameter.data):
            raise CheckpointError(
                f"tensor {name} holds values beyond {str(dtype).removeprefix('torch.')}; write bfloat16 or float32"
            )
    return bool(others)

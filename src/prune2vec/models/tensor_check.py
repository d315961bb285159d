"""Every tensor of the architecture and no other, in its shape: told from names and headers, before any value is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from math import prod
from typing import Any, NoReturn

from transformers import PreTrainedModel

from prune2vec.errors import ModelError, UnsupportedModel
from prune2vec.models.families import Family, block_list
from prune2vec.models.layers import block_of
from prune2vec.models.weight_files import HARMLESS, WeightFiles

Shape = Sequence[int]

_ADAPTER = re.compile(r"\b(lora_|base_layer\b|base_model\b)")
# What stands in files behind the name of a tensor whose values mean nothing without it.
_SCALE = re.compile(r"(_scale_inv|_scale|\.absmax)$")
_PLAIN = frozenset({"F64", "F32", "F16", "BF16"})


def check_tensors(
    model: PreTrainedModel, family: Family, files: WeightFiles, *, wanted: Callable[[str], bool] | None = None
) -> dict[str, str] | None:
    """Compare the tensors of a model class, built from the config, with those of the files.

    Args:
        model: The base model; it may be without values (meta device).
        family: Where its blocks are.
        files: Its files. Of those only the headers are read, and only where they hold something that is wanted.
        wanted: Tells by a tensor's name in the class whether it will be read; None for all.

    Returns:
        The name in the files of each tensor of the class; None where they hold it in another form (experts one by one,
        older names, quantised as the config says), which transformers converts as it loads and ``check_loaded`` has to judge.

    Raises:
        ModelError: A tensor is missing, left over, of another shape or quantised, or the numbers of layers differ.
        CheckpointError: A file is missing or damaged, or the index does not fit the files.
    """
    if getattr(model.config, "quantization_config", None) is not None:
        return None
    expected, who = model.state_dict(), files.source.name
    found, extra = _matched(model, family, files)
    optional = re.compile("|".join(getattr(model, "_keys_to_ignore_on_load_missing", None) or ["(?!)"]))
    missing = [name for name in expected if name not in found and not optional.search(name)]
    read = {name: stored for name, stored in found.items() if wanted is None or wanted(name)}
    table = files.table(read.values())
    shapes = {stored: (table[stored].shape, tuple(expected[name].shape)) for name, stored in read.items()}
    misshapen = {stored: pair for stored, pair in shapes.items() if pair[0] != pair[1]}
    other_form = bool(missing and extra) and not any(map(_ADAPTER.search, extra))
    if other_form:
        missing, extra = [], []
    refuse(who, model.config.model_type, missing=missing, extra=extra, misshapen=misshapen)
    for name, stored in read.items():
        if table[stored].dtype not in _PLAIN and expected[name].is_floating_point():
            raise UnsupportedModel(_quantised(who, f"{stored} is stored in {table[stored].dtype}"))
    if other_form and wanted is None:
        _check_size(files, model.config.model_type, sum(tensor.numel() for tensor in expected.values()))
    return None if other_form else found


def _matched(model: PreTrainedModel, family: Family, files: WeightFiles) -> tuple[dict[str, str], list[str]]:
    """Return the name in the files of each tensor of the class, and what the files hold beside them that is not harmless."""
    expected = model.state_dict().keys()
    names = base_names(model, files.file_of)
    _check_layers(files.source.name, len(block_list(model, family)), names.values(), family)
    found = {name: stored for stored, name in names.items() if name in expected}
    return found, [stored for stored, name in names.items() if found.get(name) != stored]


def base_names(model: PreTrainedModel, stored: Iterable[str]) -> dict[str, str]:
    """Return for each stored name, what is harmless beside a base model aside, its name without the prefix of the causal LM."""
    expected, ignored = model.state_dict().keys(), ignored_tensors(model)
    names = {name: _bare(name, expected, model.base_model_prefix) for name in stored}
    return {name: bare for name, bare in names.items() if bare in expected or not ignored.search(bare)}


def _bare(stored: str, expected: Collection[str], prefix: str) -> str:
    """Return a tensor's name without the prefix of the causal LM, unless the class has it with that prefix."""
    return stored if stored in expected else stored.removeprefix(f"{prefix}.")


def ignored_tensors(model: PreTrainedModel) -> re.Pattern[str]:
    """Return what matches the tensors of a file that are no part of a base model (transformers' own list included)."""
    known = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []
    return re.compile("|".join([HARMLESS.pattern, *(f"({pattern})" for pattern in known)]))


def _check_layers(who: str, told: int, names: Iterable[str], family: Family) -> None:
    numbers = [
        layer for name in names if name.startswith(f"{family.blocks}.") and (layer := block_of(name, family.blocks)) is not None
    ]
    if numbers and max(numbers) + 1 != told:
        raise ModelError(
            f"{who}: config.json tells of {told} layers, but the weights hold {max(numbers) + 1}; one of the two is of another model"
        )


def _check_size(files: WeightFiles, kind: str, told: int) -> None:
    """Refuse a model that has more values than its files: no conversion adds any, and all would be allocated."""
    held = sum(prod(entry.shape) for entry in files.table(files.file_of).values())
    if told > held:
        raise ModelError(
            f"{files.source.name}: config.json tells of a {kind} of {told:,} values, but the weights hold {held:,}; one of the two is "
            "of another model"
        )


def check_loaded(who: str, model: PreTrainedModel, info: Mapping[str, Any]) -> None:
    """Judge transformers' account of what it loaded, in the words of ``check_tensors``.

    Args:
        who: The model's name for messages.
        model: The model.
        info: ``output_loading_info``, with mismatched sizes let through.

    Raises:
        ModelError: A tensor is missing, left over or of another shape.
    """
    ignored = ignored_tensors(model)
    # Beside quantised weights lie scales that only some kernels read.
    unexpected = [] if getattr(model.config, "quantization_config", None) is not None else info["unexpected_keys"]
    refuse(
        who,
        model.config.model_type,
        missing=info["missing_keys"],
        extra=[name for name in unexpected if not ignored.search(name.removeprefix(f"{model.base_model_prefix}."))],
        misshapen={name: (tuple(found), tuple(told)) for name, found, told in info["mismatched_keys"]},
    )


def refuse(
    who: str, kind: str, *, missing: Iterable[str], extra: Iterable[str], misshapen: Mapping[str, tuple[Shape, Shape]]
) -> None:
    """Refuse a model whose files do not hold exactly the tensors that its config tells; nothing is done if they do.

    Args:
        who: The model's name.
        kind: Its model type.
        missing: Tensors that the files lack.
        extra: Tensors that they have too much.
        misshapen: Shapes found and told of tensors that have another shape.

    Raises:
        ModelError: There is a difference; one tensor of each kind is named.
    """
    missing, extra = sorted(missing), sorted(extra)
    adapter = next(filter(_ADAPTER.search, extra), None)
    if adapter is not None:
        raise ModelError(
            f"{who} has tensors of an adapter ({adapter}); merge it into the weights first (peft: merge_and_unload)"
        )
    scale = next(filter(_SCALE.search, extra), None)
    if scale is not None:
        raise UnsupportedModel(_quantised(who, f"it has {scale} beside the weights"))
    for name, (found, told) in sorted(misshapen.items()):
        _refuse_shape(who, kind, name, found, told, len(misshapen))
    if missing:
        raise ModelError(
            f"{who} lacks tensor {missing[0]} ({len(missing)} in all) of the {kind} that its config.json tells; its weights are "
            "incomplete: fetch or convert them again"
        )
    if extra:
        raise ModelError(
            f"{who} has tensor {extra[0]} ({len(extra)} in all), which is no part of the {kind} that its config.json tells; one of "
            "the two is of another model"
        )


def _refuse_shape(who: str, kind: str, name: str, found: Shape, told: Shape, count: int) -> NoReturn:
    if prod(found) == 0:
        raise ModelError(
            f"{who}: tensor {name} is empty (shape {list(found)}, {count} in all), as DeepSpeed's ZeRO-3 leaves tensors that were not "
            "gathered when saving; convert the training checkpoint with its zero_to_fp32.py"
        )
    raise ModelError(
        f"{who}: tensor {name} is {list(found)} in the weights, but {list(told)} in the {kind} that config.json tells ({count} "
        "differ); one of the two is of another model"
    )


def _quantised(who: str, why: str) -> str:
    return f"{who} is quantised ({why}), but its config.json does not say how; convert it to plain weights"

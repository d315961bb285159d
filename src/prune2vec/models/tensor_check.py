"""Every tensor of the architecture and no other, in its shape: told from names and headers, before any value is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any

from transformers import PreTrainedModel

from prune2vec.errors import ModelError, UnsupportedModel
from prune2vec.models.families import Family, block_list, in_block
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

    The model may be without values. Only headers are read, of files that hold a tensor that is ``wanted`` by its name in the
    class (all by default).

    Returns:
        The name in the files of each tensor of the class; None where they hold it in another form (experts one by one,
        older names, quantised as the config says), which transformers converts as it loads and ``check_loaded`` has to judge.

    Raises:
        ModelError: A tensor is missing, left over, of another shape or quantised, or the numbers of layers differ.
        CheckpointError: A file is missing or damaged, or the index does not fit the files.
    """
    if getattr(model.config, "quantization_config", None) is not None:
        return None
    expected, who, kind = model.state_dict(), files.source.name, model.config.model_type
    found, extra = _matched(model, family, files)
    optional = re.compile("|".join(getattr(model, "_keys_to_ignore_on_load_missing", None) or ["(?!)"]))
    missing = [name for name in expected if name not in found and not optional.search(name)]
    read = {name: stored for name, stored in found.items() if wanted is None or wanted(name)}
    table = files.table(read.values())
    shapes = {stored: (table[stored].shape, tuple(expected[name].shape)) for name, stored in read.items()}
    other_form = bool(missing and extra) and not any(map(_ADAPTER.search, extra))
    if other_form:
        missing, extra = [], []
    refuse(who, kind, missing=missing, extra=extra, shapes=shapes)
    coded = [
        stored for name, stored in read.items() if expected[name].is_floating_point() and table[stored].dtype not in _PLAIN
    ]
    if coded:
        raise UnsupportedModel(_quantised(who, f"{coded[0]} is stored in {table[coded[0]].dtype}"))
    if not other_form:
        return found
    if wanted is None:
        _check_size(files, kind, sum(tensor.numel() for tensor in expected.values()))
    return None


def _check_size(files: WeightFiles, kind: str, told: int) -> None:
    """Refuse a model that has more values than its files: no conversion adds any, and all would be allocated."""
    held = sum(prod(entry.shape) for entry in files.table(files.file_of).values())
    if told > held:
        raise ModelError(
            f"{files.source.name}: config.json tells of a {kind} of {told:,} values, but the weights hold {held:,}; one of the two is "
            "of another model"
        )


def _matched(model: PreTrainedModel, family: Family, files: WeightFiles) -> tuple[dict[str, str], list[str]]:
    """Return the name in the files of each tensor of the class, and what the files hold beside them that is not harmless."""
    expected, told = model.state_dict().keys(), len(block_list(model, family))
    names = base_names(model, files.file_of)
    places = [in_block(name, family.blocks) for name in names.values() if name.startswith(f"{family.blocks}.")]
    held = 1 + max((place[0] for place in places if place is not None), default=-1)
    if held not in (0, told):
        raise ModelError(
            f"{files.source.name}: config.json tells of {told} layers, but the weights hold {held}; one of the two is of another model"
        )
    found = {name: stored for stored, name in names.items() if name in expected}
    return found, [stored for stored, name in names.items() if found.get(name) != stored]


def base_names(model: PreTrainedModel, stored: Iterable[str]) -> dict[str, str]:
    """Return for each stored name, what is harmless beside a base model aside, its name without the prefix of the causal LM.

    A name that the class has with that prefix keeps it.
    """
    expected, ignored, prefix = model.state_dict().keys(), _ignored(model), f"{model.base_model_prefix}."
    names = {name: name if name in expected else name.removeprefix(prefix) for name in stored}
    return {name: bare for name, bare in names.items() if bare in expected or not ignored.search(bare)}


def _ignored(model: PreTrainedModel) -> re.Pattern[str]:
    """Return what matches the tensors of a file that are no part of a base model (transformers' own list included)."""
    known = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []
    return re.compile("|".join([HARMLESS.pattern, *(f"({pattern})" for pattern in known)]))


def check_loaded(who: str, model: PreTrainedModel, info: Mapping[str, Any]) -> None:
    """Judge transformers' account of what it loaded (mismatched sizes let through), as ``check_tensors`` does."""
    ignored, told = _ignored(model), model.state_dict().keys()
    # Beside quantised weights lie scales that only some kernels read.
    unexpected = [] if getattr(model.config, "quantization_config", None) is not None else info["unexpected_keys"]
    refuse(
        who,
        model.config.model_type,
        missing=[name for name in info["missing_keys"] if name in told],
        extra=[name for name in unexpected if not ignored.search(name.removeprefix(f"{model.base_model_prefix}."))],
        shapes={name: (tuple(found), tuple(told)) for name, found, told in info["mismatched_keys"]},
    )


def refuse(
    who: str, kind: str, *, missing: Iterable[str], extra: Iterable[str], shapes: Mapping[str, tuple[Shape, Shape]]
) -> None:
    """Refuse a model whose files do not hold exactly the tensors that its config tells; nothing is done if they do.

    ``shapes`` are those of tensors, found and told; ``kind`` is the model type.

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
    misshapen = sorted(name for name, (found, told) in shapes.items() if found != told)
    if misshapen:
        found, told = shapes[misshapen[0]]
        if prod(found) == 0:
            raise ModelError(
                f"{who}: tensor {misshapen[0]} is empty (shape {list(found)}, {len(misshapen)} in all), as DeepSpeed's ZeRO-3 leaves "
                "tensors that were not gathered when saving; convert the training checkpoint with its zero_to_fp32.py"
            )
        raise ModelError(
            f"{who}: tensor {misshapen[0]} is {list(found)} in the weights, but {list(told)} in the {kind} that config.json tells "
            f"({len(misshapen)} differ); one of the two is of another model"
        )
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


def _quantised(who: str, why: str) -> str:
    return f"{who} is quantised ({why}), but its config.json does not say how; convert it to plain weights"

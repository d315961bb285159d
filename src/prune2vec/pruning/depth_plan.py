"""A plan for those who know what stays: the leading layers of a model, or named ones, with nothing measured."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from prune2vec.errors import PlanError
from prune2vec.forward.backbone import load_backbone
from prune2vec.planning.plan import PruningPlan
from prune2vec.progress import say
from prune2vec.pruning.encoder import read_record


def depth_plan(
    model: str, what: int | Sequence[int], *, revision: str | None = None, trust_remote_code: bool = False
) -> PruningPlan:
    """Return the plan that keeps the first ``what`` layers of a model, or those whose numbers are ``what``, from 0.

    Of an encoder that was trained at several depths (``depths`` of ``train``) each is ready as it is; another cut is said to be
    untrained.

    Texts become vectors as an encoder has it, or as suits a language model; ``model`` and the others are as for ``load_backbone``.

    Raises:
        PlanError: The model has fewer layers, or the numbers do not ascend.
        ModelError: It cannot be found, loaded or understood.
    """
    what = _whole_numbers(what)
    backbone = load_backbone(model, revision=revision, trust_remote_code=trust_remote_code, stream="auto", device="cpu")
    layers, folder = backbone.shape.num_layers, backbone.source.folder
    kept = kept_layers(what, model, layers)
    depth = len(kept) if kept == tuple(range(len(kept))) else None
    told = str(depth or ",".join(map(str, kept)))
    trained = ((read_record(folder).get("train") or {}).get("depths") or []) if folder is not None else []
    notes = []
    if trained:
        depths = ", ".join(map(str, trained))
        notes = [f"the encoder was trained at depths {depths}{'' if depth in trained else f', and not at {told}'}"]
        if depth not in trained:
            say(f"{model} was trained at depths {depths}; at {told} its vectors are not, so train what comes out")
    return PruningPlan(
        model=backbone.identity(),
        keep_layers=kept,
        text=backbone.usual_text,
        method="depth" if depth else "layers",
        parameters={"depth": depth} if depth else {"layers": told},
        notes=tuple(notes),
        shape=backbone.shape,
    )


def _whole_numbers(what: Any) -> int | tuple[int, ...]:
    """Return a number of layers, or their numbers, as Python's own; numpy's and torch's count too."""
    try:
        given = list(what) if isinstance(what, Iterable) else [what]
        if any(isinstance(one, bool) for one in given):
            raise TypeError
        numbers = tuple(map(operator.index, given))
    except TypeError:
        raise PlanError(
            f"expected a plan, its file, a number of layers or the numbers of those that stay, got {what!r:.200}"
        ) from None
    return numbers if isinstance(what, Iterable) else numbers[0]


def kept_layers(what: int | Sequence[int], model: str, layers: int) -> tuple[int, ...]:
    """Return the numbers of the layers that stay; a ``PlanError`` where a model of so many has not got them."""
    if isinstance(what, int):
        if not 1 <= what <= layers:
            raise PlanError(f"{model} has {layers} layers, so {what} cannot stay; give 1 to {layers}")
        return tuple(range(what))
    kept = tuple(what)
    if not kept or any(after <= before for before, after in pairwise((-1, *kept, layers))):
        raise PlanError(
            f"layers {','.join(map(str, kept)) or '(none)'} cannot stay of {model}; name layers from 0 to {layers - 1}, each once, in "
            "ascending order"
        )
    return kept

"""A plan for those who know what stays: the leading layers of a model, or named ones, with nothing measured."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

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
    backbone = load_backbone(model, revision=revision, trust_remote_code=trust_remote_code, stream="auto", device="cpu")
    layers, folder = backbone.shape.num_layers, backbone.source.folder
    if isinstance(what, int) and not 1 <= what <= layers:
        raise PlanError(f"{model} has {layers} layers, so {what} cannot stay; give 1 to {layers}")
    kept = tuple(range(what) if isinstance(what, int) else what)
    told = ",".join(map(str, kept))
    if not kept or any(after <= before for before, after in pairwise((-1, *kept, layers))):
        raise PlanError(
            f"layers {told or '(none)'} cannot stay of {model}; name layers from 0 to {layers - 1}, each once, in ascending order"
        )
    if leading := kept == tuple(range(len(kept))):
        told = str(len(kept))
    trained = ((read_record(folder).get("train") or {}).get("depths") or []) if folder is not None else []
    notes = []
    if trained:
        known, depths = leading and len(kept) in trained, ", ".join(map(str, trained))
        notes = [f"the encoder was trained at depths {depths}{'' if known else f', and not at {told}'}"]
        if not known:
            say(f"{model} was trained at depths {depths}; at {told} its vectors are not, so train what comes out")
    return PruningPlan(
        model=backbone.identity(),
        keep_layers=kept,
        text=backbone.usual_text,
        method="depth" if leading else "layers",
        parameters={"depth": len(kept)} if leading else {"layers": told},
        notes=tuple(notes),
        shape=backbone.shape,
    )

"""A plan for those who know the depth: the leading layers of a model, with nothing measured."""

from __future__ import annotations

from prune2vec.errors import PlanError
from prune2vec.forward.backbone import load_backbone
from prune2vec.planning.plan import PruningPlan
from prune2vec.progress import say
from prune2vec.pruning.encoder import read_record


def depth_plan(model: str, depth: int, *, revision: str | None = None, trust_remote_code: bool = False) -> PruningPlan:
    """Return the plan that keeps the first ``depth`` layers of a model.

    Of an encoder that was trained at several depths (``depths`` of ``train``) each is ready as it is; another one is said to be
    untrained.

    Texts become vectors as an encoder has it, or as suits a language model; ``model`` and the others are as for ``load_backbone``.

    Raises:
        PlanError: The model has fewer layers.
        ModelError: It cannot be found, loaded or understood.
    """
    backbone = load_backbone(model, revision=revision, trust_remote_code=trust_remote_code, stream="auto", device="cpu")
    layers, folder = backbone.shape.num_layers, backbone.source.folder
    if not 1 <= depth <= layers:
        raise PlanError(f"{model} has {layers} layers, so {depth} cannot stay; give 1 to {layers}")
    trained = ((read_record(folder).get("train") or {}).get("depths") or []) if folder is not None else []
    notes = []
    if trained:
        told = ", ".join(map(str, trained))
        notes = [f"the encoder was trained at depths {told}{'' if depth in trained else f', and not at {depth}'}"]
        if depth not in trained:
            say(f"{model} was trained at depths {told}; at {depth} its vectors are not, so train what comes out")
    return PruningPlan(
        model=backbone.identity(),
        keep_layers=tuple(range(depth)),
        text=backbone.usual_text,
        method="depth",
        parameters={"depth": depth},
        notes=tuple(notes),
        shape=backbone.shape,
    )

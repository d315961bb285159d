"""Plans for tiny models, made without a profile."""

from collections.abc import Iterable
from pathlib import Path

from prune2vec.backbone.load import load_backbone
from prune2vec.records.plan import PruningPlan


def plan_for(model: Path, keep: Iterable[int]) -> PruningPlan:
    backbone = load_backbone(str(model), dtype="float32", device="cpu")
    return PruningPlan(model=backbone.identity(), shape=backbone.shape, keep_layers=tuple(keep), method="depth")

"""Plans for tiny models, made without a profile."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors.torch import load_file

from prune2vec.forward.backbone import load_backbone
from prune2vec.models.load import load_config, skeleton_of
from prune2vec.models.source import resolve_source
from prune2vec.planning.plan import PruningPlan
from prune2vec.pruning.prune import KeptModel, OpenedModel, prune_model, read_kept


def plan_for(
    model: Path,
    keep: Iterable[int],
    *,
    drop_attention: Iterable[int] = (),
    drop_mlp: Iterable[int] = (),
    neurons: Mapping[int, Iterable[int]] | None = None,
) -> PruningPlan:
    backbone = load_backbone(str(model), dtype="float32", device="cpu")
    return PruningPlan(
        model=backbone.identity(),
        shape=backbone.shape,
        keep_layers=tuple(keep),
        drop_attention=tuple(drop_attention),
        drop_mlp=tuple(drop_mlp),
        neurons={layer: tuple(stay) for layer, stay in (neurons or {}).items()},
        method="depth",
    )


def kept_of(model: Path, plan: PruningPlan) -> KeptModel:
    """Read what a plan keeps of a folder, whether or not the plan was made for it."""
    source = resolve_source(str(model))
    config = load_config(source)
    return read_kept(OpenedModel(source, config, *skeleton_of(source, config), text=None), plan)  # type: ignore[arg-type]


def check_reads(model: Path, plan: PruningPlan, kept: Mapping[str, str]) -> None:
    """Prune after every file that holds nothing of ``kept`` (file by tensor) was spoilt, and compare what was read."""
    index = json.loads((model / "model.safetensors.index.json").read_text())["weight_map"]
    for file in set(index.values()) - set(kept.values()):
        # Same size, no safetensors: opening one would raise.
        (model / file).write_bytes(b"\xff" * (model / file).stat().st_size)
    out = prune_model(str(model), plan, model.parent / "out", max_length=128)
    read = json.loads((out / "prune2vec.json").read_text())["read"]
    assert set(read["files"]) == set(kept.values())
    sizes = {name: tensor.nbytes for file in set(kept.values()) for name, tensor in load_file(model / file).items()}
    assert read["bytes"] == sum(sizes[name] for name in kept)

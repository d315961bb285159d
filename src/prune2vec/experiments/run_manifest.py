"""``manifest.json``: everything needed to do a run again and get the same numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prune2vec.experiments.variant_run import VariantRun
from prune2vec.machine import describe
from prune2vec.profiling.profile import Profile

FORMAT = "prune2vec.manifest/1"


def manifest(job: VariantRun, profile: Profile) -> dict[str, Any]:
    """Return the resolved recipe, model revision, digests of the data, seeds, versions, and each stage with its time.

    A stage's seconds are those of the run that finished it; a training that was interrupted and gone on with counts from
    there (its own record in the encoder's folder has the whole time).
    """
    recipe = job.recipe.model_dump(mode="json")
    stages = {
        name: {"key": stamp.key, "output": stamp.output_digest, "seconds": stamp.seconds, "finished": stamp.finished}
        for name, stamp in job.ledger.stamps.items()
    }
    return {
        "format": FORMAT,
        "model": dict(profile.model),
        "recipe": recipe,
        "data": job.sources.known(),
        "seeds": dict(_seeds(recipe)),
        "plans": {name: {"digest": plan.digest, "layers": len(plan.keep_layers)} for name, plan in job.plans.items()},
        "same_layers_as": job.twins,
        "stages": stages,
        "seconds": round(sum(stamp.seconds for stamp in job.ledger.stamps.values()), 3),
        "environment": describe(),
    }


def _seeds(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _seeds(value, f"{prefix}{key}.")
        elif key == "seed":
            yield f"{prefix}{key}", value

"""``prune2vec methods``: the names that the registries know."""

from __future__ import annotations

import inspect
from typing import Any

from prune2vec.cli.verb import Outcome, verb
from prune2vec.registry import Registry


@verb(example="prune2vec methods", writes=False)
def methods() -> Outcome:
    """List planners, scorers, neuron importances, poolings and export targets."""
    from prune2vec.exporting.target import targets
    from prune2vec.forward.pooling import poolings
    from prune2vec.planning.planner import planners
    from prune2vec.profiling.measure import scorers
    from prune2vec.training.neuron_importance import importances

    registries: list[Registry[Any]] = [planners, scorers, importances, poolings, targets]
    found = {
        registry.kind: {
            name: (inspect.getdoc(registry.get(name)) or "").split("\n\n")[0].replace("\n", " ") for name in registry
        }
        for registry in registries
    }
    width = max(len(name) for parts in found.values() for name in parts)
    lines = {
        kind: [f"  {name:<{width}}  {line.replace('``', '')}" for name, line in parts.items()] for kind, parts in found.items()
    }
    return Outcome("\n\n".join("\n".join([f"{kind}s", *listed]) for kind, listed in lines.items()), found)

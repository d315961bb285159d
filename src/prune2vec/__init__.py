"""Turn any decoder-only LLM into a small, fast text encoder: profile, plan, prune, train, evaluate.

Every name here is loaded on first use, so that importing the package costs nothing. Paths are str or Path, and ``settings``
may be a mapping. Calls from several threads are safe: they run one after the other.

    from prune2vec import evaluate, plan, profile, prune, train

    profile("smollm2", "triplets.jsonl", output="profile.json")
    plan("profile.json", method="l3prune", variant="small", output="plan.json")
    prune("smollm2", "plan.json", "small")
    train("small", "triplets.jsonl", "encoder")
    print(evaluate("encoder", data="heldout.jsonl").render())
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prune2vec.data.mine import mine
    from prune2vec.encoding.encode import encode_corpus as encode
    from prune2vec.encoding.search import search_vectors as search
    from prune2vec.errors import Prune2vecError
    from prune2vec.evaluation.evaluate import evaluate_encoder as evaluate
    from prune2vec.experiments.compare import compare_results as compare
    from prune2vec.experiments.run import run_recipe as run
    from prune2vec.exporting.doctor import examine_encoder as doctor
    from prune2vec.exporting.export import export_encoder as export
    from prune2vec.planning.plan import PruningPlan
    from prune2vec.planning.planner import make_plan as plan
    from prune2vec.profiling.measure import profile_model as profile
    from prune2vec.profiling.profile import Profile
    from prune2vec.pruning.encoder import load_encoder as load
    from prune2vec.pruning.prune import prune_model as prune
    from prune2vec.training.slim import slim_plan as slim
    from prune2vec.training.train import train_encoder as train

    __version__: str

_HOMES = {
    "Profile": ("prune2vec.profiling.profile", "Profile"),
    "Prune2vecError": ("prune2vec.errors", "Prune2vecError"),
    "PruningPlan": ("prune2vec.planning.plan", "PruningPlan"),
    "compare": ("prune2vec.experiments.compare", "compare_results"),
    "doctor": ("prune2vec.exporting.doctor", "examine_encoder"),
    "encode": ("prune2vec.encoding.encode", "encode_corpus"),
    "evaluate": ("prune2vec.evaluation.evaluate", "evaluate_encoder"),
    "export": ("prune2vec.exporting.export", "export_encoder"),
    "load": ("prune2vec.pruning.encoder", "load_encoder"),
    "mine": ("prune2vec.data.mine", "mine"),
    "plan": ("prune2vec.planning.planner", "make_plan"),
    "profile": ("prune2vec.profiling.measure", "profile_model"),
    "prune": ("prune2vec.pruning.prune", "prune_model"),
    "run": ("prune2vec.experiments.run", "run_recipe"),
    "search": ("prune2vec.encoding.search", "search_vectors"),
    "slim": ("prune2vec.training.slim", "slim_plan"),
    "train": ("prune2vec.training.train", "train_encoder"),
}

__all__ = [
    "Profile", "Prune2vecError", "PruningPlan", "__version__", "compare", "doctor", "encode", "evaluate", "export", "load", "mine", "plan",
    "profile", "prune", "run", "search", "slim", "train",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Load a public name on first use."""
    if name == "__version__":
        from importlib.metadata import version

        return version("prune2vec")
    if name not in _HOMES:
        raise AttributeError(f"module 'prune2vec' has no attribute {name!r}")
    from prune2vec.files import no_collection
    from prune2vec.public import CALLS

    module, attribute = _HOMES[name]
    # Two threads that import parts of libraries that need each other can find them half made.
    with CALLS, no_collection():
        return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted({*__all__, *globals()})

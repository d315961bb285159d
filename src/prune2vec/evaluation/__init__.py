"""Evaluating encoders: retrieval on own data with BM25 beside it, MTEB tasks, size, memory and speed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prune2vec.registry import lazy_names

if TYPE_CHECKING:
    from prune2vec.evaluation.presets import PRESETS as PRESETS
    from prune2vec.evaluation.results import Results as Results
    from prune2vec.evaluation.results import TaskScore as TaskScore
    from prune2vec.evaluation.runner import evaluate_encoder as evaluate_encoder
    from prune2vec.evaluation.settings import EvaluateSettings as EvaluateSettings

__all__ = ["PRESETS", "EvaluateSettings", "Results", "TaskScore", "evaluate_encoder"]
__getattr__ = lazy_names(
    __name__,
    presets=("PRESETS",),
    results=("Results", "TaskScore"),
    runner=("evaluate_encoder",),
    settings=("EvaluateSettings",),
)

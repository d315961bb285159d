"""The registry of rankings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from prune2vec.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from prune2vec.slimming.settings import SlimSettings
    from prune2vec.slimming.subject import Subject
    from prune2vec.texts import Triplet

Scores = Mapping[int, "Tensor"]
RankingFn = Callable[["Subject", Sequence["Triplet"], "SlimSettings"], Scores]

rankings: Registry[RankingFn] = Registry("ranking", package="prune2vec.slimming.rankings")
"""Each ranking takes (subject, triplets, settings) and returns the importance of every neuron: by original layer, for every
MLP of the subject, a 1-D float32 tensor on the CPU with one finite number a neuron; the lowest are cut first.

A ranking leaves the subject's model as it was. What is worth recording it hands to ``subject.note``.
"""

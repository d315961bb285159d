"""Texts: reading, checking, drawing and mining triplets of (anchor, positive, negatives)."""

from __future__ import annotations

from prune2vec.texts.folders import dataset_name
from prune2vec.texts.groups import Order, draw_groups
from prune2vec.texts.instructions import E5_DATASETS, E5Dataset, Instructions
from prune2vec.texts.mining import MinedFolder, MinedPairs, add_negatives, mine, mine_docstrings, mine_folder, split_by_group
from prune2vec.texts.reader import load_triplets, read_triplets
from prune2vec.texts.retrieval import Retrieval, is_beir, read_beir, triplets_as_retrieval
from prune2vec.texts.skipped import Skipped
from prune2vec.texts.summary import Lengths, Summary, summarise
from prune2vec.texts.triplet import Triplet, digest_texts
from prune2vec.texts.writer import write_triplets

__all__ = [
    "E5_DATASETS",
    "E5Dataset",
    "Instructions",
    "Lengths",
    "MinedFolder",
    "MinedPairs",
    "Order",
    "Retrieval",
    "Skipped",
    "Summary",
    "Triplet",
    "add_negatives",
    "dataset_name",
    "digest_texts",
    "draw_groups",
    "is_beir",
    "load_triplets",
    "mine",
    "mine_docstrings",
    "mine_folder",
    "read_beir",
    "read_triplets",
    "split_by_group",
    "summarise",
    "triplets_as_retrieval",
    "write_triplets",
]

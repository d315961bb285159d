"""Making training pairs of text that the user already has: docstrings of installed packages, or a folder of documents."""

from __future__ import annotations

from prune2vec.texts.mining.docstrings import mine_docstrings
from prune2vec.texts.mining.folder import mine_folder
from prune2vec.texts.mining.job import MinedFolder, mine
from prune2vec.texts.mining.negatives import add_negatives
from prune2vec.texts.mining.pairs import MinedPairs
from prune2vec.texts.mining.split import split_by_group

__all__ = ["MinedFolder", "MinedPairs", "add_negatives", "mine", "mine_docstrings", "mine_folder", "split_by_group"]

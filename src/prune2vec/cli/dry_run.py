"""Cheap looks at inputs for ``--dry-run``: seconds at most, nothing loaded, nothing written."""

from __future__ import annotations

import os
from pathlib import Path

from prune2vec.errors import CheckpointError, DataError


def check_model(name: str) -> None:
    """Look whether a local model folder holds a model; hub ids and GGUF files are taken as they are.

    Raises:
        ModelError: The folder holds no model.
    """
    if os.path.isdir(name):
        from prune2vec.models.source import resolve_source

        resolve_source(name)


def check_texts(source: str) -> None:
    """Read the first triplet of a local source.

    Raises:
        DataError: It cannot be read, has the wrong columns or no rows.
    """
    if not os.path.exists(source):
        return
    from prune2vec.data.reader import read_triplets

    if next(iter(read_triplets(source)), None) is None:
        raise DataError(f"{source} holds no triplets")


def check_encoder(folder: Path) -> None:
    """Look whether a folder is a SentenceTransformer's.

    Raises:
        CheckpointError: It is not.
    """
    if not (folder / "modules.json").is_file():
        raise CheckpointError(f"{folder} has no modules.json, so it is no encoder; make one with prune2vec prune")

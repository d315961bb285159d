"""A saved and a loaded tiny encoder, a triplet file and a mirror, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.evaluation.evaluated import LoadedEncoder, load_for_evaluation
from tests.evaluation.helpers import QUICK, save_tiny_encoder, write_mirror, write_triplets_file


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture(scope="session")
def encoder(encoder_folder: Path) -> LoadedEncoder:
    return load_for_evaluation(encoder_folder, EvaluateSettings(**QUICK))


@pytest.fixture(scope="session")
def triplets_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_triplets_file(tmp_path_factory.mktemp("data") / "heldout.jsonl")


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mirror(tmp_path_factory.mktemp("mirror"))

"""Running the command line in this process, and the small files that its verbs read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prune2vec import progress
from prune2vec.cli.app import main
from prune2vec.models.shape import ModelShape
from prune2vec.profiling.profile import LayerLoss, Profile

LOSSES = (3.0, 2.0, 2.5, 2.8, 2.2, 1.5, 1.9, 2.4)


@dataclass(frozen=True)
class Ran:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Ran]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cli]:
    """Return a function that runs one command line in ``tmp_path``; progress is switched back on afterwards."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str | Path) -> Ran:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    yield run
    progress.set_enabled(True)


@pytest.fixture
def profile_file(tmp_path: Path) -> Path:
    """A profile of an 8-layer model whose minima are at depths 2 and 6."""
    layers = len(LOSSES)
    shape = ModelShape(
        model_type="llama",
        num_layers=layers,
        hidden_size=4,
        attention_width=4,
        embedding_params=1000,
        block_params=(100,) * layers,
        block_matmul_params=(90,) * layers,
        final_params=4,
        bytes_per_param=4,
    )
    zeros = (0.0,) * layers
    curve = LayerLoss(
        loss=LOSSES, std_error=zeros, accuracy=zeros, alignment=zeros, uniformity=zeros, group_loss=(LOSSES, LOSSES)
    )
    path = tmp_path / "profile.json"
    Profile(model={"name": "toy", "revision": None, "fingerprint": "0"}, shape=shape, layer_loss=curve).save(path)
    return path


@pytest.fixture
def triplets_file(tmp_path: Path) -> Path:
    """Eighty triplets, enough for a small profile."""
    rows = [{"anchor": f"query {n}", "positive": f"answer {n}", "negative": f"other {n}"} for n in range(80)]
    path = tmp_path / "triplets.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def encoder_files(tmp_path: Path) -> Path:
    """Write the files that tell of an encoder's modules, without a model, into ``encoder/``."""
    folder = tmp_path / "encoder"
    (folder / "1_Pooling").mkdir(parents=True)
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"))
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    pooling = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    return folder

"""A trained encoder is written as it was, whoever made it; one that could not be is refused before the first step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from prune2vec.cli.app import main
from prune2vec.data.triplet import write_triplets
from prune2vec.encoding.engine import Engine
from prune2vec.errors import CheckpointError, ConfigError
from prune2vec.training.mine_negatives import mine_negatives
from prune2vec.training.train import train_encoder
from tests.tiny import tiny_model, tiny_tokenizer
from tests.training.encoders import rows, save_tiny_encoder

QUICK: dict[str, Any] = {"steps": 2, "batch_size": 8, "save_every": 2, "dtype": "float32", "device": "cpu"}
PROMPTS = {"query": "find the one for this: ", "document": "", "STS": "sts | "}
TEXTS = ["quick brown fox", "the lazy dog " * 9, "a"]


def published(folder: Path, *modules: torch.nn.Module, pooling: str | tuple[str, ...] = "mean", **settings: Any) -> Path:
    """Write an encoder as others publish them: prompts are pooled, and everything differs from what prune writes."""
    plain = folder.parent / "plain"
    tiny_model("llama", 0, num_hidden_layers=2).save_pretrained(plain)
    tiny_tokenizer().save_pretrained(plain)
    first = Transformer(str(plain), max_seq_length=48)
    first_pooling: Any = pooling
    encoder = SentenceTransformer(
        modules=[first, Pooling(32, pooling_mode=first_pooling, include_prompt=True), *modules], device="cpu", **settings
    )
    encoder.save_pretrained(str(folder), create_model_card=False)
    return folder


@pytest.mark.parametrize("pooling", ["mean", "lasttoken", "weightedmean"])
@pytest.mark.parametrize("normalised", [True, False])
def test_everything_but_the_weights_stays(tmp_path: Path, pooling: str, normalised: bool) -> None:
    modules = [Normalize()] if normalised else []
    base = published(
        tmp_path / "base",
        *modules,
        pooling=pooling,
        prompts=PROMPTS,
        default_prompt_name="STS",
        similarity_fn_name="dot",
    )
    train_encoder(base, rows(16), tmp_path / "out", **QUICK, learning_rate=1e-3)
    before, after = (SentenceTransformer(str(folder), device="cpu") for folder in (base, tmp_path / "out"))
    told: Any = [
        ([type(module).__name__ for module in one], one[1].include_prompt, one[1].pooling_mode, one.prompts)
        for one in (before, after)
    ]
    assert told[0] == told[1]
    assert (after.default_prompt_name, after.similarity_fn_name, after.max_seq_length) == ("STS", "dot", 48)
    assert abs(after.encode(TEXTS) - before.encode(TEXTS)).max() > 1e-6


@pytest.mark.parametrize("prompt", ["", "query", "STS"])
def test_the_engine_pools_the_prompt_too(tmp_path: Path, prompt: str) -> None:
    encoder = SentenceTransformer(str(published(tmp_path / "base", Normalize(), prompts=PROMPTS)), device="cpu")
    engine = Engine(encoder, prompt=PROMPTS.get(prompt, ""))
    assert engine.packs
    np.testing.assert_allclose(engine.encode(TEXTS), encoder.encode(TEXTS, prompt=PROMPTS.get(prompt)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: published(folder, Normalize(), pooling=("mean", "max")), "one pooling"),
    ],
)
def test_what_cannot_be_written_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, message: str, dry: bool
) -> None:
    base, data = make(tmp_path / "base"), tmp_path / "rows.jsonl"
    write_triplets(rows(16), data)
    words = ["train", str(base), "--data", str(data), "-o", str(tmp_path / "out"), "--batch-size", "8"]
    assert main(words + ["--dry-run"] * dry) == 1
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "plain", "rows.jsonl"]


def test_other_tokens_than_would_be_written_are_refused(tmp_path: Path) -> None:
    base = published(tmp_path / "base", Normalize())
    file = base / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "truncation_side": "left"}))
    with pytest.raises(CheckpointError, match="other tokens than the tokeniser that would be written"):
        train_encoder(base, rows(16), tmp_path / "out", **QUICK)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "plain"]


def test_a_teacher_of_nan_is_named_with_the_text(tmp_path: Path, small: Path) -> None:
    teacher = save_tiny_encoder(tmp_path / "teacher")
    encoder = SentenceTransformer(str(teacher), device="cpu")
    next(encoder.parameters()).data.fill_(float("nan"))
    encoder.save_pretrained(str(teacher), create_model_card=False)
    with pytest.raises(CheckpointError, match=r"the vectors of .*teacher are not finite, first that of 'a'"):
        train_encoder(small, rows(16), tmp_path / "out", **QUICK, teacher=teacher)
    with pytest.raises(CheckpointError, match=r"the vectors of .*teacher are not finite"):
        mine_negatives(rows(16), teacher, tmp_path / "mined.jsonl", device="cpu", dtype="float32")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without CUDA is asked")
def test_a_second_gpu_is_a_device_like_others(tmp_path: Path, small: Path) -> None:
    with pytest.raises(ConfigError, match="this machine has no device 'cuda:1'; use --device auto"):
        train_encoder(small, rows(16), tmp_path / "out", **{**QUICK, "device": "cuda:1"})
    with pytest.raises(ConfigError, match="this machine has no device 'cuda:1'; use --device auto"):
        mine_negatives(rows(16), small, tmp_path / "mined.jsonl", device="cuda:1")

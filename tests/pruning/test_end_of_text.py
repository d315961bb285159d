"""Encoders that pool the EOS token: it is the last token of every text, cut or not, in the saved folder's own tokeniser."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from prune2vec.data.instructions import Instructions
from prune2vec.errors import ConfigError
from prune2vec.pruning.encoder import load_encoder
from prune2vec.pruning.prune import prune_model
from tests.pruning.plans import plan_for
from tests.tiny import save_tiny

EOS = 2
TEXTS = ["a", "the quick brown fox", "birds sing in the morning " * 40, ""]


def pruned(tmp_path: Path, *, family: str = "llama", bos: bool = False, max_length: int = 32, **settings: object) -> Path:
    model = save_tiny(tmp_path / "m", family, bos=bos)
    return prune_model(str(model), plan_for(model, range(5)), tmp_path / "out", max_length=max_length, **settings)


@pytest.mark.parametrize("bos", [False, True])
def test_every_text_ends_with_eos_and_none_is_longer_than_the_limit(tmp_path: Path, bos: bool) -> None:
    out = pruned(tmp_path, bos=bos, pooling="lasttoken")
    encoder = load_encoder(out, device="cpu", dtype="float32")
    for prompt in ("", "find it\n"):
        batch = encoder.preprocess(TEXTS, prompt=prompt)
        lengths = batch["attention_mask"].sum(dim=1)
        assert [int(row[length - 1]) for row, length in zip(batch["input_ids"], lengths, strict=True)] == [EOS] * len(TEXTS)
        assert ((batch["input_ids"] == EOS) & batch["attention_mask"].bool()).sum(dim=1).tolist() == [1] * len(TEXTS)
        assert lengths.max() == 32
    assert json.loads((out / "prune2vec.json").read_text())["text_format"]["suffix"] == "</s>"


def test_a_server_that_reads_tokenizer_json_alone_gets_it_too(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(pruned(tmp_path, pooling="lasttoken") / "tokenizer.json"))
    assert tokenizer.encode("the quick brown fox").ids[-1] == EOS
    tokenizer.enable_truncation(8)
    assert tokenizer.encode("birds sing in the morning " * 40).ids[-1] == EOS
    assert len(tokenizer.encode("birds sing in the morning " * 40).ids) == 8


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text", "gpt2"])
def test_the_vector_is_the_whole_models_state_at_eos(tmp_path: Path, family: str) -> None:
    out = pruned(tmp_path, family=family, pooling="lasttoken")
    encoder = load_encoder(out, device="cpu", dtype="float32")
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "m").base_model.eval()
    text = "the quick brown fox"
    ids = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        state = whole(input_ids=torch.tensor([[*ids, EOS]]), use_cache=False).last_hidden_state[0, -1]
    expected = torch.nn.functional.normalize(state, dim=0).numpy()
    np.testing.assert_allclose(encoder.encode([text, TEXTS[2]])[0], expected, atol=1e-5)


def test_it_is_still_there_after_loading_and_saving_elsewhere(tmp_path: Path) -> None:
    encoder = SentenceTransformer(str(pruned(tmp_path, pooling="lasttoken")), device="cpu")
    encoder.save_pretrained(str(tmp_path / "again"), create_model_card=False)
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS[:3]), encoder.encode(TEXTS[:3]), atol=1e-6)
    assert again.preprocess(TEXTS[2:3])["input_ids"][0, -1] == EOS


@pytest.mark.parametrize(
    ("settings", "ends"),
    [
        ({"pooling": "mean"}, False),
        ({"pooling": "weightedmean", "append_eos": "on"}, True),
        ({"pooling": "lasttoken", "append_eos": "off"}, False),
    ],
)
def test_other_poolings_get_it_when_asked_for(tmp_path: Path, settings: dict[str, str], ends: bool) -> None:
    encoder = load_encoder(pruned(tmp_path, **settings), device="cpu", dtype="float32")
    assert (encoder.preprocess(["quick fox"])["input_ids"][0, -1] == EOS) == ends


def test_effirs_instruction_is_saved_word_for_word(tmp_path: Path) -> None:
    out = pruned(tmp_path, pooling="lasttoken", instruction="effir", max_length=200)
    encoder = load_encoder(out, device="cpu", dtype="float32")
    expected = "<instruct>Given a query, retrieve relevant passages that answer the query.\n<query>"
    assert (encoder.prompts["query"], encoder.prompts["document"]) == (expected, "")
    named = Instructions.parse("effir")
    assert named is not None
    assert expected == named.text + str(named.separator)


def test_a_prompt_that_merges_with_the_text_matters_only_where_it_is_left_out_of_the_pooling(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line break"):
        pruned(tmp_path, pooling="mean", instruction="find", separator="; ")
    with pytest.raises(ConfigError, match="line break"):
        pruned(tmp_path, pooling="lasttoken", append_eos="off", instruction="find", separator="; ")
    assert pruned(tmp_path, pooling="lasttoken", instruction="find", separator="; ").is_dir()

"""prune with fewer tokens: texts whose tokens all stay have the same tokens and exactly the same vector, in plain libraries."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoModel, AutoTokenizer

from prune2vec.errors import PlanError, UnsupportedModel
from prune2vec.models.text_settings import TextSettings
from prune2vec.planning.plan import PruningPlan, VocabularyCut
from prune2vec.planning.planner import make_plan
from prune2vec.pruning.encoder import load_encoder
from prune2vec.pruning.fewer_tokens import check_padding, renumbered_config
from prune2vec.pruning.prune import prune_model
from tests.planning.made import curve_with_minima, made_profile
from tests.pruning.plans import plan_for
from tests.tiny import FAMILIES, tiny_model
from tests.token_samples import COMMON, KINDS, SPELT_IN_BYTES, TEXTS, random_texts, save_model


def cut_plan(model: Path, keep: range, vocabulary: object, **text: Any) -> PruningPlan:
    """Return a plan of the first layers and of a vocabulary for the corpus beside the model."""
    plan = plan_for(model, keep)
    profile = replace(
        made_profile(curve_with_minima(5, 2, 4)), model=plan.model, shape=plan.shape, text=TextSettings(max_length=128, **text)
    )
    options = {"vocabulary": vocabulary, "texts": str(model / "corpus.txt")}
    return make_plan(profile, method="depth", depth=len(keep), vocabulary=options)


def tokens_of(encoder: SentenceTransformer, text: str) -> list[str]:
    tokenizer: Any = encoder.tokenizer
    return list(tokenizer.convert_ids_to_tokens(tokenizer(text, truncation=True, max_length=128)["input_ids"]))


def check_unchanged(whole: SentenceTransformer, cut: SentenceTransformer, texts: list[str]) -> int:
    """Compare the texts whose tokens all stay, one by one; return how many they are."""
    stay, found = set(cut.tokenizer.get_vocab()), 0
    for text in texts:
        before, after = tokens_of(whole, text), tokens_of(cut, text)
        if set(before) <= stay:
            found += 1
            assert after == before
            assert np.array_equal(whole.encode(text), cut.encode(text))
        assert np.isfinite(cut.encode(text)).all()
    return found


Pair = tuple[SentenceTransformer, SentenceTransformer, Path]


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """An encoder of three layers, one with fewer tokens too, and the latter's folder; of each kind of tokeniser."""
    folder = tmp_path_factory.mktemp(request.param)
    model = save_model(folder / "m", request.param)
    whole = prune_model(str(model), plan_for(model, range(3)), folder / "whole", max_length=128)
    cut = prune_model(str(model), cut_plan(model, range(3), "90%"), folder / request.param)
    return (SentenceTransformer(str(whole), device="cpu"), SentenceTransformer(str(cut), device="cpu"), cut)


def test_the_same_vectors_in_plain_sentence_transformers(pair: Pair) -> None:
    whole, cut, folder = pair
    assert check_unchanged(whole, cut, [*COMMON, *TEXTS]) >= 3
    if folder.name in SPELT_IN_BYTES:
        for text in TEXTS:
            ids = cut.tokenizer(text)["input_ids"]
            assert cut.tokenizer.unk_token_id not in ids
            assert cut.tokenizer.decode(ids, skip_special_tokens=True) == whole.tokenizer.decode(
                whole.tokenizer(text)["input_ids"], skip_special_tokens=True
            )


@settings(max_examples=8)
@given(texts=st.lists(random_texts(), min_size=1, max_size=4))
def test_the_same_vectors_of_random_texts(pair: Pair, texts: list[str]) -> None:
    whole, cut, _ = pair
    check_unchanged(whole, cut, [text for text in texts if text.strip()])


def test_numbers_agree_in_every_file(pair: Pair) -> None:
    *_, folder = pair
    config = json.loads((folder / "config.json").read_text())
    plan = PruningPlan.load(folder / "plan.json")
    assert plan.vocabulary is not None
    count = len(plan.vocabulary.kept)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder)
    numbers = tokenizer.get_vocab()
    assert sorted(numbers.values()) == list(range(count))
    assert model.get_input_embeddings().weight.shape[0] == config["vocab_size"] == count
    assert config["pad_token_id"] == numbers["<pad>"] == tokenizer.pad_token_id
    assert config["bos_token_id"] == numbers["<s>"] == tokenizer.bos_token_id
    assert config["eos_token_id"] == [numbers["</s>"], numbers["<|user|>"]]
    # It was the number of no token.
    assert config.get("sep_token_id") is None
    assert tokenizer("a")["input_ids"][0] == numbers["<s>"]
    record = json.loads((folder / "prune2vec.json").read_text())
    assert record["plan"]["vocabulary"]["kept"] == count
    assert f"{count:,} of {plan.shape.token_rows:,} tokens" in (folder / "README.md").read_text()


def test_only_the_kept_rows_are_read(tmp_path: Path) -> None:
    model = save_model(tmp_path / "m")
    plan = cut_plan(model, range(2), 400)
    out = prune_model(str(model), plan, tmp_path / "out")
    assert plan.vocabulary is not None
    read = json.loads((out / "prune2vec.json").read_text())["read"]["bytes"]
    assert read == sum(tensor.nbytes for tensor in load_file(out / "model.safetensors").values())
    before = load_file(model / "model.safetensors")["model.embed_tokens.weight"]
    after = load_file(out / "model.safetensors")["embed_tokens.weight"]
    assert after.equal(before[list(plan.vocabulary.kept)])
    assert plan.shape.params(plan.kept) == sum(parameter.numel() for parameter in AutoModel.from_pretrained(out).parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(tmp_path: Path, family: str) -> None:
    model = save_model(tmp_path / "m", family=family)
    whole = prune_model(str(model), plan_for(model, range(3)), tmp_path / "whole", max_length=128)
    cut = prune_model(str(model), cut_plan(model, range(3), "90%"), tmp_path / "cut")
    encoders = [SentenceTransformer(str(one), device="cpu") for one in (whole, cut)]
    assert len(encoders[1].tokenizer) < len(encoders[0].tokenizer)
    assert check_unchanged(encoders[0], encoders[1], COMMON) >= 3


def test_with_dropped_sub_layers_and_narrow_mlps(tmp_path: Path) -> None:
    model = save_model(tmp_path / "m")
    inside = plan_for(model, range(3), drop_mlp=[1], drop_attention=[2], neurons={0: range(20)})
    fewer = replace(inside, vocabulary=cut_plan(model, range(3), "90%").vocabulary)
    whole = load_encoder(prune_model(str(model), inside, tmp_path / "whole", max_length=128), device="cpu", dtype="float32")
    cut = load_encoder(prune_model(str(model), fewer, tmp_path / "cut", max_length=128), device="cpu", dtype="float32")
    assert len(cut.tokenizer) < len(whole.tokenizer)
    assert check_unchanged(whole, cut, COMMON) >= 3


def test_an_ending_and_a_prompt(tmp_path: Path) -> None:
    model = save_model(tmp_path / "m", ends=False)
    options = {"pooling": "lasttoken", "instruction": "sing a song of layers"}
    plain = replace(plan_for(model, range(3)), text=TextSettings(max_length=128, **options))
    whole = prune_model(str(model), plain, tmp_path / "whole")
    cut = prune_model(str(model), cut_plan(model, range(3), "80%", **options), tmp_path / "cut")
    first, second = (SentenceTransformer(str(one), device="cpu") for one in (whole, cut))
    assert tokens_of(second, "the band")[-1] == "</s>"
    for text in COMMON:
        assert np.array_equal(first.encode_query(text), second.encode_query(text))


def test_a_prompt_that_the_plan_did_not_know_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_model(tmp_path / "m")
    prune_model(str(model), cut_plan(model, range(2), "80%"), tmp_path / "cut", instruction="Быстрая")
    assert "the prompt 'Быстрая\\n' has tokens that do not stay" in capsys.readouterr().err


def test_another_tokeniser_or_a_lost_role_is_refused(tmp_path: Path) -> None:
    model = save_model(tmp_path / "m")
    plan = cut_plan(model, range(2), 400)
    assert plan.vocabulary is not None
    other = replace(plan, vocabulary=replace(plan.vocabulary, digest="0" * 64))
    with pytest.raises(PlanError, match="the plan keeps 400 tokens of another tokeniser"):
        prune_model(str(model), other, tmp_path / "out")


def test_padding_that_positions_are_counted_from(tmp_path: Path) -> None:
    model = save_model(tmp_path / "m")
    cut = cut_plan(model, range(2), 400).vocabulary
    assert cut is not None
    config = AutoConfig.for_model(
        "roberta",
        vocab_size=800,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        pad_token_id=1,
    )
    roberta = AutoModel.from_config(config)
    check_padding(roberta, cut)
    with pytest.raises(UnsupportedModel, match=r"counts positions from the number of its padding token \(1\)"):
        check_padding(roberta, replace(cut, kept=cut.kept[1:]))
    # Elsewhere it is a number like any other.
    check_padding(tiny_model("llama", pad_token_id=2), replace(cut, kept=cut.kept[1:]))


def test_a_config_that_takes_no_none_keeps_its_default_number() -> None:
    config = AutoConfig.for_model("eurobert", vocab_size=600, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    cut = VocabularyCut(kept=(0, 1, 2, 9), digest="d", texts=1, changed=0, tokens_before=1, tokens_after=1)
    found = renumbered_config(config, cut)
    assert (found.vocab_size, found.mask_token_id) == (4, config.mask_token_id), "no kept token is its mask"

"""Encoder-only models and bidirectional decoders: taken over whole, cut, and made of causal decoders."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch.nn.functional import gelu, layer_norm, softmax
from transformers import AutoConfig, AutoModel, PreTrainedModel

from prune2vec.encoding.engine import Engine
from prune2vec.errors import ConfigError, UnsupportedModel
from prune2vec.models.selftest import is_causal
from prune2vec.planning.planner import make_plan
from prune2vec.profiling.measure import profile_model
from prune2vec.pruning.encoder import load_encoder, read_record
from prune2vec.pruning.parity import PROBE_TEXTS
from prune2vec.pruning.prune import prune_model
from tests.pruning.plans import plan_for
from tests.tiny import _BASE, BIDIRECTIONAL, ENCODERS, VOCAB, save_tiny, tiny_model, tiny_tokenizer

TEXTS = [*PROBE_TEXTS, "quick brown fox", "layers of a language model hold what an encoder needs " * 3]


def source_encoder(folder: Path, family: str, pooling: str) -> SentenceTransformer:
    """Write a plain sentence-transformers folder, pooler and all, and return the encoder as that library loads it."""
    bare = save_tiny(folder / "bare", family)
    transformer = Transformer(str(bare), max_seq_length=100)
    modules = [transformer, Pooling(32, pooling_mode=pooling, include_prompt=True), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder / "source"), create_model_card=False)
    return SentenceTransformer(str(folder / "source"), device="cpu")


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("family", [*BIDIRECTIONAL, *ENCODERS])
def test_an_uncut_encoder_gives_the_vectors_of_its_source(tmp_path: Path, family: str, pooling: str) -> None:
    source = source_encoder(tmp_path, family, pooling)
    rows = [{"query": f"which file {n}", "positive": f"row {n} of the file", "negative": f"spring {n}"} for n in range(8)]
    data = tmp_path / "texts.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    profile = profile_model(tmp_path / "source", data, groups=1, group_size=8, device="cpu", dtype="float32")
    assert not profile.shape.causal and profile.text.pooling == pooling
    plan = make_plan(profile, method="depth", depth=5)
    out = prune_model(tmp_path / "source", plan, tmp_path / "out")
    expected = source.encode(TEXTS, show_progress_bar=False)
    found = SentenceTransformer(str(out), device="cpu")
    np.testing.assert_allclose(found.encode(TEXTS, show_progress_bar=False), expected, atol=1e-5, rtol=0)
    engine = Engine(load_encoder(out, device="cpu", dtype="float32"))
    np.testing.assert_allclose(engine.encode(TEXTS), expected, atol=1e-5, rtol=0)
    assert read_record(out)["attention"] == "bidirectional"
    assert not any("pooler" in name for name in load_encoder(out, device="cpu", dtype="float32")[0].auto_model.state_dict())


def by_hand(model: PreTrainedModel, ids: torch.Tensor, *, no_attention: int, no_mlp: int) -> torch.Tensor:
    """Return the states of one row of a BERT written out, one block without attention and one without its MLP."""
    weights, sizes = model.state_dict(), (32,)

    def dense(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, sizes, weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-12)

    table = "embeddings.{}_embeddings.weight".format
    x = weights[table("word")][ids] + weights[table("position")][: len(ids)] + weights[table("token_type")][0]
    x = norm("embeddings.LayerNorm", x)
    for layer in range(5):
        at = f"encoder.layer.{layer}"
        if layer != no_attention:
            q, k, v = (
                dense(f"{at}.attention.self.{name}", x).view(-1, 4, 8).transpose(0, 1) for name in ("query", "key", "value")
            )
            mixed = (softmax(q @ k.transpose(1, 2) / 8**0.5, dim=-1) @ v).transpose(0, 1).reshape(-1, 32)
            x = norm(f"{at}.attention.output.LayerNorm", x + dense(f"{at}.attention.output.dense", mixed))
        if layer != no_mlp:
            inner = gelu(dense(f"{at}.intermediate.dense", x))
            x = norm(f"{at}.output.LayerNorm", x + dense(f"{at}.output.dense", inner))
    return x


def test_a_bert_without_some_sub_layers_is_the_one_written_out(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m", "bert")
    plan = plan_for(folder, range(5), drop_attention=[1], drop_mlp=[3])
    out = prune_model(folder, plan, tmp_path / "out", max_length=64, pooling="mean")
    encoder = load_encoder(out, device="cpu", dtype="float32")
    model = AutoModel.from_pretrained(folder)
    for text, vector in zip(TEXTS, encoder.encode(TEXTS, show_progress_bar=False), strict=True):
        ids = torch.tensor(encoder.tokenizer(text, truncation=True, max_length=64)["input_ids"])
        assert (ids[0], ids[-1]) == (1, 2), "what stands around a text stays however it is cut"
        expected = by_hand(model, ids, no_attention=1, no_mlp=3).mean(dim=0)
        np.testing.assert_allclose(vector, (expected / expected.norm()).numpy(), atol=1e-5, rtol=0)


# What the windows of bidirectional attention are


def seen_by(model: PreTrainedModel, token: int, length: int = 60) -> list[int]:
    """Return the tokens whose change changes a token's output."""
    ids = torch.randint(3, VOCAB, (1, length), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        before = model(input_ids=ids)[0][0, token]
        changed = ids.repeat(length, 1)
        places = torch.arange(length)
        changed[places, places] = (ids[0] + 1) % VOCAB
        after = model(input_ids=changed)[0][:, token]
    return [place for place in range(length) if not torch.equal(after[place], before)]


@pytest.mark.parametrize(
    ("family", "changes", "reach"),
    [
        ("mistral", {"is_causal": False, "sliding_window": 6}, 6),
        ("gemma3_text", {"use_bidirectional_attention": True, "sliding_window": 12}, 6),
        # With both switches on transformers takes one token more: why gemma3 is given its own alone.
        ("gemma3_text", {"use_bidirectional_attention": True, "is_causal": False, "sliding_window": 12}, 7),
        ("modernbert", {"local_attention": 12}, 6),
    ],
)
def test_windows_reach_as_far_on_both_sides(family: str, changes: dict[str, Any], reach: int) -> None:
    kinds = {} if family == "mistral" else {"layer_types": ["sliding_attention"]}
    model = tiny_model(family, num_hidden_layers=1, **kinds, **changes)
    assert seen_by(model, 30) == list(range(30 - reach, 30 + reach + 1))


# Causal decoders made bidirectional


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3_text"])
def test_a_causal_decoder_becomes_bidirectional(tmp_path: Path, family: str) -> None:
    model = save_tiny(tmp_path / "m", family, bos=True)
    out = prune_model(
        model, plan_for(model, [0, 2, 4]), tmp_path / "out", max_length=64, pooling="mean", attention="bidirectional"
    )
    assert not is_causal(AutoModel.from_pretrained(out).eval())
    config = json.loads((out / "config.json").read_text())
    assert config["use_bidirectional_attention"] is True
    # Gemma 3 has a switch of its own.
    own = family == "gemma3_text"
    assert config.get("is_causal") is (None if own else False)
    # Transformers 4 would leave the others causal without a word, so releases that come with it are not to load them.
    first = json.loads((out / "modules.json").read_text())[0]["type"]
    assert first.startswith("sentence_transformers.models." if own else "sentence_transformers.base.modules.")
    if "sliding_window" in config and family == "gemma3_text":
        assert config["sliding_window"] == 16, "the whole window, of which half lies on each side"
    assert read_record(out)["attention"] == "bidirectional"
    stock = SentenceTransformer(str(out), device="cpu")
    engine = Engine(load_encoder(out, device="cpu", dtype="float32"))
    assert not engine.is_causal and engine.packs
    np.testing.assert_allclose(engine.encode(TEXTS), stock.encode(TEXTS, batch_size=3), atol=1e-5, rtol=0)
    kept = prune_model(model, plan_for(model, [0, 2, 4]), tmp_path / "kept", max_length=64, pooling="mean")
    assert np.abs(stock.encode(TEXTS) - SentenceTransformer(str(kept), device="cpu").encode(TEXTS)).max() > 1e-3
    assert read_record(kept)["attention"] == "causal"


@pytest.mark.parametrize(("family", "message"), [("gpt2", "gpt2"), ("phi", "phi")])
def test_what_a_class_does_not_follow_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, message: str
) -> None:
    model = save_tiny(tmp_path / "m", family)
    plan = plan_for(model, [0, 2])
    monkeypatch.setattr("prune2vec.pruning.prune.is_causal", lambda kept: True)
    with pytest.raises(UnsupportedModel, match=rf"^{message} stays causal, whatever its config says"):
        prune_model(model, plan, tmp_path / "out", max_length=64, attention="bidirectional")
    assert not (tmp_path / "out").exists()


def test_the_first_token_of_a_causal_model_is_not_pooled(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "m", bos=True)
    with pytest.raises(ConfigError, match=r"^cls pools the first token, which sees no other one in a causal model"):
        prune_model(model, plan_for(model, [0]), tmp_path / "out", max_length=64, pooling="cls")
    out = prune_model(model, plan_for(model, [0]), tmp_path / "out", max_length=64, pooling="cls", attention="bidirectional")
    assert json.loads((out / "1_Pooling" / "config.json").read_text())["include_prompt"] is True


@pytest.mark.parametrize("family", ["nomic_bert", "jina_embeddings_v3"])
def test_families_whose_files_have_other_names_than_their_class(tmp_path: Path, family: str) -> None:
    model = AutoModel.from_config(AutoConfig.for_model(family, **_BASE))
    model.save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    for what in (model.config.num_hidden_layers, 3, (0, 2, 4)):
        out = prune_model(tmp_path / "m", what, tmp_path / "out")
        assert json.loads((out / "parity.json").read_text())["max_difference"] < 1e-5


def test_a_family_that_cannot_be_cut_tensor_by_tensor_is_told_why(tmp_path: Path) -> None:
    AutoModel.from_config(AutoConfig.for_model("gte", **_BASE)).save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    with pytest.raises(UnsupportedModel, match="cannot be cut: its files hold tensors under other names than its class"):
        prune_model(tmp_path / "m", 3, tmp_path / "out")

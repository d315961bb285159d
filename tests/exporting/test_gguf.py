"""The GGUF export: read back by the reader of such files, refused where llama.cpp computes something else, and run by it if installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

pytest.importorskip("gguf", reason="the gguf extra is not installed")

from prune2vec.errors import CheckpointError
from prune2vec.exporting import gguf_check, gguf_model, other_vectors
from prune2vec.exporting.export import export_encoder
from prune2vec.exporting.gguf_model import header_of, write_file
from prune2vec.exporting.other_vectors import has_llama_cpp, llama_cpp_vectors
from prune2vec.forward.pooling import IN_FOLDERS
from prune2vec.models.families import without_head
from prune2vec.models.gguf_file import GGUFFile
from prune2vec.models.kept import Kept
from prune2vec.models.token_kinds import TokenVocabulary
from prune2vec.models.tokens import without_added
from prune2vec.pruning.encoder import encode_probe, parts_of
from prune2vec.pruning.model_card import served_by
from tests.exporting.encoders import INSTRUCTION, TEXTS, cut_encoder, export_loaded, plan_for, tiny_encoder
from tests.tiny import tiny_model
from tests.token_samples import sample_tokenizer

GEMMA = {"query_pre_attn_scalar": 8}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {},
    "gemma2": GEMMA,
    "gemma3_text": {**GEMMA, "num_hidden_layers": 7, "sliding_window_pattern": 6},
    "llama+bidirectional": {},
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def encoder_with(folder: Path, tokenizer: Tokenizer, family: str = "llama", *, pooling: str = "mean") -> SentenceTransformer:
    """Return an encoder with a tokeniser of its own, and some rows more than tokens."""
    roles = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tiny_model(family, vocab_size=tokenizer.get_vocab_size() + 5, num_hidden_layers=2).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=256, **roles).save_pretrained(folder)
    transformer = Transformer(str(folder), max_seq_length=48)
    without_head(transformer.auto_model)
    return SentenceTransformer(modules=[transformer, Pooling(32, pooling_mode=pooling), Normalize()], device="cpu").eval()


def halved(kind: str) -> Tokenizer:
    """Return a tokeniser of a kind of which half of the tokens that can go are gone."""
    vocabulary = TokenVocabulary(sample_tokenizer(kind), "tiny")
    kept = vocabulary.required([], []) | set(vocabulary.alphabet())
    for number in sorted(vocabulary.tokens)[::2]:
        kept |= {number} | vocabulary.parts(number)
    return vocabulary.trimmed(kept)


def compare_by_llama_cpp(encoder: SentenceTransformer, file: Path) -> None:
    """Compare llama.cpp's vectors with the encoder's, where its binding is installed."""
    if has_llama_cpp():
        texts = [text for text in TEXTS if len(encoder.tokenizer(text)["input_ids"]) <= 48]
        vectors = llama_cpp_vectors(file, texts, tokens=48)
        expected = encoder.encode(texts, show_progress_bar=False)
        assert ((vectors * expected).sum(1) > 0.9999).all(), (vectors * expected).sum(1)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_holds_the_encoder(tmp_path: Path, family: str) -> None:
    pooling = "lasttoken" if family == "qwen3" else "mean"
    changes = {"num_hidden_layers": 2, **FAMILIES[family]}
    encoder = tiny_encoder(tmp_path, family, pooling=pooling, bos=family == "qwen2", **changes)
    done = export_loaded(encoder, target="gguf", output=tmp_path / "out")
    file = GGUFFile.open(tmp_path / "out" / "model.gguf")
    told, arch = file.metadata, file.architecture
    assert told[f"{arch}.pooling_type"] == {"mean": 1, "lasttoken": 3}[pooling]
    assert told[f"{arch}.attention.causal"] == (family != "llama+bidirectional")
    assert told["tokenizer.ggml.add_bos_token"] == (family == "qwen2") and not told["tokenizer.ggml.add_eos_token"]
    assert file.tensors["token_embd.weight"].kind == "F16" and file.tensors["output_norm.weight"].kind == "F32"
    # The class that transformers loads for Qwen 2 brings its own split and composes characters.
    qwen = family == "qwen2"
    assert told["tokenizer.ggml.pre"] == ("qwen2" if qwen else "gpt-2")
    assert any("does not compose characters" in note for note in done.notes) == qwen
    assert (done.parity is None) == (not has_llama_cpp()) == any("only tokens" in note for note in done.notes)
    compare_by_llama_cpp(encoder, tmp_path / "out" / "model.gguf")


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_bias": True, "mlp_bias": True},
        {"head_dim": 16, "rope_parameters": LLAMA3},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 77.0, "factor": 3.0}},
        {"num_key_value_heads": 4, "vocab_size": 400, "rms_norm_eps": 1e-3},
    ],
    ids=["biases", "llama3", "linear", "rows"],
)
def test_variants_of_llama(tmp_path: Path, changes: dict[str, Any]) -> None:
    encoder = tiny_encoder(tmp_path, pooling="cls", num_hidden_layers=2, **changes)
    export_loaded(encoder, target="gguf", output=tmp_path / "out")
    compare_by_llama_cpp(encoder, tmp_path / "out" / "model.gguf")


def test_what_llama_cpp_does_behind_added_tokens_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_check, "has_llama_cpp", lambda: False)
    for kind, told in (("all-merges", True), ("byte-level", False)):
        encoder = encoder_with(tmp_path / kind, sample_tokenizer(kind))
        notes = export_loaded(encoder, target="gguf", output=tmp_path / "out").notes
        assert any("a blank behind the added tokens <added>, lazy dog," in note for note in notes) == told


@pytest.mark.parametrize("kind", ["byte-level", "all-merges", "wordpiece"])
@pytest.mark.parametrize("trimmed", [False, True])
def test_tokenisers(tmp_path: Path, kind: str, trimmed: bool) -> None:
    tokenizer = halved(kind) if trimmed else without_added(sample_tokenizer(kind), lambda number: number < 5)
    encoder = encoder_with(tmp_path / "m", tokenizer, "bert" if kind == "wordpiece" else "llama")
    export_loaded(encoder, target="gguf", output=tmp_path / "out")
    told = GGUFFile.open(tmp_path / "out" / "model.gguf").metadata
    names = {"byte-level": ("gpt2", "smollm"), "all-merges": ("llama", "default"), "wordpiece": ("bert", "default")}
    assert (told["tokenizer.ggml.model"], told["tokenizer.ggml.pre"]) == names[kind]
    assert told["tokenizer.ggml.bos_token_id"] == tokenizer.token_to_id("<s>")
    assert told["tokenizer.ggml.tokens"][-5:] == [f"[PAD{len(told['tokenizer.ggml.tokens']) - 5 + n}]" for n in range(5)]
    compare_by_llama_cpp(encoder, tmp_path / "out" / "model.gguf")


def test_q8_0_keeps_short_rows_in_fp16(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path, num_hidden_layers=2)
    encoder.save_pretrained(str(tmp_path / "encoder"), create_model_card=False)
    export_encoder(tmp_path / "encoder", target="gguf", precision="q8_0", output=tmp_path / "out")
    file = GGUFFile.open(tmp_path / "out" / "model.gguf")
    assert (file.metadata["general.file_type"], file.metadata["general.quantization_version"]) == (7, 2)
    assert file.tensors["blk.1.ffn_up.weight"].kind == "Q8_0"
    # 48 numbers are no blocks of 32.
    assert file.tensors["blk.1.ffn_down.weight"].kind == "F16"
    assert "in q8_0" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("family", "changes", "match"),
    [
        ("llama", {"pooling": "weightedmean"}, "cannot pool by weightedmean; it has mean, cls, lasttoken"),
        ("gpt2", {}, "this encoder's model type is gpt2: export it to onnx"),
        ("mistral", {}, "sees 16 tokens back, fewer than its longest text"),
        ("qwen3", {"attention_bias": True}, "for which qwen3 has no place"),
        ("llama", {"hidden_act": "gelu"}, "its MLPs use gelu; expected silu"),
        ("gemma3_text", {}, "scaled by the root of 256; expected 8"),
        ("gemma3_text", {**GEMMA, "sliding_window_pattern": 3, "num_hidden_layers": 3}, "other layers than every 6th"),
        ("gemma3_text+bidirectional", GEMMA, "a Gemma whose tokens see those after them"),
        ("bert", {}, "BERT with WordPiece"),
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 1e4,
                    "factor": 2.0,
                    "original_max_position_embeddings": 64,
                }
            },
            "its rotary embedding is of type 'yarn'",
        ),
    ],
)
def test_what_llama_cpp_computes_differently_is_refused(
    tmp_path: Path, family: str, changes: dict[str, Any], match: str
) -> None:
    layers = {"gpt2": {"n_layer": 2}}.get(family, {"num_hidden_layers": 2})
    encoder = tiny_encoder(tmp_path, family, **{**layers, **changes})
    with pytest.raises(CheckpointError, match=match) as caught:
        export_loaded(encoder, target="gguf", output=tmp_path / "out")
    assert "onnx" in str(caught.value) and not list(tmp_path.glob("*out*"))


def test_uneven_blocks_and_heads_are_refused(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path, num_hidden_layers=3)
    encoder.insert(2, Dense(32, 16))
    with pytest.raises(CheckpointError, match=r"for which llama\.cpp has no place"):
        export_loaded(encoder, target="gguf", output=tmp_path / "out")
    encoder = tiny_encoder(tmp_path, num_hidden_layers=3)
    cut_encoder(encoder, plan_for(encoder, Kept.of(range(3), drop_mlp=[1]), {2: 11}))
    with pytest.raises(CheckpointError, match="blocks are not all alike: export it to onnx"):
        export_loaded(encoder, target="gguf", output=tmp_path / "out")


@pytest.mark.parametrize("family", ["llama", "llama+bidirectional"])
@pytest.mark.parametrize("behind", ["", "a head", "uneven blocks"])
def test_the_card_names_llama_cpp_where_the_export_takes_the_encoder(tmp_path: Path, family: str, behind: str) -> None:
    for pooling in IN_FOLDERS:
        encoder = tiny_encoder(tmp_path, family, pooling=pooling, prompts=INSTRUCTION, num_hidden_layers=2)
        if behind == "a head":
            encoder.insert(2, Dense(32, 16))
        elif behind:
            cut_encoder(encoder, plan_for(encoder, Kept.of(range(2), drop_mlp=[1])))
        parts = parts_of(encoder, {})
        said = served_by(parts)
        assert ("--target gguf" in said) == (pooling in gguf_model.POOLINGS and not behind)
        if "--target gguf" in said:
            header_of(parts)
            assert (" pools a prompt's tokens" in said or "pool its tokens" in said) == (pooling != "lasttoken")
        else:
            with pytest.raises(CheckpointError, match="onnx"):
                header_of(parts)


def test_a_tokeniser_that_llama_cpp_lacks_is_refused(tmp_path: Path) -> None:
    for kind, match in (("unigram", "cannot tell this encoder's tokeniser"), ("byte-level", "no name for how")):
        tokenizer = sample_tokenizer(kind)
        if kind == "byte-level":
            state = json.loads(tokenizer.to_str())
            state["pre_tokenizer"]["pretokenizers"][0] = {"type": "Punctuation", "behavior": "Isolated"}
            tokenizer = Tokenizer.from_str(json.dumps(state))
        encoder = encoder_with(tmp_path / kind, tokenizer)
        with pytest.raises(CheckpointError, match=match):
            export_loaded(encoder, target="gguf", output=tmp_path / "out")


def test_a_file_that_differs_from_the_encoder_is_found(tmp_path: Path) -> None:
    parts = parts_of(tiny_encoder(tmp_path, num_hidden_layers=2), {})
    header, path = header_of(parts), tmp_path / "a.gguf"

    def check(match: str, *, told: dict[str, Any] | None = None) -> None:
        write_file(path, parts, {**header, **(told or {})}, name="a", precision="fp16")
        with pytest.raises(CheckpointError, match=match):
            gguf_check.check_file(path, after, told or header, precision="fp16")

    after = parts
    tokens = [*header["tokenizer.ggml.tokens"]]
    tokens[100], tokens[101] = tokens[101], tokens[100]
    check(r"token '.*' in the written GGUF file: row 10", told={**header, "tokenizer.ggml.tokens": tokens})
    check("rms_norm_eps", told={**header, "llama.attention.layer_norm_rms_epsilon": 1e-3})
    after = parts_of(tiny_encoder(tmp_path, num_hidden_layers=2), {})
    with torch.no_grad():
        after.model.get_parameter("layers.1.self_attn.k_proj.weight")[3, 3] += 0.01
    check(r"tensor layers\.1\.self_attn\.k_proj\.weight")
    write_file(path, parts, header, name="a", precision="fp16")
    with pytest.raises(CheckpointError, match=r"llama\.pooling_type"):
        gguf_check.check_file(path, parts, {**header, "llama.pooling_type": 3}, precision="fp16")


def test_numbers_beyond_fp16_are_refused(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path, num_hidden_layers=1)
    with torch.no_grad():
        encoder[0].auto_model.embed_tokens.weight[5, 5] = 1e5
    with pytest.raises(CheckpointError, match=r"token_embd\.weight has numbers beyond fp16"):
        export_loaded(encoder, target="gguf", output=tmp_path / "out")


def test_vectors_are_compared_where_llama_cpp_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the binding: what is asked of it, and what is done with its answers."""
    encoder = tiny_encoder(tmp_path, prompts=INSTRUCTION, num_hidden_layers=2, normalize=False)
    asked: list[list[str]] = []
    noise = 0.0

    def vectors(path: Path, texts: list[str], *, tokens: int) -> Any:
        asked.append(texts)
        assert path.name == "model.gguf" and max(len(encoder.tokenizer(text)["input_ids"]) for text in texts) <= tokens == 64
        found = encode_probe(encoder, texts, prompts=[""])
        found = found / np.linalg.norm(found, axis=1, keepdims=True)
        return found + noise * np.random.default_rng(0).standard_normal(found.shape)

    monkeypatch.setattr(gguf_check, "has_llama_cpp", lambda: True)
    monkeypatch.setattr(gguf_check, "llama_cpp_vectors", vectors)
    done = export_loaded(encoder, target="gguf", output=tmp_path / "out")
    assert done.parity is not None and done.parity.reference == "llama.cpp" and done.parity.max_difference < 1e-6
    assert len(asked[0]) == 9 and not any("find what answers" in text for text in asked[0])
    assert [note.split()[0] for note in done.notes] == ["llama.cpp", "llama.cpp's"]
    noise = 0.05
    with pytest.raises(CheckpointError, match=r"have a cosine of 0\.\d+ to the encoder's, at least 0\.9999 is expected"):
        export_loaded(encoder, target="gguf", output=tmp_path / "far")
    encoder[1].include_prompt, noise = True, 0.0
    export_loaded(encoder, target="gguf", output=tmp_path / "pooled")
    assert len(asked[-1]) == 18 and sum(text.startswith("find what answers:\n") for text in asked[-1]) == 9


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from prune2vec.errors import ConfigError

    monkeypatch.setattr(other_vectors, "_BINDING", "no_such_binding")
    assert not has_llama_cpp()
    with pytest.raises(ConfigError, match=r"pip install no_such_binding"):
        llama_cpp_vectors(Path("model.gguf"), ["a"], tokens=8)


def test_every_family_is_one_of_the_readers_or_is_compared_by_name() -> None:
    from prune2vec.models.gguf_config import ARCHITECTURES

    assert {family.arch for family in gguf_model.FAMILIES.values()} - set(ARCHITECTURES) == {"bert"}

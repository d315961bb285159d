"""GGUF conversion on a tiny file written here: weights, tokeniser repairs, the cache, and refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

gguf = pytest.importorskip("gguf", reason="the gguf extra is not installed")

from prune2vec.backbone.gguf import converted  # noqa: E402
from prune2vec.backbone.load import load_backbone  # noqa: E402
from prune2vec.errors import ModelError  # noqa: E402
from tests.tiny import tiny_model, tiny_tokenizer  # noqa: E402

HEADS, KV_HEADS = 4, 2


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRUNE2VEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder rotary halves as llama.cpp stores them."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, *, pre: str = "smollm", output: np.ndarray | None = None, bos: bool = False) -> torch.nn.Module:
    """Write a tiny random llama with the tiny tokeniser as a GGUF file and return the model it holds."""
    model = tiny_model("llama")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(5)
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(384)
    backend = json.loads(tiny_tokenizer().backend_tokenizer.to_str())
    vocab = sorted(backend["model"]["vocab"].items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([token for token, _ in vocab])
    writer.add_token_types([3 if number < 4 else 1 for _, number in vocab])
    writer.add_token_merges([" ".join(pair) for pair in backend["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(bos)
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    writer.add_tensor("token_embd.weight", model.embed_tokens.weight.detach().numpy())
    writer.add_tensor("output_norm.weight", model.norm.weight.detach().numpy())
    if output is not None:
        writer.add_tensor("output.weight", output)
    for layer, block in enumerate(model.layers):
        for source, target in names.items():
            weight = block.get_submodule(source).weight.detach().numpy()
            heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(target)
            writer.add_tensor(f"blk.{layer}.{target}.weight", permuted(weight, heads) if heads else weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def test_weights_survive_the_conversion(tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "tiny.gguf")
    backbone = load_backbone(str(tmp_path / "tiny.gguf"), dtype="float32", device="cpu")
    ids = torch.randint(4, 384, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(backbone.model(input_ids=ids)[0], model(input_ids=ids)[0], rtol=1e-4, atol=1e-5)
    assert backbone.max_length == 256
    assert backbone.source.converted_from == "tiny.gguf"
    config = json.loads((Path(backbone.source.location) / "config.json").read_text())
    assert "quantization_config" not in config


def test_the_copy_is_made_once(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    first = converted(tmp_path / "tiny.gguf")
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert converted(tmp_path / "tiny.gguf") == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp


def test_digit_split_is_restored(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", pre="smollm")
    tokenizer = load_backbone(str(tmp_path / "tiny.gguf"), device="cpu").tokenizer
    # "345" and " 12" are in the vocabulary of the tiny tokeniser; a single-digit split never uses them.
    assert "Ġ12" in tiny_tokenizer()("a  12").tokens() or "12" in tiny_tokenizer()("a  12").tokens()
    assert all(not any(c.isdigit() for c in token) or len(token) == 1 for token in tokenizer("in 345 and  12 days").tokens())


def test_other_tokenisers_keep_their_digits(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", pre="gpt-2")
    tokenizer = load_backbone(str(tmp_path / "tiny.gguf"), device="cpu").tokenizer
    assert tokenizer("a 12 or 345").tokens() == tiny_tokenizer()("a 12 or 345").tokens()


@pytest.mark.parametrize("bos", [True, False])
def test_bos_is_added_as_the_file_says(tmp_path: Path, bos: bool) -> None:
    write_gguf(tmp_path / "tiny.gguf", bos=bos)
    tokenizer = load_backbone(str(tmp_path / "tiny.gguf"), device="cpu").tokenizer
    assert (tokenizer("quick")["input_ids"][0] == 1) == bos


def test_tied_output_at_higher_precision_is_used(tmp_path: Path) -> None:
    exact = tiny_model("llama").embed_tokens.weight.detach().numpy()
    coarse = np.round(exact * 60) / 60
    path = tmp_path / "half.gguf"
    _write_with_embeddings(path, coarse.astype(np.float16), exact)
    backbone = load_backbone(str(path), dtype="float32", device="cpu")
    np.testing.assert_allclose(backbone.model.embed_tokens.weight.detach().numpy(), exact, atol=1e-6)


def test_genuine_lm_head_does_not_replace_the_embeddings(tmp_path: Path) -> None:
    exact = tiny_model("llama").embed_tokens.weight.detach().numpy()
    path = tmp_path / "untied.gguf"
    other = np.random.default_rng(0).normal(size=exact.shape).astype(np.float32)
    _write_with_embeddings(path, exact.astype(np.float16), other)
    backbone = load_backbone(str(path), dtype="float32", device="cpu")
    np.testing.assert_allclose(backbone.model.embed_tokens.weight.detach().numpy(), exact, atol=1e-2)


def _write_with_embeddings(path: Path, embeddings: np.ndarray, output: np.ndarray) -> None:
    """Write the tiny model with other embeddings and a separate output matrix."""

    class Patched(gguf.GGUFWriter):
        def add_tensor(self, name: str, tensor: np.ndarray, *args: object, **kwargs: object) -> None:
            super().add_tensor(name, embeddings if name == "token_embd.weight" else tensor, *args, **kwargs)

    original = gguf.GGUFWriter
    gguf.GGUFWriter = Patched
    try:
        write_gguf(path, output=output)
    finally:
        gguf.GGUFWriter = original


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all, but long enough to look at"])
def test_broken_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(ModelError, match="not a readable GGUF") as caught:
        load_backbone(str(tmp_path / "bad.gguf"), device="cpu")
    assert "\n" not in str(caught.value)

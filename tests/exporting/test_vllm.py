"""The vLLM export, against a DeciLM written in plain PyTorch that reads the exported folder alone."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from prune2vec.errors import CheckpointError, markdown
from prune2vec.exporting.configuration_decilm import DeciLMConfig
from prune2vec.exporting.export import export_encoder
from prune2vec.models.kept import Kept
from tests.exporting.decilm_reference import encode
from tests.exporting.encoders import INSTRUCTION, TEXTS, cut_encoder, export_loaded, plan_for, random_plan, tiny_encoder
from tests.tiny_encoders import NORMALIZE, TINY_ENCODERS

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {"use_sliding_window": False},
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


# What a real vLLM computes from each folder, one after the other.
IN_VLLM = """
import json, os, sys

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
from vllm import LLM

def encode(folder, texts):
    # Gone before the next is made: a process has one at a time.
    model = LLM(folder, runner="pooling", dtype="float32", enforce_eager=True, trust_remote_code=True)
    return [one.outputs.embedding for one in model.embed(texts, use_tqdm=False)]

texts, folders = json.loads(sys.argv[1])
for folder in folders:
    print("@" + json.dumps(encode(folder, texts)))
"""


def assert_same(encoder: Any, folder: Path, **how: Any) -> None:
    expected = encoder.encode(TEXTS, show_progress_bar=False, **how)
    texts = [how.get("prompt", "") + text for text in TEXTS]
    np.testing.assert_allclose(encode(folder, texts).numpy(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(6))
def test_random_plans_give_the_encoders_vectors(tmp_path: Path, family: str, seed: int) -> None:
    pooling = ("mean", "lasttoken", "cls")[seed % 3]
    encoder = tiny_encoder(tmp_path, family, pooling=pooling, bos=seed % 2 == 0, seed=seed, **FAMILIES[family])
    cut_encoder(encoder, random_plan(encoder, seed))
    export_loaded(encoder, target="vllm", output=tmp_path / "out")
    assert_same(encoder, tmp_path / "out")


@pytest.mark.parametrize(
    ("kept", "widths"),
    [
        (Kept.whole(range(5)), {}),
        (Kept.whole(range(5)), {0: 17, 3: 40}),
        (Kept.of(range(5), drop_mlp=[1, 2]), {}),
        (Kept.of(range(5), drop_attention=[2, 4]), {}),
        (Kept.of(range(5), drop_attention=[0, 1]), {1: 5}),
        (Kept.of([1, 2, 4], drop_attention=[2], drop_mlp=[1]), {4: 9}),
    ],
    ids=["even", "widths", "no-mlp", "no-attention", "no-first-attention", "all"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_kind_of_cut(tmp_path: Path, kept: Kept, widths: dict[int, int], dtype: torch.dtype) -> None:
    encoder = tiny_encoder(tmp_path, dtype=dtype, normalize=False)
    cut_encoder(encoder, plan_for(encoder, kept, widths))
    done = export_loaded(encoder, target="vllm", output=tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    # The reference computes in fp32, so the encoder must as well: the weights are what is compared.
    assert_same(encoder.float(), tmp_path / "out")
    assert any("zeros" in note for note in done.notes) == (0 in kept.drop_attention)
    assert any("alike" in note for note in done.notes) == (kept == Kept.whole(range(5)) and not widths)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": LLAMA3},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 3.0}},
        {"attention_bias": True, "mlp_bias": True},
        {"num_key_value_heads": 1, "head_dim": 16},
        {"rms_norm_eps": 0.1},
    ],
)
def test_variants_of_llama(tmp_path: Path, changes: dict[str, Any]) -> None:
    encoder = tiny_encoder(tmp_path, **changes)
    cut_encoder(encoder, plan_for(encoder, Kept.of(range(4), drop_mlp=[2], drop_attention=[0]), {1: 30}))
    export_loaded(encoder, target="vllm", output=tmp_path / "out")
    assert_same(encoder, tmp_path / "out")


def test_a_window_as_long_as_the_longest_text_changes_nothing(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path, "mistral", sliding_window=48, max_length=48)
    export_loaded(encoder, target="vllm", output=tmp_path / "out")
    assert_same(encoder, tmp_path / "out")


def test_prompts_before_the_text_with_the_last_token(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path, pooling="lasttoken", prompts=INSTRUCTION)
    export_loaded(encoder, target="vllm", output=tmp_path / "out")
    assert_same(encoder, tmp_path / "out", prompt=INSTRUCTION["query"])
    assert markdown(repr(INSTRUCTION["query"])) in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "export.json").read_text())["prompts"] == INSTRUCTION


def test_prompts_in_the_mean_when_the_encoder_has_them_there(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path, include_prompt=True, prompts=INSTRUCTION)
    export_loaded(encoder, target="vllm", output=tmp_path / "out")
    assert_same(encoder, tmp_path / "out", prompt=INSTRUCTION["query"])


@pytest.mark.parametrize(
    ("family", "how", "message"),
    [
        ("llama", {"pooling": "weightedmean"}, "cannot pool by weightedmean"),
        ("llama", {"prompts": INSTRUCTION}, r"pools a prompt's tokens too.*\(query\)"),
        ("llama", {"hidden_act": "gelu"}, "use gelu"),
        ("llama", {"is_causal": False}, "bidirectional"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "type 'dynamic'"),
        ("mistral", {"sliding_window": 16}, r"16 tokens back.*48 tokens"),
        ("qwen2", {}, "tokens back"),
        ("qwen3", {}, "model type is qwen3"),
        ("gemma", {}, "model type is gemma"),
        ("gpt2", {}, "model type is gpt2"),
    ],
)
def test_what_the_layout_cannot_express_is_refused(tmp_path: Path, family: str, how: dict[str, Any], message: str) -> None:
    encoder = tiny_encoder(tmp_path, family, **how)
    with pytest.raises(CheckpointError, match=message) as caught:
        export_loaded(encoder, target="vllm", output=tmp_path / "out")
    said = str(caught.value)
    assert "\n" not in said and ("own folder" in said) == ("cannot express" in said)
    assert not list(tmp_path.glob("*out*"))


def test_a_tensor_without_a_place_is_refused(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path)
    encoder[0].auto_model.layers[1].self_attn.q_norm = torch.nn.LayerNorm(8)
    with pytest.raises(CheckpointError, match=r"layers\.1\.self_attn\.q_norm\.bias.*\(2 such tensors\)"):
        export_loaded(encoder, target="vllm", output=tmp_path / "out")


def test_no_attention_at_all_is_refused(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path)
    cut_encoder(encoder, Kept.of([0, 1], drop_attention=[0, 1]))
    with pytest.raises(CheckpointError, match=r"no block has attention.*export it to onnx"):
        export_loaded(encoder, target="vllm", output=tmp_path / "out")


def test_the_folder_loads_as_vllm_loads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    encoder = tiny_encoder(tmp_path)
    cut_encoder(encoder, plan_for(encoder, Kept.of(range(3), drop_mlp=[1], drop_attention=[2]), {0: 7}))
    export_loaded(encoder, target="vllm", output=tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    config = AutoConfig.from_pretrained(tmp_path / "out", trust_remote_code=True)
    first, second, third = config.block_configs
    assert (first.ffn.intermediate_size, first.attention.n_heads_in_group) == (7, 2)
    assert second.ffn.no_op and not second.attention.no_op and third.attention.no_op
    assert not hasattr(first.ffn, "ffn_mult") and not hasattr(first.ffn, "hidden_act")
    assert config.model_type == "nemotron-nas" and config.rope_parameters["rope_theta"] == written["rope_theta"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer(TEXTS)["input_ids"] == encoder.tokenizer(TEXTS)["input_ids"]
    own = DeciLMConfig.from_dict(written)
    assert copy.deepcopy(own).block_configs == pickle.loads(pickle.dumps(own)).block_configs == own.block_configs
    assert json.loads(own.to_json_string())["block_configs"] == written["block_configs"]


def test_the_weights_keep_their_number_format(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path, dtype=torch.bfloat16)
    encoder.save_pretrained(str(tmp_path / "encoder"), create_model_card=False)
    export_encoder(tmp_path / "encoder", target="vllm", output=tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


def test_what_stands_behind_the_pooling_is_refused(tmp_path: Path) -> None:
    encoder = replace(TINY_ENCODERS["embeddinggemma"], family="llama").save(tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"has Dense 32 -> 96, Dense 96 -> 32 behind its pooling, for which vLLM has no"):
        export_encoder(encoder, target="vllm", output=tmp_path / "out")
    encoder = replace(TINY_ENCODERS["embeddinggemma"], family="llama", heads=[NORMALIZE], truncate_dim=8).save(tmp_path / "cut")
    with pytest.raises(CheckpointError, match=r"a cut to 8 dimensions \(truncate_dim\) behind its pooling"):
        export_encoder(encoder, target="vllm", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.vllm
def test_a_real_vllm_gives_the_encoders_vectors(tmp_path: Path) -> None:
    python = os.environ.get("VLLM_PYTHON")
    assert python, "VLLM_PYTHON is to name the Python of an environment that has vLLM"
    expected, folders = [], []
    for seed, family in enumerate([*FAMILIES, *FAMILIES]):
        # Its attention kernels take heads of 32 numbers and more.
        changes = {**FAMILIES[family], "hidden_size": 64, "num_attention_heads": 2, "head_dim": 32}
        pooling = ("mean", "lasttoken", "cls")[seed % 3]
        encoder = tiny_encoder(tmp_path, family, pooling=pooling, bos=seed % 2 == 0, seed=seed, **changes)
        cut_encoder(encoder, random_plan(encoder, seed))
        export_loaded(encoder, target="vllm", output=tmp_path / f"out-{seed}")
        # It refuses texts longer than the encoder's longest.
        expected.append(encoder.encode(TEXTS[:3], show_progress_bar=False))
        folders.append(str(tmp_path / f"out-{seed}"))
    command = [python, "-c", IN_VLLM, json.dumps([TEXTS[:3], folders])]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [json.loads(line[1:]) for line in ran.stdout.splitlines() if line.startswith("@")]
    assert len(found) == len(folders), ran.stderr[-2000:]
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)

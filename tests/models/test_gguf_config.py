"""Metadata of GGUF files: what changes the maths is carried over exactly, or refused by the name of its key."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

pytest.importorskip("gguf", reason="the gguf extra is not installed")

from prune2vec.errors import ModelError
from prune2vec.models.gguf import converted
from prune2vec.models.gguf_config import ARCHITECTURES, config_of
from prune2vec.models.gguf_file import GGUFFile
from tests.gguf_files import TINY, states, tiny_of, write_gguf

_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


def config_for(path: Path, arch: str = "llama", **changes: Any) -> Any:
    write_gguf(path / "a.gguf", arch, **changes)
    return config_of(GGUFFile.open(path / "a.gguf"))


def refused(path: Path, match: str, arch: str = "llama", **changes: Any) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        config_for(path, arch, **changes)
    assert "\n" not in str(caught.value)


def same_as(model: Any, path: Path, arch: str, said: dict[str, Any], **more: Any) -> None:
    """Check that a file of ``model`` with some metadata computes what the model does, and not what one without it does."""
    write_gguf(path / "a.gguf", arch, model, said=said, **more)
    copy = AutoModel.from_pretrained(converted(path / "a.gguf"), dtype=torch.float32)
    torch.testing.assert_close(states(copy), states(model), rtol=0, atol=1e-5)
    model.config.rope_parameters = None
    plain = AutoModel.from_config(
        type(model.config)(**{k: v for k, v in model.config.to_dict().items() if k != "rope_parameters"})
    )
    plain.load_state_dict(model.state_dict())
    assert (states(plain) - states(copy)).abs().max() > 1e-3, "the scaling makes no difference here, so this test shows nothing"


def llama3_factors(theta: float, width: int) -> np.ndarray:
    """Return the table of Llama 3.1 as llama.cpp's converter computes it."""
    factors = []
    for frequency in 1 / theta ** (np.arange(0, width, 2) / width):
        wavelength = 2 * math.pi / frequency
        if wavelength < 8192 / 4:
            factors.append(1.0)
        elif wavelength > 8192:
            factors.append(8.0)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            factors.append(1 / ((1 - smooth) / 8 + smooth))
    return np.array(factors, np.float32)


def test_the_table_of_llama_3_is_carried_over(tmp_path: Path) -> None:
    model = tiny_of("llama", head_dim=32, rope_parameters=_LLAMA3)
    widths = {".attention.key_length": 32, ".attention.value_length": 32}
    table = llama3_factors(500000.0, 32)
    assert len(set(table)) > 2, "no frequency lies between the two ends"
    write_gguf(tmp_path / "a.gguf", "llama", model, said=widths, tensors={"rope_freqs.weight": table})
    copy = AutoModel.from_pretrained(converted(tmp_path / "a.gguf"), dtype=torch.float32)
    assert copy.config.rope_parameters == _LLAMA3
    torch.testing.assert_close(copy.rotary_emb.inv_freq, model.rotary_emb.inv_freq)
    torch.testing.assert_close(states(copy), states(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("table", [[1.0, 2.0, 4.0, 8.0], [1.0, 1.0, 1.0, 8.0], [8.0] * 4, [1.0] * 3, [0.5] * 4])
def test_other_tables_are_refused(tmp_path: Path, table: list[float]) -> None:
    if table == [1.0] * 3:
        table = [1.0, 1.0, 2.0]
    refused(tmp_path, r"tensor rope_freqs\.weight scales", tensors={"rope_freqs.weight": np.array(table, np.float32)})


def test_a_table_of_ones_changes_nothing(tmp_path: Path) -> None:
    config = config_for(tmp_path, tensors={"rope_freqs.weight": np.ones(4, np.float32)})
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
def test_linear_scaling(tmp_path: Path, arch: str) -> None:
    model = tiny_of(arch, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0})
    same_as(model, tmp_path, arch, {".rope.scaling.type": "linear", ".rope.scaling.factor": 4.0})


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
def test_yarn(tmp_path: Path, arch: str) -> None:
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
    said = {".rope.scaling.type": "yarn", ".rope.scaling.factor": 4.0, ".rope.scaling.original_context_length": 64}
    same_as(tiny_of(arch, rope_parameters=yarn), tmp_path, arch, said)


def test_yarn_is_llama_cpps(tmp_path: Path) -> None:
    said = {".rope.scaling.type": "yarn", ".rope.scaling.factor": 4.0, ".rope.scaling.original_context_length": 64}
    model = AutoModel.from_config(config_for(tmp_path, said=said))
    # ggml_rope_yarn_corr_dims, rope_yarn_ramp and rope_yarn of llama.cpp, for 8 dimensions.
    ends = [8 * math.log(64 / (beta * 2 * math.pi)) / (2 * math.log(10000.0)) for beta in (32.0, 1.0)]
    low, high = max(0.0, math.floor(ends[0])), min(7.0, math.ceil(ends[1]))
    ramp = 1 - np.clip((np.arange(4) - low) / max(0.001, high - low), 0, 1)
    plain = 10000.0 ** -(np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(model.rotary_emb.inv_freq.numpy(), plain / 4 * (1 - ramp) + plain * ramp, rtol=1e-6)
    assert model.rotary_emb.attention_scaling == pytest.approx(1 + 0.1 * math.log(4))


def test_linear_scaling_of_gemma_3_is_for_full_attention_alone(tmp_path: Path) -> None:
    rope = {
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    }
    said = {".rope.scaling.type": "linear", ".rope.scaling.factor": 8.0}
    same_as(tiny_of("gemma3", rope_parameters=rope), tmp_path, "gemma3", said)


def test_window_pattern_of_gemma_3(tmp_path: Path) -> None:
    window, full = "sliding_attention", "full_attention"
    assert config_for(tmp_path, "gemma3").layer_types == [window] * 5 + [full, window]
    for pattern in (2, [True, False, True, False, True, False, True]):
        found = config_for(tmp_path, "gemma3", said={".attention.sliding_window_pattern": pattern}).layer_types
        assert found == [window, full, window, full, window, full, window]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (".rope.scaling.type", "longrope"),
        (".rope.scaling.type", "yarn"),
        (".rope.scaling.attn_factor", 1.2),
        (".rope.scaling.yarn_log_multiplier", 0.1),
        (".rope.scale_linear", 2.0),
        (".rope.dimension_count", 4),
        (".rope.dimension_sections", [1, 2, 1, 0]),
        (".attention.sliding_window", 128),
        (".attention.causal", False),
        (".attention.scale", 0.3),
        (".attention.value_length", 16),
        (".attention.head_count", [4, 4, 2, 4, 4]),
        (".attention.head_count", 3),
        (".feed_forward_length", [48, 48, 48, 48, 24]),
        (".attn_logit_softcapping", 50.0),
        (".final_logit_softcapping", 30.0),
        (".logit_scale", 2.0),
        (".embedding_scale", 12.0),
        (".residual_scale", 0.5),
        (".expert_count", 8),
        (".expert_used_count", 2),
        (".block_count", 4),
        (".block_count", 10**9),
        (".vocab_size", 380),
        (".embedding_length", 32.5),
        (".embedding_length", "32"),
        (".attention.layer_norm_rms_epsilon", None),
        (".attention.layer_norm_rms_epsilon", -1.0),
        (".context_length", None),
        (".something_new", 1),
    ],
)
def test_what_is_not_carried_over_is_refused_by_name(tmp_path: Path, key: str, value: object) -> None:
    refused(tmp_path, key.removeprefix(".").replace(".", r"\."), said={key: value})


@pytest.mark.parametrize(
    ("arch", "key", "value"),
    [
        ("gemma3", ".attn_logit_softcapping", 50.0),
        ("gemma3", ".attention.sliding_window", None),
        ("qwen3moe", ".expert_gating_func", 2),
    ],
)
def test_of_other_architectures_too(tmp_path: Path, arch: str, key: str, value: object) -> None:
    refused(tmp_path, key.removeprefix("."), arch, said={key: value})


def test_keys_that_change_nothing_pass(tmp_path: Path) -> None:
    said = {
        ".rope.scaling.type": "none", ".attention.causal": True, ".expert_count": 0, ".rope.scaling.finetuned": False,
        ".attention.head_count_kv": [2, 2, 2, 2, 2], ".vocab_size": 384, "general.license": "x", "quantize.imatrix.file": "y",
    }  # fmt: skip
    assert config_for(tmp_path, said=said).num_key_value_heads == 2


def test_pooling_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config_for(tmp_path, said={".pooling_type": 3})
    assert "pooling_type 3" in capsys.readouterr().err


def test_largest_gemmas_scale_by_the_width(tmp_path: Path) -> None:
    assert config_for(tmp_path, "gemma2", said={}).query_pre_attn_scalar == 8
    model = tiny_of("gemma2", num_hidden_layers=46, head_dim=16)
    assert config_for(tmp_path, "gemma2", model=model).query_pre_attn_scalar == 32 / 4


@pytest.mark.parametrize(("key", "value"), [("general.type", "adapter"), ("split.count", 3)])
def test_files_that_are_no_whole_model(tmp_path: Path, key: str, value: object) -> None:
    write_gguf(tmp_path / "a.gguf", said={key: value})
    with pytest.raises(ModelError, match=r"holds no model|one of 3 parts"):
        converted(tmp_path / "a.gguf")


def test_unknown_architecture_names_those_that_are_read(tmp_path: Path) -> None:
    model = tiny_of("llama")
    write_gguf(tmp_path / "a.gguf", "rwkv7", model)
    with pytest.raises(ModelError, match=r"'rwkv7', whose GGUF files prune2vec cannot read; it reads gemma2, .*starcoder2"):
        config_of(GGUFFile.open(tmp_path / "a.gguf"))


def test_every_architecture_has_a_tiny_file() -> None:
    assert set(TINY) == set(ARCHITECTURES)


@pytest.mark.parametrize(("told", "window"), [(0, None), (64, 64)])
def test_a_phi_without_a_window(tmp_path: Path, told: int, window: int | None) -> None:
    """llama.cpp's converter writes a window of 0 for Phi-4, which has none."""
    assert config_for(tmp_path, "phi3", said={".attention.sliding_window": told}).sliding_window == window

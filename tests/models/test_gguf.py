"""GGUF conversion on tiny files: equal to the torch model for each architecture, and nothing missing, extra or damaged passes."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModel

gguf = pytest.importorskip("gguf", reason="the gguf extra is not installed")

from prune2vec.errors import ModelError, Prune2vecError  # noqa: E402
from prune2vec.forward.backbone import load_backbone  # noqa: E402
from prune2vec.models.gguf import converted  # noqa: E402
from prune2vec.models.gguf_file import GGUFFile  # noqa: E402
from tests.gguf_files import TINY, states, tensors_of, tiny_of, write_gguf  # noqa: E402


def refused(path: Path, match: str) -> None:
    """Check that a file is refused in one line and nothing is left in the cache."""
    with pytest.raises(ModelError, match=match) as caught:
        converted(path)
    assert "\n" not in str(caught.value)
    assert not list(path.parent.glob("cache/*"))


@pytest.mark.parametrize("arch", TINY)
def test_the_copy_computes_what_the_model_does(tmp_path: Path, arch: str) -> None:
    model = write_gguf(tmp_path / "tiny.gguf", arch)
    copy = AutoModel.from_pretrained(converted(tmp_path / "tiny.gguf"), dtype=torch.float32)
    torch.testing.assert_close(states(copy), states(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arch", "changes"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"head_dim": 16}),
        ("phi3", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}),
        ("phi3", {"sliding_window": None}),
        ("stablelm", {"use_parallel_residual": True, "use_qkv_bias": False}),
        ("gemma2", {"attn_logit_softcapping": 3.0, "sliding_window": 4}),
        ("qwen3", {"rms_norm_eps": 1e-2, "rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}),
    ],
)
def test_variants_of_an_architecture(tmp_path: Path, arch: str, changes: dict[str, Any]) -> None:
    model = tiny_of(arch, **changes)
    wide = {".attention.key_length": 16, ".attention.value_length": 16} if "head_dim" in changes else {}
    write_gguf(tmp_path / "tiny.gguf", arch, model, said=wide)
    copy = AutoModel.from_pretrained(converted(tmp_path / "tiny.gguf"), dtype=torch.float32)
    torch.testing.assert_close(states(copy), states(model), rtol=0, atol=1e-5)


def test_it_loads_as_a_backbone(tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "tiny.gguf")
    backbone = load_backbone(str(tmp_path / "tiny.gguf"), dtype="float32", device="cpu")
    torch.testing.assert_close(states(backbone.model), states(model), rtol=1e-4, atol=1e-5)
    assert backbone.max_length == 256
    assert backbone.source.converted_from == "tiny.gguf"
    config = json.loads((Path(backbone.source.location) / "config.json").read_text())
    assert "quantization_config" not in config


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1"])
def test_matrices_keep_their_precision_and_quantised_ones_become_bf16(tmp_path: Path, kind: str) -> None:
    model = write_gguf(
        tmp_path / "tiny.gguf", "qwen2", kind=lambda _, value: kind if value.shape[-1] == 32 and value.ndim > 1 else None
    )
    folder = converted(tmp_path / "tiny.gguf")
    copy, stored = load_file(folder / "model.safetensors"), tensors_of("qwen2", model)
    for name, theirs in {
        "layers.2.mlp.up_proj.weight": "blk.2.ffn_up.weight",
        "embed_tokens.weight": "token_embd.weight",
    }.items():
        number = gguf.GGMLQuantizationType[kind]
        wanted = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(stored[theirs], number), number))
        assert copy[name].dtype == (torch.float16 if kind == "F16" else torch.bfloat16)
        torch.testing.assert_close(copy[name], wanted.to(copy[name].dtype), rtol=0, atol=0)
    assert copy["norm.weight"].dtype == torch.float32
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == ("float16" if kind == "F16" else "bfloat16")


def test_k_quants(tmp_path: Path) -> None:
    model = tiny_of("qwen2", hidden_size=256, num_hidden_layers=2)
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 60, (48, 144), dtype=np.uint8)
    blocks[:, :4] = np.array([0.01, 0.02], np.float16).view(np.uint8)
    number = gguf.GGMLQuantizationType.Q4_K
    wanted = torch.from_numpy(gguf.quants.dequantize(blocks, number)).bfloat16()
    add = gguf.GGUFWriter.add_tensor
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            gguf.GGUFWriter,
            "add_tensor",
            lambda self, name, array: (
                add(self, name, blocks, raw_dtype=number) if "1.ffn_up" in name else add(self, name, array)
            ),
        )
        write_gguf(tmp_path / "tiny.gguf", "qwen2", model)
    with safe_open(converted(tmp_path / "tiny.gguf") / "model.safetensors", "pt") as copy:
        torch.testing.assert_close(copy.get_tensor("layers.1.mlp.up_proj.weight"), wanted, rtol=0, atol=0)


def test_the_copy_is_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    first = converted(tmp_path / "tiny.gguf")
    assert str(first) in capsys.readouterr().err, "where the copy is kept is said"
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert converted(tmp_path / "tiny.gguf") == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp


def test_another_file_under_the_same_name_gets_a_copy_of_its_own(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    first = converted(tmp_path / "tiny.gguf")
    (tmp_path / "tiny.gguf").unlink()
    write_gguf(tmp_path / "tiny.gguf", model=tiny_of("llama", seed=1))
    assert converted(tmp_path / "tiny.gguf") != first


def test_name_at_the_limit_of_the_file_system(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250 + ".gguf")
    write_gguf(path)
    assert converted(path).is_dir()


def test_two_processes_at_once(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", model=tiny_of("llama", hidden_size=256, intermediate_size=1024))
    code = (
        "import sys; from pathlib import Path; from prune2vec.models.gguf import converted; print(converted(Path(sys.argv[1])))"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path / "tiny.gguf"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    ended = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    folders = {out.strip() for out, _ in ended}
    assert len(folders) == 1
    assert sum("converting" in err for _, err in ended) == 1, "the second takes what the first made"
    assert load_file(Path(folders.pop()) / "model.safetensors")


def test_a_failed_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "tiny.gguf")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("prune2vec.models.gguf._TensorPart.pieces", fail)
        with pytest.raises(Prune2vecError, match="No space left"):
            converted(tmp_path / "tiny.gguf")
    assert not (tmp_path / "cache").exists()
    assert converted(tmp_path / "tiny.gguf").is_dir()


def test_too_little_space_is_said_before_work_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    refused(tmp_path / "tiny.gguf", "PRUNE2VEC_CACHE")


@pytest.mark.parametrize("arch", ["llama", "gemma3", "gpt2", "qwen2moe"])
def test_every_missing_tensor_is_named(tmp_path: Path, arch: str) -> None:
    model = tiny_of(arch)
    names = [name for name in tensors_of(arch, model) if name.startswith("blk.4.") or not name.startswith("blk.")]
    for name in names:
        path = tmp_path / f"{name}.gguf"
        write_gguf(path, arch, model, tensors={name: None})
        refused(path, rf"lacks tensor {name}\b")


def test_misnamed_and_extra_tensors_are_named(tmp_path: Path) -> None:
    some = np.zeros((48, 32), np.float32)
    write_gguf(tmp_path / "a.gguf", tensors={"blk.3.ffn_up.weight": None, "blk.3.ffn_upp.weight": some})
    refused(tmp_path / "a.gguf", r"lacks tensor blk\.3\.ffn_up\.weight .*holds 'blk\.3\.ffn_upp\.weight'")
    for extra in ("blk.0.attn_q_norm.weight", "blk.2.attn_q.bias", "rope_factors_long.weight", "anything"):
        write_gguf(tmp_path / f"{extra}.gguf", tensors={extra: np.ones(8, np.float32)})
        refused(tmp_path / f"{extra}.gguf", f"{extra}|attention_bias|lacks")


@pytest.mark.parametrize("shape", [(32, 48), (47, 32), (48, 31), (48,), (1, 48, 32)])
def test_misshapen_tensor_is_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    write_gguf(tmp_path / "a.gguf", tensors={"blk.3.ffn_up.weight": np.zeros(shape, np.float32)})
    refused(tmp_path / "a.gguf", r"tensor blk\.3\.ffn_up\.weight has shape")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["blk.3.attn_q.weight", "output_norm.weight", "token_embd.weight"])
def test_values_that_are_no_numbers(tmp_path: Path, value: float, name: str) -> None:
    array = tensors_of("llama", tiny_of("llama"))[name].copy()
    array.flat[-1] = value
    write_gguf(tmp_path / "a.gguf", tensors={name: array})
    refused(tmp_path / "a.gguf", f"tensor {name} holds NaN or an infinity")


def test_integers_are_no_weights(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", tensors={"blk.0.ffn_up.weight": np.ones((48, 32), np.int32)})
    refused(tmp_path / "a.gguf", r"blk\.0\.ffn_up\.weight is of type I32")


@pytest.mark.parametrize("more", [b"\0", b"\n\t- ", b"9" * 5000])
def test_bytes_put_in_between_the_values(tmp_path: Path, more: bytes) -> None:
    write_gguf(tmp_path / "whole.gguf")
    content = (tmp_path / "whole.gguf").read_bytes()
    place = len(content) // 2
    (tmp_path / "more.gguf").write_bytes(content[:place] + more + content[place:])
    refused(tmp_path / "more.gguf", f"its last tensor ends at byte {len(content)}, and it has {len(content) + len(more)}")


def test_truncated_anywhere(tmp_path: Path) -> None:
    write_gguf(tmp_path / "whole.gguf")
    content = (tmp_path / "whole.gguf").read_bytes()
    header = min(tensor.offset for tensor in GGUFFile.open(tmp_path / "whole.gguf").tensors.values())
    random.seed(0)
    for size in [*range(0, 64, 3), *random.sample(range(64, header), 40), *random.sample(range(header, len(content) - 64), 40)]:
        (tmp_path / "cut.gguf").write_bytes(content[:size])
        refused(tmp_path / "cut.gguf", r"cut off in tensor [\w.]+|inside its header|not a readable GGUF")


def test_flipped_bytes_of_the_header_never_end_in_a_traceback(tmp_path: Path) -> None:
    write_gguf(tmp_path / "whole.gguf")
    content = (tmp_path / "whole.gguf").read_bytes()
    header = min(tensor.offset for tensor in GGUFFile.open(tmp_path / "whole.gguf").tensors.values())
    random.seed(0)
    refusals = 0
    for _ in range(80):
        mutated = bytearray(content)
        mutated[random.randrange(header)] = random.randrange(256)
        (tmp_path / "a.gguf").write_bytes(mutated)
        try:
            converted(tmp_path / "a.gguf")
        except Prune2vecError as error:
            refusals += 1
            assert "\n" not in str(error)
    assert refusals > 40


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all, but long enough to look at"])
def test_broken_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.gguf").write_bytes(content)
    refused(tmp_path / "bad.gguf", "not a readable GGUF")


def test_tied_output_at_higher_precision_is_used(tmp_path: Path) -> None:
    exact = tensors_of("llama", tiny_of("llama"))["token_embd.weight"]
    coarse = np.round(exact * 60) / 60
    write_gguf(tmp_path / "half.gguf", tensors={"token_embd.weight": coarse.astype(np.float16), "output.weight": exact})
    copy = load_file(converted(tmp_path / "half.gguf") / "model.safetensors")
    np.testing.assert_array_equal(copy["embed_tokens.weight"].numpy(), exact)


def test_genuine_lm_head_does_not_replace_the_embeddings(tmp_path: Path) -> None:
    exact = tensors_of("llama", tiny_of("llama"))["token_embd.weight"].astype(np.float16)
    other = np.random.default_rng(0).normal(size=exact.shape).astype(np.float32)
    write_gguf(tmp_path / "untied.gguf", tensors={"token_embd.weight": exact, "output.weight": other})
    copy = load_file(converted(tmp_path / "untied.gguf") / "model.safetensors")
    np.testing.assert_array_equal(copy["embed_tokens.weight"].numpy(), exact)


def test_memory_is_that_of_one_tensor(tmp_path: Path) -> None:
    write_gguf(tmp_path / "big.gguf", "qwen2", tiny_of("qwen2", hidden_size=512, intermediate_size=4096, num_hidden_layers=8))
    code = """
import resource, sys
from pathlib import Path
from prune2vec.models.gguf import converted
import prune2vec.models.gguf_config, prune2vec.models.gguf_tokenizer, transformers.modeling_gguf_pytorch_utils, gguf
converted(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
converted(Path(sys.argv[2]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
    write_gguf(tmp_path / "small.gguf", "qwen2")
    command = [sys.executable, "-c", code, tmp_path / "small.gguf", tmp_path / "big.gguf"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (tmp_path / "big.gguf").stat().st_size > 200e6
    assert int(done.stdout) < 60e6, "the largest tensor has 8 MB"

"""The tensors of a folder are those of its config, or one line says which is not: in memory, streamed and when pruning."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel

from prune2vec.errors import ModelError, Prune2vecError
from prune2vec.forward.backbone import load_backbone
from prune2vec.models.tensor_check import check_loaded
from tests.pruning.plans import kept_of, plan_for
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer

Tensors = dict[str, Tensor]


def refusals(folder: Path, spoil: Callable[[], None]) -> set[str]:
    """Return what is said of a spoilt folder in memory, streamed and when pruning (one line where they agree)."""
    plan, said = plan_for(folder, range(3)), set()
    spoil()
    for stream in ("off", "on"):
        with pytest.raises(Prune2vecError) as caught:
            load_backbone(str(folder), dtype="float32", device="cpu", stream=stream)  # type: ignore[arg-type]
        said.add(str(caught.value))
    with pytest.raises(Prune2vecError) as caught:
        kept_of(folder, plan)
    return {*said, str(caught.value)}


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, value: {}, "lacks tensor {name} (1 in all) of the {family} that its config.json tells"),
        (
            lambda name, value: {name: value, f"{name}_too": value.clone()},
            "has tensor {name}_too (1 in all), which is no part of the",
        ),
        (lambda name, value: {name: value[:-1]}, "tensor {name} is {less} in the weights, but {shape} in the {family}"),
        (lambda name, value: {name: torch.zeros(0)}, "tensor {name} is empty (shape [0], 1 in all), as DeepSpeed's ZeRO-3"),
        (lambda name, value: {name: value.to(torch.float8_e5m2)}, "is quantised ({name} is stored in F8_E5M2)"),
        (
            lambda name, value: {name: value, f"{name}_scale": value.clone()},
            "is quantised (it has {name}_scale beside the weights)",
        ),
        (
            lambda name, value: {name: value, f"{name}.lora_A": value.clone()},
            "has tensors of an adapter ({name}.lora_A); merge it",
        ),
    ],
)
def test_one_tensor_that_is_not_right(tmp_path: Path, family: str, change: Callable[..., Tensors], message: str) -> None:
    folder = save_tiny(tmp_path / "m", family)
    file = folder / "model.safetensors"
    stored = load_file(file)
    name = sorted(name for name, tensor in stored.items() if ".1." in name and tensor.ndim == 2)[0]
    value = stored.pop(name)
    (said,) = refusals(folder, lambda: save_file({**stored, **change(name, value)}, file, metadata={"format": "pt"}))
    bare = name.split(".", 1)[1] if "lacks" in message else name
    shapes = {"shape": list(value.shape), "less": [len(value) - 1, *value.shape[1:]]}
    assert message.format(name=bare, family=family, **shapes) in said
    assert "\n" not in said


@pytest.mark.parametrize("told", [4, 6, 10**9])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_another_number_of_layers_is_told_with_both(tmp_path: Path, family: str, told: int) -> None:
    folder = save_tiny(tmp_path / "m", family)
    entries = json.loads((folder / "config.json").read_text())
    entries["n_layer" if family == "gpt2" else "num_hidden_layers"] = told
    entries.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(entries))
    with pytest.raises(Prune2vecError, match=rf"config\.json tells of {told} layers.* but the weights hold 5; [^\n]+$"):
        load_backbone(str(folder), dtype="float32", device="cpu")


def test_heads_and_tables_beside_the_model_are_no_matter(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    file = folder / "model.safetensors"
    expected = load_backbone(str(folder), dtype="float32", device="cpu").model.state_dict()
    more = ("lm_head.weight", "score.weight", "v_head.summary.weight", "model.layers.0.self_attn.rotary_emb.inv_freq")
    save_file({**load_file(file), **{name: torch.ones(2) for name in more}}, file, metadata={"format": "pt"})
    for stream in ("off", "on"):
        found = load_backbone(str(folder), dtype="float32", device="cpu", stream=stream)  # type: ignore[arg-type]
        assert found.model.state_dict().keys() == expected.keys()
    kept_of(folder, plan_for(folder, range(3)))


def test_a_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    stored = load_file(folder / "model.safetensors")
    stored["norm.weight"] = stored["model.norm.weight"] * 2
    (said,) = refusals(folder, lambda: save_file(stored, folder / "model.safetensors", metadata={"format": "pt"}))
    assert "norm.weight (1 in all), which is no part of the llama" in said


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", b"", b"\x00" * 40])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_what_a_clone_or_a_fetch_that_stopped_leaves(tmp_path: Path, file: str, content: bytes) -> None:
    folder = save_tiny(tmp_path / "m")
    (folder / file).write_bytes(content)
    what = "Git LFS pointer.*run git lfs pull" if content[:1] == b"v" else "is empty" if not content else "damaged|not JSON"
    for stream in ("off", "on"):
        with pytest.raises(Prune2vecError, match=rf"^[^\n]*{file}[^\n]*({what})[^\n]*$"):
            load_backbone(str(folder), device="cpu", stream=stream)  # type: ignore[arg-type]


def test_a_truncated_file_is_one_line_for_pruning_too(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    file = folder / "model.safetensors"
    (said,) = refusals(folder, lambda: file.write_bytes(file.read_bytes()[:-100]) and None)
    assert f"{file} is damaged or cut short" in said


@pytest.mark.parametrize("special", [False, True])
def test_tokens_beyond_the_embeddings(tmp_path: Path, special: bool) -> None:
    folder, tokenizer = tmp_path / "m", tiny_tokenizer()
    tiny_model("llama").save_pretrained(folder)
    tokenizer.add_tokens(["zebra", "<image>"], special_tokens=special)
    tokenizer.save_pretrained(folder)
    if not special:
        with pytest.raises(
            Prune2vecError, match=r"has 386 tokens, but the model 384 embeddings; token 'zebra' \(384\) has none"
        ):
            load_backbone(str(folder), dtype="float32", device="cpu")
        return
    ids = load_backbone(str(folder), dtype="float32", device="cpu").tokenizer("a zebra <image>")["input_ids"]
    assert ids == tiny_tokenizer()("a zebra <image>")["input_ids"]
    tokenizer.pad_token = "<image>"
    tokenizer.save_pretrained(folder)
    with pytest.raises(Prune2vecError, match="the tokeniser has 386 tokens"):
        load_backbone(str(folder), dtype="float32", device="cpu")


def test_a_library_error_of_any_kind_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny(tmp_path / "m")

    def fails(*args: object, **kwargs: object) -> None:
        raise AttributeError("no such thing\nsecond line")

    monkeypatch.setattr(AutoModel, "from_config", fails)
    with pytest.raises(Prune2vecError, match=r"m: config\.json makes no model: no such thing$"):
        load_backbone(str(folder), device="cpu")


VALUES = ("x", -1, 0, 10**9, 2**70, None, [], [1], {}, True)


@pytest.mark.parametrize(
    ("family", "file", "step"),
    [
        ("llama", "config.json", 7),
        ("gemma3_text", "config.json", 11),
        ("llama", "tokenizer_config.json", 3),
        ("llama", "model.safetensors.index.json", 1),
    ],
)
def test_a_value_of_another_type_or_size_is_one_line_or_no_matter(tmp_path: Path, family: str, file: str, step: int) -> None:
    """Each key once with another value, or left out; a seed of its own for each file picks which."""
    folder = save_tiny(tmp_path / "m", family, max_shard_size="40KB")
    entries, ids = json.loads((folder / file).read_text()), torch.arange(4, 20).view(2, 8)

    def states() -> tuple[Tensor, list[int]]:
        backbone = load_backbone(str(folder), dtype="float32", device="cpu")
        with torch.no_grad():
            return backbone.model(input_ids=ids, use_cache=False)[0], backbone.tokenizer("a quick 12")["input_ids"]

    expected, refused = states(), 0
    for number, key in enumerate(entries):
        value = VALUES[number * step % len(VALUES)]
        for changed in ({**entries, key: value}, {name: entries[name] for name in entries if name != key}):
            (folder / file).write_text(json.dumps(changed))
            try:
                found = states()
            except Prune2vecError as error:
                refused += 1
                assert "\n" not in str(error)
            else:
                assert found[1] == expected[1] and torch.equal(found[0], expected[0]), (key, changed.get(key))
    assert refused


HARMLESS = [
    ("llama", "model.layers.0.self_attn.rotary_emb.cos_cached", torch.ones(4)),
    ("llama", "model.layers.0.attention.bias", torch.ones(1, 1, 8, 8, dtype=torch.bool)),
    ("gpt2", "transformer.h.0.attn.masked_bias", torch.ones(())),
    ("gpt2", "h.0.attn.bias", torch.ones(1, 1, 8, 8, dtype=torch.bool)),
]


@pytest.mark.parametrize(("family", "name", "value"), HARMLESS)
def test_what_is_harmless_is_so_for_every_reader(tmp_path: Path, family: str, name: str, value: Tensor) -> None:
    folder = save_tiny(tmp_path / "m", family)
    file, plan = folder / "model.safetensors", plan_for(folder, range(3))
    expected = kept_of(folder, plan).model.state_dict()
    save_file({**load_file(file), name: value}, file, metadata={"format": "pt"})
    load_backbone(str(folder), dtype="float32", device="cpu")
    found = kept_of(folder, plan).model.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)
    model = tiny_model(family)
    info = {"missing_keys": set(), "mismatched_keys": set(), "unexpected_keys": {name}}
    check_loaded("m", model, info)
    with pytest.raises(ModelError, match=r"m has tensor model\.more\.weight"):
        check_loaded("m", model, {**info, "unexpected_keys": {"model.more.weight"}})

"""Adapters: only they train, in fp32; merging changes nothing; a checkpoint is restored to the bit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from peft import LoraModel
from sentence_transformers import SentenceTransformer

from prune2vec.errors import ConfigError, TrainingError
from prune2vec.pruning.encoder import load_encoder
from prune2vec.training.adapters import add_lora, base_model, embed, load_weights, merge_adapter, restore_adapter
from prune2vec.training.train_settings import TrainSettings
from tests.training.encoders import save_tiny_encoder

PROBE = ["the quick brown fox", "row 7 of the file", "a"]


def adapted(folder: Path, dtype: str = "float32", **settings: object) -> SentenceTransformer:
    """Return an encoder whose adapters are random in both factors, as after training."""
    encoder = load_encoder(folder, device="cpu", dtype=dtype)
    torch.manual_seed(0)
    add_lora(encoder, TrainSettings(lora_rank=4, **settings))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3", "gpt2", "bert", "modernbert"])
def test_every_linear_layer_of_every_block_gets_an_fp32_adapter(tmp_path: Path, family: str) -> None:
    encoder = adapted(save_tiny_encoder(tmp_path / "small", family), "bfloat16")
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert {dict(encoder.named_parameters())[name].dtype for name in trained} == {torch.float32}
    rest = {parameter.dtype for name, parameter in encoder.named_parameters() if name not in trained}
    assert rest == {torch.bfloat16}
    # q, k, v, o, gate, up, down; some fuse some of them, and BERT has no gate.
    modules = {"llama": 7, "qwen3": 7, "phi3": 4, "gpt2": 4, "bert": 6, "modernbert": 4}
    assert len(trained) == 2 * 2 * modules[family]


def test_target_modules_can_be_named(small: Path) -> None:
    encoder = adapted(small, target_modules=("q_proj",))
    assert all("q_proj" in name for name, parameter in encoder.named_parameters() if parameter.requires_grad)


def trained_modules(folder: Path, targets: str | tuple[str, ...]) -> set[str]:
    named = adapted(folder, target_modules=targets).named_parameters()
    return {name.partition(".lora_")[0].rpartition(".")[2] for name, parameter in named if parameter.requires_grad}


@pytest.mark.parametrize(
    ("targets", "trained"),
    [
        ("q_proj", {"q_proj"}),
        (("self_attn.q_proj", "v_proj"), {"q_proj", "v_proj"}),
        (r".*\.(up|down)_proj", {"up_proj", "down_proj"}),
    ],
)
def test_one_name_some_endings_or_an_expression(small: Path, targets: str | tuple[str, ...], trained: set[str]) -> None:
    assert trained_modules(small, targets) == trained


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (("q_porj", "v_proj"), "no module is called 'q_porj'; did you mean 'q_proj'?"),
        (("v_proj", "wq"), "no module is called 'wq'; known: down_proj, gate_proj, k_proj"),
        ("q_porj", "no module is called 'q_porj'; did you mean 'q_proj'?"),
        (("proj",), "called 'proj'"),
        (("all-linear", "q_proj"), "called 'all-linear'"),
        (r".*\.[qk]_porj", "no module matches"),
        ("(q_proj", "is no regular expression: missing ), unterminated subpattern"),
        ((), "names no module"),
        (("norm",), "eps=1e-06) is not supported"),
    ],
)
def test_every_target_module_must_be_there(small: Path, targets: str | tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        adapted(small, target_modules=targets)


@pytest.mark.parametrize("error", [ImportError, ValueError])
def test_what_the_libraries_say_of_each_other_is_shown(
    small: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    said = "The version of PEFT you have installed is too low. You need at least 0.22"

    def refuse(*args: object, **options: object) -> None:
        raise error(said)

    monkeypatch.setattr(SentenceTransformer, "add_adapter", refuse)
    with pytest.raises(ConfigError, match=said):
        adapted(small)


def test_embeddings_that_are_named_lie_below_every_top(small: Path) -> None:
    named = ("embed_tokens", "q_proj")
    whole, top = (
        {
            name
            for name, parameter in adapted(small, target_modules=named, train_top=top).named_parameters()
            if parameter.requires_grad
        }
        for top in (None, 1)
    )
    assert any("embed_tokens" in name for name in whole)
    assert top == {name for name in whole if "layers.1." in name} != set()


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "bert", "modernbert"])
def test_merged_equals_unmerged_and_is_stock(tmp_path: Path, family: str) -> None:
    folder = save_tiny_encoder(tmp_path / "small", family)
    encoder = adapted(folder)
    unmerged = embed(encoder.eval(), PROBE)
    encoder.transformers_model.save_pretrained(tmp_path / "adapter")
    fresh = load_encoder(folder, device="cpu", dtype="float32")
    untrained = embed(fresh, PROBE)
    assert merge_adapter(fresh, tmp_path / "adapter", PROBE) < 1e-5
    assert abs(embed(fresh, PROBE) - unmerged).max() < 1e-5
    assert abs(untrained - unmerged).max() > 1e-2
    assert type(fresh.transformers_model) is type(load_encoder(folder, device="cpu").transformers_model)
    assert not any("lora" in name for name in fresh.state_dict())


def test_a_merge_that_changes_embeddings_is_refused(small: Path, tmp_path: Path) -> None:
    adapted(small).transformers_model.save_pretrained(tmp_path / "adapter")
    coarse = load_encoder(small, device="cpu", dtype="bfloat16")
    with pytest.raises(TrainingError, match=r"merging the adapter changed embeddings by .*nothing was saved"):
        merge_adapter(coarse, tmp_path / "adapter", PROBE)


@pytest.mark.parametrize(("layers", "size"), [(40, 1.0), (2, 1e3), (2, 1e6)])
def test_what_fp32_may_round_grows_with_the_model_and_its_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layers: int, size: float
) -> None:
    folder = save_tiny_encoder(tmp_path / "small", layers=layers)
    adapted(folder).transformers_model.save_pretrained(tmp_path / "adapter")

    def large() -> SentenceTransformer:
        encoder = SentenceTransformer(modules=list(load_encoder(folder, device="cpu", dtype="float32"))[:2])
        base_model(encoder).norm.weight.data *= size
        return encoder

    # One entry in 1e5 of the vectors' size was refused, which a merge without a fault can reach.
    assert 1e-8 * size < merge_adapter(large(), tmp_path / "adapter", PROBE) < 1e-4 * 10 * size
    merge = LoraModel.merge_and_unload

    def slightly_wrong(adapted: LoraModel) -> torch.nn.Module:
        model = merge(adapted)
        model.layers[0].mlp.up_proj.weight.data *= 1.05
        return model

    monkeypatch.setattr(LoraModel, "merge_and_unload", slightly_wrong)
    with pytest.raises(TrainingError, match="merging the adapter changed embeddings by"):
        merge_adapter(large(), tmp_path / "adapter", PROBE)


def test_restoring_is_exact_on_a_bf16_base(small: Path, tmp_path: Path) -> None:
    trained = adapted(small, "bfloat16")
    trained.transformers_model.save_pretrained(tmp_path / "adapter")
    encoder = load_encoder(small, device="cpu", dtype="bfloat16")
    add_lora(encoder, TrainSettings(lora_rank=4))
    restore_adapter(encoder, tmp_path / "adapter")
    for name, tensor in trained.state_dict().items():
        assert torch.equal(tensor, encoder.state_dict()[name]), name


def test_full_weights_must_all_be_there(small: Path, tmp_path: Path) -> None:
    other = save_tiny_encoder(tmp_path / "deeper", layers=3, seed=1)
    encoder = load_encoder(small, device="cpu", dtype="float32")
    with pytest.raises(TrainingError, match="does not fit its model"):
        load_weights(encoder, other)
    load_weights(encoder, save_tiny_encoder(tmp_path / "same", seed=1))
    assert abs(embed(encoder, PROBE) - embed(load_encoder(small, device="cpu", dtype="float32"), PROBE)).max() > 1e-2


def test_embeddings_that_are_not_finite_are_an_error(small: Path) -> None:
    encoder = load_encoder(small, device="cpu", dtype="float32")
    with torch.no_grad():
        encoder.transformers_model.norm.weight[0] = float("inf")
    with pytest.raises(TrainingError, match="not finite; nothing was saved"):
        embed(encoder, PROBE)

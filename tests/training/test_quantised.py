"""Adapters on a frozen base in 4 or 8 bits: trained, resumed, and merged into the weights as they were."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prune2vec.errors import ConfigError, MissingExtra
from prune2vec.models.kept import Kept
from prune2vec.pruning.encoder import load_encoder, read_record, save_encoder
from prune2vec.training.quantised import check_four_bits, hold_in_bits
from prune2vec.training.train import prepare, train_encoder
from prune2vec.training.train_settings import TrainSettings
from tests.exporting.encoders import cut_encoder
from tests.training.encoders import rows, save_tiny_encoder
from tests.training.test_train import QUICK, StopAt, assert_same_run, curve

needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="the qlora extra is not installed")
DATA = rows(32)
RANK = 2
HOW = {**QUICK, "learning_rate": 1e-2, "lora_rank": RANK, "lora_alpha": 2 * RANK}


# As wide as one block of NF4: of narrower rows bitsandbytes makes other numbers on some CPUs.
WIDE: dict[str, dict[str, int]] = {
    "llama": {"hidden_size": 64, "intermediate_size": 128},
    "bert": {"hidden_size": 64, "intermediate_size": 128},
    "gpt2": {"n_embd": 64, "n_layer": 2},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("llama") / "small", **WIDE["llama"])


@needs_bitsandbytes
@pytest.mark.parametrize("family", ["llama", "bert", "gpt2"])
@pytest.mark.parametrize("base", ["4bit", "8bit"])
def test_adapters_are_merged_into_the_weights_as_they_were(
    tmp_path: Path, base: str, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_tiny_encoder(tmp_path / "m", family, **WIDE[family])
    train_encoder(folder, DATA, tmp_path / "out", **HOW, base=base)
    losses = [line["loss"] for line in curve(tmp_path / "out")]
    assert sum(losses[-4:]) < sum(losses[:4])
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "out"))
    changed = {name for name in before if name in after and not torch.equal(before[name], after[name])}
    # All but a change of the adapters' rank is what it was, to the rounding of the sum.
    assert changed and all(before[name].ndim == 2 and "emb" not in name for name in changed)
    for name in changed:
        strengths = torch.linalg.svdvals(after[name] - before[name])
        assert strengths[RANK] < 1e-4 * strengths[0], name
    merge = read_record(tmp_path / "out")["train"]["merge"]
    assert merge["max_difference"] < 1e-5
    assert 0.8 < merge["base_min_cosine"] <= merge["base_mean_cosine"] < 1 - 1e-6
    far = f"cosine to the vectors of the training {merge['base_mean_cosine']:.4f} on average"
    assert f"trained on a base in {base} and merged into the weights as they are: {far}" in capsys.readouterr().err


@needs_bitsandbytes
@pytest.mark.parametrize("base", ["4bit", "8bit"])
def test_a_resumed_run_ends_alike(small: Path, tmp_path: Path, base: str) -> None:
    train_encoder(small, DATA, tmp_path / "whole", **HOW, base=base)
    with pytest.raises(KeyboardInterrupt):
        train_encoder(small, DATA, tmp_path / "resumed", callbacks=[StopAt(9)], **HOW, base=base)
    assert train_encoder(small, DATA, tmp_path / "resumed", **HOW, base=base).resumed_from == 8
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")


@needs_bitsandbytes
def test_linear_layers_are_held_in_bits_and_nothing_else(small: Path, tmp_path: Path) -> None:
    encoder, job = prepare(small, DATA, tmp_path / "out", TrainSettings(**HOW, base="4bit"))
    hold_in_bits(encoder, job)
    held = {
        name.rpartition(".")[2]
        for name, module in encoder[0].auto_model.named_modules()
        if type(module).__name__ == "Linear4bit"
    }
    assert held == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    kinds = {name: parameter.dtype for name, parameter in encoder[0].auto_model.named_parameters()}
    assert kinds["embed_tokens.weight"] == kinds["norm.weight"] == torch.float32
    assert kinds["layers.0.self_attn.q_proj.weight"] == torch.uint8


@needs_bitsandbytes
def test_rows_that_bits_change_too_much_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitsandbytes import functional

    right = functional.dequantize_4bit
    check_four_bits([64, 128], torch.device("cpu"))
    # As on CPUs with AVX-512.
    monkeypatch.setattr(
        functional,
        "dequantize_4bit",
        lambda held, state: right(held, state).roll(1) if held.numel() < 3000 else right(held, state),
    )
    check_four_bits([128], torch.device("cpu"))
    with pytest.raises(
        ConfigError,
        match=r"^base 4bit: bitsandbytes changes rows of 64 numbers by 1\d\d% on this cpu, in place of 9 %; use base 8bit",
    ):
        check_four_bits([64, 128], torch.device("cpu"))


@needs_bitsandbytes
def test_weights_in_bits_stay_as_they_are_on_any_cpu(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on CPUs with bf16 in AVX-512.
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    encoder, job = prepare(small, DATA, tmp_path / "out", TrainSettings(**HOW, base="4bit"))
    hold_in_bits(encoder, job)
    before = {name: parameter.detach().clone() for name, parameter in encoder.named_parameters()}
    encoder.eval().encode(["a fox", "the row of the dog"])
    assert {name for name, parameter in encoder.named_parameters() if not torch.equal(parameter, before[name])} == set()


@needs_bitsandbytes
def test_uneven_blocks_are_refused(small: Path, tmp_path: Path) -> None:
    encoder = cut_encoder(load_encoder(small, device="cpu", dtype="float32"), Kept.of(range(2), drop_mlp=[1]))
    save_encoder(encoder, tmp_path / "uneven")
    with pytest.raises(ConfigError, match=r"^base 4bit is for models whose blocks are all alike, .* leave base out$"):
        train_encoder(tmp_path / "uneven", DATA, tmp_path / "out", **HOW, base="4bit")


def test_without_bitsandbytes_its_extra_is_named(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtra, match=r"pip install 'prune2vec\[qlora\]'$"):
        train_encoder(small, DATA, tmp_path / "out", **HOW, base="4bit")
    assert not (tmp_path / "out").exists()


def test_all_weights_are_not_trained_on_a_frozen_base() -> None:
    with pytest.raises(ValueError, match="base '4bit' is frozen, and method full trains all weights; set method to lora"):
        TrainSettings(base="4bit", method="full")


def test_without_a_base_runs_of_earlier_releases_are_the_same() -> None:
    assert "base" not in TrainSettings().identity()
    assert json.loads(json.dumps(TrainSettings(base="8bit").identity()))["base"] == "8bit"

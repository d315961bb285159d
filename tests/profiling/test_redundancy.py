"""Importance of sub-layers against the arithmetic of each kind of block written out, in float64 and one text at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from prune2vec.errors import ConfigError, ProfileError, UnsupportedModel
from prune2vec.forward.backbone import Backbone, load_backbone
from prune2vec.forward.runner import ObservedRun
from prune2vec.models.block_layout import sub_layers_of
from prune2vec.models.families import block_list, find_family
from prune2vec.models.kept import KINDS, Kept
from prune2vec.models.tokens import TokenRow, length_batches
from prune2vec.profiling.measure import scorers
from prune2vec.profiling.profile import Redundancy
from prune2vec.profiling.profile_settings import ProfileSettings
from prune2vec.profiling.redundancy import SublayerImportance, plain_windows
from prune2vec.profiling.token_groups import distinct_rows
from tests.forward.test_depths import random_rows
from tests.models.silence import plan_of, silenced
from tests.profiling.test_conformance import section_of
from tests.profiling.test_layer_loss import random_groups
from tests.tiny import FAMILIES, save_tiny, tiny_model, tiny_tokenizer

Attend = Callable[[Tensor], Tensor]


def redundancy(
    backbone: Backbone,
    rows: Sequence[TokenRow],
    *,
    texts: str = "retrieval",
    kept: Kept | None = None,
    token_budget: int | None = None,
) -> Redundancy:
    measurement = SublayerImportance(backbone, rows, texts=texts, kept=kept)
    run = ObservedRun(observers=[measurement], kept=kept)
    backbone.runner.run(measurement.rows, [run], token_budget=token_budget)
    return measurement.result()


Blocks = Callable[[nn.Module, Attend, Tensor], tuple[Tensor, Tensor, Tensor]]


def pre_norm(block: Any, attend: Attend, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return attention's output stream, the MLP's input stream and the block's output."""
    middle = x + attend(block.input_layernorm(x))
    return middle, middle, middle + block.mlp(block.post_attention_layernorm(middle))


def granite(block: Any, attend: Attend, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    scale = block.residual_multiplier
    middle = x + scale * attend(block.input_layernorm(x))
    return middle, middle, middle + scale * block.mlp(block.post_attention_layernorm(middle))


def norms_around(block: Any, attend: Attend, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    middle = x + block.post_attention_layernorm(attend(block.input_layernorm(x)))
    inner = block.mlp(block.pre_feedforward_layernorm(middle))
    return middle, middle, middle + block.post_feedforward_layernorm(inner)


def norms_after(block: Any, attend: Attend, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    middle = x + block.post_attention_layernorm(attend(x))
    return middle, middle, middle + block.post_feedforward_layernorm(block.mlp(middle))


def gpt2(block: Any, attend: Attend, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    middle = x + attend(block.ln_1(x))
    return middle, middle, middle + block.mlp(block.ln_2(middle))


def opt(block: Any, attend: Attend, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    middle = x + attend(block.self_attn_layer_norm(x))
    return middle, middle, middle + block.fc2(torch.relu(block.fc1(block.final_layer_norm(middle))))


def neox_parallel(block: Any, attend: Attend, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    attention, mlp = attend(block.input_layernorm(x)), block.mlp(block.post_attention_layernorm(x))
    return x + attention, x, x + attention + mlp


def phi(block: Any, attend: Attend, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    normed = block.input_layernorm(x)
    attention = attend(normed)
    return x + attention, x, x + attention + block.mlp(normed)


def bert(block: Any, attend: Attend, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Attention adds its input and norms the sum by itself; dropped, it leaves x."""
    middle, out = attend(x), block.output
    return middle, middle, out.LayerNorm(middle + out.dense(gelu(block.intermediate.dense(middle))))


def distilbert(block: Any, attend: Attend, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    middle = block.sa_layer_norm(x + attend(x))
    return middle, middle, block.output_layer_norm(middle + block.ffn.lin2(gelu(block.ffn.lin1(middle))))


def modernbert(block: Any, attend: Attend, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    middle = x + attend(block.attn_norm(x))
    active, gate = block.mlp.Wi(block.mlp_norm(middle)).chunk(2, dim=-1)
    return middle, middle, middle + block.mlp.Wo(gelu(active) * gate)


ARITHMETIC: dict[str, Blocks] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "smollm3"), pre_norm),
    **dict.fromkeys(("gemma2", "gemma3_text"), norms_around),
    "olmo2": norms_after,
    "granite": granite,
    "gpt2": gpt2,
    "gpt_neox": neox_parallel,
    "gpt_neox sequential": pre_norm,
    "phi": phi,
    "opt": opt,
    **dict.fromkeys(("llama+bidirectional", "mistral+bidirectional"), pre_norm),
    "gemma3_text+bidirectional": norms_around,
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "mpnet"), bert),
    "distilbert": distilbert,
    "modernbert": modernbert,
}
PARALLEL = (neox_parallel, phi)
CHANGES: dict[str, dict[str, Any]] = {
    "granite": {"residual_multiplier": 0.3},
    "gpt_neox sequential": {"use_parallel_residual": False},
}


def tiny_backbone(tmp_path: Path, name: str = "llama", dtype: str = "float32") -> Backbone:
    folder, family = tmp_path / "model", name.split()[0]
    if name in CHANGES:
        tiny_model(family, causal_lm=True, **CHANGES[name]).save_pretrained(folder)
        tiny_tokenizer().save_pretrained(folder)
    else:
        save_tiny(folder, family)
    return load_backbone(str(folder), dtype=dtype, device="cpu")


def importance_by_hand(backbone: Backbone, rows: list[TokenRow], arithmetic: Blocks) -> dict[str, list[float]]:
    """Return 1 - cos of every sub-layer, mean over tokens, from float64 copies of norms, attentions and MLPs."""
    model = copy.deepcopy(backbone.model).double()
    blocks = list(block_list(model, backbone.family))
    total = torch.zeros(3, len(blocks), dtype=torch.float64)
    for row in rows:
        called: dict[nn.Module, tuple[tuple[Any, ...], dict[str, Any]]] = {}

        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], called: Any = called) -> None:
            called[module] = (args, kwargs)

        attentions = [block.get_submodule(backbone.family.attention) for block in blocks]
        handles = [part.register_forward_pre_hook(keep, with_kwargs=True) for part in (*attentions, blocks[0])]
        with torch.no_grad():
            model(input_ids=torch.tensor([row.ids]), use_cache=False)
            for handle in handles:
                handle.remove()
            args, kwargs = called[blocks[0]]
            x = args[0] if args else kwargs["hidden_states"]
            for number, (block, attention) in enumerate(zip(blocks, attentions, strict=True)):

                def attend(states: Tensor, attention: nn.Module = attention, called: Any = called) -> Tensor:
                    # Masks and positions as the model made them; the states are ours.
                    args, kwargs = called[attention]
                    rest = {key: value for key, value in kwargs.items() if key != "hidden_states"}
                    output: Tensor = attention(states, *args[1:], **rest)[0]
                    return output

                after_attention, before_mlp, after = arithmetic(block, attend, x)
                after_mlp = after if before_mlp is not x else x + (after - after_attention)
                for kind, (one, other) in enumerate(((x, after_attention), (before_mlp, after_mlp), (x, after))):
                    cosines = (one * other).sum(-1) / (one.norm(dim=-1) * other.norm(dim=-1))
                    total[kind, number] += (1 - cosines).sum()
                x = after
    total /= sum(len(row.ids) for row in rows)
    return {kind: values.tolist() for kind, values in zip(KINDS, total, strict=True)}


def test_the_arithmetic_covers_every_family() -> None:
    assert {name.split()[0] for name in ARITHMETIC} == set(FAMILIES)


@pytest.mark.parametrize("name", ARITHMETIC)
def test_importance_is_that_of_the_written_out_block(tmp_path: Path, name: str) -> None:
    backbone, rows = tiny_backbone(tmp_path, name), random_rows(7)
    parts = sub_layers_of(backbone.model)
    assert (parts.between is None) == (ARITHMETIC[name] in PARALLEL)
    found = redundancy(backbone, rows, token_budget=100)
    expected = importance_by_hand(backbone, rows, ARITHMETIC[name])
    assert found.tokens == sum(len(row.ids) for row in rows)
    for kind in KINDS:
        assert found.row(kind) == pytest.approx(expected[kind], rel=1e-5)
        assert len(set(found.row(kind))) == 5


@pytest.mark.parametrize("family", FAMILIES)
def test_batching_does_not_matter(tmp_path: Path, family: str) -> None:
    backbone, rows = tiny_backbone(tmp_path, family), random_rows(9, seed=1)
    together, alone = (redundancy(backbone, rows, token_budget=budget) for budget in (10_000, 1))
    assert together.tokens == alone.tokens
    for kind in KINDS:
        assert together.row(kind) == pytest.approx(alone.row(kind), rel=1e-5)


@pytest.mark.parametrize("family", ["llama", "phi", "opt"])
def test_one_pass_gives_all_three_kinds(tmp_path: Path, family: str) -> None:
    backbone, rows, calls = tiny_backbone(tmp_path, family), random_rows(9), 0
    lengths = [len(row.ids) for row in rows]
    redundancy(backbone, rows)  # Finds out how the model takes rows.

    def count(*args: object) -> None:
        nonlocal calls
        calls += 1

    handle = block_list(backbone.model, backbone.family)[2].register_forward_hook(count)
    found = redundancy(backbone, rows, token_budget=100)
    handle.remove()
    assert calls == len(length_batches(lengths, token_budget=100, packed=True)) > 1
    assert all(value > 0 for kind in KINDS for value in found.row(kind))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.model.modules())


def test_the_score_reads_the_distinct_texts_of_the_groups(tmp_path: Path) -> None:
    backbone, groups, done = tiny_backbone(tmp_path), random_groups(), []
    section = section_of(backbone, "redundancy", [*groups, groups[0]], ProfileSettings(), done)
    expected = redundancy(backbone, distinct_rows(groups))
    assert section["mlp"] == pytest.approx(list(expected.mlp))
    assert section["tokens"] == expected.tokens == sum(done)
    assert section["texts"] == "retrieval"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_cosines_are_taken_in_fp32(tmp_path: Path, dtype: str) -> None:
    backbone, rows = tiny_backbone(tmp_path, dtype=dtype), random_rows(3)
    states: list[tuple[Tensor, Tensor]] = []
    redundancy(backbone, rows)  # Finds out how the model takes rows.

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        states.append((args[0].double(), output.double()))

    handle = backbone.model.layers[1].register_forward_hook(keep)
    found = redundancy(backbone, rows, token_budget=1)
    handle.remove()
    pairs = [torch.nn.functional.cosine_similarity(before, after, dim=-1).flatten() for before, after in states]
    assert found.block[1] == pytest.approx((1 - torch.cat(pairs)).mean().item(), rel=1e-5)


def test_a_change_far_below_rounding_of_the_cosine_is_still_seen(tmp_path: Path) -> None:
    backbone, rows = tiny_backbone(tmp_path), random_rows(3)
    backbone.model.layers[1].mlp.down_proj.weight.data *= 1e-3
    expected = importance_by_hand(backbone, rows, pre_norm)["mlp"][1]
    assert 0 < expected < 1e-5
    assert redundancy(backbone, rows).mlp[1] == pytest.approx(expected, rel=1e-3)


def test_what_a_cut_took_out_counts_nothing(tmp_path: Path) -> None:
    backbone, rows = tiny_backbone(tmp_path), random_rows(3)
    found = redundancy(backbone, rows, kept=Kept.of(range(5), drop_attention=[1], drop_mlp=[0, 3]))
    assert [value == 0 for value in found.attention] == [False, True, False, False, False]
    assert [value == 0 for value in found.mlp] == [True, False, False, True, False]
    assert found.block[0] == found.attention[0]
    assert found.block[1] == found.mlp[1]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("layers.2.mlp.up_proj", "layer 2 after the mlp in float32"),
        ("layers.3.self_attn.v_proj", "layer 3 after the attention in float32"),
    ],
)
def test_nan_names_layer_sub_layer_and_format(tmp_path: Path, path: str, message: str) -> None:
    backbone = tiny_backbone(tmp_path)
    backbone.model.get_submodule(path).weight.data[0] = float("nan")
    with pytest.raises(ProfileError, match=message):
        redundancy(backbone, random_rows(3))


@pytest.mark.parametrize("name", ["redundancy", "redundancy-iterative"])
def test_norms_on_the_stream_are_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    backbone = tiny_backbone(tmp_path, "opt")
    model = tiny_model("opt", do_layer_norm_before=False)
    backbone = replace(backbone, model=model, family=find_family(model, model.config))
    with pytest.raises(UnsupportedModel, match="norms the residual stream itself"):
        next(scorers.get(name)(backbone, random_groups(), ProfileSettings()))


# Plain text


def test_it_is_the_redundancy_on_windows_and_not_on_the_groups(tmp_path: Path) -> None:
    backbone, source, done = tiny_backbone(tmp_path, "llama"), tmp_path / "plain.txt", []
    source.write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    settings = ProfileSettings(plain=source, windows=5, window_length=24, seed=3)
    section = section_of(backbone, "redundancy-plain", random_groups(), settings, done)
    windows = plain_windows(source, backbone.tokenizer, count=5, length=24, context=backbone.max_length, seed=3)
    expected = redundancy(backbone, windows, texts="plain")
    found = Redundancy.from_json(section)
    for kind in KINDS:
        assert found.row(kind) == pytest.approx(expected.row(kind))
    assert (found.texts, found.tokens, section["windows"], section["window_length"]) == ("plain", 120, 5, 24)
    assert sum(done) == 120
    other = section_of(backbone, "redundancy-plain", random_groups(), settings.model_copy(update={"seed": 4}), [])
    assert other["digest"] != section["digest"]


# Dropping one by one, against the whole model in which what has gone is made silent

EVERY = set(range(5))


def kept_without(kind: str, gone: list[int]) -> Kept:
    layers = EVERY - set(gone) if kind == "block" else EVERY
    return Kept.of(layers, drop_attention=gone if kind == "attention" else (), drop_mlp=gone if kind == "mlp" else ())


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi", "olmo2", "opt", "bert", "modernbert"])
def test_each_round_takes_the_least_important_of_what_is_left(tmp_path: Path, family: str) -> None:
    backbone, groups = tiny_backbone(tmp_path, family), random_groups()
    section = section_of(backbone, "redundancy-iterative", groups, ProfileSettings(rounds=4), [])
    for kind in KINDS:
        gone: list[int] = []
        for _ in range(4):
            with silenced(backbone.model, plan_of(backbone.model, kept_without(kind, gone), {})):
                row = redundancy(backbone, distinct_rows(groups)).row(kind)
            # ModernBERT's first block must stay.
            stays = {0} if kind == "block" and family == "modernbert" else set()
            gone.append(min(EVERY - {*gone, *stays}, key=lambda layer: row[layer]))
        assert section[kind] == gone


def test_half_the_layers_unless_told(tmp_path: Path) -> None:
    backbone, groups = tiny_backbone(tmp_path, "llama"), random_groups()
    section = section_of(backbone, "redundancy-iterative", groups, ProfileSettings(), [])
    assert {kind: len(section[kind]) for kind in KINDS} == dict.fromkeys(KINDS, 2)


def test_one_layer_must_stay(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rounds is 5, but one of 5 layers must stay; give at most 4"):
        next(scorers.get("redundancy-iterative")(tiny_backbone(tmp_path, "llama"), random_groups(), ProfileSettings(rounds=5)))

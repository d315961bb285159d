"""A batch of rows end to end gives what the rectangle gives, and models that cannot take packed rows are found out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from prune2vec.forward.batches import Batch, make_batches, packing_obstacle, token_states
from prune2vec.forward.packed import ATTENTION, Rectangle, packable
from prune2vec.forward.pooling import poolings
from prune2vec.models.tokens import TokenRow
from tests.tiny import VOCAB, tiny_model

ROWS = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 11)), min_size=1, max_size=9)
MODEL = tiny_model("llama")


def rows_of(sizes: list[tuple[int, int]]) -> list[TokenRow]:
    """Return rows of these lengths, each with at least its last token pooled."""
    return [TokenRow(tuple(range(1, length + 1)), min(start, length - 1)) for length, start in sizes]


def both(rows: list[TokenRow]) -> tuple[Batch, Batch]:
    """Return all rows as one batch, padded and packed."""
    ((padded,), (packed,)) = (make_batches(MODEL, rows, token_budget=1000, packed=packed) for packed in (False, True))
    return padded, packed


@pytest.mark.parametrize("name", list(poolings))
@given(sizes=ROWS)
def test_pooling_is_that_of_the_rectangle(name: str, sizes: list[tuple[int, int]]) -> None:
    padded, packed = both(rows_of(sizes))
    states = torch.randn(*padded.shape, 4, generator=torch.Generator().manual_seed(len(sizes)))
    weigh = poolings.get(name)
    end_to_end = states[padded.real][None]
    torch.testing.assert_close(packed.pooler(weigh)(end_to_end), padded.pooler(weigh)(states), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("before", [True, False])
def test_attention_is_not_cudnns_while_rows_run(before: bool) -> None:
    seen = []
    hook = MODEL.register_forward_hook(lambda *_: seen.append(torch.backends.cuda.cudnn_sdp_enabled()))
    was = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(before)
    try:
        both(rows_of([(3, 0), (2, 0)]))[0].run(MODEL)
        assert torch.backends.cuda.cudnn_sdp_enabled() is before
    finally:
        torch.backends.cuda.enable_cudnn_sdp(was)
        hook.remove()
    assert seen == [False]


@given(sizes=ROWS)
def test_tokens_lie_longest_row_first(sizes: list[tuple[int, int]]) -> None:
    rows = rows_of(sizes)
    padded, packed = both(rows)
    assert [rows[place] for place in padded.places] == list(padded.rows) == list(packed.rows)
    assert [len(row.ids) for row in padded.rows] == sorted((length for length, _ in sizes), reverse=True)
    ids = [token for row in padded.rows for token in row.ids]
    assert packed.inputs["input_ids"].tolist() == [ids]
    assert padded.inputs["input_ids"][padded.real].tolist() == ids
    assert packed.inputs["position_ids"].tolist() == [[token - 1 for token in ids]]
    assert packed.real.tolist() == [[True] * len(ids)]
    assert packed.tokens == padded.tokens == len(ids)


def test_a_nan_stays_in_its_row() -> None:
    _, packed = both(rows_of([(3, 0), (3, 0), (2, 0)]))
    states = torch.ones(1, 8, 4)
    states[0, 4] = float("nan")
    found = packed.pooler(poolings.get("mean"))(states)
    assert found.isnan().all(dim=1).tolist() == [False, True, False]


def test_rows_are_filled_up_on_the_right_and_masked_on_request() -> None:
    rows = [TokenRow((8,), 0), TokenRow((5, 6, 7), 1)]
    (bare,), (masked,) = (make_batches(MODEL, rows, token_budget=99, pad_id=9, masked=asked) for asked in (False, True))
    assert bare.places == [1, 0]
    assert bare.inputs["input_ids"].tolist() == masked.inputs["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert set(bare.inputs) == {"input_ids"}
    assert masked.inputs["attention_mask"].tolist() == bare.real.long().tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("rows", [[()], [(), (4, 5)]])
def test_a_row_may_be_empty(rows: list[tuple[int, ...]]) -> None:
    (batch,) = make_batches(MODEL, [TokenRow(row, 0) for row in rows], token_budget=99, masked=True)
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    assert ids.dtype == mask.dtype == torch.long
    assert ids.shape == (len(rows), max(1, *map(len, rows), 0))
    assert mask[-1].sum() == 0


def test_windows_are_ordered_by_themselves() -> None:
    rows = rows_of([(2, 0), (5, 0), (3, 0), (9, 0)])
    assert [batch.places for batch in make_batches(MODEL, rows, token_budget=99, window=2)] == [[1, 0], [3, 2]]


def test_no_rows_make_no_batch() -> None:
    assert list(make_batches(MODEL, [], token_budget=99)) == []


def test_softcapped_attention_is_not_packed() -> None:
    model = tiny_model("gemma2")
    assert packing_obstacle(model) == "its attention is eager, which has no kernel for packed rows"


def test_a_class_with_attention_of_its_own_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    monkeypatch.setattr(type(model), "set_attn_implementation", lambda self, name: None)
    assert packing_obstacle(model) == "its class does not let its attention be replaced"


def test_a_model_whose_tokens_see_other_rows_is_found_out() -> None:
    model = tiny_model("llama")

    def leak(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output + output.cumsum(dim=1) * 0.01

    model.layers[2].mlp.register_forward_hook(leak)
    assert packing_obstacle(model).startswith("packed rows come out otherwise than alone (by ")


def test_a_state_that_is_large_everywhere_hides_no_leak() -> None:
    model = tiny_model("gpt2").bfloat16()
    with torch.no_grad():
        model.ln_f.bias[0] = 100
    assert packing_obstacle(model) == ""
    model.h[2].mlp.register_forward_hook(lambda module, args, output: output + 0.5 * output.cumsum(dim=1))
    assert packing_obstacle(model).startswith("packed rows come out otherwise than alone (by ")


def test_a_mask_that_is_lost_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("mistral")
    monkeypatch.setattr(Rectangle, "mask", lambda self, mask, causal: (None, {}))
    assert packing_obstacle(model, max_length=16) == ""
    assert packing_obstacle(model, max_length=64).startswith("packed rows come out otherwise than alone (by ")


def test_a_window_that_attention_is_not_told_of_is_in_the_mask() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    experts = {"num_experts": 2, "num_experts_per_tok": 1}
    window = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}
    config = AutoConfig.for_model("qwen2_moe", vocab_size=VOCAB, **sizes, **heads, **experts, **window)
    compare_packed(AutoModel.from_config(config).eval())


def test_attention_to_chunks_is_in_the_mask() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "intermediate_size_mlp": 48, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 2, "attention_chunk_size": 8}
    config = AutoConfig.for_model("llama4_text", vocab_size=VOCAB, **sizes, **heads)
    assert config.layer_types[0] == "chunked_attention"
    compare_packed(AutoModel.from_config(config).eval())


def compare_packed(model: PreTrainedModel) -> None:
    """Compare packed rows shorter and longer than 8 tokens, which a window or a chunk holds, with rows alone."""
    assert packing_obstacle(model, max_length=64) == ""
    rows = [list(range(3, 3 + length)) for length in (30, 9, 8, 30, 3)]
    with torch.no_grad():
        alone = torch.cat([model(input_ids=torch.tensor([row]), use_cache=False)[0][0] for row in rows])
        with packable(model):
            torch.testing.assert_close(token_states(model, rows), alone, atol=1e-5, rtol=1e-5)


def test_the_probe_keeps_to_the_memory() -> None:
    model = tiny_model("mistral")
    assert packing_obstacle(model, max_length=64, room=60) == ""
    assert packing_obstacle(model, max_length=64, room=59).startswith("the memory that may be used does not hold")


def test_attention_is_set_back_where_setting_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model, kept = tiny_model("llama"), tiny_model("llama").set_attn_implementation.__func__  # type: ignore[attr-defined]

    def fail(self: PreTrainedModel, name: str) -> None:
        kept(self, name)
        if name == ATTENTION:
            raise ValueError("no")

    monkeypatch.setattr(type(model), "set_attn_implementation", fail)
    assert packing_obstacle(model) == "packed rows fail in it (no)"
    assert model.config._attn_implementation == "sdpa"


def test_any_error_in_the_model_is_an_obstacle() -> None:
    model = tiny_model("llama")

    def refuse(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        assert "rectangles" not in kwargs, "no room for these"

    model.layers[1].self_attn.register_forward_pre_hook(refuse, with_kwargs=True)
    assert packing_obstacle(model) == "packed rows fail in it (no room for these)"


def test_the_probe_changes_nothing() -> None:
    model = tiny_model("llama").train()
    torch.manual_seed(3)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    packing_obstacle(model)
    assert torch.equal(torch.rand(1), drawn)
    assert model.training and all(module.training for module in model.modules())
    assert model.config._attn_implementation != ATTENTION

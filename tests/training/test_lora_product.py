"""LoRA layers computed together against peft's own: results, every gradient, and the dropout's statistics."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune2vec.training import lora_product
from prune2vec.training.lora_product import dropped_entries, fused_lora
from tests.tiny import tiny_model

OFF = {"gpt2": {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}, "opt": {"dropout": 0}}
TARGETS = r".*(_proj|fc\d|dense|query_key_value|dense_h_to_4h|dense_4h_to_h)"


def adapted(
    family: str = "llama", *, rate: float = 0.0, targets: str = TARGETS, dtype: torch.dtype = torch.float32, **config: Any
) -> PreTrainedModel:
    """Return a frozen tiny model with adapters whose second matrices are not zero, in training mode."""
    model = tiny_model(family, **OFF.get(family, {})).requires_grad_(False).to(dtype)
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=6, lora_dropout=rate, target_modules=targets, **config), model)
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float() + 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.train()


def stepped(model: PreTrainedModel, seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the states of a random batch and the gradients of a random weighing of them."""
    generator = torch.Generator().manual_seed(seed)
    rows, tokens = torch.randint(1, 20, (2,), generator=generator).tolist()
    ids = torch.randint(3, 300, (rows, tokens), generator=generator)
    model.zero_grad()
    states = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)[0]
    (states * torch.randn(states.shape, generator=generator)).sum().backward()
    return states.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_near(ours: tuple[Tensor, dict[str, Tensor]], theirs: tuple[Tensor, dict[str, Tensor]]) -> None:
    assert (ours[0] - theirs[0]).abs().max() <= 1e-5 * theirs[0].abs().max()
    assert set(ours[1]) == set(theirs[1]) != set()
    largest = max(float(gradient.abs().max()) for gradient in theirs[1].values())
    for name, gradient in theirs[1].items():
        assert (ours[1][name] - gradient).abs().max() <= 1e-5 * largest, name


@pytest.mark.parametrize(
    ("family", "together"),
    [
        ("llama", [3, 1, 2, 1]),
        ("qwen3", [3, 1, 2, 1]),
        ("gemma3_text", [3, 1, 2, 1]),
        ("olmo2", [3, 1, 2, 1]),
        ("phi3", [1, 1, 1, 1]),
        ("gpt_neox", [1, 1, 1, 1]),
        ("phi", [3, 1, 1, 1]),
        ("opt", [3, 1, 1, 1]),
    ],
)
def test_states_and_gradients_are_those_of_peft(family: str, together: list[int]) -> None:
    model = adapted(family)
    for seed in range(4):
        theirs = stepped(model, seed)
        with fused_lora(model) as groups:
            assert sorted(map(len, groups)) == sorted(together * 5)
            ours = stepped(model, seed)
        assert_near(ours, theirs)
        again = stepped(model, seed)
        assert torch.equal(again[0], theirs[0])


class Fixed(nn.Module):
    """A dropout with a given mask."""

    def __init__(self, kept: Tensor, rate: float) -> None:
        super().__init__()
        self._mask = kept / (1 - rate)

    def forward(self, x: Tensor) -> Tensor:
        return x * self._mask


def layer_of(count: int, *, rate: float, bias: bool = True) -> nn.Module:
    """Return a module whose ``count`` layers project one input, as queries, keys and values do."""

    class Several(nn.Module):
        device = torch.device("cpu")

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(12, 8 + number, bias=bias) for number in range(count))

        def forward(self, input_ids: Tensor, use_cache: bool = False) -> list[Tensor]:
            x = input_ids if input_ids.is_floating_point() else input_ids[..., None].expand(-1, -1, 12).float()
            return [layer(x) for layer in self.layers]

    module = Several().requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=3, lora_alpha=5, lora_dropout=rate, target_modules=r"layers\.\d"), module)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape)
    return module.train()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("wants_input", [False, True])
def test_with_dropout_it_is_peft_with_the_same_mask(wants_input: bool, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    rate = 0.3
    module: Any = layer_of(3, rate=rate, bias=bias)
    x = torch.randn(2, 7, 12)
    kept = torch.rand(x.shape) >= rate
    draws: list[int] = []

    def drawn(count: int, given: float) -> Tensor:
        assert given == rate
        draws.append(count)
        return torch.nonzero(~kept.flatten()).flatten()

    monkeypatch.setattr(lora_product, "dropped_entries", drawn)

    def run() -> tuple[Tensor, dict[str, Tensor]]:
        module.zero_grad()
        given = x.clone().requires_grad_(wants_input)
        results = module(given)
        torch.cat(results, dim=-1).square().sum().backward()
        gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        return torch.cat(results, dim=-1).detach(), {**gradients, **({"x": given.grad} if given.grad is not None else {})}

    with fused_lora(module) as groups:
        assert [len(group) for group in groups] == [3]
        ours = run()
    assert draws == [x.numel()]
    for layer in module.layers:
        layer.lora_dropout["default"] = Fixed(kept, rate)
    theirs = run()
    assert ("x" in ours[1]) is wants_input
    assert_near(ours, theirs)


def test_each_input_has_a_draw_and_the_seed_decides_it() -> None:
    model = adapted(rate=0.2)

    def seeded(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return stepped(model)[0]

    with fused_lora(model):
        assert torch.equal(seeded(1), seeded(1))
        assert not torch.equal(seeded(1), seeded(2))


def test_draws_are_shared_by_projections_of_one_input_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(rate=0.2)
    drawn: list[int] = []

    def noting(count: int, rate: float) -> Tensor:
        drawn.append(count)
        return dropped_entries(count, rate)

    monkeypatch.setattr(lora_product, "dropped_entries", noting)
    with fused_lora(model):
        states, _ = stepped(model)
    tokens = states.shape[0] * states.shape[1]
    assert drawn == [tokens * width for width in (32, 32, 32, 48)] * 5


def test_the_way_it_groups_draws_nothing() -> None:
    model = adapted(rate=0.2)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with fused_lora(model):
        assert torch.equal(torch.get_rng_state(), before)


def test_members_called_with_other_inputs_are_computed_on_their_own() -> None:
    torch.manual_seed(0)
    module: Any = layer_of(3, rate=0.0)
    inputs = [torch.randn(2, 12) for _ in range(3)]
    first, second, third = module.layers
    calls: list[Callable[[], Tensor]] = [
        lambda: torch.cat([first(inputs[0]), second(inputs[1]), third(inputs[2])], dim=-1),
        lambda: torch.cat([third(inputs[0]), first(inputs[0]), second(inputs[0]), first(inputs[1])], dim=-1),
        lambda: torch.cat([first(inputs[0]), second(inputs[0].mul_(1.5)), third(inputs[0])], dim=-1),
    ]
    for call in calls:
        theirs = [value.clone() for value in inputs]
        expected = call()
        for value, before in zip(inputs, theirs, strict=True):
            value.copy_(before)
        with fused_lora(module):
            torch.testing.assert_close(call(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: adapted(use_dora=True),
        lambda model: adapted("opt", lora_bias=True),
        lambda model: adapted("gpt2", targets=r".*c_(attn|fc|proj)", fan_in_fan_out=True),
        lambda model: model.requires_grad_(True),
        lambda model: model.double(),
        lambda model: model.to(torch.bfloat16),  # The adapters too.
    ],
)
def test_other_layers_stay_with_peft(change: Callable[[PreTrainedModel], PreTrainedModel]) -> None:
    model = change(adapted())
    with fused_lora(model) as groups:
        assert groups == []


def test_a_hook_within_a_layer_keeps_it_with_peft() -> None:
    model = adapted()
    layers = [module for module in model.modules() if type(module) is LoraLinear]
    layers[0].lora_A["default"].register_forward_hook(lambda module, args, output: None)
    with fused_lora(model) as groups:
        assert sum(map(len, groups)) == len(layers) - 1


def test_evaluation_and_switched_off_adapters_are_left_alone() -> None:
    model = adapted(rate=0.2)
    ids = torch.tensor([[5, 6, 7, 8]])
    layers = [module for module in model.modules() if isinstance(module, LoraLinear)]

    def computed() -> list[Tensor]:
        found = [model.eval()(input_ids=ids)[0]]
        for layer in layers:
            layer.enable_adapters(False)
        found.append(model.train()(input_ids=ids)[0])
        for layer in layers:
            layer.enable_adapters(True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.manual_seed(0)
            found.append(model(input_ids=ids)[0])
        return found

    theirs = computed()
    with fused_lora(model):
        ours = computed()
    assert all(map(torch.equal, ours, theirs))
    assert not any("forward" in vars(layer) for layer in layers)


def test_bf16_is_no_further_from_fp32_than_peft_is() -> None:
    errors: dict[str, list[float]] = {"ours": [], "theirs": []}
    for family in ("llama", "gemma3_text", "opt"):
        exact, rounded = adapted(family), adapted(family, dtype=torch.bfloat16)
        for seed in range(5):
            _, expected = stepped(exact, seed)
            _, theirs = stepped(rounded, seed)
            with fused_lora(rounded) as groups:
                assert groups
                _, ours = stepped(rounded, seed)
            for name, found in (("ours", ours), ("theirs", theirs)):
                assert all(gradient.dtype == torch.float32 for gradient in found.values())
                off = sum(float((found[key] - value).square().sum()) for key, value in expected.items())
                errors[name].append(off / sum(float(value.square().sum()) for value in expected.values()))
    ours, theirs = (math.sqrt(sum(found) / len(found)) for found in (errors["ours"], errors["theirs"]))
    print(f"gradients in bf16, distance from fp32: {ours:.5f}, peft's {theirs:.5f}")
    assert 0 < ours <= 1.02 * theirs


@pytest.mark.parametrize("rate", [1e-4, 0.05, 0.5, 0.95])
def test_entries_are_dropped_independently_and_at_the_rate(rate: float) -> None:
    torch.manual_seed(0)
    rows, width = 400, 500
    dropped = torch.zeros(rows * width)
    places = dropped_entries(rows * width, rate)
    assert bool((places.diff() > 0).all())
    assert int(places[0]) >= 0 and int(places[-1]) < rows * width
    dropped[places] = 1
    table = dropped.view(rows, width)
    sigma = math.sqrt(rate * (1 - rate))
    assert abs(float(table.mean()) - rate) < 5 * sigma / math.sqrt(rows * width)
    # No row and no column has more than its share, and neighbours and rows say nothing about each other.
    for along, size in ((0, rows), (1, width)):
        assert float((table.mean(dim=along) - rate).abs().max()) < 6 * sigma / math.sqrt(size) + 6 / size
    off = (table - rate) / sigma
    for a, b in ((off[:, 1:], off[:, :-1]), (off[1:], off[:-1]), (off[:, 7:], off[:, :-7])):
        assert abs(float((a * b).mean())) < 6 / math.sqrt(rows * width)


def test_short_draws_are_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda self, rate: self.zero_())
    # Every gap is one: far more is dropped than was to be expected.
    assert dropped_entries(1000, 0.05).tolist() == list(range(1000))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_entries(count: int) -> None:
    torch.manual_seed(0)
    drawn = torch.tensor([len(dropped_entries(count, 0.3)) for _ in range(2000)])
    assert float(drawn.float().mean()) == pytest.approx(0.3 * count, abs=0.06)
    assert int(drawn.max()) == count

"""LoRA layers that project one input, computed as one differentiable product in training on a CPU.

peft's layers (arXiv 2106.09685, section 4.1) keep a dropped copy of the input and its mask for each projection, and draw a number
for each entry. Here projections of the same input (queries, keys and values; gate and up) share one draw and one copy, and what
is drawn are the few entries that are dropped. Adapters and their gradients are computed in fp32, as in peft.
"""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@contextmanager
def fused_lora(model: PreTrainedModel) -> Iterator[list[list[LoraLinear]]]:
    """Compute a model's LoRA layers in training as one product for each input while the context is open.

    Only frozen plain linear layers on a CPU with one plain fp32 adapter are; every other layer, and evaluation, stays peft's.

    Yields:
        The layers of each input.
    """
    layers = [module for module in model.modules() if isinstance(module, LoraLinear) and _is_plain(module)]
    groups = _of_one_input(model, layers) if layers else []
    with ExitStack() as stack:
        for group in groups:
            together = _Together(group)
            for place, layer in enumerate(group):
                _replace_forward(stack, layer, partial(together, place, layer.forward))
        yield groups


def _replace_forward(stack: ExitStack, layer: nn.Module, forward: Any) -> None:
    layer.forward = forward
    stack.callback(layer.__dict__.pop, "forward")


def _is_plain(layer: LoraLinear) -> bool:
    """Whether a layer computes what ``_Products`` does: classes derived from these may compute anything."""
    if type(layer) is not LoraLinear or type(layer.base_layer) is not nn.Linear or len(layer.active_adapters) != 1:
        return False
    name = layer.active_adapters[0]
    if name not in layer.lora_A or name in layer.lora_variant:
        return False
    base, down, up, dropout = layer.base_layer, layer.lora_A[name], layer.lora_B[name], layer.lora_dropout[name]
    parts = (base, down, up, dropout)
    return (
        type(down) is type(up) is nn.Linear
        and type(dropout) in (nn.Dropout, nn.Identity)
        and all(part.bias is None for part in (down, up))
        and down.weight.dtype == up.weight.dtype == torch.float32
        and base.weight.dtype in (torch.float32, torch.bfloat16)
        and base.weight.device.type == "cpu"
        and not any(parameter.requires_grad for parameter in base.parameters())
        and not any(getattr(part, hooks) for part in parts for hooks in _HOOKS)
    )


def _of_one_input(model: PreTrainedModel, layers: Sequence[LoraLinear]) -> list[list[LoraLinear]]:
    """Return the layers by the input that they project one after the other, as a forward pass over a few tokens shows."""
    calls: list[tuple[LoraLinear, Tensor]] = []

    def noted(layer: LoraLinear, forward: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append((layer, x))
        return forward(x, *args, **kwargs)

    ids = torch.arange(3, device=model.device)[None]
    with ExitStack() as stack, torch.no_grad(), torch.random.fork_rng():
        for layer in layers:
            _replace_forward(stack, layer, partial(noted, layer, layer.forward))
        try:
            model(input_ids=ids, use_cache=False)
        except Exception:  # A model may bring code of its own; whatever is wrong with it shows when it is trained.
            calls.clear()
    times = Counter(layer for layer, _ in calls)
    groups: list[list[LoraLinear]] = []
    before: Tensor | None = None
    for layer, x in calls:
        if times[layer] > 1:
            before = None
        elif x is before and _rate(layer) == _rate(groups[-1][0]):
            groups[-1].append(layer)
        else:
            groups.append([layer])
            before = x
    alone = [[layer] for layer in layers if times[layer] != 1]
    return groups + alone


def _rate(layer: LoraLinear) -> float:
    return float(getattr(layer.lora_dropout[layer.active_adapters[0]], "p", 0.0))


class _Together:
    """The forward methods of layers that project one input: the first one called computes for those after it too."""

    def __init__(self, layers: Sequence[LoraLinear]) -> None:
        self._layers = layers
        self._input: weakref.ref[Tensor] | None = None
        self._version = 0
        self._made: dict[int, Tensor] = {}

    def __call__(self, place: int, plain: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        layer = self._layers[place]
        if args or kwargs or not layer.training or layer.disable_adapters or layer.merged or torch.is_autocast_enabled("cpu"):
            found: Tensor = plain(x, *args, **kwargs)
            return found
        if place not in self._made or self._input is None or self._input() is not x or self._version != x._version:
            layers, weights = self._layers[place:], list[Any]()
            rate = _rate(layers[0])
            for one in layers:
                name = one.active_adapters[0]
                weights += [one.base_layer.weight, one.base_layer.bias, one.lora_A[name].weight, one.lora_B[name].weight]
            scales = [one.scaling[one.active_adapters[0]] / (1 - rate) for one in layers]
            dropped = dropped_entries(x.numel(), rate) if rate else None
            made: tuple[Tensor, ...] = _Products.apply(x, dropped, scales, *weights)  # type: ignore[no-untyped-call]
            self._made = dict(enumerate(made, start=place))
            self._input, self._version = weakref.ref(x), x._version
        return self._made.pop(place)


def dropped_entries(count: int, rate: float) -> Int[Tensor, " dropped"]:
    """Draw which of ``count`` entries are dropped, each with probability ``rate`` (below 1) and independently; int64, in order.

    The number of entries from one dropped entry to the next is geometric, which is what an exponential number of rate
    -log(1 - rate) is when it is rounded up: so few numbers are drawn where few are dropped, from torch's global generator.
    """
    found: list[Tensor] = []
    last = -1
    while last < count:
        expected = (count - last) * rate
        gaps = torch.empty(int(expected + 6 * math.sqrt(expected) + 16)).exponential_(-math.log1p(-rate)).long().add_(1)
        gaps[0] += last
        found.append(gaps.cumsum(0))
        last = int(found[-1][-1])
    places = torch.cat(found) if len(found) > 1 else found[0]
    return places[: int(torch.searchsorted(places, count))]


def _zeroed(x: Tensor, dropped: Tensor | None) -> Tensor:
    """Put zeros where an entry is dropped."""
    if dropped is not None:
        x.view(-1).index_fill_(0, dropped, 0.0)
    return x


class _Products(torch.autograd.Function):
    """``x W^T + bias + scale (x' A^T) B^T`` for each layer; ``x'`` is ``x`` with zeros for what is dropped; W is frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "*token input"], dropped: Tensor | None, scales: list[float], *weights: Any
    ) -> tuple[Float[Tensor, "*token output"], ...]:
        """Take of each layer the weight, the bias or None, and the adapter's two matrices, (rank, input) and (output, rank)."""
        bases, biases, downs, ups = weights[::4], weights[1::4], weights[2::4], weights[3::4]
        rows = x.flatten(0, -2)
        if dropped is None:
            kept = rows.float()
        else:
            kept = _zeroed(rows.to(torch.float32, copy=True, memory_format=torch.contiguous_format), dropped)
        inner = kept @ torch.cat(downs).t()
        results = []
        parts = inner.split([down.shape[0] for down in downs], dim=1)
        for base, bias, up, scale, part in zip(bases, biases, ups, scales, parts, strict=True):
            result = nn.functional.linear(rows, base, bias)
            if result.dtype == up.dtype:
                result.addmm_(part, up.t(), alpha=scale)
            else:
                result = torch.addmm(result.to(up.dtype), part, up.t(), alpha=scale).to(result.dtype)
            results.append(result.view(*x.shape[:-1], -1))
        # Nothing else needs the input once more, so it is kept as the adapters saw it.
        ctx.save_for_backward(kept, inner, dropped, *bases, *downs, *ups)
        ctx.scales = scales
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Return the gradients of the input and of the adapters."""
        kept, inner, dropped, *weights = ctx.saved_tensors
        many = len(gradients)
        bases, downs, ups = weights[:many], weights[many : 2 * many], weights[2 * many :]
        parts = inner.split([down.shape[0] for down in downs], dim=1)
        by_inner = torch.empty_like(inner)
        for_x = None
        for_weights: list[Tensor | None] = []
        places = by_inner.split([down.shape[0] for down in downs], dim=1)
        for gradient, base, up, scale, part, place in zip(gradients, bases, ups, ctx.scales, parts, places, strict=True):
            rows = gradient.flatten(0, -2)
            exact = rows.to(up.dtype)
            place.copy_(exact @ up).mul_(scale)
            for_weights += [None, None, None, (exact.t() @ part).mul_(scale)]
            if ctx.needs_input_grad[0]:
                for_x = rows @ base if for_x is None else for_x.addmm_(rows, base)
        for_weights[2::4] = (by_inner.t() @ kept).split([down.shape[0] for down in downs])
        if for_x is not None:
            for_x = for_x.add_(_zeroed(by_inner @ torch.cat(downs), dropped)).view(*gradients[0].shape[:-1], -1)
        return for_x, None, None, *for_weights

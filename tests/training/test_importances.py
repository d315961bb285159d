"""Every registered neuron importance keeps the contract; each of ours is what it says, by hand in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from prune2vec.data.triplet import Triplet
from prune2vec.registry import Registry
from prune2vec.training.importance_context import ImportanceContext
from prune2vec.training.neuron_importance import TEXTS, ImportanceFn, Importances, importances
from prune2vec.training.slim_settings import SlimSettings
from tests.tiny import FAMILIES
from tests.training.contexts import QUICK, tiny_context
from tests.training.encoders import rows

FEW: dict[str, Any] = {**QUICK, "steps": 2}


def small(**changes: Any) -> SlimSettings:
    return SlimSettings(**{**FEW, **changes})


@pytest.mark.parametrize("name", importances.names())
@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "opt", "gemma2", "bert", "modernbert"])
def test_importance(tmp_path: Path, name: str, family: str) -> None:
    context = tiny_context(tmp_path, family, **FEW)
    before = {key: tensor.clone() for key, tensor in context.encoder.transformers_model.state_dict().items()}
    scores = importances.get(name)(context, rows(24), small())
    assert list(scores) == [0, 1, 4], "the MLPs that stay, by original layer"
    for layer, score in scores.items():
        assert score.dtype == torch.float32
        assert score.device.type == "cpu"
        assert score.shape == (context.width(layer),)
        assert torch.isfinite(score).all()
        assert score.unique().numel() > 1
    after = context.encoder.transformers_model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in {*before, *after}), "the model is as it was"
    assert not any(parameter.requires_grad for parameter in context.encoder.transformers_model.parameters())
    fresh = tiny_context(tmp_path, family, **FEW, output=tmp_path / "again.json")
    again = importances.get(name)(fresh, rows(24), small())
    assert all(torch.equal(scores[layer], again[layer]) for layer in scores), "the same seed gives the same scores"


def test_every_importance_is_documented() -> None:
    assert {"activation", "gates", "magnitude", "taylor", "wanda"} <= set(importances.names())
    assert all(importances.get(name).__doc__ for name in importances)


def test_a_new_file_is_a_new_importance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "more_importances"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from prune2vec.registry import Registry\nfound = Registry('neuron importance', package=__name__)\n"
    )
    (package / "mine.py").write_text(
        "from more_importances import found\n\n@found.register('mine')\ndef mine(context, triplets, settings):\n    return {}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import more_importances  # type: ignore[import-not-found]

    registry: Registry[ImportanceFn] = more_importances.found
    assert registry.names() == ("mine",)


def test_an_importance_says_what_it_reads() -> None:
    registry = Importances()
    registry._loaded = True

    @registry.register("careless")
    def careless(*args: object) -> None: ...

    registry.register("by-weights", reads=())(careless)
    assert registry.reads("careless") == {"texts", "batches", "loss", "steps"}, "unsaid, its scores depend on everything"
    assert registry.reads("by-weights") == frozenset()
    assert {name for name in importances if TEXTS not in importances.reads(name)} == {"magnitude"}


@pytest.mark.parametrize("family", FAMILIES)
def test_magnitude_by_hand(tmp_path: Path, family: str) -> None:
    context = tiny_context(tmp_path, family)
    scores = importances.get("magnitude")(context, [], small())
    for layer, block in context.blocks.items():
        width = context.width(layer)
        into = [matrix(block.get_submodule(path)) for path in context.neurons.into]
        if context.neurons.halves:
            into = [into[0][:width], into[0][width:]]
        out = matrix(block.get_submodule(context.neurons.out))
        for neuron in (0, 17, width - 1):
            expected = out[:, neuron].square().sum().sqrt()
            for one in into:
                expected = expected * one[neuron].square().sum().sqrt()
            assert scores[layer][neuron].item() == pytest.approx(expected.item(), rel=1e-5)


def matrix(module: Any) -> Tensor:
    """A layer's weights as (output, input) in float64, told apart by what the layer does to a unit vector."""
    inputs = module.in_features if hasattr(module, "in_features") else module.weight.shape[0]
    with torch.no_grad():
        bias = module(torch.zeros(1, inputs))
        return (module(torch.eye(inputs)) - bias).T.double()


@contextmanager
def recorded(context: ImportanceContext) -> Iterator[dict[int, list[Tensor]]]:
    """Keep what enters the layers that lead out of the MLPs, with its gradient."""
    seen: dict[int, list[Tensor]] = {layer: [] for layer in context.blocks}

    def keep(layer: int) -> Callable[..., None]:
        def hook(module: object, args: tuple[Tensor, ...]) -> None:
            if args[0].requires_grad:
                args[0].retain_grad()
            seen[layer].append(args[0])

        return hook

    handles = [out.register_forward_pre_hook(keep(layer)) for layer, out in context.outs()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def texts_one_by_one(context: ImportanceContext, triplets: list[Triplet]) -> dict[int, Tensor]:
    """Activations of all tokens in float64, (token, neuron), each text in a pass of its own: no padding."""
    with recorded(context) as seen, torch.no_grad():
        for row in triplets:
            for text in (row.anchor, row.positive, row.negatives[0]):
                context.encoder(dict(context.encoder.preprocess([text])))
    return {layer: torch.cat([one.flatten(end_dim=-2) for one in found]).double() for layer, found in seen.items()}


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "opt", "bert", "modernbert"])
def test_activation_and_wanda_by_hand(tmp_path: Path, family: str) -> None:
    context = tiny_context(tmp_path, family)
    found = texts_one_by_one(context, rows(24))  # Three batches of eight are all rows, in whatever order.
    mean = importances.get("activation")(context, rows(24), small())
    assert context.notes["tokens"] == len(found[0])
    sums = importances.get("wanda")(context, rows(24), small())
    for layer, block in context.blocks.items():
        torch.testing.assert_close(mean[layer].double(), found[layer].abs().mean(dim=0), rtol=1e-4, atol=1e-6)
        weights = matrix(block.get_submodule(context.neurons.out)).abs()
        norms = found[layer].square().sum(dim=0).sqrt()
        torch.testing.assert_close(sums[layer].double(), (weights * norms).sum(dim=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "opt", "bert", "modernbert"])
def test_taylor_is_weight_times_gradient_and_activation_times_gradient(tmp_path: Path, family: str) -> None:
    context = tiny_context(tmp_path, family)
    data = rows(8)  # One batch, so that its order does not matter.
    scores = importances.get("taylor")(context, data, small(batches=1))
    context.encoder.requires_grad_(True)
    columns = [[row.anchor for row in data], [row.positive for row in data], [row.negatives[0] for row in data]]
    with recorded(context) as seen:
        q, p, n = (context.encoder(dict(context.encoder.preprocess(one)))["sentence_embedding"] for one in columns)
        logits = 50 * normalize(q) @ normalize(torch.cat([p, n])).T
        cross_entropy(logits, torch.arange(8)).backward()
    for layer, out in context.outs():
        weight = out.get_parameter("weight")
        assert weight.grad is not None
        group = (weight * weight.grad).sum(dim=1 if weight.shape[0] == context.width(layer) else 0)
        flow = sum((one * one.grad).flatten(end_dim=-2).sum(dim=0) for one in seen[layer])
        assert isinstance(flow, Tensor)
        scale = scores[layer].max().item()
        torch.testing.assert_close(scores[layer], group.abs(), rtol=1e-3, atol=1e-4 * scale)
        torch.testing.assert_close(scores[layer], flow.abs(), rtol=1e-3, atol=1e-4 * scale)


def test_gates_move_in_a_bf16_model(tmp_path: Path) -> None:
    context = tiny_context(tmp_path, dtype="bfloat16", steps=6)
    scores = importances.get("gates")(context, rows(24), small(dtype="bfloat16", steps=6, warmup_steps=0, learning_rate=0.01))
    moved = torch.cat([(score - 1).abs() for score in scores.values()])
    # Six AdamW steps of 1e-2 that mostly agree; none could leave 1 in bf16 steps of less than 0.004.
    assert moved.median() > 0.01
    assert {
        tensor.dtype for tensor in context.encoder.transformers_model.state_dict().values() if tensor.is_floating_point()
    } == {torch.bfloat16}


def test_sizes_that_differ_from_layer_to_layer_are_compared_within_layers() -> None:
    scores = {0: torch.tensor([100.0, 300.0]), 3: torch.tensor([0.1, 0.3]), 4: torch.zeros(2)}
    for name in ("activation", "magnitude", "wanda"):
        found = importances.comparable(name, scores)
        assert [found[layer].tolist() for layer in scores] == [[0.5, 1.5], pytest.approx([0.5, 1.5]), [0.0, 0.0]]
    # These are in units of the loss, or learnt against each other.
    assert importances.comparable("gates", scores) is scores
    assert importances.comparable("taylor", scores) is scores

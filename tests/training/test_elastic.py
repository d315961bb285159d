"""Training at several depths of one pass: its gradient is the sum of the cuts' gradients, and each depth is such a cut."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from prune2vec.errors import ConfigError
from prune2vec.models.cut import cut_model
from prune2vec.models.families import block_list, find_family
from prune2vec.models.selftest import random_ids
from prune2vec.pruning.encoder import load_encoder
from prune2vec.pruning.prune import prune_model
from prune2vec.training.adapters import base_model
from prune2vec.training.elastic import ElasticLoss, elastic_depths, states_at
from prune2vec.training.objective import TeacherDistance, build_loss
from prune2vec.training.packed_loss import without_padding
from prune2vec.training.train import train_encoder
from prune2vec.training.train_settings import TrainSettings
from tests.tiny import FAMILIES, tiny_model
from tests.tiny_encoders import TINY_ENCODERS
from tests.training.encoders import save_tiny_encoder
from tests.training.test_packed_loss import LONG, NO_DROPOUT, assert_equal_steps, columns, count_tokens, made, stepped, texts
from tests.training.test_train import DATA, QUICK, StopAt, assert_same_run, curve

DEPTHS = (1, 3, 5)
OFF: dict[str, Any] = {
    **NO_DROPOUT,
    "gpt2": {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0},
    "opt": {"dropout": 0, "word_embed_proj_dim": 16},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_states_of_several_depths_are_those_of_the_cuts(family: str) -> None:
    model = tiny_model(family)
    ids = random_ids(model)
    with torch.no_grad():
        before = model(input_ids=ids, use_cache=False)[0]
        expected = [cut_model(model, range(depth))(input_ids=ids, use_cache=False)[0] for depth in DEPTHS]
        with states_at(model, DEPTHS):
            called, method = model(input_ids=ids, use_cache=False), model.forward(input_ids=ids, use_cache=False)
        for found in (called[0], called.last_hidden_state, method["last_hidden_state"]):
            parts = found.chunk(len(DEPTHS), dim=-1)
            assert all(torch.equal(part, states) for part, states in zip(parts, expected, strict=True))
        assert torch.equal(model(input_ids=ids, use_cache=False)[0], before)
    assert "forward" not in vars(model) and not any(module._forward_hooks for module in model.modules())


@contextmanager
def cut_to(encoder: SentenceTransformer, depth: int) -> Iterator[None]:
    """Take the blocks behind the first ``depth`` out of an encoder's model, as its class would have been built."""
    model = base_model(encoder)
    family = find_family(model, model.config)
    parent, _, leaf = family.blocks.rpartition(".")
    owner, whole, count = model.get_submodule(parent), block_list(model, family), model.config.num_hidden_layers
    setattr(owner, leaf, nn.ModuleList(list(whole)[:depth]))
    model.config.num_hidden_layers = depth
    try:
        yield
    finally:
        setattr(owner, leaf, whole)
        model.config.num_hidden_layers = count


def apart(
    encoder: SentenceTransformer,
    loss: nn.Module,
    inputs: list[dict[str, Any]],
    labels: Tensor | None = None,
    depths: Sequence[int] = DEPTHS,
) -> Any:
    """Return the sum of the losses of the cuts, each computed alone on what is left of the encoder, and of their gradients."""
    encoder.zero_grad()
    sum_of_losses = 0.0
    for depth in depths:
        with cut_to(encoder, depth):
            found = loss([dict(column) for column in inputs], labels)
            total = sum(found.values()) if isinstance(found, dict) else found
            total.backward()
            sum_of_losses += total.item()
    return sum_of_losses, {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


def elastic(encoder: SentenceTransformer, settings: TrainSettings, teacher: Any = None) -> ElasticLoss:
    return ElasticLoss(encoder, build_loss(encoder, settings, teacher), DEPTHS, settings)


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama of five layers."""
    return save_tiny_encoder(tmp_path_factory.mktemp("five") / "encoder", layers=5)


FAMILIES = ("llama", "qwen3", "gemma3_text", "gemma3_text+bidirectional", "gpt2", "opt", "mpnet", "bert", "modernbert")


@pytest.mark.parametrize("packing", ["auto", "off"])
@pytest.mark.parametrize(
    ("family", "method"),
    [*((family, "lora") for family in FAMILIES), *((family, "full") for family in ("llama", "gpt2", "bert"))],
)
def test_the_gradient_is_the_sum_of_the_cuts_gradients(tmp_path: Path, family: str, packing: Any, method: str) -> None:
    encoder = made(save_tiny_encoder(tmp_path / "encoder", family, layers=5, **OFF.get(family, {})), method=method)
    settings = TrainSettings(scale=20)
    inputs = columns(encoder, prompt="query:")
    theirs = apart(encoder, build_loss(encoder, settings), inputs)
    with without_padding(elastic(encoder, settings), encoder, packing, max_length=LONG) as (loss, decided):
        assert decided["packed"] is (packing == "auto" and family != "mpnet")
        assert_equal_steps(stepped(encoder, loss, inputs), theirs)


KINDS: dict[str, dict[str, Any]] = {
    "matryoshka": {"matryoshka_dims": (8, 16)},
    "vectors": {"teacher": "t"},
    "similarities": {"teacher": "t", "distil": "similarities"},
    "scores": {"teacher": "t", "distil": "scores"},
    "data": {"distil": "data"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packing", ["on", "off"])
def test_every_objective(five: Path, kind: str, packing: Any) -> None:
    encoder, settings = made(five), TrainSettings(scale=20, depths=DEPTHS, **KINDS[kind])
    # Of another dimension than the student's: all depths share the projection.
    teacher = np.random.default_rng(0).normal(size=(18, 20)).astype(np.float32) if settings.teacher else None
    labels = torch.linspace(-1, 2, 12).reshape(6, 2) if kind == "data" else torch.arange(18).reshape(6, 3)
    inputs = columns(encoder)
    theirs = apart(encoder, build_loss(encoder, settings, teacher), inputs, labels)
    with without_padding(elastic(encoder, settings, teacher), encoder, packing, max_length=LONG) as (loss, _):
        assert_equal_steps(stepped(encoder, loss, inputs, labels), theirs)


def test_plain_texts(five: Path) -> None:
    encoder, settings = made(five), TrainSettings(teacher="t", depths=DEPTHS)
    teacher = np.random.default_rng(0).normal(size=(12, 32)).astype(np.float32)
    inputs, labels = [dict(encoder.preprocess(texts(12, 1)))], torch.arange(12)[:, None]
    theirs = apart(encoder, build_loss(encoder, settings, teacher), inputs, labels)
    with without_padding(elastic(encoder, settings, teacher), encoder, "on", max_length=LONG) as (loss, _):
        assert_equal_steps(stepped(encoder, loss, inputs, labels), theirs)


@pytest.mark.parametrize("kind", ["embeddinggemma", "dot", "residual", "shortened"])
def test_heads_read_out_each_depth(tmp_path: Path, kind: str) -> None:
    encoder = load_encoder(TINY_ENCODERS[kind].save(tmp_path / "encoder"), device="cpu", dtype="float32")
    settings, inputs = TrainSettings(scale=20), columns(encoder)
    theirs = apart(encoder, build_loss(encoder, settings), inputs)
    with without_padding(elastic(encoder, settings), encoder, "auto", max_length=LONG) as (loss, _):
        assert_equal_steps(stepped(encoder, loss, inputs), theirs)


def test_one_pass_over_the_distinct_texts_is_enough(five: Path) -> None:
    encoder = made(five)
    inputs = columns(encoder)
    distinct = {
        tuple(ids[mask.bool()].tolist())
        for column in inputs
        for ids, mask in zip(column["input_ids"], column["attention_mask"], strict=True)
    }
    packed = without_padding(elastic(encoder, TrainSettings()), encoder, "on", max_length=LONG)
    with packed as (loss, _), count_tokens(encoder) as counts:
        stepped(encoder, loss, inputs)
    assert counts == [sum(map(len, distinct))]
    passes = 0

    def count(*args: Any) -> None:
        nonlocal passes
        passes += 1

    base_model(encoder).layers[0].register_forward_hook(count)
    stepped(encoder, elastic(encoder, TrainSettings()), inputs)
    assert passes == len(inputs)


@pytest.mark.parametrize("packing", ["on", "off"])
def test_with_recomputed_activations(five: Path, packing: Any) -> None:
    encoder, settings = made(five, method="full"), TrainSettings(scale=20)
    inputs = columns(encoder)
    theirs = apart(encoder, build_loss(encoder, settings), inputs)
    encoder.transformers_model.activation_checkpointing_enable({"use_reentrant": False})
    with without_padding(elastic(encoder, settings), encoder, packing, max_length=LONG) as (loss, _):
        assert_equal_steps(stepped(encoder, loss, inputs), theirs)


def test_weights(five: Path) -> None:
    encoder, weights = made(five), (0.25, 2.0, 3.0)
    inputs, plain = columns(encoder), build_loss(encoder, TrainSettings())
    each = [apart(encoder, plain, inputs, depths=[depth]) for depth in DEPTHS]
    expected: dict[str, Tensor] = {}
    for weight, (_, gradients) in zip(weights, each, strict=True):
        for name, gradient in gradients.items():
            expected[name] = expected.get(name, 0) + weight * gradient
    ours = stepped(encoder, elastic(encoder, TrainSettings(depths=DEPTHS, depth_weights=weights)), inputs)
    assert_equal_steps(ours, (sum(w * value for w, (value, _) in zip(weights, each, strict=True)), expected))


@pytest.mark.parametrize("distil", ["vectors", "similarities", "scores"])
def test_the_deepest_teaches_the_others(five: Path, distil: Any) -> None:
    encoder = made(five)
    settings = TrainSettings(scale=20, depths=DEPTHS, deepest_teaches=True, distil=distil, distil_weight=0.7)
    inputs, plain = columns(encoder), build_loss(encoder, settings)
    with torch.no_grad():
        theirs = [encoder(dict(column))["sentence_embedding"] for column in inputs]
    distance = TeacherDistance(encoder, settings, width=32)

    def taught(given: list[dict[str, Any]], labels: Any) -> Tensor:
        ours = [encoder(dict(column))["sentence_embedding"] for column in given]
        found: Tensor = plain(given, labels)
        return found + 0.7 * distance(ours, theirs, labels)

    shallow: Any = taught
    first = apart(encoder, shallow, inputs, depths=DEPTHS[:-1])
    last = apart(encoder, plain, inputs, depths=DEPTHS[-1:])
    expected = {name: gradient + first[1].get(name, 0) for name, gradient in last[1].items()}
    assert_equal_steps(stepped(encoder, elastic(encoder, settings), inputs), (first[0] + last[0], expected))


def test_the_deepest_teaches_an_encoder_whose_vectors_are_cut(five: Path) -> None:
    losses = []
    for cut in (None, 16):
        encoder = made(five)
        encoder.truncate_dim = cut
        losses.append(elastic(encoder, TrainSettings(depths=DEPTHS, deepest_teaches=True))(columns(encoder), None))
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])


def test_some_depths_are_drawn_for_a_step_and_the_deepest_always(five: Path) -> None:
    encoder = made(five)
    loss, inputs = elastic(encoder, TrainSettings(depths=DEPTHS, depths_per_step=2)), columns(encoder)
    whole = elastic(encoder, TrainSettings(depths=DEPTHS))(inputs, None)
    torch.manual_seed(0)
    seen = set()
    for _ in range(12):
        parts = loss(inputs, None)
        shallow, deepest = parts
        seen.add(shallow)
        assert deepest == "depth_5"
        assert all(parts[name].item() == pytest.approx(whole[name].item(), rel=1e-5) for name in parts)
    assert seen == {"depth_1", "depth_3"}
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        TrainSettings(depths=DEPTHS, depths_per_step=1)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_resuming_equals_not_stopping(five: Path, tmp_path: Path, method: str) -> None:
    settings = {**QUICK, "steps": 8, "method": method, "depths": DEPTHS, "depths_per_step": 2, "learning_rate": 1e-3}
    train_encoder(five, DATA, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        train_encoder(five, DATA, tmp_path / "encoder", callbacks=[StopAt(6)], **settings)
    assert train_encoder(five, DATA, tmp_path / "encoder", **settings).resumed_from == 4
    assert_same_run(tmp_path / "whole", tmp_path / "encoder")
    lines = [{name: value for name, value in line.items() if name.startswith("depth_")} for line in curve(tmp_path / "whole")]
    assert lines == [{name: line[name] for name in line if name.startswith("depth_")} for line in curve(tmp_path / "encoder")]
    assert all(len(line) == 2 and "depth_5" in line for line in lines)
    assert {name for line in lines for name in line} == {"depth_1", "depth_3", "depth_5"}


@pytest.mark.parametrize("method", ["lora", "full"])
def test_mixed_precision_is_that_of_a_run_at_one_depth(five: Path, tmp_path: Path, method: str) -> None:
    settings = {**QUICK, "steps": 2, "method": method, "dtype": "bfloat16", "lora_dropout": 0}
    train_encoder(five, DATA, tmp_path / "elastic", **settings, depths=(2,))
    train_encoder(five, DATA, tmp_path / "whole", **settings)
    train_encoder(prune_model(five, 2, tmp_path / "two"), DATA, tmp_path / "cut", **settings)
    parts, whole, cut = (curve(tmp_path / name)[0] for name in ("elastic", "whole", "cut"))
    assert (parts["depth_2"], parts["depth_5"]) == pytest.approx((cut["loss"], whole["loss"]), abs=2e-4)


def read_at(encoder: SentenceTransformer, depth: int, some: list[str]) -> np.ndarray:
    """Return the vectors of an elastic encoder read out at a depth, its later blocks computed and not looked at."""
    with states_at(base_model(encoder), [depth]):
        return encoder.encode(some, show_progress_bar=False)


SOME = ["quick brown fox", "the lazy dog " * 9, "a", "in 2024, 365 days"]


@pytest.mark.parametrize(
    "make",
    [
        *[
            lambda path, one=family: save_tiny_encoder(path, one, layers=5)
            for family in ("llama", "gemma3_text", "qwen2", "bert")
        ],
        *[lambda path, one=kind: TINY_ENCODERS[one].save(path) for kind in ("embeddinggemma", "shortened")],
    ],
    ids=["llama", "gemma3", "qwen2", "bert", "embeddinggemma", "shortened"],
)
def test_a_trained_depth_comes_out_as_it_was_trained_exactly(tmp_path: Path, make: Any) -> None:
    out = tmp_path / "elastic"
    train_encoder(make(tmp_path / "base"), DATA, out, **{**QUICK, "steps": 2}, depths=(2, 4))
    record = json.loads((out / "prune2vec.json").read_text())["train"]
    assert record["depths"] == [2, 4, 5]
    card = (out / "README.md").read_text()
    assert "Elastic: trained at depths 2, 4 and 5 of 5 at once." in card and "prune path/to/this/folder 2" in card
    whole = SentenceTransformer(str(out), device="cpu")
    for depth in (2, 4, 5):
        cut = SentenceTransformer(str(prune_model(out, depth, tmp_path / f"cut-{depth}")), device="cpu")
        assert len(block_list(base_model(cut), find_family(base_model(cut), base_model(cut).config))) == depth
        assert np.array_equal(cut.encode(SOME, show_progress_bar=False), read_at(whole, depth, SOME))
        assert cut.prompts == whole.prompts
        assert "the encoder was trained at depths 2, 4, 5\n" in (tmp_path / f"cut-{depth}" / "README.md").read_text()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"depths": (3, 1)}, "depths must ascend without repeats, got 3,1"),
        ({"depths": (3, 3)}, "depths must ascend without repeats, got 3,3"),
        ({"depths": (1,), "cached": True}, "depths works with neither cached nor train_top; drop cached"),
        ({"depths": (1,), "train_top": 1}, "depths works with neither cached nor train_top; drop train_top"),
        ({"depths": (6,)}, "depths: 6 is more than the encoder's 5 layers"),
        ({"depths": (5,)}, "depths: 5 are all of the encoder's layers, which are always trained; give shallower ones"),
        ({"depths": (2,), "depth_weights": (1.0,)}, "depth_weights has 1 values for the 2 depths 2,5"),
        ({"depths": (2,), "depths_per_step": 3}, "depths_per_step 3 is more than the 2 depths"),
        ({"depths_per_step": 3}, "depths_per_step is for training at several depths; give depths too"),
        ({"deepest_teaches": True}, "deepest_teaches is for training at several depths"),
        ({"depths": (2,), "deepest_teaches": True, "teacher": "x"}, "deepest_teaches and teacher exclude each other"),
        ({"depths": (2,), "deepest_teaches": True, "distil": "none"}, "deepest_teaches needs distil vectors"),
        (
            {"depths": (2,), "deepest_teaches": True, "distil": "scores", "hard_negatives": 0},
            "distil 'scores' compares a row's documents",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_before_training(
    five: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        train_encoder(five, DATA, tmp_path / "out", **{**QUICK, **values})
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_final_loss_is_the_whole_encoders_own(five: Path, tmp_path: Path) -> None:
    settings = {**QUICK, "steps": 3, "depths": (2,)}
    weighted = train_encoder(five, DATA, tmp_path / "weighted", **settings, depth_weights=(1.0, 4.0))
    lines = curve(tmp_path / "weighted")
    assert weighted.final_loss == pytest.approx(sum(line["depth_5"] / 4 for line in lines) / 3)
    assert lines[0]["loss"] == pytest.approx(lines[0]["depth_2"] + lines[0]["depth_5"], abs=1e-3)
    plain = train_encoder(five, DATA, tmp_path / "plain", **{**QUICK, "steps": 1})
    both = train_encoder(five, DATA, tmp_path / "both", **{**settings, "steps": 1})
    assert both.final_loss == pytest.approx(plain.final_loss, abs=1e-3), "before the first update it is the loss of any run"


def test_without_depths_a_run_is_what_it_was(five: Path) -> None:
    encoder = load_encoder(five, device="cpu", dtype="float32")
    assert elastic_depths(encoder, TrainSettings()) == ()
    assert not [name for name in TrainSettings().identity() if "dep" in name or "deepest" in name]
    assert {"depths", "depth_weights", "depths_per_step", "deepest_teaches"} <= TrainSettings(depths=(1,)).identity().keys()

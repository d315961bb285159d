"""Encoders given as the model are taken over whole: every depth is measured and built as plain sentence-transformers reads it out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from prune2vec.errors import CheckpointError, PlanError, UnsupportedModel
from prune2vec.planning.plan import PruningPlan
from prune2vec.planning.planner import make_plan
from prune2vec.profiling.measure import profile_model
from prune2vec.profiling.profile import Profile
from prune2vec.pruning.encoder import load_encoder
from prune2vec.pruning.prune import prune_model
from tests.pruning.test_measured_is_built import ROWS, loss_of
from tests.tiny_encoders import NORMALIZE, TINY_ENCODERS, dense

TEXTS = [
    "a",
    "What IS the quick brown fox?  ",
    "in 2024, 365 days",
    "naïve café — ¿qué? 東京 🦊",
    "def add(a, b):\n    return a + b\n",
    "the reader has seen 12 rows " * 40,
]


def measured(model: Path, **settings: Any) -> Profile:
    return profile_model(
        str(model), ROWS, groups=1, group_size=len(ROWS), sampling="file", dtype="float32", device="cpu", **settings
    )


def cut(model: Path, profile: Profile, folder: Path, depth: int = 5, **settings: Any) -> SentenceTransformer:
    """Prune to a depth by a plan that went through its file."""
    make_plan(profile, method="depth", depth=depth).save(folder.with_suffix(".json"))
    prune_model(str(model), folder.with_suffix(".json"), folder, **settings)
    return SentenceTransformer(str(folder), device="cpu")


def all_vectors(encoder: SentenceTransformer) -> dict[str, np.ndarray]:
    """Return the vectors of the texts by every way in which sentence-transformers encodes, one text and all texts at a time."""
    ways: dict[str, Any] = {"encode": encoder.encode, "query": encoder.encode_query, "document": encoder.encode_document}
    found = {name: way(TEXTS, show_progress_bar=False) for name, way in ways.items()}
    for name in encoder.prompts:
        found[f"prompt {name}"] = encoder.encode(TEXTS, prompt_name=name, show_progress_bar=False)
    return found


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], *, atol: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, vectors in expected.items():
        assert found[name].shape == vectors.shape
        np.testing.assert_allclose(found[name], vectors, atol=atol * max(1.0, np.abs(vectors).max()), rtol=0, err_msg=name)


@pytest.mark.parametrize("kind", TINY_ENCODERS)
def test_an_uncut_encoder_comes_out_as_it_went_in(tmp_path: Path, kind: str) -> None:
    model = TINY_ENCODERS[kind].save(tmp_path / "m")
    original = SentenceTransformer(str(model), device="cpu")
    encoder = cut(model, measured(model), tmp_path / "out")
    assert_same(all_vectors(encoder), all_vectors(original))
    about = ("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim", "max_seq_length")
    assert {name: getattr(encoder, name) for name in about} == {name: getattr(original, name) for name in about}
    assert encoder[1].include_prompt == original[1].include_prompt
    for place, (head, was) in enumerate(zip(list(encoder)[2:], list(original)[2:], strict=True), start=2):
        assert head.get_config_dict() == was.get_config_dict()
        file = f"{place}_{type(head).__name__}/model.safetensors"
        if was.state_dict():
            written, source = load_file(tmp_path / "out" / file), load_file(model / file)
            assert {name: tensor.dtype for name, tensor in written.items()} == {n: t.dtype for n, t in source.items()}
            assert all(torch.equal(tensor, source[name]) for name, tensor in written.items())


@pytest.mark.parametrize("kind", TINY_ENCODERS)
def test_what_came_out_goes_in_again(tmp_path: Path, kind: str) -> None:
    model = TINY_ENCODERS[kind].save(tmp_path / "m")
    once = cut(model, measured(model), tmp_path / "once", depth=3)
    again = cut(tmp_path / "once", measured(tmp_path / "once"), tmp_path / "again", depth=3)
    assert_same(all_vectors(again), all_vectors(once))


@pytest.mark.parametrize("stream", ["off", "on"])
@pytest.mark.parametrize("kind", TINY_ENCODERS)
def test_every_depth_is_measured_as_the_cut_reads_out(tmp_path: Path, kind: str, stream: str) -> None:
    model = TINY_ENCODERS[kind].save(tmp_path / "m")
    profile = measured(model, stream=stream)
    assert profile.layer_loss.loss[-1] == pytest.approx(loss_of(SentenceTransformer(str(model), device="cpu")), abs=1e-4)
    for depth in range(1, 5) if stream == "off" else (2,):
        encoder = cut(model, profile, tmp_path / f"cut-{depth}", depth)
        assert loss_of(encoder) == pytest.approx(profile.layer_loss.loss[depth - 1], abs=1e-4)


def test_the_settings_go_through_the_files(tmp_path: Path) -> None:
    model = TINY_ENCODERS["shortened"].save(tmp_path / "m")
    profile = measured(model)
    profile.save(tmp_path / "profile.json")
    assert Profile.load(tmp_path / "profile.json") == profile
    assert [head.kind for head in profile.text.heads] == ["Normalize", "Dense"]
    cut(model, profile, tmp_path / "out")
    assert PruningPlan.load(tmp_path / "out" / "plan.json").text == profile.text
    assert json.loads((tmp_path / "out" / "prune2vec.json").read_text())["text"] == profile.text.model_dump(mode="json")


def test_records_of_language_models_say_nothing_of_encoders(tmp_path: Path) -> None:
    model = TINY_ENCODERS["embeddinggemma"].save(tmp_path / "m")
    (model / "modules.json").unlink()
    profile = measured(model)
    assert not {"heads", "similarity", "truncate_dim", "lower_case", "matryoshka_dims"} & profile.to_json()["text"].keys()
    assert profile.text.heads == () and profile.text.similarity == "cosine"
    profile.save(tmp_path / "profile.json")
    assert Profile.load(tmp_path / "profile.json").digest == profile.digest


def test_heads_count_in_budgets(tmp_path: Path) -> None:
    model = TINY_ENCODERS["embeddinggemma"].save(tmp_path / "m")
    stock = SentenceTransformer(str(model), device="cpu")
    shape = measured(model).shape
    assert shape.params(range(5)) == sum(parameter.numel() for parameter in stock.parameters())


def test_an_encoder_with_other_heads_is_not_the_one_of_the_plan(tmp_path: Path) -> None:
    model = TINY_ENCODERS["embeddinggemma"].save(tmp_path / "m")
    profile = measured(model)
    file = model / "2_Dense" / "model.safetensors"
    save_file({name: tensor + 0.5 for name, tensor in load_file(file).items()}, file)
    with pytest.raises(
        PlanError, match=r"measured with Dense, Dense behind the pooling, and .* with other weights; give the encoder"
    ):
        cut(model, profile, tmp_path / "out")
    (model / "modules.json").unlink()
    with pytest.raises(PlanError, match=r"measured with Dense, Dense behind the pooling, and .* has none"):
        cut(model, profile, tmp_path / "out")


def test_another_pooling_before_heads_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = TINY_ENCODERS["embeddinggemma"].save(tmp_path / "m")
    profile = measured(model, pooling="lasttoken")
    said = capsys.readouterr().err
    assert "pooling 'lasttoken' instead of 'mean'; its heads (Dense, Dense) were trained behind mean pooling" in said
    encoder = cut(model, profile, tmp_path / "out", normalize=False)
    assert [type(module).__name__ for module in encoder] == ["Transformer", "Pooling", "Dense", "Dense"]
    assert "normalize False instead of True" in capsys.readouterr().err
    assert loss_of(encoder) == pytest.approx(profile.layer_loss.loss[-1], abs=1e-4)


def in_halves(model: Path) -> Path:
    """Store the model's weights in bf16, the heads' as they are."""
    weights = {key: tensor.bfloat16() for key, tensor in load_file(model / "model.safetensors").items()}
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    return model


@pytest.mark.parametrize(("halves", "head_dtype"), [(True, torch.float32), (False, torch.float16)])
def test_model_and_heads_keep_their_dtypes(tmp_path: Path, halves: bool, head_dtype: torch.dtype) -> None:
    model = replace(TINY_ENCODERS["embeddinggemma"], head_dtype=head_dtype).save(tmp_path / "m")
    model = in_halves(model) if halves else model
    profile = measured(model)
    cut(model, profile, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["max_difference"] < 1e-5
    found, expected = (
        SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
        for folder in (tmp_path / "out", model)
    )
    assert_same(all_vectors(found), all_vectors(expected))
    file = "2_Dense/model.safetensors"
    assert load_file(tmp_path / "out" / file)["linear.weight"].dtype == head_dtype
    cut(model, profile, tmp_path / "rounded", dtype="bfloat16")
    assert load_file(tmp_path / "rounded" / file)["linear.weight"].dtype == torch.bfloat16


def test_matryoshka_dimensions_are_on_the_new_card(tmp_path: Path) -> None:
    model = TINY_ENCODERS["embeddinggemma"].save(tmp_path / "m")
    (model / "README.md").write_text('{"loss": "MultipleNegativesRankingLoss", "matryoshka_dims": [32, 16, 8]}')
    cut(model, measured(model), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'trained to be cut: `"matryoshka_dims": [32, 16, 8]`' in card
    assert "Pooling: mean; then Dense 32 -> 96, Dense 96 -> 32; trained" in card
    assert measured(tmp_path / "out").text.matryoshka_dims == (32, 16, 8)


def test_prompts_that_merge_with_texts_are_left_out_as_sentence_transformers_does(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    letters = list("abet q:\n 12é東Ŀ(_.")
    prompts = {f"p{n}": "".join(generator.choice(letters, size=int(generator.integers(1, 12)))) for n in range(12)}
    made = replace(TINY_ENCODERS["dot"], prompts=prompts, default=None, pooling="weightedmean", around=("<s>", "</s>"))
    model = made.save(tmp_path / "m")
    original = SentenceTransformer(str(model), device="cpu")
    assert_same(all_vectors(cut(model, measured(model), tmp_path / "out")), all_vectors(original))


@pytest.mark.parametrize("specials", [(), ("<|user|>",)])
def test_an_ending_without_a_role_is_counted_as_the_source_counts_it(tmp_path: Path, specials: tuple[str, ...]) -> None:
    """Whether the last token of a prompt alone is special decides how much of a text is pooled."""
    made = replace(TINY_ENCODERS["dot"], pooling="mean", around=("<s>", "<|user|>"), specials=specials, default=None)
    model = made.save(tmp_path / "m")
    original = SentenceTransformer(str(model), device="cpu")
    assert (3 in original.tokenizer.all_special_ids) == bool(specials)
    assert_same(all_vectors(cut(model, measured(model), tmp_path / "out")), all_vectors(original))


def test_uncut_with_dropped_parts_and_widths_keeps_the_heads(tmp_path: Path) -> None:
    model = TINY_ENCODERS["embeddinggemma"].save(tmp_path / "m")
    profile = measured(model, scorers=("redundancy",))
    plan = make_plan(profile, method="drop", drop="1M1A")
    prune_model(str(model), plan, tmp_path / "out")
    encoder = load_encoder(tmp_path / "out", device="cpu", dtype="float32")
    assert [type(module).__name__ for module in encoder][1:] == ["Pooling", "Dense", "Dense", "Normalize"]
    file = "3_Dense/model.safetensors"
    assert (tmp_path / "out" / file).read_bytes()[-64:] == (model / file).read_bytes()[-64:]


def test_an_activation_of_its_own_is_refused_wherever_an_encoder_is_loaded(tmp_path: Path) -> None:
    model = replace(TINY_ENCODERS["embeddinggemma"], heads=[dense(32, 8, "somewhere.Else"), NORMALIZE]).save(tmp_path / "m")
    with pytest.raises(UnsupportedModel, match=r"somewhere\.Else"):
        measured(model)
    with pytest.raises(CheckpointError, match=r"2_Dense: activation_function 'somewhere\.Else' cannot be made"):
        load_encoder(model)

"""A cut for which numbers are enough: what a measured plan of them would have kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from prune2vec.cli.app import main
from prune2vec.errors import PlanError
from prune2vec.planning.plan import PruningPlan
from prune2vec.planning.planner import make_plan
from prune2vec.pruning.depth_plan import depth_plan
from prune2vec.pruning.prune import prune_model
from tests.pruning.test_whole_encoders import TEXTS, measured
from tests.tiny import save_tiny
from tests.tiny_encoders import TINY_ENCODERS


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "bert"])
def test_a_language_model_is_cut_as_by_a_measured_plan(tmp_path: Path, family: str) -> None:
    model = save_tiny(tmp_path / "model", family)
    plan, known = make_plan(measured(model), method="depth", depth=3), depth_plan(str(model), 3)
    assert (known.kept, known.shape, dict(known.model)) == (plan.kept, plan.shape, dict(plan.model))
    # How far the model's positions reach is found out by prune.
    assert known.text.model_copy(update={"max_length": 256}) == plan.text
    folders = [prune_model(model, what, tmp_path / name) for what, name in ((plan, "measured"), (3, "known"))]
    found, expected = (SentenceTransformer(str(folder), device="cpu").encode(TEXTS) for folder in folders)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("what", "layers"),
    [
        (np.int64(3), (0, 1, 2)),
        (np.array([0, 2, 4]), (0, 2, 4)),
        ([np.int32(0), 2], (0, 2)),
        (torch.tensor([1, 3]), (1, 3)),
        (iter([0, 1]), (0, 1)),
    ],
)
def test_whole_numbers_of_any_library_name_layers(tmp_path: Path, what: Any, layers: tuple[int, ...]) -> None:
    plan = depth_plan(str(save_tiny(tmp_path / "model")), what)
    plan.save(tmp_path / "plan.json")
    assert plan.keep_layers == layers and PruningPlan.load(str(tmp_path / "plan.json")) == plan


@pytest.mark.parametrize("what", [True, [True, 2], [0.0, 2.0], np.array([0.5]), np.array(2.5), None, object(), {"a": 1}, "03"])
def test_what_names_no_layers_is_refused_before_the_model_is_read(what: Any) -> None:
    with pytest.raises(PlanError, match="expected a plan, its file, a number of layers or the numbers of those that stay"):
        depth_plan("no-such-model", what)


@pytest.mark.parametrize("kind", TINY_ENCODERS)
def test_an_encoder_keeps_its_text_settings(tmp_path: Path, kind: str) -> None:
    model = TINY_ENCODERS[kind].save(tmp_path / "model")
    plan, known = make_plan(measured(model), method="depth", depth=2), depth_plan(str(model), 2)
    assert (known.text, known.shape) == (plan.text, plan.shape)
    assert not known.notes and not known.profile_digest


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_named_layers_are_cut_as_by_a_measured_plan(tmp_path: Path, family: str) -> None:
    model = save_tiny(tmp_path / "model", family)
    plan, known = make_plan(measured(model), method="uniform", layers=3), depth_plan(str(model), [0, 2, 4])
    assert (known.kept, known.shape, dict(known.model)) == (plan.kept, plan.shape, dict(plan.model))
    prune_model(model, plan, tmp_path / "measured")
    assert main(["prune", str(model), "0,2,4", "-o", str(tmp_path / "named")]) == 0
    found, expected = (SentenceTransformer(str(tmp_path / name), device="cpu").encode(TEXTS) for name in ("named", "measured"))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("layers", [(), (0, 5), (2, 1), (1, 1), (-1, 2)])
def test_layers_that_the_model_has_not_are_one_line(tmp_path: Path, layers: tuple[int, ...]) -> None:
    model = save_tiny(tmp_path / "model", "llama")
    with pytest.raises(PlanError, match=r"cannot stay of .*; name layers from 0 to 4, each once, in ascending order"):
        prune_model(model, layers, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("depth", [0, 6])
def test_a_depth_that_the_model_has_not_is_one_line(tmp_path: Path, depth: int) -> None:
    model = save_tiny(tmp_path / "model", "llama")
    with pytest.raises(PlanError, match=rf"model has 5 layers, so {depth} cannot stay; give 1 to 5"):
        prune_model(model, depth, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_depth_that_was_not_trained_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = TINY_ENCODERS["embeddinggemma"].save(tmp_path / "model")
    record = {"format": "prune2vec.encoder/1", "train": {"depths": [2, 5]}}
    (model / "prune2vec.json").write_text(json.dumps(record))
    assert depth_plan(str(model), 2).notes == ("the encoder was trained at depths 2, 5",)
    assert "trained" not in capsys.readouterr().err
    assert depth_plan(str(model), 3).notes == ("the encoder was trained at depths 2, 5, and not at 3",)
    assert "trained at depths 2, 5; at 3 its vectors are not, so train what comes out" in capsys.readouterr().err
    assert depth_plan(str(model), [0, 1]) == depth_plan(str(model), 2)
    assert depth_plan(str(model), [0, 4]).notes == ("the encoder was trained at depths 2, 5, and not at 0,4",)


def test_the_verb_takes_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny(tmp_path / "model", "llama")
    monkeypatch.chdir(tmp_path)
    assert main(["prune", "model", "3", "-o", "out", "--dry-run"]) == 0
    assert "would prune model to 3 layers\n  reads   model\n  writes  " in capsys.readouterr().out
    assert main(["prune", "model", "3", "-o", "out"]) == 0
    assert PruningPlan.load(tmp_path / "out" / "plan.json").keep_layers == (0, 1, 2)
    depth_plan("model", 2).save(tmp_path / "3")
    assert main(["prune", "model", "./3", "-o", "other"]) == 0
    assert PruningPlan.load(tmp_path / "other" / "plan.json").keep_layers == (0, 1)
    assert main(["prune", "model", "9", "-o", "third"]) == 1
    assert "model has 5 layers, so 9 cannot stay" in capsys.readouterr().err

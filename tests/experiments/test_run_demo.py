from __future__ import annotations

from pathlib import Path

import pytest

from prune2vec.experiments.run import demo_recipe, run_demo
from prune2vec.progress import set_enabled
from tests.experiments.small import SmallStages


def test_recipe_is_what_the_demo_promises() -> None:
    recipe = demo_recipe()
    assert recipe.model == "smollm2"
    assert recipe.data.mine is not None
    assert recipe.data.mine.source == "docstrings"
    assert recipe.profile.groups * recipe.profile.group_size == 320
    assert [variant.name for variant in recipe.variants] == ["full", "large", "half", "small"]
    assert [variant.trained_with for variant in recipe.variants] == [None, "full", "full", "full"]
    assert len(recipe.queries) == 3


def test_says_first_what_it_will_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_enabled(True)
    small = SmallStages()
    report = run_demo(tmp_path / "demo", stages=small)
    told = capsys.readouterr().err
    assert "minutes" in told.partition("mine ...")[0]
    assert "320 triplets" in told
    assert small.calls[0] == "mine"
    assert [call for call in small.calls if call.startswith("train")] == ["train full"]
    assert small.calls[-1] == "answer small"
    assert len(report.answers) == 3

"""The verbs that need no model: plan, plan show, methods, init, mine, and the dry runs."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from prune2vec.forward.pooling import poolings
from prune2vec.planning.plan import PruningPlan
from prune2vec.planning.planner import planners
from tests.cli.conftest import Cli
from tests.tiny import save_tiny


def test_plan_writes_what_it_prints(cli: Cli, profile_file: Path, tmp_path: Path) -> None:
    ran = cli("plan", profile_file, "--method", "l3prune", "--variant", "small", "-o", "plan.json")
    assert ran.code == 0, ran.err
    assert PruningPlan.load(tmp_path / "plan.json").keep_layers == (0, 1)
    assert "0-1 of 0-7" in ran.out
    assert cli("plan", "show", "plan.json").out.strip() in ran.out


def test_plan_json_is_the_file(cli: Cli, profile_file: Path, tmp_path: Path) -> None:
    ran = cli("plan", profile_file, "--json")
    assert ran.data == PruningPlan.load(tmp_path / "plan.json").to_json()
    shown = cli("plan", "show", "plan.json", "--json").data
    assert shown["plan"] == ran.data
    assert shown["figures"]["layers"] == {"before": 8, "after": 6}


def test_a_file_called_show_can_be_planned_from(cli: Cli, profile_file: Path, tmp_path: Path) -> None:
    profile_file.rename(tmp_path / "show")
    ran = cli("plan", "./show", "--json")
    assert ran.code == 0, ran.err


def test_methods_lists_the_registries(cli: Cli) -> None:
    found = cli("methods", "--json").data
    assert tuple(found["planner"]) == planners.names()
    assert tuple(found["pooling"]) == poolings.names()
    assert all(line for parts in found.values() for line in parts.values())
    assert "l3prune" in cli("methods").out


def test_init_writes_a_recipe_that_can_be_run(cli: Cli, tmp_path: Path) -> None:
    from prune2vec.experiments.recipe import Recipe

    assert cli("init").code == 0
    Recipe.load(tmp_path / "recipe.yaml")
    assert cli("init").code == 1
    assert cli("init", "--force").code == 0


def test_mine_a_folder(cli: Cli, tmp_path: Path) -> None:
    words = [first + second for first in ("ba", "do", "ki", "mu", "re", "so") for second in ("dan", "fel", "gor", "lim", "nup")]
    draw = random.Random(0)
    (tmp_path / "docs").mkdir()
    for file in range(6):
        sections = [f"## {' '.join(draw.sample(words, 3))}\n\n{' '.join(draw.sample(words, 20))}.\n" for _ in range(8)]
        (tmp_path / "docs" / f"{file}.md").write_text("\n".join(sections), encoding="utf-8")
    ran = cli("mine", "docs/", "-o", "triplets", "--json")
    assert ran.code == 0, ran.err
    assert ran.data["counts"]["pairs"] > 0
    assert (tmp_path / "triplets" / "train.jsonl.gz").exists()


@pytest.mark.parametrize(
    "line",
    [
        "profile gpt2 --texts triplets.jsonl",
        "plan profile.json",
        "prune gpt2 plan.json -o small",
        "train encoder --data triplets.jsonl -o trained",
        "evaluate encoder --data triplets.jsonl -o results.json",
        "export encoder --target vllm -o exported",
        "encode encoder triplets.jsonl --text-column anchor -o vectors",
        "compare profile.json -o report",
        "init -o recipe.yaml",
        "mine docstrings -o mined",
        "demo -o runs/demo",
    ],
)
def test_a_dry_run_says_what_and_writes_nothing(
    cli: Cli, profile_file: Path, triplets_file: Path, encoder_files: Path, tmp_path: Path, line: str
) -> None:
    cli("plan", profile_file)
    if not line.startswith("plan"):
        assert (tmp_path / "plan.json").exists()
    else:
        (tmp_path / "plan.json").unlink()
    before = sorted(tmp_path.rglob("*"))
    ran = cli(*line.split(), "--dry-run")
    assert ran.code == 0, ran.err
    assert "would" in ran.out
    assert cli(*line.split(), "--dry-run", "--json").data
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_of_evaluate_refuses_another_file_too(cli: Cli, triplets_file: Path, encoder_files: Path) -> None:
    for dry in ([], ["--dry-run"]):
        ran = cli("evaluate", "encoder", "--data", triplets_file, "-o", triplets_file, *dry)
        assert ran.code == 1 and "it is no results file of prune2vec, and would be lost" in ran.err


def test_a_dry_run_of_prune_looks_whether_plan_and_model_fit(cli: Cli, profile_file: Path, tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "m")
    assert cli("plan", profile_file).code == 0
    for plan, said in (("99", "so 99 cannot stay"), ("3,1", "layers 3,1 cannot stay"), ("plan.json", "the plan is for a")):
        ran = cli("prune", model, plan, "-o", "small", "--dry-run")
        assert ran.code == 1 and said in ran.err and ran.err.count("\n") == 1, ran.err
    for plan in ("3", "0, 2"):
        assert cli("prune", model, plan, "-o", "small", "--dry-run").code == 0

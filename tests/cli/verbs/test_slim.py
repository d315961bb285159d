from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from prune2vec.planning.plan import PruningPlan
from tests.cli.conftest import Cli
from tests.pruning.plans import plan_for
from tests.tiny import save_tiny

QUICK = ("--batch-size", "8", "--max-length", "32", "--dtype", "float32", "--device", "cpu")


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    """A plan for ``model``, three of five layers, that cuts 30 % of the neurons."""
    plan = plan_for(save_tiny(tmp_path / "model"), range(3))
    replace(plan, width_cut=Fraction(3, 10)).save(tmp_path / "plan.json")
    return tmp_path / "plan.json"


def test_slim(cli: Cli, tmp_path: Path, plan_file: Path, triplets_file: Path) -> None:
    ran = cli("slim", "model", plan_file, "--texts", triplets_file, *QUICK, "--steps", "2")
    assert ran.code == 0, ran.err
    made = PruningPlan.load(tmp_path / "slim-plan.json")
    assert made.parameters["slim"]["ranking"] == "gates"
    lines = ran.out.splitlines()
    assert lines[0].split() == ["layer", "before", "after", "share"]
    assert [line.split()[0] for line in lines[1:5]] == ["0", "1", "2", "all"]
    assert lines[4].split()[1:3] == ["144", "101"]
    assert lines[5].startswith("cut 43 of 144 neurons (29.86%)")
    assert lines[6] == "slim-plan.json"
    assert "step 2: gates" in ran.err

    scores = ("--scores", "slim-plan.gates.scores.safetensors")
    half = cli("slim", "model", plan_file, *scores, "-o", "half.json", "--width-cut", "50%", "--json")
    assert half.code == 0, half.err
    assert half.data["neurons"] == {"before": 144, "after": 72}
    assert half.data["plan"] == PruningPlan.load(tmp_path / "half.json").to_json()
    pruned = cli("prune", "model", "half.json", "-o", "small", "--max-length", "64")
    assert pruned.code == 0, pruned.err


def test_dry_run_writes_nothing(cli: Cli, tmp_path: Path, plan_file: Path, triplets_file: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    ran = cli("slim", "model", plan_file, "--texts", triplets_file, "--width-cut", "1/3", "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert ran.data["settings"]["width_cut"] == "1/3"
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_wrong_is_one_line(cli: Cli, tmp_path: Path, plan_file: Path) -> None:
    for words, message in (
        ((), "importance 'gates' looks at texts and got none; give triplets (--texts)"),
        (("--importance", "gate"), "no neuron importance is called 'gate'; did you mean 'gates'?"),
        (("--width-cut", "half"), "width_cut: expected a share such as 30% or 0.3, got 'half'"),
        (("--width-cut", "30%", "--max-params", "1M"), "width_cut and max_params both say how much is cut"),
    ):
        for dry_run in ((), ("--dry-run",)):
            ran = cli("slim", "model", plan_file, *words, *dry_run)
            assert ran.code == 1
            assert message in ran.err
            assert ran.err.count("error:") == 1
    whole = replace(PruningPlan.load(plan_file), width_cut=Fraction(0))
    whole.save(plan_file)
    ran = cli("slim", "model", plan_file, "--importance", "magnitude", "--dry-run")
    assert ran.code == 1
    assert "the plan cuts no width; say how much to cut" in ran.err
    assert cli("slim", "model", plan_file, "--importance", "magnitude", "--width-cut", "30%", "--dry-run").code == 0
    assert not (tmp_path / "slim-plan.json").exists()


def test_help_names_importances_and_the_budget(cli: Cli) -> None:
    out = cli("slim", "--help").out
    assert "--width-cut" in out
    assert "--max-params" in out
    assert "gates (learnt, EffiR's), activation" in " ".join(out.split())

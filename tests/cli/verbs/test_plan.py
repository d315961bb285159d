"""``plan`` and ``plan show`` with every method, and with cuts inside blocks."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from prune2vec.planning.plan import PruningPlan
from prune2vec.planning.planner import make_plan, planners
from tests.cli.conftest import Cli
from tests.planning.made import curve_with_minima, made_profile

GIVEN = {
    "depth": ["--depth", "3"],
    "uniform": ["--layers", "3"],
    "keep-last": ["--layers", "3"],
    "drop": ["--drop", "25%M1A", "--depth", "large"],
}


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A profile of an 8-layer model with everything that planners use; the model has 98 M parameters."""
    profile = made_profile(curve_with_minima(8, 2, 6))
    path = tmp_path / "profile.json"
    replace(profile, shape=replace(profile.shape, embedding_params=98_000_000)).save(path)
    return path


@pytest.mark.parametrize("method", planners.names())
def test_every_method_can_be_chosen(cli: Cli, measured: Path, method: str) -> None:
    ran = cli("plan", measured, "--method", method, *GIVEN.get(method, []), "--max-layers", "6", "--json")
    assert ran.code == 0, ran.err
    assert len(ran.data["keep_layers"]) <= 6


def test_a_drop_is_written_and_shown(cli: Cli, measured: Path, tmp_path: Path) -> None:
    ran = cli("plan", measured, "--method", "drop", "--drop", "2M1A")
    assert ran.code == 0, ran.err
    plan = PruningPlan.load(tmp_path / "plan.json")
    assert plan == make_plan(measured, method="drop", drop="2M1A")
    shown = cli("plan", "show", "plan.json")
    assert shown.out.strip() in ran.out
    assert re.search(r"^drops    attention of \d$", shown.out, re.MULTILINE)
    assert re.search(r"^drops    MLP of \d(, |-)\d$", shown.out, re.MULTILINE)
    assert re.search(r"^MLPs +8 +6 +75\.0%$", shown.out, re.MULTILINE)
    figures = cli("plan", "show", "plan.json", "--json").data["figures"]
    assert figures["attention"] == {"before": 8, "after": 7}


def test_effir_meets_a_budget(cli: Cli, measured: Path, tmp_path: Path) -> None:
    ran = cli("plan", measured, "--method", "effir", "--max-params", "98.003M", "--json")
    assert ran.code == 0, ran.err
    plan = PruningPlan.load(tmp_path / "plan.json")
    assert plan.shape.params(plan.kept) <= 98_003_000
    shown = cli("plan", "show", "plan.json").out
    assert "the paper's shape is over the budget" in shown and "max_params 98003000" in shown


def test_effir_takes_what_is_given(cli: Cli, measured: Path) -> None:
    words = ("--depth", "large", "--mlps", "2", "--width", "20%", "--order", "plain")
    ran = cli("plan", measured, "--method", "effir", *words, "--json")
    assert ran.code == 0, ran.err
    assert (len(ran.data["keep_layers"]), len(ran.data["drop_mlp"]), ran.data["width_cut"]) == (6, 2, "1/5")


def test_settings_may_come_from_a_file(cli: Cli, measured: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("method: drop\ndrop: 2M\ndepth: small\norder: iterative\n", encoding="utf-8")
    ran = cli("plan", measured, "--config", "plan.yaml", "--drop", "1M", "--json")
    assert ran.code == 0, ran.err
    assert ran.data["parameters"] == {"drop": "1M", "order": "iterative", "depth": "small"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--method depth --depth small", "planner 'depth': depth: Input should be a valid integer"),
        ("--method drop --drop 9M", "9M: MLPs there: 8, to stay at least: 1; drop at most 7M"),
        ("--method drop --drop 2N", "drop: expected a count or share"),
        ("--method drop", "give --drop"),
        ("--method drop --drop 2M --max-layers 7", "is over the budget: 8 layers against at most 7"),
        ("--method drop --mlps 2", "planner 'drop': unknown key 'mlps'"),
        ("--method effir --width 100%", "width: 100% drops everything"),
        ("--method effir --max-params 1M", "the budget admits no cut of these: the smallest has"),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(
    cli: Cli, measured: Path, tmp_path: Path, words: str, message: str
) -> None:
    ran = cli("plan", measured, *words.split())
    assert ran.code == 1 and message in ran.err and ran.err.count("\n") == 1
    assert not (tmp_path / "plan.json").exists()


def test_an_order_that_there_is_not_is_a_wrong_use(cli: Cli, measured: Path) -> None:
    ran = cli("plan", measured, *["--method", "drop", "--drop", "2M", "--order", "oneshot"])
    assert ran.code == 2 and "'oneshot' is not one of 'one-shot', 'plain', 'iterative'" in ran.err


def test_a_profile_that_lacks_a_measurement_says_how_to_make_it(cli: Cli, profile_file: Path) -> None:
    ran = cli("plan", profile_file, "--method", "drop", "--drop", "2M")
    assert ran.code == 1 and "prune2vec profile --scorers redundancy" in ran.err

"""Foreseeable trouble, one line each and exit 1: what came, what was expected, and the close match."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prune2vec.cli.app import FAILED, USAGE
from tests.cli.conftest import Cli


@pytest.fixture
def folder(tmp_path: Path, profile_file: Path, triplets_file: Path) -> Path:
    """A folder with good files and bad ones."""
    (tmp_path / "bad.json").write_text('{"format":\n oops}', encoding="utf-8")
    (tmp_path / "other.json").write_text('{"format": "something else"}', encoding="utf-8")
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    (tmp_path / "columns.jsonl").write_text('{"question": "a", "reply": "b"}\n', encoding="utf-8")
    (tmp_path / "line3.jsonl").write_text(
        '{"anchor": "a", "positive": "b", "negative": "c"}\n' * 2 + "{not json}\n", encoding="utf-8"
    )
    (tmp_path / "not.yaml").write_text("a: [1\nb: 2\n", encoding="utf-8")
    (tmp_path / "list.yaml").write_text("- 1\n", encoding="utf-8")
    (tmp_path / "decimal.yaml").write_text("max-layers: 4.0\n", encoding="utf-8")
    (tmp_path / "typo.yaml").write_text("method: depth\ndepht: 4\n", encoding="utf-8")
    (tmp_path / "renamed.yaml").write_text("method: drop\nwhat: 2M\n", encoding="utf-8")
    (tmp_path / "value.yaml").write_text("method: uniform\nlayers: four\n", encoding="utf-8")
    (tmp_path / "twice.yaml").write_text("depth: 4\ndepth: 5\n", encoding="utf-8")
    (tmp_path / "hollow").mkdir()
    return tmp_path


CASES = [
    # what is typed, what the one line must hold
    ("plan profil.json", "did you mean 'profile.json'?"),
    ("plan nowhere/profile.json", "nowhere does not exist"),
    ("plan profile.json/x", "is a file"),
    ("plan bad.json", "bad.json:2"),
    ("plan other.json", "not a profile"),
    ("plan profile.json --method l3prun", "did you mean 'l3prune'?"),
    ("plan profile.json --method depth --variant small", "unknown key 'variant'"),
    ("plan profile.json --config renamed.yaml", "renamed.yaml:2: unknown key 'what'; it is called 'drop' now"),
    ("plan profile.json --method depth --depth 0", "depth"),
    ("plan profile.json --method depth --depth 9", "9"),
    ("plan profile.json --method percent --percent 120%", "120%"),
    ("plan profile.json --max-params lots", "90M"),
    ("plan profile.json --max-params 10", "budget"),
    ("plan profile.json -o hollow", "a folder of that name"),
    ("plan profile.json -o empty.jsonl/plan.json", "is a file, not a folder"),
    ("plan profile.json --config typo.yaml", "typo.yaml:2: unknown key 'depht'; did you mean 'depth'?"),
    ("plan profile.json --config value.yaml", "value.yaml:2"),
    ("plan profile.json --config not.yaml", "not.yaml:2"),
    ("plan profile.json --config list.yaml", "list.yaml"),
    ("plan profile.json --config decimal.yaml", "decimal.yaml:1: max_layers: '4.0' is not a valid whole number"),
    ("plan profile.json --config twice.yaml", "twice.yaml:2"),
    ("plan profile.json --config typos.yaml", "did you mean 'typo.yaml'?"),
    ("plan show profile.json", "not a plan"),
    ("plan show plam.json", "does not exist"),
    ("profile ./hollo --texts triplets.jsonl", "did you mean 'hollow'?"),
    ("profile hollow --texts triplets.jsonl --dry-run", "hollow"),
    ("profile model.gguf --texts triplets.jsonl", "does not exist"),
    ("profile gpt2 --texts triplet.jsonl", "did you mean 'triplets.jsonl'?"),
    ("profile gpt2 --texts empty.jsonl --dry-run", "empty.jsonl"),
    ("profile gpt2 --texts columns.jsonl --dry-run", "columns.jsonl"),
    ("profile gpt2 --texts triplets.jsonl", "1280"),
    ("prune hollow plan.json -o small", "plan.json does not exist"),
    ("prune hollow other.json -o small", "not a plan"),
    ("train hollow --data triplets.jsonl -o encoder --dry-run", "modules.json"),
    ("train hollow --data triplets.jsonl -o encoder --dev dev.jsonl", "dev.jsonl does not exist"),
    ("train hollow --data triplets.jsonl -o bad.json", "a file of that name"),
    ("evaluate ./encoder --data triplets.jsonl", "encoder does not exist"),
    ("evaluate hollow --data triplets.jsonl --dry-run", "hollow is not an encoder"),
    ("compare results.json", "results.json does not exist"),
    ("run recipe.yml -o runs/first", "recipe.yml does not exist"),
    ("run typo.yaml -o runs/first", "typo.yaml"),
    ("init -o bad.json", "--force"),
    ("mine ./docz -o triplets", "docz does not exist"),
    ("mine docstring -o mined", "docstrings"),
]


@pytest.mark.parametrize(("line", "said"), CASES, ids=[line for line, _ in CASES])
def test_one_line_and_exit_1(cli: Cli, folder: Path, line: str, said: str) -> None:
    before = sorted(folder.rglob("*"))
    ran = cli(*line.split())
    assert said in ran.err
    assert ran.code == FAILED
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert ran.out == ""
    assert sorted(folder.rglob("*")) == before, "nothing is left behind"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("plan profile.json --method drop --what 2M", "no such option '--what': it is called '--drop' now"),
        ("plan profile.json --method l3prune --variant smal", "'smal' is not one of 'small', 'large'"),
        ("plan profile.json --layers four", "'four' is not a valid integer"),
        ("plan profile.json --max-layers 0", "'--max-layers': 0 is not in the range 1<=x<=10000"),
        ("profile gpt2 --texts triplets.jsonl --groups 0", "'--groups': 0 is not in the range 1<=x<=1000000"),
        ("train hollow --data triplets.jsonl -o out --learning-rate inf", "'--learning-rate': inf is not in the range"),
        ("train hollow --data triplets.jsonl -o out --seed 1180591620717411303424", "'--seed'"),
        ("train hollow --data triplets.jsonl -o out --hard-negatives 1180591620717411303424", "'--hard-negatives'"),
        (
            "evaluate hollow --data triplets.jsonl --speed-seconds 3",
            "--speed-seconds is no option; write speed-seconds into a YAML",
        ),
        ("mine docstrings -o mined --seed -1", "'--seed'"),
        ("search hollow query -k 1180591620717411303424", "'-k'"),
        ("profile gpt2 --texts triplets.jsonl --sampling smpled", "'sampled'"),
        ("profile gpt2 --texts triplets.jsonl --order file", "no such option '--order': it is called '--sampling' now"),
        ("evaluate hollow", "--data or --tasks"),
        ("mine docstrings -o mined --dev-fraction 2", "--dev-fraction"),
        ("compare", "RESULTS"),
    ],
)
def test_wrong_usage_is_exit_2(cli: Cli, folder: Path, line: str, said: str) -> None:
    ran = cli(*line.split())
    assert ran.code == USAGE
    assert said in ran.err
    assert ran.err.count("\n") == 1


def test_json_is_not_mixed_with_errors(cli: Cli, folder: Path) -> None:
    ran = cli("plan", "bad.json", "--json")
    assert ran.out == ""
    with pytest.raises(json.JSONDecodeError):
        json.loads(ran.err)

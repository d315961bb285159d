"""What all verbs share: the settings file, JSON, quiet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from prune2vec import progress
from prune2vec.cli.app import USAGE
from prune2vec.cli.verb import Outcome, verb
from tests.cli.conftest import Cli


def test_settings_file_gives_what_the_command_line_does_not(cli: Cli, profile_file: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("method: depth\ndepth: 4\noutput: four.json\n", encoding="utf-8")
    ran = cli("plan", profile_file, "--config", "plan.yaml", "--json")
    assert ran.code == 0, ran.err
    assert ran.data["keep_layers"] == [0, 1, 2, 3]
    assert (tmp_path / "four.json").exists()


def test_command_line_overrides_the_settings_file(cli: Cli, profile_file: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("method: depth\ndepth: 4\n", encoding="utf-8")
    ran = cli("plan", profile_file, "--config", "plan.yaml", "--depth", "2", "--json")
    assert ran.data["keep_layers"] == [0, 1]


def test_settings_file_may_hold_arguments_and_dashes(cli: Cli, profile_file: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(f"profile: {profile_file.name}\nmax-params: 1.4K\n", encoding="utf-8")
    ran = cli("plan", "--config", "plan.yaml", "--json")
    assert ran.code == 0, ran.err
    assert ran.data["parameters"]["max_params"] == 1400


def test_a_list_in_a_settings_file(cli: Cli, encoder_files: Path, tmp_path: Path, triplets_file: Path) -> None:
    (tmp_path / "train.yaml").write_text("matryoshka-dims: [64, 128]\ncached: true\n", encoding="utf-8")
    ran = cli("train", "encoder", "--data", triplets_file, "-o", "out", "--config", "train.yaml", "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert ran.data["settings"]["matryoshka_dims"] == [64, 128]
    assert ran.data["settings"]["cached"] is True


@pytest.mark.parametrize("option", ["--tasks", "--data", "--matryoshka-dims"])
def test_a_list_given_twice_is_wrong_usage(cli: Cli, encoder_files: Path, triplets_file: Path, option: str) -> None:
    verb = "evaluate" if option == "--tasks" else "train"
    ran = cli(verb, "encoder", option, triplets_file, option, "64", "-o", "out", "--dry-run")
    assert ran.code == USAGE
    assert f"{option} is given 2 times; give all in one, separated by commas" in ran.err


@pytest.mark.parametrize(("word", "said"), [("\ud800", "is not UTF-8"), ("a\0b", "NUL character"), ("x" * 300, "too long")])
def test_a_settings_file_that_no_file_can_be_is_wrong_usage(cli: Cli, profile_file: Path, word: str, said: str) -> None:
    ran = cli("plan", profile_file, "--config", word)
    assert ran.code == USAGE and said in ran.err and ran.err.count("\n") == 1 and ran.err.startswith("error: ")


def test_quiet_switches_progress_off_for_this_run_only(cli: Cli, profile_file: Path) -> None:
    cli("plan", profile_file, "--quiet")
    assert progress._enabled is False
    cli("plan", profile_file)
    assert progress._enabled is True


def test_no_control_character_is_printed_and_json_is_exact() -> None:
    evil = "a\x1b[2J\x07\x9b\u202e\ud800\tb"
    said = verb(example="say", writes=False, name="say")(lambda: Outcome(f"one {evil}\ntwo", {"text": evil}))
    assert CliRunner().invoke(said, []).output == "one a\\x1b[2J\\x07\\x9b\\u202e\\ud800\tb\ntwo\n"
    text = CliRunner().invoke(said, ["--json"]).output
    assert json.loads(text) == {"text": evil}
    assert text.replace("\n", "").isprintable()

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.errors import DataError, ProfileError
from prune2vec.planning.planner import make_plan
from prune2vec.profiling.profile import LayerLoss, Profile
from prune2vec.settings import read_as
from tests.planning.made import made_profile

BAD = 123.25
PROFILE = made_profile([3.0, 1.0, 2.0, 2.5], spread=((0.1,), (-0.1,)))


def written(tmp_path: Path, **changes: Any) -> Path:
    """Write the profile with entries changed (``layer_loss__loss=...`` for inner ones, None to leave out)."""
    value = json.loads(json.dumps(PROFILE.to_json()))
    for key, item in changes.items():
        outer, _, inner = key.partition("__")
        place, name = (value[outer], inner) if inner else (value, outer)
        if item is None:
            del place[name]
        else:
            place[name] = item
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(value))
    return path


def test_round_trip(tmp_path: Path) -> None:
    PROFILE.save(tmp_path / "profile.json")
    loaded = Profile.load(tmp_path / "profile.json")
    assert loaded == PROFILE and loaded.digest == PROFILE.digest


@given(loss=st.lists(st.floats(0, 20), min_size=1, max_size=40))
def test_every_float_survives_the_file(loss: list[float], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "every-float.json"
    made_profile(loss).save(path)
    assert Profile.load(path).layer_loss.loss == tuple(loss)


def test_the_file_holds_the_curve_under_layer_loss_loss(tmp_path: Path) -> None:
    PROFILE.save(tmp_path / "profile.json")
    value = json.loads((tmp_path / "profile.json").read_text())
    assert value["format"] == "prune2vec.profile/2"
    assert value["layer_loss"]["loss"] == [3.0, 1.0, 2.0, 2.5]


def test_the_digest_is_the_same_in_every_process_and_on_every_machine(tmp_path: Path) -> None:
    PROFILE.save(tmp_path / "profile.json")
    script = (
        "import sys; from pathlib import Path; from prune2vec.profiling.profile import Profile\n"
        "print(Profile.load(Path(sys.argv[1])).digest)"
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "profile.json")],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert done.stdout.strip() == PROFILE.digest
    elsewhere = dataclasses.replace(PROFILE, environment={"python": "3.99", "gpu": "other"})
    assert elsewhere.digest == PROFILE.digest
    for change in ({"settings": {"seed": 43}}, {"texts": {"rows": 1}}, {"model": {"name": "other"}}):
        assert dataclasses.replace(PROFILE, **change).digest != PROFILE.digest


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("row", ["loss", "std_error", "accuracy", "alignment", "uniformity"])
def test_a_curve_that_is_not_finite_is_refused_with_row_and_depth(row: str, bad: float) -> None:
    curve = dataclasses.replace(PROFILE.layer_loss, **{row: (1.0, 2.0, bad, 1.0)})
    with pytest.raises(ProfileError, match=rf"^{row} is {bad} at depth 3; [^\n]+$"):
        dataclasses.replace(PROFILE, layer_loss=curve)


def test_a_group_that_is_not_finite_is_refused() -> None:
    curve = dataclasses.replace(PROFILE.layer_loss, group_loss=((1.0,) * 4, (1.0, float("nan"), 1.0, 1.0)))
    with pytest.raises(ProfileError, match=r"^group_loss\[1\] is nan at depth 2; "):
        dataclasses.replace(PROFILE, layer_loss=curve)


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
@pytest.mark.parametrize(
    ("section", "place"),
    [
        ({"tokens": 3, "mlp": [0.1, BAD, 0.2]}, r"mlp is {} at layer 1"),
        ({"drop_loss": [[1.0, 2.0], [3.0, BAD]]}, r"drop_loss\[1\] is {} at layer 1"),
        ({"by": {"kind": (BAD,)}}, r"by\.kind is {} at layer 0"),
        ({"share": BAD}, r"share is {};"),
    ],
)
def test_a_section_that_is_not_finite_is_refused(section: dict[str, Any], place: str, bad: float) -> None:
    section = json.loads(json.dumps(section).replace(json.dumps(BAD), json.dumps(bad)))
    with pytest.raises(ProfileError, match=rf"^redundancy: {place.format(bad)}[^\n]+$"):
        dataclasses.replace(PROFILE, sections={"redundancy": section})


def test_sections_survive_the_file(tmp_path: Path) -> None:
    profile = dataclasses.replace(PROFILE, sections={"redundancy": {"mlp": [0.1, 0.2], "texts": "retrieval"}})
    profile.save(tmp_path / "profile.json")
    loaded = Profile.load(tmp_path / "profile.json")
    assert loaded == profile
    assert loaded.digest == profile.digest != PROFILE.digest
    assert loaded.section("redundancy")["mlp"] == [0.1, 0.2]
    missing = (
        r"no redundancy-plain \(it has layer-loss, redundancy\); measure it with .* --scorers redundancy,redundancy-plain$"
    )
    with pytest.raises(ProfileError, match=missing):
        loaded.section("redundancy-plain")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ((), r"^the profile has no redundancy-plain \(it has layer-loss\); .* --scorers redundancy-plain$"),
        (("plain", "redundancy"), r"^the profile has no redundancy-plain \(.*--scorers plain,redundancy,redundancy-plain$"),
    ],
)
def test_what_is_missing_is_named_together_with_what_a_new_run_would_lose(sections: tuple[str, ...], message: str) -> None:
    profile = dataclasses.replace(PROFILE, sections={name: {} for name in sections})
    with pytest.raises(ProfileError, match=message):
        profile.section("redundancy-plain")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"format": "prune2vec.profile/9"}, ProfileError, "not a profile (expected format 'prune2vec.profile/2')"),
        ({"format": None}, ProfileError, "not a profile"),
        ({"shape": None}, ProfileError, "broken profile (shape is missing)"),
        ({"layer_loss": None}, ProfileError, "broken profile (layer_loss is missing)"),
        ({"layer_loss": 3}, ProfileError, "broken profile (layer_loss: "),
        (
            {"layer_loss__loss": ["1.5", 1, 1, 1]},
            ProfileError,
            "broken profile (layer_loss.loss.0: input should be a valid number",
        ),
        (
            {"layer_loss__loss": [True, 1, 1, 1]},
            ProfileError,
            "broken profile (layer_loss.loss.0: input should be a valid number",
        ),
        ({"layer_loss__loss": {"0": 1}}, ProfileError, "broken profile (layer_loss.loss: input should be a valid array"),
        (
            {"shape__num_layers": 4.5},
            ProfileError,
            "broken profile (shape.num_layers: input should be a valid integer, got 4.5",
        ),
        (
            {"shape__num_layers": True},
            ProfileError,
            "broken profile (shape.num_layers: input should be a valid integer, got true",
        ),
        (
            {"shape__num_layers": 10**9},
            ProfileError,
            "broken profile (shape.num_layers: input should be less than or equal to 10000",
        ),
        (
            {"shape__hidden_size": -1},
            ProfileError,
            "broken profile (shape.hidden_size: input should be greater than or equal to 0",
        ),
        ({"settings": {"max_depth": "4"}}, ProfileError, "settings.max_depth is '4'"),
        ({"sectoins": {}}, ProfileError, "broken profile (unknown key 'sectoins'; did you mean 'sections'?)"),
        ({"layer_loss__std_error": None}, ProfileError, "broken profile (layer_loss.std_error is missing)"),
        ({"layer_loss__loss": ["a", 1, 1, 1]}, ProfileError, "broken profile"),
        ({"layer_loss__loss": [1.0, 2.0]}, ProfileError, "loss has 2 values for a model of 4 layers"),
        ({"layer_loss__group_loss": [[1.0]]}, ProfileError, "group_loss[0] has 1 values for a model of 4 layers"),
        ({"layer_loss__group_loss": [3]}, ProfileError, "broken profile"),
        ({"model": "a name"}, ProfileError, "broken profile"),
        ({"settings": 3}, ProfileError, "broken profile"),
        ({"texts": None}, ProfileError, "broken profile (texts is missing)"),
        ({"shape__hidden_size": None}, ProfileError, "broken profile (shape.hidden_size is missing)"),
        (
            {"text__max_length": "512"},
            ProfileError,
            'broken profile (text.max_length: input should be a valid integer, got "512")',
        ),
        (
            {"text__normalize": "yes"},
            ProfileError,
            'broken profile (text.normalize: input should be a valid boolean, got "yes")',
        ),
        ({"text__append_eos": None}, ProfileError, "broken profile (text: append_eos is missing)"),
        ({"shape": []}, ProfileError, "broken profile (shape: "),
    ],
)
def test_a_malformed_file_is_one_line(changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(error) as caught:
        Profile.load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: {message}") and "\n" not in text


@pytest.mark.parametrize("content", ["[]", "3", "null", '"profile"'])
def test_json_that_is_no_profile_is_one_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(ProfileError, match=r"^[^\n]+p.json: not a profile [^\n]+; make one with prune2vec profile$"):
        Profile.load(tmp_path / "p.json")


@pytest.mark.parametrize("text", ["NaN", "1e999"])
def test_nan_in_a_file_never_reaches_a_planner(text: str, tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text().replace('"loss": [3.0,', f'"loss": [{text},'))
    with pytest.raises((DataError, ProfileError), match=r"^[^\n]+profile.json: [^\n]+$"):
        make_plan(path)


def test_layer_loss_reads_back_what_asdict_made() -> None:
    assert read_as(LayerLoss, dataclasses.asdict(PROFILE.layer_loss)) == PROFILE.layer_loss

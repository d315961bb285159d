from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.errors import DataError, PlanError
from prune2vec.records.plan import PruningPlan
from tests.planners.made import made_shape


def made_plan(keep: tuple[int, ...] = (0, 2), **changes: Any) -> PruningPlan:
    given: dict[str, Any] = {
        "model": {"name": "made", "revision": None, "fingerprint": "sha256:made"},
        "shape": made_shape(4),
        "keep_layers": keep,
        "method": "depth",
        "parameters": {"depth": 2, "max_params": 9000},
        "notes": ("a note",),
        "profile_digest": "abc",
    }
    return PruningPlan(**{**given, **changes})


@given(keep=st.sets(st.integers(0, 3), min_size=1))
def test_round_trip(keep: set[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "plan-round-trip.json"
    plan = made_plan(tuple(sorted(keep)))
    plan.save(path)
    loaded = PruningPlan.load(path)
    assert loaded == plan and loaded.digest == plan.digest
    assert plan.is_identity == (len(keep) == 4)


def test_the_file_is_readable(tmp_path: Path) -> None:
    made_plan().save(tmp_path / "plan.json")
    value = json.loads((tmp_path / "plan.json").read_text())
    assert (value["format"], value["num_layers"], value["keep_layers"]) == ("prune2vec.plan/2", 4, [0, 2])
    assert list(value)[-1] == "shape", "the long part comes last"


def test_a_plan_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        made_plan().method = "other"  # type: ignore[misc]


def test_the_digest_sees_every_field() -> None:
    plans = [
        made_plan(),
        made_plan((0, 1)),
        made_plan(method="uniform"),
        made_plan(notes=()),
        made_plan(parameters={}),
        made_plan(profile_digest=""),
        made_plan(model={"name": "other"}),
        made_plan(shape=made_shape(4, block=7)),
    ]
    assert len({plan.digest for plan in plans}) == len(plans)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ((), "the plan keeps no layer; keep 1 to 4"),
        ((0, 4), "the plan keeps layer 4, but made has layers 0 to 3"),
        ((-1, 0), "the plan keeps layer -1, but made has layers 0 to 3"),
        ((0, 0), r"kept layers must ascend without repeats, got \[0, 0\]"),
        ((2, 1), r"kept layers must ascend without repeats, got \[2, 1\]"),
    ],
)
def test_layers_that_no_model_could_keep_are_refused(keep: tuple[int, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=f"^{message}$"):
        made_plan(keep)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**made_plan().to_json(), "keep_layers": keep}))
    with pytest.raises(PlanError, match=f"^{path}: {message}$"):
        PruningPlan.load(path)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"format": "prune2vec.plan/1"}, PlanError, "not a plan (expected format 'prune2vec.plan/2')"),
        ({"model": "a name"}, PlanError, "broken plan"),
        ({"parameters": 3}, PlanError, "broken plan"),
        ({"keep_layers": 3}, PlanError, "broken plan"),
        ({"keep_layers": ["a"]}, PlanError, "broken plan"),
        ({"notes": None}, PlanError, "broken plan"),
        ({"shape": None}, DataError, "broken model shape"),
    ],
)
def test_a_malformed_file_is_one_line(changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**made_plan().to_json(), **changes}))
    with pytest.raises(error) as caught:
        PruningPlan.load(path)
    assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model", "shape", "keep_layers", "method", "parameters", "notes", "profile_digest"])
def test_a_missing_entry_is_named(name: str, tmp_path: Path) -> None:
    value = made_plan().to_json()
    del value[name]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(value))
    with pytest.raises(PlanError, match=rf"^{path}: broken plan \('{name}'\); make it again with prune2vec plan$"):
        PruningPlan.load(path)

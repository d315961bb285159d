from __future__ import annotations

import dataclasses
import json
import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.errors import CheckpointError, PlanError
from prune2vec.models.shape import _NEURONS, _PARTS
from prune2vec.models.text_settings import TextSettings
from prune2vec.planning.plan import PruningPlan, VocabularyCut, _packed, _unpacked
from tests.planning.made import made_shape

VOCABULARY = VocabularyCut(kept=(0, 3, 49), digest="d", texts=4, changed=1, tokens_before=40, tokens_after=44)


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
    assert plan.kept.whole_blocks


neurons = st.dictionaries(st.integers(0, 3), st.sets(st.integers(0, 59), min_size=1).map(lambda some: tuple(sorted(some))))


@given(stay=neurons, share=st.fractions(0, Fraction(99, 100)), drop=st.sets(st.integers(0, 3)))
def test_round_trip_of_sub_layers_and_neurons(
    stay: dict[int, tuple[int, ...]], share: Fraction, drop: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "plan-round-trip.json"
    attention = tuple(sorted(drop & set(stay)))
    mlp = tuple(sorted(drop - set(stay)))[:3]
    plan = made_plan((0, 1, 2, 3), drop_attention=attention, drop_mlp=mlp, neurons=stay, width_cut=share)
    plan.save(path)
    loaded = PruningPlan.load(path)
    assert loaded == plan and loaded.digest == plan.digest
    assert loaded.kept.widths == {layer: len(some) for layer, some in stay.items()}
    assert plan.kept.whole_blocks == (not (attention or mlp or stay or share))


@given(some=st.sets(st.integers(0, 14335), min_size=1))
def test_neurons_are_packed_without_loss(some: set[int]) -> None:
    numbers = tuple(sorted(some))
    packed = _packed(numbers)
    assert _unpacked(packed) == numbers
    assert len(packed) <= 4 * math.ceil(14336 / 8 / 3)


def test_the_digest_does_not_depend_on_the_order_in_which_neurons_were_decided() -> None:
    one, other = made_plan(neurons={0: (1, 5), 2: (3,)}), made_plan(neurons={2: (3,), 0: (1, 5)})
    assert one == other and one.digest == other.digest


def test_a_plan_is_slimmed_once_its_neurons_are_known() -> None:
    plan = made_plan(drop_mlp=(2,), width_cut=Fraction(1, 2))
    slim = plan.slimmed({0: tuple(range(30))}, method="gates", steps=500)
    assert (slim.width_cut, slim.kept.widths, slim.drop_mlp) == (0, {0: 30}, (2,))
    assert slim.parameters == {**plan.parameters, "slim": {"method": "gates", "steps": 500}}
    assert slim.shape.params(slim.kept) == plan.shape.params(plan.kept)


def test_the_file_is_readable(tmp_path: Path) -> None:
    made_plan().save(tmp_path / "plan.json")
    value = json.loads((tmp_path / "plan.json").read_text())
    assert (value["format"], value["num_layers"], value["keep_layers"]) == ("prune2vec.plan/3", 4, [0, 2])
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
        made_plan(drop_attention=(2,)),
        made_plan(drop_mlp=(2,)),
        made_plan(drop_mlp=(0,)),
        made_plan(width_cut=Fraction(3, 10)),
        made_plan(width_cut=Fraction(30001, 100000)),
        made_plan(neurons={0: (1, 2)}),
        made_plan(neurons={2: (1, 2)}),
        made_plan(neurons={0: (1, 3)}),
        made_plan(neurons={0: (1, 2), 2: (5,)}),
        made_plan(text=TextSettings(pooling="mean")),
        made_plan(shape=dataclasses.replace(made_shape(4), token_rows=50, token_params=100), vocabulary=VOCABULARY),
    ]
    assert len({plan.digest for plan in plans}) == len(plans)
    changed = {name for plan in plans for name in vars(plan) if getattr(plan, name) != getattr(plans[0], name)}
    assert changed == {field.name for field in dataclasses.fields(PruningPlan)}, "every field must have been tried"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop_attention": (1,)}, "the plan drops the attention of layers [1]; expected kept layers, ascending"),
        ({"drop_mlp": (2, 0)}, "the plan drops the MLP of layers [2, 0]; expected kept layers, ascending"),
        ({"drop_mlp": (0, 0)}, "the plan drops the MLP of layers [0, 0]; expected kept layers, ascending"),
        ({"drop_attention": (2,), "drop_mlp": (2,)}, "the plan drops both sub-layers of layer 2; leave it out"),
        ({"drop_mlp": (0, 2)}, "the plan drops every MLP; keep at least one"),
        ({"width_cut": Fraction(1)}, "the plan cuts a share of 1 of the neurons; expected 0 to under 1"),
        ({"width_cut": Fraction(-1, 2)}, "the plan cuts a share of -1/2 of the neurons; expected 0 to under 1"),
        ({"neurons": {1: (0,)}}, "the plan keeps neurons in layer 1, whose MLP it does not keep"),
        ({"neurons": {2: (0,)}, "drop_mlp": (2,)}, "the plan keeps neurons in layer 2, whose MLP it does not keep"),
        ({"neurons": {9: (0,)}}, "the plan keeps neurons in layer 9, whose MLP it does not keep"),
        ({"neurons": {0: ()}}, "the plan keeps impossible neurons in layer 0: expected some of 0 to 59, ascending"),
        ({"neurons": {0: (3, 60)}}, "the plan keeps impossible neurons in layer 0: expected some of 0 to 59, ascending"),
        ({"neurons": {0: (3, 2)}}, "the plan keeps impossible neurons in layer 0: expected some of 0 to 59, ascending"),
        ({"neurons": {0: (-1, 2)}}, "the plan keeps impossible neurons in layer 0: expected some of 0 to 59, ascending"),
    ],
)
def test_cuts_that_no_model_could_follow_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError) as caught:
        made_plan(**changes)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("changes", [{"drop_mlp": (2,)}, {"width_cut": Fraction(1, 2)}, {"neurons": {0: (1,)}}])
def test_a_cut_inside_a_model_of_unknown_parts_is_refused(changes: dict[str, Any]) -> None:
    shape = dataclasses.replace(made_shape(4), **dict.fromkeys((*_PARTS, *_NEURONS), ()))
    assert made_plan(shape=shape).kept.whole_blocks
    with pytest.raises(PlanError, match=r"^llama: [^\n]+ not known"):
        made_plan(shape=shape, **changes)


@pytest.mark.parametrize("keep", [(), (0, 4), (-1, 0), (0, 0), (2, 1)])
def test_layers_that_no_model_could_keep_are_refused(keep: tuple[int, ...], tmp_path: Path) -> None:
    message = re.escape(f"cannot keep layers {list(keep)}; expected ascending layers between 0 and 3, at least one")
    with pytest.raises(PlanError, match=f"^{message}$"):
        made_plan(keep)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**made_plan().to_json(), "keep_layers": keep}))
    with pytest.raises(PlanError, match=f"^{path}: {message}$"):
        PruningPlan.load(path)


def _text(**changes: Any) -> dict[str, Any]:
    return {**TextSettings().model_dump(mode="json"), **changes}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"format": "prune2vec.plan/1"}, PlanError, "not a plan (expected format 'prune2vec.plan/3')"),
        ({"model": "a name"}, PlanError, "broken plan"),
        ({"parameters": 3}, PlanError, "broken plan"),
        ({"keep_layers": 3}, PlanError, "broken plan"),
        ({"keep_layers": ["a"]}, PlanError, "broken plan"),
        ({"notes": None}, PlanError, "broken plan"),
        ({"drop_mlp": None}, PlanError, "broken plan"),
        ({"width_cut": "abc"}, PlanError, "broken plan (width_cut: Invalid literal for Fraction: 'abc')"),
        ({"width_cut": None}, PlanError, "broken plan"),
        ({"width_cut": "1/0"}, PlanError, "broken plan"),
        ({"width_cut": "inf"}, PlanError, "broken plan"),
        ({"width_cut": "3/2"}, PlanError, "the plan cuts a share of 3/2"),
        ({"neurons": {"0": "no base64!"}}, PlanError, "broken plan"),
        ({"neurons": {"0": "abc"}}, PlanError, "broken plan (neurons.0: Incorrect padding)"),
        ({"neurons": {"0": 7}}, PlanError, "broken plan"),
        ({"neurons": {"a": "AQ=="}}, PlanError, "broken plan"),
        ({"neurons": {"0": ""}}, PlanError, "the plan keeps impossible neurons in layer 0"),
        ({"neurons": {"1": "AQ=="}}, PlanError, "the plan keeps neurons in layer 1, whose MLP it does not keep"),
        ({"neurons": [1]}, PlanError, "broken plan"),
        ({"shape": None}, PlanError, "broken plan (shape: input should be "),
        (
            {"shape": {**dataclasses.asdict(made_shape(4)), "block_params": [1]}},
            PlanError,
            "broken plan (shape: broken model shape (4 layers but 1 block sizes)); make it again",
        ),
        ({"keep_layers": [0, 1.9]}, PlanError, "broken plan (keep_layers.1: input should be a valid integer, got 1.9)"),
        ({"keep_layers": [0, True]}, PlanError, "broken plan (keep_layers.1: input should be a valid integer, got true)"),
        ({"keep_layers": ["0", "1"]}, PlanError, "broken plan (keep_layers.0: input should be a valid integer"),
        ({"keep_layers": 1}, PlanError, "broken plan (keep_layers: input should be a valid array"),
        ({"keep_layers": [2**70]}, PlanError, f"cannot keep layers [{2**70}]"),
        (
            {"text": {**TextSettings().model_dump(mode="json"), "poolign": 1}},
            PlanError,
            "broken plan (unknown key 'text.poolign'; did you mean 'pooling'?)",
        ),
        (
            {"text": _text(max_length="512")},
            PlanError,
            'broken plan (text.max_length: input should be a valid integer, got "512")',
        ),
        (
            {"text": _text(normalize="yes")},
            PlanError,
            'broken plan (text.normalize: input should be a valid boolean, got "yes")',
        ),
        ({"text": {}}, PlanError, "broken plan (text: pooling is missing)"),
        ({"drop_mlps": [1]}, PlanError, "broken plan (unknown key 'drop_mlps'; did you mean 'drop_mlp'?)"),
        ({"num_layers": 7}, PlanError, "broken plan (num_layers is 7, but the other entries make it 4)"),
        ({"width_cut": True}, PlanError, "broken plan (width_cut"),
        ({"width_cut": "1e-99999999"}, PlanError, "broken plan (width_cut: expected a short number, got '1e-99999999'"),
        ({"width_cut": "1e-9_9_9_9_9"}, PlanError, "broken plan (width_cut: expected a short number"),
        ({"width_cut": "1/0"}, PlanError, "broken plan (width_cut: '1/0' divides by zero)"),
        ({"method": ["depth"]}, PlanError, "broken plan (method: input should be a valid string"),
        ({"parameters": [1]}, PlanError, "broken plan (parameters: "),
        ({"model": {"name": 3}}, PlanError, "broken plan (model.name: input should be a valid string, got 3)"),
    ],
)
def test_a_malformed_file_is_one_line(changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**made_plan().to_json(), **changes}))
    with pytest.raises(error) as caught:
        PruningPlan.load(path)
    assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)


def test_a_share_written_as_a_decimal_is_read_exactly(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    for written in ("0.3", 0.3, "3/10"):
        path.write_text(json.dumps({**made_plan().to_json(), "width_cut": written}))
        assert PruningPlan.load(path).width_cut == Fraction(3, 10)


@pytest.mark.parametrize("name", sorted({field.name for field in dataclasses.fields(PruningPlan)} - {*PruningPlan.LATER}))
def test_a_missing_entry_is_named(name: str, tmp_path: Path) -> None:
    value = made_plan().to_json()
    del value[name]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(value))
    with pytest.raises(PlanError, match=rf"^{path}: broken plan \({name} is missing\); make it again with prune2vec plan$"):
        PruningPlan.load(path)


def test_a_plan_of_an_earlier_release_keeps_all_tokens(tmp_path: Path) -> None:
    value = made_plan().to_json()
    del value["vocabulary"], value["shape"]["token_rows"], value["shape"]["token_params"]
    (tmp_path / "plan.json").write_text(json.dumps(value))
    assert PruningPlan.load(tmp_path / "plan.json") == made_plan()


@pytest.mark.parametrize("name", sorted(made_plan().to_json()["text"]))
def test_a_missing_text_setting_is_named(name: str, tmp_path: Path) -> None:
    value = made_plan().to_json()
    del value["text"][name]
    (tmp_path / "plan.json").write_text(json.dumps(value))
    with pytest.raises(PlanError, match=rf"broken plan \(text: {name} is missing\); make it again with prune2vec plan$"):
        PruningPlan.load(tmp_path / "plan.json")


def test_prompts_keep_their_names(tmp_path: Path) -> None:
    plan = made_plan(text=TextSettings(prompts={"s2p-query": "find: "}, instruction="saved"))
    plan.save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json").text.prompts == {"s2p-query": "find: "}


def test_a_plan_is_not_written_over_anything_else(tmp_path: Path) -> None:
    profile, other = tmp_path / "profile.json", tmp_path / "plan.json"
    for text in ('{"format": "prune2vec.profile/2"}', "my notes", "[]"):
        profile.write_text(text)
        with pytest.raises(
            CheckpointError, match=r"profile\.json: it is no plan of prune2vec, and would be lost; name another file"
        ):
            made_plan().save(profile)
        assert profile.read_text() == text
    for text in ("", '{"format": "prune2vec.plan/0"}'):
        other.write_text(text)
        made_plan().save(other)
        assert PruningPlan.load(other) == made_plan()

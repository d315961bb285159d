"""The whole stage: from a plan with a share to a plan with neurons, and back after an interruption."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from prune2vec.errors import CheckpointError, ConfigError, DataError, PlanError, TrainingError
from prune2vec.planning.plan import PruningPlan
from prune2vec.pruning.encoder import load_encoder
from prune2vec.pruning.prune import prune_model
from prune2vec.resume import WorkFolder, read_lines
from prune2vec.training.importance_context import batches
from prune2vec.training.importances.learnt_gates import STATISTICS
from prune2vec.training.objective import build_loss
from prune2vec.training.slim import say_loss, slim_plan
from prune2vec.training.slim_settings import SlimSettings
from prune2vec.training.width_decision import NeuronScores, render_slim, scores_beside, slim_figures
from tests.training.contexts import QUICK, tiny_context, tiny_plan
from tests.training.encoders import rows
from tests.training.test_train import StopAt

DATA = (*rows(24, "one"), *rows(18, "two", start=24))
GATES: dict[str, Any] = {**QUICK, "steps": 12, "save_every": 4, "warmup_steps": 0, "learning_rate": 0.01}
CHEAP: dict[str, Any] = {**QUICK, "importance": "magnitude"}


class Tiny:
    """A tiny model, a plan for it and a folder for what is made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model, self.plan = tiny_plan(folder)

    def __call__(self, name: str = "slim", plan: PruningPlan | None = None, texts: Any = DATA, **given: Any) -> PruningPlan:
        return slim_plan(str(self.model), plan or self.plan, texts, output=self.output(name), **given)

    def output(self, name: str = "slim") -> Path:
        return self.folder / f"{name}.json"


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[PruningPlan, NeuronScores]:
    """An uninterrupted run of gates: its plan and its scores."""
    tiny = Tiny(tmp_path_factory.mktemp("whole"))
    return tiny(**GATES), NeuronScores.load(scores_beside(tiny.output(), "gates"))


def test_the_share_of_the_plan_is_cut_and_the_plan_says_how(whole: tuple[PruningPlan, NeuronScores]) -> None:
    plan, ranked = whole
    assert plan.width_cut == 0
    total = 3 * 48
    kept = {layer: len(plan.neurons.get(layer, range(48))) for layer in (0, 1, 4)}
    assert total - sum(kept.values()) == 43, "floor(0.3 * 144)"
    slim = plan.parameters["slim"]
    assert (slim["ranking"], slim["width_cut"], slim["cut"], slim["of"], slim["steps"]) == ("gates", "3/10", 43, total, 12)
    assert slim["texts"] == ranked.identity["data"]
    # The lowest 43 of all, by the scores that were written.
    cut = [ranked.scores[layer][n] for layer in kept for n in set(range(48)) - set(plan.neurons.get(layer, range(48)))]
    left = [ranked.scores[layer][n] for layer in kept for n in plan.neurons.get(layer, range(48))]
    assert max(cut) <= min(left)
    statistics = ranked.facts["gates"]
    assert [line["step"] for line in statistics] == list(range(1, 13))
    assert statistics[-1]["min"] < 1 < statistics[-1]["max"]


def test_the_plan_is_written_and_can_be_pruned(tiny: Tiny) -> None:
    made = tiny(**CHEAP)
    assert PruningPlan.load(tiny.output()) == made
    assert not WorkFolder.beside(tiny.output()).folder.exists()
    assert {path.name for path in tiny.folder.iterdir() if path.is_file()} == {"slim.json", "slim.magnitude.scores.safetensors"}
    prune_model(str(tiny.model), made, tiny.folder / "small", max_length=64)
    assert json.loads((tiny.folder / "small" / "parity.json").read_text())["max_difference"] < 1e-4


@pytest.mark.parametrize(("stop", "in_save"), [(2, False), (6, False), (8, True), (11, False)])
def test_resuming_gives_the_same_plan(whole: tuple[PruningPlan, NeuronScores], tiny: Tiny, stop: int, in_save: bool) -> None:
    with pytest.raises(KeyboardInterrupt):
        tiny(**GATES, callbacks=[StopAt(stop, in_save=in_save)])
    assert not tiny.output().exists()
    work = WorkFolder.beside(tiny.output())
    assert work.folder.exists() == (stop > GATES["save_every"]), "without a checkpoint there is nothing to go on from"
    assert not list(work.folder.glob("*/model*")), "checkpoints hold gates, not the model"
    assert tiny(**GATES) == whole[0]
    again = NeuronScores.load(scores_beside(tiny.output(), "gates"))
    for layer, values in whole[1].scores.items():
        assert (values == again.scores[layer]).all()
    assert again.facts["gates"] == whole[1].facts["gates"]
    assert not work.folder.exists()


def test_stopped_after_the_last_step_trains_no_further_one(whole: tuple[PruningPlan, NeuronScores], tiny: Tiny) -> None:
    class StopAtEnd(TrainerCallback):
        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny(**GATES, callbacks=[StopAtEnd()])
    assert tiny(**GATES, callbacks=[StopAt(12)]) == whole[0]


def test_an_unfinished_run_with_other_settings_is_not_gone_on_with(tiny: Tiny) -> None:
    with pytest.raises(KeyboardInterrupt):
        tiny(**GATES, callbacks=[StopAt(6)])
    with pytest.raises(TrainingError, match=r"learning_rate 0\.01, now 0\.02"):
        tiny(**{**GATES, "learning_rate": 0.02})
    with pytest.raises(TrainingError, match="the training texts changed"):
        tiny(texts=DATA[:-1], **GATES)
    made = tiny(**{**GATES, "steps": 3}, restart=True)
    assert made.parameters["slim"]["steps"] == 3


def not_again(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("measured again")


def test_another_importance_leaves_an_unfinished_run_alone(whole: tuple[PruningPlan, NeuronScores], tiny: Tiny) -> None:
    with pytest.raises(KeyboardInterrupt):
        tiny(**GATES, callbacks=[StopAt(6)])
    work = WorkFolder.beside(tiny.output())
    tiny(**CHEAP)
    tiny(texts=None, scores=scores_beside(tiny.output(), "magnitude"), width_cut="50%")
    assert (work.checkpoint(4) / "gates.safetensors").exists()
    assert tiny(**GATES) == whole[0]
    assert not work.folder.exists()


def test_importances_keep_their_scores_apart(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    learnt = tiny(**GATES)
    tiny(**CHEAP)
    monkeypatch.setattr("prune2vec.training.slim.load_context", not_again)
    assert tiny(**GATES) == learnt, "the scores that were learnt are still there"


def budgeted(plan: PruningPlan, **limits: Any) -> PruningPlan:
    return replace(plan, parameters={**plan.parameters, **limits})


def params_left(plan: PruningPlan, cut: int) -> int:
    kept = replace(plan.kept, width_cut=Fraction(0))
    return plan.shape.params(kept) - cut * plan.shape.neuron_params[0]


def test_a_plans_own_limits_hold(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = params_left(tiny.plan, 43)
    plan = budgeted(tiny.plan, max_params=limit)
    made = tiny(plan=plan, **CHEAP)
    assert made.shape.params(made.kept) == limit
    assert tiny(plan=plan, **CHEAP, width_cut="10%").neurons, "what is given overrules the plan"
    assert tiny(plan=plan, **CHEAP, max_params=limit, multiple=16).parameters["slim"]["cut"] >= 43
    monkeypatch.setattr("prune2vec.training.slim.load_context", not_again)
    # At least 101 neurons stay: 102 in three equal widths, 112 in sixteens.
    for rule, cut in (({"uniform": True}, 42), ({"multiple": 16}, 32)):
        left = f"{params_left(plan, cut):,} parameters against at most {limit:,}"
        with pytest.raises(PlanError, match=rf"over the limits.*{left}; lower multiple.*give --max-params"):
            tiny("other", plan=plan, **CHEAP, **rule)
    speed = budgeted(tiny.plan, min_speedup=20.0)
    with pytest.raises(PlanError, match=r"a speed-up of .* against at least 20"):
        tiny("other", plan=speed, **CHEAP)


def test_limits_that_only_the_scores_break_keep_the_scores(tiny: Tiny) -> None:
    # Half of each MLP is a multiple of 24; where another MLP loses more, two keep more than half, which is all.
    plan = budgeted(replace(tiny.plan, width_cut=Fraction(1, 2)), max_params=params_left(tiny.plan, 72))
    tiny(**CHEAP)
    file = scores_beside(tiny.output(), "magnitude")
    scores = {0: range(48), 1: range(-20, 28), 4: range(48)}
    uneven = {layer: np.array(values, dtype=np.float32) for layer, values in scores.items()}
    replace(NeuronScores.load(file), scores=uneven).save(file)
    with pytest.raises(PlanError, match="over the limits"):
        tiny(plan=plan, **CHEAP, multiple=24)
    assert file.exists()


def test_a_cut_that_cuts_nothing_is_refused(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PlanError, match=r"25% of 144 neurons should go, but by the rules for the widths none does; lower"):
        tiny(**CHEAP, width_cut="25%", multiple=48)
    with pytest.raises(PlanError, match=r"0\.1% of 144 neurons should go"):
        tiny(**CHEAP, width_cut="0.1%")
    assert tiny(**CHEAP, width_cut=0).neurons == {}
    tiny(**CHEAP, width_cut="50%")
    assert "under half" not in capsys.readouterr().err
    scores = {layer: np.arange(start, start + 48, dtype=np.float32) for layer, start in ((0, 0), (1, 10), (4, 10))}
    file = scores_beside(tiny.output(), "magnitude")
    replace(NeuronScores.load(file), scores=scores).save(file)
    # 30 go, the lowest of all: 17, 7 and 6; widths of 31, 41 and 42 become 32, 48 and 48.
    made = tiny(**CHEAP, width_cut="0.21", multiple=16)
    assert made.parameters["slim"]["cut"] == 16
    assert "under half" not in capsys.readouterr().err
    replace(NeuronScores.load(file), scores={0: scores[0], 1: scores[1] + 16, 4: scores[4] + 16}).save(file)
    # 50 go: 34, 8 and 8; widths of 14, 40 and 40 become 24, 48 and 48.
    tiny(**CHEAP, width_cut="0.35", multiple=24)
    assert "24 neurons go, under half of the 50 that were asked for" in capsys.readouterr().err


def test_widths_of_ones_own_say_which_limit_of_the_plan_they_break(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    whole = tiny.plan.shape.params(tiny.plan.kept)
    plan = replace(tiny.plan, parameters={**tiny.plan.parameters, "max_params": whole - 4000})
    tiny("less", plan=plan, **CHEAP, width_cut="1%")
    assert "the encoder is over the limits that the plan was made for: " in capsys.readouterr().err
    tiny("enough", plan=plan, **CHEAP, width_cut="60%")
    assert "over the limits" not in capsys.readouterr().err


@pytest.mark.parametrize("importance", ["gates", "activation", "taylor", "wanda"])
def test_texts_are_looked_at_before_the_model(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, importance: str) -> None:
    monkeypatch.setattr("prune2vec.training.slim.load_context", not_again)
    with pytest.raises(DataError, match=rf"importance '{importance}' looks at texts and got none; give triplets \(--texts\)"):
        tiny(texts=None, **QUICK, importance=importance)
    with pytest.raises(DataError, match=r"no data set has the 8 rows of one batch \(one has 7\)"):
        tiny(texts=rows(7, "one"), **QUICK, importance=importance)
    with pytest.raises(DataError, match="has no hard negative"):
        tiny(texts=rows(24, "one", negatives=0), **QUICK, importance=importance)


def test_another_share_is_cut_without_measuring_again(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(**CHEAP)
    scores = NeuronScores.load(scores_beside(tiny.output(), "magnitude"))

    monkeypatch.setattr("prune2vec.training.slim.load_context", not_again)
    half = tiny(**CHEAP, width_cut="50%")
    assert half.parameters["slim"]["cut"] == 72
    given = tiny("other", texts=None, scores=scores_beside(tiny.output(), "magnitude"), width_cut="50%")
    assert given.neurons == half.neurons
    assert given.parameters["slim"]["ranking"] == "magnitude"
    assert not scores_beside(tiny.output("other"), "magnitude").exists()
    assert NeuronScores.load(scores_beside(tiny.output(), "magnitude")).scores.keys() == scores.scores.keys()
    with pytest.raises(AssertionError, match="measured again"):
        tiny(**{**CHEAP, "importance": "wanda"})


def test_settings_that_an_importance_does_not_read_leave_its_scores_alone(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(**QUICK, importance="activation")
    tiny(**CHEAP)
    monkeypatch.setattr("prune2vec.training.slim.load_context", not_again)
    assert tiny(**QUICK, importance="activation", steps=400, scale=20.0).neurons
    assert tiny(texts=None, **{**CHEAP, "batch_size": 9, "seed": 1}).parameters["slim"]["texts"] is None
    with pytest.raises(AssertionError, match="measured again"):
        tiny(**{**QUICK, "batches": 2}, importance="activation")


def test_scores_of_something_else_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    tiny(**CHEAP)
    scores = scores_beside(tiny.output(), "magnitude")
    with pytest.raises(PlanError, match=r"for something else.*drop_mlp \[0\], now \[2\]"):
        tiny("other", plan=replace(tiny.plan, drop_mlp=(0,)), scores=scores)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no")
    with pytest.raises(DataError, match="cannot read the scores"):
        tiny("other", scores=broken)
    with pytest.raises(DataError, match="no scores of neurons"):
        tiny("other", scores=tiny.model / "model.safetensors")


def test_rules_of_the_width(tiny: Tiny) -> None:
    floored = tiny(**CHEAP, width_cut="55%", floor="40%")
    assert min(map(len, floored.neurons.values())) >= 20
    assert floored.parameters["slim"]["cut"] == 79
    rounded = tiny(**CHEAP, multiple=8)
    assert all(len(neurons) % 8 == 0 for neurons in rounded.neurons.values())
    assert rounded.parameters["slim"]["cut"] <= 43
    with pytest.raises(PlanError, match="115 of 144 neurons cannot be cut: with at least 20 left in each of 3 MLPs"):
        tiny(**CHEAP, width_cut="80%", floor="40%")


def test_uniform_width_is_a_stock_checkpoint(tmp_path: Path) -> None:
    tiny = Tiny(tmp_path)
    blocks = replace(tiny.plan, drop_attention=(), drop_mlp=())
    made = tiny(plan=blocks, **CHEAP, uniform=True, multiple=8)
    assert {len(neurons) for neurons in made.neurons.values()} == {32}, "33.75 of 48, in eights"
    prune_model(str(tiny.model), made, tmp_path / "small", max_length=64)
    assert json.loads((tmp_path / "small" / "config.json").read_text())["intermediate_size"] == 32
    model = load_encoder(tmp_path / "small").transformers_model
    assert type(model).__module__.startswith("transformers.")


@pytest.mark.parametrize("multiple", [1, 8])
def test_a_budget_is_met_and_not_by_more_than_it_takes(tiny: Tiny, multiple: int) -> None:
    full = tiny.plan.shape.params(replace(tiny.plan.kept, width_cut=Fraction(0)))
    neuron = tiny.plan.shape.neuron_params[0]
    limit = full - 30 * neuron + 1
    made = tiny(**CHEAP, max_params=limit, multiple=multiple)
    left = made.shape.params(made.kept)
    assert left <= limit
    assert full - left == (30 * neuron if multiple == 1 else made.parameters["slim"]["cut"] * neuron)
    assert left > limit - multiple * neuron * 2
    assert made.parameters["slim"]["max_params"] == limit
    least = full - 3 * (48 - multiple) * neuron
    with pytest.raises(PlanError, match=rf"at least {least:,} parameters stay, which is over 1,000: .*drop more layers"):
        tiny(**CHEAP, max_params=1000, multiple=multiple)
    assert tiny(**CHEAP, max_params=least, multiple=multiple).parameters["slim"]["cut"] == 3 * (48 - multiple)
    assert tiny(**CHEAP, max_params=full).neurons == {}


def test_how_much_must_be_said(tiny: Tiny) -> None:
    with pytest.raises(PlanError, match=r"the plan cuts no width; say how much to cut: width_cut \(--width-cut 30%\)"):
        tiny(plan=replace(tiny.plan, width_cut=Fraction(0)), **CHEAP)
    decided = tiny(**CHEAP)
    with pytest.raises(PlanError, match="its width is decided already"):
        tiny(plan=decided, **CHEAP)
    assert tiny(plan=decided, **CHEAP, width_cut="3/10").neurons == decided.neurons


def test_a_plan_for_another_model_is_refused(tiny: Tiny) -> None:
    with pytest.raises(PlanError, match="another model of the same shape"):
        tiny(plan=replace(tiny.plan, model={**tiny.plan.model, "fingerprint": "other"}), **CHEAP)
    unknown = replace(tiny.plan.shape, mlp_width=(), neuron_params=(), neuron_matmul_params=())
    with pytest.raises(PlanError, match="the neurons of its MLPs are not known"):
        tiny(plan=replace(tiny.plan, shape=unknown), **CHEAP)


def test_a_finished_or_unfinished_run_leaves_global_randomness_alone(tiny: Tiny) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with pytest.raises(KeyboardInterrupt):
        tiny(**GATES, callbacks=[StopAt(2)])
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(7)
    tiny(**GATES)
    assert torch.equal(torch.rand(3), expected)


def test_half_written_statistics_are_cut_back(tiny: Tiny, whole: tuple[PruningPlan, NeuronScores]) -> None:
    with pytest.raises(KeyboardInterrupt):
        tiny(**GATES, callbacks=[StopAt(7)])
    file = WorkFolder.beside(tiny.output()).folder / STATISTICS
    assert read_lines(file)[-1]["step"] >= 6
    with file.open("a") as lines:
        lines.write('{"step": 9')
    assert tiny(**GATES) == whole[0]


def test_table_has_every_mlp_and_the_totals(whole: tuple[PruningPlan, NeuronScores]) -> None:
    plan, _ = whole
    figures = slim_figures(plan)
    assert [line["layer"] for line in figures["layers"]] == [0, 1, 4]
    assert figures["neurons"] == {"before": 144, "after": 101}
    assert figures["params"]["before"] - figures["params"]["after"] == 43 * plan.shape.neuron_params[0]
    text = render_slim(plan)
    assert "cut 43 of 144 neurons (29.86%)" in text
    assert len(text.splitlines()) == 6


def test_more_worthless_neurons_than_are_cut_are_mentioned(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    tiny(**CHEAP)
    file = scores_beside(tiny.output(), "magnitude")
    ranked = NeuronScores.load(file)
    assert "score 0" not in capsys.readouterr().err
    replace(ranked, scores={layer: values * (values > values.mean()) for layer, values in ranked.scores.items()}).save(file)
    tiny("other", scores=file)
    assert "more than the 43 to cut: among them deeper layers go first" in capsys.readouterr().err


def test_it_is_the_loss_of_the_model_with_zeroed_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, texts = SlimSettings(**QUICK), rows(40)
    context = tiny_context(tmp_path)
    state = {name: tensor.clone() for name, tensor in context.encoder.transformers_model.state_dict().items()}
    stay = {0: (1, 5, 47), 4: tuple(range(10))}
    before, after = say_loss(context, texts, settings, stay)
    assert f"{before:.4f} with all neurons, {after:.4f} without" in capsys.readouterr().err
    assert {name: tensor.tolist() for name, tensor in context.encoder.transformers_model.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in state.items()
    }

    def loss() -> float:
        measure = build_loss(context.encoder, settings.for_training())
        with torch.no_grad():
            found = [float(measure(columns, torch.empty(0))) for columns in batches(context, texts, settings)]
        return sum(found) / len(found)

    assert before == pytest.approx(loss(), abs=1e-5)
    with torch.no_grad():
        for layer, out in context.outs():
            gone = [neuron for neuron in range(context.width(layer)) if layer in stay and neuron not in stay[layer]]
            out.get_parameter("weight")[:, gone] = 0
    assert after == pytest.approx(loss(), abs=1e-5)
    assert abs(after - before) > 1e-4


def test_an_output_that_is_a_folder_is_refused_before_the_work(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prune2vec.training.slim.load_context", not_again)
    tiny.output().mkdir()
    with pytest.raises(CheckpointError, match=r"slim\.json: a folder of that name is there; give the name of a file"):
        tiny(**CHEAP)


def test_the_old_name_of_importance_is_told_the_new_one(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match=r"slim: unknown key 'ranking'; it is called 'importance' now"):
        tiny(**QUICK, ranking="wanda")

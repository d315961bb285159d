"""Settings that fit each other, the presets' values, and trackers that are asked before work begins."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers.integrations.integration_utils as integrations

from prune2vec.errors import ConfigError
from prune2vec.training.train import train_encoder
from prune2vec.training.train_settings import PRESETS, TrainSettings, check_tracker


def test_defaults_are_the_papers() -> None:
    settings = TrainSettings()
    paper = (settings.lora_rank, settings.lora_alpha, settings.lora_dropout, settings.learning_rate, settings.steps)
    assert paper == (16, 32, 0.05, 2e-4, 1000)
    assert (settings.warmup, settings.batch_size, settings.max_length, settings.scale) == (300, 64, 512, 50)
    assert (settings.seed, settings.target_modules, settings.weight_decay, settings.max_grad_norm) == (42, "all-linear", 0, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"warmup_steps": 100, "steps": 100}, "warmup_steps 100 must be below steps 100"),
        ({"teacher": "full", "cached": True}, "teacher works with neither cached nor matryoshka_dims"),
        ({"teacher_vectors": "v", "matryoshka_dims": [8]}, "teacher_vectors works with neither cached nor matryoshka_dims"),
        ({"teacher": "full", "distil": "scores", "hard_negatives": 0}, "distil 'scores' compares a row's documents"),
        ({"distil_from": "full"}, "unknown key 'distil_from'; it is called 'teacher' now"),
        ({"teacher": "full", "distil": "embeddings"}, "got 'embeddings'; it is called 'vectors' now"),
        ({"teacher": "full", "distil_distance": "kl"}, "'kl' does not fit distil 'vectors'; give cosine or squared"),
        ({"teacher": "f", "distil": "similarities", "distil_distance": "cosine"}, "'similarities'; give kl or squared"),
        ({"teacher": ""}, "teacher: String should have at least 1 character"),
        ({"batch_size": 1}, "batch_size: Input should be greater than or equal to 2, got 1"),
        ({"matryoshka_dims": [0]}, "matryoshka_dims.0"),
        ({"methud": "lora"}, "unknown key 'methud'; did you mean 'method'"),
    ],
)
def test_what_does_not_fit_is_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainSettings.build(values, where="train()")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_warmup_is_three_tenths_unless_given() -> None:
    assert TrainSettings(steps=20).warmup == 6
    assert TrainSettings(steps=1).warmup == 0
    assert TrainSettings(steps=20, warmup_steps=0).warmup == 0


def test_identity_leaves_out_what_changes_no_number() -> None:
    same = TrainSettings(save_every=7, report_to="tensorboard", gradient_checkpointing="on", restart=True)
    assert same.identity() == TrainSettings().identity()
    assert TrainSettings(scale=20).identity() != TrainSettings().identity()
    # Equal texts share a draw of the dropout only where they are computed once.
    assert TrainSettings(packing="off").identity() != TrainSettings().identity()
    assert TrainSettings(train_top=2).identity() != TrainSettings().identity()


def test_effir_is_the_papers_recipe() -> None:
    chosen = TrainSettings(preset="effir")
    stated = (chosen.lora_rank, chosen.lora_alpha, chosen.learning_rate, 1 / chosen.scale, chosen.hard_negatives)
    assert stated == (32, 64, 1e-4, 0.02, 7)
    assert (chosen.distil, chosen.instruction, chosen.target_modules) == ("data", "effir", "all-linear")
    assert chosen.warmup == 100
    assert TrainSettings(preset="effir", steps=20).warmup == 6
    assert TrainSettings(preset="effir", warmup_steps=150).warmup == 150


def test_distil_trains_all_weights_with_a_schedule_to_zero() -> None:
    chosen = TrainSettings(preset="distil", steps=800)
    assert (chosen.method, chosen.learning_rate, chosen.schedule, chosen.warmup) == ("full", 1e-4, "linear-to-zero", 80)
    assert TrainSettings(preset="distil", warmup_steps=5).warmup == 5


def test_every_preset_sets_known_keys_to_what_the_class_makes_of_them() -> None:
    for name, values in PRESETS.items():
        made = TrainSettings.build({"preset": name}, where="train()").model_dump()
        assert {key: made[key] for key in values} == dict(values)


def test_the_help_says_how_to_prune_for_it() -> None:
    text = " ".join((TrainSettings.model_fields["preset"].description or "").split())
    assert "prune (and slim) the model for it with --pooling lasttoken --instruction effir" in text


def test_what_is_set_explicitly_stays() -> None:
    chosen = TrainSettings.build({"preset": "effir", "lora-rank": 8, "hard_negatives": 2}, where="train()")
    assert (chosen.lora_rank, chosen.hard_negatives, chosen.lora_alpha) == (8, 2, 64)


def test_an_encoder_as_teacher_replaces_the_rows_scores() -> None:
    assert TrainSettings(preset="effir", teacher=Path("full")).distil == "vectors"
    assert TrainSettings(preset="effir", teacher_vectors="made").distil == "vectors"
    with pytest.raises(ConfigError, match="distil 'data' and teacher exclude each other"):
        TrainSettings.build({"preset": "effir", "distil": "data", "teacher": "full"}, where="train()")


@pytest.mark.parametrize(("distil", "usual"), [("vectors", "cosine"), ("similarities", "kl"), ("scores", "kl")])
def test_each_kind_of_distillation_has_its_usual_distance(distil: str, usual: str) -> None:
    assert TrainSettings(teacher="full", distil=distil).distance == usual


def test_a_preset_on_top_of_settings_replaces_the_other_presets_defaults() -> None:
    given = TrainSettings(preset="effir", learning_rate=3e-3).model_dump(exclude_unset=True)
    assert given == {"preset": "effir", "learning_rate": 3e-3}
    changed = TrainSettings.build({**given, "preset": "l3prune"}, where="train()")
    assert changed == TrainSettings(learning_rate=3e-3)


def test_settings_written_down_in_full_are_the_same_settings() -> None:
    chosen = TrainSettings(preset="effir", lora_rank=4, steps=50)
    again = TrainSettings.build(chosen.model_dump(mode="json"), where="recipe")
    assert again == chosen
    assert again.identity() == chosen.identity()


def test_identity_is_what_came_of_a_preset_not_its_name() -> None:
    chosen = TrainSettings(preset="effir")
    spelt = {**chosen.model_dump(), "preset": "l3prune", "warmup_steps": chosen.warmup}
    assert TrainSettings(**spelt).identity() == chosen.identity()
    assert TrainSettings(preset="effir", steps=50).identity() != TrainSettings(preset="effir").identity()
    assert TrainSettings(warmup_steps=300).identity() == TrainSettings().identity()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "efir"}, "preset: Input should be 'l3prune', 'effir' or 'distil', got 'efir'"),
        ({"preset": ["effir"]}, "preset: Input should be"),
        ({"preset": "effir", "lora_rnk": 4}, "unknown key 'lora_rnk'; did you mean 'lora_rank'"),
        ({"preset": "effir", "lora_rank": 0}, "lora_rank: Input should be greater than or equal to 1, got 0"),
        ({"preset": "effir", "cached": True}, "distil 'data' works with neither cached nor matryoshka_dims"),
        ({"preset": "effir", "hard_negatives": 0}, "distil 'data' compares a row's documents; .* or distil to none"),
        ({"distil": "none", "teacher": "full"}, "distil 'none' and teacher exclude each other"),
    ],
)
def test_what_does_not_fit_a_preset_is_one_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        TrainSettings.build(values, where="train()")
    assert "\n" not in str(caught.value)


def test_an_unknown_tracker_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'tensorbord' cannot be used: tensorbord is not supported, only .*tensorboard"):
        train_encoder(tmp_path / "not there", "nothing.jsonl", tmp_path / "out", report_to="tensorbord")
    assert not list(tmp_path.iterdir())


def test_a_tracker_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrations, "is_wandb_available", lambda: False)
    with pytest.raises(ConfigError, match=r"report_to 'wandb' cannot be used: .*pip install wandb"):
        check_tracker("wandb")


@pytest.mark.parametrize("name", ["none", "all"])
def test_none_and_all_need_nothing(name: str) -> None:
    check_tracker(name)

"""Defaults are the paper's; what does not fit together is refused before anything is loaded."""

from __future__ import annotations

import pytest

from prune2vec.errors import ConfigError
from prune2vec.training.train_settings import TrainSettings


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
        ({"distil_from": "full", "cached": True}, "distil_from works with neither cached nor matryoshka_dims"),
        ({"distil_from": "full", "hard_negatives": 0}, "distil 'scores' compares a row's documents"),
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

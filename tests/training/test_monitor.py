"""A gradient that is not finite stops the run before it reaches the weights."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from prune2vec.errors import TrainingError
from prune2vec.resume import WorkFolder, read_lines
from prune2vec.training.monitor import TrainingMonitor
from prune2vec.training.training_data import BatchStats


@pytest.fixture
def watch(tmp_path: Path) -> TrainingMonitor:
    notes = deque([BatchStats(dataset="nq", tokens=10, texts=2, cut=0)])
    return TrainingMonitor(WorkFolder.beside(tmp_path / "out"), notes=notes, advance=lambda n: None, peak=[1], dtype="bfloat16")


def begin(watch: TrainingMonitor, tmp_path: Path, step: int) -> tuple[TrainingArguments, TrainerState, TrainerControl]:
    state = TrainerState(global_step=step)
    given = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True), state, TrainerControl()
    watch.on_step_begin(*given)
    return given


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_gradient_is_checked_before_the_step(watch: TrainingMonitor, tmp_path: Path, value: float) -> None:
    given = begin(watch, tmp_path, 41)
    model = nn.Linear(2, 1)
    model.weight.grad, model.bias.grad = torch.ones(1, 2), torch.ones(1)
    watch.on_pre_optimizer_step(*given, model=model)
    model.weight.grad[0, 1] = value
    with pytest.raises(TrainingError, match=r"^step 42 \(data set nq\): the gradient is not finite in bfloat16; .* float32"):
        watch.on_pre_optimizer_step(*given, model=model)


def test_each_part_of_a_loss_is_checked(watch: TrainingMonitor, tmp_path: Path) -> None:
    begin(watch, tmp_path, 0)
    good, bad = torch.tensor(1.0), torch.tensor(float("inf"))
    watch.check_loss(nn.Identity(), (), {"contrastive": good, "distillation": good})
    with pytest.raises(TrainingError, match="the distillation loss is not finite"):
        watch.check_loss(nn.Identity(), (), {"contrastive": good, "distillation": bad})
    with pytest.raises(TrainingError, match="the loss is not finite"):
        watch.check_loss(nn.Identity(), (), bad)


def test_a_line_of_the_curve_has_the_peak_of_this_training(watch: TrainingMonitor, tmp_path: Path) -> None:
    work = WorkFolder.beside(tmp_path / "out")
    work.folder.mkdir()
    watch.on_log(*begin(watch, tmp_path, 1), logs={"loss": 2.0, "learning_rate": 0.1, "grad_norm": 1.0})
    (line,) = read_lines(work.curve)
    assert (line["loss"], line["tokens"], line["peak_memory_bytes"]) == (2.0, 10, 1)

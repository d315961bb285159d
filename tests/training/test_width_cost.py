"""The loss that a cut of width costs: that of the model whose outgoing weights are zero where neurons go."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prune2vec.training.calibration import batches, train_settings
from prune2vec.training.objective import build_loss
from prune2vec.training.slim_settings import SlimSettings
from prune2vec.training.width_cost import say_loss
from tests.training.encoders import rows
from tests.training.subjects import QUICK, tiny_subject


def test_it_is_the_loss_of_the_model_with_zeroed_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, texts = SlimSettings(**QUICK), rows(40)
    subject = tiny_subject(tmp_path)
    state = {name: tensor.clone() for name, tensor in subject.model.state_dict().items()}
    stay = {0: (1, 5, 47), 4: tuple(range(10))}
    before, after = say_loss(subject, texts, settings, stay)
    assert f"{before:.4f} with all neurons, {after:.4f} without" in capsys.readouterr().err
    assert {name: tensor.tolist() for name, tensor in subject.model.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in state.items()
    }

    def loss() -> float:
        measure = build_loss(subject.encoder, train_settings(settings))
        with torch.no_grad():
            found = [float(measure(columns, torch.empty(0))) for columns in batches(subject, texts, settings)]
        return sum(found) / len(found)

    assert before == pytest.approx(loss(), abs=1e-5)
    with torch.no_grad():
        for layer, out in subject.outs():
            gone = [neuron for neuron in range(subject.width(layer)) if layer in stay and neuron not in stay[layer]]
            out.get_parameter("weight")[:, gone] = 0
    assert after == pytest.approx(loss(), abs=1e-5)
    assert abs(after - before) > 1e-4

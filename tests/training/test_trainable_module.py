"""A part that is trained in place of adapters: it alone moves, and it alone is in checkpoints."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from torch import nn

from prune2vec.training.fit import fit
from prune2vec.training.gates import Gates
from prune2vec.training.objective import build_loss
from prune2vec.training.packed_loss import without_padding
from prune2vec.training.train import prepare
from prune2vec.training.train_settings import TrainSettings
from tests.training.subjects import tiny_subject
from tests.training.test_packed_loss import assert_equal_steps, columns, count_tokens, stepped
from tests.training.test_train import DATA


class Bias:
    """One vector, added to the token states."""

    def __init__(self) -> None:
        self.restored: list[str] = []

    def install(self, encoder: SentenceTransformer) -> None:
        encoder.requires_grad_(False)
        self.value = nn.Parameter(torch.zeros(32))
        encoder[0].register_parameter("bias", self.value)
        encoder[0].register_forward_hook(self._add)

    def _add(self, module: nn.Module, args: object, output: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**output, "token_embeddings": output["token_embeddings"] + self.value}

    def loss(self, loss: nn.Module) -> nn.Module:
        return loss

    def save(self, folder: Path) -> None:
        torch.save(self.value.detach(), folder / "bias.pt")

    def restore(self, folder: Path) -> None:
        self.restored.append(folder.name)
        self.value.data.copy_(torch.load(folder / "bias.pt"))


def run(small: Path, output: Path, steps: int) -> tuple[Bias, SentenceTransformer]:
    settings = TrainSettings(steps=steps, batch_size=8, save_every=2, dtype="float32", learning_rate=0.01, schedule="constant")
    encoder, job = prepare(small, DATA, output, settings)
    job = dataclasses.replace(job, identity={})
    part = Bias()
    fit(job, encoder, job.work.open({}, restart=False), part=part)
    return part, encoder


def test_only_the_part_is_trained_and_kept(small: Path, tmp_path: Path) -> None:
    part, encoder = run(small, tmp_path / "out", 4)
    assert part.value.abs().min() > 0
    assert [name for name, parameter in encoder.named_parameters() if parameter.requires_grad] == ["0.bias"]
    assert not any("lora" in name for name, _ in encoder.named_parameters())
    assert {file.suffix for file in (tmp_path / ".out.training" / "checkpoint-4").iterdir()} == {".pt", ".pth", ".json"}
    assert torch.equal(torch.load(tmp_path / ".out.training" / "checkpoint-4" / "bias.pt"), part.value)


def test_a_run_goes_on_from_the_parts_checkpoint(small: Path, tmp_path: Path) -> None:
    whole, _ = run(small, tmp_path / "whole", 6)
    run(small, tmp_path / "cut", 4)
    part, _ = run(small, tmp_path / "cut", 6)
    assert part.restored == ["checkpoint-4"]
    # The shorter run warmed up in fewer steps, so only near.
    assert (part.value - whole.value).abs().max() < 0.02
    assert part.value.abs().max() > 0.03


def test_gates_get_the_gradients_of_the_plain_step(tmp_path: Path) -> None:
    subject = tiny_subject(tmp_path)
    encoder = subject.encoder.train()
    gates = Gates(subject, penalty=1e-2)
    gates.install(encoder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for gate in gates.values.values():
            gate.add_(0.5 * torch.randn(gate.shape, generator=generator))
    loss = gates.loss(build_loss(encoder, TrainSettings(scale=20)))
    theirs = stepped(encoder, loss, columns(encoder))
    assert len(theirs[1]) == len(gates.values)
    with without_padding(loss, [encoder], "on", max_length=64) as (packed, _), count_tokens(encoder) as counts:
        assert_equal_steps(stepped(encoder, packed, columns(encoder)), theirs)
    assert len(counts) == 1

"""Gates: one learnt factor a neuron, ``W_out(relu(z) * a)`` (EffiR, section 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.utils.hooks import RemovableHandle

from prune2vec.training.ranking_context import RankingContext

_FILE = "gates.safetensors"
_NAME = "gate"


class Gates:
    """The gates of all MLPs of a subject; at 1, where they start, they change no output by a bit.

    They are fp32 whatever the model is in, and so are their gradients: next to 1, bf16 has no room for a step below 0.004.
    The product with an activation is taken in the wider of both formats and rounded to the activation's.
    """

    def __init__(self, subject: RankingContext, *, penalty: float = 0.0, sharpness: float = 5.0) -> None:
        self._subject = subject
        self._penalty = penalty
        self._sharpness = sharpness
        self._handles: list[RemovableHandle] = []
        self.values: dict[int, nn.Parameter] = {}

    def install(self, encoder: SentenceTransformer) -> None:
        """Freeze the encoder and put open gates before the layers that lead out of its MLPs."""
        encoder.requires_grad_(False)
        for layer, out in self._subject.outs():
            weight = out.get_parameter("weight")
            dtype = torch.promote_types(weight.dtype, torch.float32)
            gate = nn.Parameter(torch.ones(self._subject.width(layer), dtype=dtype, device=weight.device))
            out.register_parameter(_NAME, gate)
            self._handles.append(out.register_forward_pre_hook(_gated))
            self.values[layer] = gate

    def remove(self) -> None:
        """Take the gates out again; their values stay readable here."""
        for handle in self._handles:
            handle.remove()
        for _, out in self._subject.outs():
            delattr(out, _NAME)
        self._handles.clear()

    def loss(self, loss: nn.Module) -> nn.Module:
        """Return the encoder's loss plus the penalty on open gates."""
        return PenalisedLoss(loss, self.values, weight=self._penalty, sharpness=self._sharpness)

    def scores(self) -> dict[int, Tensor]:
        """Return how far each gate is open, relu(z), as fp32 on the CPU."""
        return {layer: relu(gate.detach()).float().cpu() for layer, gate in self.values.items()}

    def statistics(self) -> dict[str, float]:
        """Return mean, extremes and the shares of closed (z <= 0) and half-closed (z < 0.5) gates, of all layers together."""
        every = torch.cat([gate.detach().float().cpu() for gate in self.values.values()])
        return {
            "min": every.min().item(),
            "mean": every.mean().item(),
            "max": every.max().item(),
            "closed": (every <= 0).float().mean().item(),
            "below_half": (every < 0.5).float().mean().item(),
        }

    def save(self, folder: Path) -> None:
        """Write the gates into an existing folder."""
        save_file({str(layer): gate.detach().cpu().contiguous() for layer, gate in self.values.items()}, folder / _FILE)

    def restore(self, folder: Path) -> None:
        """Read back what ``save`` wrote, into the installed gates."""
        saved = load_file(folder / _FILE)
        with torch.no_grad():
            for layer, gate in self.values.items():
                gate.copy_(saved[str(layer)])


def _gated(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    activation, *others = args
    return (activation * relu(module.get_parameter(_NAME))).to(activation.dtype), *others


class PenalisedLoss(nn.Module):
    """A loss plus ``weight * sum sigmoid(sharpness * relu(z))`` over all gates z.

    The penalty draws open gates down a little; at 0 a gate still costs ``weight / 2``, so it counts nothing.
    """

    def __init__(self, loss: nn.Module, gates: Mapping[int, nn.Parameter], *, weight: float, sharpness: float) -> None:
        super().__init__()
        self._loss = loss
        # In a plain list: as parameters of the encoder they are known to the optimiser already.
        self._gates = list(gates.values())
        self._weight = weight
        self._sharpness = sharpness

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor) -> dict[str, Tensor]:
        """Return the parts by name; the trainer adds them up and logs each."""
        found = self._loss(sentence_features, labels)
        parts = found if isinstance(found, dict) else {"contrastive": found}
        return {**parts, "penalty": self._weight * self.penalty()}

    def penalty(self) -> Tensor:
        """Return the sum over all gates, unweighted."""
        return torch.stack([torch.sigmoid(self._sharpness * relu(gate)).sum() for gate in self._gates]).sum()

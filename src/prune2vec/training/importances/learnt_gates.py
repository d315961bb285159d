"""Gates: one learnt factor a neuron, ``W_out(relu(z) * a)``, and the importance that they come to (EffiR, section 3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prune2vec.data.triplet import Triplet
from prune2vec.progress import say
from prune2vec.resume import append_line, cut_back, read_lines, step_of
from prune2vec.training.fit import TrainingJob, fit
from prune2vec.training.importance_context import ImportanceContext
from prune2vec.training.neuron_importance import LOSS, STEPS, TEXTS, importances
from prune2vec.training.processes import check_one_gpu
from prune2vec.training.slim_settings import SlimSettings
from prune2vec.training.training_data import training_data

STATISTICS = "gates.jsonl"
_REPORTS = 10
_FILE = "gates.safetensors"
_NAME = "gate"


class Gates:
    """The gates of all MLPs of a context; at 1, where they start, they change no output by a bit.

    They are fp32 whatever the model is in, and so are their gradients: next to 1, bf16 has no room for a step below 0.004.
    The product with an activation is taken in the wider of both dtypes and rounded to the activation's.
    """

    def __init__(self, context: ImportanceContext, *, penalty: float = 0.0, sharpness: float = 5.0) -> None:
        self._context = context
        self._penalty = penalty
        self._sharpness = sharpness
        self._handles: list[RemovableHandle] = []
        self.values: dict[int, nn.Parameter] = {}

    def install(self, encoder: SentenceTransformer) -> None:
        """Freeze the encoder and put open gates before the layers that lead out of its MLPs."""

        def gated(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            activation, *others = args
            return (activation * relu(module.get_parameter(_NAME))).to(activation.dtype), *others

        encoder.requires_grad_(False)
        for layer, out in self._context.outs():
            weight = out.get_parameter("weight")
            dtype = torch.promote_types(weight.dtype, torch.float32)
            gate = nn.Parameter(torch.ones(self._context.width(layer), dtype=dtype, device=weight.device))
            out.register_parameter(_NAME, gate)
            self._handles.append(out.register_forward_pre_hook(gated))
            self.values[layer] = gate

    def remove(self) -> None:
        """Take the gates out again; their values stay readable here."""
        for handle in self._handles:
            handle.remove()
        for _, out in self._context.outs():
            delattr(out, _NAME)
        self._handles.clear()

    def loss(self, loss: nn.Module) -> nn.Module:
        """Return the encoder's loss plus the penalty on open gates."""
        return PenalisedLoss(loss, list(self.values.values()), weight=self._penalty, sharpness=self._sharpness)

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


class PenalisedLoss(nn.Module):
    """A loss plus ``weight * sum sigmoid(sharpness * relu(z))`` over all gates z.

    The penalty draws open gates down a little; at 0 a gate still costs ``weight / 2``, so it counts nothing.
    """

    def __init__(self, loss: nn.Module, gates: list[nn.Parameter], *, weight: float, sharpness: float) -> None:
        super().__init__()
        self._loss = loss
        # In a plain list: as parameters of the encoder they are known to the optimiser already.
        self._gates = gates
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


class GateWatch(TrainerCallback):
    """Adds a line on how far the gates are open to a JSON-lines file, ``every`` so many steps."""

    def __init__(self, gates: Gates, file: Path, *, every: int) -> None:
        self._gates = gates
        self._file = file
        self._every = every

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add a line, after the last step too."""
        if state.global_step % self._every and state.global_step < state.max_steps:
            return
        found = self._gates.statistics()
        append_line(self._file, {"step": state.global_step, **found})
        say(
            f"step {state.global_step}: gates {found['min']:.3f} to {found['max']:.3f}, mean {found['mean']:.4f}; "
            f"{found['closed']:.1%} closed, {found['below_half']:.1%} below 0.5"
        )


@importances.register("gates", reads=(TEXTS, LOSS, STEPS))
def gates(context: ImportanceContext, triplets: Sequence[Triplet], settings: SlimSettings) -> dict[int, Tensor]:
    """How far a learnt gate on the neuron is open, relu(z), after training gates alone (EffiR, arXiv 2512.20612, section 3).

    The gates start at 1 and are trained with AdamW without weight decay on the training loss plus a penalty; all else is
    frozen. Resumes after an interruption, to the same result.
    """
    check_one_gpu(settings.device)
    chosen = settings.for_training()
    job = TrainingJob(
        base=context.output.parent,
        output=context.output,
        data=training_data(triplets, context.text, chosen, quiet=True),
        dev={},
        settings=chosen,
        device=context.device,
        dtype=str(context.dtype).removeprefix("torch."),
        identity=context.identity,
    )
    learnt = Gates(context, penalty=settings.gate_penalty, sharpness=settings.gate_sharpness)
    resume = job.work.open(job.identity, restart=settings.restart)
    done = step_of(resume) if resume else 0
    statistics = job.work.folder / STATISTICS
    cut_back(statistics, done)
    try:
        if resume is not None and done >= settings.steps:
            learnt.install(context.encoder)
            learnt.restore(resume)
        else:
            watch = GateWatch(learnt, statistics, every=max(1, settings.steps // _REPORTS))
            fit(job, context.encoder, resume, (*context.callbacks, watch), part=learnt)
    finally:
        learnt.remove()
    curve = read_lines(job.work.curve)
    context.note(
        steps=settings.steps,
        gates=read_lines(statistics),
        loss={"first": curve[0]["loss"], "last": curve[-1]["loss"]},
        seconds=curve[-1]["elapsed_s"],
        tokens=sum(line["tokens"] for line in curve),
        cut_texts=sum(line["cut"] for line in curve),
    )
    return learnt.scores()

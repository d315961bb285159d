"""Callbacks of a run: the curve on disk, progress, whole checkpoints, and a stop at the first number that is not finite."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, distributed, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prune2vec.errors import TrainingError
from prune2vec.progress import Advance, say
from prune2vec.resume import WorkFolder, append_line, read_lines
from prune2vec.training.training_data import BatchStats


class TrainingMonitor(TrainerCallback):
    """Follows a run step by step.

    Args:
        work: Where curve and checkpoints are kept.
        notes: The collator's notes on the batches, oldest first.
        advance: Told of each step done.
        peak: Of the resident memory since the training began, a number that grows; on a GPU torch counts.
        dtype: For messages.
    """

    def __init__(
        self,
        work: WorkFolder,
        *,
        notes: deque[BatchStats],
        advance: Advance,
        peak: Sequence[int],
        dtype: str,
    ) -> None:
        self._work = work
        self._notes = notes
        self._advance = advance
        self._peak = peak
        self._dtype = dtype
        self._note: BatchStats | None = None
        self._step = 0
        self._parts: list[str] = []
        earlier = read_lines(work.curve)
        self._elapsed_before = earlier[-1]["elapsed_s"] if earlier else 0.0
        self._said_cut = any(record["cut"] for record in earlier)
        self._began = self._since = time.perf_counter()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep the present rhythm of checkpoints rather than a resumed checkpoint's."""
        if args.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(args.device)
        state.save_steps = int(args.save_steps)
        state.eval_steps = int(args.eval_steps or args.save_steps)
        self._began = self._since = time.perf_counter()

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Let a run that resumes in several processes go on in its epoch's order of the rows.

        The trainer sets the epoch of what it iterates, which then holds the sampler two wrappers deep, and reaches one.
        """
        if args.world_size > 1:
            kwargs["train_dataloader"].batch_sampler.batch_sampler.set_epoch(int(state.epoch or 0))

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take the note on this step's batch."""
        note = self._notes.popleft()
        if args.world_size > 1:
            # What the whole batch holds, of which this process has a share.
            counts = torch.tensor([note.tokens, note.texts, note.cut], device=args.device)
            distributed.all_reduce(counts)
            tokens, texts, cut = counts.tolist()
            note = replace(note, tokens=tokens, texts=texts, cut=cut)
        self._note = note
        self._step = state.global_step + 1
        if self._note.cut and not self._said_cut:
            self._said_cut = True
            say(f"texts longer than {kwargs['model'].max_seq_length} tokens are cut there; the record will say how many")

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop before a gradient that is not finite reaches the weights."""
        gradients = [parameter.grad for parameter in kwargs["model"].parameters() if parameter.grad is not None]
        if not torch.isfinite(torch.nn.utils.get_total_norm(gradients)):
            raise self._not_finite("gradient")

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Append one line to the curve."""
        logs: Mapping[str, Any] = kwargs.get("logs") or {}
        if "loss" not in logs or self._note is None or args.process_index:
            return
        now, note, device = time.perf_counter(), self._note, args.device
        memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else self._peak[0]
        record = {
            "step": state.global_step,
            "loss": logs["loss"],
            # Of parts that this step had not, the trainer logs zero.
            **{name: logs[name] for name in self._parts if name in logs},
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs["grad_norm"],
            "dataset": note.dataset,
            "tokens": note.tokens,
            "texts": note.texts,
            "cut": note.cut,
            "tokens_per_s": round(note.tokens / max(now - self._since, 1e-9), 1),
            "peak_memory_bytes": memory,
            "elapsed_s": round(self._elapsed_before + now - self._began, 3),
        }
        append_line(self._work.curve, record)
        self._since = now
        self._advance(1)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Append the scores on held-out rows."""
        if args.process_index:
            return
        metrics: Mapping[str, Any] = kwargs.get("metrics") or {}
        scores = {key.removeprefix("eval_"): value for key, value in metrics.items() if key.endswith("ndcg@10")}
        append_line(self._work.dev, {"step": state.global_step, **scores})
        say(f"step {state.global_step}: " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
        self._since = time.perf_counter()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Mark the checkpoint that was just written, by all processes, as whole."""
        if args.world_size > 1:
            distributed.barrier()
        if args.process_index == 0:
            self._work.complete(state.global_step)
        self._since = time.perf_counter()

    def check_loss(self, module: nn.Module, args: object, output: Tensor | dict[str, Tensor]) -> None:
        """Forward hook of the loss: stop when it is not finite."""
        parts = output if isinstance(output, dict) else {"loss": output}
        self._parts = [name for name in parts if name != "loss"]
        for name, value in parts.items():
            if not torch.isfinite(value.detach()).all():
                raise self._not_finite(name if name == "loss" else f"{name} loss")

    def _not_finite(self, what: str) -> TrainingError:
        where = f" (data set {self._note.dataset})" if self._note is not None else ""
        cure = "lower learning_rate" if self._dtype == "float32" else "set dtype to float32 or lower learning_rate"
        return TrainingError(
            f"step {self._step}{where}: the {what} is not finite in {self._dtype}; no weights were saved; "
            f"{cure}, or check the checkpoint's weights, and set restart"
        )

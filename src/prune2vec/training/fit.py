"""One run of sentence-transformers' trainer, set up from our settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.model_card import SentenceTransformerModelCardCallback
from torch import nn
from transformers import PrinterCallback, TrainerCallback

from prune2vec.errors import TrainingError
from prune2vec.models.quiet import quiet_transformers
from prune2vec.progress import progress
from prune2vec.pruning.encoder import check_finite, load_encoder
from prune2vec.training.activation_memory import Checkpointing, choose_checkpointing
from prune2vec.training.batch_plan import BatchPlan
from prune2vec.training.collate import NotingCollator
from prune2vec.training.dev import evaluators
from prune2vec.training.failures import explained_failures
from prune2vec.training.monitor import TrainingMonitor
from prune2vec.training.objective import build_loss, pooled_in_fp32
from prune2vec.training.packed_loss import without_padding
from prune2vec.training.train_settings import TrainSettings
from prune2vec.training.trainable_module import ModuleTrainer, TrainableModule
from prune2vec.training.training_data import TrainingData, TrainingTable
from prune2vec.training.work_folder import WorkFolder, step_of

_EPOCHS = 3  # Of the paper's schedule.


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """All that defines one run.

    Attributes:
        base: Folder of the encoder that is trained.
        output: Folder that is written in the end.
        data: What it is trained on.
        dev: Held-out tables, if any.
        settings: How.
        device: Where.
        dtype: Number format of the multiplications.
        identity: What must be the same for a checkpoint to be continued.
    """

    base: Path
    output: Path
    data: TrainingData
    dev: dict[str, TrainingTable]
    settings: TrainSettings
    device: torch.device
    dtype: torch.dtype
    identity: dict[str, Any]

    @property
    def work(self) -> WorkFolder:
        """Where checkpoints and curves go."""
        return WorkFolder.beside(self.output)

    @property
    def dtype_name(self) -> str:
        """The number format's name."""
        return str(self.dtype).removeprefix("torch.")


def fit(
    job: TrainingJob,
    encoder: SentenceTransformer,
    resume: Path | None,
    callbacks: Sequence[TrainerCallback] = (),
    *,
    part: TrainableModule | None = None,
) -> None:
    """Train from the start, or from a checkpoint, to the last step; the last checkpoint holds the result.

    Args:
        job: What to do.
        encoder: The encoder of ``job.base``, on its device, with what is trained chosen; it is changed.
        resume: The checkpoint to go on from.
        callbacks: Called before ours.
        part: What is trained in place of adapters or weights.

    Raises:
        DataError: The tables cannot fill batches without repeating a text.
        TrainingError: A loss or a gradient is not finite, or more than one GPU is in sight.
    """
    settings = job.settings
    with job.work.left_on_failure(), quiet_transformers(), pooled_in_fp32(encoder):
        adapted = settings.method == "lora" and part is None
        if part is not None:
            torch.manual_seed(settings.seed)
            part.install(encoder)
        teacher = _teacher(job)
        loss = build_loss(encoder, settings, teacher)
        loss = loss if part is None else part.loss(loss)
        encoders = [encoder] if teacher is None else [encoder, teacher]
        with without_padding(loss, encoders, settings.packing, max_length=settings.max_length) as (loss, packing):
            collator = NotingCollator.of(encoder, job.data.prompts)
            trainer = make_trainer(job, encoder, loss, collator, part)
            plan = BatchPlan(job.data, trainer, settings.steps)
            checkpointing = _checkpointing(settings, encoder, plan, padded=not packing["packed"])
            notes = {"gradient_checkpointing": checkpointing.to_json(), "packing": packing}
            job.work.note({"batches": plan.counts(), **notes})
            with progress("training", settings.steps, done=step_of(resume) if resume else 0) as advance:
                restore = resume if adapted else None
                watch = TrainingMonitor(job.work, notes=collator.notes, advance=advance, resumed=restore, dtype=job.dtype_name)
                for callback in (*callbacks, watch):
                    trainer.add_callback(callback)
                loss.register_forward_hook(watch.check_loss)
                with explained_failures(job.work.folder):
                    trainer.train(resume_from_checkpoint=str(resume) if resume else None)


def make_trainer(
    job: TrainingJob,
    encoder: SentenceTransformer,
    loss: nn.Module,
    collator: NotingCollator,
    part: TrainableModule | None = None,
) -> SentenceTransformerTrainer:
    """Return sentence-transformers' trainer for a run, without a word of its own on the terminal."""
    # Each checkpoint gets a model card; it must not ask the hub about the base, nor look for examples in the data.
    encoder.model_card_data.local_files_only = True
    encoder.model_card_data.widget = [{"text": ""}]
    arguments = _arguments(job)
    if arguments.n_gpu > 1:
        raise TrainingError(f"{arguments.n_gpu} GPUs are in sight, training uses one; set CUDA_VISIBLE_DEVICES to one of them")
    trainer = (SentenceTransformerTrainer if part is None else ModuleTrainer)(
        model=encoder,
        args=arguments,
        train_dataset=job.data.datasets(),
        loss=loss,
        evaluator=list(evaluators(job.dev, rows=job.settings.dev_rows, batch_size=job.settings.mini_batch_size)) or None,
        data_collator=collator,
    )
    if isinstance(trainer, ModuleTrainer) and part is not None:
        trainer.part = part
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(SentenceTransformerModelCardCallback)
    return trainer


def _teacher(job: TrainingJob) -> SentenceTransformer | None:
    folder = job.settings.distil_from
    if folder is None:
        return None
    teacher = load_encoder(folder, device=str(job.device), dtype=job.dtype_name)
    check_finite(teacher, folder)
    return teacher


def _arguments(job: TrainingJob) -> SentenceTransformerTrainingArguments:
    settings = job.settings
    return SentenceTransformerTrainingArguments(
        output_dir=str(job.work.folder),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        dataloader_drop_last=True,
        dataloader_pin_memory=job.device.type == "cuda",
        batch_sampler="no_duplicates",
        multi_dataset_batch_sampler="proportional",
        prompts=job.data.prompts,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup,
        **_schedule(settings, job.data),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        use_cpu=job.device.type == "cpu",
        # Adapters are fp32 beside a bf16 base; full weights stay fp32 and are multiplied in bf16.
        bf16=settings.method == "full" and job.dtype is torch.bfloat16,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=settings.save_every,
        save_total_limit=2,
        eval_strategy="steps" if job.dev else "no",
        eval_steps=settings.save_every,
        report_to=settings.report_to,
        disable_tqdm=True,
    )


def _schedule(settings: TrainSettings, data: TrainingData) -> dict[str, Any]:
    """Return the trainer's arguments for the schedule.

    The paper's linear schedule is laid out for three epochs and left when the steps are over. The trainer lays its own out
    for the steps, so the same line is asked for as a polynomial of power 1 with its height at the last step.
    """
    if settings.schedule != "linear":
        names = {"constant": "constant_with_warmup", "cosine": "cosine", "linear-to-zero": "linear"}
        return {"lr_scheduler_type": names[settings.schedule]}
    epoch = sum(len(table.rows) // settings.batch_size for table in data.tables.values())
    end = max(_EPOCHS * epoch, settings.steps)
    left = (end - settings.steps) / (end - settings.warmup)
    return {
        "lr_scheduler_type": "polynomial",
        "lr_scheduler_kwargs": {"power": 1.0, "lr_end": settings.learning_rate * left},
    }


def _checkpointing(settings: TrainSettings, encoder: SentenceTransformer, plan: BatchPlan, *, padded: bool) -> Checkpointing:
    asked = settings.gradient_checkpointing
    largest = plan.largest(encoder, padded=padded) if asked == "auto" else []
    rows = min(settings.batch_size, settings.mini_batch_size) if settings.cached else settings.batch_size
    return choose_checkpointing(encoder, asked, largest, rows=rows, padded=padded)

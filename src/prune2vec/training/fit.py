"""One run of sentence-transformers' trainer, set up from our settings."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss
from sentence_transformers.sentence_transformer.model_card import SentenceTransformerModelCardCallback
from torch import nn
from transformers import PrinterCallback, TrainerCallback

from prune2vec.data.beir import triplets_as_retrieval
from prune2vec.data.triplet import Triplet
from prune2vec.errors import CheckpointError, TrainingError
from prune2vec.files import explained_os_errors
from prune2vec.forward.packed import attention_of_any_shape
from prune2vec.machine import peak_memory
from prune2vec.progress import progress, quiet_transformers
from prune2vec.resume import WorkFolder, step_of
from prune2vec.training.adapters import restore_adapter
from prune2vec.training.elastic import ElasticLoss
from prune2vec.training.head_start import solve_start
from prune2vec.training.monitor import TrainingMonitor
from prune2vec.training.objective import DistilledLoss, ProjectionSaver, build_loss, pooled_in_fp32
from prune2vec.training.packed_loss import choose_checkpointing, without_padding
from prune2vec.training.processes import Processes
from prune2vec.training.train_settings import TrainSettings
from prune2vec.training.training_data import NotingCollator, Row, TrainingData, TrainingTable, largest_batch, plan_batches

_EPOCHS = 3  # Of the paper's schedule.
_LESS_MEMORY = "set gradient_checkpointing to on, lower batch_size or max_length, or use cached with a small mini_batch_size"
# How torch's archive writer says that the disk is full.
_CUT_SHORT = ("PytorchStreamWriter", "inline_container", "iostream error")


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """All that defines one run.

    Attributes:
        base: Folder of the encoder that is trained.
        dev: Held-out tables, if any.
        dtype: Of the multiplications: ``float32`` or ``bfloat16``.
        identity: What must be the same for a checkpoint to be resumed.
        depths: All depths that are trained, the whole encoder last; empty where it is trained alone.
        processes: Who trains together; the first alone writes.
    """

    base: Path
    output: Path
    data: TrainingData
    dev: dict[str, TrainingTable]
    settings: TrainSettings
    device: torch.device
    dtype: str
    identity: dict[str, Any]
    depths: tuple[int, ...] = ()
    processes: Processes = field(default_factory=Processes)

    @property
    def work(self) -> WorkFolder:
        """Where checkpoints and curves go."""
        return WorkFolder.beside(self.output)

    def left_on_failure(self) -> AbstractContextManager[None]:
        """As ``WorkFolder.left_on_failure``; of several processes the first sees to it."""
        return self.work.left_on_failure() if self.processes.first else nullcontext()


class TrainableModule(Protocol):
    """What is put into a frozen encoder and trained in place of adapters or its weights; checkpoints hold it alone."""

    def install(self, encoder: SentenceTransformer) -> None:
        """Freeze the encoder and put the module in; called once, with torch's generator seeded."""

    def loss(self, loss: nn.Module) -> nn.Module:
        """Return the loss to minimise, given that of the encoder."""

    def save(self, folder: Path) -> None:
        """Write the module into an existing folder."""

    def restore(self, folder: Path) -> None:
        """Read back what ``save`` wrote, into the installed module."""


class ModuleTrainer(SentenceTransformerTrainer):
    """sentence-transformers' trainer with checkpoints that hold one module instead of the whole encoder."""

    part: TrainableModule

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        self.part.save(folder)

    def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:
        self.part.restore(Path(checkpoint_path))


class AdapterTrainer(SentenceTransformerTrainer):
    """sentence-transformers' trainer that resumes adapters as they were saved: by itself it loads the base too, and rounds them."""

    def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:
        restore_adapter(self.model, Path(checkpoint_path))


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
        job: The run.
        encoder: The encoder of ``job.base``, on its device, with what is trained chosen; it is changed.
        resume: The checkpoint to resume from.
        callbacks: Called before ours.
        part: What is trained in place of adapters or weights.

    Raises:
        DataError: The tables cannot fill batches without repeating a text.
        TrainingError: A loss or a gradient is not finite, or a callback stopped the training.
    """
    settings = job.settings
    # Around all of it: checkpointed activations are computed anew in the backward pass, and unpacked texts by the library.
    with job.left_on_failure(), quiet_transformers(), pooled_in_fp32(encoder), attention_of_any_shape():
        if part is not None:
            torch.manual_seed(settings.seed)
            part.install(encoder)
        loss, projected = make_loss(job, encoder, part)
        with without_padding(loss, encoder, settings.packing, max_length=settings.max_length) as (loss, packing):
            collator = NotingCollator.of(encoder, job.data.prompts)
            trainer = make_trainer(job, encoder, loss, collator, part)
            batches = plan_batches(job.data, trainer, settings.steps)
            checkpointing = _checkpointing(job, encoder, batches, padded=not packing["packed"])
            done = step_of(resume) if resume else 0
            teacher = _start_near_teacher(job, encoder, batches, projected) if not done else job.work.notes().get("teacher")
            if job.processes.first:
                _note(job, batches, gradient_checkpointing=checkpointing, packing=packing, teacher=teacher)
            with peak_memory() as peak, progress("training", settings.steps, done=done) as advance:
                watch = TrainingMonitor(
                    job.work,
                    notes=collator.notes,
                    advance=advance,
                    peak=peak,
                    dtype=job.dtype,
                )
                kept = [ProjectionSaver(projected, job.work, resume)] if projected is not None else []
                for callback in (*callbacks, *kept, watch):
                    trainer.add_callback(callback)
                loss.register_forward_hook(watch.check_loss)
                if job.processes.rank:
                    torch.manual_seed(settings.seed + job.processes.rank)  # Each draws a dropout of its own.
                with explained_failures(job.work.folder):
                    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
            if trainer.state.global_step < settings.steps:
                raise TrainingError(
                    f"a callback stopped the training after step {trainer.state.global_step} of {settings.steps}"
                )


def run_ahead(job: TrainingJob, encoder: SentenceTransformer) -> list[tuple[str, list[Row]]] | None:
    """Return table and rows of every batch of a run that gets to less than half of its rows; None where it gets to more.

    A teacher then encodes what is learnt, and not a corpus of which little is.

    Raises:
        DataError: The tables cannot fill batches without repeating a text.
    """
    rows = sum(len(table.rows) for table in job.data.tables.values())
    if 2 * job.settings.steps * job.settings.batch_size >= rows:
        return None
    with job.left_on_failure(), quiet_transformers():
        trainer = make_trainer(job, encoder, nn.Identity(), NotingCollator.of(encoder, job.data.prompts))
        return plan_batches(job.data, trainer, job.settings.steps)


def make_loss(
    job: TrainingJob, encoder: SentenceTransformer, part: TrainableModule | None
) -> tuple[nn.Module, EmbedDistillLoss | None]:
    """Return the loss of a run, and that part of it, if any, which learns a projection into a teacher's space."""
    loss = build_loss(encoder, job.settings, job.data.teacher.vectors if job.data.teacher is not None else None)
    learnt = loss.distance.vectors if isinstance(loss, DistilledLoss) else None
    if job.depths:
        loss = ElasticLoss(encoder, loss, job.depths, job.settings)
    projected = learnt if learnt is not None and learnt.projection is not None else None
    return (loss if part is None else part.loss(loss)), projected


def _checkpointing(
    job: TrainingJob, encoder: SentenceTransformer, batches: Sequence[tuple[str, list[Row]]], *, padded: bool
) -> dict[str, Any]:
    settings, number = job.settings, job.processes.number
    asked = settings.gradient_checkpointing
    rows = settings.batch_size // number
    rows = min(rows, settings.mini_batch_size) if settings.cached else rows
    return choose_checkpointing(
        encoder,
        asked,
        largest_batch(batches, job.data, encoder, padded=padded) if asked == "auto" else [],
        rows=rows if job.device.type == "cuda" else rows * number,  # Processes on CPUs share their memory.
        padded=padded,
    )


def _start_near_teacher(
    job: TrainingJob, encoder: SentenceTransformer, batches: Sequence[tuple[str, list[Row]]], projected: EmbedDistillLoss | None
) -> dict[str, Any] | None:
    """Bring the encoder as near to its teacher, if any, as is to be had without training, and return facts about that teacher."""
    teacher, settings = job.data.teacher, job.settings
    if teacher is None:
        return None
    facts = dict(zip(("vectors", "dimension"), teacher.vectors.shape, strict=True))
    # Depths share the last layer, each of which would have it otherwise.
    solved = settings.distil == "vectors" and settings.distance == "cosine" and not job.depths
    start = solve_start(encoder, job.data, batches, projected.projection if projected is not None else None) if solved else None
    return {**facts, "projection": projected is not None, "start": start}


def _note(job: TrainingJob, batches: Sequence[tuple[str, list[Row]]], **facts: Any) -> None:
    """Keep facts about a run for its record."""
    counts = Counter(name for name, _ in batches)
    counted = {name: counts[name] for name in job.data.tables}
    job.work.note({"batches": counted, "processes": job.processes.number, **facts})


def make_trainer(
    job: TrainingJob,
    encoder: SentenceTransformer,
    loss: nn.Module,
    collator: NotingCollator,
    part: TrainableModule | None = None,
) -> SentenceTransformerTrainer:
    """Return sentence-transformers' trainer for a run, without a word of its own on the terminal."""
    # Checkpoints need no model card. What the trainer prepares for one all the same must not ask the hub about the base, nor look
    # for examples in the data.
    encoder.model_card_data.local_files_only = True
    encoder.model_card_data.widget = [{"text": ""}]
    encoder.save_pretrained = partial(encoder.save_pretrained, create_model_card=False)  # type: ignore[method-assign]
    arguments = _arguments(job)
    whole = AdapterTrainer if job.settings.method == "lora" else SentenceTransformerTrainer
    trainer = (whole if part is None else ModuleTrainer)(
        model=encoder,
        args=arguments,
        train_dataset=job.data.datasets(),
        loss=loss,
        evaluator=evaluators(job.dev, rows=job.settings.dev_rows, batch_size=job.settings.mini_batch_size) or None,
        data_collator=collator,
    )
    if isinstance(trainer, ModuleTrainer) and part is not None:
        trainer.part = part
    # Looking at held-out rows draws random numbers, which must not be those of the training.
    trainer.evaluate = isolated_randomness(job.settings.seed)(trainer.evaluate)  # type: ignore[method-assign]
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(SentenceTransformerModelCardCallback)
    return trainer


def _arguments(job: TrainingJob) -> SentenceTransformerTrainingArguments:
    """Return sentence-transformers' arguments for a run, without those of the hub and the terminal."""
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
        **schedule(settings, job.data),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        use_cpu=job.device.type == "cpu",
        # The batch of the settings is that of all processes: each gets a share, as it comes, of the same batches.
        accelerator_config={"split_batches": True},
        # Adapters are fp32 beside a bf16 base; full weights stay fp32 and are multiplied in bf16.
        bf16=settings.method == "full" and job.dtype == "bfloat16",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=settings.save_every,
        save_total_limit=2,
        eval_strategy="steps" if job.dev else "no",
        eval_steps=settings.save_every,
        report_to=settings.report_to,
        disable_tqdm=True,
    )


def schedule(settings: TrainSettings, data: TrainingData) -> dict[str, Any]:
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


def evaluators(tables: Mapping[str, TrainingTable], *, rows: int, batch_size: int) -> list[BaseEvaluator]:
    """Return one evaluator for each held-out table: retrieval among the documents of its first ``rows`` rows."""
    found: list[BaseEvaluator] = []
    for name, table in tables.items():
        retrieval = triplets_as_retrieval([row for row in table.rows[:rows] if isinstance(row, Triplet)])
        found.append(
            InformationRetrievalEvaluator(
                queries=dict(retrieval.queries),
                corpus=dict(retrieval.corpus),
                relevant_docs={query: set(grades) for query, grades in retrieval.qrels.items()},
                query_prompt=table.query_prompt,
                corpus_prompt=table.document_prompt,
                name=name,
                batch_size=batch_size,
                accuracy_at_k=[1],
                precision_recall_at_k=[10],
                map_at_k=[10],
                write_csv=False,
            )
        )
    return found


@contextmanager
def isolated_randomness(seed: int) -> Iterator[None]:
    """Seed the global generators that the trainer draws from, and give them back as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def explained_failures(folder: Path) -> Iterator[None]:
    """Turn running out of memory, or of space in ``folder``, into one of our errors.

    Raises:
        TrainingError: There is not enough memory.
        CheckpointError: A checkpoint cannot be written.
    """
    with explained_os_errors(folder):
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise TrainingError(f"out of GPU memory; {_LESS_MEMORY}") from error
        except RuntimeError as error:
            # The CPU's allocator and torch.save have no error types of their own.
            if "can't allocate memory" in str(error):
                raise TrainingError(f"out of memory; {_LESS_MEMORY}") from error
            if any(mark in str(error) for mark in _CUT_SHORT):
                raise CheckpointError(
                    f"cannot write {folder}: a checkpoint was cut short; free some space and run again"
                ) from error
            raise

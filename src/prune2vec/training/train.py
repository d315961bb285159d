"""``train``: a pruned checkpoint and triplets in, a trained encoder out; the same command goes on after a kill."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from transformers import TrainerCallback

from prune2vec.errors import TrainingError
from prune2vec.files import digest_json, digest_tree
from prune2vec.machine import pick_device, pick_dtype
from prune2vec.outputs import ENCODER, check_kind, check_ours, locked
from prune2vec.pruning.encoder import RECORD, check_finite, check_writable, load_encoder, read_record
from prune2vec.public import public
from prune2vec.training.adapters import choose_trained
from prune2vec.training.finish import finish
from prune2vec.training.fit import TrainingJob, fit
from prune2vec.training.randomness import isolated_randomness
from prune2vec.training.tracker import check_tracker
from prune2vec.training.train_settings import TrainSettings
from prune2vec.training.training_data import Data, Prompting, TrainingData, by_prompt, check_room, read, training_data
from prune2vec.training.work_folder import differences, step_of


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training run came to.

    Attributes:
        folder: The encoder.
        steps: Optimiser steps.
        resumed_from: The step this call went on from; None from the start, ``steps`` when nothing was left to train.
        final_loss: Mean loss of the last 50 steps.
        seconds: Time spent on the steps, by all calls together.
        tokens: Tokens trained on, without padding.
        cut_texts: Texts longer than the limit, of those trained on.
        merge_difference: Largest change of an embedding's component by merging, in fp32; None without adapters.
        dev: Last scores on held-out rows, by data set.
    """

    folder: Path
    steps: int
    resumed_from: int | None
    final_loss: float
    seconds: float
    tokens: int
    cut_texts: int
    merge_difference: float | None
    dev: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {**asdict(self), "folder": str(self.folder), "dev": dict(self.dev)}

    def render(self) -> str:
        """Return one line for people."""
        speed = self.tokens / self.seconds if self.seconds else 0.0
        return f"{self.folder}: {self.steps} steps, loss {self.final_loss:.4f}, {self.seconds:.0f} s, {speed:.0f} tokens/s"


@public("train", "checkpoint", "data", "output", settings=TrainSettings)
def train_encoder(
    checkpoint: Path | str,
    data: Data,
    output: Path | str,
    *,
    settings: TrainSettings | Mapping[str, Any] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **overrides: Any,
) -> TrainResult:
    """Train the encoder in ``checkpoint`` on triplets and save it, adapters merged, to ``output``.

    Checkpoints live in a hidden folder beside the output until the end; the same call made again goes on from the last
    whole one, to the same losses. A call for an output that is already finished returns its result.

    Args:
        checkpoint: Folder that ``prune`` wrote.
        data: Triplets, or a file, a folder, a hub data set, or several.
        output: Folder to write.
        settings: How; the paper's recipe by default.
        callbacks: More callbacks for transformers' trainer, to watch the run.
        **overrides: Single settings, over ``settings``.

    Raises:
        ConfigError: A setting is unknown or does not fit, or another call writes the output.
        DataError: The triplets cannot be read, or are too few for a batch.
        TrainingError: A number is not finite, or the output holds another encoder.
        CheckpointError: The checkpoint cannot be loaded, or the output cannot be written or is not ours.
    """
    chosen = TrainSettings.chosen(settings, overrides, where="train()")
    check_tracker(chosen.report_to)
    base, target = Path(checkpoint).absolute(), Path(output).absolute()
    if target.resolve() == base.resolve():
        raise TrainingError(f"{target} is the checkpoint to train; give another folder as output")
    with locked(target), isolated_randomness(chosen.seed):
        check_kind(target, ENCODER)
        return _train(base, data, target, chosen, callbacks)


def _train(base: Path, data: Data, target: Path, chosen: TrainSettings, callbacks: Sequence[TrainerCallback]) -> TrainResult:
    encoder, job = prepare(base, data, target, chosen)
    finished = _finished(job)
    if finished is not None:
        job.work.remove()
        return _result(target, finished, resumed_from=chosen.steps)
    check_ours(target, ENCODER)
    choose_trained(encoder, chosen)  # Before the work folder is made: what does not fit the model is refused here.
    resume = job.work.open(job.identity, restart=chosen.restart)
    done = step_of(resume) if resume else None
    if done is None or done < chosen.steps:
        fit(job, encoder, resume, callbacks)
    del encoder  # The finished encoder is made anew, in fp32: both need not be in memory at once.
    gc.collect()
    return _result(target, finish(job), resumed_from=done)


def prepare(base: Path, data: Data, output: Path, settings: TrainSettings) -> tuple[SentenceTransformer, TrainingJob]:
    """Load the encoder and the texts, and settle everything that defines the run.

    Raises:
        ConfigError: An instruction leaves no room for texts.
        DataError: The texts cannot be read, or are too few for a batch.
        CheckpointError: The encoder cannot be loaded, could not be written as it is, or gives vectors that are not finite.
    """
    triplets = read(data, hard_negatives=settings.hard_negatives)
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    # Weights that are trained are fp32; a frozen base can be bf16.
    weights = dtype if settings.method == "lora" else torch.float32
    encoder = load_encoder(base, device=str(device), dtype=str(weights).removeprefix("torch."))
    check_writable(encoder)
    check_finite(encoder, base)
    encoder.max_seq_length = min(settings.max_length, encoder.max_seq_length or settings.max_length)
    prompting = Prompting.of(base, encoder, settings)
    tables = training_data(triplets, prompting, settings)
    dev = by_prompt(read(settings.dev, hard_negatives=0, split="validation"), prompting) if settings.dev is not None else {}
    for texts in (tables.tables, dev):
        check_room(encoder, texts)
    identity = {
        "settings": settings.identity(),
        "dtype": str(dtype).removeprefix("torch."),
        "device": device.type,
        "base": digest_tree(base),
        "data": tables.digest,
        "prompts": _prompt_digest(tables),
        "teacher": digest_tree(settings.distil_from) if settings.distil_from is not None else None,
    }
    job = TrainingJob(
        base=base, output=output, data=tables, dev=dev, settings=settings, device=device, dtype=dtype, identity=identity
    )
    return encoder, job


def _prompt_digest(tables: TrainingData) -> str:
    return digest_json({name: [len(table.rows), *tables.prompts[name].items()] for name, table in tables.tables.items()})


def _finished(job: TrainingJob) -> dict[str, Any] | None:
    """Return the record of a finished run with the same identity, or None when there is none at the output.

    Raises:
        TrainingError: There is a finished run with another identity, or another encoder, and ``restart`` is off.
    """
    if not (job.output / RECORD).exists():
        return None
    record = read_record(job.output).get("train") or {}
    changed = differences(record.get("identity") or {}, job.identity) if record else "it was not trained"
    if not changed:
        return dict(record)
    if not job.settings.restart:
        raise TrainingError(f"{job.output} holds another encoder ({changed}); give another output or set restart to replace it")
    return None


def _result(folder: Path, record: Mapping[str, Any], *, resumed_from: int | None) -> TrainResult:
    return TrainResult(
        folder=folder,
        steps=record["steps"],
        resumed_from=resumed_from,
        final_loss=record["final_loss"],
        seconds=record["seconds"],
        tokens=record["tokens"],
        cut_texts=record["cut_texts"],
        merge_difference=record["merge"]["max_difference"],
        dev=record["dev"],
    )

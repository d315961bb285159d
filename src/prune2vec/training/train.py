"""``train``: a pruned checkpoint and texts in, a trained encoder out; the same command resumes after a kill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import TrainerCallback

from prune2vec.data.plain_texts import Sources, load_texts
from prune2vec.data.reader import Texts, load_triplets
from prune2vec.errors import ConfigError, TrainingError, import_extra
from prune2vec.files import digest_json, digest_tree, read_json
from prune2vec.machine import describe, free_memory_bytes, pick_device, pick_dtype, release_memory
from prune2vec.models.encoder_text import matryoshka_dims
from prune2vec.models.heads import head_record, load_heads, state_width
from prune2vec.models.text_settings import SAVED
from prune2vec.outputs import ENCODER, check_kind, check_ours, locked
from prune2vec.progress import quiet_transformers, say
from prune2vec.pruning.encoder import (
    RECORD,
    check_finite,
    check_writable,
    load_encoder,
    read_record,
    save_encoder,
)
from prune2vec.pruning.encoder_check import source_of
from prune2vec.public import public
from prune2vec.resume import differences, read_lines, step_of
from prune2vec.training.adapters import base_model, choose_trained, load_weights, merge_adapter, round_to_stored, stored_heads
from prune2vec.training.elastic import elastic_depths
from prune2vec.training.fit import TrainingJob, fit, isolated_randomness, run_ahead
from prune2vec.training.objective import append_projection, full_width
from prune2vec.training.processes import Processes, joined
from prune2vec.training.quantised import distance_to_merged, hold_in_bits
from prune2vec.training.sources import check_places, check_sources
from prune2vec.training.teacher import teacher_identity, teacher_vectors
from prune2vec.training.train_settings import TrainSettings, check_tracker
from prune2vec.training.training_data import Prompting, by_prompt, check_room, plain_data, trained_text, training_data

_PROBE_ROWS = 32
_FINAL_STEPS = 50


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training run came to.

    Attributes:
        folder: The encoder.
        steps: Optimiser steps.
        resumed_from: The step this call resumed from; None from the start, ``steps`` when nothing was left to train.
        final_loss: Mean loss of the last 50 steps; of a training at several depths that of the whole encoder, without its weight.
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


@public("train", "checkpoint", "data", "output", "texts", settings=TrainSettings)
def train_encoder(
    checkpoint: Path | str,
    data: Texts | None,
    output: Path | str,
    *,
    texts: Sources | None = None,
    settings: TrainSettings | Mapping[str, Any] | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **overrides: Any,
) -> TrainResult:
    """Train the encoder in ``checkpoint`` on triplets or plain texts and save it, adapters merged, to ``output``.

    On plain texts it learns a teacher's vectors; on triplets contrastively, and with a teacher both. Checkpoints live in a
    hidden folder beside the output until the end; the same call made again resumes from the last whole one, to the same
    losses. A call for an output that is already finished returns its result.

    Started in several processes, by ``torchrun`` or ``accelerate launch``, they train together, each on its share of every
    batch: the same training as one process with the whole batch, for which all of them get the same result. The first alone
    writes, and its folders must be where all see them.

    Args:
        checkpoint: Folder that ``prune`` wrote, or another sentence-transformers folder.
        data: Triplets, or a file, a folder, a hub data set, or several; None with ``texts``.
        output: Folder to write.
        texts: Plain texts to learn a teacher's vectors from, in place of triplets: a file, a folder, a hub data set, or several
            (``read_texts`` says which).
        settings: How; the paper's recipe by default.
        callbacks: More callbacks for transformers' trainer, to watch the run.
        **overrides: Single settings, over ``settings``.

    Raises:
        ConfigError: A setting is unknown or does not fit, or another call writes the output.
        DataError: The texts cannot be read or are too few for a batch, or a teacher's vectors are not those of the texts.
        TrainingError: A number is not finite, or the output holds another encoder.
        CheckpointError: The checkpoint cannot be loaded, or the output cannot be written or is not ours.
    """
    chosen = TrainSettings.chosen(settings, overrides, where="train()")
    check_tracker(chosen.report_to)
    base, target = Path(checkpoint).absolute(), Path(output).absolute()
    check_places(base, target, chosen)
    with (
        joined(chosen) as processes,
        locked(target) if processes.first else nullcontext(),
        isolated_randomness(chosen.seed),
    ):
        check_kind(target, ENCODER)
        processes.check_batch(chosen.batch_size)
        encoder, job = prepare(base, data, target, chosen, texts=texts, processes=processes)
        record, done = processes.told(lambda: _finished(job)), chosen.steps
        if record is None:
            if chosen.base is not None:
                import_extra("bitsandbytes")
                hold_in_bits(encoder, job)
            choose_trained(encoder, chosen)  # Before the work folder is made: what does not fit the model is refused here.
            opened = processes.told(lambda: _opened(job))
            resume = Path(opened) if opened is not None else None
            done = step_of(resume) if resume else 0
            if done < chosen.steps:
                fit(with_teacher(job, encoder, texts), encoder, resume, callbacks)
            del encoder  # The finished encoder is made anew, in fp32: both need not be in memory at once.
            release_memory()
            record = processes.told(lambda: finish(job))
    return TrainResult(
        folder=target,
        resumed_from=done or None,
        merge_difference=record["merge"]["max_difference"],
        **{name: record[name] for name in ("steps", "final_loss", "seconds", "tokens", "cut_texts", "dev")},
    )


def prepare(
    base: Path,
    data: Texts | None,
    output: Path,
    settings: TrainSettings,
    *,
    texts: Sources | None = None,
    processes: Processes | None = None,
) -> tuple[SentenceTransformer, TrainingJob]:
    """Load the encoder and the texts, and settle everything that defines the run.

    Raises:
        ConfigError: An instruction leaves no room for texts, or texts and settings do not fit each other.
        DataError: The texts cannot be read, or are too few for a batch.
        CheckpointError: The encoder cannot be loaded, could not be written as it is, or gives vectors that are not finite.
    """
    check_sources(data, texts, settings)
    plain = load_texts(texts) if texts is not None else []
    triplets = load_triplets(data, require_negative=settings.hard_negatives > 0) if data is not None else []
    device = pick_device(settings.device)
    dtype = str(pick_dtype(settings.dtype, device)).removeprefix("torch.")
    # Weights that are trained are fp32; a frozen base can be bf16.
    place = "cpu" if settings.base else str(device)
    encoder = load_encoder(base, device=place, dtype=dtype if settings.method == "lora" else "float32")
    check_writable(encoder)
    # What the end needs of them is refused now.
    load_heads(source_of(str(base)), width=state_width(base_model(encoder).config))
    check_finite(encoder, base)
    depths = elastic_depths(encoder, settings)
    if settings.keep_projection and encoder.truncate_dim is not None:
        raise ConfigError(
            f"keep_projection: this encoder cuts its vectors to {encoder.truncate_dim} dimensions, and would cut the projected ones; "
            "drop keep_projection, or take truncate_dim out of config_sentence_transformers.json"
        )
    encoder.max_seq_length = min(settings.max_length, encoder.max_seq_length or settings.max_length)
    _say_what_is_cut(encoder, base, settings)
    prompting = Prompting.of(base, encoder, settings)
    found = plain_data(plain, encoder, settings) if texts is not None else training_data(triplets, prompting, settings)
    held_out = load_triplets(settings.dev, require_negative=False, split="validation") if settings.dev is not None else []
    dev = by_prompt(held_out, prompting)
    for tables in (found.tables, dev):
        check_room(encoder, tables)
    prompts = found.prompts
    identity = {
        "settings": settings.identity(),
        "dtype": dtype,
        "device": device.type,
        "base": digest_tree(base),
        "data": found.digest,
        "prompts": digest_json({name: [len(table.rows), *prompts[name].items()] for name, table in found.tables.items()}),
        "teacher": teacher_identity(settings),
    }
    job = TrainingJob(
        base=base,
        output=output,
        data=found,
        dev=dev,
        settings=settings,
        device=device,
        dtype=dtype,
        identity=identity,
        depths=depths,
        processes=processes or Processes(),
    )
    return encoder, job


def _say_what_is_cut(encoder: SentenceTransformer, base: Path, settings: TrainSettings) -> None:
    """Say to which dimensions the encoder's vectors are cut, or may be by its card, that are not trained for."""
    known = {*matryoshka_dims(source_of(str(base))), encoder.truncate_dim or full_width(encoder)}
    missing = sorted(known - {full_width(encoder), *settings.matryoshka_dims})
    if missing:
        dims = ",".join(map(str, missing))
        say(
            f"this encoder's vectors are meant to be cut to {dims} dimensions too; give matryoshka_dims {dims} to train for that"
        )


def with_teacher(job: TrainingJob, encoder: SentenceTransformer, texts: Sources | None) -> TrainingJob:
    """Return the job with the vectors of the teacher that is learnt from, if any; they are made first if need be.

    Raises:
        DataError: There are vectors, but they do not fit the texts; or the texts cannot fill batches.
        CheckpointError: The teacher cannot be loaded.
        EncodingError: Its vectors cannot be made.
    """
    if not job.settings.learns_vectors:
        return job
    sources = [texts] if isinstance(texts, str | Path) else list(texts or ())
    wanted = job.data.wanted(run_ahead(job, encoder) if job.settings.teacher is not None else None)
    with job.left_on_failure(), job.processes.after_first():
        found = teacher_vectors(wanted, job.settings, output=job.output, texts=sources, dtype=job.dtype)
    return replace(job, data=replace(job.data, teacher=found))


def _finished(job: TrainingJob) -> dict[str, Any] | None:
    """Return the record of a finished run with the same identity, of whose work nothing is left then; None when there is none.

    Raises:
        TrainingError: There is a finished run with another identity, or another encoder, and ``restart`` is off.
    """
    if not (job.output / RECORD).exists():
        return None
    record = read_record(job.output).get("train") or {}
    changed = differences(record.get("identity") or {}, job.identity) if record else "it was not trained"
    if not changed:
        if job.dev and not record.get("dev"):
            say(
                f"{job.output} is finished, and was trained without dev; evaluate it on {job.settings.dev}, or give another output"
            )
        job.work.remove_if(job.identity)
        return dict(record)
    if not job.settings.restart:
        raise TrainingError(f"{job.output} holds another encoder ({changed}); give another output or set restart to replace it")
    return None


def _opened(job: TrainingJob) -> str | None:
    """Make the work folder ready, and return the checkpoint in it to resume from, if there is one."""
    check_ours(job.output, ENCODER)
    resume = job.work.open(job.identity, restart=job.settings.restart)
    return str(resume) if resume is not None else None


def finish(job: TrainingJob) -> dict[str, Any]:
    """Save the encoder of the last checkpoint to ``job.output`` and return its training record.

    The adapter is merged in fp32, whatever the training was in, and the result then stored in the base's dtype.

    Raises:
        TrainingError: Merging changed the embeddings by more than fp32 rounding, or they are not finite.
        CheckpointError: The folder cannot be written or does not read back.
    """
    with job.work.left_on_failure(), quiet_transformers():
        held = job.settings.base
        encoder = load_encoder(job.base, device="cpu" if held else finishing_device(job), dtype="float32")
        checkpoint = job.work.checkpoint(job.settings.steps)
        tables = list(job.data.tables.values())
        probe = [text for table in tables for row in table.rows[: 1 + _PROBE_ROWS // len(tables)] for text in row.texts[:2]]
        difference, distance = None, {}
        if job.settings.method == "lora":
            difference = merge_adapter(encoder, checkpoint, probe)
            distance = distance_to_merged(encoder, job, checkpoint, probe) if held else {}
        else:
            load_weights(encoder, checkpoint)
        added = append_projection(encoder, checkpoint) if job.settings.keep_projection else []
        heads = [*stored_heads(job.base, encoder), *added]
        config = read_json(job.base / "config.json")
        dtype = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch."), torch.float32)
        merge = {"max_difference": difference, "rounding": round_to_stored(encoder, dtype, probe), **distance}
        # The instruction is saved with the encoder if there was a single one; the E5 set's differ by task and stay the caller's.
        used = {(table.query_prompt, table.document_prompt) for table in tables}
        if len(used) == 1 and not job.data.plain:
            query, document = used.pop()
            encoder.prompts = {**encoder.prompts, "query": query, "document": document}
            default = encoder.prompts.get(encoder.default_prompt_name or "", "")
            if job.settings.instruction != SAVED and default not in (query, document):
                # It would stand before texts that had another beginning in training.
                encoder.default_prompt_name = None
        about = read_record(job.base)
        if "text" in about:
            about["text"] = _trained_vectors(trained_text(about, job.settings), heads, encoder, job.settings)
        record = _record(job, merge)
        kept = [file for file in (job.work.curve, job.work.dev, job.base / "plan.json") if file.exists()]
        texts = {file.name: file.read_text(encoding="utf-8") for file in kept}
        save_encoder(encoder, job.output, record={**about, "train": record}, extra=texts, heads=heads)
    job.work.remove()
    return record


def finishing_device(job: TrainingJob) -> str:
    """Return where the encoder is finished, in fp32: where it was trained, or on the CPU where a GPU has no room for that."""
    if job.device.type != "cuda":
        return str(job.device)
    # Weights of 16 bits take twice what their files do.
    needed = 2 * sum(file.stat().st_size for file in job.base.rglob("*.safetensors"))
    return str(job.device) if needed < free_memory_bytes(job.device) else "cpu"


def _trained_vectors(
    text: dict[str, Any], heads: Sequence[nn.Module], encoder: SentenceTransformer, settings: TrainSettings
) -> dict[str, Any]:
    """Return text settings with the heads as they are now, and with those dimensions that were trained for."""
    now = {"heads": [head_record(head).model_dump(mode="json") for head in heads]} if heads else {}
    dims = {"matryoshka_dims": sorted({full_width(encoder), *settings.matryoshka_dims}, reverse=True)}
    text = {key: value for key, value in text.items() if key != "matryoshka_dims"}
    return {**text, **now, **(dims if settings.matryoshka_dims else {})}


def _record(job: TrainingJob, merge: dict[str, float | None]) -> dict[str, Any]:
    curve, dev, notes = read_lines(job.work.curve), read_lines(job.work.dev), job.work.notes()
    # Among several depths the whole encoder is in every step, and its own loss is what another encoder's can be compared with.
    loss, weight = (f"depth_{job.depths[-1]}", (job.settings.depth_weights or (1.0,))[-1]) if job.depths else ("loss", 1.0)
    last = [line[loss] / weight for line in curve[-_FINAL_STEPS:]]
    return {
        "settings": job.settings.model_dump(mode="json", exclude={"restart"}),
        "identity": job.identity,
        **({"depths": list(job.depths)} if job.depths else {}),
        "steps": job.settings.steps,
        "final_loss": sum(last) / len(last),
        "seconds": curve[-1]["elapsed_s"],
        "tokens": sum(line["tokens"] for line in curve),
        "texts": sum(line["texts"] for line in curve),
        "cut_texts": sum(line["cut"] for line in curve),
        "peak_memory_bytes": max(line["peak_memory_bytes"] for line in curve),
        "data": {
            name: {
                "rows": len(table.rows),
                "batches": notes["batches"][name],
                "query_prompt": table.query_prompt,
                "document_prompt": table.document_prompt,
            }
            for name, table in job.data.tables.items()
        },
        "left_out": dict(job.data.left_out),
        "dev": {key: value for key, value in dev[-1].items() if key != "step"} if dev else {},
        "merge": merge,
        "gradient_checkpointing": notes["gradient_checkpointing"],
        "packing": notes.get("packing"),
        "teacher": notes.get("teacher"),
        "device": str(job.device),
        "dtype": job.dtype,
        "processes": notes.get("processes", 1),
        "machine": describe(job.device),
    }

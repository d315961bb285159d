"""From the last checkpoint to the saved encoder: merge, compare, save, and keep the curves."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from prune2vec.files import read_json
from prune2vec.machine import describe
from prune2vec.models.quiet import quiet_transformers
from prune2vec.models.text_settings import SAVED
from prune2vec.pruning.encoder import load_encoder, read_record, save_encoder
from prune2vec.training.adapters import base_model, embed, load_weights, merge_adapter
from prune2vec.training.fit import TrainingJob
from prune2vec.training.training_data import TrainingTable
from prune2vec.training.work_folder import read_lines

_PROBE_ROWS = 16
_FINAL_STEPS = 50


def finish(job: TrainingJob) -> dict[str, Any]:
    """Save the encoder of the last checkpoint to ``job.output`` and return its training record.

    The adapter is merged in fp32, whatever the training was in, and the result then stored in the base's number format.

    Raises:
        TrainingError: Merging changed the embeddings by more than fp32 rounding, or they are not finite.
        CheckpointError: The folder cannot be written or does not read back.
    """
    with job.work.left_on_failure(), quiet_transformers():
        encoder = load_encoder(job.base, device=str(job.device), dtype="float32")
        merge = _apply(job, encoder)
        _set_prompts(job, encoder)
        record = _record(job, merge)
        kept = [file for file in (job.work.curve, job.work.dev, job.base / "plan.json") if file.exists()]
        texts = {file.name: file.read_text(encoding="utf-8") for file in kept}
        save_encoder(encoder, job.output, record={**_base_record(job), "train": record}, extra=texts)
    job.work.remove()
    return record


def _base_record(job: TrainingJob) -> dict[str, Any]:
    """Return what the base's record says, with the instruction that it was trained with in place of its own."""
    record = read_record(job.base)
    if "text" in record and job.settings.instruction != SAVED:
        used = {"instruction": job.settings.instruction, "symmetric": job.settings.symmetric}
        record["text"] = {**record["text"], **used}
    return record


def _apply(job: TrainingJob, encoder: SentenceTransformer) -> dict[str, float | None]:
    """Give ``encoder`` the trained weights in the format they are stored in; return what that changed."""
    checkpoint = job.work.checkpoint(job.settings.steps)
    probe = [text for table in job.data.tables.values() for row in islice(table.rows, _PROBE_ROWS) for text in row.texts[:2]]
    difference = None
    if job.settings.method == "lora":
        difference = merge_adapter(encoder, checkpoint, probe)
    else:
        load_weights(base_model(encoder), checkpoint)
    exact = embed(encoder, probe)
    encoder.to(_stored_dtype(job))
    return {"max_difference": difference, "rounding": float(np.abs(embed(encoder, probe) - exact).max())}


def _stored_dtype(job: TrainingJob) -> torch.dtype:
    config = read_json(job.base / "config.json")
    name = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return getattr(torch, name.removeprefix("torch."), torch.float32)


def _set_prompts(job: TrainingJob, encoder: SentenceTransformer) -> None:
    """Save the instruction with the encoder if there was a single one; the E5 set's differ by task and stay the caller's."""
    used = {(table.query_prompt, table.document_prompt) for table in job.data.tables.values()}
    if len(used) == 1:
        query, document = used.pop()
        encoder.prompts = {**encoder.prompts, "query": query, "document": document}


def _record(job: TrainingJob, merge: dict[str, float | None]) -> dict[str, Any]:
    curve = read_lines(job.work.curve)
    last = curve[-_FINAL_STEPS:]
    dev = read_lines(job.work.dev)
    notes = job.work.notes()
    return {
        "settings": job.settings.model_dump(mode="json", exclude={"restart"}),
        "identity": job.identity,
        "steps": job.settings.steps,
        "final_loss": sum(line["loss"] for line in last) / len(last),
        "seconds": curve[-1]["elapsed_s"],
        "tokens": sum(line["tokens"] for line in curve),
        "texts": sum(line["texts"] for line in curve),
        "cut_texts": sum(line["cut"] for line in curve),
        "peak_memory_bytes": max(line["peak_memory_bytes"] for line in curve),
        "data": {name: _table(table, notes["batches"][name]) for name, table in job.data.tables.items()},
        "left_out": dict(job.data.left_out),
        "dev": {key: value for key, value in dev[-1].items() if key != "step"} if dev else {},
        "merge": merge,
        "gradient_checkpointing": notes["gradient_checkpointing"],
        "packing": notes.get("packing"),
        "device": str(job.device),
        "dtype": job.dtype_name,
        "machine": describe(),
    }


def _table(table: TrainingTable, batches: int) -> dict[str, Any]:
    return {
        "rows": len(table.rows),
        "batches": batches,
        "query_prompt": table.query_prompt,
        "document_prompt": table.document_prompt,
    }

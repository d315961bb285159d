"""An encoder that is evaluated: loaded, named by what is in it, weighed, and encoding many texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prune2vec.encoding.engine import Engine, set_limit
from prune2vec.errors import CheckpointError, EncodingError, EvaluationError, nan_remedy, reason_of
from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.files import digest_tree
from prune2vec.machine import pick_device, pick_dtype
from prune2vec.models.prepared_text import saved_prompts
from prune2vec.models.text_settings import PromptTemplate
from prune2vec.models.tokens import longest_first
from prune2vec.progress import progress, say
from prune2vec.pruning.encoder import RECORD, check_finite, load_encoder, read_record
from prune2vec.pruning.plain_encoder import AnyEncoder, PlainEncoder, load_to_encode, module_kinds

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Side = Literal["queries", "documents"]
SIDES: dict[str | None, Side] = {"query": "queries", "document": "documents"}
"""The sides by mteb's name of them."""
# Texts between two steps of the progress shown; 16 batches where the batch size is given.
_WINDOW, _BATCHES_PER_STEP = 512, 16
_PROBE = ["one short text", "and another one, which is a little longer than the first"]
# Distance of two vectors of a probe text by their length: rounding of fp32, and of pooling in less than that.
_SAME, _SAME_ROUNDED = 1e-4, 0.2
# They say how an encoder came about, with times; all else is equal where two of them were made alike.
_ACCOUNTS = (RECORD, "parity.json", "train.jsonl", "dev.jsonl", "README.md")
_SLOWER = "sentence-transformers encodes, which takes longer: "


@dataclass(frozen=True, kw_only=True)
class LoadedEncoder:
    """An encoder in memory.

    Attributes:
        model: As it was loaded to encode, or as sentence-transformers has it.
        name: Its path or hub id, as given.
        folder: The folder that its files were read from.
        digest: SHA-256 over the names and contents of those files.
        record: What ``prune2vec.json`` says about how it was made; empty for encoders made elsewhere.
        text_format: What stands around its texts.
        dtype: That of the weights.
        engine: What encodes texts faster to the same vectors; None leaves it to a SentenceTransformer's own ``encode``.
        documents_by: The encoder of the documents, where that is another one.
    """

    model: AnyEncoder
    name: str
    folder: Path
    digest: str
    record: Mapping[str, Any]
    text_format: PromptTemplate
    dtype: str
    engine: Engine | None = None
    documents_by: LoadedEncoder | None = None

    def of(self, side: Side) -> LoadedEncoder:
        """Return the encoder of a side."""
        return self.documents_by if side == "documents" and self.documents_by is not None else self

    def describe(self) -> dict[str, Any]:
        """Return what ``results.json`` says about the encoder."""
        return {
            "path": self.name,
            "digest": self.digest,
            "content_digest": digest_tree(self.folder, without=_ACCOUNTS),
            "revision": self.folder.name if self.folder.parent.name == "snapshots" else None,
            "dimension": self.model.get_embedding_dimension(),
            "max_length": self.model.max_seq_length,
            "dtype": self.dtype,
            "device": str(self.model.device),
            "similarity": str(self.model.similarity_fn_name),
            "prompts": {key: value for key, value in self.model.prompts.items() if value},
            "modules": module_kinds(self.model),
            "record": dict(self.record),
            **({"documents_by": self.documents_by.describe()} if self.documents_by is not None else {}),
        }

    def size(self) -> dict[str, int]:
        """Return unique parameters (embeddings once), the embeddings among them, and bytes on disk."""
        base = self.model.transformers_model
        table = base.get_input_embeddings() if base is not None else None
        return {
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "embedding_parameters": sum(parameter.numel() for parameter in table.parameters()) if table is not None else 0,
            "disk_bytes": sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file()),
        }


def load_for_evaluation(encoder: Path | str, settings: EvaluateSettings, *, stock: bool = True) -> LoadedEncoder:
    """Load an encoder of ours, any other sentence-transformers folder, or a hub id.

    ``stock`` loads it as a SentenceTransformer, which MTEB tasks need; else it need only encode, and loads sooner.

    Raises:
        CheckpointError: It is not an encoder, does not load, or gives vectors that are not finite or all the same.
        ConfigError: The device does not exist here, or texts may be longer than the model has positions.
    """
    device = pick_device(settings.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    dtype = str(pick_dtype(settings.dtype, device)).removeprefix("torch.")
    model = (load_encoder if stock else load_to_encode)(str(encoder), device=str(device), dtype=dtype)
    folder = Path(encoder)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        # It has just been loaded, so it is there.
        folder = Path(snapshot_download(str(encoder), local_files_only=True))
    record = read_record(folder)
    if settings.max_length is not None:
        set_limit(model, settings.max_length)
    return LoadedEncoder(
        model=model,
        name=str(encoder),
        folder=folder,
        digest=digest_tree(folder),
        record=record,
        text_format=PromptTemplate.from_json(record["text_format"]) if "text_format" in record else PromptTemplate(),
        dtype=dtype,
        engine=_engine(model, str(encoder)),
    )


def with_documents_by(encoder: LoadedEncoder, documents: Path | str, settings: EvaluateSettings) -> LoadedEncoder:
    """Return the encoder for queries, with another one for documents.

    Raises:
        EvaluationError: The vectors of the two cannot be compared.
        CheckpointError: The other one is no encoder, does not load, or gives vectors that are not finite.
    """
    other = load_for_evaluation(documents, settings, stock=not isinstance(encoder.model, PlainEncoder))
    for what, ours, theirs in (
        ("vectors of {} dimensions", encoder.model.get_embedding_dimension(), other.model.get_embedding_dimension()),
        ("vectors compared by {}", encoder.model.similarity_fn_name, other.model.similarity_fn_name),
    ):
        if ours != theirs:
            raise EvaluationError(
                f"documents_by: {documents} makes {what.format(theirs)}, {encoder.name} {what.format(ours)}; "
                "queries and documents must be in one space: give the encoder whose vectors this one learnt"
            )
    return replace(encoder, documents_by=other)


def _engine(model: AnyEncoder, name: str) -> Engine | None:
    """Return an engine if it takes the prompts and gives the probe's vectors; such as are not finite are a CheckpointError."""
    if isinstance(model, PlainEncoder):
        engine = Engine(model)
        try:
            _check_apart(engine.encode(_PROBE), name)
        except EncodingError as error:
            raise CheckpointError(f"{name}: {error}") from error
        return engine
    check_finite(model, name)
    expected = np.asarray(model.encode(_PROBE, show_progress_bar=False), dtype=np.float32)
    _check_apart(expected, name)
    try:
        engine = Engine(model)
        found = engine.encode(_PROBE)
    except Exception as error:
        # Encoders may bring modules of any kind; what fails in them is told, and sentence-transformers asked.
        reason = reason_of(error)
    else:
        distances = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
        full = all(parameter.dtype == torch.float32 for parameter in model.parameters())
        if distances.max() <= (_SAME if full else _SAME_ROUNDED):
            return engine_under(engine, model.prompts.values())
        reason = f"the engine's vectors differ by {distances.max():.1e}"
    say(_SLOWER + reason)
    return None


def _check_apart(vectors: NDArray[np.float32], name: str) -> None:
    """Refuse an encoder of which all texts have one vector: every score would be the chance of ties."""
    if (vectors == vectors[0]).all():
        what = "only zeros" if not vectors.any() else "the same vector"
        raise CheckpointError(f"{name} gives {what} for different texts, so nothing can be scored")


def engine_under(engine: Engine | None, prompts: Iterable[str | None]) -> Engine | None:
    """Return the engine if under each prompt it gives texts the tokens of sentence-transformers; else say why not."""
    if engine is None:
        return None
    try:
        for prompt in dict.fromkeys(prompts):
            engine.with_prompt(prompt or "")
    except EncodingError as error:
        say(f"{_SLOWER}{error}")
        return None
    return engine


def side_prompt(model: AnyEncoder, side: Side | None) -> str:
    """Return what ``encode_query`` or ``encode_document`` puts before a text; for neither side, what ``encode`` does."""
    query, document = saved_prompts(model.prompts, model.default_prompt_name)
    default = model.prompts.get(model.default_prompt_name or "") or ""
    return {"queries": query, "documents": document}[side] if side is not None else default


def side_encode(encoder: LoadedEncoder, side: Side, *, batch_size: int) -> Callable[[list[str]], Any]:
    """Return what encodes texts of one side to (text, dim): the engine if the encoder has one, else the model itself.

    The engine goes by tokens; ``batch_size`` is texts per forward pass of the model itself.
    """
    encoder = encoder.of(side)
    if encoder.engine is not None:
        return encoder.engine.with_prompt(side_prompt(encoder.model, side)).encode
    model = as_stock(encoder.model)
    encode = model.encode_query if side == "queries" else model.encode_document
    return lambda texts: encode(texts, batch_size=batch_size, show_progress_bar=False)


def as_stock(model: AnyEncoder) -> SentenceTransformer:
    """Return an encoder that was loaded as sentence-transformers does."""
    assert not isinstance(model, PlainEncoder), "an encoder that need only encode was loaded for more"
    return model


def encode_texts(encoder: LoadedEncoder, texts: Sequence[str], side: Side, *, batch_size: int) -> Tensor:
    """Return the embeddings of ``texts`` in fp32 on the CPU, (texts, dimension), with the encoder's own prompt for ``side``."""
    if not texts:
        raise EvaluationError(f"no {side} to encode")
    order = longest_first([len(text) for text in texts])
    encode = side_encode(encoder, side, batch_size=batch_size)
    step = batch_size * _BATCHES_PER_STEP if encoder.of(side).engine is None else _WINDOW
    parts: list[Tensor] = []
    with progress(f"encoding {side}", sum(len(text) + 1 for text in texts)) as advance:
        for start in range(0, len(order), step):
            chosen = [texts[i] for i in order[start : start + step]]
            try:
                parts.append(torch.as_tensor(encode(chosen)).float())
            except EncodingError as error:
                raise EvaluationError(f"{side}: {error}") from error
            advance(sum(len(text) + 1 for text in chosen))
    found = torch.empty(len(texts), parts[0].shape[1])
    found[order] = torch.cat(parts)
    broken = (~found.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if broken:
        count = f"{len(broken)} of {len(texts)} {side}"
        text, remedy = texts[broken[0]][:40], nan_remedy(encoder.dtype)
        raise EvaluationError(f"{count} have no finite embedding in {encoder.dtype}: {text!r}; {remedy}")
    return found

"""GGUF files as a source: checked, converted tensor by tensor and kept as a safetensors folder in a cache."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prune2vec.errors import ModelError, explained, reason_of
from prune2vec.files import digest_file, explained_os_errors, write_json
from prune2vec.models.gguf_file import GGUFFile, StoredTensor
from prune2vec.outputs import CONVERSION, locked, staged_folder
from prune2vec.progress import Advance, progress, quiet_transformers, say

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

# Raise it when the conversion changes, so that old copies are not used any more.
_VERSION = "2"
_RECORD = "conversion.json"  # In every whole copy; it tells of the source.
_LONGEST_NAME = 80
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}
# Tensors that no part of a model without LM head takes: the head itself. The table of rotary factors is in the config.
_TAKEN_ELSEWHERE = ("output.weight", "output.bias", "rope_freqs.weight")
_FUSED_EXPERTS = re.compile(r"layers\.(\d+)\.mlp\.experts\.gate_up_proj")

Values = np.ndarray[Any, Any]


def cache_folder() -> Path:
    """Return where converted models are kept: ``$PRUNE2VEC_CACHE``, else ``prune2vec`` in the user's cache folder."""
    chosen = os.environ.get("PRUNE2VEC_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prune2vec"


def converted(path: Path) -> Path:
    """Return the folder of the safetensors copy of a GGUF file, made on first use and found by the file's digest.

    Tensors keep the file's dtype; quantised ones become bfloat16, vectors float32.

    Raises:
        CheckpointError: The copy cannot be written.
        MissingExtra: The ``gguf`` package is not installed.
        ModelError: The file is damaged, its architecture is not supported, or something in it cannot be carried over.
    """
    digest = digest_file(path)
    folder = cache_folder() / f"{path.stem[:_LONGEST_NAME]}-{digest[:16]}-v{_VERSION}"
    if not (folder / _RECORD).is_file():
        with locked(cache_folder() / "copies", wait=True):
            if not (folder / _RECORD).is_file():
                _convert(path, folder, digest)
    return folder


@dataclass(frozen=True, kw_only=True)
class _TensorPart:
    """A tensor of the copy, its dtype as safetensors calls it, and the file's tensors that it is made of.

    Two are joined along their second dimension. ``change`` undoes llama.cpp's changes to the values or their order; None where
    they are as they were.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    sources: tuple[StoredTensor, ...]
    change: Callable[[Values], Values] | None

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * _WIDTHS[self.dtype]

    def pieces(self, file: GGUFFile) -> Iterator[Values]:
        if self.change is not None:
            yield self.change(file.values(self.sources[0]))
        elif len(self.sources) == 1:
            yield from file.pieces(self.sources[0])
        else:
            yield from (np.concatenate(both, axis=1) for both in zip(*map(file.pieces, self.sources), strict=True))


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """What a file holds: a model's config, its tokeniser with what had to be restored in it, and its tensors."""

    file: GGUFFile
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerFast
    repairs: list[str]
    parts: list[_TensorPart]

    @classmethod
    def of(cls, file: GGUFFile) -> StoredModel:
        """Read everything but the tensors' values.

        Raises:
            ModelError: The architecture is not supported, or something in the file cannot be carried over.
        """
        from prune2vec.models.gguf_config import config_of
        from prune2vec.models.gguf_tokenizer import tokenizer_of

        with quiet_transformers():
            config = config_of(file)
            tokenizer, repairs = tokenizer_of(file, config.vocab_size)
            return cls(file=file, config=config, tokenizer=tokenizer, repairs=repairs, parts=_parts(file, config))

    def tensors(self) -> Iterator[tuple[str, Values]]:
        """Yield each tensor in float32 under the model's name for it.

        Raises:
            ModelError: It holds NaN or an infinity.
        """
        for part in self.parts:
            yield part.name, np.concatenate(list(part.pieces(self.file))).reshape(part.shape)


def _convert(path: Path, folder: Path, digest: str) -> None:
    file = GGUFFile.open(path)
    kind, count = file.metadata.get("general.type", "model"), file.metadata.get("split.count", 0)
    if kind != "model":
        raise ModelError(f"{path.name} holds no model (general.type is {kind!r}); give the model's own file or folder")
    if count not in (0, 1):
        raise ModelError(
            f"{path.name} is one of {count} parts; join them first (llama-gguf-split --merge), and give the whole file"
        )
    model = StoredModel.of(file)
    size = sum(part.nbytes for part in model.parts)
    free = shutil.disk_usage(folder.parent).free
    if free < size:
        raise ModelError(
            f"{path.name} becomes {size / 1e9:.1f} GB, {folder.parent} has {free / 1e9:.1f} GB left; "
            "free some space, or set PRUNE2VEC_CACHE to another folder"
        )
    say(f"converting {path.name} into {folder} ({size / 1e6:.0f} MB; delete the folder when you need it no more)")
    with staged_folder(folder, CONVERSION) as stage, progress(f"converting {path.name}", total=size) as advance:
        model.tokenizer.save_pretrained(stage)
        model.config.save_pretrained(stage)
        with explained_os_errors(stage / "model.safetensors"):
            _write(stage / "model.safetensors", file, model.parts, advance)
        record = {
            "source": path.name,
            "sha256": digest,
            "tokenizer_repairs": model.repairs,
            "pre_tokenizer": file.metadata.get("tokenizer.ggml.pre"),
        }
        write_json(stage / _RECORD, record)


def _parts(file: GGUFFile, config: PretrainedConfig) -> list[_TensorPart]:
    """Return what the copy is made of, every tensor of the model and of the file accounted for."""
    import torch
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
    from transformers import AutoModel
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

    with explained(ModelError, f"{file.path.name}: its metadata make no {config.model_type} model"), torch.device("meta"):
        model = AutoModel.from_config(config)
    arch = next(number for number, name in MODEL_ARCH_NAMES.items() if name == file.architecture)
    names = get_tensor_name_map(arch, config.num_hidden_layers)
    processors: dict[str, Any] = TENSOR_PROCESSORS
    processor = processors.get(file.architecture, TensorProcessor)(config=config.to_dict())
    wanted = {name: stored_names(name, names.get_name) for name in model.state_dict()}
    _check_names(file, wanted)
    parts = []
    for name, value in model.state_dict().items():
        sources = tuple(file.tensors[stored] for stored in wanted[name])
        if wanted[name] == ("token_embd.weight",):
            sources = (_finer_embeddings(file),)
        change = lambda values, stored=wanted[name][0]: processor.process(weights=values, name=stored).weights  # noqa: E731
        parts.append(_part(file, name, tuple(value.shape), sources, change))
    config.architectures = [type(model).__name__]
    formats = {dtype: sum(part.nbytes for part in parts if part.dtype == dtype) for dtype in _WIDTHS}
    config.dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[max(formats, key=formats.__getitem__)]
    return parts


def stored_names(name: str, in_files: Callable[[str], str | None]) -> tuple[str, ...]:
    """Return what the file calls the tensors that one of the model is made of."""
    fused = _FUSED_EXPERTS.fullmatch(name)
    if fused:
        return (f"blk.{fused[1]}.ffn_gate_exps.weight", f"blk.{fused[1]}.ffn_up_exps.weight")
    stem, _, end = name.rpartition(".")
    if end not in ("weight", "bias"):
        stem, end = name, "weight"
    found = in_files(f"model.{stem}") or in_files(f"transformer.{stem}") or in_files(stem)
    # Unknown to the table of names: no file has it, and the error about missing tensors says so.
    return (f"{found or stem}.{end}",)


def _check_names(file: GGUFFile, wanted: dict[str, tuple[str, ...]]) -> None:
    needed = {stored: name for name, sources in wanted.items() for stored in sources}
    extra = sorted(set(file.tensors) - set(needed) - set(_TAKEN_ELSEWHERE))
    for stored, name in needed.items():
        if stored not in file.tensors:
            instead = f" and holds {extra[0]!r}, which has no place in it" if extra else ""
            raise ModelError(
                f"{file.path.name} lacks tensor {stored} ({name} of the model){instead}; convert or fetch it again"
            )
    if extra:
        raise ModelError(
            f"{file.path.name} holds tensor {extra[0]!r}, which has no place in a {file.architecture} model as prune2vec knows it "
            f"({len(extra)} such in all); give the original model folder"
        )


def _part(
    file: GGUFFile, name: str, shape: tuple[int, ...], sources: tuple[StoredTensor, ...], change: Callable[[Values], Values]
) -> _TensorPart:
    # A table of zeros that takes no memory shows what the change does to the shape, and whether there is any.
    blank = np.broadcast_to(np.float32(0), sources[0].shape)
    try:
        changed = change(blank)
    except ValueError as error:
        raise ModelError(
            f"{file.path.name}: tensor {sources[0].name} has shape {list(sources[0].shape)}: {reason_of(error)}"
        ) from error
    found = list(changed.shape)
    if len(sources) > 1:
        found[1] = sum(source.shape[1] for source in sources)
    if tuple(found) != shape or len({(source.shape[0], *source.shape[2:]) for source in sources}) > 1:
        raise ModelError(
            f"{file.path.name}: tensor {sources[0].name} has shape {list(sources[0].shape)}, which makes {found} instead of "
            f"{list(shape)} ({name} of the model); convert or fetch it again"
        )
    kinds = {source.kind for source in sources}
    dtype = "F32" if len(shape) == 1 or "F32" in kinds else "F16" if kinds == {"F16"} else "BF16"
    return _TensorPart(name=name, shape=shape, dtype=dtype, sources=sources, change=None if changed is blank else change)


def _finer_embeddings(file: GGUFFile) -> StoredTensor:
    """Return the output matrix where it is the same matrix as the embeddings at a higher precision, else the embeddings.

    Converters store tied embeddings twice when they quantise the two differently. They count as tied when 64 rows
    of both point the same way (cosine over 0.99).
    """
    embedding, output = file.tensors["token_embd.weight"], file.tensors.get("output.weight")
    if output is None or output.shape != embedding.shape or output.nbytes <= embedding.nbytes:
        return embedding
    a, b = (next(file.pieces(tensor, 64)) for tensor in (output, embedding))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return output if ((a * b).sum(1) > 0.99 * lengths).all() else embedding


def _write(path: Path, file: GGUFFile, parts: list[_TensorPart], advance: Advance) -> None:
    """Write a safetensors file piece by piece, so that a model larger than memory can be converted."""
    import torch

    # Wide numbers first: each then begins at a multiple of its own width.
    parts = sorted(parts, key=lambda part: -_WIDTHS[part.dtype])
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for part in parts:
        header[part.name] = {"dtype": part.dtype, "shape": part.shape, "data_offsets": (end, end + part.nbytes)}
        end += part.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    formats = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for part in parts:
            for piece in part.pieces(file):
                values = torch.from_numpy(np.ascontiguousarray(piece)).to(formats[part.dtype])
                out.write(values.view(torch.uint8).numpy().data)
            advance(part.nbytes)

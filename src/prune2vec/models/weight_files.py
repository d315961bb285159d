"""A model's safetensors files, opened only when a tensor in them is wanted, with an account of what was read."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from prune2vec.errors import CheckpointError, ModelError
from prune2vec.models.source import ModelSource, NotCached

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_DEPTH_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
# More are compared with the weights before transformers makes anything of each of them.
_FEW_LAYERS = 1000
_SAMPLES = 16
# What the files of a model may hold beside the base model.
HARMLESS = re.compile(
    r"^(lm_head|embed_out|score|classifier|v_head|qa_outputs)\."  # Heads stand after the final norm, where an encoder ends.
    r"|^(pooler|cls|predictions|vocab_transform|vocab_layer_norm|vocab_projector)\."  # Of BERT, ALBERT, DistilBERT, likewise.
    r"|^head\.(dense|norm)\.|^decoder\.(weight|bias)$"  # ModernBERT's.
    r"|rotary_emb\.(inv_freq|cos_cached|sin_cached)$"  # Tables that older releases saved, and that the config gives.
    r"|\battn\.(bias|masked_bias)$|\battention\.(bias|masked_bias)$"  # Causal masks of GPT-2 and GPT-NeoX, the same.
    r"|(^|\.)position_ids$"  # Counts from 0 on, the same.
)
_SAMPLE_BYTES = 1 << 16


class NoSafetensors(CheckpointError):
    """A model without safetensors files, or none of them is cached while the hub cannot be reached."""


class TensorEntry(NamedTuple):
    """What a file's header says of one tensor."""

    dtype: str
    """safetensors' name of the dtype: ``F32``, ``BF16``, ..."""
    shape: tuple[int, ...]


@dataclass
class WeightFiles:
    """The tensors of a model by name.

    Attributes:
        source: The model.
        file_of: File that holds each tensor.
        opened: Files opened so far.
        bytes_read: Bytes of the tensors read so far.
    """

    source: ModelSource
    file_of: dict[str, str]
    opened: list[str] = field(default_factory=list)
    bytes_read: int = 0

    @classmethod
    def find(cls, source: ModelSource, folder: str = "") -> WeightFiles:
        """List the tensors of a model, or of one in a folder of it, as transformers would: from its single file, else its index.

        Raises:
            CheckpointError: There are no safetensors files (``NoSafetensors``), or the index is broken.
        """
        inside = f"{folder}/" if folder else ""
        try:
            return cls(source, dict.fromkeys(header(source.fetch(inside + _SINGLE)), inside + _SINGLE))
        except FileNotFoundError:
            pass
        try:
            file_of = source.entries(inside + _INDEX).get("weight_map")
        except NotCached as error:
            raise NoSafetensors(f"{source.name}: no {_SINGLE} in the local cache, and the hub cannot be reached") from error
        except FileNotFoundError as error:
            pickles = [name for name in _PICKLES if source.has(inside + name)]
            raise NoSafetensors(
                f"{source.name} has only pickled weights ({pickles[0]}); convert them to safetensors first (save_pretrained does)"
                if pickles
                else f"{source.name} has no {_SINGLE} and no {_INDEX}"
            ) from error
        if not isinstance(file_of, dict) or not file_of or not all(isinstance(file, str) and file for file in file_of.values()):
            raise CheckpointError(
                f"{source.name}: weight_map of {_INDEX} is broken; expected the name of a file for each tensor"
            )
        return cls(source, {name: inside + file for name, file in file_of.items()})

    def check_whole(self) -> None:
        """Open every file; one that is missing or damaged is a ``CheckpointError``."""
        for file in dict.fromkeys(self.file_of.values()):
            header(self._fetch(file))

    def table(self, names: Iterable[str]) -> dict[str, TensorEntry]:
        """Return dtype and shape of tensors by their files' headers; a CheckpointError if one is not as indexed."""
        found: dict[str, TensorEntry] = {}
        for file in sorted({self.file_of[name] for name in names}):
            told = {name for name, place in self.file_of.items() if place == file}
            held = header(self._fetch(file))
            if told != held.keys():
                name = min(told ^ held.keys())
                what = "does not hold" if name in told else "holds also"
                raise CheckpointError(f"{self.source.name}: {file} {what} {name}, against {_INDEX}; fetch or convert it again")
            found.update(held)
        return found

    def read(self, names: Iterable[str], rows: Mapping[str, Tensor] = MappingProxyType({})) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor) file by file; a file that holds none of ``names`` is never fetched nor opened.

        Of a tensor that ``rows`` names only those rows are read.

        Raises:
            CheckpointError: A file is missing or damaged.
        """
        wanted: dict[str, list[str]] = {}
        for name in names:
            wanted.setdefault(self.file_of[name], []).append(name)
        for file, inside in sorted(wanted.items()):
            with self._opened(file) as tensors:
                for name in inside:
                    tensor = tensors.get_tensor(name)
                    tensor = tensor[rows[name]] if name in rows else tensor
                    self.bytes_read += tensor.nbytes
                    yield name, tensor

    def take(self, name: str, dtype: torch.dtype | None = None, *, rows: Tensor | None = None) -> Tensor:
        """Return one tensor, or some rows of it (ascending), in memory of its own; nothing of its file stays mapped.

        Floating-point tensors are converted to ``dtype``.

        Raises:
            CheckpointError: The file is missing or damaged.
        """
        with self._opened(self.file_of[name]) as tensors:
            whole: Tensor = tensors.get_tensor(name)
            part = whole if rows is None else whole[rows]
            self.bytes_read += part.nbytes
            return part.to(dtype if part.is_floating_point() else None, copy=True)

    @contextmanager
    def _opened(self, file: str) -> Iterator[Any]:
        path = self._fetch(file)
        if self.opened[-1:] != [file]:
            self.opened.append(file)
        try:
            with safe_open(path, framework="pt") as tensors:
                yield tensors
        except SafetensorError as error:
            raise CheckpointError(f"{self.source.name}: {file} is damaged ({error}); fetch or convert it again") from error

    def _fetch(self, file: str) -> Path:
        try:
            return self.source.fetch(file)
        except NotCached as error:
            raise CheckpointError(str(error)) from error
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.source.name}: {file} is missing, though the index names it") from error

    def stored_bytes_per_param(self) -> int:
        """Return the width of most stored weights in bytes, from the header of the first file; masks and tables do not count."""
        entries = header(self._fetch(min(self.file_of.values())))
        weights: Counter[int] = Counter()
        for entry in [entry for name, entry in entries.items() if not HARMLESS.search(name)] or entries.values():
            bits = re.search(r"\d+", entry.dtype)  # F32, BF16, F8_E4M3, U8, ...; BOOL has no number, and a byte a value.
            weights[max(1, int(bits[0]) // 8) if bits else 1] += prod(entry.shape)
        return weights.most_common(1)[0][0]


def check_depth(who: str, entries: Mapping[str, Any], names: Callable[[], Iterable[str]]) -> None:
    """Refuse, with a ``ModelError``, a config of over 1,000 layers and more than the weights hold, before any is made."""
    for key in _DEPTH_KEYS:
        told = entries.get(key)
        if isinstance(told, (int, float)) and told > _FEW_LAYERS and told > (held := layers_in(names())):
            raise ModelError(
                f"{who}: config.json tells of {told} layers ({key}), but the weights hold {held}; one of the two is of another model"
            )


def layers_in(names: Iterable[str]) -> int:
    """Return how many numbered blocks tensors of these names belong to."""
    return 1 + max((int(found[1]) for name in names if (found := re.search(r"(?:^|\.)(\d+)\.", name))), default=-1)


def header(path: Path) -> dict[str, TensorEntry]:
    """Return the entries of a safetensors file; no tensor is read. One that is not whole is a ``CheckpointError``."""
    try:
        with safe_open(path, framework="pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            found = {name: TensorEntry(entry.get_dtype(), tuple(entry.get_shape())) for name, entry in slices.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or cut short ({error}); fetch or convert it again") from error
    if not found:
        raise CheckpointError(f"{path} holds no tensors; fetch or convert it again")
    return found


def fingerprint(source: ModelSource) -> str:
    """Return a short identity of a model: the commit of a hub id, else a digest of config, tensor table and samples.

    Of local weights only the file with the token embeddings is opened, which every cut needs, and sampled at 16 places;
    of the others the sizes count. So two models of one shape differ, and a cut reads no more than what it keeps.
    """
    if source.revision is not None:
        return f"hub:{source.location}@{source.revision}"
    digest = hashlib.sha256()
    config = source.entries("config.json")
    config.pop("transformers_version", None)
    file_of = WeightFiles.find(source).file_of
    sizes: dict[str, int | None] = {}
    for file in sorted(set(file_of.values())):
        try:
            sizes[file] = source.fetch(file).stat().st_size
        except FileNotFoundError:
            sizes[file] = None
    digest.update(json.dumps([config, file_of, sizes], sort_keys=True).encode())
    # The token embeddings, as far as names tell: outside of numbered blocks, and not the LM head.
    outside = [name for name in file_of if not re.search(r"\.\d+\.", name) and not name.startswith(("lm_head", "embed_out"))]
    embeddings = min(outside or file_of, key=lambda name: (not re.search("embed|wte", name), name))
    with source.fetch(file_of[embeddings]).open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        for part in range(_SAMPLES):
            opened.seek(max(0, size - _SAMPLE_BYTES) * part // (_SAMPLES - 1))
            digest.update(opened.read(_SAMPLE_BYTES))
    return f"sha256:{digest.hexdigest()[:32]}"

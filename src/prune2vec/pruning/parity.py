"""How a written encoder is compared with the one in memory: the texts, fp32 in little memory, and the record of the result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune2vec.errors import CheckpointError
from prune2vec.models.families import block_list, find_family

# Short and long, code, digits after blanks, several scripts, trailing white space: where tokenisers and masks go wrong.
PROBE_TEXTS: tuple[str, ...] = (
    "a",
    "The quick brown fox jumps over the lazy dog.",
    "in  2024,   365 days; 12  34",
    "def add(a, b):\n    return a + b\n",
    "naïve café, Zürich — ¿qué?",
    "東京は日本の首都です。",
    "How do I read a file line by line?  ",
    "Vectors of similar texts point the same way. " * 12,
    "One long passage, longer than any encoder reads. " * 120,
)
_FLOAT32_TOLERANCE = 1e-4
_LOW_PRECISION_TOLERANCE = 3e-2


def probe_prompts(prompts: Mapping[str, str]) -> list[str]:
    """Return the prompts to compare under: none, and each different one of the encoder."""
    return list(dict.fromkeys(("", *prompts.values())))


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the reloaded encoder is from the reference on the probe texts.

    Attributes:
        reference: What it was compared with.
        texts: Number of texts, with and without prompts.
        dtype: Of the comparison.
        max_difference: Largest absolute difference of a vector's entries.
        min_cosine: Smallest cosine between the two vectors of one text.
    """

    reference: str
    texts: int
    dtype: str
    max_difference: float
    min_cosine: float


def cosines(these: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine between the two vectors of each row, (text,), of (text, dim) arrays; 0 where one of them is all zeros."""
    norms = np.linalg.norm(these, axis=1) * np.linalg.norm(others, axis=1)
    return np.asarray((these * others).sum(axis=1) / np.where(norms == 0, 1, norms), dtype=np.float32)


def compare_vectors(
    reference: NDArray[np.float32], reloaded: NDArray[np.float32], *, named: str, dtype: str = "float32"
) -> Parity:
    """Compare two (text, dim) arrays; a difference beyond rounding, or NaN or infinity, is a ``CheckpointError``."""
    if reference.shape != reloaded.shape:
        raise CheckpointError(f"the reloaded encoder gives vectors of shape {reloaded.shape}, {named} gives {reference.shape}")
    if not (np.isfinite(reference).all() and np.isfinite(reloaded).all()):
        raise CheckpointError(f"NaN or infinity in the vectors of the written encoder or of {named} ({dtype})")
    if not (reference.any(axis=1) & reloaded.any(axis=1)).all():
        raise CheckpointError(
            f"a zero vector from the written encoder or from {named}: no token of a text was pooled; nothing was kept"
        )
    parity = Parity(
        reference=named,
        texts=len(reference),
        dtype=dtype,
        max_difference=float(np.abs(reference - reloaded).max()),
        min_cosine=float(cosines(reference, reloaded).min()),
    )
    allowed = rounding(reference, dtype)
    if parity.max_difference > allowed:
        raise CheckpointError(
            f"the written encoder differs from {named} by {parity.max_difference:.2g} (allowed: {allowed:.0e}); nothing was kept"
        )
    return parity


def rounding(vectors: NDArray[np.float32], dtype: str = "float32") -> float:
    """Return by how much rounding may move an entry of the (text, dim) vectors of a deep model that computes in ``dtype``."""
    return max(1.0, float(np.abs(vectors).max())) * (_FLOAT32_TOLERANCE if dtype == "float32" else _LOW_PRECISION_TOLERANCE)


@contextmanager
def computing_in_float32(model: PreTrainedModel) -> Iterator[None]:
    """Let a model compute in fp32 while the context is open, as ``model.float()`` would, in little more memory than it has.

    Halves convert to fp32 exactly, so the results are those of the converted model. A block's weights are converted while
    it runs, of the embeddings only the rows that are looked up. The weights are again what they were afterwards.
    """
    halves = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.dtype in (torch.bfloat16, torch.float16)]
    if not halves:
        yield
        return
    widened = _Widened(model.get_input_embeddings())
    modules = (widened.embeddings, *block_list(model, find_family(model, model.config)))
    apart = {id(parameter) for module in modules for parameter in module.parameters()}
    rest = [tensor for tensor in halves if id(tensor) not in apart]
    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(widened.before).remove)
            # Whether the module returns or fails.
            stack.callback(module.register_forward_hook(widened.after, always_call=True).remove)
        stack.callback(widened.restore, rest)
        widened.convert(rest)
        yield


class _Widened:
    """Tensors that are fp32 for a while, with what they hold otherwise; ``before`` and ``after`` are hooks."""

    def __init__(self, embeddings: Any) -> None:
        self.embeddings = embeddings
        self._padding = getattr(embeddings, "padding_idx", None)
        self._stored: dict[Tensor, Tensor] = {}

    def convert(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            self._stored[tensor] = tensor.data
            tensor.data = tensor.data.float()

    def restore(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            if tensor in self._stored:
                tensor.data = self._stored.pop(tensor)

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        weights = list(module.parameters())
        if module is not self.embeddings or not args or len(weights) != 1 or not isinstance(args[0], Tensor):
            self.convert(weights)
            return args
        # Only the rows that are looked up; the ids are numbered anew among them.
        rows, numbers = args[0].unique(return_inverse=True)
        self._stored[weights[0]] = weights[0].data
        weights[0].data = weights[0].data[rows].float()
        # It concerns gradients only, but its range is checked.
        self.embeddings.padding_idx = None  # type: ignore[assignment]
        return (numbers, *args[1:])

    def after(self, module: nn.Module, *call: Any) -> None:
        if module is self.embeddings:
            self.embeddings.padding_idx = self._padding  # type: ignore[assignment]
        self.restore(module.parameters())

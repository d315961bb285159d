"""An ONNX graph in fewer bits, and how far its vectors are from those of the graph in fp32."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from prune2vec.data.docstrings import mine_docstrings
from prune2vec.errors import CheckpointError
from prune2vec.exporting.onnx_graph import DATA, MODEL, OnnxEncoder, write_graph
from prune2vec.pruning.parity import PROBE_TEXTS, cosines
from prune2vec.pruning.portable import EncoderParts
from prune2vec.pruning.prune import round_weights

LEAST_COSINE = 0.98
"""Mean cosine to the vectors in fp32 below which a graph is not kept."""
_PAIRS, _CHARACTERS = 64, 400


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far vectors in a lower precision are from those in fp32, on the probe texts and on docstrings of numpy.

    Attributes:
        precision: ``int8`` or ``fp16``.
        texts: How many were compared, queries and documents under their prompts.
        mean_cosine: Mean cosine between the two vectors of one text.
        min_cosine: The smallest.
        ndcg_at_10: Of finding each docstring among all by its headline, in the lower precision.
        fp32_ndcg_at_10: The same in fp32.
        megabytes: Size of the graph, in 10^6 bytes.
        fp32_megabytes: That of the one in fp32.
    """

    precision: str
    texts: int
    mean_cosine: float
    min_cosine: float
    ndcg_at_10: float
    fp32_ndcg_at_10: float
    megabytes: float
    fp32_megabytes: float

    def render(self) -> str:
        """Return it in words."""
        return (
            f"{self.precision} against fp32 on {self.texts} texts: mean cosine {self.mean_cosine:.4f}, smallest "
            f"{self.min_cosine:.4f}; nDCG@10 {self.ndcg_at_10:.3f}, in fp32 {self.fp32_ndcg_at_10:.3f}; {self.megabytes:.1f} MB "
            f"of {self.fp32_megabytes:.1f}"
        )


def lower_precision(
    parts: EncoderParts, folder: Path, precision: str, *, prompt_tokens: Mapping[str, int], force: bool
) -> Agreement:
    """Put a graph in fewer bits in the place of the one in fp32 that lies in ``folder``, and compare their vectors.

    Args:
        parts: The encoder in fp32.
        folder: Where graph and tokeniser are.
        precision: ``int8`` (weights by output channel; activations when it runs) or ``fp16`` (all but pooling and heads).
        prompt_tokens: Leading tokens that each prompt takes, by the prompt.
        force: Keep it however far the vectors are; NaN never.

    Raises:
        CheckpointError: A weight is beyond fp16, a vector is not finite, or the mean cosine is below 0.98.
    """
    texts = sample_texts(parts)
    full, full_bytes = encode_sample(OnnxEncoder(folder, max_length=parts.max_length), texts, prompt_tokens), _bytes(folder)
    if precision == "int8":
        _quantise(folder)
    else:
        # Parameters alone: the angles of rotary embeddings stay in fp32, as transformers has them in fp16 models too.
        half = copy.deepcopy(parts.model)
        round_weights(half, torch.float16)
        _remove(folder)
        write_graph(replace(parts, model=half), folder / MODEL)
    low = encode_sample(OnnxEncoder(folder, max_length=parts.max_length), texts, prompt_tokens)
    if not np.isfinite(low).all():
        raise CheckpointError(f"NaN or infinity in the {precision} graph's vectors; nothing was kept: export it in fp32")
    cosine = cosines(full, low)
    found = Agreement(
        precision=precision,
        texts=len(texts),
        mean_cosine=float(cosine.mean()),
        min_cosine=float(cosine.min()),
        ndcg_at_10=headline_ndcg(low),
        fp32_ndcg_at_10=headline_ndcg(full),
        megabytes=_bytes(folder) / 1e6,
        fp32_megabytes=full_bytes / 1e6,
    )
    if found.mean_cosine < LEAST_COSINE and not force:
        raise CheckpointError(
            f"{found.render()}; at least {LEAST_COSINE} on average is expected, and nothing was kept: export it in fp16 or fp32, "
            "or call prune2vec.export with force=True and evaluate what it wrote"
        )
    return found


def sample_texts(parts: EncoderParts) -> list[tuple[str, str]]:
    """Return texts, each behind the prompt for it: the probe texts, and headlines and texts of numpy's docstrings."""
    pairs = mine_docstrings(Path(np.__file__).parent, max_pairs=_PAIRS).triplets
    query, document = (parts.prompts.get(name, "") for name in ("query", "document"))
    return [
        *((document, text) for text in PROBE_TEXTS),
        *((query, pair.anchor) for pair in pairs),
        *((document, pair.positive[:_CHARACTERS]) for pair in pairs),
    ]


def encode_sample(encoder: OnnxEncoder, texts: list[tuple[str, str]], prompt_tokens: Mapping[str, int]) -> NDArray[np.float32]:
    """Return the (text, dim) vectors of texts behind their prompts.

    Encoded one by one: in int8 the range of activations is the batch's, so that a vector depends on the texts beside its own.
    """
    vectors = [encoder.encode([text], prompt=prompt, prompt_tokens=prompt_tokens.get(prompt, 0)) for prompt, text in texts]
    return np.concatenate(vectors)


def headline_ndcg(vectors: NDArray[np.float32]) -> float:
    """Return nDCG@10 of finding each docstring of ``sample_texts`` by its headline, by cosine, from the texts' (text, dim) vectors."""
    unit = vectors[len(PROBE_TEXTS) :] / np.linalg.norm(vectors[len(PROBE_TEXTS) :], axis=1, keepdims=True)
    headlines, docstrings = np.split(unit, 2)
    scores = headlines @ docstrings.T
    before = (scores > scores.diagonal()[:, None]).sum(axis=1)
    return float(np.where(before < 10, 1 / np.log2(before + 2), 0.0).mean())


def _quantise(folder: Path) -> None:
    """Put onnxruntime's dynamic int8 form of a graph in its place."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logger, low = logging.getLogger(), folder / MODEL.with_stem("model_int8")
    level = logger.level
    # It advises to run a preparation that PyTorch's exporter has done already.
    logger.setLevel(logging.ERROR)
    try:
        quantize_dynamic(
            folder / MODEL,
            low,
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=(folder / DATA).exists(),
        )
    finally:
        logger.setLevel(level)
    _remove(folder)
    low.rename(folder / MODEL)


def _remove(folder: Path) -> None:
    for name in (MODEL, DATA):
        (folder / name).unlink(missing_ok=True)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / MODEL).parent.iterdir())

"""An encoder as one ONNX graph, from token numbers to vectors; and encoding with it, by onnxruntime and tokenizers alone."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from prune2vec.errors import CheckpointError, reason_of
from prune2vec.forward.pooling import pool, poolings
from prune2vec.models.heads import read_out
from prune2vec.models.quiet import quiet_transformers
from prune2vec.pruning.portable import EncoderParts

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

OPSET = 18
MODEL = Path("onnx") / "model.onnx"
OUTPUTS = ("sentence_embedding", "token_embeddings")
# One protobuf file holds 2 GB; above this the weights go into a file of their own.
_ONE_FILE_BYTES = 1_500_000_000


class EncoderGraph(nn.Module):
    """Transformer, pooling, heads and normalisation in fp32."""

    def __init__(self, parts: EncoderParts) -> None:
        super().__init__()
        self.model = parts.model
        self.heads = nn.ModuleList(parts.heads)
        self._weigh = poolings.get(parts.pooling)
        self._parts = parts

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pooling_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (batch, dim) vectors of texts and the (batch, seq, dim) states of tokens.

        Args:
            input_ids: (batch, seq) int64, padded on the right.
            attention_mask: (batch, seq) int64; 1 where there is a token.
            pooling_mask: (batch, seq) int64; 1 where a token is pooled. None: wherever there is one.
        """
        states = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)[0].float()
        pooled = attention_mask if pooling_mask is None else pooling_mask
        vectors = read_out(
            pool(states, self._weigh(pooled, attention_mask)),
            list(self.heads),
            normalize=self._parts.normalize,
            truncate_dim=self._parts.truncate_dim,
        )
        return vectors, states


def input_names(*, with_pooling_mask: bool) -> tuple[str, ...]:
    """Return the graph's inputs, in order."""
    return ("input_ids", "attention_mask", *(["pooling_mask"] if with_pooling_mask else []))


def write_graph(parts: EncoderParts, path: Path, *, with_pooling_mask: bool) -> None:
    """Write the encoder's graph, with any batch size and any length of text, to ``path``.

    Args:
        parts: The encoder, in fp32 on the CPU.
        path: The file; weights above 1.5 GB go into ``path`` + ``.data`` beside it.
        with_pooling_mask: Whether the graph has the third input.

    Raises:
        CheckpointError: PyTorch's exporter cannot turn the model into a graph.
    """
    graph = EncoderGraph(parts).eval()
    names = input_names(with_pooling_mask=with_pooling_mask)
    mask = torch.ones((2, 7), dtype=torch.int64)
    # A first token that is not pooled and a shorter second text: both masks must be seen to matter.
    mask[1, 5:] = 0
    pooling_mask = mask.clone()
    pooling_mask[:, 0] = 0
    ids = torch.arange(14).reshape(2, 7) % parts.model.config.vocab_size
    examples = (ids, mask, pooling_mask)[: len(names)]
    try:
        with _quiet_exporter(), torch.no_grad():
            program = torch.onnx.export(
                graph,
                examples,
                dynamo=True,
                opset_version=OPSET,
                input_names=names,
                output_names=OUTPUTS,
                dynamic_shapes=tuple({0: "batch", 1: "sequence"} for _ in names),
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        reason = reason_of(error.__cause__ or error)
        raise CheckpointError(f"{parts.model.config.model_type} cannot be turned into an ONNX graph: {reason}") from error
    assert program is not None
    size = sum(parameter.numel() * 4 for parameter in graph.parameters())
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(str(path), external_data=size > _ONE_FILE_BYTES)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what the exporter says of axis names, of torchvision and of PyTorch's own deprecated parts."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"# The axis name: \w+ will not be used", category=UserWarning)
            warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)


class OnnxEncoder:
    """An exported folder, loaded as its README shows it: what the check of an export runs.

    Args:
        folder: Where ``onnx/model.onnx`` and ``tokenizer.json`` are.
        max_length: Longest text in tokens; longer ones lose their end.
    """

    def __init__(self, folder: Path, *, max_length: int) -> None:
        from onnxruntime import InferenceSession, SessionOptions

        options = SessionOptions()
        options.log_severity_level = 3
        self._session: InferenceSession = InferenceSession(str(folder / MODEL), options, providers=["CPUExecutionProvider"])
        self._inputs = {value.name for value in self._session.get_inputs()}
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(max_length)
        self._tokenizer.enable_padding()

    def encode(
        self, texts: Sequence[str], *, prompt: str = "", prompt_tokens: int = 0, batch_size: int = 32
    ) -> NDArray[np.float32]:
        """Return the (text, dim) vectors of texts behind a prompt.

        Its ``prompt_tokens`` leading tokens are not pooled, if the graph can leave tokens out.
        """
        vectors: list[NDArray[np.float32]] = []
        for start in range(0, len(texts), batch_size):
            rows = self._tokenizer.encode_batch([prompt + text for text in texts[start : start + batch_size]])
            mask = np.array([row.attention_mask for row in rows], dtype=np.int64)
            inputs = {"input_ids": np.array([row.ids for row in rows], dtype=np.int64), "attention_mask": mask}
            if "pooling_mask" in self._inputs:
                inputs["pooling_mask"] = mask.copy()
                inputs["pooling_mask"][:, :prompt_tokens] = 0
            vectors.append(self._session.run(OUTPUTS[:1], inputs)[0])
        return np.concatenate(vectors)

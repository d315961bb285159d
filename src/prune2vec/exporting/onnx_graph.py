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
from prune2vec.progress import quiet_transformers
from prune2vec.pruning.portable import EncoderParts

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

OPSET = 18
MODEL = Path("onnx") / "model.onnx"
INPUTS = ("input_ids", "attention_mask")
OUTPUTS = ("last_hidden_state", "sentence_embedding")
POOLING_MASK = "pooling_mask"
"""Of which tokens a vector is made: an initializer that may be fed, so that runtimes without a word for it need not."""
DATA = MODEL.with_name(f"{MODEL.name}_data")
"""Where weights that do not fit into the graph's file are, under the name that transformers.js and servers look for."""
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
        """Return the (batch, seq, dim) states of tokens and (batch, dim) vectors of texts.

        Args:
            input_ids: (batch, seq) int64, padded on the right.
            attention_mask: (batch, seq) int64; 1 where there is a token.
            pooling_mask: (batch, seq) or (1, 1) int64; 0 where a token is not pooled. None: all are.
        """
        states = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)[0].float()
        pooled = attention_mask if pooling_mask is None else attention_mask * pooling_mask
        vectors = read_out(
            pool(states, self._weigh(pooled, attention_mask)),
            list(self.heads),
            normalize=self._parts.normalize,
            truncate_dim=self._parts.truncate_dim,
        )
        return states, vectors


def write_graph(parts: EncoderParts, path: Path) -> None:
    """Write the encoder's graph, with any batch size and any length of text, to ``path``.

    An encoder that leaves its prompts out of the pooling has a pooling mask: of ones, unless it is fed.

    Args:
        parts: The encoder, in fp32 on the CPU.
        path: The file; weights above 1.5 GB go into ``path`` + ``_data`` beside it.

    Raises:
        CheckpointError: PyTorch's exporter cannot turn the model into a graph.
    """
    from onnxscript import ir

    graph = EncoderGraph(parts).eval()
    names = (*INPUTS, *([POOLING_MASK] if parts.leaves_out_prompts else []))
    mask = torch.ones((2, 7), dtype=torch.int64)
    # A shorter second text: the mask must be seen to matter.
    mask[1, 5:] = 0
    ids = torch.arange(14).reshape(2, 7) % parts.model.config.vocab_size
    # The pooling mask is one number here, so that nothing takes the batch's shape from it.
    examples = (ids, mask, torch.ones((1, 1), dtype=torch.int64))[: len(names)]
    try:
        with _quiet_exporter(), torch.no_grad():
            program = torch.onnx.export(
                graph,
                examples,
                dynamo=True,
                opset_version=OPSET,
                input_names=names,
                output_names=OUTPUTS,
                dynamic_shapes=tuple({0: "batch", 1: "sequence"} if name in INPUTS else {} for name in names),
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        reason = reason_of(error.__cause__ or error)
        raise CheckpointError(f"{parts.model.config.model_type} cannot be turned into an ONNX graph: {reason}") from error
    assert program is not None
    for value in program.model.graph.inputs[len(INPUTS) :]:
        # Ones as its default stand for every text and token.
        value.const_value = ir.tensor(np.ones((1, 1), dtype=np.int64), name=value.name)
        program.model.graph.register_initializer(value)
        value.shape = ir.Shape([f"{value.name}_batch", f"{value.name}_sequence"])
    size = sum(parameter.numel() * 4 for parameter in graph.parameters())
    path.parent.mkdir(parents=True, exist_ok=True)
    ir.save(program.model, path, external_data=f"{path.name}_data" if size > _ONE_FILE_BYTES else None)


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
        self._optional = {value.name for value in self._session.get_overridable_initializers()}
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
            if prompt_tokens and POOLING_MASK in self._optional:
                inputs[POOLING_MASK] = mask.copy()
                inputs[POOLING_MASK][:, :prompt_tokens] = 0
            vectors.append(self._session.run(OUTPUTS[1:], inputs)[0])
        return np.concatenate(vectors)

"""Encoding with an exported ONNX folder, by onnxruntime and tokenizers alone: what the check of an export runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MODEL = Path("onnx") / "model.onnx"


class OnnxEncoder:
    """An exported folder, loaded.

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
        """Return the (text, dim) vectors.

        Args:
            texts: The texts.
            prompt: Put before each.
            prompt_tokens: So many leading tokens are not pooled, if the graph can leave tokens out.
            batch_size: Texts in one call.
        """
        batches = [texts[start : start + batch_size] for start in range(0, len(texts), batch_size)]
        return np.concatenate([self._batch([prompt + text for text in batch], prompt_tokens) for batch in batches])

    def _batch(self, texts: Sequence[str], prompt_tokens: int) -> NDArray[np.float32]:
        rows = self._tokenizer.encode_batch(list(texts))
        mask = np.array([row.attention_mask for row in rows], dtype=np.int64)
        inputs = {"input_ids": np.array([row.ids for row in rows], dtype=np.int64), "attention_mask": mask}
        if "pooling_mask" in self._inputs:
            inputs["pooling_mask"] = mask.copy()
            inputs["pooling_mask"][:, :prompt_tokens] = 0
        vectors: NDArray[np.float32] = self._session.run(["sentence_embedding"], inputs)[0]
        return vectors

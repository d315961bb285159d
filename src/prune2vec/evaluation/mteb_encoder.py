"""An engine as mteb's tasks call an encoder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from prune2vec.encoding.engine import Engine
from prune2vec.evaluation.text_vectors import SIDES, side_prompt

if TYPE_CHECKING:
    from mteb.models import ModelMeta, SentenceTransformerEncoderWrapper


class MtebEncoder:
    """mteb's ``EncoderProtocol``: texts go to the engine, everything else to mteb's own wrapper.

    Args:
        wrapper: mteb's wrapper of the same encoder, which knows the prompts.
        engine: What encodes; None leaves it to the wrapper.

    Attributes:
        used: What stood before the texts so far, by ``query``, ``document`` or, for neither, ``text``.
    """

    def __init__(self, wrapper: SentenceTransformerEncoderWrapper, engine: Engine | None) -> None:
        self.used: dict[str, str] = {}
        self._wrapper = wrapper
        self._engine = engine
        self._prompted: dict[str, Engine] = {}

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What mteb notes about the model."""
        return self._wrapper.mteb_model_meta

    def encode(
        self,
        inputs: Iterable[dict[str, list[str]]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Return the vectors of the texts that ``inputs`` yields, (text, dim) float32.

        Args:
            inputs: Batches with their texts under ``"text"``; how many a batch has makes no difference.
            task_metadata: mteb's description of the task, by which the prompt is chosen.
            hf_split: Split of the task.
            hf_subset: Subset of the task.
            prompt_type: Query, document or neither.
            **kwargs: Options of ``SentenceTransformer.encode``, which an engine does not need.
        """
        side = prompt_type.value if prompt_type is not None else None
        name = self._wrapper.get_prompt_name(task_metadata, prompt_type)
        found = (self._wrapper.model_prompts or {}).get(name or "")
        # Where mteb finds none, sentence-transformers takes the encoder's own for that side, or its default.
        prompt = found if found is not None else side_prompt(self._wrapper.model, SIDES.get(side))
        self.used[side or "text"] = prompt
        if self._engine is None:
            where = {"task_metadata": task_metadata, "hf_split": hf_split, "hf_subset": hf_subset, "prompt_type": prompt_type}
            return self._wrapper.encode(inputs, **where, **kwargs)  # type: ignore[arg-type]
        texts = [text for batch in inputs for text in batch["text"]]
        if prompt not in self._prompted:
            self._prompted[prompt] = self._engine.with_prompt(prompt)
        return self._prompted[prompt].encode(texts)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarity of each of the first to each of the second, by the encoder's own measure."""
        return self._wrapper.similarity(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return the similarity of each of the first to its counterpart, by the encoder's own measure."""
        return self._wrapper.similarity_pairwise(embeddings1, embeddings2)

"""What a model weighs: parameters and FLOPs per part, so that plans are arithmetic and need no model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from prune2vec.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes of a decoder without its LM head.

    Attributes:
        model_type: The architecture's name in ``config.json``.
        num_layers: Number of decoder blocks.
        hidden_size: Width of the residual stream.
        attention_width: Query heads times head width (what one attention score pass multiplies).
        embedding_params: Token (and learned position) embeddings, counted once; an LM head never counts.
        block_params: Parameters of each block, first block first.
        block_matmul_params: The part of them that multiplies every token (matrices; no norms or biases).
        final_params: Everything after the last block (final norm, output projection).
        bytes_per_param: Width of the stored weights: 2 for bf16 and fp16, 4 for fp32.
    """

    model_type: str
    num_layers: int
    hidden_size: int
    attention_width: int
    embedding_params: int
    block_params: tuple[int, ...]
    block_matmul_params: tuple[int, ...]
    final_params: int
    bytes_per_param: int

    def params(self, keep: Iterable[int]) -> int:
        """Return the real parameters of the encoder that keeps blocks ``keep`` (0-based): embeddings counted once."""
        return self.embedding_params + self.final_params + sum(self.block_params[layer] for layer in keep)

    def proportional_params(self, kept: int) -> int:
        """Return the parameters by the L3Prune paper's convention: the whole times n/N, embeddings shrinking too."""
        return round(self.params(range(self.num_layers)) * kept / self.num_layers)

    def flops_per_token(self, keep: Iterable[int], *, length: int = 512) -> int:
        """Return forward FLOPs per token at sequence length ``length``: 2 per matrix weight, plus causal attention."""
        keep = tuple(keep)
        matrices = 2 * sum(self.block_matmul_params[layer] for layer in keep)
        # Scores and their weighted sum: 2 * 2 * attended tokens * width; a causal token attends to half on average.
        return matrices + len(keep) * 2 * (length + 1) * self.attention_width

    def memory_bytes(self, keep: Iterable[int], *, batch_tokens: int = 16384) -> int:
        """Estimate the bytes that encoding needs: the weights, and about eight live activations of a batch."""
        return self.params(keep) * self.bytes_per_param + 8 * batch_tokens * self.hidden_size * self.bytes_per_param

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {**asdict(self), "block_params": list(self.block_params), "block_matmul_params": list(self.block_matmul_params)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, where: str) -> Self:
        """Read back what ``to_json`` wrote.

        Raises:
            DataError: A field is missing or does not fit.
        """
        try:
            fields: dict[str, Any] = {name: item if name == "model_type" else _whole(item) for name, item in value.items()}
            shape = cls(**fields)
            sizes = {len(shape.block_params), len(shape.block_matmul_params)}
        except (AttributeError, TypeError, ValueError) as error:
            raise DataError(f"{where}: broken model shape ({error}); make the file again with prune2vec profile") from error
        if shape.num_layers < 1 or sizes != {shape.num_layers}:
            raise DataError(
                f"{where}: broken model shape ({shape.num_layers} layers but {min(sizes)} block sizes); make the file again"
            )
        return shape


def _whole(value: Any) -> int | tuple[int, ...]:
    """Return a whole number, or a tuple of them."""
    return tuple(int(item) for item in value) if isinstance(value, (list, tuple)) else int(value)

"""What a model weighs: parameters and FLOPs per part, so that plans are arithmetic and need no model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Self

from prune2vec.errors import DataError, PlanError
from prune2vec.models.kept import Kept
from prune2vec.settings import AS_WRITTEN, Layer, Size, read_as

_BLOCKS = ("block_params", "block_matmul_params")
_PARTS = ("attention_params", "attention_matmul_params", "mlp_params", "mlp_matmul_params")
_NEURONS = ("mlp_width", "neuron_params", "neuron_matmul_params")


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
        attention_params: Parameters that go with each block's attention, its norms included; empty when not known.
        attention_matmul_params: The part of them that multiplies every token.
        mlp_params: Parameters that go with each block's MLP, its norms included; empty when not known.
        mlp_matmul_params: The part of them that multiplies every token.
        mlp_width: Neurons of each block's MLP; empty when not known.
        neuron_params: Parameters of one neuron in each block.
        neuron_matmul_params: The part of them that multiplies every token.
    """

    __pydantic_config__ = AS_WRITTEN

    model_type: str
    num_layers: Layer
    hidden_size: Size
    attention_width: Size
    embedding_params: Size
    block_params: tuple[Size, ...]
    block_matmul_params: tuple[Size, ...]
    final_params: Size
    bytes_per_param: Size
    attention_params: tuple[Size, ...] = ()
    attention_matmul_params: tuple[Size, ...] = ()
    mlp_params: tuple[Size, ...] = ()
    mlp_matmul_params: tuple[Size, ...] = ()
    mlp_width: tuple[Size, ...] = ()
    neuron_params: tuple[Size, ...] = ()
    neuron_matmul_params: tuple[Size, ...] = ()

    @property
    def knows_sub_layers(self) -> bool:
        """Whether attention and MLP were told apart when the model was measured."""
        return bool(self.attention_params)

    @property
    def knows_neurons(self) -> bool:
        """Whether the MLPs' neurons were counted when the model was measured."""
        return bool(self.mlp_width)

    def params(self, keep: Iterable[int] | Kept) -> int:
        """Return the real parameters of the encoder that keeps ``keep`` (0-based blocks): embeddings counted once.

        Raises:
            PlanError: Single sub-layers or neurons go, and the model's were not counted.
        """
        kept = Kept.whole(keep)
        return self.embedding_params + self.final_params + self._sum(kept, self.block_params, "params")

    def proportional_params(self, kept: int) -> int:
        """Return the parameters by the L3Prune paper's convention: the whole times n/N, embeddings shrinking too."""
        return round(self.params(range(self.num_layers)) * kept / self.num_layers)

    def flops_per_token(self, keep: Iterable[int] | Kept, *, length: int = 512) -> int:
        """Return forward FLOPs per token at sequence length ``length``: 2 per matrix weight, plus causal attention.

        Raises:
            PlanError: As ``params``.
        """
        kept = Kept.whole(keep)
        matrices = 2 * self._sum(kept, self.block_matmul_params, "matmul_params")
        # Scores and their weighted sum: 2 * 2 * attended tokens * width; a causal token attends to half on average.
        return matrices + len(kept.attentions) * 2 * (length + 1) * self.attention_width

    def memory_bytes(self, keep: Iterable[int] | Kept, *, batch_tokens: int = 16384) -> int:
        """Estimate the bytes that encoding needs: the weights, and about eight live activations of a batch."""
        return self.params(keep) * self.bytes_per_param + 8 * batch_tokens * self.hidden_size * self.bytes_per_param

    def check_can_drop(self, kept: Kept) -> None:
        """Refuse to count a cut inside blocks whose parts are not known.

        Raises:
            PlanError: They are not.
        """
        if (kept.drop_attention or kept.drop_mlp) and not self.knows_sub_layers:
            raise PlanError(f"{self.model_type}: its attention and MLP are not known apart, so neither can be dropped")
        if (kept.width_cut or kept.widths) and not self.knows_neurons:
            raise PlanError(f"{self.model_type}: the neurons of its MLPs are not known, so its width cannot be cut")

    def _sum(self, kept: Kept, of_blocks: tuple[int, ...], kind: str) -> int:
        """Add up the kept blocks' counts of a kind, without the sub-layers and neurons that go."""
        self.check_can_drop(kept)
        total: int = sum(of_blocks[layer] for layer in kept.layers)
        total -= sum(getattr(self, f"attention_{kind}")[layer] for layer in kept.drop_attention)
        total -= sum(getattr(self, f"mlp_{kind}")[layer] for layer in kept.drop_mlp)
        if kept.mlps and (kept.widths or kept.width_cut):
            # Every block of a decoder has the same MLP, so it does not matter here which neurons go.
            size: int = getattr(self, f"neuron_{kind}")[kept.mlps[0]]
            total -= kept.cut_neurons(self.mlp_width) * size
        return total

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Any, *, where: str) -> Self:
        """Read back what ``to_json`` wrote.

        Raises:
            DataError: A field is missing or does not fit.
        """
        try:
            shape = read_as(cls, value)
        except ValueError as error:
            raise DataError(f"{where}: broken model shape ({error}); make the file again with prune2vec profile") from error
        sizes = {len(getattr(shape, name)) for name in _BLOCKS}
        # Unknown parts are empty.
        sizes |= {len(getattr(shape, name)) for name in (*_PARTS, *_NEURONS)} - {0}
        halves = any(len({bool(getattr(shape, name)) for name in names}) > 1 for names in (_PARTS, _NEURONS))
        if halves:
            raise DataError(f"{where}: broken model shape (sub-layers or neurons are counted in part); make the file again")
        if shape.num_layers < 1 or sizes != {shape.num_layers}:
            raise DataError(
                f"{where}: broken model shape ({shape.num_layers} layers but {min(sizes)} block sizes); make the file again"
            )
        return shape

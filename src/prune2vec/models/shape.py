"""What a model weighs: parameters and FLOPs per part, so that plans are arithmetic and need no model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from prune2vec.errors import PlanError, UnsupportedModel
from prune2vec.models.kept import Kept
from prune2vec.settings import AS_WRITTEN, Layer, Size

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from prune2vec.models.families import Family

_BLOCKS = ("block_params", "block_matmul_params")
_PARTS = ("attention_params", "attention_matmul_params", "mlp_params", "mlp_matmul_params")
_NEURONS = ("mlp_width", "neuron_params", "neuron_matmul_params")


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes of a base model, without LM head or pooler.

    Attributes:
        model_type: The architecture's name in ``config.json``.
        num_layers: Number of blocks.
        hidden_size: Width of the residual stream.
        attention_width: Query heads times head width (what one attention score pass multiplies).
        embedding_params: Token (and learned position) embeddings, counted once; an LM head never counts.
        block_params: Parameters of each block, first block first.
        block_matmul_params: The part of them that multiplies every token (matrices; no norms or biases).
        final_params: Everything after the last block (final norm, output projection, an encoder's heads).
        bytes_per_param: Width of the stored weights: 2 for bf16 and fp16, 4 for fp32.
        attention_params: Parameters that go with each block's attention, its norms included; empty when not known.
        attention_matmul_params: The part of them that multiplies every token.
        mlp_params: Parameters that go with each block's MLP, its norms included; empty when not known.
        mlp_matmul_params: The part of them that multiplies every token.
        mlp_width: Neurons of each block's MLP; empty when not known.
        neuron_params: Parameters of one neuron in each block.
        neuron_matmul_params: The part of them that multiplies every token.
        causal: Whether no token sees those after it, as in every model of earlier profiles.
        first_stays: Whether the first layer is built otherwise than all others and must stay.
        token_rows: Token embeddings; 0 where they are not known, or not all that there is of a token.
        token_params: Parameters of one of them.
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
    causal: bool = True
    first_stays: bool = False
    token_rows: Size = 0
    token_params: Size = 0

    @property
    def knows_sub_layers(self) -> bool:
        """Whether attention and MLP were told apart when the model was measured."""
        return bool(self.attention_params)

    @property
    def knows_neurons(self) -> bool:
        """Whether the MLPs' neurons were counted when the model was measured."""
        return bool(self.mlp_width)

    def params(self, keep: Iterable[int] | Kept) -> int:
        """Return the parameters of an encoder of ``keep``, embeddings once; ``PlanError`` if what goes was not counted."""
        kept = Kept.whole(keep)
        outside = self.with_tokens(kept.vocabulary).embedding_params + self.final_params
        return outside + self._sum(kept, self.block_params, "params")

    def with_tokens(self, count: int | None) -> Self:
        """Return the sizes of the model with so many token embeddings; None for all that there are."""
        if count is None:
            return self
        gone = (self.token_rows - count) * self.token_params
        return replace(self, token_rows=count, embedding_params=self.embedding_params - gone)

    def proportional_params(self, kept: int) -> int:
        """Return the parameters by the L3Prune paper's convention: the whole times n/N, embeddings shrinking too."""
        return round(self.params(range(self.num_layers)) * kept / self.num_layers)

    def flops_per_token(self, keep: Iterable[int] | Kept, *, length: int = 512) -> int:
        """Return forward FLOPs per token at sequence length ``length``: 2 per matrix weight, plus attention; errors as ``params``."""
        kept = Kept.whole(keep)
        matrices = 2 * self._sum(kept, self.block_matmul_params, "matmul_params")
        # Scores and their weighted sum: 2 * 2 * attended tokens * width; a causal token attends to half on average.
        attended = (length + 1) if self.causal else 2 * length
        return matrices + len(kept.attentions) * 2 * attended * self.attention_width

    def memory_bytes(self, keep: Iterable[int] | Kept) -> int:
        """Estimate the bytes that encoding needs: the weights, and about eight live activations of a batch of 16,384 tokens."""
        return self.params(keep) * self.bytes_per_param + 8 * 16384 * self.hidden_size * self.bytes_per_param

    def check_can_drop(self, kept: Kept) -> None:
        """Refuse, with a ``PlanError``, to count a cut inside blocks whose parts are not known."""
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
            # Every block has the same MLP, so it does not matter here which neurons go.
            size: int = getattr(self, f"neuron_{kind}")[kept.mlps[0]]
            total -= kept.cut_neurons(self.mlp_width) * size
        return total

    def checked(self) -> Self:
        """Return the shape; a ``ValueError`` if its counts do not fit each other, as those read from a file may not."""
        if any(len({bool(getattr(self, name)) for name in names}) > 1 for names in (_PARTS, _NEURONS)):
            raise ValueError("broken model shape (sub-layers or neurons are counted in part)")
        sizes = {len(getattr(self, name)) for name in _BLOCKS}
        # Unknown parts are empty.
        sizes |= {len(getattr(self, name)) for name in (*_PARTS, *_NEURONS)} - {0}
        if self.num_layers < 1 or sizes != {self.num_layers}:
            raise ValueError(f"broken model shape ({self.num_layers} layers but {min(sizes)} block sizes)")
        if bool(self.token_rows) != bool(self.token_params) or self.token_rows * self.token_params > self.embedding_params:
            raise ValueError(f"broken model shape ({self.token_rows} token embeddings of {self.token_params} parameters)")
        return self


def measure_shape(
    model: PreTrainedModel, family: Family, *, bytes_per_param: int, causal: bool = True, heads: Iterable[nn.Module] = ()
) -> ModelShape:
    """Count a model's parameters by part, shared ones once; sub-layers and neurons are left out where they are not known.

    ``causal`` is what ``self_test`` found, ``heads`` are those of an encoder.
    """
    from prune2vec.models.families import block_list, final_modules

    blocks, finals, config = list(block_list(model, family)), final_modules(model, family), model.config
    final = sum(map(_count, finals))
    per_block = tuple(map(_count, blocks))
    projections: list[Any] = [module.out_features for module in finals if hasattr(module, "out_features")]
    count = config.num_attention_heads
    sizes: dict[str, Any] = _part_sizes(model, blocks)
    table: Any = model.get_input_embeddings().weight
    # Where another table has a row a token too, nobody can tell what a token weighs.
    if not any(tensor is not table and len(table) in tensor.shape for tensor in model.parameters()):
        sizes |= {"token_rows": len(table), "token_params": table.shape[1]}
    return ModelShape(
        model_type=config.model_type,
        num_layers=len(blocks),
        hidden_size=int(projections[-1] if projections else config.hidden_size),
        attention_width=count * (getattr(config, "head_dim", None) or config.hidden_size // count),
        embedding_params=_count(model) - sum(per_block) - final,
        block_params=per_block,
        block_matmul_params=tuple(map(_count_matrices, blocks)),
        final_params=final + sum(map(_count, heads)),
        bytes_per_param=bytes_per_param,
        causal=causal,
        first_stays=family.first_stays,
        **sizes,
    )


def _part_sizes(model: PreTrainedModel, blocks: list[nn.Module]) -> dict[str, tuple[int, ...]]:
    from prune2vec.models.block_layout import sub_layers_of
    from prune2vec.models.families import mlp_width

    try:
        parts = sub_layers_of(model)
    except UnsupportedModel:
        return {}
    sizes = {}
    for what, paths in (
        ("attention", (parts.attention, *parts.attention_norms)),
        ("mlp", (*parts.mlp, *parts.mlp_norms)),
    ):
        modules = [[block.get_submodule(path) for path in paths] for block in blocks]
        sizes[f"{what}_params"] = tuple(sum(map(_count, inside)) for inside in modules)
        sizes[f"{what}_matmul_params"] = tuple(sum(map(_count_matrices, inside)) for inside in modules)
    if parts.neurons is None:
        return sizes
    neurons = parts.neurons
    widths = tuple(mlp_width(block, neurons) for block in blocks)
    into = [[block.get_submodule(path) for path in neurons.into] for block in blocks]
    outs = [block.get_submodule(neurons.out) for block in blocks]
    # The bias of the last layer belongs to no neuron.
    matrices = [_count_matrices(out) + sum(map(_count_matrices, before)) for out, before in zip(outs, into, strict=True)]
    biases = [sum(map(_count, before)) - sum(map(_count_matrices, before)) for before in into]
    by_width = list(zip(matrices, biases, widths, strict=True))
    return {
        **sizes,
        "mlp_width": widths,
        "neuron_params": tuple(weights // width + bias // width for weights, bias, width in by_width),
        "neuron_matmul_params": tuple(weights // width for weights, _, width in by_width),
    }


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _count_matrices(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim > 1)

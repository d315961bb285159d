"""One training for several depths of an encoder: the loss at each of them, over one forward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.merged_forward import column_merging_disabled
from sentence_transformers.util import get_world_size
from torch import Tensor, distributed, nn
from transformers import PreTrainedModel

from prune2vec.errors import ConfigError
from prune2vec.models.block_layout import uneven_layout
from prune2vec.models.families import block_list, final_modules, find_family, states_of
from prune2vec.models.selftest import self_test
from prune2vec.training.adapters import base_model
from prune2vec.training.objective import TeacherDistance, full_width
from prune2vec.training.train_settings import TrainSettings

Features = dict[str, Any]


def elastic_depths(encoder: SentenceTransformer, settings: TrainSettings) -> tuple[int, ...]:
    """Return all depths that are trained, ascending, the whole encoder last; none where one encoder is trained as usual.

    Raises:
        ConfigError: The settings do not fit the encoder, whose blocks may not be all alike, so that a depth is no stock encoder.
        UnsupportedModel: A depth of it cannot be read out.
    """
    settings.check_depths()
    if not settings.depths:
        return ()
    model = base_model(encoder)
    family = find_family(model, model.config)
    layers = len(block_list(model, family))
    if settings.depths[-1] > layers:
        raise ConfigError(f"depths: {settings.depths[-1]} is more than the encoder's {layers} layers")
    if settings.depths == (layers,):
        raise ConfigError(f"depths: {layers} are all of the encoder's layers, which are always trained; give shallower ones")
    if uneven_layout(model):
        raise ConfigError("depths: the blocks of this encoder are not all alike, and a depth of it would be no stock encoder")
    self_test(model, family)
    depths = tuple(sorted({*settings.depths, layers}))
    if settings.depth_weights and len(settings.depth_weights) != len(depths):
        raise ConfigError(
            f"depth_weights has {len(settings.depth_weights)} values for the {len(depths)} depths "
            f"{','.join(map(str, depths))}; give one a depth, the whole encoder's last"
        )
    if (settings.depths_per_step or 1) > len(depths):
        raise ConfigError(f"depths_per_step {settings.depths_per_step} is more than the {len(depths)} depths")
    return depths


class ElasticLoss(nn.Module):
    """The sum of a loss over several depths of one forward pass, each read out as the encoder cut there reads out.

    The sum's gradient is the sum of the gradients of the cuts, each trained alone (equal draws of the dropout given).

    Args:
        encoder: The encoder in training.
        loss: Its loss: any that asks the encoder for the vectors of whole columns.
        depths: What ``elastic_depths`` returned.
        settings: Weights of the depths, how many are drawn a step, and whether the deepest teaches the others.
    """

    def __init__(self, encoder: SentenceTransformer, loss: nn.Module, depths: tuple[int, ...], settings: TrainSettings) -> None:
        super().__init__()
        self.encoder = encoder
        self.model = encoder  # In several processes the trainer puts what averages their gradients in its place.
        self.loss = loss
        self._weights = dict(zip(depths, settings.depth_weights or (1.0,) * len(depths), strict=True))
        self._drawn = settings.depths_per_step or len(depths)
        self._distil_weight = settings.distil_weight
        self._taught = TeacherDistance(encoder, settings, width=full_width(encoder)) if settings.deepest_teaches else None

    def forward(self, sentence_features: Iterable[Features], labels: Tensor) -> dict[str, Tensor]:
        """Return the weighted loss of each depth of this step, ``depth_6`` for one; the trainer adds them up and logs each."""
        columns, depths = list(sentence_features), self._draw()
        with states_at(base_model(self.encoder), depths):
            every = [self._vectors(column, len(depths)) for column in columns]
        parts: dict[str, Tensor] = {}
        for place, depth in enumerate(depths):
            ours = [vectors[place] for vectors in every]
            with self._answers({id(column): vectors for column, vectors in zip(columns, ours, strict=True)}):
                found = self.loss(columns, labels)
            total: Tensor = torch.stack(list(found.values())).sum() if isinstance(found, dict) else found
            if self._taught is not None and depth != depths[-1]:
                total = total + self._distil_weight * self._taught(ours, [vectors[-1].detach() for vectors in every], labels)
            parts[f"depth_{depth}"] = self._weights[depth] * total
        return parts

    def _draw(self) -> list[int]:
        """Return the depths of a step, drawn from torch's global generator, which is resumed with the checkpoint."""
        *shallow, deepest = self._weights
        if self._drawn > len(shallow):
            return [*shallow, deepest]
        order = torch.randperm(len(shallow))
        if get_world_size() > 1:
            # The generators of several processes part with the first dropout.
            order = order.to(self.encoder.device)
            distributed.broadcast(order, src=0)
        return [*(shallow[place] for place in sorted(order[: self._drawn - 1].tolist())), deepest]

    def _vectors(self, column: Features, count: int) -> list[Tensor]:
        """Return the vectors of a column's texts at each depth, (row, dim) each."""
        first, *rest = self.encoder
        found: list[Tensor] = []

        def read_out(module: nn.Module, args: Any, features: Features) -> Features:
            # Chunks, not slices: a slice's gradient is a tensor of the whole width filled with zeros.
            *shallow, deepest = features["token_embeddings"].chunk(count, dim=-1)
            for states in shallow:
                here = {**features, "token_embeddings": states}
                for module in rest:
                    here = module(here)
                found.append(here["sentence_embedding"].float())
            return {**features, "token_embeddings": deepest}

        # Within the encoder's own forward pass, around which the trainer may have put mixed precision.
        handle = first.register_forward_hook(read_out)
        try:
            deepest = self.model(dict(column))["sentence_embedding"]
        finally:
            handle.remove()
        return [*found, deepest]

    @contextmanager
    def _answers(self, vectors: Mapping[int, Tensor]) -> Iterator[None]:
        """Let the encoder answer with vectors that are there, by the address of a column."""
        encoder: Any = self.model
        before = vars(encoder).get("forward")
        encoder.forward = lambda features: {**features, "sentence_embedding": vectors[id(features)]}
        try:
            with column_merging_disabled():
                yield
        finally:
            del encoder.forward
            if before is not None:
                encoder.forward = before


@contextmanager
def states_at(model: PreTrainedModel, depths: Sequence[int]) -> Iterator[None]:
    """Let a model return the final states of its cuts to ``depths`` side by side, (..., depths * dim), while the context is open.

    Block k's output through what comes after the last block is what the model of the first k blocks returns (L3Prune, section 3;
    ``self_test`` checks it).

    Args:
        model: A base model.
        depths: Numbers of leading blocks, 1 to all of them.
    """
    family = find_family(model, model.config)
    blocks, finals = block_list(model, family), final_modules(model, family)
    seen: dict[int, Tensor] = {}

    # Where activations are computed anew in the backward pass, a block's hook runs within that: it must compute nothing itself.
    def note(depth: int, module: nn.Module, args: Any, output: Any) -> None:
        seen[depth] = states_of(output)

    def side_by_side(*args: Any, **kwargs: Any) -> Any:
        output, found = plain(*args, **kwargs), []
        for depth in depths:
            states = output.last_hidden_state
            if depth < len(blocks):
                states = seen.pop(depth)
                for final in finals:
                    states = final(states)
            found.append(states)
        output.last_hidden_state = torch.cat(found, dim=-1)
        return output

    with ExitStack() as stack:
        for depth in depths:
            if depth < len(blocks):
                stack.callback(blocks[depth - 1].register_forward_hook(partial(note, depth)).remove)
        # No hook: sentence-transformers calls the method itself.
        plain, model.forward = model.forward, side_by_side
        stack.callback(vars(model).pop, "forward")
        yield

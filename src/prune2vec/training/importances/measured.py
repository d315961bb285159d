"""Neuron importances that are read off the weights, or measured on a few batches of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from prune2vec.data.triplet import Triplet
from prune2vec.training.importance_context import ImportanceContext, batches, evaluating, for_each_activation
from prune2vec.training.importances.learnt_gates import Gates
from prune2vec.training.neuron_importance import BATCHES, LOSS, TEXTS, importances
from prune2vec.training.objective import build_loss, pooled_in_fp32
from prune2vec.training.slim_settings import SlimSettings


@importances.register("magnitude", reads=(), within_layers=True)
def magnitude(context: ImportanceContext, triplets: Sequence[Triplet], settings: SlimSettings) -> dict[int, Tensor]:
    """Product of the norms of a neuron's weights: each row that leads to it, and the column that leads from it.

    Biases do not count. Needs no texts.
    """
    scores = {}
    for layer in context.blocks:
        score = context.weights(layer, context.neurons.out).norm(dim=0)
        into = [context.weights(layer, path) for path in context.neurons.into]
        for rows in into[0].chunk(2) if context.neurons.halves else into:
            score = score * rows.norm(dim=1)
        scores[layer] = score
    return scores


@importances.register("activation", reads=(TEXTS, BATCHES), within_layers=True)
def activation(context: ImportanceContext, triplets: Sequence[Triplet], settings: SlimSettings) -> dict[int, Tensor]:
    """Mean absolute activation over all tokens, instructions included (Minitron, arXiv 2407.14679)."""
    totals: dict[int, Tensor] = {}
    tokens: Counter[int] = Counter()

    def add(layer: int, activations: Tensor) -> None:
        # In float64 on the CPU: a sum over millions of tokens in fp32 would stop growing.
        total = activations.float().abs().sum(dim=0).cpu().double()
        totals[layer] = totals[layer] + total if layer in totals else total
        tokens[layer] += len(activations)

    for_each_activation(context, batches(context, triplets, settings), add)
    context.note(tokens=max(tokens.values()))
    return {layer: (totals[layer] / tokens[layer]).float() for layer in sorted(totals)}


@importances.register("wanda", reads=(TEXTS, BATCHES), within_layers=True)
def wanda(context: ImportanceContext, triplets: Sequence[Triplet], settings: SlimSettings) -> dict[int, Tensor]:
    """Sum of Wanda's scores of the weights that lead from a neuron, ``|W_ij| * ||X_j||_2`` (arXiv 2306.11695).

    X_j are the neuron's activations on all tokens, instructions included.
    """
    squares = {layer: torch.zeros(context.width(layer), dtype=torch.float64) for layer in context.blocks}

    def observe(layer: int, activations: Tensor) -> None:
        squares[layer] += activations.float().square().sum(dim=0).cpu()

    for_each_activation(context, batches(context, triplets, settings), observe)
    columns = {layer: context.weights(layer, context.neurons.out) for layer in squares}
    return {layer: (found.sqrt() * columns[layer].abs().sum(dim=0)).float() for layer, found in squares.items()}


@importances.register("taylor", reads=(TEXTS, BATCHES, LOSS))
def taylor(context: ImportanceContext, triplets: Sequence[Triplet], settings: SlimSettings) -> dict[int, Tensor]:
    """``|sum w * dL/dw|`` over the weights that lead from a neuron, L the mean loss of all batches (LLM-Pruner's vector form).

    For these weights that is the sum over all tokens of activation times its gradient, and also the gradient of a gate at 1;
    that is how it is computed, so no weight needs a gradient. The rows that lead to the neuron are not added: without a
    bias, those of an up projection would give the same number again.
    """
    gates = Gates(context)
    gates.install(context.encoder)
    loss = build_loss(context.encoder, settings.for_training())
    count = 0
    try:
        with pooled_in_fp32(context.encoder), evaluating(context):
            for columns in batches(context, triplets, settings):
                loss(columns, torch.empty(0)).backward()
                count += 1
    finally:
        gates.remove()
    context.note(batches=count)
    gradients = {layer: gate.grad for layer, gate in gates.values.items()}
    return {layer: (found / count).abs().float().cpu() for layer, found in gradients.items() if found is not None}

"""Ridge regression with its error on rows that were left out, for which none has to be."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class RidgeFit(NamedTuple):
    """A linear layer that was solved.

    Attributes:
        weight: (out, dim), float64 as all of it.
        bias: (out,), or None.
        cosine: Mean cosine between each target and what the layer solved without that row makes of the row.
        ridge: The penalty, as a share of the mean squared input.
    """

    weight: Float[Tensor, "out dim"]
    bias: Float[Tensor, " out"] | None
    cosine: float
    ridge: float


def best_ridge_fit(inputs: Float[Tensor, "row dim"], targets: Float[Tensor, "row out"], *, bias: bool) -> RidgeFit:
    """Return the weight, and the bias if there is to be one, that minimise |inputs W' + b - targets|^2 + penalty |W|^2.

    The penalty is one of ``RIDGES``, the one that does best on rows left out, times the rows times the mean squared input, so that it
    means the same at any scale and for any number of rows. With a bias both sides are taken from their means, and it is not
    penalised. What the fit without a row makes of that row follows from the one of all rows (Hastie, Tibshirani and Friedman, The
    Elements of Statistical Learning, 2nd edition, sections 3.4.1 and 7.10): its residual is that of all rows over 1 - h, h the row's
    leverage.
    """
    inputs, targets = inputs.double(), targets.double()
    centre, goal = (inputs.mean(dim=0), targets.mean(dim=0)) if bias else (inputs.new_zeros(()), targets.new_zeros(()))
    left, right = inputs - centre, targets - goal
    rows, smallest = len(left), torch.finfo(left.dtype).eps
    # One decomposition serves all ridges.
    u, spread, v = torch.linalg.svd(left, full_matrices=False)
    along = u.T @ right
    tried: list[tuple[float, float, Tensor]] = []
    for ridge in RIDGES:
        # Inputs that are all alike have no penalty of their own, and no answer without one.
        solved = spread / (spread.square() + ridge * rows * left.square().mean() + torch.finfo(torch.float32).tiny)
        shrunk = solved * spread
        leverage = (u.square() @ shrunk)[:, None] + (1 / rows if bias else 0)
        without = targets - (right - u @ (shrunk[:, None] * along)) / (1 - leverage).clamp(min=smallest)
        tried.append((float(cosine_similarity(without, targets).mean()), ridge, solved))
    cosine, ridge, solved = max(tried, key=lambda one: one[0])
    weight = (v.T @ (solved[:, None] * along)).T
    return RidgeFit(weight, goal - weight @ centre if bias else None, cosine, ridge)

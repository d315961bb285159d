"""Where learning a teacher's vectors starts: the encoder's last linear layer, solved by least squares before the first step.

A cut changes what reaches that layer, which then is as wrong as the rest. For all others of the weights there is only training; this
one has a closed form, for one forward pass over a few thousand texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import batch_to_device
from torch import Tensor, distributed, nn
from torch.nn.functional import cosine_similarity, normalize

from prune2vec.models.encoder_files import VECTOR
from prune2vec.models.heads import NORMALIZE
from prune2vec.progress import progress, say
from prune2vec.ridge import RidgeFit, best_ridge_fit
from prune2vec.training.adapters import heads_of
from prune2vec.training.teacher import TeacherVectors
from prune2vec.training.training_data import Row, TrainingData

_TEXTS = 4096
_BATCH = 64


def solve_start(
    encoder: SentenceTransformer,
    data: TrainingData,
    batches: Sequence[tuple[str, Sequence[Row]]],
    projection: nn.Linear | None = None,
) -> dict[str, Any] | None:
    """Set the last linear layer to what brings the encoder's vectors nearest to its teacher's on the first texts of a run.

    That is ridge regression onto the teacher's vectors of length 1, by the ridge that does best on texts left out. The layer keeps its
    norm, as what matters is direction, and stays as it was where the solution is no better on these texts, each left out in turn.

    Args:
        encoder: The encoder in training; one whose last head is not a linear layer, that is ``Dense`` without an activation, and
            that needs no projection either, stays as it is.
        data: With the teacher's vectors.
        batches: What the run learns, from its start.
        projection: Of the loss, into the space of a teacher of another dimension, which is solved in place of a head.

    Returns:
        How many texts it was solved on, the ridge, and the mean cosine before and after; None where there was nothing to solve.
    """
    teacher = data.teacher
    linear = projection if projection is not None else _last_head(encoder)
    if teacher is None or linear is None or linear.out_features != teacher.vectors.shape[1]:
        return None
    rows, theirs = zip(*_inputs(encoder, data, teacher, batches, linear), strict=True)
    inputs, targets = torch.cat(rows), normalize(torch.cat(theirs), dim=1)
    with torch.no_grad():
        before = float(
            cosine_similarity(nn.functional.linear(inputs, *(one.cpu() for one in linear.parameters())), targets).mean()
        )
    fit = best_ridge_fit(inputs, targets, bias=linear.bias is not None)
    if fit.cosine > before and fit.weight.any():
        _put(linear, fit)
        say(
            f"the last linear layer was solved for the teacher's vectors of {len(inputs):,} texts: "
            f"mean cosine {before:.3f} -> {fit.cosine:.3f}, each text left out in turn"
        )
    if distributed.is_initialized():
        # The first process decides for all, so that none waits for another that rounded otherwise.
        for parameter in linear.parameters():
            distributed.broadcast(parameter.data, 0)
    return {"texts": len(inputs), "ridge": fit.ridge, "cosine_before": before, "cosine": max(before, fit.cosine)}


def _last_head(encoder: SentenceTransformer) -> nn.Linear | None:
    """Return the linear layer of the last head that is trained, if nothing but a normalisation stands behind it."""
    heads: list[Any] = [head for head in heads_of(encoder) if type(head).__name__ != NORMALIZE]
    if not heads or type(heads[-1]).__name__ != "Dense" or getattr(heads[-1], "use_residual", False):
        return None
    linear: nn.Linear = heads[-1].linear
    return linear if isinstance(heads[-1].activation_function, nn.Identity) and linear.weight.requires_grad else None


def _inputs(
    encoder: SentenceTransformer,
    data: TrainingData,
    teacher: TeacherVectors,
    batches: Sequence[tuple[str, Sequence[Row]]],
    linear: nn.Linear,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what reaches the layer, (text, dim), and the teacher's vectors, (text, out), of the first distinct texts of a run."""
    chosen: dict[str, dict[str, int]] = {}
    for prompt, text, number in islice(_learnt(data, teacher, batches), _TEXTS):
        chosen.setdefault(prompt, {})[text] = number
    caught: list[Tensor] = []
    training = encoder.training
    hook = linear.register_forward_pre_hook(lambda module, given: caught.append(given[0]))
    try:
        encoder.eval()
        with torch.no_grad(), progress("start", sum(map(len, chosen.values()))) as advance:
            for prompt, numbers in chosen.items():
                ordered = sorted(numbers, key=len)
                for texts in (ordered[first : first + _BATCH] for first in range(0, len(ordered), _BATCH)):
                    features = encoder.preprocess(texts, prompt=prompt)
                    out = encoder(batch_to_device(features, encoder.device))
                    inputs = caught.pop() if caught else out[VECTOR]
                    yield inputs.float().cpu(), torch.from_numpy(teacher.vectors[[numbers[text] for text in texts]])
                    advance(len(texts))
    finally:
        hook.remove()
        encoder.train(training)


def _learnt(
    data: TrainingData, teacher: TeacherVectors, batches: Sequence[tuple[str, Sequence[Row]]]
) -> Iterator[tuple[str, str, int]]:
    """Yield every distinct text of a run in turn: what the encoder gets before it, the text, the number of the teacher's vector.

    A text that is learnt under several prompts comes once, under the first: its vectors are so near to each other that what is
    left out would still be there.
    """
    seen: set[str] = set()
    for name, rows in batches:
        for row in rows:
            for words, (prompt, text) in zip(
                data.prompts[name].values(), data.for_teacher(data.tables[name], row), strict=True
            ):
                if text not in seen:
                    seen.add(text)
                    yield words, text, teacher.number(prompt, text)


def _put(linear: nn.Linear, fit: RidgeFit) -> None:
    """Put a solution into the layer, at the norm of the layer's own weight."""
    with torch.no_grad():
        scale = linear.weight.cpu().double().norm().item() / fit.weight.norm().item()
        for own, solved in ((linear.weight, fit.weight), (linear.bias, fit.bias)):
            if solved is not None:
                own.copy_(scale * solved)

"""A cell of a sweep by name and place: a file of its own, as ``compare`` needs it and waits for no settings classes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One variant of a sweep, and where it stands in it.

    Attributes:
        name: Of the variant.
        method: As the sweep calls it.
        size: As the sweep writes it; empty for the whole model.
        train: Way to train; empty where there is one only.
        seed: Of the training; None where it is not trained.
    """

    name: str
    method: str
    size: str
    train: str
    seed: int | None

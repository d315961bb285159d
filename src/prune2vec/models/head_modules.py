"""What may stand behind an encoder's pooling, as torch modules: sentence-transformers' own, without its imports of seconds.

Each takes and returns a dictionary with the vectors under ``sentence_embedding``, so that it can stand in a
``SentenceTransformer`` too; tensors, settings and values are those of the class of the same name there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import normalize

from prune2vec.models.encoder_files import VECTOR

Features = dict[str, Tensor]


class VectorModule(nn.Module, ABC):
    """Makes other vectors of those it is given; ``settings`` are its own, under sentence-transformers' names."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, features: Features) -> Features:
        """Return the features with new vectors."""
        return {**features, VECTOR: self._changed(features[VECTOR])}

    def get_config_dict(self) -> dict[str, Any]:
        """Return its settings, as sentence-transformers asks for them."""
        return dict(self.settings)

    @abstractmethod
    def _changed(self, vectors: Tensor) -> Any:
        """Return the other vectors."""


class Dense(VectorModule):
    """A linear layer, an activation and perhaps what it was given added: (row, in_features) to (row, out_features)."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool, activation_function: nn.Module, use_residual: bool = False
    ) -> None:
        kind, residual = type(activation_function), {"use_residual": True} if use_residual else {}
        name = f"{kind.__module__}.{kind.__name__}"
        super().__init__(in_features=in_features, out_features=out_features, bias=bias, activation_function=name, **residual)
        self.in_features, self.out_features, self.use_residual = in_features, out_features, use_residual
        self.activation_function = activation_function
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        if use_residual and in_features != out_features:
            self.residual = nn.Linear(in_features, out_features, bias=False)

    def _changed(self, vectors: Tensor) -> Any:
        found = self.activation_function(self.linear(vectors))
        if self.use_residual:
            found = found + (self.residual(vectors) if hasattr(self, "residual") else vectors)
        return found

    def get_embedding_dimension(self) -> int:
        """Return the width of its vectors, for which sentence-transformers asks."""
        return self.out_features


class LayerNorm(VectorModule):
    """A layer norm of vectors of ``dimension`` numbers."""

    def __init__(self, dimension: int) -> None:
        super().__init__(dimension=dimension)
        self.dimension, self.norm = dimension, nn.LayerNorm(dimension)

    def _changed(self, vectors: Tensor) -> Any:
        return self.norm(vectors)


class Dropout(VectorModule):
    """A dropout, which does nothing but in training."""

    def __init__(self, dropout: float) -> None:
        super().__init__(dropout=dropout)
        self.dropout_layer = nn.Dropout(dropout)

    def _changed(self, vectors: Tensor) -> Any:
        return self.dropout_layer(vectors)


class Normalize(VectorModule):
    """An L2 normalisation before the last head."""

    def _changed(self, vectors: Tensor) -> Any:
        return normalize(vectors, dim=-1)


HEAD_CLASSES: dict[str, type[nn.Module]] = {kind.__name__: kind for kind in (Dense, LayerNorm, Dropout, Normalize)}

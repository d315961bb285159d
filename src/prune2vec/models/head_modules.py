"""What may stand behind an encoder's pooling, as torch modules: sentence-transformers' own, without its imports of seconds.

Each takes and returns a dictionary with the vectors under ``sentence_embedding``, so that it can stand in a
``SentenceTransformer`` too; tensors, settings and values are those of the class of the same name there.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import normalize

from prune2vec.models.encoder_files import VECTOR

Features = dict[str, Tensor]


class Dense(nn.Module):
    """A linear layer, an activation and perhaps what it was given added: (row, in_features) to (row, out_features)."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool, activation_function: nn.Module, use_residual: bool = False
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.use_residual = in_features, out_features, use_residual
        self.activation_function = activation_function
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        if use_residual and in_features != out_features:
            self.residual = nn.Linear(in_features, out_features, bias=False)

    def forward(self, features: Features) -> Features:
        """Return the features with new vectors."""
        vectors = features[VECTOR]
        found = self.activation_function(self.linear(vectors))
        if self.use_residual:
            found = found + (self.residual(vectors) if hasattr(self, "residual") else vectors)
        return {**features, VECTOR: found}

    def get_embedding_dimension(self) -> int:
        """Return the width of its vectors, for which sentence-transformers asks."""
        return self.out_features

    def get_config_dict(self) -> dict[str, Any]:
        """Return its settings under sentence-transformers' names."""
        kind = type(self.activation_function)
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.linear.bias is not None,
            "activation_function": f"{kind.__module__}.{kind.__name__}",
            **({"use_residual": True} if self.use_residual else {}),
        }


class LayerNorm(nn.Module):
    """A layer norm of vectors of ``dimension`` numbers."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.dimension, self.norm = dimension, nn.LayerNorm(dimension)

    def forward(self, features: Features) -> Features:
        """Return the features with new vectors."""
        return {**features, VECTOR: self.norm(features[VECTOR])}

    def get_config_dict(self) -> dict[str, Any]:
        """Return its settings under sentence-transformers' names."""
        return {"dimension": self.dimension}


class Dropout(nn.Module):
    """A dropout, which does nothing but in training."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout_layer = nn.Dropout(dropout)

    def forward(self, features: Features) -> Features:
        """Return the features with new vectors."""
        return {**features, VECTOR: self.dropout_layer(features[VECTOR])}

    def get_config_dict(self) -> dict[str, Any]:
        """Return its settings under sentence-transformers' names."""
        return {"dropout": self.dropout_layer.p}


class Normalize(nn.Module):
    """An L2 normalisation before the last head."""

    def forward(self, features: Features) -> Features:
        """Return the features with new vectors."""
        return {**features, VECTOR: normalize(features[VECTOR], dim=-1)}

    def get_config_dict(self) -> dict[str, Any]:
        """Return its settings under sentence-transformers' names."""
        return {}


HEAD_CLASSES: dict[str, type[nn.Module]] = {kind.__name__: kind for kind in (Dense, LayerNorm, Dropout, Normalize)}

"""What an encoder made of the probe texts when it was written, kept beside it, so that whoever gets the folder can see it again."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from prune2vec.errors import DataError
from prune2vec.files import read_json, write_json
from prune2vec.models.heads import head_record
from prune2vec.pruning.portable import EncoderParts

PROBE = "probe.json"
_FORMAT = "prune2vec.probe/1"


def told_settings(parts: EncoderParts) -> dict[str, Any]:
    """Return how an encoder makes vectors of texts, JSON-ready; prompts without words are none."""
    return {
        "pooling": parts.pooling,
        "include_prompt": parts.include_prompt,
        "heads": [head_record(head).model_dump(mode="json") for head in parts.heads],
        "normalize": parts.normalize,
        "truncate_dim": parts.truncate_dim,
        "similarity": parts.similarity,
        "prompts": {name: prompt for name, prompt in parts.prompts.items() if prompt},
        "default_prompt": parts.default_prompt if parts.prompts.get(parts.default_prompt or "") else None,
        "max_length": parts.max_length,
        "lower_case": parts.lower_case,
    }


@dataclass(frozen=True, kw_only=True)
class ProbeRecord:
    """What ``probe.json`` holds.

    Attributes:
        texts: The texts.
        tokens: Their token numbers without a prompt, cut at the longest text.
        settings: As ``told_settings`` has them.
        dtype: In which the vectors were computed.
        vectors: (prompt * text, dim) float32: of all texts without a prompt, then under each different one.
    """

    texts: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    settings: Mapping[str, Any]
    dtype: str
    vectors: NDArray[np.float32]

    def save(self, folder: Path) -> None:
        """Write the record into an encoder's folder."""
        value = {
            "format": _FORMAT,
            "texts": list(self.texts),
            "tokens": [list(row) for row in self.tokens],
            "settings": dict(self.settings),
            "dtype": self.dtype,
            "shape": list(self.vectors.shape),
            "float32_base64": base64.b64encode(self.vectors.astype("<f4").tobytes()).decode("ascii"),
        }
        write_json(folder / PROBE, value)

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Return an encoder's record, or None where there is none (others' folders); a broken one is a ``DataError``."""
        path = folder / PROBE
        if not path.is_file():
            return None
        value = read_json(path)
        try:
            if value["format"] != _FORMAT:
                raise ValueError(value["format"])
            vectors = np.frombuffer(base64.b64decode(value["float32_base64"]), dtype="<f4").reshape(value["shape"])
            return cls(
                texts=tuple(value["texts"]),
                tokens=tuple(map(tuple, value["tokens"])),
                settings=dict(value["settings"]),
                dtype=str(value["dtype"]),
                vectors=vectors.astype(np.float32),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} is no record of probe texts ({_FORMAT}); fetch the encoder again") from error

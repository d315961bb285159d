"""The configuration of a model whose blocks differ, as vLLM's ``DeciLMForCausalLM`` reads it: attributes all the way down.

This file is copied into exported folders, where ``auto_map`` in config.json points at it; it needs transformers only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import LlamaConfig


class Entries(dict[str, Any]):
    """A dictionary whose keys are attributes too; still plain JSON when the configuration is written."""

    def __getattr__(self, name: str) -> Any:
        """Return an entry.

        Raises:
            AttributeError: There is none.
        """
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no entry {name!r}; there are: {', '.join(self)}") from None


class DeciLMConfig(LlamaConfig):
    """Llama's configuration, and ``block_configs``: one entry a block, with ``attention`` and ``ffn``."""

    model_type = "nemotron-nas"

    def __init__(self, block_configs: Sequence[Mapping[str, Mapping[str, Any]]] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.block_configs = [Entries({key: Entries(part) for key, part in block.items()}) for block in block_configs]

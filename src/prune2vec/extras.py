"""Packages that only some jobs need, and how to get them."""

from __future__ import annotations

import importlib
from typing import Any

from prune2vec.errors import MissingExtra, reason_of

# Import name, the extra that brings it, and what needs it.
_EXTRAS = {
    "faiss": ("search", "searching"),
    "gguf": ("gguf", "reading GGUF files"),
    "mteb": ("eval", "evaluating on MTEB tasks"),
    "onnx": ("onnx", "exporting to ONNX"),
    "onnxruntime": ("onnx", "exporting to ONNX"),
    "onnxscript": ("onnx", "exporting to ONNX"),
    "ray": ("ray", "encoding on Ray"),
}


def import_extra(name: str) -> Any:
    """Return an optional package.

    Raises:
        MissingExtra: It is not installed, or does not load; the message says which, and names the extra.
    """
    extra, purpose = _EXTRAS[name]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == name
        state = "" if absent else f", which does not load ({reason_of(error)})"
        raise MissingExtra(
            f"{purpose} needs the package {name}{state}; install it with: pip install 'prune2vec[{extra}]'"
        ) from error

"""Vectors of the probe texts that others make: llama.cpp of a file, or a server with OpenAI's interface."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prune2vec.errors import CheckpointError, ConfigError, reason_of, shown
from prune2vec.models.tokens import token_ids
from prune2vec.pruning.encoder import encode_probe
from prune2vec.pruning.parity import PROBE_TEXTS, probe_prompts
from prune2vec.pruning.portable import EncoderParts

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

LEAST_COSINES = {"fp16": 0.9999, "q8_0": 0.99}
"""Smallest cosine to the encoder's vectors in fp32 that is near enough, by the precision of the weights.

Right files were seen at 0.999998 and 0.9993 (MiniLM), wrong poolings and prompts at 0.98 and below.
"""
LEAST_SERVED = 0.99
"""The same of a server, whose precision is not known: halves stay above it, a wrong pooling or prompt below."""
_BINDING = "xllamacpp"
# Seconds, for an answer of a server and for all answers of the binding.
_PATIENCE, _LONGEST_RUN = 120, 3600


def has_llama_cpp() -> bool:
    """Return whether llama.cpp's binding is installed."""
    return find_spec(_BINDING) is not None


def texts_and_vectors(encoder: SentenceTransformer, parts: EncoderParts) -> tuple[list[str], NDArray[np.float32]]:
    """Return the probe texts behind every prompt, each as one string, and the (text, dim) vectors that the encoder makes of them.

    Prompts are left out where the encoder leaves them out of its pooling, which other runtimes do not. A text that is longer
    than the encoder reads is halved until it is not.

    Raises:
        CheckpointError: A prompt leaves no room for a text.
    """
    prompts = [""] if parts.leaves_out_prompts else probe_prompts(parts.prompts)
    found = []
    for text in PROBE_TEXTS:
        while max(len(token_ids(parts.tokenizer, [text], prompt=prompt)[0]) for prompt in prompts) > parts.max_length:
            text = text[: len(text) // 2]
            if not text:
                raise CheckpointError(
                    f"a prompt leaves no room for a text in {parts.max_length} tokens; prune with a larger --max-length"
                )
        found.append(text)
    return [prompt + text for prompt in prompts for text in found], encode_probe(encoder, found, prompts=prompts)


def longest_of(parts: EncoderParts, texts: Sequence[str]) -> int:
    """Return room for the longest of the texts, in tokens: much less than an encoder of long texts takes."""
    return max(64, *(len(row) + 8 for row in token_ids(parts.tokenizer, texts)))


def llama_cpp_vectors(path: Path, texts: Sequence[str], *, tokens: int) -> NDArray[np.float32]:
    """Return the (text, dim) vectors, of length 1, that llama.cpp makes of texts of at most so many tokens.

    Raises:
        CheckpointError: It does not take the file.
        ConfigError: Its binding is not installed.
    """
    if not has_llama_cpp():
        raise ConfigError(f"running {path.name} needs llama.cpp's binding; install it with: pip install {_BINDING}")
    with TemporaryDirectory() as folder:
        request = Path(folder) / "request.json"
        request.write_text(json.dumps({"model": str(path), "texts": list(texts), "tokens": tokens}), encoding="utf-8")
        command = [sys.executable, "-m", "prune2vec.exporting.llama_cpp_server", str(request)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=_LONGEST_RUN)
        except subprocess.TimeoutExpired as error:
            raise CheckpointError(f"llama.cpp has not answered for {path.name} within {_LONGEST_RUN // 60} minutes") from error
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "error" in line.lower()] or done.stderr.splitlines()[-1:]
            raise CheckpointError(f"llama.cpp does not take {path.name}: {shown(' '.join(said[:2]), 200)}")
        return np.asarray(json.loads(request.read_text(encoding="utf-8")), dtype=np.float32)


def served_vectors(url: str, texts: Sequence[str]) -> tuple[str, NDArray[np.float32]]:
    """Return the name of the first model of a server with OpenAI's interface, and its (text, dim) vectors.

    Args:
        url: Such as ``http://localhost:8080/v1``.
        texts: One request each.

    Raises:
        ConfigError: Nobody answers there, or something else.
    """
    try:
        model = str(_asked(f"{url}/models")["data"][0]["id"])
        rows = [_asked(f"{url}/embeddings", {"model": model, "input": text})["data"][0]["embedding"] for text in texts]
        return model, np.asarray(rows, dtype=np.float32)
    except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
        raise ConfigError(f"no embeddings from {url}: {reason_of(error)}; expected a server with OpenAI's interface") from error


def _asked(url: str, content: dict[str, Any] | None = None) -> Any:
    """Return what a server answers, posted to where there is content."""
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
        return json.load(answer)

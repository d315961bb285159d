"""A sentence-transformers encoder in a process of its own, which computes only when it is asked to.

Other backends need other versions of transformers, so such a process may run another Python (``--python``). It loads the
encoder, and then answers requests on stdin, one JSON object a line, with one JSON object a line:

    {"texts": [...]}                    what to encode from now on
    {"encode": BATCH_SIZE}              encode it: {"seconds": ...}
    {"encode": BATCH_SIZE, "save": F}   and write the vectors to F as .npy

Nothing of prune2vec is imported here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

VERSIONS = (
    "sentence-transformers",
    "transformers",
    "torch",
    "optimum",
    "optimum-onnx",
    "optimum-intel",
    "onnxruntime",
    "openvino",
)
# As prune2vec.machine sets it, but for blocks of any size: batches of sentence-transformers are larger.
KEEP_MEMORY = ":".join(
    f"glibc.malloc.{name}={value}" for name, value in (("mmap_max", 0), ("trim_threshold", 2**31 - 1), ("top_pad", 1 << 26))
)


class PeerFailed(RuntimeError):
    """The other process could not load the encoder, or ended."""


class Peer:
    """The other process, seen from here.

    Args:
        encoder: Folder of the encoder.
        python: The interpreter whose sentence-transformers is used; None for this one.
        backend: torch, onnx or openvino.
        dtype: Number format; ONNX and OpenVINO get float32 always.
        max_length: Longest text in tokens.
        give_positions: Pass positions to a model that was exported with them as an input; without them it fails.
        device: Where it computes.
        keep_memory: Let it keep the memory it frees, as ``prune2vec encode`` does; sentence-transformers by itself does not.

    Raises:
        PeerFailed: The encoder does not load there; the message says why.
    """

    def __init__(
        self,
        encoder: Path,
        *,
        python: Path | None = None,
        backend: str = "torch",
        dtype: str = "float32",
        max_length: int = 512,
        give_positions: bool = False,
        device: str = "cpu",
        keep_memory: bool = False,
    ) -> None:
        environment = {key: value for key, value in os.environ.items() if python is None or key != "PYTHONPATH"}
        environment |= {"GLIBC_TUNABLES": KEEP_MEMORY} if keep_memory else {}
        options = ["--backend", backend, "--dtype", dtype, "--max-length", str(max_length), "--device", device]
        options += ["--give-positions"] if give_positions else []
        self._process = subprocess.Popen(
            [str(python or sys.executable), __file__, str(encoder), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.versions: dict[str, str] = self._reply()["versions"]

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"error": f"ended with code {self._process.wait()}"}
        if "error" in found:
            self.close()
            raise PeerFailed(found["error"])
        return found

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._reply()

    def take(self, texts: list[str]) -> None:
        """Hand over the texts that are to be encoded."""
        self._ask({"texts": texts})

    def encode(self, batch_size: int, save: Path | None = None) -> float:
        """Have the texts encoded; return the seconds it took there."""
        return float(self._ask({"encode": batch_size, "save": None if save is None else str(save)})["seconds"])

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._process.wait()

    def __enter__(self) -> Self:
        """Return the peer."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the process."""
        self.close()


@contextlib.contextmanager
def only_answers_on_stdout() -> Iterator[Any]:
    """Yield the real stdout, and send to stderr what libraries print."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as answers:
        os.dup2(2, 1)
        yield answers


def load(options: argparse.Namespace) -> Any:
    """Return the encoder in the backend that was asked for."""
    from sentence_transformers import SentenceTransformer

    if options.backend == "torch":
        import torch

        model_kwargs: dict[str, Any] = {"dtype": getattr(torch, options.dtype)}
    elif options.backend == "onnx":
        model_kwargs = {"provider": "CPUExecutionProvider"}
    else:
        # OpenVINO would use bf16 by itself where the processor has it.
        model_kwargs = {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}
    encoder = SentenceTransformer(
        str(options.encoder), backend=options.backend, device=options.device, model_kwargs=model_kwargs
    )
    encoder.max_seq_length = options.max_length
    if options.give_positions:
        give_positions(encoder[0].auto_model)
    return encoder


def give_positions(model: Any) -> None:
    """Let a model exported with positions as an input count them from the mask; its library passes none."""
    if hasattr(model, "_inference"):
        inference = model._inference

        def inferred(inputs: dict[str, Any]) -> Any:
            positions = (inputs["attention_mask"].cumsum(-1) - 1).clip(min=0)
            return inference({**inputs, "position_ids": positions})

        model._inference = inferred
        return
    forward = model.forward

    def with_positions(input_ids: Any, attention_mask: Any, **rest: Any) -> Any:
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        return forward(input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, **rest)

    model.forward = with_positions


def installed() -> dict[str, str]:
    """Return the versions of what is there."""
    found = {}
    for name in VERSIONS:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def main() -> None:
    """Load, then answer until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("--backend", choices=("torch", "onnx", "openvino"), default="torch")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--give-positions", action="store_true")
    options = parser.parse_args()
    with only_answers_on_stdout() as answers:

        def answer(found: dict[str, Any]) -> None:
            answers.write(json.dumps(found) + "\n")

        try:
            encoder = load(options)
            answer({"versions": installed()})
            serve(encoder, answer)
        except Exception as error:
            answer({"error": f"{type(error).__name__}: {str(error).strip()}"})
            raise


def serve(encoder: Any, answer: Any) -> None:
    """Answer requests."""
    import numpy as np

    texts: list[str] = []
    for line in sys.stdin:
        request = json.loads(line)
        if "texts" in request:
            texts = request["texts"]
            answer({"taken": len(texts)})
            continue
        begin = time.perf_counter()
        vectors = encoder.encode(texts, batch_size=request["encode"], show_progress_bar=False)
        seconds = time.perf_counter() - begin
        if request.get("save"):
            np.save(request["save"], vectors)
        answer({"seconds": seconds})


if __name__ == "__main__":
    main()

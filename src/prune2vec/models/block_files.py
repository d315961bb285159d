"""A model without values whose blocks are read from its files one by one, the next one while this one computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import init_empty_weights  # type: ignore[import-untyped]
from jaxtyping import Int
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from prune2vec.errors import UnsupportedModel
from prune2vec.models.families import Family, in_block, without_head
from prune2vec.models.tensor_check import check_tensors
from prune2vec.models.weight_files import WeightFiles
from prune2vec.progress import quiet_transformers

BlockState = dict[str, Tensor]
"""A block's tensors by their names within it."""


@torch.no_grad()
def built_on_meta(config: Any, dtype: torch.dtype, device: torch.device, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """Return the base model of ``config`` with parameters on the meta device and real buffers on ``device``."""
    with init_empty_weights(include_buffers=False), quiet_transformers():
        model: PreTrainedModel = AutoModel.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    for module in without_head(model).modules():
        if any(True for _ in module.named_buffers(recurse=False)):
            # Computes tables (positions, frequencies) as loading does: in float32, and then rounded.
            model._init_weights(module)
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
        # Some rotary modules keep the unscaled frequencies as a plain attribute next to the buffer.
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor):
                setattr(module, name, value.to(device))
    model.eval()
    return model


class BlockFiles:
    """The files of a model without values, by the names that its class gives to their tensors, as dtype and on device.

    Raises:
        ModelError: The files do not hold exactly the tensors of the class.
        UnsupportedModel: They hold them in another form.
    """

    def __init__(
        self, model: PreTrainedModel, family: Family, files: WeightFiles, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.files = files
        self.dtype, self.device = dtype, device
        stored = check_tensors(model, family, files)
        if stored is None:
            raise UnsupportedModel(
                f"{files.source.name} stores its tensors in another form than their class has them, so its blocks cannot be read one by "
                "one; hold the whole model in memory instead (--stream off)"
            )
        self.stored = stored
        self._of_block: dict[int, dict[str, str]] = {}
        self.outside: list[str] = []
        for name in self.stored:
            place = in_block(name, family.blocks)
            if place is None:
                self.outside.append(name)
            else:
                self._of_block.setdefault(place[0], {})[place[1]] = name
        # Reading goes on beside the computation, so copies to a GPU have a stream of their own.
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def take(self, name: str, *, rows: Int[Tensor, " row"] | None = None) -> Tensor:
        """Return a tensor under its name in the class, or rows of it; a damaged file is a ``CheckpointError``."""
        if self._side is None:
            return self.files.take(self.stored[name], self.dtype, rows=rows).to(self.device)
        stored = self.files.take(self.stored[name], rows=rows)
        with torch.cuda.stream(self._side):
            moved = stored.to(self.device, self.dtype if stored.is_floating_point() else None)
            self._side.synchronize()
        return moved

    def block(self, layer: int) -> BlockState:
        """Return the tensors of one block."""
        return {within: self.take(name) for within, name in self._of_block[layer].items()}

    def blocks(self, layers: Sequence[int], *, prefetch: bool) -> Iterator[tuple[int, BlockState]]:
        """Yield the blocks one by one; the tensors are let go when the next one is asked for.

        With ``prefetch`` the next one is read in a thread meanwhile, so that two are in memory.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="prune2vec-read") as reader:
            ahead = reader.submit(self.block, layers[0]) if prefetch and layers else None
            for layer, following in zip(layers, [*layers[1:], None], strict=True):
                state = ahead.result() if ahead is not None else self.block(layer)
                ahead = reader.submit(self.block, following) if prefetch and following is not None else None
                yield layer, state
                state.clear()


@contextmanager
def materialized(module: nn.Module, state: Mapping[str, Tensor], *, strict: bool = True) -> Iterator[None]:
    """Lend a module without values these tensors, under their names in it, while the context is open: all, if ``strict``.

    Raises:
        RuntimeError: From ``load_state_dict``, when a tensor of its is missing, left over, or of another shape.
    """
    empty = {name: tensor for name, tensor in module.state_dict().items() if name in state}
    module.load_state_dict(dict(state), strict=strict, assign=True)
    try:
        yield
    finally:
        module.load_state_dict(empty, strict=strict, assign=True)


def embedding_path(model: PreTrainedModel) -> str:
    """Return the path of the module that looks up the token embeddings."""
    embedding = model.get_input_embeddings()
    path: str = next(path for path, module in model.named_modules() if module is embedding)
    return path


@contextmanager
def with_embeddings(model: PreTrainedModel, files: BlockFiles, ids: Int[Tensor, " id"]) -> Iterator[None]:
    """Let a model without values look up the token embeddings of ``ids`` while the context is open; no others are read.

    ``ids`` are ascending, each once.
    """
    embedding, path = model.get_input_embeddings(), embedding_path(model)
    weight, padding = embedding.weight, getattr(embedding, "padding_idx", None)
    here = ids.to(files.device)

    def renumber(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.searchsorted(here, args[0]), *args[1:])

    handle = embedding.register_forward_pre_hook(renumber)
    try:
        embedding.weight = nn.Parameter(files.take(f"{path}.weight", rows=ids), requires_grad=False)
        # It matters for gradients alone, and would be refused as a row that the small table does not have.
        embedding.padding_idx = None  # type: ignore[assignment]
        yield
    finally:
        handle.remove()
        embedding.weight, embedding.padding_idx = weight, padding  # type: ignore[assignment]

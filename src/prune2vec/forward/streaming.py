"""Rows through a model larger than memory: all rows through one block, then all of them through the next."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune2vec.errors import ConfigError, UnsupportedModel
from prune2vec.files import explained_os_errors
from prune2vec.forward.batches import Batch, equal_lengths, forget_longest_text, length_kind, make_batches
from prune2vec.forward.block_inputs import BlockInputs, block_inputs, check_probe, probe_model
from prune2vec.forward.memory_plan import (
    MemoryPlan,
    bytes_per_token,
    largest_block,
    parameter_bytes,
    plan_memory,
    tokens_per_pass,
)
from prune2vec.forward.runner import ObservedRun
from prune2vec.machine import free_memory_bytes, memory_in_use, readable_bytes
from prune2vec.models.block_files import BlockFiles, embedding_path, materialized, with_embeddings
from prune2vec.models.block_layout import sub_layers_of
from prune2vec.models.families import Family, SubLayers, block_list
from prune2vec.models.selftest import TOKENS, check_sub_layers
from prune2vec.models.tokens import TokenRow, length_batches
from prune2vec.progress import Advance


class MemoryStates:
    """The hidden states of ``count`` batches between two blocks, kept in memory at ``place`` and wanted on ``device``."""

    def __init__(self, count: int, *, place: torch.device, device: torch.device) -> None:
        self._held: list[Tensor | None] = [None] * count
        self._place, self._device = place, device

    def get(self, number: int) -> Tensor:
        """Return one batch's states; they are let go here, so that one copy is alive at most."""
        held = self._held[number]
        assert held is not None
        self._held[number] = None
        return held.to(self._device)

    def put(self, number: int, states: Tensor) -> None:
        """Keep them in the place of those before."""
        self._held[number] = states.to(self._place)


class FileStates:
    """The same in a temporary file without a name, which goes with the process however that ends; batch by batch of one shape.

    Raises:
        CheckpointError: The folder for temporary files cannot be written, or the disk is full.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], *, dtype: torch.dtype, device: torch.device) -> None:
        self._shapes, self._dtype, self._device = shapes, dtype, device
        sizes = [torch.Size(shape).numel() * dtype.itemsize for shape in shapes]
        self._begins = list(accumulate(sizes, initial=0))
        # Plain reads and writes: pages of a mapped file would count as memory of this process.
        with explained_os_errors(Path(tempfile.gettempdir())):
            self._file: Any = tempfile.TemporaryFile(prefix="prune2vec-states-", buffering=0)  # noqa: SIM115

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def get(self, number: int) -> Tensor:
        """Return one batch's states."""
        states = torch.empty(self._shapes[number], dtype=self._dtype)
        view = _bytes_of(states)
        self._file.seek(self._begins[number])
        while view:
            done = self._file.readinto(view)
            if not done:
                raise EOFError(f"the file of hidden states ends before batch {number}")
            view = view[done:]
        return states.to(self._device)

    def put(self, number: int, states: Tensor) -> None:
        """Keep them in the place of those before."""
        view = _bytes_of(states.cpu().contiguous())
        with explained_os_errors(Path(tempfile.gettempdir())):
            self._file.seek(self._begins[number])
            while view:
                view = view[self._file.write(view) :]


States = MemoryStates | FileStates


def _bytes_of(states: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor on the CPU."""
    found: Any = states.view(torch.uint8).flatten().numpy()
    return memoryview(found)


@dataclass
class StreamingRunner:
    """Runs rows through a model of which one block is in memory at a time, or two while the next one is read.

    Attributes:
        model: The model on the meta device; only what comes after its last block has values.
        family: Where its blocks are.
        files: Its files.
        pad_id: Token id that rows are filled up with.
        memory: Bytes that may be in use in all, on the GPU where there is one.
        trust_remote_code: Run model code that came with the checkpoint.
        depth: Layers that will be run at most; None for all. None beyond is read.
        stats: What each run did, JSON-ready: blocks and bytes read, wall time (in all, a block, waiting for blocks), tokens and
            variants of the model, and how the memory was used.
    """

    model: PreTrainedModel
    family: Family
    files: BlockFiles
    pad_id: int
    memory: int
    trust_remote_code: bool = False
    depth: int | None = None
    stats: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read what comes after the last block: every depth needs it."""
        forget_longest_text(self.model)
        finals = [name for name in self.files.outside if any(name.startswith(f"{path}.") for path in self.family.final)]
        for name in finals:
            # The parameter takes the place of one on the meta device, which cannot be filled.
            owner, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(owner), leaf, nn.Parameter(self.files.take(name), requires_grad=False))
        self._before_blocks = [name for name in self.files.outside if name not in finals]
        self._parts: SubLayers | Exception
        self._causal = True

    @property
    def device(self) -> torch.device:
        """Where the blocks compute."""
        return self.files.device

    def self_test(self) -> bool:
        """Test the first and the last block as a model of their own, as the whole one is tested when it is in memory.

        Where two blocks do not fit into memory, each of them is a model of its own. The parts of the blocks are tested at
        once too, so that no block is read a second time for them.

        Returns:
            Whether no token sees those after it.

        Raises:
            ConfigError: Not even one block fits into the memory that may be used.
            UnsupportedModel: The model is not understood, or cannot be streamed.
        """
        count = len(block_list(self.model, self.family))
        ends = sorted({0, min(self.depth or count, count) - 1})
        together = self._plan([TOKENS], 1, TOKENS).prefetch or len(ends) == 1
        for layers in [ends] if together else [[layer] for layer in ends]:
            probe = probe_model(self.model, self.family, self.files, layers, trust_remote_code=self.trust_remote_code)
            self._causal &= check_probe(probe, self.family)
            if together:
                try:
                    check_sub_layers(probe, self.family)
                    self._parts = sub_layers_of(self.model)
                except UnsupportedModel as error:
                    # The error itself would keep the probe alive, by its frames.
                    self._parts = UnsupportedModel(str(error))
            # Let go before the next one is read.
            del probe
        if not together:
            self._parts = ConfigError(
                f"memory is {readable_bytes(self.memory)}, but the parts of blocks are tested on two blocks at once; give more memory"
            )
        return self._causal

    def sub_layers(self) -> SubLayers:
        """Return the parts of the blocks; ``ConfigError`` (memory) or ``UnsupportedModel`` if ``self_test`` found none."""
        if isinstance(self._parts, Exception):
            raise self._parts
        return self._parts

    def run(
        self,
        rows: Sequence[TokenRow],
        runs: Sequence[ObservedRun],
        *,
        token_budget: int | None = None,
        advance: Advance = lambda amount: None,
    ) -> None:
        """Run all rows through the model of every run, all of them block by block, rows padded; see ``InMemoryRunner``.

        Raises:
            ConfigError: Not even one block and the longest row fit into the memory that may be used.
        """
        plan = self._plan([len(row.ids) for row in rows], len(runs), token_budget or tokens_per_pass(self.device, packed=False))
        # All batches at once: each of them comes back for every block. Where tokens see those after them, padding would need a
        # mask for each of them, as large as the states of long rows.
        budget, masked = plan.token_budget, False if self._causal else None
        batches = list(
            make_batches(self.model, rows, token_budget=budget, masked=masked, pad_id=self.pad_id, device=self.device)
        )
        # By layer of the whole model: its number in the run's model, and the block.
        blocks: list[dict[int, tuple[int, nn.Module]]] = []
        for run in runs:
            own = block_list(run.model(self.model), self.family)
            blocks.append(dict(zip(run.kept.layers if run.kept is not None else range(len(own)), enumerate(own), strict=True)))
        read_before = self.files.files.bytes_read
        seconds, waiting = [], []
        with torch.inference_mode(), ExitStack() as stack:
            states, calls = self._begin(batches, len(runs), plan, stack)
            begun = time.perf_counter()
            for layer, values in self.files.blocks(sorted(set().union(*blocks)), prefetch=plan.prefetch):
                waiting.append(time.perf_counter() - begun)
                of_layer = [call[layer] for call in calls]
                # Reading takes longer than computing, so a block serves all runs before the next one is asked for.
                for number, run in enumerate(runs):
                    if layer in blocks[number]:
                        first = number * len(batches)
                        _through_block(run, *blocks[number][layer], values, batches, of_layer, states, first)
                        advance(sum(batch.tokens for batch in batches) / len(blocks[number]))
                self._settle()
                seconds.append(time.perf_counter() - begun)
                begun = time.perf_counter()
        self.stats.append(
            {
                "blocks": len(seconds),
                "bytes_read": self.files.files.bytes_read - read_before,
                "seconds_per_block": statistics.median(seconds),
                "seconds": sum(seconds),
                "waiting_seconds": sum(waiting),
                "tokens": sum(len(row.ids) for row in rows) * len(runs),
                "looks": len(runs),
                **asdict(plan),
            }
        )

    def account(self) -> dict[str, Any]:
        """Return the memory that might be used, and what each run did."""
        return {"stream": {"memory": self.memory, "runs": list(self.stats)}}

    def _begin(
        self, batches: Sequence[Batch], variants: int, plan: MemoryPlan, stack: ExitStack
    ) -> tuple[States, list[list[BlockInputs]]]:
        """Run what comes before the first block.

        Returns:
            The states of the first variant's batches, then of the next one's; and how each batch calls each block.
        """
        blocks, held = block_list(self.model, self.family), list[Tensor]()
        states: States | None = None
        calls = []
        # Of the token embeddings only the rows that the texts need are read.
        path = embedding_path(self.model)
        ids = torch.cat([batch.inputs["input_ids"].flatten() for batch in batches]).unique().cpu()
        others = {name: self.files.take(name) for name in self._before_blocks if name.rpartition(".")[0] != path}
        with materialized(self.model, others, strict=False), with_embeddings(self.model, self.files, ids):
            for number, batch in enumerate(batches):
                first, of_batch = block_inputs(self.model, blocks, batch.inputs, held)
                calls.append(of_batch)
                if states is None:
                    shapes = [(*one.shape, first.shape[-1]) for one in batches] * variants
                    size = sum(torch.Size(shape).numel() for shape in shapes) * first.dtype.itemsize
                    cpu = torch.device("cpu")
                    if plan.states_in_memory:
                        states = MemoryStates(len(shapes), place=self.device, device=self.device)
                    elif self.device != cpu and size < free_memory_bytes(cpu) // 2:
                        # What a GPU has no room for goes to the machine's memory before it goes to a file.
                        states = MemoryStates(len(shapes), place=cpu, device=self.device)
                    else:
                        states = stack.enter_context(closing(FileStates(shapes, dtype=first.dtype, device=self.device)))
                for variant in range(variants):
                    states.put(variant * len(batches) + number, first)
            self._settle()
        assert states is not None
        return states, calls

    def _settle(self) -> None:
        """Wait for the GPU: what is let go after this is read by no kernel any more."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _plan(self, lengths: Sequence[int], variants: int, token_budget: int) -> MemoryPlan:
        dtype = self.files.dtype
        kind = length_kind(self.model) if self._causal else equal_lengths
        batches = length_batches(lengths, token_budget=token_budget, kind=kind)
        return plan_memory(
            memory=self.memory,
            # Kernels have buffers of their own, and an allocator does not give all back.
            in_use=memory_in_use(self.device) + self.memory // 20,
            block=parameter_bytes(largest_block(self.model, self.family), dtype),
            per_token=bytes_per_token(self.model, self.family),
            state=int(self.model.config.hidden_size) * dtype.itemsize * variants,
            longest=max(lengths),
            tokens=sum(len(batch) * max(lengths[row] for row in batch) for batch in batches),
            token_budget=token_budget,
        )


def _through_block(
    run: ObservedRun,
    layer: int,
    block: nn.Module,
    values: Mapping[str, Tensor],
    batches: Sequence[Batch],
    calls: Sequence[BlockInputs],
    states: States,
    first: int,
) -> None:
    """Take all batches of a run through one of its blocks; their states are those from number ``first`` on.

    A function of its own, so that nothing holds the block's values when the next one is read.
    """
    # A cut block lacks sub-layers of the whole one.
    own = {name: values[name] for name in block.state_dict()}
    with materialized(block, own), run.hooked([(layer, block)]):
        for number, (batch, call) in enumerate(zip(batches, calls, strict=True), start=first):
            with run.observing(batch):
                states.put(number, call.run(block, states.get(number)))

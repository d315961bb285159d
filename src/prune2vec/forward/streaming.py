"""Passes through a model larger than memory: all texts through one block, then through the next."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune2vec.amounts import readable_bytes
from prune2vec.errors import ConfigError, UnsupportedModel
from prune2vec.forward.batches import Batch, PaddingSide, make_batch
from prune2vec.forward.block_inputs import BlockInputs, Shared, block_inputs
from prune2vec.forward.memory_plan import MemoryPlan, bytes_per_token, largest_block, parameter_bytes, plan_memory
from prune2vec.forward.run_stats import RunStats
from prune2vec.forward.runner import Advance, ObservedRun, observed
from prune2vec.forward.states import FileStates, MemoryStates, States
from prune2vec.forward.streaming_selftest import check_probe, probe_model
from prune2vec.machine import forward_tokens, free_memory_bytes, memory_in_use
from prune2vec.models.block_files import BlockFiles, BlockState, embedding_path, materialized, with_embeddings
from prune2vec.models.block_layout import sub_layers_of
from prune2vec.models.cut import Cut
from prune2vec.models.families import Family, block_list
from prune2vec.models.rope import length_kind
from prune2vec.models.selftest import TOKENS, check_sub_layers
from prune2vec.models.sublayers import SubLayers
from prune2vec.models.tokens import TokenRow, length_batches


@dataclass(frozen=True)
class Slots:
    """The states of one lane among those of all."""

    states: States
    begin: int

    def get(self, number: int) -> Tensor:
        """Return one batch's states."""
        return self.states.get(self.begin + number)

    def put(self, number: int, states: Tensor) -> None:
        """Keep them in the place of those before."""
        self.states.put(self.begin + number, states)


class Lane:
    """One look on its way through the blocks of a model without values.

    Args:
        look: The variant, and who watches it.
        model: The model.
        family: Where its blocks are.

    Attributes:
        layers: The layers of the model that the variant has.
    """

    def __init__(self, look: ObservedRun, model: PreTrainedModel, family: Family) -> None:
        self._look = look
        kept = look.variant.kept
        self._cut = Cut.of(kept, model) if kept is not None else None
        self._blocks = block_list(look.variant.model(model), family)
        self._path = family.blocks
        self.layers = range(len(self._blocks)) if kept is None else kept.layers

    def share(self, layer: int) -> float:
        """Return the share of the whole way that one layer is."""
        return 1 / len(self.layers) if layer in self.layers else 0.0

    def through(
        self, layer: int, values: BlockState, batches: Sequence[Batch], states: States, calls: Sequence[BlockInputs]
    ) -> None:
        """Take all batches through a block; a layer that the variant does not have changes nothing."""
        if layer not in self.layers:
            return
        place = self.layers.index(layer)
        block = self._blocks[place]
        with materialized(block, self._kept(layer, place, values)), observed(self._look, [(place, block)]):
            for number, (batch, call) in enumerate(zip(batches, calls, strict=True)):
                for watcher in self._look.watchers:
                    watcher.begin(batch)
                states.put(number, call.run(block, states.get(number)))
                for watcher in self._look.watchers:
                    watcher.end()
        for watcher in self._look.watchers:
            watcher.layer_done(place)

    def _kept(self, layer: int, place: int, values: BlockState) -> BlockState:
        if self._cut is None:
            return values
        names = {within: self._cut.rename(f"{self._path}.{layer}.{within}") for within in values}
        return {
            name.removeprefix(f"{self._path}.{place}."): values[within] for within, name in names.items() if name is not None
        }


@dataclass
class StreamingRunner:
    """``Passes`` through a model of which one block is in memory at a time, or two while the next one is read.

    Attributes:
        model: The model without values; only what comes after its last block has them.
        family: Where its blocks are.
        files: Its files.
        pad_id: Token id that rows are filled up with.
        memory: Bytes that may be in use in all, on the GPU where there is one.
        trust_remote_code: Run model code that came with the checkpoint.
        depth: Layers that will be run at most; None for all. None beyond is read.
        accounts: What each run did.
    """

    model: PreTrainedModel
    family: Family
    files: BlockFiles
    pad_id: int
    memory: int
    trust_remote_code: bool = False
    depth: int | None = None
    accounts: list[RunStats] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read what comes after the last block: every depth needs it."""
        finals = [name for name in self.files.outside if any(name.startswith(f"{path}.") for path in self.family.final)]
        for name in finals:
            owner, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(owner), leaf, nn.Parameter(self.files.take(name), requires_grad=False))
        self._stem = [name for name in self.files.outside if name not in finals]
        self._parts: SubLayers | Exception | None = None

    @property
    def device(self) -> torch.device:
        """Where the blocks compute."""
        return self.files.device

    def self_test(self) -> None:
        """Test the first and the last block as a model of their own, as the whole one is tested when it is in memory.

        Where two blocks do not fit into memory, each of them is a model of its own. The parts of the blocks are tested at
        once too, so that no block is read a second time for them.

        Raises:
            ConfigError: Not even one block fits into the memory that may be used.
            UnsupportedModel: The model is not understood, or cannot be streamed.
        """
        count = len(block_list(self.model, self.family))
        ends = sorted({0, min(self.depth or count, count) - 1})
        if self._plan([TOKENS], 1, TOKENS).prefetch or len(ends) == 1:
            probe = self._probe(ends)
            check_probe(probe, self.family)
            self._parts = self._checked_parts(probe)
            return
        for layer in ends:
            check_probe(self._probe([layer]), self.family)
        self._parts = ConfigError(
            f"memory is {readable_bytes(self.memory)}, but the parts of blocks are tested on two blocks at once; give more memory"
        )

    def sub_layers(self) -> SubLayers:
        """Return the parts of the blocks, checked on the first and the last one.

        Raises:
            ConfigError: The two do not fit into the memory that may be used.
            UnsupportedModel: They are not known, or the check failed.
        """
        if self._parts is None:
            self.self_test()
        if isinstance(self._parts, Exception):
            raise self._parts
        assert self._parts is not None
        return self._parts

    def _checked_parts(self, probe: PreTrainedModel) -> SubLayers | UnsupportedModel:
        try:
            check_sub_layers(probe, self.family)
            return sub_layers_of(self.model)
        except UnsupportedModel as error:
            # With its frames it would keep the probe alive.
            return UnsupportedModel(str(error))

    def _probe(self, layers: Sequence[int]) -> PreTrainedModel:
        return probe_model(self.model, self.family, self.files, layers, trust_remote_code=self.trust_remote_code)

    def run(
        self,
        rows: Sequence[TokenRow],
        looks: Sequence[ObservedRun],
        *,
        token_budget: int | None = None,
        padding_side: PaddingSide | None = None,
        advance: Advance = lambda amount: None,
    ) -> None:
        """Run all rows through every look's variant of the model, block by block; see ``Passes``. Rows are padded in any case.

        Raises:
            ConfigError: Not even one block and the longest row fit into the memory that may be used.
        """
        lanes = [Lane(look, self.model, self.family) for look in looks]
        lengths = [len(row.ids) for row in rows]
        room = self._plan(lengths, len(lanes), token_budget or forward_tokens(self.device))
        batches = [
            make_batch(rows, places, pad_id=self.pad_id, device=self.device, side=padding_side or "right")
            for places in length_batches(lengths, token_budget=room.token_budget, kind=length_kind(self.model))
        ]
        read_before = self.files.files.bytes_read
        with torch.inference_mode(), ExitStack() as stack:
            states, calls = self._begin(batches, len(lanes), room, stack)
            seconds, waiting = self._through_blocks(lanes, batches, states, calls, room, advance)
        self.accounts.append(
            RunStats(
                blocks=len(seconds),
                bytes_read=self.files.files.bytes_read - read_before,
                seconds=tuple(seconds),
                waiting=tuple(waiting),
                tokens=sum(lengths) * len(lanes),
                looks=len(lanes),
                room=room,
            )
        )

    def account(self) -> dict[str, Any]:
        """Return the memory that might be used, and what each run did."""
        return {"stream": {"memory": self.memory, "runs": [run.to_json() for run in self.accounts]}}

    def _through_blocks(
        self,
        lanes: Sequence[Lane],
        batches: Sequence[Batch],
        states: States,
        calls: Sequence[Sequence[BlockInputs]],
        room: MemoryPlan,
        advance: Advance,
    ) -> tuple[list[float], list[float]]:
        seconds, waiting = [], []
        layers = sorted(set().union(*(lane.layers for lane in lanes)))
        begun = time.perf_counter()
        for layer, values in self.files.blocks(layers, prefetch=room.prefetch):
            waiting.append(time.perf_counter() - begun)
            for number, lane in enumerate(lanes):
                lane.through(layer, values, batches, Slots(states, number * len(batches)), [call[layer] for call in calls])
                advance(lane.share(layer) * sum(batch.tokens for batch in batches))
            self._settle()
            seconds.append(time.perf_counter() - begun)
            begun = time.perf_counter()
        return seconds, waiting

    def _begin(
        self, batches: Sequence[Batch], lanes: int, room: MemoryPlan, stack: ExitStack
    ) -> tuple[States, list[list[BlockInputs]]]:
        """Run what comes before the first block; returns the states of all lanes, and how each batch calls each block."""
        blocks, shared = block_list(self.model, self.family), Shared()
        states: States | None = None
        calls = []
        with self._stem_values(batches):
            for number, batch in enumerate(batches):
                first, of_batch = block_inputs(self.model, blocks, batch.inputs, shared)
                states = states or self._states(batches, lanes, first, room, stack)
                for lane in range(lanes):
                    states.put(lane * len(batches) + number, first)
                calls.append(of_batch)
            self._settle()
        assert states is not None
        return states, calls

    def _states(self, batches: Sequence[Batch], lanes: int, first: Tensor, room: MemoryPlan, stack: ExitStack) -> States:
        count, place = lanes * len(batches), self._place_of_states(room, first, batches, lanes)
        if place is not None:
            return MemoryStates(count, place=place, device=self.device)
        shapes = [(*batch.shape, first.shape[-1]) for batch in batches] * lanes
        return stack.enter_context(FileStates(shapes, dtype=first.dtype, device=self.device))

    def _place_of_states(self, room: MemoryPlan, first: Tensor, batches: Sequence[Batch], lanes: int) -> torch.device | None:
        """Return where the states are kept, None for a file: what a GPU has no room for goes to the machine's memory first."""
        if room.states_in_memory:
            return self.device
        size = sum(batch.shape[0] * batch.shape[1] for batch in batches) * lanes * first.shape[-1] * first.dtype.itemsize
        beside = torch.device("cpu")
        return beside if self.device != beside and size < free_memory_bytes(beside) // 2 else None

    def _settle(self) -> None:
        """Wait for the GPU: what is let go after this is read by no kernel any more."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @contextmanager
    def _stem_values(self, batches: Sequence[Batch]) -> Iterator[None]:
        """Lend what comes before the blocks its values: of the token embeddings only the rows that the texts need."""
        path = embedding_path(self.model)
        ids = torch.cat([batch.inputs["input_ids"].flatten() for batch in batches]).unique().cpu()
        others = {name: self.files.take(name) for name in self._stem if name.rpartition(".")[0] != path}
        with materialized(self.model, others, strict=False), with_embeddings(self.model, self.files, ids):
            yield

    def _plan(self, lengths: Sequence[int], lanes: int, token_budget: int) -> MemoryPlan:
        block, dtype, width = largest_block(self.model, self.family), self.files.dtype, int(self.model.config.hidden_size)
        batches = length_batches(lengths, token_budget=token_budget, kind=length_kind(self.model))
        return plan_memory(
            memory=self.memory,
            # Kernels have buffers of their own, and an allocator does not give all back.
            in_use=memory_in_use(self.device) + self.memory // 20,
            block=parameter_bytes(block, dtype),
            per_token=bytes_per_token(block, width, dtype.itemsize),
            state=width * dtype.itemsize * lanes,
            longest=max(lengths),
            tokens=sum(len(batch) * max(lengths[row] for row in batch) for batch in batches),
            token_budget=token_budget,
        )

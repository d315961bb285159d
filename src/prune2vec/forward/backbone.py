"""A model that texts can be run through: loaded once, its structure understood and checked; and all its depths in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prune2vec.errors import ConfigError, ModelError, ProfileError, UnsupportedModel, explained, nan_remedy, reason_of
from prune2vec.forward.batches import Batch
from prune2vec.forward.memory_plan import bytes_per_token, parameter_bytes, tokens_per_pass
from prune2vec.forward.pooling import poolings
from prune2vec.forward.runner import InMemoryRunner, Observer
from prune2vec.forward.streaming import StreamingRunner
from prune2vec.machine import free_memory_bytes, memory_in_use, pick_device, pick_dtype
from prune2vec.models.block_files import BlockFiles, built_on_meta
from prune2vec.models.encoder_text import encoder_text_settings
from prune2vec.models.families import Family, SubLayers, final_modules, states_of
from prune2vec.models.heads import in_fp32, load_heads, read_out, state_width
from prune2vec.models.load import context_length, embedding_rows, load_config, load_model, load_tokenizer, skeleton_of
from prune2vec.models.selftest import check_sub_layers, self_test
from prune2vec.models.shape import ModelShape, measure_shape
from prune2vec.models.source import ModelSource, resolve_source
from prune2vec.models.tensor_check import check_tensors
from prune2vec.models.text_settings import TextSettings
from prune2vec.models.tokens import lower_casing
from prune2vec.models.weight_files import WeightFiles, fingerprint

Stream = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A loaded base model (no LM head, no pooler), whose structure is known and tested.

    Attributes:
        model: The base model, in eval mode.
        tokenizer: Its tokeniser.
        family: Where its parts are.
        shape: Its sizes.
        source: Where it came from.
        fingerprint: Its identity, stored in profiles and plans.
        max_length: Most tokens its positions allow.
        stream: How its blocks are read one by one; None when ``model`` holds them all. With it, only what comes after the
            last block has values in ``model``.
        memory: Bytes that may be in use in all; None for no limit.
        own_text: The text settings of an encoder; None for a language model.
        heads: The modules behind an encoder's pooling, in fp32 on the model's device.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    family: Family
    shape: ModelShape
    source: ModelSource
    fingerprint: str
    max_length: int
    stream: StreamingRunner | None = None
    memory: int | None = None
    own_text: TextSettings | None = None
    heads: tuple[nn.Module, ...] = ()

    @cached_property
    def runner(self) -> InMemoryRunner | StreamingRunner:
        """The way texts run through the model; one for all, as it keeps what it found out about the model."""
        pad_id, causal = self.tokenizer.pad_token_id or 0, self.shape.causal
        return self.stream or InMemoryRunner(self.model, self.family, pad_id, self.memory, causal)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.stream.device if self.stream is not None else self.model.device

    @property
    def usual_text(self) -> TextSettings:
        """How texts reach the model where nobody says otherwise: as an encoder has it, or as suits a language model."""
        # The later a token, the more it has seen: so it is in causal models alone.
        return self.own_text or (TextSettings() if self.shape.causal else TextSettings(pooling="mean"))

    @cached_property
    def sub_layers(self) -> SubLayers:
        """The parts of the blocks, checked when first asked for by taking some out; ``UnsupportedModel`` if that fails."""
        return check_sub_layers(self.model, self.family) if self.stream is None else self.stream.sub_layers()

    def identity(self) -> dict[str, str | None]:
        """Return what profiles and plans store of the model."""
        return {"name": self.source.name, "revision": self.source.revision, "fingerprint": self.fingerprint}


def load_backbone(
    name: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    stream: Stream = "off",
    memory: int | None = None,
    depth: int | None = None,
) -> Backbone:
    """Load a language model or an encoder as a backbone (neither LM head nor pooler is built) and self-test it.

    Args:
        name: Hub id, folder, GGUF file or ``smollm2``.
        revision: Commit, tag or branch of a hub id.
        dtype: ``auto`` (bf16 where the hardware is fast at it, else fp32), ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto`` or a torch device.
        trust_remote_code: Run model code that comes with the checkpoint.
        stream: ``on`` reads the blocks one by one as texts run through them, ``off`` holds them all in memory, ``auto``
            streams a model that does not fit.
        memory: Bytes that may be in use in all (on the GPU, where that computes); unset: what is free.
        depth: Layers that will be run at most; unset: all. Of a streamed model nothing beyond is read.

    Raises:
        ConfigError: The memory does not hold the model, or one block of it where it is streamed.
        ModelError: It cannot be found or loaded.
        UnsupportedModel: It has no block list that can be cut, cannot be streamed, or is an encoder with something that a cut
            would lose.
    """
    source = resolve_source(name, revision=revision)
    config = load_config(source, trust_remote_code=trust_remote_code)
    heads = load_heads(source, width=state_width(config))
    place = pick_device(device)
    chosen = pick_dtype(dtype, place)
    files = WeightFiles.find(source)
    model, family = skeleton_of(source, config, chosen, trust_remote_code=trust_remote_code)
    check_tensors(model, family, files)
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code, rows=embedding_rows(model))
    own_text = encoder_text_settings(source, tokenizer, context=context_length(model), heads=heads)
    streamed = None
    allowed = memory if memory is not None else memory_in_use(place) + free_memory_bytes(place)
    with explained(ModelError, f"{source.name}: the model of its config.json does not run"), _memory_explained(source):
        # With batches of ordinary size.
        needed = parameter_bytes(model, model.dtype) + tokens_per_pass(place, packed=True) * bytes_per_token(model, family)
        if stream == "on" or (stream == "auto" and needed > allowed - memory_in_use(place)):
            if getattr(config, "quantization_config", None) is not None:
                # Its tensors are no plain numbers: read one by one they would be taken for the weights.
                raise UnsupportedModel(
                    f"{source.name} is quantised, so its blocks cannot be read one by one; hold the whole model in memory "
                    "instead (--stream off), or convert it to plain weights"
                )
            model = built_on_meta(config, chosen, place, trust_remote_code=trust_remote_code)
            blocks = BlockFiles(model, family, files, dtype=chosen, device=place)
            streamed = StreamingRunner(model, family, blocks, tokenizer.pad_token_id or 0, allowed, trust_remote_code, depth)
            causal = streamed.self_test()
        else:
            model = load_model(source, config, chosen, place, trust_remote_code)
            causal = self_test(model, family)
    return Backbone(
        model=model,
        tokenizer=lower_casing(tokenizer) if own_text is not None and own_text.lower_case else tokenizer,
        family=family,
        shape=measure_shape(model, family, bytes_per_param=files.stored_bytes_per_param(), causal=causal, heads=heads),
        source=source,
        fingerprint=fingerprint(source),
        max_length=context_length(model),
        stream=streamed,
        memory=memory,
        own_text=own_text,
        heads=tuple(head.to(place) for head in in_fp32(heads)),
    )


@contextmanager
def _memory_explained(source: ModelSource) -> Iterator[None]:
    """Say what to do where memory runs out, which is no fault of the model's files."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # Of the CPU's allocator there is only a RuntimeError.
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise ConfigError(
                f"{source.name} does not fit into memory ({reason_of(error)}); use --stream on, a smaller dtype, or a device "
                "with more memory"
            ) from error
        raise


Sink = Callable[[tuple[int, ...], Sequence[int], Tensor], None]
"""Takes layers, numbers of rows, and their pooled vectors (layer, row, dim) in fp32 on the model's device."""


class PooledDepths(Observer):
    """Reads out what the model cut to its first k blocks returns: the final norm, if there is one, applied to block k's output,
    then pooled, and taken through an encoder's heads.

    Only one block's states are alive at a time beside the pooled vectors, which the ``sink`` gets batch by batch.
    """

    def __init__(self, backbone: Backbone, pooling: str, sink: Sink) -> None:
        self._backbone = backbone
        self._finals = final_modules(backbone.model, backbone.family)
        self._weigh = poolings.get(pooling)
        self._sink = sink
        self._seen: dict[int, Tensor] = {}

    def begin(self, batch: Batch) -> None:
        """Weigh the tokens of the batch."""
        self._batch = batch
        self._pool = batch.pooler(self._weigh)

    def hooks(self, layer: int, block: nn.Module) -> list[RemovableHandle]:
        """Pool a block's output."""

        def hook(module: nn.Module, args: Any, output: Any) -> None:
            states = states_of(output)
            for final in self._finals:
                states = final(states)
            self._seen[layer] = self._pool(states)

        return [block.register_forward_hook(hook)]

    def end(self) -> None:
        """Hand the batch's vectors on; a ``ProfileError`` names depth, text and dtype of one that is NaN or infinite."""
        seen, self._seen = self._seen, {}
        if not seen:
            return  # None of the blocks that ran is read out.
        vectors = torch.stack(list(seen.values()))
        own = self._backbone.own_text
        if own is not None:
            flat = read_out(vectors.flatten(0, 1), self._backbone.heads, truncate_dim=own.truncate_dim)
            vectors = flat.unflatten(0, vectors.shape[:2])
        # One number tells of all; which one it was is looked for only then.
        if not torch.isfinite(vectors.sum()) and len(bad := (~torch.isfinite(vectors).all(dim=2)).nonzero()):
            place, row = bad[0].tolist()
            dtype = str(self._backbone.model.dtype).removeprefix("torch.")
            text = str(self._backbone.tokenizer.decode(list(self._batch.rows[row].ids[:12]))).replace("\n", " ")
            raise ProfileError(
                f"NaN or infinity at depth {list(seen)[place] + 1} of {self._backbone.shape.num_layers} in {dtype} for the text "
                f"{text!r}...; {nan_remedy(dtype)}"
            )
        self._sink(tuple(seen), self._batch.places, vectors)

"""What an importance is measured on: the cut model as an encoder, with all neurons of the MLPs that stayed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch import nn
from transformers import PreTrainedModel, TrainerCallback
from transformers.pytorch_utils import Conv1D

from prune2vec.errors import PlanError
from prune2vec.machine import pick_device, pick_dtype
from prune2vec.models.block_layout import sub_layers_of
from prune2vec.models.families import Neurons, block_list, find_family, mlp_width
from prune2vec.models.prepared_text import PreparedText
from prune2vec.models.quiet import quiet_transformers
from prune2vec.planning.plan import PruningPlan
from prune2vec.pruning.portable import write_tokenizer
from prune2vec.pruning.prune import open_model, read_kept
from prune2vec.training.slim_settings import SlimSettings


@dataclass(frozen=True, kw_only=True)
class ImportanceContext:
    """A cut model whose neurons are to be scored.

    Attributes:
        encoder: The model as an encoder, in eval mode; its weights are frozen.
        blocks: By original layer, the blocks that have an MLP.
        neurons: Where those keep their neurons.
        text: How texts reach it.
        device: Where the model is.
        dtype: Of its weights and multiplications.
        identity: What the scores depend on; work with another identity must not be resumed.
        output: The plan that is to be written; an importance that takes long keeps its checkpoints beside it.
        callbacks: More callbacks for an importance that trains.
        notes: What was noted.
    """

    encoder: SentenceTransformer
    blocks: Mapping[int, nn.Module]
    neurons: Neurons
    text: PreparedText
    device: torch.device
    dtype: torch.dtype
    identity: dict[str, Any]
    output: Path
    callbacks: Sequence[TrainerCallback] = ()
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> PreTrainedModel:
        """The base model inside the encoder."""
        model = self.encoder.transformers_model
        assert model is not None
        return model

    def note(self, **facts: Any) -> None:
        """Keep JSON-ready facts about the scores; they are stored with the scores and in the plan."""
        self.notes.update(facts)

    def outs(self) -> Iterator[tuple[int, nn.Module]]:
        """Yield (layer, linear layer whose inputs are the neurons' activations), first layer first."""
        for layer, block in self.blocks.items():
            yield layer, block.get_submodule(self.neurons.out)

    def width(self, layer: int) -> int:
        """Return the number of neurons of a layer's MLP."""
        return mlp_width(self.blocks[layer], self.neurons)

    def columns(self, layer: int) -> torch.Tensor:
        """Return the weights from each neuron to the stream, (hidden, neuron), in fp32 on the CPU."""
        return self._out_by_in(layer, self.neurons.out)

    def rows(self, layer: int) -> list[torch.Tensor]:
        """Return the weights from the stream to each neuron, one (neuron, hidden) matrix a projection, in fp32 on the CPU."""
        found = [self._out_by_in(layer, path) for path in self.neurons.into]
        return list(found[0].chunk(2)) if self.neurons.halves else found

    def _out_by_in(self, layer: int, path: str) -> torch.Tensor:
        module = self.blocks[layer].get_submodule(path)
        weight = module.get_parameter("weight").detach().float().cpu()
        return weight.T if isinstance(module, Conv1D) else weight


def load_context(
    model: str,
    plan: PruningPlan,
    settings: SlimSettings,
    *,
    identity: dict[str, Any],
    output: Path,
    callbacks: Sequence[TrainerCallback] = (),
) -> ImportanceContext:
    """Read what a plan of full widths keeps of a model, as an encoder that treats texts as ``prune`` would.

    Args:
        model: Hub id, folder, GGUF file or ``smollm2``: the model the plan was made for.
        plan: What is kept.
        settings: Dtype and device.
        identity: What the scores depend on.
        output: The plan that is to be written.
        callbacks: More callbacks for an importance that trains.

    Raises:
        PlanError: The plan is for another model, or the model's neurons are not known.
        ModelError: The model cannot be found or understood.
        CheckpointError: Tensors are missing or damaged.
    """
    opened = open_model(model, plan, revision=settings.revision, trust_remote_code=settings.trust_remote_code)
    device = pick_device(settings.device)
    kept, config, text = read_kept(opened, plan).model, opened.config, opened.text
    neurons = sub_layers_of(kept).neurons
    if neurons is None:
        raise PlanError(f"{config.model_type}: the neurons of its MLPs are not known, so its width cannot be cut")
    dtype = pick_dtype(settings.dtype, device)
    nn.Module.to(kept, dtype=dtype).requires_grad_(False)
    encoder = encoder_around(kept, text, device=device)
    blocks = zip(plan.keep_layers, block_list(kept, find_family(kept, config)), strict=True)
    return ImportanceContext(
        encoder=encoder.eval(),
        blocks={layer: block for layer, block in blocks if layer in plan.kept.mlps},
        neurons=neurons,
        text=text,
        device=device,
        dtype=dtype,
        identity=identity,
        output=output,
        callbacks=callbacks,
    )


def encoder_around(model: PreTrainedModel, text: PreparedText, *, device: torch.device) -> SentenceTransformer:
    """Return an encoder whose weights are those of ``model``, not a copy, as ``prune`` would write it; blocks may be uneven.

    Args:
        model: A base model.
        text: How texts reach it, and how its states become a vector.
        device: Where the model is moved to.
    """
    settings = text.settings

    class InMemory(Transformer):
        """Takes the model that is there instead of loading one."""

        def _load_config(self, *args: Any, **kwargs: Any) -> tuple[Any, bool]:
            return model.config, False

        def _load_model(self, *args: Any, **kwargs: Any) -> PreTrainedModel:
            return model

    with TemporaryDirectory() as folder, quiet_transformers():
        write_tokenizer(text.tokenizer, Path(folder), max_length=settings.max_length)
        transformer = InMemory(folder, max_seq_length=settings.max_length)
    dimension = getattr(model.config, "word_embed_proj_dim", None) or model.config.hidden_size
    pooling = Pooling(dimension, pooling_mode=settings.pooling, include_prompt=settings.include_prompt)
    return SentenceTransformer(modules=[transformer, pooling, Normalize()], device=str(device))

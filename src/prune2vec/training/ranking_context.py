"""What a ranking looks at: the cut model as an encoder, with all neurons of the MLPs that stayed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import PreTrainedModel, TrainerCallback
from transformers.pytorch_utils import Conv1D

from prune2vec.errors import PlanError
from prune2vec.machine import pick_device, pick_dtype
from prune2vec.models.block_layout import sub_layers_of
from prune2vec.models.families import block_list, find_family
from prune2vec.models.prepared_text import saved_prompts
from prune2vec.models.sublayers import Neurons, mlp_width
from prune2vec.planning.plan import PruningPlan
from prune2vec.pruning.prune import open_model
from prune2vec.pruning.read_kept import read_kept
from prune2vec.training.slim_settings import SlimSettings
from prune2vec.training.training_data import Prompting
from prune2vec.training.uneven_encoder import encoder_around


@dataclass(frozen=True, kw_only=True)
class RankingContext:
    """A cut model whose neurons are to be ranked.

    Attributes:
        encoder: The model as an encoder, in eval mode; its weights are frozen.
        blocks: By original layer, the blocks that have an MLP.
        neurons: Where those keep their neurons.
        prompting: What stands before texts.
        device: Where the model is.
        dtype: Number format of its weights and multiplications.
        identity: What a ranking depends on; work with another identity must not be gone on with.
        output: The plan that is to be written; a ranking that takes long keeps its checkpoints beside it.
        callbacks: More callbacks for a ranking that trains.
        notes: What rankings noted.
    """

    encoder: SentenceTransformer
    blocks: Mapping[int, nn.Module]
    neurons: Neurons
    prompting: Prompting
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
        """Keep JSON-ready facts about the ranking; they are stored with the scores and in the plan."""
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
        return _out_by_in(self.blocks[layer].get_submodule(self.neurons.out))

    def rows(self, layer: int) -> list[torch.Tensor]:
        """Return the weights from the stream to each neuron, one (neuron, hidden) matrix a projection, in fp32 on the CPU."""
        found = [_out_by_in(self.blocks[layer].get_submodule(path)) for path in self.neurons.into]
        return list(found[0].chunk(2)) if self.neurons.halves else found


def _out_by_in(module: nn.Module) -> torch.Tensor:
    weight = module.get_parameter("weight").detach().float().cpu()
    return weight.T if isinstance(module, Conv1D) else weight


def load_subject(
    model: str,
    plan: PruningPlan,
    settings: SlimSettings,
    *,
    identity: dict[str, Any],
    output: Path,
    callbacks: Sequence[TrainerCallback] = (),
) -> RankingContext:
    """Read what a plan of full widths keeps of a model, as an encoder that treats texts as ``prune`` would.

    Args:
        model: Hub id, folder, GGUF file or ``smollm2``: the model the plan was made for.
        plan: What is kept.
        settings: Number format and device.
        identity: What a ranking depends on.
        output: The plan that is to be written.
        callbacks: More callbacks for a ranking that trains.

    Raises:
        PlanError: The plan is for another model, or the model's neurons are not known.
        ModelError: The model cannot be found or understood.
        CheckpointError: Tensors are missing or damaged.
    """
    trust = settings.trust_remote_code
    source, config, text = open_model(model, plan, revision=settings.revision, trust_remote_code=trust)
    device = pick_device(settings.device)
    kept = read_kept(source, plan, trust_remote_code=trust).model
    neurons = sub_layers_of(kept).neurons
    if neurons is None:
        raise PlanError(f"{config.model_type}: the neurons of its MLPs are not known, so its width cannot be cut")
    dtype = pick_dtype(settings.dtype, device)
    nn.Module.to(kept, dtype=dtype).requires_grad_(False)
    encoder = encoder_around(kept, text, device=device)
    blocks = zip(plan.keep_layers, block_list(kept, find_family(kept, config)), strict=True)
    return RankingContext(
        encoder=encoder.eval(),
        blocks={layer: block for layer, block in blocks if layer in plan.kept.mlps},
        neurons=neurons,
        prompting=Prompting(
            instructions=text.instructions,
            text_format=text.layout,
            saved=saved_prompts(text.settings.prompts, text.settings.default_prompt),
        ),
        device=device,
        dtype=dtype,
        identity=identity,
        output=output,
        callbacks=callbacks,
    )

"""What an importance is measured on: the cut model as an encoder, batches of texts, and the activations of neurons on them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from sentence_transformers.util import batch_to_device
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback
from transformers.pytorch_utils import Conv1D

from prune2vec.data.triplet import Triplet
from prune2vec.errors import PlanError
from prune2vec.machine import pick_device, pick_dtype
from prune2vec.models.block_layout import sub_layers_of
from prune2vec.models.families import Neurons, block_list, find_family, mlp_width
from prune2vec.models.heads import state_width
from prune2vec.models.prepared_text import PreparedText
from prune2vec.planning.plan import PruningPlan
from prune2vec.progress import progress, quiet_transformers, say
from prune2vec.pruning.portable import write_tokenizer
from prune2vec.pruning.prune import open_model, read_kept
from prune2vec.training.slim_settings import SlimSettings
from prune2vec.training.training_data import training_data

Columns = list[dict[str, Any]]


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

    def weights(self, layer: int, path: str) -> Tensor:
        """Return the weights of a linear layer of a block, (output, input), in fp32 on the CPU."""
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

    ``identity``, ``output`` and ``callbacks`` are those of the context.

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
    nn.Module.to(kept, dtype=dtype)
    encoder = encoder_around(kept, text, opened.heads, device=device).requires_grad_(False)
    blocks = zip(plan.keep_layers, block_list(kept, find_family(kept, kept.config)), strict=True)
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


def encoder_around(
    model: PreTrainedModel, text: PreparedText, heads: Sequence[nn.Module] = (), *, device: torch.device
) -> SentenceTransformer:
    """Return an encoder whose weights are those of ``model``, not a copy, as ``prune`` would write it; blocks may be uneven."""
    settings = text.settings

    class InMemory(Transformer):
        """Takes the model that is there instead of loading one."""

        def _load_config(self, *args: Any, **kwargs: Any) -> tuple[Any, bool]:
            return model.config, False

        def _load_model(self, *args: Any, **kwargs: Any) -> PreTrainedModel:
            return model

    with TemporaryDirectory() as folder, quiet_transformers():
        write_tokenizer(text.tokenizer, Path(folder), max_length=settings.max_length)
        transformer = InMemory(folder, max_seq_length=settings.max_length, do_lower_case=settings.lower_case)
    pooling = Pooling(state_width(model.config), pooling_mode=settings.pooling, include_prompt=settings.include_prompt)
    return SentenceTransformer(modules=[transformer, pooling, *heads, Normalize()], device=str(device))


def batches(context: ImportanceContext, triplets: Sequence[Triplet], settings: SlimSettings) -> Iterator[Columns]:
    """Yield the tokenised columns of ``settings.batches`` batches: queries, positives, hard negatives.

    Each data set is shuffled and cut into batches, and those are drawn from.

    Raises:
        DataError: There are no rows, too few for a batch, or one has no hard negative though the settings want some.
    """
    data = training_data(triplets, context.text, settings.for_training(), quiet=True)
    generator = random.Random(settings.seed)
    size = settings.batch_size
    found = []
    for name, table in data.tables.items():
        rows = list(table.rows)
        generator.shuffle(rows)
        found += [(name, rows[start : start + size]) for start in range(0, len(rows) - size + 1, size)]
    if len(found) < settings.batches:
        say(f"the texts give {len(found)} batches of {size} rows instead of {settings.batches}")
    drawn = generator.sample(found, min(len(found), settings.batches))
    with progress("measuring neurons", total=len(drawn)) as advance:
        for name, rows in drawn:
            texts = zip(*(data.texts_of(row) for row in rows), strict=True)
            prompts = data.prompts[name]
            yield [
                batch_to_device(dict(context.encoder.preprocess(list(column), prompt=prompts[key])), context.device)
                for key, column in zip(data.columns, texts, strict=True)
            ]
            advance(1)


def for_each_activation(context: ImportanceContext, batches: Iterator[Columns], observe: Callable[[int, Tensor], None]) -> None:
    """Call ``observe(layer, activations)`` with what the neurons of each MLP give for each column of texts.

    Activations are (token, neuron) in the model's dtype, tokens of padding left out.
    """
    mask: list[Tensor] = []

    def hook(layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            observe(layer, args[0].flatten(end_dim=-2)[mask[0]])

        return look

    handles = [out.register_forward_pre_hook(hook(layer)) for layer, out in context.outs()]
    try:
        with torch.inference_mode(), evaluating(context):
            for columns in batches:
                for features in columns:
                    mask[:] = [features["attention_mask"].flatten().bool()]
                    context.encoder(features)
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(context: ImportanceContext) -> Iterator[None]:
    """Switch dropout off."""
    was_training = context.encoder.training
    context.encoder.eval()
    try:
        yield
    finally:
        context.encoder.train(was_training)

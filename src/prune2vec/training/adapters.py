"""LoRA adapters: put in, restored from a checkpoint, and merged."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, TaskType, set_peft_model_state_dict
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from prune2vec.errors import ConfigError, TrainingError, did_you_mean, reason_of
from prune2vec.models.families import block_list, final_modules, find_family
from prune2vec.models.heads import head_words, load_heads, state_width
from prune2vec.progress import quiet_transformers, say
from prune2vec.pruning.encoder_check import source_of
from prune2vec.pruning.parity import rounding
from prune2vec.training.train_settings import TrainSettings

ADAPTER_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."


def base_model(encoder: SentenceTransformer) -> PreTrainedModel:
    """Return the transformers model inside an encoder."""
    model = encoder.transformers_model
    assert model is not None
    return model


def heads_of(encoder: SentenceTransformer) -> list[nn.Module]:
    """Return the modules behind an encoder's pooling, its normalisation included."""
    return list(encoder)[2:]


def choose_trained(encoder: SentenceTransformer, settings: TrainSettings) -> None:
    """Put adapters into an encoder, or leave only its last blocks to train; the settings are checked against the model here.

    Adapters are for the model alone: the heads behind the pooling are frozen beside them, and trained without them.

    Raises:
        ConfigError: They do not fit the model.
    """
    torch.manual_seed(settings.seed)  # The adapters' start must not depend on what was drawn before.
    if settings.method == "lora":
        with quiet_transformers():
            add_lora(encoder, settings)
        frozen = [head for head in heads_of(encoder) if any(True for _ in head.parameters())]
        for head in frozen:
            head.requires_grad_(False)
        if frozen:
            say(f"adapters train the model alone, {head_words(frozen)} stays as it is; method full trains it too")
    elif settings.train_top is not None:
        model = base_model(encoder)
        _, trained = _split_blocks(model, settings.train_top)
        model.requires_grad_(False)
        for module in (*trained, *final_modules(model, find_family(model, model.config))):
            module.requires_grad_(True)


def add_lora(encoder: SentenceTransformer, settings: TrainSettings) -> None:
    """Freeze the encoder's weights and give its linear layers fp32 adapters, drawn from torch's global state.

    Raises:
        ConfigError: A target module is not in the model or cannot have an adapter, or more layers are to be trained than there
            are.
    """
    model = base_model(encoder)
    targets = _checked_targets(model, settings.target_modules)
    exclude = None
    if settings.train_top is not None:
        below, _ = _split_blocks(model, settings.train_top)
        frozen = {id(module) for module in (model.get_input_embeddings(), *below)}
        names = [re.escape(name) for name, module in model.named_modules() if id(module) in frozen]
        exclude = rf"(.*\.)?({'|'.join(names)})(\..*)?"
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=settings.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type=TaskType.FEATURE_EXTRACTION,
        exclude_modules=exclude,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    try:
        encoder.add_adapter(config)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"no adapters can be put on target_modules {settings.target_modules!r}: {reason_of(error)}"
        ) from error
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _checked_targets(model: PreTrainedModel, targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Return the target modules, a single name as a list, if each is there: to peft it is enough that one of them is."""
    if isinstance(targets, str) and targets.isidentifier():
        targets = (targets,)
    if targets == "all-linear":
        return targets
    if not targets:
        raise ConfigError("target_modules names no module; give names, an expression or all-linear")
    modules = [name for name, _ in model.named_modules() if name]
    endings = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    if isinstance(targets, str):
        try:
            expression = re.compile(targets)
        except re.error as error:
            raise ConfigError(f"target_modules {targets!r} is no regular expression: {reason_of(error)}") from error
        if not any(map(expression.fullmatch, modules)):
            raise ConfigError(f"target_modules: no module matches {targets!r}; names end in {', '.join(sorted(endings))}")
        return targets
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in modules):
            raise ConfigError(f"target_modules: no module is called {target!r}{did_you_mean(target, endings)}")
    return targets


def _split_blocks(model: PreTrainedModel, top: int) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return the blocks below the last ``top``, and those."""
    blocks = list(block_list(model, find_family(model, model.config)))
    if top > len(blocks):
        raise ConfigError(f"train_top {top} is more than the encoder's {len(blocks)} layers; leave it out to train all")
    return blocks[:-top], blocks[-top:]


def restore_adapter(encoder: SentenceTransformer, checkpoint: Path) -> None:
    """Load an adapter's weights as they were saved."""
    saved = load_file(checkpoint / ADAPTER_FILE)
    set_peft_model_state_dict(base_model(encoder), {key.removeprefix(_PREFIX): value for key, value in saved.items()})


def load_adapter(encoder: SentenceTransformer, checkpoint: Path) -> PeftModel:
    """Put a saved adapter on an encoder's model, as a layer of peft's around it, and return that."""
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5.23 by a deprecated name.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        # GPT-2's layers, which bitsandbytes held as linear ones while the adapter was trained.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False but the target module is `Conv1D`")
        adapted = PeftModel.from_pretrained(base_model(encoder), str(checkpoint))
    encoder[0].model = adapted
    return adapted


def merge_adapter(encoder: SentenceTransformer, checkpoint: Path, probe: Sequence[str]) -> float:
    """Fold a saved adapter into the weights of an fp32 encoder and compare the embeddings of ``probe`` before and after.

    Returns:
        The largest difference of any component.

    Raises:
        TrainingError: Merged and unmerged encoder differ by more than fp32 rounding, or the embeddings are not finite.
    """
    adapted = load_adapter(encoder, checkpoint)
    unmerged = embed(encoder, probe)
    encoder[0].model = adapted.merge_and_unload()
    merged = embed(encoder, probe)
    difference, allowed = float(np.abs(merged - unmerged).max()), rounding(unmerged)
    if not difference <= allowed:
        raise TrainingError(
            f"merging the adapter changed embeddings by {difference:.1e}, expected at most {allowed:.0e}; "
            f"nothing was saved, the adapter is in {checkpoint}"
        )
    return difference


def round_to_stored(encoder: SentenceTransformer, dtype: torch.dtype, probe: Sequence[str]) -> float:
    """Round an fp32 encoder's weights to the dtype in which they are stored, and return by how much that moves an entry of the embeddings.

    Both are computed in fp32: many a CPU is slow in halves.
    """
    exact = embed(encoder, probe)
    for parameter in encoder.parameters():
        parameter.data.copy_(parameter.data.to(dtype))
    moved = float(np.abs(embed(encoder, probe) - exact).max())
    encoder.to(dtype)
    return moved


def load_weights(encoder: SentenceTransformer, checkpoint: Path) -> None:
    """Load a checkpoint's full weights into an encoder, all of them.

    Raises:
        TrainingError: A tensor is missing or has another shape.
    """
    heads = enumerate(heads_of(encoder), start=2)
    parts = [(base_model(encoder), checkpoint), *((head, checkpoint / f"{n}_{type(head).__name__}") for n, head in heads)]
    for part, folder in parts:
        state: dict[str, torch.Tensor] = {}
        for file in sorted(folder.glob("model*.safetensors")):
            state |= load_file(file)
        try:
            part.load_state_dict(state)
        except RuntimeError as error:
            raise TrainingError(
                f"{folder} does not fit its model ({reason_of(error)}); remove it, and the same call goes on from the checkpoint before"
            ) from error


def stored_heads(base: Path, encoder: SentenceTransformer) -> list[nn.Module]:
    """Round an encoder's heads, each to the dtype in which ``base`` stores it, and return copies in those dtypes."""
    model = base_model(encoder)
    stored = load_heads(source_of(str(base)), width=state_width(model.config))
    heads = []
    for head, before in zip(heads_of(encoder), stored, strict=False):
        rounded = copy.deepcopy(head)
        for mine, copied, kept in zip(head.parameters(), rounded.parameters(), before.parameters(), strict=True):
            copied.data = copied.data.to(kept.dtype)
            mine.data.copy_(copied.data)
        heads.append(rounded)
    return heads


def embed(encoder: SentenceTransformer, texts: Sequence[str]) -> np.ndarray:
    """Return the embeddings of ``texts`` as fp32.

    Raises:
        TrainingError: A value is not finite.
    """
    vectors = encoder.encode(list(texts), show_progress_bar=False, convert_to_tensor=True).float().cpu().numpy()
    if not np.isfinite(vectors).all():
        raise TrainingError("the trained embeddings are not finite; nothing was saved; lower learning_rate and set restart")
    return np.asarray(vectors)

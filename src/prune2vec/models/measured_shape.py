"""The sizes of a model's parts, counted on the model itself."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from prune2vec.errors import UnsupportedModel
from prune2vec.models.block_layout import sub_layers_of
from prune2vec.models.families import Family, block_list, final_modules
from prune2vec.models.shape import ModelShape
from prune2vec.models.sublayers import Neurons, mlp_width


def measure_shape(model: PreTrainedModel, family: Family, *, bytes_per_param: int) -> ModelShape:
    """Count a model's parameters by part, shared ones once."""
    blocks = block_list(model, family)
    finals = final_modules(model, family)
    final = sum(parameter.numel() for module in finals for parameter in module.parameters())
    per_block = tuple(_count(block) for block in blocks)
    matmul = tuple(_count_matrices(block) for block in blocks)
    config = model.config
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return ModelShape(
        model_type=config.model_type,
        num_layers=len(blocks),
        hidden_size=_output_size(model, finals),
        attention_width=heads * head_dim,
        embedding_params=_count(model) - sum(per_block) - final,
        block_params=per_block,
        block_matmul_params=matmul,
        final_params=final,
        bytes_per_param=bytes_per_param,
        **part_sizes(model, family),
    )


def part_sizes(model: PreTrainedModel, family: Family) -> dict[str, tuple[int, ...]]:
    """Count attention, MLP and neurons of each block for a ``ModelShape``; what is not known is left out."""
    blocks = block_list(model, family)
    try:
        parts = sub_layers_of(model)
    except UnsupportedModel:
        return {}
    attention = [[block.get_submodule(path) for path in (parts.attention, *parts.attention_norms)] for block in blocks]
    mlp = [[block.get_submodule(path) for path in (*parts.mlp, *parts.mlp_norms)] for block in blocks]
    sizes = {
        "attention_params": tuple(sum(map(_count, modules)) for modules in attention),
        "attention_matmul_params": tuple(sum(map(_count_matrices, modules)) for modules in attention),
        "mlp_params": tuple(sum(map(_count, modules)) for modules in mlp),
        "mlp_matmul_params": tuple(sum(map(_count_matrices, modules)) for modules in mlp),
    }
    return {**sizes, **(_neuron_sizes(blocks, parts.neurons) if parts.neurons is not None else {})}


def _neuron_sizes(blocks: nn.ModuleList, neurons: Neurons) -> dict[str, tuple[int, ...]]:
    widths = tuple(mlp_width(block, neurons) for block in blocks)
    pairs = [_neuron_size(block, neurons, width) for block, width in zip(blocks, widths, strict=True)]
    return {
        "mlp_width": widths,
        "neuron_params": tuple(weights + biases for weights, biases in pairs),
        "neuron_matmul_params": tuple(weights for weights, _ in pairs),
    }


def _neuron_size(block: nn.Module, neurons: Neurons, width: int) -> tuple[int, int]:
    """Return the weights and the biases that belong to one neuron."""
    modules = [block.get_submodule(path) for path in neurons.into]
    weights = _count_matrices(block.get_submodule(neurons.out)) + sum(map(_count_matrices, modules))
    biases = sum(map(_count, modules)) - sum(map(_count_matrices, modules))
    return weights // width, biases // width


def _output_size(model: PreTrainedModel, finals: list[nn.Module]) -> int:
    projections = [module for module in finals if isinstance(module, nn.Linear)]
    return int(projections[-1].out_features if projections else model.config.hidden_size)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _count_matrices(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.ndim > 1)

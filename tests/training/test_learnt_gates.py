"""Gates: nothing changes while they are open, closed ones are the sliced model, and their gradients are right."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import Tensor, nn

from prune2vec.models.cut import cut_model
from prune2vec.planning.plan import PruningPlan
from prune2vec.training.importance_context import Columns, ImportanceContext, batches
from prune2vec.training.importances.learnt_gates import Gates, PenalisedLoss
from prune2vec.training.slim_settings import SlimSettings
from tests.models.silence import plan_of
from tests.tiny import FAMILIES
from tests.training.contexts import QUICK, tiny_context, tiny_plan
from tests.training.encoders import rows

IDS = torch.randint(3, 384, (2, 24), generator=torch.Generator().manual_seed(0))


def states(context: ImportanceContext) -> Tensor:
    with torch.inference_mode():
        found: Tensor = context.encoder.transformers_model(input_ids=IDS, use_cache=False)[0]
    return found


def columns_for(context: ImportanceContext) -> list[Columns]:
    return list(batches(context, rows(24), SlimSettings(**QUICK)))


@pytest.mark.parametrize("family", FAMILIES)
def test_open_gates_change_no_bit_and_closed_ones_are_the_sliced_model(tmp_path: Path, family: str) -> None:
    context = tiny_context(tmp_path, family)
    _, plan = tiny_plan(tmp_path, family)
    before = states(context)
    gates = Gates(context)
    gates.install(context.encoder)
    assert torch.equal(states(context), before)

    draw = random.Random(family)
    neurons = {layer: tuple(sorted(draw.sample(range(context.width(layer)), 30))) for layer in context.blocks}
    with torch.no_grad():
        for layer, gate in gates.values.items():
            gate.fill_(-0.5)
            gate[list(neurons[layer])] = 1.0
    closed = states(context)
    gates.remove()
    assert torch.equal(states(context), before), "removing the gates gives the model back"
    assert not any("gate" in name.rpartition(".")[2] for name, _ in context.encoder.transformers_model.named_parameters())
    assert (closed - before).abs().max() > 1e-3

    sliced = cut_whole(tmp_path, plan, family, neurons)
    assert len(sliced.state_dict()) == len(context.encoder.transformers_model.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(sliced(input_ids=IDS, use_cache=False)[0], closed, atol=1e-5, rtol=1e-5)


def cut_whole(folder: Path, plan: PruningPlan, family: str, neurons: dict[int, tuple[int, ...]]) -> nn.Module:
    """Cut the whole model at once, by the plan with its neurons decided."""
    from prune2vec.forward.backbone import load_backbone

    whole = load_backbone(str(folder / family), dtype="float32", device="cpu").model
    slimmed = plan_of(whole, plan.kept, {}).slimmed(neurons)
    return cut_model(whole, slimmed.kept, slimmed.neurons)


def in_float64(model: nn.Module) -> None:
    """Widen a model, its RMS norms too, which round to fp32 by themselves."""
    model.double()
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            norm = nn.RMSNorm(len(module.weight), eps=module.variance_epsilon, dtype=torch.float64)
            norm.load_state_dict(module.state_dict())
            module.forward = norm.forward


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "opt"])
def test_gradients_are_those_of_finite_differences(tmp_path: Path, family: str) -> None:
    context = tiny_context(tmp_path, family)
    in_float64(context.encoder.transformers_model)
    gates = Gates(context, penalty=1e-2, sharpness=5.0)
    gates.install(context.encoder)
    assert {gate.dtype for gate in gates.values.values()} == {torch.float64}
    loss = gates.loss(MultipleNegativesRankingLoss(context.encoder, scale=20.0))
    columns = columns_for(context)[0]

    def value() -> Tensor:
        return sum(loss([dict(column) for column in columns], torch.empty(0)).values(), torch.zeros(()))

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for gate in gates.values.values():
            gate.copy_(1 + 0.3 * torch.randn(gate.shape, generator=generator))
            gate[0] = -0.2
    value().backward()
    step = 1e-5
    for layer, gate in gates.values.items():
        assert gate.grad is not None
        assert gate.grad[0] == 0, "a closed gate gets no gradient"
        for neuron in (1, 7, 40):
            with torch.no_grad():
                gate[neuron] += step
                above = value()
                gate[neuron] -= 2 * step
                below = value()
                gate[neuron] += step
            expected = ((above - below) / (2 * step)).item()
            assert gate.grad[neuron].item() == pytest.approx(expected, rel=1e-5, abs=1e-8), (layer, neuron)


def test_gates_of_a_bf16_model_are_fp32_and_see_small_steps(tmp_path: Path) -> None:
    context = tiny_context(tmp_path, dtype="bfloat16")
    before = states(context)
    gates = Gates(context)
    gates.install(context.encoder)
    assert torch.equal(states(context), before)
    loss = MultipleNegativesRankingLoss(context.encoder, scale=20.0)
    loss(columns_for(context)[0], torch.empty(0)).backward()
    for gate in gates.values.values():
        assert gate.dtype == torch.float32
        assert gate.grad is not None
        assert gate.grad.dtype == torch.float32
        assert gate.grad.abs().min() > 0
    with torch.no_grad():
        for gate in gates.values.values():
            gate.add_(3e-3)  # 1 to a gate in bf16, whose next number is 1.0078.
    assert states(context).dtype == torch.bfloat16
    assert not torch.equal(states(context), before)
    assert all(
        parameter.grad is None
        for name, parameter in context.encoder.transformers_model.named_parameters()
        if not name.endswith(".gate")
    )


def test_penalty_is_the_papers(tmp_path: Path) -> None:
    context = tiny_context(tmp_path)
    gates = Gates(context, penalty=0.5, sharpness=5.0)
    gates.install(context.encoder)
    count = sum(len(gate) for gate in gates.values.values())

    class Fixed(nn.Module):
        def forward(self, features: object, labels: object) -> Tensor:
            return torch.tensor(2.0)

    loss = gates.loss(Fixed())
    assert isinstance(loss, PenalisedLoss)
    parts = loss([], torch.empty(0))
    # 0.993 307 a gate: 227.8 thousand for the paper's 229,376.
    assert parts["penalty"].item() == pytest.approx(0.5 * count * 0.9933071, rel=1e-6)
    assert parts["contrastive"].item() == 2.0
    parts["penalty"].backward()
    slope = 0.5 * 5 * 0.9933071 * (1 - 0.9933071)
    for gate in gates.values.values():
        assert gate.grad is not None
        torch.testing.assert_close(gate.grad, torch.full_like(gate, slope), rtol=1e-4, atol=0)
        with torch.no_grad():
            gate.fill_(-3.0)
    assert loss.penalty().item() == pytest.approx(0.5 * count)


def test_saved_gates_come_back_and_are_counted(tmp_path: Path) -> None:
    gates = Gates(tiny_context(tmp_path))
    gates.install(gates._context.encoder)
    with torch.no_grad():
        for gate in gates.values.values():
            gate.copy_(torch.linspace(-1, 2, len(gate)))
    statistics = gates.statistics()
    scores = gates.scores()
    gates.save(tmp_path)
    with torch.no_grad():
        for gate in gates.values.values():
            gate.fill_(9.0)
    gates.restore(tmp_path)
    assert gates.statistics() == statistics
    assert statistics["min"] == -1
    assert statistics["max"] == 2
    assert statistics["mean"] == pytest.approx(0.5)
    assert (statistics["closed"], statistics["below_half"]) == (pytest.approx(16 / 48), pytest.approx(24 / 48))
    for layer, found in gates.scores().items():
        assert torch.equal(found, scores[layer])
        assert torch.equal(found, torch.linspace(-1, 2, 48).clamp(min=0))

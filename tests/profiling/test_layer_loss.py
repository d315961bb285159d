"""The layer-loss curve against models really cut to every depth, and against a float64 computation by hand."""

from pathlib import Path

import pytest
import torch

from prune2vec.forward.backbone import Backbone, load_backbone
from prune2vec.forward.runner import ObservedRun
from prune2vec.models.cut import cut_model
from prune2vec.models.tokens import TokenRow
from prune2vec.profiling.layer_loss import LossCurve
from prune2vec.profiling.profile import LayerLoss
from prune2vec.profiling.token_groups import TokenGroup
from tests.tiny import FAMILIES, VOCAB, save_tiny

SCALE = 50.0


def random_groups(groups: int = 2, size: int = 4, seed: int = 0) -> list[TokenGroup]:
    generator = torch.Generator().manual_seed(seed)

    def row() -> TokenRow:
        length = int(torch.randint(4, 30, (1,), generator=generator))
        ids = torch.randint(4, VOCAB, (length,), generator=generator).tolist()
        return TokenRow(tuple(ids), start=int(torch.randint(0, 3, (1,), generator=generator)))

    return [TokenGroup(*(tuple(row() for _ in range(size)) for _ in range(3))) for _ in range(groups)]


def vector_by_hand(model: torch.nn.Module, row: TokenRow) -> torch.Tensor:
    """Return the vector of one text in float64, by a model that was really cut."""
    with torch.inference_mode():
        states = model(input_ids=torch.tensor([row.ids]), use_cache=False).last_hidden_state[0].double()
    text = states[row.start :]
    weights = torch.arange(row.start + 1, len(states) + 1, dtype=torch.float64)
    return (weights[:, None] * text).sum(0) / weights.sum()


def by_hand(model: torch.nn.Module, group: TokenGroup) -> float:
    """Return the loss of one group in float64 from vectors made one text at a time by a model that was really cut."""
    queries, positives, negatives = (
        [vector_by_hand(model, row) for row in rows] for rows in (group.queries, group.positives, group.negatives)
    )
    losses = []
    for place, query in enumerate(queries):
        cosines = [torch.dot(query, other) / (query.norm() * other.norm()) for other in positives + negatives]
        logits = SCALE * torch.stack(cosines)
        losses.append(torch.logsumexp(logits, 0) - logits[place])
    return float(torch.stack(losses).mean())


def tiny_backbone(tmp_path: Path, family: str) -> Backbone:
    return load_backbone(str(save_tiny(tmp_path / family, family)), dtype="float32", device="cpu")


def layer_loss(backbone: Backbone, groups: list[TokenGroup], *, token_budget: int | None = None) -> LayerLoss:
    curve = LossCurve(backbone, groups, scale=SCALE)
    backbone.runner.run(curve.rows, [ObservedRun(observers=[curve])], token_budget=token_budget)
    return curve.result()


@pytest.mark.parametrize("family", FAMILIES)
def test_curve_equals_the_losses_of_the_cut_models(tmp_path: Path, family: str) -> None:
    backbone, groups = tiny_backbone(tmp_path, family), random_groups()
    curve = layer_loss(backbone, groups)
    for depth in range(1, 6):
        cut = cut_model(backbone.model, range(depth))
        expected = [by_hand(cut, group) for group in groups]
        # A loss of about 10 to 100 here: 1e-5 relative is the rounding of fp32 in a random model.
        assert [row[depth - 1] for row in curve.group_loss] == pytest.approx(expected, rel=1e-5, abs=1e-5)
        assert curve.loss[depth - 1] == pytest.approx(sum(expected) / 2, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_batching_does_not_matter(tmp_path: Path, family: str) -> None:
    backbone, groups = tiny_backbone(tmp_path, family), random_groups()
    curves = [layer_loss(backbone, groups), layer_loss(backbone, groups, token_budget=1)]
    for other in curves[1:]:
        assert other.loss == pytest.approx(curves[0].loss, rel=1e-5, abs=1e-5)
        assert other.uniformity == pytest.approx(curves[0].uniformity, rel=1e-5, abs=1e-5)


def test_windows_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, groups = tiny_backbone(tmp_path, "llama"), random_groups(groups=3)
    whole = layer_loss(backbone, groups)
    monkeypatch.setattr("prune2vec.forward.runner._WINDOW_BYTES", 1)
    assert layer_loss(backbone, groups).loss == pytest.approx(whole.loss, rel=1e-5)


def test_spread_over_groups(tmp_path: Path) -> None:
    backbone, groups = tiny_backbone(tmp_path, "llama"), random_groups(groups=4)
    curve = layer_loss(backbone, groups)
    columns = torch.tensor(curve.group_loss, dtype=torch.float64)
    assert curve.std_error == pytest.approx((columns.std(0) / 2).tolist())
    assert layer_loss(backbone, groups[:1]).std_error == (0.0,) * 5


def test_a_copy_of_the_query_as_positive_is_always_found(tmp_path: Path) -> None:
    backbone, (group,) = tiny_backbone(tmp_path, "llama"), random_groups(groups=1)
    copied = TokenGroup(group.queries, group.queries, group.negatives)
    curve = layer_loss(backbone, [copied])
    assert curve.accuracy == (1.0,) * 5
    assert curve.alignment == pytest.approx([0.0] * 5, abs=1e-6)

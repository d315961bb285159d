"""Every loss against another way to compute it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss
from sentence_transformers.sentence_transformer.modules import Dense
from sentence_transformers.util import pairwise_cos_sim
from torch.nn.functional import cross_entropy, normalize

from prune2vec.errors import ConfigError
from prune2vec.pruning.encoder import load_encoder
from prune2vec.training.objective import build_loss, pooled_in_fp32, similarity_distance
from prune2vec.training.packed_loss import without_padding
from prune2vec.training.train_settings import TrainSettings
from tests.training.encoders import rows, save_tiny_encoder

BATCH = rows(6, negatives=2)


def features(encoder: SentenceTransformer) -> list[dict[str, Any]]:
    return [dict(encoder.preprocess(list(column))) for column in zip(*(row.texts for row in BATCH), strict=True)]


def embeddings(encoder: SentenceTransformer) -> list[torch.Tensor]:
    return [encoder(column)["sentence_embedding"] for column in features(encoder)]


def gradients(encoder: SentenceTransformer, loss: torch.Tensor) -> torch.Tensor:
    encoder.zero_grad()
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in encoder.parameters() if parameter.grad is not None])


@pytest.fixture
def encoder(small: Path) -> SentenceTransformer:
    return load_encoder(small, device="cpu", dtype="float32")


def nll(vectors: list[torch.Tensor], scale: float = 50.0) -> torch.Tensor:
    query, *others = (normalize(vector.float(), dim=1) for vector in vectors)
    return cross_entropy(scale * query @ torch.cat(others).T, torch.arange(len(query)))


def test_loss_is_the_profiles_loss(encoder: SentenceTransformer) -> None:
    loss = build_loss(encoder, TrainSettings(scale=30))
    assert loss(features(encoder), None).item() == pytest.approx(nll(embeddings(encoder), 30.0).item(), abs=1e-5)


@pytest.mark.parametrize("small_batches", [{"mini_batch_size": 2}, {"mini_batch_tokens": 40}])
def test_cached_gradient_equals_the_uncached(encoder: SentenceTransformer, small_batches: dict[str, int]) -> None:
    plain = build_loss(encoder, TrainSettings())(features(encoder), None)
    expected = gradients(encoder, plain)
    cached = build_loss(encoder, TrainSettings(cached=True, **small_batches))(features(encoder), None)
    assert cached.item() == pytest.approx(plain.item(), abs=1e-5)
    assert (gradients(encoder, cached) - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("cached", [False, True])
def test_matryoshka_is_the_sum_over_leading_dimensions(encoder: SentenceTransformer, cached: bool) -> None:
    settings = TrainSettings(matryoshka_dims=(8, 16), cached=cached, mini_batch_size=4)
    found = build_loss(encoder, settings)(features(encoder), None)
    vectors = embeddings(encoder)
    expected = sum(nll([vector[:, :dim] for vector in vectors]) for dim in (8, 16, 32))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    ours = gradients(encoder, found)
    theirs = gradients(encoder, sum(nll([vector[:, :dim] for vector in embeddings(encoder)]) for dim in (8, 16, 32)))
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_a_matryoshka_dimension_beyond_the_encoder_is_refused(encoder: SentenceTransformer) -> None:
    with pytest.raises(ConfigError, match="64 is more than the encoder's 32 dimensions"):
        build_loss(encoder, TrainSettings(matryoshka_dims=(64,)))


def taught(teacher: SentenceTransformer) -> tuple[NDArray[np.float32], torch.Tensor]:
    """Return a teacher's vectors of the batch, row by row, and the labels that name them."""
    vectors = torch.stack(embeddings(teacher), dim=1).detach().numpy()
    return vectors.reshape(-1, vectors.shape[2]), torch.arange(24).reshape(6, 4)


def test_distilling_scores_adds_the_divergence_of_beliefs(encoder: SentenceTransformer, tmp_path: Path) -> None:
    teacher = load_encoder(save_tiny_encoder(tmp_path / "full", seed=1, layers=3), device="cpu", dtype="float32")
    vectors, labels = taught(teacher)
    settings = TrainSettings(teacher="full", distil="scores", distil_weight=0.5, hard_negatives=2)
    parts = build_loss(encoder, settings, vectors)(features(encoder), labels)
    ours, theirs = ([(50 * (v[0] * d).sum(1)) for d in v[1:]] for v in (embeddings(encoder), embeddings(teacher)))
    student, belief = torch.stack(ours, 1).log_softmax(1), torch.stack(theirs, 1).softmax(1)
    divergence = (belief * (belief.log() - student)).sum(1).mean()
    assert parts["distillation"].item() == pytest.approx(0.5 * divergence.item(), rel=1e-4)
    assert parts["contrastive"].item() == pytest.approx(nll(embeddings(encoder)).item(), abs=1e-5)


@pytest.mark.parametrize("what", ["scores", "vectors", "similarities"])
def test_an_encoder_teaches_itself_nothing(encoder: SentenceTransformer, what: str) -> None:
    vectors, labels = taught(encoder)
    loss = build_loss(encoder, TrainSettings(teacher="full", distil=what), vectors)
    assert loss(features(encoder), labels)["distillation"].item() == pytest.approx(0, abs=1e-5)


def by_hand(ours: list[torch.Tensor], theirs: list[torch.Tensor], distil: str, distance: str) -> torch.Tensor:
    """Return the distance of texts' vectors, one text at a time."""
    if distil == "vectors":
        found = [
            1 - (a @ b) / (a.norm() * b.norm()) if distance == "cosine" else ((a - b) ** 2).sum()
            for a, b in zip(ours, theirs, strict=True)
        ]
        return torch.stack(found).mean()

    def cosines(vectors: list[torch.Tensor], place: int) -> torch.Tensor:
        one = vectors[place]
        return torch.stack([one @ b / (one.norm() * b.norm()) for other, b in enumerate(vectors) if other != place])

    rows = []
    for place in range(len(ours)):
        student, teacher = cosines(ours, place), cosines(theirs, place)
        if distance == "squared":
            rows.append(((student - teacher) ** 2).mean())
        else:
            belief = (20 * teacher).softmax(0)
            rows.append((belief * (belief.log() - (20 * student).log_softmax(0))).sum())
    return torch.stack(rows).mean()


@pytest.mark.parametrize("packing", ["on", "off"])
@pytest.mark.parametrize("dimension", [32, 20])
@pytest.mark.parametrize(
    ("distil", "distance"), [("vectors", "cosine"), ("vectors", "squared"), ("similarities", "kl"), ("similarities", "squared")]
)
def test_gradients_on_plain_texts_are_those_of_a_plain_loop(
    encoder: SentenceTransformer, distil: str, distance: str, dimension: int, packing: str
) -> None:
    texts = [text for row in BATCH for text in row.texts]
    teacher = np.random.default_rng(1).normal(size=(len(texts), dimension)).astype(np.float32)
    loss = build_loss(encoder, TrainSettings(teacher="full", distil=distil, distil_distance=distance), teacher)
    projection = loss.distance.vectors.projection if loss.distance.vectors is not None else None
    assert (projection is not None) == (distil == "vectors" and dimension != 32)
    learnt = {name: parameter for name, parameter in loss.named_parameters() if parameter.requires_grad}
    for numbers in ([3, 0, 11, 7], [5, 6, 17, 1, 2], [9, 4]):
        loss.zero_grad()
        one_by_one = [encoder(dict(encoder.preprocess([texts[number]])))["sentence_embedding"][0] for number in numbers]
        ours = one_by_one if projection is None else [projection(vector) for vector in one_by_one]
        expected = by_hand(ours, [torch.from_numpy(teacher[number]) for number in numbers], distil, distance)
        expected.backward()
        wanted = {name: parameter.grad.clone() for name, parameter in learnt.items() if parameter.grad is not None}
        assert len(wanted) == len(learnt)
        loss.zero_grad()
        inputs = dict(encoder.preprocess([texts[number] for number in numbers]))
        with without_padding(loss, encoder, packing, max_length=64) as (used, _):
            parts = used([inputs], torch.tensor(numbers)[:, None])
            assert list(parts) == ["distillation"]
            parts["distillation"].backward()
        assert parts["distillation"].item() == pytest.approx(expected.item(), abs=1e-5)
        for name, parameter in learnt.items():
            assert parameter.grad is not None
            assert (parameter.grad - wanted[name]).abs().max() <= 1e-5 * max(1.0, float(wanted[name].abs().max())), name


def test_similarities_are_the_librarys_divergence_over_the_other_texts(encoder: SentenceTransformer) -> None:
    draw = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(7, 12, generator=draw), torch.randn(7, 5, generator=draw)
    columns, documents = ([vectors.roll(-shift, 0) for shift in range(7)] for vectors in (ours, theirs))
    library = DistillKLDivLoss(encoder, similarity_fct=lambda a, b: 20 * pairwise_cos_sim(a, b))
    labels = torch.stack([20 * pairwise_cos_sim(documents[0], one) for one in documents[1:]], dim=1)
    expected = library.compute_loss_from_embeddings(columns, labels)
    torch.testing.assert_close(similarity_distance(ours, theirs, scale=20), expected, rtol=1e-5, atol=1e-6)


def test_the_projection_starts_the_same_whatever_was_drawn_before(encoder: SentenceTransformer) -> None:
    starts = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        loss = build_loss(encoder, TrainSettings(teacher="full"), np.ones((3, 20), dtype=np.float32))
        starts.append(loss.distance.vectors.projection.weight.detach().clone())
    assert torch.equal(*starts)


def test_loss_of_a_bf16_encoder_is_fp32_from_the_pooling_on(small: Path) -> None:
    encoder = load_encoder(small, device="cpu", dtype="bfloat16")
    settings = TrainSettings()
    with pooled_in_fp32(encoder):
        vectors = embeddings(encoder)
        loss = build_loss(encoder, settings)(features(encoder), None)
    assert {vector.dtype for vector in vectors} == {torch.float32}
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(nll(vectors).item(), rel=2.5e-7)  # two units in the last place
    # Rounding to bf16 anywhere between the pooling and the loss would leave a trace of its 8 bits.
    assert not torch.equal(vectors[0], vectors[0].bfloat16().float())
    assert embeddings(encoder)[0].dtype is torch.bfloat16


@pytest.mark.parametrize("autocast", [True, False])
def test_heads_are_fp32_under_autocast_too(small: Path, autocast: bool) -> None:
    encoder = load_encoder(small, device="cpu", dtype="float32")
    encoder.append(Dense(encoder.get_embedding_dimension() or 0, 24, activation_function=torch.nn.Identity()))
    forward, seen = encoder[-1].forward, []
    encoder[-1].linear.register_forward_hook(lambda head, args, output: seen.append((args[0].dtype, output.dtype)))
    with pooled_in_fp32(encoder), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        embeddings(encoder)
    assert set(seen) == {(torch.float32, torch.float32)}
    assert encoder[-1].forward == forward and "forward" not in encoder[-1].__dict__


def three_rows(dtype: torch.dtype = torch.float64) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return three queries, positives and two negatives each as unit vectors in the plane, and a teacher's scores."""
    degrees = [[0.0, 90.0, 45.0], [10.0, 60.0, 45.0], [20.0, 100.0, 75.0], [70.0, 180.0, 15.0]]
    angles = torch.deg2rad(torch.tensor(degrees, dtype=dtype))
    columns = [torch.stack([angle.cos(), angle.sin()], dim=1) for angle in angles]
    return columns, torch.tensor([[5.0, 3.0, -1.0], [2.0, 2.0, 2.0], [0.5, -4.0, 8.0]], dtype=dtype)


def divergence_by_hand(columns: list[torch.Tensor], scores: torch.Tensor, scale: float, temperature: float) -> float:
    """Return the mean over rows of sum_j t_j (log t_j - log s_j), in plain floats."""
    rows = []
    for place in range(3):
        cosines = [
            sum(float(q) * float(d) for q, d in zip(columns[0][place], column[place], strict=True)) for column in columns[1:]
        ]
        student = [math.exp(scale * cosine) for cosine in cosines]
        teacher = [math.exp(float(score) / temperature) for score in scores[place]]
        pairs = [(t / sum(teacher), s / sum(student)) for t, s in zip(teacher, student, strict=True)]
        rows.append(sum(t * math.log(t / s) for t, s in pairs))
    return sum(rows) / 3


@pytest.mark.parametrize(("scale", "temperature"), [(1.0, 1.0), (20.0, 1.0), (50.0, 2.0)])
def test_three_rows_against_a_teacher_by_hand(encoder: SentenceTransformer, scale: float, temperature: float) -> None:
    settings = TrainSettings(distil="data", hard_negatives=2, scale=scale, teacher_temperature=temperature)
    loss = build_loss(encoder, settings)
    columns, scores = three_rows()
    found = loss.distance([column.float() for column in columns], [], scores)
    assert found.item() == pytest.approx(divergence_by_hand(columns, scores, scale, temperature), rel=1e-5)


def test_gradient_of_the_divergence_is_student_minus_teacher(encoder: SentenceTransformer) -> None:
    loss = build_loss(encoder, TrainSettings(distil="data", hard_negatives=2, scale=20.0))
    columns, scores = three_rows(torch.float32)
    columns = [column.requires_grad_() for column in columns]
    loss.distance(columns, [], scores).backward()
    queries, documents = columns[0].detach().double(), torch.stack([column.detach().double() for column in columns[1:]], dim=1)
    cosines = torch.einsum("qd,qjd->qj", queries, documents)
    towards = 20.0 * ((20.0 * cosines).softmax(1) - scores.double().softmax(1)) / 3
    # d cos(q, d) / dq of unit vectors is d - cos q.
    expected = (towards.unsqueeze(2) * (documents - cosines.unsqueeze(2) * queries.unsqueeze(1))).sum(dim=1)
    assert columns[0].grad is not None
    torch.testing.assert_close(columns[0].grad.double(), expected, atol=1e-5, rtol=1e-4)


def test_scores_of_the_rows_are_learnt_beside_the_contrastive_loss(encoder: SentenceTransformer) -> None:
    settings = TrainSettings(distil="data", hard_negatives=2, distil_weight=0.5, scale=20.0)
    scores = torch.linspace(-3, 5, 18).reshape(6, 3)
    parts = build_loss(encoder, settings)(features(encoder), scores)
    vectors = embeddings(encoder)
    student = torch.stack([20 * (vectors[0] * document).sum(1) for document in vectors[1:]], 1).log_softmax(1)
    belief = scores.softmax(1)
    assert parts["distillation"].item() == pytest.approx(
        0.5 * (belief * (belief.log() - student)).sum(1).mean().item(), rel=1e-4
    )
    assert parts["contrastive"].item() == pytest.approx(nll(vectors, 20.0).item(), abs=1e-5)

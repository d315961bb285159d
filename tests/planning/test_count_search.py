from __future__ import annotations

from prune2vec.planning.count_search import admitted, least_loss
from prune2vec.planning.planner import prefix
from tests.planning.made import made_profile


def test_least_loss_looks_at_the_depths_given_and_prefers_the_shallowest() -> None:
    profile = made_profile([1.0, 3.0, 2.0, 2.0])
    assert least_loss(profile, [2, 3, 4]) == 3
    assert least_loss(profile, [4, 3]) == 3


def test_admitted_counts_are_asked_with_real_layers() -> None:
    asked: list[tuple[int, ...]] = []

    def even(keep: tuple[int, ...]) -> bool:
        asked.append(keep)
        return len(keep) % 2 == 0

    assert admitted(made_profile([1.0] * 5), even, prefix) == [2, 4]
    assert asked == [tuple(range(count)) for count in range(1, 6)]
